"""Which instances died by themselves, and since when."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.memory import InstanceMemory, Memory, PowerOff
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.lost import watched
from gpu_autoscaler.policy.rescue import unremembered
from tests.policy.test_plan import pending
from tests.policy.test_rescue_rules import DOWN, HOUR_AGO, REQUEUE, ours
from tests.policy.worlds import (
    QUEUE,
    START,
    TYPE,
    ZONE,
    config,
    fact,
    fleet,
    known,
    minutes,
    registered,
    seconds,
    task,
)


def died_from(before: InstanceMemory, one: Fact | None, **memory: Any) -> dict[str, PowerOff]:
    """What is watched after m1 was known so, and is now seen so (or gone)."""
    there = fleet(
        *([one] if one else []),
        memory=Memory(instances={"id-m1": before}, **{"planned_at": START - seconds(30), **memory}),
        settings=REQUEUE,
    )
    return watched(there, {})


AT_WORK: Mapping[str, Any] = {"state": "running_task", "claimed_at": START - seconds(30)}


@pytest.mark.parametrize(
    ("before", "one", "lost"),
    [
        (known(**AT_WORK), DOWN, True),
        (known(**AT_WORK), None, True),
        (known(**AT_WORK), fact(state="stopping"), True),
        (known(**AT_WORK), fact(state="stopped_in_place"), True),
        (known(**AT_WORK), fact(state="starting"), False),
        (known(**AT_WORK), fact(state="running_task", claims=("t1",)), False),
        (known(**AT_WORK), fact(state="lost", claims=("t1",)), True),
        (known(**AT_WORK), fact(state="lost"), False),
        (known(**AT_WORK, stop_decided_at=HOUR_AGO), DOWN, False),
        (known(**AT_WORK, stop_decided_at=HOUR_AGO), None, False),
        (known(state="stopped"), DOWN, False),
        (known(state="stopping"), None, False),
        (known(**AT_WORK, last_seen=registered("m1", queue="gone")), DOWN, False),
    ],
)
def test_what_died_by_itself(before: InstanceMemory, one: Fact | None, lost: bool) -> None:
    off = PowerOff(QUEUE, START, ours=False, at_work_at=START - seconds(30))
    assert died_from(before, one) == ({"m1": off} if lost else {})


@pytest.mark.parametrize(
    ("claimed_at", "planned_at", "at_work_at"),
    [
        (START - seconds(149), START - seconds(30), START - seconds(149)),
        (START - seconds(150), START - seconds(30), START - seconds(30)),
        (None, START - seconds(30), START - seconds(30)),
        (None, None, START),
    ],
)
def test_since_when_it_may_have_been_dead(
    claimed_at: datetime | None, planned_at: datetime | None, at_work_at: datetime
) -> None:
    before = known(state="running_task", claimed_at=claimed_at)
    (off,) = died_from(before, DOWN, planned_at=planned_at).values()
    assert off.at_work_at == at_work_at


def test_what_is_watched_already_stays_as_it_was_and_others_are_found() -> None:
    names = ("m1", "m2", "m3", "m4")
    memory = {f"id-{n}": known(n, **AT_WORK) for n in names}
    leaving = known("m2", **AT_WORK, last_seen=registered("m2", queue="leaves"))
    there = fleet(
        memory=Memory(instances=memory | {"id-m2": leaving}, planned_at=START - seconds(30)),
        settings=config(
            queues={
                QUEUE: {
                    "name": QUEUE,
                    "placements": [{"type": TYPE, "zone": ZONE}],
                    "on_lost": "requeue",
                },
                "leaves": {"name": "leaves", "placements": [{"type": TYPE, "zone": ZONE}]},
            }
        ),
    )
    found = watched(there, {"m1": ours(10)})
    assert found["m1"] == ours(10)
    assert set(found) == {"m1", "m3", "m4"}


@pytest.mark.parametrize(
    ("one", "off_for", "lost"),
    [
        (fact(state="stopped"), 60, True),
        (fact(state="stopped"), 14 * 60, True),
        (fact(state="stopped"), 15 * 60, False),  # whatever ended there is over
        (fact(state="stopped", claims=("t1",)), 3600, True),  # a task hangs on it
        (fact(state="idle"), 60, False),
        (fact(state="provisioning"), 60, False),
    ],
)
def test_one_that_came_and_went_while_nobody_remembered(
    one: Fact, off_for: float, lost: bool
) -> None:
    went_off = START - seconds(off_for)
    one = replace(one, instance=replace(one.instance, modified_at=went_off))
    off = PowerOff(QUEUE, went_off, ours=False, at_work_at=went_off - seconds(110))
    assert watched(fleet(one, settings=REQUEUE), {}) == ({"m1": off} if lost else {})
    assert watched(fleet(one), {}) == {}
    assert watched(fleet(one, settings=REQUEUE), {"m1": ours(10)}) == {"m1": ours(10)}


@pytest.mark.parametrize(
    ("forgot", "ours_too"),
    [(-minutes(14), True), (minutes(0), True), (seconds(109), True), (seconds(110), False)],
)
def test_what_went_off_after_memory_was_lost_was_not_our_doing(
    forgot: timedelta, ours_too: bool
) -> None:
    """It went off that long after (or before) a daemon found no memory."""
    went_off = START - minutes(5)
    one = fact(state="stopped", instance=registered("m1", "stopped", modified_at=went_off))
    memory = Memory(planned_at=START - seconds(30), forgot_at=went_off - forgot)
    assert ("m1" in unremembered(fleet(one, memory=memory))) is ours_too


@pytest.mark.parametrize(
    ("missed", "machine", "lost"),
    [(True, "m9", True), (False, "m9", False), (True, "m8", False), (True, None, False)],
)
def test_one_that_was_made_and_put_to_work_and_removed_before_anybody_looked(
    missed: bool, machine: str | None, lost: bool
) -> None:
    made = pending("create:m9", name="m9", missed=missed)
    memory = Memory(planned_at=START - seconds(30), pending={made.key: made})
    runs = task("t1", "in_progress", machine)
    there = fleet(memory=memory, settings=REQUEUE, open_tasks=(runs,))
    off = PowerOff(QUEUE, START, ours=False, at_work_at=made.decided_at)
    assert watched(there, {}) == ({"m9": off} if lost else {})
    assert watched(fleet(memory=memory, open_tasks=(runs,)), {}) == {}
