"""What makes a black hole, to the second."""

from dataclasses import replace
from typing import Any

import pytest

from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import Task
from gpu_autoscaler.policy.quarantine import judge
from tests.policy.worlds import START, fact, fleet, minutes, seconds, task


@pytest.mark.parametrize(
    ("booted_ago", "began_ago", "ended_ago", "counts"),
    [
        (3600, 70, 10, True),  # a minute to the second
        (3600, 71, 10, False),
        (3600, 10, 10, True),
        (60, 60, 10, True),
        (59, 60, 10, False),  # what began before this boot began elsewhere
        (3600, 9, 10, False),  # queued again since
    ],
)
def test_what_has_failed_at_once(
    booted_ago: float, began_ago: float, ended_ago: float, counts: bool
) -> None:
    failed = task(
        "t1",
        "failed",
        "m1",
        started_at=START - seconds(began_ago),
        status_changed_at=START - seconds(ended_ago),
    )
    one = fact(memory={"booted_at": START - seconds(booted_ago)})
    there = fleet(one, ended_tasks=(failed,))
    judge(there)
    assert bool(there.facts["id-m1"].memory.fast_failures) is counts


def ends(*ago: float, status: str = "failed") -> tuple[Task, ...]:
    """Tasks that ended so on m1 so many seconds ago, five seconds after their start."""
    return tuple(
        task(
            f"{status} {each}",
            status,
            "m1",
            started_at=START - seconds(each + 5),
            status_changed_at=START - seconds(each),
        )
        for each in ago
    )


@pytest.mark.parametrize(
    ("tasks", "counted_from", "row", "afterwards"),
    [
        (ends(30, 20), None, (30, 20), None),
        (ends(60, 50, 40, 30, 20, 10), None, (60, 30, 20, 10), None),
        (ends(50, 40, 30, 20), None, (50, 40, 30, 20), None),
        (ends(40, 30, 20), None, (40, 30, 20), None),
        (ends(30, 20), 30, (20,), 30),
        (ends(30, 20), 25, (20,), 25),
        (ends(30, 10) + ends(20, status="completed"), None, (10,), 20),
        (ends(30) + ends(30, status="completed"), None, (), 30),
        (ends(30, 10) + ends(40, status="stopped"), 20, (10,), 20),
        (ends(40, 30, 10) + ends(20, 25, status="completed"), 35, (10,), 20),
    ],
)
def test_the_row_is_what_failed_since_the_last_other_end(
    tasks: tuple[Task, ...],
    counted_from: float | None,
    row: tuple[float, ...],
    afterwards: float | None,
) -> None:
    since = None if counted_from is None else START - seconds(counted_from)
    there = fleet(fact(memory={"failures_from": since}, hands_off="x"), ended_tasks=tasks)
    judge(there)
    found = there.facts["id-m1"].memory
    assert found.fast_failures == tuple(START - seconds(ago) for ago in row)
    assert found.failed_tasks == tuple(f"failed {ago}" for ago in row)
    assert found.failures_from == (None if afterwards is None else START - seconds(afterwards))


@pytest.mark.parametrize(
    ("known", "off_by", "count"),
    [("failed 20", 5, 1), ("failed 20", -5, 1), ("failed 20", 5.1, 2), ("another", 0, 2)],
)
def test_a_failure_is_known_by_its_task_and_about_its_time(
    known: str, off_by: float, count: int
) -> None:
    row = {"fast_failures": (START - seconds(20 + off_by),), "failed_tasks": (known,)}
    there = fleet(fact(memory=row), ended_tasks=ends(20))
    judge(there)
    assert len(there.facts["id-m1"].memory.fast_failures) == count


ROW = (START - seconds(30), START - seconds(20), START - seconds(10))


@pytest.mark.parametrize(
    ("state", "marked"),
    [("idle", True), ("running_task", True), ("lost", True), ("stopped", False)],
)
def test_a_black_hole_is_one_from_now_on_whatever_it_does(state: str, marked: bool) -> None:
    idle_since = {"idle_since": START - minutes(1), "first_idle_report_at": START - minutes(1)}
    one = fact(state=state, memory={"fast_failures": ROW, **idle_since})
    there = fleet(one)
    judge(there)
    found = there.facts["id-m1"]
    memory = replace(one.memory, quarantined_at=START)
    if marked:
        memory = replace(
            memory,
            state=S.QUARANTINED,
            state_since=START,
            idle_since=None,
            first_idle_report_at=None,
        )
    state_now = S.QUARANTINED if marked else one.state
    assert found == replace(one, state=state_now, memory=memory)


@pytest.mark.parametrize(
    "changes",
    [{"hands_off": "a person's"}, {"memory": {"fast_failures": ROW[:2]}}],
)
def test_others_are_none(changes: dict[str, Any]) -> None:
    one = fact(**{"memory": {"fast_failures": ROW}, **changes})
    there = fleet(one)
    judge(there)
    assert there.facts == {"id-m1": one}


def test_once_it_is_one_its_row_and_its_time_stand() -> None:
    hole = {"fast_failures": ROW, "quarantined_at": START - minutes(9)}
    one = fact(state="quarantined", memory=hole)
    there = fleet(one, ended_tasks=ends(5))
    judge(there)
    assert there.facts == {"id-m1": one}
