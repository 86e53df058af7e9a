"""One emulated server with a machine in it, and what its agent says to ClearML."""

from collections.abc import Callable
from typing import Any

from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import Outcome, WorkerRecord
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START
from tests.emulator.scaleway_rig import IMAGE, TYPE, ZONE, CountingIds, ManualClock

QUEUE = "gpu-small"
BOOT = 150.0
STARTED = 20.0
"""Power-on to `running` is 19 s."""


class Site:
    """One server with a machine in it, one queue, and a list of what the agent called."""

    def __init__(self, habit: Habit | None = None, **machines: Any) -> None:
        self.clock = ManualClock()
        self.line = Timeline(self.clock)
        self.clearml = ClearmlModel(self.line, CountingIds())
        self.queue = self.clearml.create_queue(QUEUE)
        self.calls: list[tuple[str, float]] = []
        for name in ("register", "report", "next_task", "started", "finish", "unregister"):
            self._spy(name)
        self.machines = EmulatedMachines(
            self.line, self.clearml, habit=lambda _: habit or Habit(), **machines
        )
        self.cloud = ScalewayModel(self.line, CountingIds(), machines=self.machines)
        self.machines.crash = self.cloud.crash

    def _spy(self, name: str) -> None:
        real: Callable[..., Any] = getattr(self.clearml, name)

        def spied(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            if name != "next_task" or result is not None:  # polls in vain are not told
                self.calls.append((name, self.seconds()))
            return result

        setattr(self.clearml, name, spied)

    def seconds(self) -> float:
        return (self.line.now() - VIRTUAL_START).total_seconds()

    def server(self, queue: str = QUEUE, user_data: bool = True) -> Server:
        """A new server, powered on."""
        order = NewServer(TYPE, IMAGE, name="h100-000001", tags=(f"queue={queue}",))
        server = self.cloud.create_server(ZONE, order)
        if user_data:
            server.user_data["cloud-init"] = b"#!/bin/sh\n"
        self.cloud.act(ZONE, server.id, "poweron")
        return server

    def pass_by(self, seconds: float) -> None:
        self.clock.turn(seconds)
        self.line.advance()

    def up(self) -> Server:
        """A server whose agent has just registered."""
        server = self.server()
        self.pass_by(STARTED + BOOT)
        return server

    def worker(self) -> WorkerRecord | None:
        found = [w for w in self.clearml.workers.alive() if w.id == "h100-000001"]
        return found[0] if found else None

    def task(self, seconds: float | None = 600, outcome: Outcome = "completed") -> str:
        return self.clearml.create_task("train", self.queue, duration=seconds, outcome=outcome)

    def status(self, task_id: str) -> str:
        return self.clearml.task(task_id).status


def state(server: Server) -> str:
    return str(server.state)


def names(site: Site) -> list[str]:
    return [name for name, _ in site.calls]
