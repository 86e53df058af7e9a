"""Whatever became of the clock: nothing remembered lies in the future, no launch is forgotten."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory, Pending, PowerOff
from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.policy.clocks import by_another_clock, turned_back
from tests.policy.worlds import QUEUE, SPEC, START, TYPE, ZONE, known, minutes, seconds

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


def test_what_happened_happened_now_and_what_ends_ends_as_much_earlier() -> None:
    back = minutes(5)
    assert turned_back(remembered(START), START - back) == replace(
        remembered(START - back), planned_at=START - back
    )


def test_of_the_past_nothing_changes() -> None:
    seen = turned_back(remembered(START), START - minutes(5))
    assert seen.instances["id-m1"].last_report_at == BEFORE


@pytest.mark.parametrize("later", [timedelta(0), seconds(30), timedelta(hours=5)])
def test_a_clock_that_goes_on_changes_nothing(later: timedelta) -> None:
    memory = remembered(START)
    assert turned_back(memory, START + later) is memory


def test_without_a_plan_there_is_nothing_to_turn_back() -> None:
    memory = Memory(retired={"m0": START + minutes(5)})
    assert turned_back(memory, START) is memory


def test_power_offs_are_timed_by_another_clock() -> None:
    offs = {"m1": PowerOff("q", START, at_work_at=START)}
    memory = replace(remembered(START), power_offs=offs)
    assert turned_back(memory, START - minutes(5)).power_offs == offs


def test_so_are_failures() -> None:
    times: dict[str, Any] = {"fast_failures": (BEFORE, START), "failures_from": START}
    memory = replace(remembered(START), instances={"id-m1": known(**times)})
    seen = turned_back(memory, START - minutes(5)).instances["id-m1"]
    assert (seen.fast_failures, seen.failures_from) == ((BEFORE, START), START)


@pytest.mark.parametrize(("left", "moved"), [(-5, 65), (59, 1), (61, 0)])
def test_by_another_clock_nothing_under_way_is_over_before_listings_show_it(
    left: float, moved: float
) -> None:
    each = Pending("create:m1", "m1", BEFORE, START + seconds(left), QUEUE, HERE, done=True)
    memory = replace(remembered(START), pending={each.key: each})
    end = START + seconds(left + moved)
    kept = replace(each, decided_at=BEFORE + seconds(moved), expires_at=end)
    assert by_another_clock(memory, START) == replace(memory, pending={each.key: kept})
