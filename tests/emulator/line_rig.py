"""A daemon's in-process ports over a line that misbehaves."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.domain.model import (
    CreateOrder,
    FleetTags,
    Instance,
    Placement,
    Task,
)
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.inprocess import InProcessClearml, InProcessScaleway
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from tests.emulator.scaleway_rig import GB, IMAGE, TYPE, ZONE, CountingIds

T = TypeVar("T")
FLEET = FleetTags("test")
QUEUE = "gpu-small"
ORDER = CreateOrder(
    name="small-000001",
    queue=QUEUE,
    placement=Placement(TYPE, ZONE),
    image=IMAGE,
    volume_bytes=125 * GB,
    volume_iops=15000,
    tags=FLEET.of_instance(QUEUE, "abc123abc123"),
)
SERVERS = f"/instance/v1/zones/{ZONE}/servers"
VOLUMES = f"/block/v1/zones/{ZONE}/volumes"

BIRTH = [
    "GET /marketplace/v2/local-images",
    f"POST {SERVERS}",
    f"PATCH {VOLUMES}/id",
    f"PATCH {SERVERS}/id/user_data/cloud-init",
    f"POST {SERVERS}/id/action",
    f"GET {SERVERS}/id",
    f"PATCH {SERVERS}/id",
]


@dataclass(slots=True)
class BadLine:
    """Notes the calls; some of them fail before or after their effect, or never end."""

    fails: dict[str, ApiError] = field(default_factory=dict)
    """By the name's beginning; each once, unless `again`."""
    again: bool = False
    lost: bool = False
    """They fail after their effect."""
    cut_at: int | None = None
    """From this call on, counted from 0, nothing comes through any more."""
    calls: list[str] = field(default_factory=list)

    async def carry(self, call: str, take_effect: Callable[[], T]) -> T:
        number = len(self.calls)
        self.calls.append(call)
        if self.cut_at is not None and number >= self.cut_at:
            await asyncio.get_running_loop().create_future()
        for name, error in list(self.fails.items()):
            if call.startswith(name):
                if not self.again:
                    del self.fails[name]
                if self.lost:
                    take_effect()
                raise error
        return take_effect()


class Site:
    """Both models with a daemon's ports, over one line."""

    def __init__(self, line: BadLine) -> None:
        self.clock = LoopClock()
        timeline = Timeline(self.clock)
        self.line = line
        self.clearml_model = ClearmlModel(timeline, CountingIds())
        self.queue = self.clearml_model.create_queue(QUEUE)
        self.model = ScalewayModel(timeline, CountingIds())
        self.cloud = InProcessScaleway(self.model, FLEET, PROJECT, line)
        self.clearml = InProcessClearml(self.clearml_model, line)

    async def made(self) -> Instance:
        """A new instance, and a line that has forgotten it."""
        await self.cloud.create(ORDER, b"#!/bin/sh\n")
        await self.clock.sleep(60)
        (instance,) = await self.cloud.instances(ZONE)
        self.line.calls.clear()
        return instance

    def caught_task(self) -> str:
        """One that a machine was running."""
        task = self.clearml_model.create_task("caught", self.queue)
        self.clearml_model.next_task(EMULATED_USER, self.queue)
        self.clearml_model.started(task, "w1")
        return task

    async def task(self) -> Task:
        (found,) = await self.clearml.open_tasks([self.queue])
        return found

    def called(self) -> list[str]:
        """What passed, without ids."""
        return [_without_ids(call) for call in self.line.calls]


def _without_ids(call: str) -> str:
    return "/".join("id" if len(part) == 36 else part for part in call.split("/"))


def site(story: Callable[[Site], Awaitable[None]], line: BadLine | None = None) -> None:
    async def main() -> None:
        await story(Site(line or BadLine()))

    run_virtual(main())
