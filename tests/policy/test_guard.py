"""Whether a machine may be powered off: the same answer for the plan and for the last look."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.effects import Guard
from gpu_autoscaler.domain.model import ClearmlView, Entry, Queue, Task, Worker
from gpu_autoscaler.policy.guard import claimed_machines, claims_on, popped_tasks, refusal
from gpu_autoscaler.policy.stop import stop_all
from tests.policy.worlds import (
    QUEUE,
    QUEUE_ID,
    START,
    fact,
    fleet,
    minutes,
    registered,
    seconds,
    task,
)

BOOTED_AT = START - minutes(30)
IDLE, SILENT, NEVER = Guard.IDLE, Guard.SILENT, Guard.NEVER_REGISTERED


def worker(name: str = "m1", ago: float = 10, task_id: str | None = None) -> Worker:
    """Its last report came so many seconds ago."""
    return Worker(name, START - timedelta(hours=1), START - seconds(ago), task_id)


def refused(
    guard: Guard,
    workers: Sequence[Worker] = (),
    tasks: Sequence[Task] = (),
    *,
    entries: Sequence[str] = (),
    stuck: Sequence[str] = (),
    complete: bool = True,
) -> str | None:
    """What is said about powering m1 off."""
    waiting = Queue(QUEUE_ID, QUEUE, tuple(Entry(name, START) for name in entries))
    other = Queue("q-2", "another")
    view = ClearmlView(
        complete,
        START,
        {QUEUE: waiting, "another": other},
        tuple(workers),
        tuple(tasks),
        error="502",
    )
    return refusal(guard, registered("m1"), BOOTED_AT, view, stuck, START)


POPPED = "task t1 was just pulled from H100-1-80G, perhaps by it"
ON_IT = "task t1 is on it"
NOT_KNOWN = "its agent has not reported for 90 s, so it cannot be known to be idle"
AHEAD = "its agent's last report lies in the future: one of the clocks is wrong"


@pytest.mark.parametrize("guard", [IDLE, SILENT, NEVER])
@pytest.mark.parametrize(
    ("tasks", "entries", "stuck", "sentence"),
    [
        ([task("t1", "in_progress", "m1")], [], [], ON_IT),
        ([task("t1", "in_progress", "m1:gpu0")], [], [], ON_IT),
        ([task("t1")], [], [], POPPED),
        ([task("t0"), task("t1")], ["t0"], [], POPPED),
        ([task("t0"), task("t1")], [], ["t0"], POPPED),
    ],
)
def test_a_task_that_is_or_may_be_on_it_forbids_it(
    guard: Guard, tasks: list[Task], entries: list[str], stuck: list[str], sentence: str
) -> None:
    assert refused(guard, [worker()], tasks, entries=entries, stuck=stuck) == sentence


@pytest.mark.parametrize(
    ("tasks", "entries", "stuck"),
    [
        ([task("t1", "in_progress", "m2")], [], []),
        ([task("t1", "in_progress")], [], []),
        ([task("t1")], ["t1"], []),
        ([task("t1")], [], ["t1"]),
        ([task("t1", queue_id="q-2")], [], []),  # pulled from a queue that it does not serve
        ([task("t1", queue_id="unread")], [], []),
        ([task("t1", "stopped", "m1")], [], []),
    ],
)
def test_tasks_that_are_elsewhere_do_not(
    tasks: list[Task], entries: list[str], stuck: list[str]
) -> None:
    assert refused(IDLE, [worker()], tasks, entries=entries, stuck=stuck) is None


@pytest.mark.parametrize(
    ("guard", "workers", "sentence"),
    [
        (IDLE, [worker()], None),
        (IDLE, [worker(ago=89)], None),
        (IDLE, [worker(ago=90)], NOT_KNOWN),
        (IDLE, [], NOT_KNOWN),
        (IDLE, [worker("m2")], NOT_KNOWN),
        (IDLE, [worker(ago=1800)], NOT_KNOWN),  # of an earlier boot
        (IDLE, [worker(ago=500), worker("m1:gpu0")], None),
        (IDLE, [worker(ago=-90)], None),
        (IDLE, [worker(ago=-91)], AHEAD),
        (SILENT, [], None),
        (SILENT, [worker(ago=90)], None),
        (SILENT, [worker(ago=89)], "its agent reports again"),
        (NEVER, [], None),
        (NEVER, [worker(ago=1800)], None),
        (NEVER, [worker(ago=1799)], "its agent has registered after all"),
        (NEVER, [worker("m2")], None),
        (Guard.QUARANTINE, [], None),
    ],
)
def test_what_its_agent_says(guard: Guard, workers: list[Worker], sentence: str | None) -> None:
    assert refused(guard, workers) == sentence


@pytest.mark.parametrize("guard", Guard)
def test_without_a_full_answer_nothing_is_powered_off_that_may_run_anything(guard: Guard) -> None:
    sentence = None if guard is Guard.NONE else "ClearML gave no full answer: 502"
    assert refused(guard, [worker()], complete=False) == sentence


@pytest.mark.parametrize(
    ("status", "ran_for", "sentence"),
    [
        ("in_progress", seconds(60), None),
        ("in_progress", seconds(61), "task t1 has run on it for more than a minute"),
        ("in_progress", None, "task t1 is on it, and since when is not known"),
        ("queued", seconds(61), None),
    ],
)
def test_a_black_hole_is_kept_on_by_what_holds_out(
    status: str, ran_for: timedelta | None, sentence: str | None
) -> None:
    began = START - ran_for if ran_for is not None else None
    there = task("t1", status, "m1", started_at=began)
    moment = replace(there, id="t0", status=task(status="queued").status)
    assert refused(Guard.QUARANTINE, [worker(task_id="t1")], [there]) == sentence
    two = [worker(task_id="t0"), worker("m1:gpu0", task_id="t1")]
    assert refused(Guard.QUARANTINE, two, [moment, there]) == sentence


def test_a_task_that_nobody_knows_keeps_a_black_hole_on() -> None:
    sentence = "task t9 is on it, and since when is not known"
    assert refused(Guard.QUARANTINE, [worker(task_id="t9")]) == sentence


def test_every_claim_is_found_once() -> None:
    workers = [worker(task_id="t1"), worker("m1:gpu0", task_id="t2"), worker("m2", task_id="t3")]
    tasks = [
        task("t2", "in_progress", "m1"),
        task("t4", "in_progress", "m1"),
        task("t5", "queued", "m1"),
        task("t6", "in_progress", "m4"),
        task("t7", "in_progress"),
    ]
    assert claims_on("m1", workers, tasks) == ("t1", "t2", "t4")
    assert claimed_machines([*workers, worker("m3")], tasks) == {"m1", "m2", "m4"}


def test_popped_is_what_is_queued_in_a_queue_that_was_read_and_does_not_hold_it() -> None:
    queues = {"a": Queue("a", "a", (Entry("t1", START),)), "b": Queue("b", "b")}
    tasks = [
        task("t1", queue_id="b"),  # named by another one: waiting all the same
        task("t2", queue_id="a"),
        task("t3", queue_id="b"),
        task("t4", queue_id="c"),
        task("t5", "in_progress", queue_id="a"),
    ]
    assert [t.id for t in popped_tasks(queues, tasks)] == ["t2", "t3"]


@pytest.mark.parametrize(("apart", "stopped"), [(seconds(5), False), (seconds(25), True)])
def test_a_report_told_at_another_time_is_no_second_one(apart: timedelta, stopped: bool) -> None:
    first = START - seconds(30)
    idle = {"idle_since": START - minutes(40), "first_idle_report_at": first}
    there = fleet(fact(memory={**idle, "last_report_at": first + apart}), workers=(worker(),))
    stop_all(there, frozenset())
    assert bool(there.effects) is stopped
