"""The whole of it with real clients, in one real process tree.

The real SDK enqueues, the daemon creates an instance, the bootstrap it renders runs and starts
the real clearml-agent, which runs the task; then down to nothing. Only the two services are
emulated, and time is faster than real.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from gpu_autoscaler.commands.wiring import build_loop, load_setup, open_services
from gpu_autoscaler.domain.model import ServerState as S
from gpu_autoscaler.emulator.agents import AgentProcesses
from gpu_autoscaler.emulator.clearml_records import TaskRecord
from gpu_autoscaler.runtime.clock import ScaledClock
from gpu_autoscaler.store.directory import DirectoryStore
from tests.e2e.support import (
    QUEUE,
    SUBMIT,
    Emulated,
    client_environment,
    daemon_environment,
    emulated,
    in_real_time,
    process,
    until,
)

pytestmark = pytest.mark.e2e

SPEED = 20.0
"""The agent reports every real second: 20 s here, so that its word is fresh (under 90 s)."""
AGENTS = {
    "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
    "CLEARML_AGENT_STATUS_REPORT_FREQ_SEC": "1",
}
TOP = {"poll_interval": "15s"}
QUEUE_SETTINGS = {
    "agent": {"docker": False, "polling_interval": "1s"},
    "idle_timeout": "2m",
    "stale_timeout": "1h",
    "lost_timeout": "1h",
    "stopped_retention": "1h",
}
STOPPED_AND_STARTED = [S.STARTING, S.RUNNING, S.STOPPING, S.STOPPED]


async def submit(
    world: Emulated, environment: Mapping[str, str], folder: Path, script: str
) -> TaskRecord:
    """Put a script in the queue with the real SDK, in a process of its own."""
    path = folder / "main.py"
    path.write_text(script)
    words = (sys.executable, "-c", SUBMIT, str(path), QUEUE)
    ended = await process(*words, environment=environment)
    assert "submitted" in ended.out, ended.err
    return world.clearml.tasks.all[ended.out.split()[-1]]


def states(world: Emulated) -> list[S | None]:
    """Every state that any server has been in; None is its end."""
    return [state for state, _ in itertools.groupby(e.state for e in world.scaleway.log.servers)]


def agents(folder: Path) -> list[psutil.Process]:
    """What still runs of the machines whose disks are in this folder."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and str(folder) in " ".join(child.cmdline()):
                found.append(child)
    return found


@in_real_time
async def test_from_the_sdks_enqueue_through_a_stop_and_a_start_to_nothing(
    tmp_path: Path,
) -> None:
    clock = ScaledClock(SPEED)
    disks = tmp_path / "machines"
    machines = AgentProcesses(disks, AGENTS)
    try:
        async with emulated(clock, machines) as world:
            world.queue()
            client = client_environment(tmp_path / "person", world.clearml_url)
            config = world.config(tmp_path, change=TOP, **QUEUE_SETTINGS)
            setup = load_setup(config, daemon_environment(tmp_path / "daemon"))
            with DirectoryStore(tmp_path / "state") as store:
                async with open_services(setup.config, setup.secrets, clock) as services:
                    loop = build_loop(setup.watcher, setup.secrets, services, store, clock)
                    await loop.prepare()
                    running = asyncio.create_task(loop.run())
                    try:
                        await _live(world, client, tmp_path, disks)
                    finally:
                        loop.stop()
                        await running
            await until(lambda: agents(disks) == [], "no process is left")
    finally:
        machines.close()


async def _live(world: Emulated, client: Mapping[str, str], folder: Path, disks: Path) -> None:
    runs = folder / "runs"
    script = f"open({str(runs)!r}, 'a').write('run ')\n"

    first = await submit(world, client, folder, script)
    await until(lambda: first.status == "completed", "the first task runs to its end")
    (server,) = world.servers()
    assert first.last_worker == server.name
    assert first.fields["status_reason"] == "worker execution done"
    assert agents(disks)
    await until(lambda: server.state is S.STOPPED, "it idles out and is stopped")
    assert states(world) == [S.STOPPED, *STOPPED_AND_STARTED]
    # its entry may be back by now: a report under way registers it anew
    assert world.clearml_calls.count("workers.unregister"), "SIGTERM reached the agent"
    await until(lambda: agents(disks) == [], "its process ends")

    second = await submit(world, client, folder, script)
    await until(lambda: second.status == "completed", "the second task runs to its end")
    assert second.last_worker == server.name
    assert world.servers() == [server]
    await until(lambda: server.state is S.STOPPED, "it is stopped again")

    world.config(folder, change=TOP, **QUEUE_SETTINGS | {"stopped_retention": "1m"})
    await until(lambda: world.left() == (0, 0), "it is removed with its volume")
    assert states(world) == [S.STOPPED, *STOPPED_AND_STARTED, *STOPPED_AND_STARTED, None]
    assert world.scaleway_calls.count(r"POST .*/servers$") == 1
    assert runs.read_text() == "run run "
