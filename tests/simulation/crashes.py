"""A short story in which every effect happens, told with a daemon that dies at a chosen call.

Machines boot fast, timeouts are the shortest there are, so that a few hundred calls hold it all.
"""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.model import PAUSE_TAGS, FleetTags, Placement, ServerState
from gpu_autoscaler.emulator.machines import Habit
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.simulation.daemon import Daemon, track_processes
from gpu_autoscaler.simulation.faults import NONE
from gpu_autoscaler.simulation.scenario import PROJECT
from gpu_autoscaler.simulation.world import World

QUEUE = "H100-1-80G"
PLACEMENT = Placement(QUEUE, "fr-par-2")
RESTART_AFTER = 4.0
"""Seconds: sooner than anything shows that was not stored."""
STALE_AFTER = 60.0
"""A directory is never behind; a bucket may be, and then the lease keeps the next one off for its
last third."""
LISTING_LAG_SECONDS = 25.0
"""What was done right before a crash is not listed when the next daemon looks first."""
LONGEST = timedelta(hours=3)
BOOT = Habit(boot_seconds=40)


class Memory(StrEnum):
    """What the next daemon finds."""

    STORED = "stored"
    STALE = "stale"
    """What was stored a minute before."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Crash:
    """At which call the daemon dies, and what is left of its memory."""

    call: int
    before: bool
    """Else the call takes effect, and its reply is lost."""
    memory: Memory


@dataclass(frozen=True, slots=True)
class End:
    """What is compared."""

    statuses: tuple[tuple[str, str], ...]
    """Of the tasks, by name."""
    left: int
    most_powered: int


def config(**fleet: Any) -> Config:
    """One queue, as impatient as can be."""
    queue: dict[str, Any] = {
        "name": QUEUE,
        "placements": [PLACEMENT],
        "max_instances": 6,
        "idle_timeout": "2m",
        "stale_timeout": "3m",
        "lost_timeout": "2m",
        "stopped_retention": "4m",
    }
    return Config.model_validate(
        {
            "fleet": "crash",
            "orphan_timeout": "2m",
            "scaleway": {"project_id": PROJECT},
            "queues": {QUEUE: queue},
            **fleet,
        }
    )


@dataclass
class CrashWorld(World):
    """Counts every call, kills at one, and starts the next daemon."""

    crash: Crash | None = None
    calls: list[str] = field(default_factory=list)
    """Up to the crash."""
    crashed: bool = False
    most_powered: int = 0
    _numbers_of: dict[asyncio.Task[Any] | None, int] = field(default_factory=dict)
    _before: list[tuple[float, bytes]] = field(default_factory=list)
    """What was on the disk since when."""

    def passing(self, daemon: Daemon, call: str, *, before: bool) -> None:
        powered = sum(server.powered for server in self.scaleway.all_servers())
        self.most_powered = max(self.most_powered, powered)
        if self.crashed:
            return
        # a task of asyncio has one call under way at a time
        caller = asyncio.current_task()
        if before:
            self.calls.append(call)
            self._numbers_of[caller] = len(self.calls)
        if not self._before or self._before[-1][1] != self.on_disk:
            self._before.append((self.clock.monotonic(), self.on_disk))
        crash = self.crash
        if crash == Crash(self._numbers_of[caller], before, crash.memory if crash else Memory.LOST):
            self.crashed = True
            daemon.process.kill()
            self._damage(crash.memory)
            self.watch.say(f"{daemon.name} dies at {call}, before: {before}")
            stale = crash.memory is Memory.STALE
            self.call_later(STALE_AFTER if stale else RESTART_AFTER, self.start_daemon)

    def _damage(self, memory: Memory) -> None:
        if memory is Memory.LOST:
            self.forget()
        elif memory is Memory.STALE:
            minute_ago = self.clock.monotonic() - 60
            self.on_disk = next((d for at, d in self._before[::-1] if at <= minute_ago), b"")

    def _habit(self, server: Server) -> Habit:
        return BOOT


async def tell(crash: Crash | None) -> tuple[CrashWorld, End]:
    """The whole story, to the end of every machine."""
    track_processes()
    world = CrashWorld("crash", NONE, config(), with_lease=False, crash=crash)
    queue_id = world.queue_ids[QUEUE]
    world.scaleway.set_listing_lag(LISTING_LAG_SECONDS)
    _leftovers(world)
    world.start_daemon()
    names: dict[str, str] = {}

    def submit(name: str, seconds: float) -> str:
        task_id = world.clearml.create_task(name, queue_id, duration=seconds)
        names[task_id] = name
        world.fates.submitted(task_id, "completed", QUEUE)
        return task_id

    def ended(*tasks: str) -> bool:
        return all(world.clearml.task(t).status not in ("queued", "in_progress") for t in tasks)

    def resting() -> bool:
        return all(server.state is ServerState.STOPPED for server in world.servers())

    # two are created; they stop, one is started again
    first, second = submit("first", 60), submit("second", 90)
    await _until(world, lambda: ended(first, second) and resting())
    await world.clock.sleep(2 * LISTING_LAG_SECONDS + 60)  # the daemon has seen it, and its tasks
    third = submit("third", 30)
    await _until(world, lambda: ended(third))
    # the budget is used up, and then it is raised
    world.edit(config(budgets=[{"eur": 0.01, "per": "day"}]))
    await _until(world, lambda: {*world.clearml.queues.all[queue_id].tags} >= PAUSE_TAGS)
    fourth = submit("fourth", 30)
    world.edit(config())
    # somebody takes a task and is gone: it is put back
    world.clearml.next_task(world.clearml.user, queue_id)
    await _until(world, lambda: ended(fourth))
    # agents fall silent; machines are suspended in place
    fifth, sixth = submit("fifth", 30), submit("sixth", 30)
    await _until(world, lambda: ended(fifth, sixth))
    for number, server in enumerate(world.servers()):
        if number and server.state is ServerState.RUNNING:
            world.scaleway.standby(server.id)
        elif server.id in world.machines.agents:
            world.machines.agents[server.id].kill()
    await _until(world, lambda: not world.servers())
    # what is left of volumes goes too
    await _until(world, lambda: _left(world) == 0)
    for daemon in world.daemons:
        daemon.process.kill()
    statuses = sorted((names[t], world.clearml.task(t).status) for t in names)
    return world, End(tuple(statuses), _left(world), world.most_powered)


def _leftovers(world: CrashWorld) -> None:
    """Of an earlier daemon: a half-made server, and a volume whose server is gone."""
    tags = FleetTags(world.fleet).of_instance(QUEUE, "spec")
    for name, phase in (("half-made", ("phase=provisioning",)), ("orphan", ())):
        order = NewServer(PLACEMENT.commercial_type, "ubuntu_jammy_gpu_os_12")
        order = replace(order, name=name, project=world.project, tags=(*tags, *phase))
        server = world.scaleway.create_server(PLACEMENT.zone, order)
        for volume in server.volumes.values():
            world.scaleway.block.update(PLACEMENT.zone, volume.id, tags=tags[:3])
        if not phase:
            world.scaleway.delete_server(PLACEMENT.zone, server.id)


def _left(world: CrashWorld) -> int:
    volumes = world.scaleway.block.find(PLACEMENT.zone, project=world.project)
    return len(world.servers()) + len(volumes)


async def _until(world: CrashWorld, true: Any) -> None:
    end = world.clock.now() + LONGEST
    while not true():
        if world.watch.broken is not None:
            raise world.watch.broken
        assert world.clock.now() < end, "never happens"
        await world.clock.sleep(5)


def story(crash: Crash | None) -> tuple[CrashWorld, End]:
    """Told in virtual time. Raises AssertionError."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        return run_virtual(tell(crash))
    finally:
        structlog.configure(**before)
