"""What each cycle asks, in which order, and what becomes of answers that do not come."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.errors import NotFound, RateLimited, Transient, Unauthorized
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.memory import Backoff, InstanceMemory, Memory, PowerOff
from gpu_autoscaler.domain.model import (
    Availability,
    Entry,
    Instance,
    Placement,
    Queue,
    TaskStatus,
    Worker,
)
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.runtime.observe import BOOT_REPORT_DEADLINE, READ_DEADLINE, Observer, last_look
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    QUEUE_ID,
    TYPE,
    ZONE,
    config,
    instance,
    minutes,
    seconds,
    task,
)
from tests.runtime.fakes import FakeClearml, FakeScaleway, Wire
from tests.runtime.world import PlainBootstrap

T = TypeVar("T")
TWO_ZONES = config({"placements": [{"type": TYPE, "zone": z} for z in (ZONE, OTHER_ZONE)]})
FIXED = ["queues", "workers", "open_tasks"]
NOW = VIRTUAL_START


@dataclass
class Eyes:
    """An observer with its two services."""

    config: Config = field(default_factory=config)
    memory: Memory = field(default_factory=lambda: Memory(volumes_listed_at=NOW))
    clock: LoopClock = field(default_factory=LoopClock)

    def __post_init__(self) -> None:
        self.wire = Wire(self.clock)
        self.clearml, self.scaleway = FakeClearml(self.wire), FakeScaleway(self.wire)
        self.observer = Observer(self.clearml, self.scaleway, self.clock)

    async def look(self, *, lost_memory: bool = False) -> World:
        self.wire.calls.clear()
        return await self.observer.observe(
            self.memory, self.config, PlainBootstrap(), (), lost_memory=lost_memory
        )


def seen(run: Callable[[Eyes], Awaitable[T]], **eyes: Any) -> T:
    async def main() -> T:
        return await run(Eyes(**eyes))

    return run_virtual(main())


def known(one: Instance | None = None, **changes: Any) -> dict[str, InstanceMemory]:
    one = one or instance()
    plain = InstanceMemory(one, InstanceState.RUNNING_TASK, NOW, NOW - minutes(60))
    return {one.id: replace(plain, **changes)}


# --- order and number


def test_clearml_is_read_before_the_instances_and_no_more_is_asked() -> None:
    async def run(eyes: Eyes) -> list[str]:
        await eyes.look()  # the first one of a day asks for prices, too
        await eyes.look()
        return eyes.wire.calls

    assert seen(run) == [*FIXED, f"instances {ZONE}"]


def test_the_last_look_reads_tasks_before_queues() -> None:
    """A task popped between the two reads then shows as popped, never as waiting."""

    async def run(eyes: Eyes) -> list[str]:
        await last_look(eyes.clearml, [QUEUE], {QUEUE: QUEUE_ID}, eyes.clock)
        return eyes.wire.calls

    assert seen(run) == ["open_tasks", "queues", "workers"]


def test_zones_are_listed_side_by_side() -> None:
    async def run(eyes: Eyes) -> timedelta:
        eyes.wire.slow["instances"] = 10
        await eyes.look()
        return eyes.clock.now() - NOW

    assert seen(run, config=TWO_ZONES) == seconds(10)


def test_zones_and_queues_that_are_only_remembered_are_read_too() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.memory = replace(
            eyes.memory, zones=(OTHER_ZONE,), instances=known(instance(queue="left the file"))
        )
        world = await eyes.look()
        assert set(world.zones) == {ZONE, OTHER_ZONE}
        assert eyes.clearml.asked_queues == [[QUEUE, "left the file"]]

    seen(run)


# --- failures stay where they are


@pytest.mark.parametrize("call", FIXED)
@pytest.mark.parametrize("late", [True, False])
def test_a_failed_read_of_clearml_makes_clearml_incomplete_alone(call: str, late: bool) -> None:
    async def run(eyes: Eyes) -> None:
        if late:
            eyes.wire.slow[call] = 3600
        else:
            eyes.wire.errors[call] = Unauthorized("key refused")
        world = await eyes.look()
        assert not world.clearml.complete
        assert ("25 s" if late else "key refused") in world.clearml.error
        assert world.clearml.refused is not late
        assert world.clearml.queues == {}
        assert world.clearml.ended_tasks is None
        assert world.zones[ZONE].complete
        assert eyes.clock.now() - NOW <= READ_DEADLINE

    seen(run)


@pytest.mark.parametrize("error", [None, Transient("502"), Unauthorized("403")])
def test_a_zone_that_fails_is_incomplete_alone(error: Exception | None) -> None:
    async def run(eyes: Eyes) -> None:
        eyes.scaleway.there = [instance(zone=OTHER_ZONE)]
        if error is None:
            eyes.wire.slow[f"instances {ZONE}"] = 3600
        else:
            eyes.wire.errors[f"instances {ZONE}"] = error
        world = await eyes.look()
        assert world.clearml.complete
        assert not world.zones[ZONE].complete
        assert world.zones[ZONE].error
        assert world.zones[ZONE].refused is isinstance(error, Unauthorized)
        assert world.zones[ZONE].instances == ()
        assert world.zones[OTHER_ZONE].complete
        assert len(world.zones[OTHER_ZONE].instances) == 1

    seen(run, config=TWO_ZONES)


def test_all_reads_of_clearml_share_one_deadline() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.wire.slow = dict.fromkeys(FIXED, 10)
        assert not (await eyes.look()).clearml.complete
        assert eyes.clock.now() - NOW == READ_DEADLINE

    seen(run)


# --- missing is not gone


@pytest.mark.parametrize(("there", "gone"), [(True, frozenset()), (False, {instance().id})])
def test_a_known_instance_missing_from_the_listing_is_asked_for(
    there: bool, gone: frozenset[str]
) -> None:
    async def run(eyes: Eyes) -> None:
        eyes.memory = replace(eyes.memory, instances=known())
        eyes.scaleway.unlisted = {instance().id} if there else set()
        world = await eyes.look()
        assert f"exists {instance().id}" in eyes.wire.calls
        assert world.zones[ZONE].gone == gone

    seen(run)


def test_a_listed_one_is_not_asked_for_nor_one_of_another_zone() -> None:
    async def run(eyes: Eyes) -> None:
        other = instance("elsewhere", zone=OTHER_ZONE)
        eyes.memory = replace(eyes.memory, instances=known() | known(other))
        eyes.scaleway.there = [instance(), other]
        await eyes.look()
        assert eyes.wire.count("exists") == 0

    seen(run, config=TWO_ZONES)


@pytest.mark.parametrize("error", [Transient("502"), RateLimited("429"), Unauthorized("403")])
def test_no_answer_about_a_missing_one_makes_its_zone_incomplete(error: Exception) -> None:
    async def run(eyes: Eyes) -> None:
        eyes.memory = replace(eyes.memory, instances=known())
        eyes.wire.errors["exists"] = error
        world = await eyes.look()
        assert not world.zones[ZONE].complete
        assert world.zones[ZONE].gone == frozenset()

    seen(run)


# --- clocks


@pytest.mark.parametrize("ahead", [minutes(5), minutes(-5), seconds(3)])
def test_moments_of_a_skewed_server_are_told_in_our_time(ahead: timedelta) -> None:
    async def run(eyes: Eyes) -> None:
        theirs = NOW + ahead
        eyes.clearml.skew = ahead
        eyes.clearml.known = {QUEUE: Queue(QUEUE_ID, QUEUE, (Entry("t1", theirs),))}
        eyes.clearml.agents = [Worker("w", theirs, theirs)]
        one = task(status_changed_at=theirs)
        eyes.clearml.open = [one]
        eyes.clearml.ended = [replace(one, status=TaskStatus.FAILED)]
        world = (await eyes.look(lost_memory=True)).clearml
        assert world.queues[QUEUE].entries[0].added_at == NOW
        assert (world.workers[0].registered_at, world.workers[0].last_report_at) == (NOW, NOW)
        for each in (*world.open_tasks, *(world.ended_tasks or ())):
            assert each.status_changed_at == NOW
        assert len(world.ended_tasks or ()) == 1

    seen(run)


def test_ended_tasks_are_asked_for_in_the_servers_time() -> None:
    async def since(skew: timedelta) -> datetime:
        eyes = Eyes()
        eyes.clearml.skew = skew
        await eyes.look(lost_memory=True)
        return eyes.clearml.ended_since[0]

    assert run_virtual(since(minutes(5))) - run_virtual(since(minutes(0))) == minutes(5)


def test_for_a_power_off_the_servers_own_time_is_asked_for() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.clearml.skew = minutes(5)
        eyes.memory = replace(eyes.memory, power_offs={"x": PowerOff(QUEUE, NOW)})
        await eyes.look()
        assert eyes.clearml.ended_since == [NOW - seconds(5)]  # a margin for both clocks

    seen(run)


@pytest.mark.parametrize(
    ("measured", "applied"),
    [(minutes(5), minutes(5)), (minutes(-5), minutes(-5)), (seconds(2), seconds(0))],
)
@pytest.mark.parametrize("answers", [True, False])
def test_it_is_told_by_how_much_times_were_corrected(
    measured: timedelta, applied: timedelta, answers: bool
) -> None:
    async def run(eyes: Eyes) -> None:
        eyes.clearml.skew = measured
        if not answers:
            eyes.wire.errors["workers"] = Transient("502")
        view = (await eyes.look()).clearml
        assert (view.complete, view.skew) == (answers, applied)

    seen(run)


def test_it_is_told_when_the_look_began() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.wire.slow["open_tasks"] = 10
        view = (await eyes.look()).clearml
        assert view.begun_at == NOW < view.observed_at
        began = eyes.clock.now()
        last = await last_look(eyes.clearml, [QUEUE], {QUEUE: QUEUE_ID}, eyes.clock)
        assert last.begun_at == began < last.observed_at

    seen(run)


def test_a_second_or_two_are_the_date_headers_own() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.clearml.skew = seconds(2)
        eyes.clearml.agents = [Worker("w", NOW, NOW)]
        assert (await eyes.look()).clearml.workers[0].last_report_at == NOW

    seen(run)


# --- what is asked only while it matters


ENDED = {
    "nothing of interest": (Memory(), False),
    "memory was lost": (Memory(unconfirmed_need={}), True),
    "a power-off to watch": (Memory(power_offs={"x": PowerOff(QUEUE, NOW)}), True),
    "its task is not seen any more": (Memory(instances=known()), True),
    "idle for a while": (
        Memory(instances=known(state=InstanceState.IDLE, idle_since=NOW - minutes(29))),
        False,
    ),
    "idle for as long as it may": (
        Memory(instances=known(state=InstanceState.IDLE, idle_since=NOW - minutes(30))),
        True,
    ),
}


@pytest.mark.parametrize(("memory", "asked"), ENDED.values(), ids=ENDED)
def test_ended_tasks_are_asked_for_only_when_they_matter(memory: Memory, asked: bool) -> None:
    async def run(eyes: Eyes) -> None:
        eyes.memory = replace(memory, volumes_listed_at=NOW)
        eyes.scaleway.there = [instance()]
        world = await eyes.look()
        assert eyes.wire.count("ended_tasks") == asked
        assert (world.clearml.ended_tasks is not None) == asked

    seen(run)


@pytest.mark.parametrize("late", [True, False])
def test_without_an_answer_about_ended_tasks_the_rest_is_still_whole(late: bool) -> None:
    async def run(eyes: Eyes) -> None:
        if late:
            eyes.wire.slow["ended_tasks"] = 3600
        else:
            eyes.wire.errors["ended_tasks"] = Transient("502")
        world = await eyes.look(lost_memory=True)
        assert world.clearml.complete
        assert world.clearml.ended_tasks is None

    seen(run)


@pytest.mark.parametrize(
    ("listed_at", "asked"),
    [(None, True), (NOW, False), (NOW - seconds(149), False), (NOW - seconds(150), True)],
)
def test_volumes_are_listed_every_quarter_of_orphan_timeout(
    listed_at: datetime | None, asked: bool
) -> None:
    async def run(eyes: Eyes) -> None:
        eyes.memory = replace(eyes.memory, volumes_listed_at=listed_at)
        world = await eyes.look()
        assert eyes.wire.count("volumes") == asked
        assert (world.zones[ZONE].volumes is not None) == asked

    seen(run, config=config(orphan_timeout="10m"))


def test_volumes_that_do_not_come_leave_the_zone_whole() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.memory = Memory()
        eyes.wire.slow["volumes"] = 3600
        zone = (await eyes.look()).zones[ZONE]
        assert zone.complete
        assert zone.volumes is None

    seen(run)


def backed_off(failure: Failure) -> Memory:
    one = Backoff(Placement(TYPE, ZONE), failure, 1, NOW, NOW + minutes(5), "")
    return Memory(volumes_listed_at=NOW, backoffs=(one,))


@pytest.mark.parametrize(
    ("failure", "waiting", "placements", "asked"),
    [
        (Failure.OUT_OF_STOCK, True, [ZONE], [ZONE]),
        (Failure.OUT_OF_STOCK, False, [ZONE], []),
        (Failure.QUOTA, True, [ZONE], []),
        (None, True, [ZONE], []),
        (None, True, [ZONE, OTHER_ZONE], [ZONE, OTHER_ZONE]),
        (Failure.OUT_OF_STOCK, False, [ZONE, OTHER_ZONE], []),
    ],
)
def test_stock_is_asked_for_only_where_a_task_waits_for_it(
    failure: Failure | None, waiting: bool, placements: list[str], asked: list[str]
) -> None:
    async def run(eyes: Eyes) -> None:
        if failure:
            eyes.memory = backed_off(failure)
        entries = (Entry("t1", NOW),) if waiting else ()
        eyes.clearml.known = {QUEUE: Queue(QUEUE_ID, QUEUE, entries)}
        eyes.scaleway.stock = {TYPE: Availability.SHORTAGE}
        world = await eyes.look()
        asked_for = [call for call in eyes.wire.calls if call.startswith("availability")]
        assert asked_for == [f"availability {zone}" for zone in asked]
        shown = {zone: view.availability for zone, view in world.zones.items()}
        told = {TYPE: Availability.SHORTAGE}
        assert shown == {zone: told if zone in asked else None for zone in (ZONE, OTHER_ZONE)}

    other = {"name": "other", "placements": [{"type": TYPE, "zone": OTHER_ZONE}]}
    own = {"name": QUEUE, "placements": [{"type": TYPE, "zone": zone} for zone in placements]}
    seen(run, config=config(queues={QUEUE: own, "other": other}))


def test_prices_are_read_once_a_day() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.scaleway.price = {TYPE: 2.5}
        assert (await eyes.look()).prices == {TYPE: 2.5}
        await eyes.clock.sleep(23 * 3600)
        assert (await eyes.look()).prices == {TYPE: 2.5}
        assert eyes.wire.count("prices") == 0
        await eyes.clock.sleep(3601)
        eyes.scaleway.price = {TYPE: 3.0}
        world = await eyes.look()
        assert (world.prices, world.prices_read_at) == ({TYPE: 3.0}, eyes.clock.now())
        assert eyes.wire.count("prices") == 1

    seen(run)


def test_prices_of_a_zone_that_comes_in_are_read_at_once() -> None:
    async def run(eyes: Eyes) -> None:
        first = await eyes.look()
        await eyes.clock.sleep(3600)
        eyes.config = TWO_ZONES
        assert (await eyes.look()).prices_read_at == first.prices_read_at, "of the oldest"
        assert [call for call in eyes.wire.calls if "prices" in call] == [f"prices {OTHER_ZONE}"]

    seen(run)


def test_prices_that_do_not_come_are_asked_for_again_and_the_old_ones_stay() -> None:
    async def run(eyes: Eyes) -> None:
        eyes.scaleway.price = {TYPE: 2.5}
        await eyes.look()
        await eyes.clock.sleep(25 * 3600)
        eyes.wire.errors["prices"] = NotFound("404")
        assert (await eyes.look()).prices == {TYPE: 2.5}
        del eyes.wire.errors["prices"]
        await eyes.look()
        assert eyes.wire.count("prices") == 0, "where they are refused, not in every cycle"
        await eyes.clock.sleep(600)
        await eyes.look()
        assert eyes.wire.count("prices") == 1

    seen(run)


def test_every_configured_queue_has_its_spec() -> None:
    async def run(eyes: Eyes) -> None:
        world = await eyes.look()
        assert (world.specs, world.own_specs) == ({QUEUE: "spec-1"}, {})
        own = {"type": TYPE, "zone": OTHER_ZONE, "scratch": "1TB"}
        eyes.config = config({"placements": [{"type": TYPE, "zone": ZONE}, own]})
        world = await eyes.look()
        assert world.own_specs == {(QUEUE, Placement(TYPE, OTHER_ZONE)): "spec-1"}

    seen(run)


# --- boots


def test_a_machine_that_boots_is_asked_how_far_it_is() -> None:
    async def run(eyes: Eyes) -> tuple[World, list[str]]:
        eyes.scaleway.there = [instance("m1"), instance("m2")]
        eyes.memory = replace(eyes.memory, instances=known(instance("m2"), last_report_at=NOW))
        eyes.scaleway.reports = {"m1": "installing: install_agent", "m2": "ready"}
        return await eyes.look(), eyes.wire.calls

    world, calls = seen(run)
    assert world.zones[ZONE].boot_reports == {"id-m1": "installing: install_agent"}
    assert calls.count("boot_report m1") == 1
    assert "boot_report m2" not in calls


@pytest.mark.parametrize("late", [True, False])
def test_a_machine_that_cannot_be_asked_leaves_its_zone_whole(late: bool) -> None:
    async def run(eyes: Eyes) -> tuple[World, timedelta]:
        eyes.scaleway.there = [instance("m1"), instance("m2")]
        eyes.scaleway.reports = {"m2": "ready"}
        if late:
            eyes.wire.slow["boot_report m1"] = 60
        else:
            eyes.wire.errors["boot_report m1"] = Transient("502")
        return await eyes.look(), eyes.clock.now() - NOW

    world, took = seen(run)
    assert world.zones[ZONE].complete
    assert world.zones[ZONE].boot_reports == {"id-m2": "ready"}
    assert took == (BOOT_REPORT_DEADLINE if late else seconds(0))
