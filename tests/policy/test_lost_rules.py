"""Which instances died by themselves, as far as one cycle can tell."""

from datetime import datetime
from typing import Any

import pytest

from gpu_autoscaler.domain.memory import Memory, Pending, PowerOff
from gpu_autoscaler.policy.lost import watched
from gpu_autoscaler.policy.settings import GOING_OFF
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

LATELY, LONG_AGO = START - minutes(2), START - minutes(20)


def server(state: str) -> str:
    """The server's state for an instance's."""
    return {"idle": "running"}.get(state, state.replace("_", " "))


def seen(before: dict[str, Any] | None, state: str = "stopped", **now: Any) -> dict[str, PowerOff]:
    """What is watched when m1 is in this state now, and was, as remembered, like that."""
    there = fact("m1", state, instance=registered("m1", server(state), **now))
    instances = {}
    if before is not None:
        was = {"modified_at": LONG_AGO, **before}
        remembered = was.pop("state", "stopped")
        last = registered("m1", server(remembered), **was)
        instances = {"id-m1": known("m1", remembered, last_seen=last)}
    memory = Memory(planned_at=START - minutes(0.5), instances=instances)
    return watched(fleet(there, memory=memory, settings=config({"on_lost": "requeue"})), {})


def came_and_went(went_off: datetime) -> dict[str, PowerOff]:
    at_work = went_off - GOING_OFF
    return {"m1": PowerOff(QUEUE, went_off, ours=False, at_work_at=at_work)}


@pytest.mark.parametrize("state", ["stopped", "stopping", "stopped_in_place"])
def test_one_that_went_off_before_anybody_looked(state: str) -> None:
    assert seen(None, state, modified_at=LATELY) == came_and_went(LATELY)
    assert seen(None, state, modified_at=LONG_AGO) == {}
    assert seen({}, state, modified_at=LATELY) == came_and_went(LATELY)
    assert seen({}, state, modified_at=LONG_AGO) == {}, "it is as it was"


@pytest.mark.parametrize("change", [{"tags": ("keep",)}, {"protected": True}])
def test_what_a_person_changed_on_a_stopped_one_is_no_death(change: dict[str, Any]) -> None:
    assert seen({}, modified_at=LATELY, **change) == {}
    assert seen(change, modified_at=LATELY) == {}
    assert seen(change, modified_at=LATELY, **change) == came_and_went(LATELY)


def test_one_that_runs_did_not_die() -> None:
    assert seen({}, "idle", modified_at=LATELY) == {}
    assert seen(None, "idle", modified_at=LATELY) == {}


def test_one_of_a_queue_that_is_not_configured_any_more_is_let_be() -> None:
    there = fact("m1", "stopped", instance=registered("m1", "stopped", modified_at=LATELY))
    place = {"type": TYPE, "zone": ZONE}
    other = {"name": "other", "placements": [place], "on_lost": "requeue"}
    settings = config(queues={"other": other})
    memory = Memory(planned_at=START - minutes(0.5))
    assert watched(fleet(there, memory=memory, settings=settings), {}) == {}


def test_one_that_nobody_ever_saw_was_at_work_since_its_launch_by_clearml_s_clock() -> None:
    made = Pending("create:m9", "m9", LATELY, START, QUEUE, missed=True)
    there = fleet(
        memory=Memory(planned_at=START - minutes(0.5), pending={made.key: made}),
        settings=config({"on_lost": "requeue"}),
        open_tasks=(task("t1", "in_progress", "m9"),),
        skew=seconds(45),
    )
    now, since = START + seconds(45), LATELY + seconds(45)
    assert watched(there, {}) == {"m9": PowerOff(QUEUE, now, ours=False, at_work_at=since)}


def test_one_that_was_seen_at_work_was_so_at_the_last_look() -> None:
    last_look = START - minutes(0.5)
    died = PowerOff(QUEUE, START, ours=False, at_work_at=last_look)
    assert seen({"state": "idle"}, modified_at=LATELY) == {"m1": died}
