"""Both emulated services on ports of their own, and real processes that talk to them."""

import asyncio
import functools
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import yaml
from pydantic import TypeAdapter
from starlette.types import ASGIApp

from gpu_autoscaler.commands.emulate import EMULATED_KEY, LOOPBACK, scaled
from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import TaskRecord, User
from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, Keys, scaleway_app
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_power import Machines, Timings
from gpu_autoscaler.emulator.scaleway_state import PROJECT, Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import RandomIds, SystemClock

P = ParamSpec("P")

QUEUE = "H100-1-80G"
ZONE = "fr-par-2"
TASK = "train [lr=0.1]"
"""A name as people give them, and rich would take for markup."""
PATIENCE_SECONDS = 120.0
"""For anything at all; far longer than it takes on a slow machine."""
LONGEST_TEST_SECONDS = 600.0
"""Nothing comes near: a test that hangs ends all the same."""
LOOK_EVERY_SECONDS = 0.05
TOOLS = Path(sys.executable).parent
SUBMIT = """
import sys
from clearml import Task
task = Task.create("project", "a task", script=sys.argv[1], packages=[], add_task_init_call=False)
Task.enqueue(task, queue_name=sys.argv[2])
print("submitted", task.id)
"""


def in_real_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine; it shares its event loop with the emulated services."""

    async def bounded(*args: P.args, **kwargs: P.kwargs) -> None:
        async with asyncio.timeout(LONGEST_TEST_SECONDS):
            await test(*args, **kwargs)

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(bounded(*args, **kwargs))

    return run


async def until(condition: Callable[[], object], what: str) -> None:
    """Look again and again, until patience ends."""
    clock = SystemClock()
    for _ in range(int(PATIENCE_SECONDS / LOOK_EVERY_SECONDS)):
        if condition():
            return
        await clock.sleep(LOOK_EVERY_SECONDS)
    pytest.fail(f"waited in vain: {what}")


def clean_environment(home: Path) -> dict[str, str]:
    """A home of its own: nothing of this machine's settings, keys or locks."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "COLUMNS": "250",
    }


def client_environment(home: Path, url: str) -> dict[str, str]:
    """What the real SDK and the real agent need to talk to the emulated ClearML."""
    environment = clean_environment(home)
    (home / "clearml.conf").write_text("")
    return environment | {
        "CLEARML_CONFIG_FILE": str(home / "clearml.conf"),
        "CLEARML_API_HOST": url,
        "CLEARML_WEB_HOST": url,
        "CLEARML_FILES_HOST": url,
        "CLEARML_API_ACCESS_KEY": EMULATED_USER.access_key,
        "CLEARML_API_SECRET_KEY": EMULATED_USER.secret_key,
        "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
    }


@dataclass
class Emulated:
    """Both services: their models, their addresses, and what was asked of them."""

    timeline: Timeline
    clearml: ClearmlModel
    scaleway: ScalewayModel
    clearml_url: str = ""
    scaleway_url: str = ""
    clearml_calls: Calls = field(default_factory=Calls)
    scaleway_calls: Calls = field(default_factory=Calls)
    clearml_faults: Faults = field(default_factory=Faults)
    scaleway_faults: Faults = field(default_factory=Faults)
    keys: Keys = field(default_factory=lambda: {EMULATED_KEY: FULL_ACCESS})

    def knows(self, secrets: Mapping[str, str]) -> None:
        """Both services take these keys of a daemon's, too: they stand nowhere in the source."""
        user = User("u", "u", secrets["CLEARML_ACCESS_KEY"], secrets["CLEARML_SECRET_KEY"])
        self.clearml.users[user.access_key] = user
        self.keys[secrets["SCALEWAY_SECRET_KEY"]] = FULL_ACCESS

    def queue(self, name: str = QUEUE) -> str:
        """The id of the queue, which is made if need be."""
        found = self.clearml.queues.named(name)
        return found.id if found else self.clearml.create_queue(name)

    def task(self, seconds: float = 3600.0, queue: str = QUEUE) -> TaskRecord:
        """Somebody enqueues a task."""
        return self.clearml.task(self.clearml.create_task(TASK, self.queue(queue), seconds))

    def servers(self) -> list[Server]:
        """All that exist, oldest first."""
        return self.scaleway.all_servers()

    def left(self) -> tuple[int, int]:
        """Servers and volumes that exist."""
        bill = self.scaleway.bill()
        return bill.servers_left, bill.volumes_left

    def config(
        self, folder: Path, *, change: Mapping[str, Any] | None = None, **queue: Any
    ) -> Path:
        """A configuration with one queue; `change` replaces keys at its top."""
        path = folder / "queues.yaml"
        document: dict[str, Any] = {
            "fleet": "research",
            "poll_interval": "1s",
            "state_dir": str(folder / "state"),
            "clearml": {
                "api_host": self.clearml_url,
                "web_host": self.clearml_url,
                "files_host": self.clearml_url,
            },
            "scaleway": {"project_id": PROJECT, "api_url": self.scaleway_url},
            "queues": {QUEUE: {"placements": [{"type": QUEUE, "zone": ZONE}], **queue}},
        }
        path.write_text(yaml.safe_dump(document | dict(change or {}), sort_keys=False))
        ran_before(folder / "state")
        return path


def ran_before(state: Path) -> None:
    """A daemon was here and did nothing: else the first launch waits until listings show all."""
    file = state / "memory.json"
    if not file.exists():
        state.mkdir(exist_ok=True)
        file.write_bytes(TypeAdapter(Memory).dump_json(Memory(planned_at=SystemClock().now())))


def on_loopback() -> socket.socket:
    """A listening socket that nobody else's test can meet."""
    return bind(LOOPBACK, 0)


@asynccontextmanager
async def emulated(
    clock: Clock | None = None,
    machines: Machines | None = None,
    *,
    speed: float = 30.0,
    listen: Callable[[], socket.socket] = on_loopback,
) -> AsyncIterator[Emulated]:
    """Serve both. Without a clock time is real, but machines are `speed` as fast."""
    timeline = Timeline(clock or SystemClock())
    clearml = ClearmlModel(timeline, RandomIds())
    habit = Habit() if clock else Habit(boot_seconds=0.5)
    scaleway = ScalewayModel(
        timeline,
        RandomIds(),
        machines=machines or EmulatedMachines(timeline, clearml, habit=lambda _: habit),
        timings=Timings() if clock else scaled(Timings(), speed),
    )
    world = Emulated(timeline, clearml, scaleway)
    async with AsyncExitStack() as stack:
        app = clearml_app(clearml, world.clearml_faults, world.clearml_calls)
        world.clearml_url = await stack.enter_async_context(_at(app, listen()))
        app_ = scaleway_app(scaleway, world.scaleway_faults, world.scaleway_calls, world.keys)
        world.scaleway_url = await stack.enter_async_context(_at(app_, listen()))
        ticking = asyncio.create_task(_tick(timeline))
        stack.callback(ticking.cancel)
        yield world


@asynccontextmanager
async def _at(app: ASGIApp, listener: socket.socket) -> AsyncIterator[str]:
    host, port = listener.getsockname()
    async with served(app, listener):
        yield f"http://{host}:{port}"


async def _tick(timeline: Timeline) -> None:
    """Machines boot and work also when nobody asks."""
    clock = SystemClock()
    while True:
        timeline.advance()
        await clock.sleep(LOOK_EVERY_SECONDS)


@dataclass(frozen=True)
class Ended:
    """A process that ended, and what it said."""

    code: int
    out: str
    err: str

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        return [event for event in logged(self.err.splitlines()) if event["event"] == name]


async def process(
    *words: str,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    patience: float = PATIENCE_SECONDS,
) -> Ended:
    """Run a program to its end."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *words, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(patience):
            out, err = await child.communicate(stdin)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return Ended(child.returncode or 0, out.decode(), err.decode())


async def gpu_autoscaler(*words: str, env: Mapping[str, str], stdin: bytes = b"") -> Ended:
    """The command, as a person runs it."""
    return await process(str(TOOLS / "gpu-autoscaler"), *words, environment=env, stdin=stdin)


def daemon_environment(home: Path, **changes: str) -> dict[str, str]:
    """The environment of the daemon, with its secrets; `changes` without their prefix."""
    secrets = {
        "CLEARML_ACCESS_KEY": EMULATED_USER.access_key,
        "CLEARML_SECRET_KEY": EMULATED_USER.secret_key,
        "SCALEWAY_ACCESS_KEY": "SCWXXXXXXXXXXXXXXXXX",
        "SCALEWAY_SECRET_KEY": EMULATED_KEY,
        **changes,
    }
    named = {f"GPU_AUTOSCALER_{name}": value for name, value in secrets.items()}
    return clean_environment(home) | {"PORT": "0"} | named


class Running:
    """A process that runs, with what it has said so far."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[str] = []

    async def listen(self, stream: asyncio.StreamReader) -> None:
        """Keep what it says."""
        while line := await stream.readline():
            self.lines.append(line.decode().rstrip())

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        return [event for event in logged(self.lines) if event["event"] == name]

    async def said(self, name: str) -> dict[str, Any]:
        """Wait for a line of its log with this event."""
        await until(lambda: self.events(name) or self.child.returncode is not None, name)
        assert self.events(name), "\n".join(self.lines)
        return self.events(name)[0]

    async def end(self) -> int:
        """SIGTERM; returns the exit code."""
        self.child.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.child.wait()


def _hears_of_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def running(*words: str, environment: Mapping[str, str]) -> AsyncIterator[Running]:
    """A process that lives no longer than the block."""
    child = await asyncio.create_subprocess_exec(
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=_hears_of_ctrl_c,
    )
    it = Running(child)
    assert child.stdout is not None
    listening = asyncio.create_task(it.listen(child.stdout))
    try:
        yield it
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        await listening


def logged(lines: list[str]) -> Iterator[dict[str, Any]]:
    """The events among some lines."""
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)
