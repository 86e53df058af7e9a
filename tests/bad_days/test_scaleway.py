"""Scaleway on bad days: refusals, lost replies, lying listings, empty shelves."""

from collections.abc import Callable
from typing import Any

import pytest

from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.emulator.faults import FaultKind
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from tests.bad_days.world import SCALEWAY_SECRET, BadDay, bad_day, settings
from tests.policy.worlds import OTHER_ZONE, TYPE, ZONE, minutes

HERE, THERE = {"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}

BIRTH, IDLE, STOPPED = "birth", "idle", "stopped"
CALLS = [
    pytest.param(r"POST .*/servers$", BIRTH, id="create"),
    pytest.param(r"PATCH /block", BIRTH, id="tag-volume"),
    pytest.param(r"PATCH .*/user_data", BIRTH, id="user-data"),
    pytest.param(r"POST .*/action", BIRTH, id="first-poweron"),
    pytest.param(r"PATCH .*/servers/[^/]+$", BIRTH, id="tag-server"),
    pytest.param(r"POST .*/action", IDLE, id="poweroff"),
    pytest.param(r"POST .*/action", STOPPED, id="poweron"),
    pytest.param(r"DELETE .*/servers/", STOPPED, id="delete-server"),
    pytest.param(r"DELETE /block", STOPPED, id="delete-volume"),
]
"""Every call that changes something, and when in a life it is first made."""

WRONG = [
    pytest.param({"kind": "error"}, id="500-before"),
    pytest.param({"kind": "lost_reply"}, id="502-after"),
    pytest.param({"kind": "rate_limited"}, id="429"),
    pytest.param({"kind": "timeout"}, id="timeout"),
]


async def a_whole_life(world: BadDay, begin: Callable[[], None], moment: str) -> list[str]:
    """Two tasks, one after the other, and a fault that begins somewhere on the way."""
    if moment == BIRTH:
        begin()
    first = world.task(hours=0.02)
    await world.until_done(first)
    if moment == IDLE:
        begin()
    await world.until(lambda: set(world.states().values()) <= {"stopped"})
    if moment == STOPPED:
        begin()
    second = world.task(hours=0.02)
    await world.until_done(second)
    return [first, second]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("call", "moment"), CALLS)
def test_one_call_that_goes_wrong(call: str, moment: str, wrong: dict[str, Any]) -> None:
    async def story(world: BadDay) -> None:
        def begin() -> None:
            world.scaleway_faults.add(match=call, count=1, **wrong)

        tasks = await a_whole_life(world, begin, moment)
        await world.ends_well(*tasks, created=2, billed=1)
        assert not world.scaleway_faults.rules, "it did happen"
        assert world.said("delete", reason="half_made") == [], "cleaned up where it failed"

    bad_day(story)


@pytest.mark.parametrize("kind", ["error", "lost_reply"])
@pytest.mark.parametrize(("call", "moment"), CALLS)
def test_a_call_that_goes_wrong_for_ten_minutes(call: str, moment: str, kind: str) -> None:
    async def story(world: BadDay) -> None:
        def begin() -> None:
            fault = world.scaleway_faults.add(kind, call)
            world.timeline.after(600, lambda: world.scaleway_faults.remove(fault))

        tasks = await a_whole_life(world, begin, moment)
        await world.ends_well(*tasks, created=9, billed=1)

    bad_day(story)


@pytest.mark.parametrize(
    ("call", "moment"), [(r"POST .*/action", IDLE), (r"PATCH .*/servers/[^/]+$", BIRTH)]
)
def test_a_call_that_keeps_failing_is_not_hammered(call: str, moment: str) -> None:
    async def story(world: BadDay) -> None:
        def begin() -> None:
            fault = world.scaleway_faults.add("error", call)
            world.timeline.after(600, lambda: world.scaleway_faults.remove(fault))

        await a_whole_life(world, begin, moment)
        assert len(world.said("failed")) <= 20, "at most once per interval"

    bad_day(story)


@pytest.mark.parametrize("mode", list(StockMode))
def test_a_shortage_backs_off_though_others_run_there(mode: StockMode) -> None:
    async def story(world: BadDay) -> None:
        busy = world.task(hours=1)
        await world.until(lambda: world.status(busy) == "in_progress")
        world.scaleway.set_stock(Placement(TYPE, ZONE), 0, mode)
        task = world.task(hours=0.1)
        await world.cycles(minutes(25))
        assert world.scaleway_calls.count("POST .*/servers$") <= 1 + 4
        world.scaleway.set_stock(Placement(TYPE, ZONE), 3)
        await world.ends_well(busy, task, created=9, billed=2)

    bad_day(story)


def test_one_of_two_zones_is_dark() -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=0.1), world.task(hours=1.5)]
        await world.until_done(tasks[0])
        before = world.states()
        world.scaleway_faults.add("error", f"zones/{ZONE}/", status=503)
        await world.cycles(minutes(15))
        assert world.states() == before, "the idle one in the dark zone is not stopped"
        tasks += [world.task(hours=0.1) for _ in range(2)]
        await world.until_done(*tasks[2:])
        zones = [s.zone for s in world.scaleway.all_servers()]
        assert zones == [ZONE, ZONE, OTHER_ZONE], "the other zone goes on"
        (line,) = world.said("failing")
        assert line["subject"] == f"scaleway {ZONE}"
        assert "503" in line["error"]
        world.scaleway_faults.clear()
        await world.cycles(minutes(2))
        assert len(world.said("recovered", subject=ZONE)) == 1
        await world.ends_well(*tasks, created=3)

    bad_day(story, max_instances=3, placements=[HERE, THERE])


@pytest.mark.parametrize(
    ("kind", "match", "error"),
    [
        (FaultKind.RATE_LIMITED, "", "429"),
        (FaultKind.TIMEOUT, "", "no answer within 15 s"),
        (FaultKind.ERROR, "", "500"),
        (FaultKind.TRUNCATED, "GET", "unreadable body"),
    ],
)
def test_twenty_minutes_in_which_nothing_works(kind: FaultKind, match: str, error: str) -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=0.1), world.task(hours=1)]
        await world.until_done(tasks[0])
        before = world.states()
        world.scaleway_faults.add(kind, match)
        await world.cycles(minutes(2))
        tasks += [world.task(hours=0.1) for _ in range(2)]
        await world.cycles(minutes(18))
        assert world.states() == before
        assert len(world.said("failing")) == 1
        assert error in world.said("failing")[0]["error"]
        world.scaleway_faults.clear()
        await world.cycles(minutes(2))
        assert len(world.said("recovered")) == 1
        await world.ends_well(*tasks, created=3)

    bad_day(story, max_instances=3)


def test_an_empty_listing_while_machines_are_busy() -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=0.1), world.task(hours=1)]
        await world.until_done(tasks[0])
        world.scaleway_faults.add("empty", r"GET .*/servers\?")
        tasks += [world.task(hours=0.1) for _ in range(3)]
        await world.cycles(minutes(20))
        assert world.created() == 2, "max_instances counts the unseen"
        assert set(world.states().values()) == {"running"}
        world.scaleway_faults.clear()
        await world.ends_well(*tasks, created=2)

    bad_day(story, max_instances=2)


def test_a_listing_that_lags_by_half_a_minute() -> None:
    async def story(world: BadDay) -> None:
        world.scaleway.set_listing_lag(30)
        tasks = await a_whole_life(world, lambda: None, BIRTH)
        tasks += [world.task(hours=0.1) for _ in range(3)]
        await world.ends_well(*tasks, created=4, billed=3)

    bad_day(story, max_instances=3)


def test_a_wrong_image_is_refused_once_and_mended_at_once() -> None:
    async def story(world: BadDay) -> None:
        task = world.task(hours=0.1)
        await world.cycles(minutes(30))
        assert world.created() == 0
        (line,) = world.said("failed")
        assert line["kind"] == "rejected"
        assert "'ubuntu_typo' does not fit H100-1-80G in fr-par-2" in line["error"]
        assert len(world.said("nothing done", reason="no_placement")) == 1
        world.source.value = settings()
        await world.cycles(minutes(2))
        assert world.created() == 1
        await world.ends_well(task, created=1)

    bad_day(story, image="ubuntu_typo")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param({"type": "H100-SXM-2-80G", "zone": OTHER_ZONE}, id="type-not-in-zone"),
        pytest.param({"type": TYPE, "zone": "nl-ams-9"}, id="unknown-zone"),
        pytest.param({"type": "H100-7-80G", "zone": ZONE}, id="unknown-type"),
    ],
)
def test_a_wrong_placement_is_said_and_the_next_one_is_used(first: dict[str, str]) -> None:
    async def story(world: BadDay) -> None:
        task = world.task(hours=0.5)
        await world.until(lambda: world.status(task) == "in_progress", minutes(10))
        (line,) = world.said("failed")
        assert line["kind"] == "rejected"
        assert first["zone"] in line["error"]
        await world.ends_well(task, created=1)
        assert len(world.said("failed")) == 1

    bad_day(story, placements=[first, HERE])


def test_a_used_up_quota_is_not_hammered() -> None:
    async def story(world: BadDay) -> None:
        world.scaleway.set_quota(TYPE, 1)
        tasks = [world.task(hours=1) for _ in range(2)]
        await world.cycles(minutes(40))
        assert world.created() == 1
        assert world.scaleway_calls.count("POST .*/servers$") <= 4
        first, *more = world.said("failed", kind="quota_exceeded")
        assert "instances_h100-1-80g" in first["error"]
        assert len(more) <= 1
        assert len(world.said("nothing done", reason="no_placement")) == 1 + len(more)
        world.scaleway.set_quota(TYPE, 5)
        await world.ends_well(*tasks, created=2)

    bad_day(story)


@pytest.mark.parametrize("mode", list(StockMode))
@pytest.mark.parametrize("moment", [BIRTH, STOPPED])
def test_out_of_stock_for_a_while(mode: StockMode, moment: str) -> None:
    async def story(world: BadDay) -> None:
        tasks = []
        if moment == STOPPED:
            tasks.append(world.task(hours=0.1))
            await world.until_done(*tasks)
            await world.until(lambda: set(world.states().values()) == {"stopped"})
        world.scaleway.set_stock(Placement(TYPE, ZONE), 0, mode)
        tasks.append(world.task(hours=0.1))
        await world.cycles(minutes(40))
        assert world.status(tasks[-1]) == "queued"
        assert len(world.said("nothing done", reason="no_placement")) <= 8
        assert world.scaleway_calls.count("POST .*/servers$") <= 8
        world.scaleway.set_stock(Placement(TYPE, ZONE), 3)
        await world.cycles(minutes(5))
        assert world.status(tasks[-1]) == "in_progress", "what became available is used at once"
        await world.ends_well(*tasks, created=9, billed=1)

    bad_day(story, stopped_retention="50m")


def test_a_permission_that_is_lost_for_a_minute() -> None:
    async def story(world: BadDay) -> None:
        world.keys[SCALEWAY_SECRET] = FULL_ACCESS - {"instance:write"}
        task = world.task(hours=0.1)
        await world.cycles(minutes(1))
        world.keys[SCALEWAY_SECRET] = FULL_ACCESS
        await world.cycles(minutes(1))
        assert world.created() == 1, "no pause"
        await world.ends_well(task, created=1)

    bad_day(story)


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(FULL_ACCESS - {"instance:write"}, id="to-write"),
        pytest.param(frozenset(), id="all"),
        pytest.param(None, id="key-deleted"),
    ],
)
def test_a_permission_that_is_lost_for_good(kept: frozenset[str] | None) -> None:
    async def story(world: BadDay) -> None:
        busy = world.task(hours=0.5)
        await world.until(lambda: world.status(busy) == "in_progress")
        if kept is None:
            del world.keys[SCALEWAY_SECRET]
        else:
            world.keys[SCALEWAY_SECRET] = kept
        task = world.task(hours=0.1)
        await world.cycles(minutes(20))
        assert world.created() == 1
        said = world.said("failed", kind="unauthorized") + world.said("failing", subject=ZONE)
        assert 1 <= len(said) <= 40, "often for two minutes, then every five"
        assert world.scaleway_calls.count("POST .*/servers$") <= 40
        world.keys[SCALEWAY_SECRET] = FULL_ACCESS
        await world.ends_well(busy, task, created=2)

    bad_day(story)
