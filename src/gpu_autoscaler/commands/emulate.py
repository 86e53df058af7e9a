"""`emulate`: one emulated service over HTTP, or both with machines that work."""

import asyncio
import signal
import tempfile
from contextlib import AsyncExitStack
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

from rich.console import Console

from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.emulator.agents import AgentProcesses
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, scaleway_app
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_power import Machines, Timings
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import RandomIds, SystemClock

LOOPBACK = "127.0.0.1"
EMULATED_KEY = "11111111-1111-4111-8111-111111111111"
"""The secret key that the emulated Scaleway knows; an emulator guards nothing."""


class Service(StrEnum):
    """What can be emulated."""

    CLEARML = "clearml"
    SCALEWAY = "scaleway"
    BOTH = "both"


def scaled(timings: Timings, speed: float) -> Timings:
    """Everything so much faster."""
    return Timings(**{f.name: getattr(timings, f.name) / speed for f in fields(timings)})


async def emulate(
    service: Service, port: int, speed: float, console: Console, *, agents: bool
) -> int:
    """Serve on loopback until SIGINT or SIGTERM. Raises OSError when a port is not to be had."""
    timeline = Timeline(SystemClock())
    ids = RandomIds()
    clearml = ClearmlModel(timeline, ids)
    async with AsyncExitStack() as stack:
        machines: Machines | None = None
        if agents:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="machines-"))
            processes = AgentProcesses(Path(directory))
            stack.callback(processes.close)
            machines = processes
        elif service is Service.BOTH:
            habit = Habit(boot_seconds=Habit().boot_seconds / speed)
            machines = EmulatedMachines(timeline, clearml, habit=lambda _: habit, speed=speed)
        if service is not Service.SCALEWAY:
            app = clearml_app(clearml, Faults(), Calls())
            there = await stack.enter_async_context(served(app, bind(LOOPBACK, port)))
            console.print(f"ClearML   http://{LOOPBACK}:{there}", highlight=False)
            user = EMULATED_USER
            console.print(f"          keys {user.access_key} / {user.secret_key}", highlight=False)
        if service is not Service.CLEARML:
            model = ScalewayModel(
                timeline, ids, machines=machines, timings=scaled(Timings(), speed)
            )
            keys = {EMULATED_KEY: FULL_ACCESS}
            next_port = port + 1 if port and service is Service.BOTH else port
            app_ = scaleway_app(model, Faults(), Calls(), keys)
            there = await stack.enter_async_context(served(app_, bind(LOOPBACK, next_port)))
            console.print(f"Scaleway  http://{LOOPBACK}:{there}", highlight=False)
            console.print(f"          key {EMULATED_KEY}", highlight=False)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        console.print("Faults and switches under /_emulator/; Ctrl-C ends.", highlight=False)
        while not stop.is_set():
            timeline.advance()
            await _either(stop)
    return 0


async def _either(stop: asyncio.Event) -> None:
    """Until asked to stop, or for a second, so that things happen also when nobody asks."""
    try:
        async with asyncio.timeout(1.0):
            await stop.wait()
    except TimeoutError:
        return
