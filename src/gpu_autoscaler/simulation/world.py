"""Everything around the daemon: both services, the machines, the store, and what people set up."""

import asyncio
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.domain.model import FleetTags, Placement, ServerState
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.emulator.clearml_model import ClearmlModel, Note
from gpu_autoscaler.emulator.clearml_records import TaskRecord, User
from gpu_autoscaler.emulator.clearml_wire import Json
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import Dice, LoopClock, seeded
from gpu_autoscaler.runtime.ports import Bootstrap, Store
from gpu_autoscaler.simulation.boots import boot
from gpu_autoscaler.simulation.daemon import Daemon
from gpu_autoscaler.simulation.fates import Fates
from gpu_autoscaler.simulation.faults import Rates
from gpu_autoscaler.simulation.figures import BootLog, Figures, figures
from gpu_autoscaler.simulation.invariants import BLACK_HOLE_TASK, Watch, queue_of
from gpu_autoscaler.simulation.store import FaultyBucket, LocalStore
from gpu_autoscaler.store.bucket import Bucket
from gpu_autoscaler.store.lease import LeasedStore
from gpu_autoscaler.store.ledger import BucketSheets, DayLedger

T = TypeVar("T")

LEASE = timedelta(minutes=3)
"""As in the shipped configuration."""
FOREIGN_FLEET = "somebody-else"
"""Another fleet in the same project: what is its must stay as it is."""


class CountingIds:
    """Ids in the order of asking: the same run gives the same ids."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def hex(self, digits: int) -> str:
        return f"{next(self._count):0{digits}x}"


class EditedConfig:
    """The configuration file as one daemon sees it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._told = world.config

    def current(self) -> Config:
        return self._world.config

    async def refresh(self) -> Reload | None:
        if self._world.config is self._told:
            return None
        self._told = self._world.config
        return Reload(self._told)


class PlainBootstrap:
    """User data that nobody reads, and a spec that changes with what it is made from."""

    def __init__(self, config: Config) -> None:
        self._specs = {
            name: hashlib.sha256(queue.agent.version.encode()).hexdigest()[:12]
            for name, queue in config.queues.items()
        }

    def user_data(
        self, queue: str, instance_name: str, placement: Placement | None = None
    ) -> bytes:
        return b"#!/bin/sh\n"

    def spec(self, queue: str, placement: Placement | None = None) -> str:
        return self._specs[queue]


class WatchedScaleway(ScalewayModel):
    """The emulated cloud, which shows the watch each change that a daemon asks for."""

    world: "World"

    def create_server(self, zone: str, order: NewServer) -> Server:
        self.world.watch.creating(order)
        return super().create_server(zone, order)

    def act(self, zone: str, server_id: str, action: str) -> None:
        self.world.watch.acting(self.server(zone, server_id), action)
        super().act(zone, server_id, action)

    def delete_server(self, zone: str, server_id: str) -> None:
        self.world.watch.deleting(self.server(zone, server_id))
        super().delete_server(zone, server_id)


class WatchedClearml(ClearmlModel):
    """The emulated server, which shows what daemons put back and how tasks end."""

    world: "World"

    def enqueue(
        self,
        task_id: str,
        queue_id: str,
        user: User | None = None,
        note: Note = ("", ""),
        force: bool = False,
    ) -> Json:
        if self.world.actor is not None:
            wrong = self.world.fates.put_back(self.task(task_id))
            if wrong is not None:
                self.world.watch.violated(wrong)
        return super().enqueue(task_id, queue_id, user, note, force)

    def started(
        self,
        task_id: str,
        worker_id: str = "",
        user: User | None = None,
        note: Note | None = None,
        force: bool = True,
    ) -> Json:
        self.world.started[task_id] = self.world.timeline.now()
        return super().started(task_id, worker_id, user, note, force)

    def finish(
        self,
        task_id: str,
        status: str,
        worker_id: str = "",
        user: User | None = None,
        note: Note | None = None,
        force: bool = True,
    ) -> Json:
        self.world.task_ends(self.task(task_id), status, by_its_agent=note is None)
        return super().finish(task_id, status, worker_id, user, note, force)


class WatchedMachines(EmulatedMachines):
    """The machines, whose losses the watch notes: which task went down with what, by whom."""

    world: "World"

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        self.world.watch.power_lost(server)
        super().powered_off(server, graceful=graceful)


@dataclass
class World:
    """One seed's world. Build it inside `run_virtual`."""

    seed: str
    rates: Rates
    config: Config
    with_lease: bool = True
    """Object storage with a lease; otherwise a directory, which one daemon at a time can open."""
    clock: LoopClock = field(default_factory=LoopClock)
    happened: Counter[str] = field(default_factory=Counter)
    down: dict[str, None] = field(default_factory=dict)
    """What does not answer now: `clearml`, a zone, `store`; or is forbidden: `changes` at
    Scaleway, `everything` there, `clearml key`."""
    started: dict[str, datetime] = field(default_factory=dict)
    """When each task's present or last run began: ClearML's own figure is of the first."""
    lacked: dict[str, frozenset[str]] = field(default_factory=dict)
    """Ids of what the last listing of each kind and zone did not show."""
    broken: dict[Placement, None] = field(default_factory=dict)
    """Where no machine's agent ever registers now."""
    calm_since: datetime | None = None
    """From then on nothing goes wrong any more."""
    forgot_at: datetime | None = None
    """When a daemon's memory was lost last."""
    actor: Daemon | None = None
    """Whose call takes effect right now; None: people, machines, Scaleway itself."""
    daemons: list[Daemon] = field(default_factory=list)
    configs: list[tuple[datetime, Config]] = field(default_factory=list)
    """Every one that was in force, and since when."""
    on_disk: bytes = b""
    """What a daemon without object storage keeps."""

    def __post_init__(self) -> None:
        self.timeline = Timeline(self.clock)
        self.clearml = WatchedClearml(self.timeline, CountingIds())
        self.clearml.world = self
        self.boots = BootLog(self.timeline, self._habit)
        self.machines = WatchedMachines(self.timeline, self.clearml, habit=self.boots.habit)
        self.machines.world = self
        self.fates = Fates(self)
        self.machines.abandoned = self.fates.died
        self.scaleway = WatchedScaleway(self.timeline, CountingIds(), machines=self.machines)
        self.scaleway.world = self
        self.machines.crash = self.scaleway.crash
        self.bucket = InMemoryBucket(self.clock)
        self.ledger_pages: dict[str, InMemoryBucket] = defaultdict(
            lambda: InMemoryBucket(self.clock)
        )
        self.watch = Watch(self)
        self.configs.append((self.clock.now(), self.config))
        self._boots = self.random("boots")
        self._tempting = self.random("last moments")
        self._numbers = itertools.count(1)
        self.queue_ids = {name: self.clearml.create_queue(name) for name in self.config.queues}

    @property
    def calm(self) -> bool:
        """Nothing goes wrong any more."""
        return self.calm_since is not None

    @property
    def calm_for(self) -> timedelta:
        """How long nothing has gone wrong."""
        return self.clock.now() - (self.calm_since or self.clock.now())

    @property
    def project(self) -> str:
        """Whose servers they are."""
        return self.config.scaleway.project_id

    @property
    def fleet(self) -> str:
        """The fleet's name."""
        return self.config.fleet

    def random(self, purpose: str) -> Dice:
        """A stream of its own: what one purpose draws changes nothing for another."""
        return seeded(f"{self.seed}/{purpose}")

    def source(self) -> EditedConfig:
        """The configuration file."""
        return EditedConfig(self)

    def bootstrap(self, config: Config) -> Bootstrap:
        """What a new machine gets."""
        return PlainBootstrap(config)

    def store_for(self, daemon: Daemon) -> Store:
        """Where this daemon keeps its memory."""
        if not self.with_lease:
            return LocalStore(self, daemon)
        wire = FaultyBucket(self.bucket, self, daemon)
        return LeasedStore(wire, daemon.clock, holder=daemon.name, lasts=LEASE)

    def ledger_for(self, daemon: Daemon) -> DayLedger:
        """Its way to the ledger."""

        def page(name: str) -> Bucket:
            return FaultyBucket(self.ledger_pages[name], self, daemon)

        return DayLedger(BucketSheets(page))

    def start_daemon(self, *, ahead: timedelta = timedelta(0)) -> Daemon:
        """A new process."""
        daemon = Daemon(self, next(self._numbers), ahead=ahead)
        self.daemons.append(daemon)
        return daemon

    def edit(self, config: Config) -> None:
        """Somebody saves the configuration file."""
        self.config = config
        self.configs.append((self.clock.now(), config))
        for name in config.queues:
            if name not in self.queue_ids:
                self.queue_ids[name] = self.clearml.create_queue(name)

    def acting(self, daemon: Daemon, take_effect: Callable[[], T]) -> T:
        """A daemon's call takes effect."""
        self.timeline.advance()  # what was due before is not this daemon's doing
        self.actor = daemon
        try:
            return take_effect()
        finally:
            self.actor = None

    def task_ends(self, task: TaskRecord, status: str, *, by_its_agent: bool) -> None:
        """A task is about to end."""
        self.fates.ended(task, status)
        began = self.started.get(task.id)
        machine = task.last_worker or ""
        if status == "failed" and began and self.timeline.now() - began <= BLACK_HOLE_TASK:
            self.watch.fast_failures[machine] += 1
        hit_at = self.watch.hit.get(machine)
        now_hit = hit_at is not None and self.clock.now() - hit_at < BLACK_HOLE_TASK
        if status == "stopped" and by_its_agent and now_hit and not task.stop_requested:
            self.fates.died(task.id)  # pulled while the machine was told to shut down

    def passing(self, daemon: Daemon, call: str, *, before: bool) -> None:
        """A daemon's call, or its use of the store, is about to take effect, or just has."""

    def ours(self, server: Server) -> bool:
        """Whether a server is the fleet's."""
        return FleetTags(self.fleet).owns(frozenset(server.tags))

    def servers(self) -> list[Server]:
        """The fleet's, as they really are."""
        return [server for server in self.scaleway.all_servers() if self.ours(server)]

    def _habit(self, server: Server) -> Habit:
        """How this boot goes."""
        if self.calm:
            return Habit()
        habit = boot(self._boots, self.rates.boots, self.happened)
        if server.placement in self.broken:
            habit = replace(habit, registers=False)
        elif self._boots.random() < self.rates.boots.dies_booting:
            self.happened["boot_dies_booting"] += 1
            self.call_later(self._boots.uniform(20, 110), lambda: self._crash(server.id))
        if habit.fails_tasks_after is not None:
            self.watch.black_holes.add(server.name)
        return habit

    def _crash(self, server_id: str) -> None:
        for server in self.servers():
            if server.id == server_id and server.state is ServerState.RUNNING:
                self.scaleway.crash(server_id)

    def after_the_last_look(self, server_id: str) -> None:
        """A daemon has looked at ClearML for the last time before it powers this one off."""
        if not self.calm and self._tempting.random() < self.rates.calls.pulled_at_the_last_moment:
            self.happened["pulled_at_the_last_moment"] += 1
            self._tempt(server_id)

    def _tempt(self, server_id: str) -> None:
        """A task comes, and this machine's agent takes it at once."""
        for server in self.servers():
            agent = self.machines.agents.get(server_id)
            if server.id == server_id and agent is not None and agent.alive:
                queue_id = self.queue_ids[queue_of(server)]
                task_id = self.clearml.create_task("at the last moment", duration=120)
                self.fates.submitted(task_id, "completed", queue_of(server))
                self.clearml.enqueue(task_id, queue_id)
                agent.pull_now()

    def figures(self) -> Figures:
        """What it all cost up to now."""
        _, config = self.configs[0]
        types = {name: q.placements[0].commercial_type for name, q in config.queues.items()}
        return figures(self.clearml, self.scaleway, self.boots.boots, types)

    def forget(self) -> None:
        """Nothing is left of what the daemon knew."""
        self.bucket.blob, self.on_disk = None, b""
        self.forgot_at = self.clock.now()

    def call_later(self, seconds: float, event: Callable[[], object]) -> None:
        """Something happens by itself."""
        asyncio.get_running_loop().call_later(seconds, event)
