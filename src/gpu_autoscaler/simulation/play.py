"""One simulation from its seed to its end: the shipped loop in virtual time, watched all along."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from gpu_autoscaler.domain.model import KEEP_TAG, FleetTags, ServerState
from gpu_autoscaler.emulator.scaleway_bill import Bill
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.simulation import ledger
from gpu_autoscaler.simulation.chaos import Chaos
from gpu_autoscaler.simulation.daemon import track_processes
from gpu_autoscaler.simulation.faults import RATES
from gpu_autoscaler.simulation.figures import Figures
from gpu_autoscaler.simulation.invariants import Violation, queue_of
from gpu_autoscaler.simulation.scenario import Scenario
from gpu_autoscaler.simulation.world import FOREIGN_FLEET, World

LOOK_EVERY = timedelta(seconds=30)
ENDED = frozenset({"completed", "failed", "stopped"})
TASKS_END_WITHIN = timedelta(hours=36)
"""After all is well again; the longest thing to wait for is ClearML's watchdog (two hours)."""
STOPPED_LATE = timedelta(seconds=75)
"""Two cycles and the calls in them, beyond the idle timeout."""
UNHEALTHY_STOPPED_WITHIN = timedelta(hours=1, minutes=30)
"""Machines without a living agent: lost, stale, held for an outage."""
LAST_LOOK_WITHIN = timedelta(minutes=6)
"""A daemon that starts when all is well has the lease, and has put back what it found, by then."""
GONE_LATE = timedelta(minutes=15)
"""A removal with one failure, beyond the retention."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    world: World
    violation: Violation | None
    simulated: timedelta
    ended_at: datetime
    bill: Bill
    figures: Figures
    left: int
    """Servers and free volumes of the fleet that nobody wants to keep."""


def play(scenario: Scenario) -> Result:
    """Simulate it; takes CPU time alone."""
    before = structlog.get_config()
    player = _Play(scenario)
    structlog.configure(
        processors=[player.crashed],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )
    try:
        return run_virtual(player.run())
    finally:
        structlog.configure(**before)


class _Play:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def crashed(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        """A log processor: an exception that nobody expected is a violation."""
        if event.get("exc_info"):
            trace = traceback.format_exc()
            self.world.watch.violated(f"{event['event']}: {trace}")
        raise structlog.DropEvent

    async def run(self) -> Result:
        scenario = self._scenario
        track_processes()
        self.world = world = World(
            f"{scenario.seed}",
            RATES[scenario.level],
            scenario.config,
            with_lease=scenario.with_lease,
        )
        begun = world.clock.now()
        foreign = self._others()
        chaos = Chaos(world, scenario.hours)
        world.start_daemon()
        story = asyncio.gather(
            self._submit(), chaos.run(), world.clock.sleep(scenario.hours * 3600)
        )
        if await self._unless_broken(story):
            chaos.end()
            if await self._unless_broken(self._settle()):
                written = ledger.stretches(world, world.clock.now())
                for problem in (*world.fates.problems(), *ledger.counted_twice(written)):
                    world.watch.violated(problem)
                if foreign != [repr(s) for s in world.scaleway.all_servers() if not world.ours(s)]:
                    world.watch.violated("something that is not the fleet's was touched")
        for daemon in world.daemons:
            daemon.process.kill()
        now = world.clock.now()
        bill, figures = world.scaleway.bill(), world.figures()
        return Result(world, world.watch.broken, now - begun, now, bill, figures, self._left())

    async def _unless_broken(self, work: Awaitable[Any]) -> bool:
        """Whether it went to its end before anything was violated."""
        alarm = asyncio.ensure_future(self.world.watch.alarm.wait())
        working = asyncio.ensure_future(work)
        await asyncio.wait((working, alarm), return_when=asyncio.FIRST_COMPLETED)
        done = working.done()
        for each in (working, alarm):
            each.cancel()
        await asyncio.gather(working, alarm, return_exceptions=True)
        if done:
            working.result()
        return self.world.watch.broken is None

    def _others(self) -> list[str]:
        """Somebody else's machines in the same project."""
        world = self.world
        fleet = FleetTags(FOREIGN_FLEET)
        queue, settings = next(iter(world.config.queues.items()))
        placement = settings.placements[0]
        for name, tags in (("theirs", fleet.of_instance(queue, "spec")), ("nobodys", ())):
            order = NewServer(
                commercial_type=placement.commercial_type,
                image=settings.image,
                name=name,
                project=world.project,
                tags=tags,
            )
            world.scaleway.create_server(placement.zone, order)
        return [repr(server) for server in world.scaleway.all_servers()]

    async def _submit(self) -> None:
        world = self.world
        begun = world.clock.monotonic()
        for each in sorted(self._scenario.workload, key=lambda task: task.at):
            ahead = begun + each.at.total_seconds() - world.clock.monotonic()
            if ahead > 0:
                await world.clock.sleep(ahead)
            seconds = each.duration.total_seconds()
            task_id = world.clearml.create_task(each.name, duration=seconds, outcome=each.outcome)
            world.fates.submitted(task_id, each.outcome, each.queue)
            world.clearml.enqueue(task_id, world.queue_ids[each.queue])

    # --- the end

    async def _settle(self) -> None:
        """All is well: every task ends, then every machine stops, then every one goes."""
        world = self.world
        tasks = world.clearml.tasks.all

        def open_tasks() -> list[str]:
            return [t.id for t in tasks.values() if t.status not in ENDED]

        calm_since = world.clock.now()
        await self._until(
            lambda: not open_tasks() and world.calm_for >= LAST_LOOK_WITHIN,
            TASKS_END_WITHIN,
            lambda: f"never end: {open_tasks()}",
        )

        def rest() -> bool:
            if open_tasks():
                return False  # one that had been stopped was put back
            last_end = max([calm_since, *(t.fields["status_changed"] for t in tasks.values())])
            return all(self._rests(server, last_end) for server in world.servers())

        await self._until(
            rest,
            UNHEALTHY_STOPPED_WITHIN,
            lambda: f"still billed: {[s.name for s in world.servers() if not off(s)]}",
        )
        retention = max(q.stopped_retention for q in world.config.queues.values())
        fewest = sum(queue.min_instances for queue in world.config.queues.values())
        # a keep may end only now, on a machine that is still to be stopped
        held = any(kept(server) and not server.protected for server in world.servers())
        await self._until(
            lambda: self._left() <= fewest,
            retention + GONE_LATE + (world.config.keep if held else timedelta(0)),
            lambda: f"never go: {self._left()} of at most {fewest}",
        )

    def _left(self) -> int:
        """The fleet's servers that nobody wants to keep, and volumes without a server."""
        world = self.world
        free = [
            volume
            for zone in world.config.zones
            for volume in world.scaleway.block.find(zone, project=world.project)
            if volume.server_id is None
        ]
        return sum(not kept(server) for server in world.servers()) + len(free)

    def _rests(self, server: Server, last_end: datetime) -> bool:
        """Off, or with a reason to be on; a healthy one that idles for too long is a violation."""
        world, config = self.world, self.world.config
        if off(server) or kept(server):
            return True
        queue = config.queues[queue_of(server)]
        same = [s for s in world.servers() if queue_of(s) == queue.name and not off(s)]
        if len(same) <= queue.min_instances:
            return True
        agent = world.machines.agents.get(server.id)
        boots = [boot.registered_at for boot in world.boots.boots if boot.server_id == server.id]
        if agent is not None and agent.alive and boots and boots[-1] is not None:
            late = world.clock.now() - max(last_end, boots[-1]) - queue.idle_timeout
            if late > STOPPED_LATE:
                world.watch.violated(f"{server.name} still idles {late} after its idle_timeout")
        return False

    async def _until(
        self, true: Callable[[], bool], within: timedelta, else_: Callable[[], str]
    ) -> None:
        end = self.world.clock.now() + within
        while not true() and self.world.watch.broken is None:
            if self.world.clock.now() > end:
                self.world.watch.violated(f"{else_()} within {within}")
                return
            await self.world.clock.sleep(LOOK_EVERY.total_seconds())


def off(server: Server) -> bool:
    """Not billed."""
    return server.state is ServerState.STOPPED


def kept(server: Server) -> bool:
    """A person wants it to stay."""
    return server.protected or KEEP_TAG in server.tags
