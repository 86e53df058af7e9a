"""Emulated services with a fleet of any size in them, at rest: a cycle has nothing to do.

Every queue has ten instances: five busy, two idle, three stopped. Three tasks wait in it, one
more than instances idle, and `max_instances` forbids another launch: so every rule is asked, and
none acts. There are no machines behind the servers; `report` speaks for all their agents.
"""

import itertools
from dataclasses import dataclass

from gpu_autoscaler.bootstrap.render import Bootstrap
from gpu_autoscaler.commands.emulate import EMULATED_KEY
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.model import REGISTERED_TAG, CreateOrder, FleetTags, Placement
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.inprocess import InProcessScaleway
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_power import Timings
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.emulator.timeline import Timeline

BUSY, IDLE, STOPPED, WAITING = 5, 2, 3, 3
"""Per queue."""
ZONES = ("fr-par-1", "fr-par-2", "pl-waw-2")
TYPE = "L4-1-24G"
"""One that all three zones sell."""
AT_ONCE = Timings(
    allocating=0, provisioning=0, cpu_start=0, kernel=0, poweroff=0, stop_in_place=0, resume=0
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of everything."""

    queues: int

    @property
    def instances(self) -> int:
        """In all."""
        return self.queues * (BUSY + IDLE + STOPPED)

    @property
    def open_tasks(self) -> int:
        """Waiting or running, in all."""
        return self.queues * (BUSY + WAITING)

    @property
    def parts(self) -> int:
        """What the cost may grow with."""
        return self.queues + self.instances

    def __str__(self) -> str:
        return f"{self.queues} queues, {self.instances:,} instances"


SMALL, LARGE = Size(4), Size(100)


def config_of(
    size: Size,
    *,
    state_dir: str = "state",
    clearml: str = "http://clearml.test",
    scaleway: str = "http://scaleway.test",
    min_instances: int = 0,
) -> Config:
    """The configuration of such a fleet."""
    placements = [{"type": TYPE, "zone": zone} for zone in ZONES]
    bounds = {"min_instances": min_instances, "max_instances": max(min_instances, BUSY + IDLE)}
    queue = {"placements": placements, "idle_timeout": "2h", **bounds}
    names = [f"bench-{number:03}" for number in range(size.queues)]
    return Config.model_validate(
        {
            "fleet": "bench",
            "state_dir": state_dir,
            "clearml": {"api_host": clearml},
            "scaleway": {"project_id": PROJECT, "api_url": scaleway},
            "queues": {name: {"name": name, **queue} for name in names},
        }
    )


def secrets() -> Secrets:
    """Those that the emulators know."""
    pair = (EMULATED_USER.access_key, EMULATED_USER.secret_key)
    return Secrets(*pair, "", EMULATED_KEY, None, *pair, None, None, None, None)


class _Ids:
    """The same ids in every run."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def hex(self, digits: int) -> str:
        return f"{next(self._count):0{digits}x}"


class BenchFleet:
    """Both models; `fill` them before use."""

    def __init__(self, size: Size, clock: Clock, config: Config | None = None) -> None:
        timeline = Timeline(clock)
        self.size = size
        self.config = config or config_of(size)
        self.bootstrap = Bootstrap(self.config, secrets())
        self.clearml = ClearmlModel(timeline, _Ids())
        self.scaleway = ScalewayModel(timeline, _Ids(), timings=AT_ONCE)
        self.cloud = InProcessScaleway(self.scaleway, FleetTags(self.config.fleet), PROJECT)
        self._running: dict[str, str | None] = {}
        """Tasks of the running machines, by name; None: idle."""

    async def fill(self) -> None:
        """Make everything."""
        for number, queue in enumerate(self.config.queues):
            queue_id = self.clearml.create_queue(queue)
            for place in range(BUSY + IDLE + STOPPED):
                name = f"{queue}-{place:06x}"
                await self._create(name, queue, ZONES[(number + place) % len(ZONES)])
                if place < BUSY + IDLE:
                    self.clearml.register(EMULATED_USER, name, [queue_id])
                    self._running[name] = self._busy(name, queue_id) if place < BUSY else None
            for waiting in range(WAITING):
                self.clearml.create_task(f"waiting {waiting}", queue_id)
        for server in self.scaleway.all_servers():
            if server.name not in self._running:
                self.scaleway.act(server.zone, server.id, "poweroff")
        self.report()

    def report(self) -> None:
        """Every agent reports now."""
        for name, task in self._running.items():
            self.clearml.report(EMULATED_USER, name, task)

    async def _create(self, name: str, queue: str, zone: str) -> None:
        tags = FleetTags(self.config.fleet).of_instance(queue, self.bootstrap.spec(queue))
        settings = self.config.queues[queue]
        order = CreateOrder(
            name=name,
            queue=queue,
            placement=Placement(TYPE, zone),
            image=settings.image,
            volume_bytes=settings.volume.size,
            volume_iops=settings.volume.iops,
            tags=(*tags, REGISTERED_TAG),
        )
        await self.cloud.create(order, b"#!/bin/sh\n")

    def _busy(self, name: str, queue_id: str) -> str:
        task = self.clearml.create_task(f"task of {name}", queue_id)
        self.clearml.next_task(EMULATED_USER, queue_id)
        self.clearml.started(task, name, EMULATED_USER)
        return task
