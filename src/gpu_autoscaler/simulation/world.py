"""Everything around the daemon: both services, the machines, the store, and what people set up."""

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.domain.model import FleetTags
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import Dice, LoopClock, seeded
from gpu_autoscaler.runtime.ports import Bootstrap, Store
from gpu_autoscaler.simulation.chaos import boot
from gpu_autoscaler.simulation.daemon import Daemon
from gpu_autoscaler.simulation.faults import Rates
from gpu_autoscaler.simulation.figures import BootLog, Figures, figures
from gpu_autoscaler.simulation.invariants import Watch
from gpu_autoscaler.simulation.store import FaultyBucket, LocalStore
from gpu_autoscaler.store.lease import LeasedStore

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

    def refresh(self) -> Reload | None:
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

    def user_data(self, queue: str, instance_name: str) -> bytes:
        return b"#!/bin/sh\n"

    def spec(self, queue: str) -> str:
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
    """What does not answer now: `clearml`, a zone, `store`, `permission`."""
    calm_since: datetime | None = None
    """From then on nothing goes wrong any more."""
    actor: Daemon | None = None
    """Whose call takes effect right now; None: people, machines, Scaleway itself."""
    daemons: list[Daemon] = field(default_factory=list)
    configs: list[tuple[datetime, Config]] = field(default_factory=list)
    """Every one that was in force, and since when."""
    on_disk: bytes = b""
    """What a daemon without object storage keeps."""

    def __post_init__(self) -> None:
        self.timeline = Timeline(self.clock)
        self.clearml = ClearmlModel(self.timeline, CountingIds())
        self.boots = BootLog(self.timeline, self._habit)
        self.machines = WatchedMachines(self.timeline, self.clearml, habit=self.boots.habit)
        self.machines.world = self
        self.scaleway = WatchedScaleway(self.timeline, CountingIds(), machines=self.machines)
        self.scaleway.world = self
        self.machines.crash = self.scaleway.crash
        self.bucket = InMemoryBucket(self.clock)
        self.watch = Watch(self)
        self.configs.append((self.clock.now(), self.config))
        self._boots = self.random("boots")
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
        self.actor = daemon
        try:
            return take_effect()
        finally:
            self.actor = None

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
        if habit.fails_tasks_after is not None:
            self.watch.black_holes.add(server.name)
        return habit

    def figures(self) -> Figures:
        """What it all cost up to now."""
        _, config = self.configs[0]
        types = {name: q.placements[0].commercial_type for name, q in config.queues.items()}
        return figures(self.clearml, self.scaleway, self.boots.boots, types)

    def forget(self) -> None:
        """Nothing is left of what the daemon knew."""
        self.bucket.blob, self.on_disk = None, b""

    def call_later(self, seconds: float, event: Callable[[], object]) -> None:
        """Something happens by itself."""
        asyncio.get_running_loop().call_later(seconds, event)
