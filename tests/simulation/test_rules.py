"""Rules that one fault alone shows best: bounded launches, handover times, long quiet months."""

from dataclasses import replace
from datetime import timedelta

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.simulation.daemon import track_processes
from gpu_autoscaler.simulation.faults import NONE, BootFaults, Level, Rates
from gpu_autoscaler.simulation.play import play
from gpu_autoscaler.simulation.scenario import THESIS, scenario
from gpu_autoscaler.simulation.world import LEASE, World
from tests.simulation.crashes import config

BREAKER_TRIES = 4
"""Within four hours after it opened: after 30 minutes, then after 1 h, 2 h, and those at hand."""


def never_registering() -> Rates:
    boots = dict.fromkeys(BootFaults.__dataclass_fields__, 0.0) | {"never": 1.0}
    return Rates(NONE.calls, NONE.hourly, BootFaults(**boots))


def test_machines_that_never_register_are_not_launched_for_ever() -> None:
    async def launches() -> int:
        track_processes()
        world = World("never", never_registering(), config())
        world.clearml.create_task("waits", next(iter(world.queue_ids.values())), duration=60)
        world.start_daemon()
        await world.clock.sleep(4 * 3600)
        for daemon in world.daemons:
            daemon.process.kill()
        assert world.watch.broken is None
        return len(world.boots.boots)

    assert 3 < run_virtual(launches()) <= 3 + BREAKER_TRIES


def test_when_the_leader_is_killed_the_other_acts_within_two_lease_times() -> None:
    async def handover() -> timedelta:
        track_processes()
        world = World("two", NONE, config())
        first = world.start_daemon()
        await world.clock.sleep(10)
        second = world.start_daemon()
        await world.clock.sleep(300)
        assert first.loop.leads
        assert not second.loop.leads
        first.process.kill()
        world.clearml.create_task("waits", next(iter(world.queue_ids.values())), duration=3600)
        killed_at = world.clock.now()
        while not world.servers():
            await world.clock.sleep(1)
            assert world.clock.now() - killed_at < 3 * LEASE
        acted_at = world.clock.now()
        await world.clock.sleep(600)
        assert [server.state for server in world.servers()] == [ServerState.RUNNING]
        second.process.kill()
        assert world.watch.broken is None
        return acted_at - killed_at

    assert run_virtual(handover()) <= 2 * LEASE


def test_a_farewell_hands_the_lease_over_at_once() -> None:
    async def handover() -> timedelta:
        track_processes()
        world = World("redeploy", NONE, config())
        old = world.start_daemon()
        await world.clock.sleep(10)
        new = world.start_daemon()
        await world.clock.sleep(60)
        old.loop.stop()
        told_at = world.clock.now()
        while not new.loop.leads:
            await world.clock.sleep(1)
            assert world.clock.now() - told_at < LEASE
        new.process.kill()
        return world.clock.now() - told_at

    assert run_virtual(handover()) <= timedelta(seconds=40)


def test_a_month_of_a_thesis_costs_little_above_what_its_tasks_take() -> None:
    month = replace(scenario(3, 6, THESIS, Level.NONE), with_lease=True)
    figures = play(month).figures
    assert figures.tasks_interrupted == 0
    assert figures.hours_above_floor < 0.1 * figures.active_hours


def test_a_violation_is_told_with_the_seed_the_moment_and_what_was_decided() -> None:
    async def run() -> list[str]:
        track_processes()
        world = World("broken", NONE, config())
        world.start_daemon()
        await world.clock.sleep(60)
        world.watch.violated("as if something was wrong")
        for daemon in world.daemons:
            daemon.process.kill()
        assert "2026-09-07 08:01:00 as if something was wrong" in str(world.watch.broken)
        return list(world.watch.events)

    events = run_virtual(run())
    assert any("H100-1-80G: no_demand" in event for event in events)
