"""Only who holds the lease acts; the other one observes, says so, and takes over when it can."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.errors import LeaseLost, StateRefused
from gpu_autoscaler.domain.memory import Kept, Memory, Pending
from gpu_autoscaler.domain.model import Entry, Placement, Queue
from gpu_autoscaler.policy.clocks import _moved
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.runtime.execute import LiveExecutor, Orders
from gpu_autoscaler.runtime.loop import Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.record import Recorder
from tests.policy.worlds import (
    QUEUE,
    QUEUE_ID,
    TYPE,
    ZONE,
    config,
    minutes,
    registered,
    seconds,
    task,
)
from tests.runtime.fakes import FakeClearml, FakeScaleway, Wire
from tests.runtime.test_execute import create, stop
from tests.runtime.world import FixedConfig, PlainBootstrap

T = TypeVar("T")
NOW = VIRTUAL_START
BEFORE = Memory(planned_at=NOW - seconds(30))


class SetClock(LoopClock):
    """Somebody sets it forward."""

    ahead = seconds(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


class ToldLease:
    """A store that says what a test tells it."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock
        self.kept = Kept(BEFORE)
        self.saved: list[Memory] = []
        self.released = 0
        self.error: OSError | None = None
        self.ends_at = clock.monotonic() + 120

    async def load(self) -> Kept:
        if self.error is not None:
            raise self.error
        return self.kept

    async def save(self, memory: Memory) -> None:
        if self.error is not None:
            raise self.error
        self.saved.append(memory)
        self.ends_at = self._clock.monotonic() + 120

    async def release(self) -> None:
        self.released += 1
        if self.error is not None:
            raise self.error

    def lease_left(self) -> float:
        return max(0.0, self.ends_at - self._clock.monotonic())


class Site:
    """One daemon over fakes."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.wire = Wire(self.clock)
        self.clearml, self.scaleway = FakeClearml(self.wire), FakeScaleway(self.wire)
        self.store = ToldLease(self.clock)
        self.executor = LiveExecutor(
            self.clearml, self.scaleway, self.clock, lambda: None, self.store.lease_left
        )
        self.loop = Loop(
            FixedConfig(config()),
            Observer(self.clearml, self.scaleway, self.clock),
            self.executor,
            self.store,
            lambda _: PlainBootstrap(),
            self.clock,
            Recorder(),
        )

    def waits(self, name: str = "t1") -> None:
        self.clearml.known = {QUEUE: Queue(QUEUE_ID, QUEUE, (Entry(name, NOW),))}
        self.clearml.open = [task(name)]

    def orders(self, *effects: Any, **options: Any) -> Orders:
        return Orders(effects, {QUEUE_ID: QUEUE}, PlainBootstrap(), **options)

    async def settle(self) -> None:
        """Let what was begun go on."""
        await self.clock.sleep(1)


def at(run: Callable[[Site], Awaitable[T]]) -> T:
    async def main() -> T:
        return await run(Site())

    return run_virtual(main())


# --- the loop


def test_without_the_lease_it_observes_and_begins_nothing() -> None:
    async def run(site: Site) -> None:
        site.waits()
        site.store.kept = Kept(BEFORE, ours=False, holder="the other")
        with capture_logs() as lines:
            await site.loop.prepare()
            for _ in range(3):
                cycle = await site.loop.cycle()
                await site.settle()
        assert not site.loop.leads
        assert not cycle.acted
        assert [e.verb for e in cycle.plan.effects] == ["create"], "it still says what it would do"
        assert site.wire.count("create") == 0
        assert site.store.saved == []
        assert [(e["event"], e.get("holder")) for e in lines] == [("standing by", "the other")]

    at(run)


def test_it_takes_over_with_the_memory_of_the_other_one() -> None:
    async def run(site: Site) -> None:
        site.waits()
        site.store.kept = Kept(BEFORE, ours=False, holder="the other")
        await site.loop.prepare()
        await site.loop.cycle()
        theirs = replace(BEFORE, queue_ids={"theirs": "x"})
        site.store.kept = Kept(theirs)
        cycle = await site.loop.cycle()
        await site.settle()
        assert site.loop.leads
        assert cycle.acted
        assert site.wire.count("create") == 1

    at(run)


def test_the_memory_of_a_dead_one_is_confirmed_before_the_first_launch() -> None:
    async def run(site: Site) -> None:
        site.waits()
        site.store.kept = Kept(replace(BEFORE, unconfirmed_need={}))
        await site.loop.prepare()
        assert not (await site.loop.cycle()).plan.effects
        assert [e.verb for e in (await site.loop.cycle()).plan.effects] == ["create"]

    at(run)


def created(until: float) -> Memory:
    """A creation was accepted, no listing shows it, and it counts for so many seconds more."""
    there = Placement(TYPE, ZONE)
    end = NOW + seconds(until)
    one = Pending("create:m1", "m1", NOW - seconds(60), end, QUEUE, there, done=True)
    return replace(BEFORE, pending={one.key: one})


async def look_twice(site: Site) -> int:
    """Once a listing may lack it, twice it does; how many were created since."""
    for _ in range(2):
        await site.loop.cycle()
        await site.clock.sleep(15)
    return site.wire.count("create")


@pytest.mark.parametrize("stood_by", [False, True])
def test_what_another_one_launched_counts_whatever_its_clock_said(stood_by: bool) -> None:
    async def run(site: Site) -> None:
        site.waits()
        slow = seconds(600)  # was its clock
        theirs = replace(_moved(created(until=61), -slow), skew=slow)
        site.store.kept = Kept(theirs, ours=not stood_by)
        await site.loop.prepare()
        if stood_by:
            await site.loop.cycle()
            site.store.kept = Kept(theirs)
        assert await look_twice(site) == 0

    at(run)


@pytest.mark.parametrize(("ahead", "passes", "launched"), [(600, 1, 0), (0, 62, 1)])
def test_a_clock_that_is_set_forward_ends_no_launch_early(
    ahead: float, passes: float, launched: int
) -> None:
    async def run(site: Site) -> None:
        site.store.kept = Kept(created(until=61))
        await site.loop.prepare()
        await site.loop.cycle()
        site.waits()
        site.clock.ahead = seconds(ahead)
        site.clearml.skew = -seconds(ahead)
        await site.clock.sleep(passes)
        assert await look_twice(site) == launched

    at(run)


def test_a_lease_that_is_lost_ends_its_acting_in_the_same_cycle() -> None:
    async def run(site: Site) -> None:
        await site.loop.prepare()
        await site.loop.cycle()
        site.waits()
        site.store.error = LeaseLost("the lease was lost; its holder is now b")
        site.store.kept = Kept(BEFORE, ours=False, holder="b")
        with capture_logs() as lines:
            assert not (await site.loop.cycle()).acted
            await site.settle()
            site.store.error = None
            assert not (await site.loop.cycle()).acted
        assert site.wire.count("create") == 0
        assert [e["event"] for e in lines] == ["standing by"]

    at(run)


def test_while_the_store_is_down_it_acts_until_the_lease_runs_out() -> None:
    async def run(site: Site) -> None:
        await site.loop.prepare()
        await site.loop.cycle()
        site.store.error = OSError("no answer")
        site.waits("t1")
        assert (await site.loop.cycle()).acted
        await site.settle()
        assert site.wire.count("create") == 1
        await site.clock.sleep(120)
        site.waits("t2")
        assert not site.loop.leads
        with capture_logs() as lines:
            for _ in range(3):
                assert not (await site.loop.cycle()).acted
                await site.settle()
            assert site.wire.count("create") == 1
            site.store.error = None
            assert (await site.loop.cycle()).acted, "nobody else took it"
        assert site.loop.leads
        said = [
            (e["event"], e.get("holder")) for e in lines if "lead" in e["event"] or "holder" in e
        ]
        nobody = "nobody knows: the store does not answer"
        assert said == [("standing by", nobody), ("leading", None)], "once each"

    at(run)


def test_a_store_that_is_down_at_the_start_is_asked_again() -> None:
    async def run(site: Site) -> None:
        site.store.error = OSError("no answer")
        await site.loop.prepare()
        assert not (await site.loop.cycle()).acted
        site.store.error = None
        assert (await site.loop.cycle()).acted

    at(run)


def test_what_a_newer_version_wrote_ends_it_at_once_and_later_keeps_it_standing_by() -> None:
    async def run(site: Site) -> None:
        site.store.error = StateRefused("written by a newer version")
        with pytest.raises(StateRefused):
            await site.loop.prepare()
        assert not (await site.loop.cycle()).acted

    at(run)


def test_who_is_not_patient_hears_why_the_store_does_not_answer() -> None:
    async def run(site: Site) -> None:
        site.store.error = OSError("no answer")
        with pytest.raises(OSError, match="no answer"):
            await site.loop.prepare(patient=False)

    at(run)


def test_after_a_suspend_what_is_in_flight_is_cut_off() -> None:
    async def run(site: Site) -> None:
        await site.loop.prepare()
        site.waits()
        site.wire.slow["create"] = 100
        await site.loop.cycle()
        await site.settle()
        assert site.executor.in_flight()
        site.store.ends_at = 0.0  # no time has passed for the event loop
        site.store.error = OSError("no answer")
        await site.loop.cycle()
        assert site.executor.in_flight() == frozenset()

    at(run)


def test_one_decision_keeps_its_lease_until_all_of_it_is_done() -> None:
    async def run(site: Site) -> None:
        await site.loop.prepare()
        site.waits()
        site.wire.slow["create"] = 170
        assert await site.loop.once(minutes(5))
        assert len(site.store.saved) >= 5, "each poll interval, and what came of it"

    at(run)


@pytest.mark.parametrize("lost_at", [0, 60])
def test_one_decision_that_loses_its_lease_is_no_success(lost_at: float) -> None:
    async def run(site: Site) -> None:
        await site.loop.prepare()
        site.waits()
        site.wire.slow["create"] = 170
        save = site.store.save

        async def lost(memory: Memory) -> None:
            if site.clock.now() >= NOW + seconds(lost_at):
                site.store.ends_at = 0.0
                raise LeaseLost("its holder is now b")
            await save(memory)

        site.store.save = lost  # type: ignore[method-assign]
        assert not await site.loop.once(minutes(5))
        assert site.clock.now() <= NOW + seconds(lost_at + 31)

    at(run)


def test_one_decision_whose_stop_was_left_undone_for_want_of_a_lease_is_no_success() -> None:
    async def run(site: Site) -> bool:
        await site.loop.prepare()
        await site.loop.cycle()
        site.store.ends_at = 0.0
        site.executor.submit(site.orders(create()))
        await site.settle()
        return await site.loop.finish(seconds(20))

    assert not at(run)


def test_one_decision_ends_in_order_when_it_is_told_to_stop() -> None:
    async def run(site: Site, at_second: float) -> float:
        await site.loop.prepare()
        site.waits()
        site.wire.slow["create"] = 170
        site.wire.slow["workers"] = 3
        deciding = asyncio.create_task(site.loop.once(minutes(5)))
        await site.clock.sleep(at_second)
        site.loop.stop()
        assert not await deciding
        assert site.executor.in_flight() == frozenset()
        return site.clock.monotonic()

    begun = 0.0
    assert at(lambda site: run(site, 1)) - begun < 5, "it had begun nothing"
    assert 20 < at(lambda site: run(site, 10)) - begun < 35, "what it had begun got its time"


# --- the executor


def test_no_effect_begins_without_the_lease() -> None:
    async def run(site: Site) -> None:
        site.store.ends_at = site.clock.monotonic()
        site.executor.submit(site.orders(create()))
        await site.settle()
        (outcome,) = site.executor.take_outcomes()
        assert outcome.failure in (Failure.GUARD, Failure.TRANSIENT)
        assert "lease" in outcome.message
        assert site.wire.calls == []

    at(run)


def test_no_effect_outlives_the_lease() -> None:
    async def run(site: Site) -> None:
        site.wire.slow["create"] = 100
        site.store.ends_at = site.clock.monotonic() + 60
        site.executor.submit(site.orders(create()))
        await site.clock.sleep(61)
        (outcome,) = site.executor.take_outcomes()
        assert (outcome.failure, outcome.message) == (
            Failure.TRANSIENT,
            "cut off: the lease ran out",
        )
        assert outcome.at == NOW + seconds(60)

    at(run)


def test_a_renewed_lease_lets_it_go_on_up_to_its_own_deadline() -> None:
    async def run(site: Site, slow: float) -> Failure | None:
        site.wire.slow["create"] = slow
        site.store.ends_at = site.clock.monotonic() + 60
        site.executor.submit(site.orders(create()))
        for _ in range(8):
            await site.clock.sleep(30)
            site.store.ends_at = site.clock.monotonic() + 60
            site.executor.lease_changed()
        (outcome,) = site.executor.take_outcomes()
        assert outcome.at == NOW + seconds(min(slow, 180))
        return outcome.failure

    assert at(lambda site: run(site, 150)) is None
    assert at(lambda site: run(site, 300)) is Failure.TRANSIENT


def test_a_lease_that_ends_during_the_last_look_forbids_the_power_off() -> None:
    async def run(site: Site) -> None:
        site.clearml.agents = []
        site.scaleway.there = [registered()]
        effect = replace(stop(), booted_at=NOW - minutes(30))
        workers = site.clearml.workers

        async def slow_workers() -> Any:
            site.store.ends_at = site.clock.monotonic()
            return await workers()

        site.clearml.workers = slow_workers  # type: ignore[method-assign]
        site.executor.submit(site.orders(effect))
        await site.settle()
        (outcome,) = site.executor.take_outcomes()
        assert outcome.failure is Failure.GUARD
        assert site.wire.count("stop") == 0

    at(run)


def test_what_could_not_be_stored_is_not_powered_off() -> None:
    async def run(site: Site) -> None:
        site.executor.submit(site.orders(stop(), create(), stored=False))
        await site.settle()
        told = {o.effect.verb: o.failure for o in site.executor.take_outcomes()}
        assert told == {"stop": Failure.GUARD, "create": None}
        assert site.wire.count("stop") == 0

    at(run)


def test_it_tells_what_is_in_flight() -> None:
    async def run(site: Site) -> None:
        site.wire.slow["create"] = 5
        site.executor.submit(site.orders(create()))
        assert site.executor.in_flight() == {create().key}
        await site.clock.sleep(6)
        assert site.executor.in_flight() == frozenset()

    at(run)
