"""`gpu-autoscaler check --boot`: the rendered bootstrap, the real agent, a task that it runs."""

import asyncio
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpu_autoscaler.commands.boot_steps import PREFIX
from gpu_autoscaler.commands.check_boot import check_boot
from gpu_autoscaler.commands.wiring import load_setup
from gpu_autoscaler.emulator.agents import AgentProcesses
from gpu_autoscaler.runtime.clock import RandomIds, ScaledClock
from tests.e2e.support import (
    QUEUE,
    TOOLS,
    Emulated,
    daemon_environment,
    emulated,
    gpu_autoscaler,
    in_real_time,
    running,
    until,
)
from tests.e2e.test_full_life import AGENTS, SPEED, agents

pytestmark = pytest.mark.e2e

GPU = "NVIDIA-SMI 550.54.14   NVIDIA H100 PCIe"
ONE_QUEUE: dict[str, Any] = {
    "agent": {"docker": False, "polling_interval": "1s"},
    "stale_timeout": "1h",
}


def left_at_clearml(world: Emulated) -> list[str]:
    """Queues and tasks of checks."""
    queues = [queue.name for queue in world.clearml.queues.all.values()]
    tasks = [task.fields["name"] for task in world.clearml.tasks.all.values()]
    return [name for name in (*queues, *tasks) if name.startswith(PREFIX)]


def stub_nvidia_smi(folder: Path) -> Path:
    """A directory for PATH."""
    folder.mkdir()
    stub = folder / "nvidia-smi"
    stub.write_text(f"#!/bin/sh\necho '{GPU}'\n")
    stub.chmod(0o755)
    return folder


@in_real_time
async def test_the_real_agent_prints_nvidia_smi_and_nothing_is_left(tmp_path: Path) -> None:
    clock = ScaledClock(SPEED)
    disks, tools = tmp_path / "machines", stub_nvidia_smi(tmp_path / "tools")
    search = f"{tools}{os.pathsep}{TOOLS}{os.pathsep}{os.environ['PATH']}"
    machines = AgentProcesses(disks, {**AGENTS, "PATH": search})
    try:
        async with emulated(clock, machines) as world:
            waiting = world.task()
            config = world.config(tmp_path, **ONE_QUEUE)
            setup = load_setup(config, daemon_environment(tmp_path / "daemon"))
            console = Console(file=io.StringIO(), width=100, color_system=None)
            questions: list[str] = []

            def confirm(question: str) -> bool:
                questions.append(question)
                return True

            code = await check_boot(setup, QUEUE, clock, RandomIds(), console, confirm=confirm)
            assert isinstance(console.file, io.StringIO)
            said = console.file.getvalue()
            assert code == 0, said
            assert f"\n{GPU}\n" in said
            assert len(questions) == 1
            assert world.left() == (0, 0)
            assert left_at_clearml(world) == []
            assert waiting.status == "queued", "it took no real task"
            await until(lambda: agents(disks) == [], "its process ends")
    finally:
        machines.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@in_real_time
async def test_an_interruption_in_the_middle_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with emulated() as world:
        world.queue()
        config = str(world.config(tmp_path))
        words = (str(TOOLS / "gpu-autoscaler"), "check", "--boot", QUEUE, "-y", "-c", config)
        async with running(*words, environment=daemon_environment(tmp_path)) as check:
            await until(lambda: [s for s in world.servers() if s.state == "running"], "it boots")
            check.child.send_signal(number)
            try:
                async with asyncio.timeout(300):
                    ended = await check.child.wait()
            except TimeoutError:
                pytest.fail("\n".join(["it does not end:", *check.lines]))
            assert ended == 128 + number
        said = "\n".join(check.lines)
        assert "a second Ctrl-C leaves it there" in said
        assert "removed, with its volumes" in said
        assert "Traceback" not in said
        assert world.left() == (0, 0)
        assert left_at_clearml(world) == []


@in_real_time
async def test_it_asks_first(tmp_path: Path) -> None:
    async with emulated() as world:
        world.queue()
        words = ("check", "--boot", QUEUE, "--config", str(world.config(tmp_path)))
        ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path), stdin=b"n\n")
        assert ended.code == 1
        assert "2.87 €/h" in ended.out
        assert "Nothing done." in ended.out
        assert world.scaleway_calls.count("POST") == 0
