"""Which instances died by themselves, and since when."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from gpu_autoscaler.domain.memory import InstanceMemory, Memory, PowerOff
from gpu_autoscaler.policy.lost import watched
from gpu_autoscaler.policy.state import Fact
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
    registered,
    seconds,
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
