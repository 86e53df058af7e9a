"""Whatever became of the clock: nothing remembered lies in the future, no launch is forgotten."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory, Pending, PowerOff
from gpu_autoscaler.domain.model import ClearmlView, Placement
from gpu_autoscaler.policy.clocks import by_present_clock
from tests.policy.worlds import (
    SPEC,
    START,
    TYPE,
    ZONE,
    Story,
    instance,
    known,
    minutes,
    seconds,
)
from tests.store.test_ledger import stretch

HERE = Placement(TYPE, ZONE)
BEFORE = START - minutes(20)


def remembered(at: datetime) -> Memory:
    """Everything in it happened just now, or ends in ten minutes; one report is older."""
    ends = at + minutes(10)
    times: dict[str, Any] = {
        "state_since": at,
        "booted_at": at,
        "idle_since": at,
    }
    return Memory(
        instances={"id-m1": known(**times, last_report_at=BEFORE)},
        pending={"stop:id-m1": Pending("stop:id-m1", "m1", at, ends, "q")},
        backoffs=(Backoff(HERE, Failure.OUT_OF_STOCK, 2, at, ends, "none left"),),
        breakers=(Breaker(HERE, SPEC, 3, at, ends, 1),),
        retired={"m0": at},
        planned_at=at,
        queue_ids={"q-1": "q"},
    )


def seen(memory: Memory, now: datetime, skew: timedelta | None) -> Memory:
    """By the clock that says `now`; `skew` None: ClearML does not answer."""
    clearml = ClearmlView(complete=skew is not None, observed_at=now, skew=skew or timedelta(0))
    return by_present_clock(memory, World(clearml, {}, {}), now)


@pytest.mark.parametrize("ahead", [minutes(5), minutes(-5)])
@pytest.mark.parametrize("passed", [timedelta(0), seconds(30), timedelta(hours=5)])
def test_every_moment_is_told_by_the_present_clock(ahead: timedelta, passed: timedelta) -> None:
    """It is ahead of the last one by so much, as the difference to ClearML's shows."""
    now = START + passed + ahead
    moved = replace(remembered(START + ahead), skew=-ahead)
    there = replace(moved.instances["id-m1"], last_report_at=BEFORE + ahead)
    moved = replace(moved, instances={"id-m1": there})
    assert seen(remembered(START), now, -ahead) == moved


@pytest.mark.parametrize("later", [timedelta(0), seconds(30), timedelta(hours=5)])
@pytest.mark.parametrize("skew", [None, timedelta(0), seconds(5), seconds(-5)])
def test_a_clock_that_goes_on_changes_nothing(later: timedelta, skew: timedelta | None) -> None:
    memory = remembered(START)
    assert seen(memory, START + later, skew) is memory


@pytest.mark.parametrize("skew", [None, timedelta(0)])
def test_nothing_lies_in_the_future_also_when_clearml_says_nothing(skew: timedelta | None) -> None:
    back = minutes(5)
    memory = seen(remembered(START), START - back, skew)
    assert (memory.planned_at, memory.skew) == (START - back, back)
    assert memory.instances["id-m1"].booted_at == START - back
    assert memory.pending["stop:id-m1"].expires_at == START + minutes(5)
    assert memory.backoffs[0].until == START + minutes(5)


def test_a_machine_is_not_made_in_the_future_of_a_clock_that_is_behind() -> None:
    """Its reports count, and when the next daemon's clock is right it does not boot ahead of it."""
    story = Story()
    story.has(instance("m1", created_at=story.now + minutes(8)))
    story.cycle(reports=False)
    (there,) = story.memory.instances.values()
    assert there.booted_at == story.now
    story.now += minutes(2)
    story.report("m1")
    story.cycle()
    (there,) = story.memory.instances.values()
    assert there.state.value == "idle"


def test_without_a_plan_there_is_nothing_to_move() -> None:
    memory = Memory(retired={"m0": START + minutes(5)})
    assert seen(memory, START, minutes(7)) is memory


def test_what_is_timed_by_others_stays() -> None:
    """Power-offs and failures by ClearML's clock, instances by Scaleway's."""
    offs = {"m1": PowerOff("q", START, at_work_at=START)}
    times: dict[str, Any] = {"fast_failures": (BEFORE, START), "failures_from": START}
    memory = replace(remembered(START), power_offs=offs, instances={"id-m1": known(**times)})
    moved = seen(memory, START, minutes(5))
    assert moved.power_offs == offs
    there = moved.instances["id-m1"]
    assert (there.fast_failures, there.failures_from) == ((BEFORE, START), START)
    assert there.last_seen == memory.instances["id-m1"].last_seen


def test_what_the_ledger_has_does_not_move() -> None:
    lasting = stretch()
    memory = Memory(
        instances={"id-m1": known(stretch=lasting)},
        unbooked=(lasting,),
        booked_until={"id-m1": START},
        planned_at=START,
    )
    moved = seen(memory, START + minutes(5), minutes(-5))
    assert moved.planned_at == START + minutes(5)
    assert moved.instances["id-m1"].stretch == lasting
    assert (moved.unbooked, moved.booked_until) == (memory.unbooked, memory.booked_until)
