"""The loop with everything around it, in one process and in virtual time."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.domain.model import FleetTags, Placement, ServerState
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.inprocess import InProcessClearml, InProcessScaleway
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock
from gpu_autoscaler.runtime.execute import LiveExecutor
from gpu_autoscaler.runtime.loop import Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.record import Recorder
from gpu_autoscaler.simulation.world import CountingIds
from tests.policy.worlds import QUEUE, config

PROJECT = "11111111-2222-3333-4444-555555555555"


class FixedConfig:
    """A configuration that a test changes by hand."""

    def __init__(self, value: Config) -> None:
        self.value = self._told = value

    def current(self) -> Config:
        return self.value

    async def refresh(self) -> Reload | None:
        if self.value is self._told:
            return None
        self._told = self.value
        return Reload(self.value)


class KeptMemory:
    """A store in a variable, which may be made to fail."""

    def __init__(self) -> None:
        self.memory: Memory | None = None
        self.error: OSError | None = None

    async def load(self) -> Kept:
        return Kept(self.memory)

    async def save(self, memory: Memory) -> None:
        if self.error is not None:
            raise self.error
        self.memory = memory

    async def release(self) -> None:
        """Nobody else wants it."""

    def lease_left(self) -> float:
        return 0.0 if self.error is not None else math.inf


class PlainBootstrap:
    """User data that nobody reads."""

    version = "1"

    def user_data(
        self, queue: str, instance_name: str, placement: Placement | None = None
    ) -> bytes:
        return b"#!/bin/sh\n"

    def spec(self, queue: str, placement: Placement | None = None) -> str:
        return f"spec-{self.version}"


class World:
    """Emulated services, machines and a daemon that can be killed and started again."""

    def __init__(
        self, cfg: Config | None = None, *, start: datetime = VIRTUAL_START, **queue: Any
    ) -> None:
        self.clock = LoopClock(start)
        self.timeline = Timeline(self.clock)
        self.clearml = ClearmlModel(self.timeline, CountingIds())
        self.habits: list[Habit] = []
        """Of the next boots; then the ordinary one."""
        self.machines = EmulatedMachines(self.timeline, self.clearml, habit=self._habit)
        self.scaleway = ScalewayModel(self.timeline, CountingIds(), machines=self.machines)
        self.source = FixedConfig(cfg or config(queue))
        self.store = KeptMemory()
        self.bootstrap = PlainBootstrap()
        self.queue_ids = {
            name: self.clearml.create_queue(name) for name in self.source.value.queues
        }
        self.start_daemon()

    def start_daemon(self) -> None:
        """A fresh process with the same store."""
        fleet = FleetTags(self.source.value.fleet)
        self.clearml_port = InProcessClearml(self.clearml)
        self.scaleway_port = InProcessScaleway(self.scaleway, fleet, PROJECT)
        self.executor = LiveExecutor(self.clearml_port, self.scaleway_port, self.clock, self._wake)
        self.loop = Loop(
            self.source,
            Observer(self.clearml_port, self.scaleway_port, self.clock),
            self.executor,
            self.store,
            lambda _: self.bootstrap,
            self.clock,
            Recorder(),
        )

    def _wake(self) -> None:
        self.loop.wake()

    def _habit(self, server: Server) -> Habit:
        return self.habits.pop(0) if self.habits else Habit()

    def task(self, hours: float = 1.0, queue: str = QUEUE, name: str = "train") -> str:
        """Somebody enqueues a task."""
        return self.clearml.create_task(name, self.queue_ids[queue], duration=hours * 3600)

    def status(self, task_id: str) -> str:
        """Its status at ClearML."""
        return self.clearml.task(task_id).status

    async def cycles(self, duration: timedelta, *, each: Callable[[], None] | None = None) -> None:
        """Let the daemon work for so long."""
        end = self.clock.now() + duration
        while self.clock.now() < end:
            await self.loop.cycle()
            if each is not None:
                each()
            await self.clock.sleep(30)

    async def until(self, true: Callable[[], bool], within: timedelta = timedelta(hours=3)) -> None:
        """Let the daemon work until something is so."""
        end = self.clock.now() + within
        while not true():
            assert self.clock.now() < end, f"not within {within}: {self.states()}"
            await self.loop.cycle()
            await self.clock.sleep(30)

    def states(self) -> Mapping[str, str]:
        """What Scaleway really has."""
        return {server.name: str(server.state) for server in self.scaleway.all_servers()}

    def server(self, state: ServerState | None = None) -> Server:
        """The only server (in this state)."""
        (found,) = [s for s in self.scaleway.all_servers() if state is None or s.state is state]
        return found

    def left(self) -> tuple[int, int]:
        """Servers and volumes that exist."""
        bill = self.scaleway.bill()
        return bill.servers_left, bill.volumes_left

    def created(self) -> int:
        """Servers ever created."""
        return self.scaleway.bill().servers_created

    def forget(self) -> None:
        """The daemon's memory is lost."""
        self.store.memory = None
        self.start_daemon()

    def configure(self, **queue: Any) -> None:
        """Edit the one queue's settings."""
        self.source.value = config(queue)


def at(world: World) -> datetime:
    """Now."""
    return world.clock.now()


def changed(memory: Memory, **changes: Any) -> Memory:
    """A memory with some fields replaced."""
    return replace(memory, **changes)
