"""The whole daemon on bad days: its real adapters over HTTP, a real directory, virtual time.

Everything that ships runs, but for the network and the wall clock: `Wire` stands for the one,
`Timepiece` for the other. A test holds the services' faults, may kill the daemon at any call, and
reads what it said.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
from structlog.testing import capture_logs

from gpu_autoscaler.commands.wiring import build_loop, open_services
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER
from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, scaleway_app
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.runtime.loop import ConfigSource
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.store.directory import DirectoryStore
from tests.policy.worlds import config
from tests.runtime.world import PROJECT, FixedConfig, World

SCALEWAY_SECRET = "scaleway-secret-of-the-daemon"
AGENT_SECRET = "secret-given-to-the-agents"
POLL = 30.0

BRIEF: Mapping[str, Any] = {
    "idle_timeout": "2m",
    "stopped_retention": "3m",
    "stale_timeout": "4m",
    "lost_timeout": "4m",
}
"""A queue's times, short: a whole life then takes some forty cycles."""

Story = Callable[["BadDay"], Awaitable[None]]
Meanwhile = Callable[[httpx.Request], Awaitable[None]]


async def nothing(_: httpx.Request) -> None:
    """The ordinary thing to happen."""


class Moment(StrEnum):
    """When, within the serving of a call, the daemon dies."""

    BEFORE = "before it took effect"
    AFTER = "after it took effect"


@dataclass(slots=True)
class Lifeline:
    """What ties one process to the world. Cut, nothing it does has any effect: SIGKILL."""

    cut_at: int | None = None
    """Dies while this call is served, counted from 1."""
    moment: Moment = Moment.BEFORE
    calls: list[str] = field(default_factory=list)
    """"METHOD /path" of all that was sent, in order."""
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    async def passes(self) -> None:
        """Returns while the process lives, and never again afterwards."""
        if self.cut.is_set():
            await asyncio.get_running_loop().create_future()

    def begins(self, call: str) -> bool:
        """Note a call; whether it is the one to die at."""
        self.calls.append(call)
        return len(self.calls) == self.cut_at


class Wire(httpx.AsyncBaseTransport):
    """The network between one process and one service, which dates its replies."""

    def __init__(self, world: "BadDay", app: Callable[[], Any], line: Lifeline) -> None:
        self._world, self._app, self._line = world, app, line

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._line.passes()
        if request.url.host in self._world.unreachable:
            raise httpx.ConnectError("All connection attempts failed")
        await self._world.meanwhile(request)
        fatal = self._line.begins(f"{request.method} {request.url.path}")
        if fatal and self._line.moment is Moment.BEFORE:
            self._line.cut.set()
        await self._line.passes()
        reply = await httpx.ASGITransport(self._app()).handle_async_request(request)
        if fatal:
            self._line.cut.set()
        await self._line.passes()
        reply.headers["Date"] = format_datetime(self._world.clock.now(), usegmt=True)
        return reply


class MortalStore:
    """A store that a dead process writes nothing to."""

    def __init__(self, store: Store, line: Lifeline) -> None:
        self._store, self._line = store, line

    async def load(self) -> Kept:
        return await self._store.load()

    async def save(self, memory: Memory) -> None:
        await self._line.passes()
        await self._store.save(memory)

    async def release(self) -> None:
        await self._store.release()

    def lease_left(self) -> float:
        return self._store.lease_left()


class Timepiece:
    """The daemon's own clock, which may be wrong."""

    def __init__(self, true: Clock) -> None:
        self._true = true
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return self._true.now() + self.ahead

    def monotonic(self) -> float:
        return self._true.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._true.sleep(seconds)


class EditedConfig(FixedConfig):
    """Notices that a test replaced its value, as the real one notices an edited file."""

    def __init__(self, value: Config) -> None:
        super().__init__(value)
        self._seen = value

    async def refresh(self) -> Reload | None:
        if self.value is self._seen:
            return None
        self._seen = self.value
        return Reload(self.value)


class BadDay(World):
    """The emulated services with all that can go wrong, and the daemon as a process."""

    def __init__(
        self,
        directory: Path,
        log: list[MutableMapping[str, Any]],
        cfg: Config | None = None,
        **queue: Any,
    ) -> None:
        self.directory, self.log = directory, log
        self.clearml_faults, self.scaleway_faults = Faults(), Faults()
        self.clearml_calls, self.scaleway_calls = Calls(), Calls()
        self.keys = {SCALEWAY_SECRET: FULL_ACCESS}
        self.clearml_secret = EMULATED_USER.secret_key
        self.unreachable: set[str] = set()
        """Hosts to which no connection can be made."""
        self.watched: ConfigSource | None = None
        """Instead of `source`, where a file is the point."""
        self.meanwhile: Meanwhile = nothing
        """What happens in the world while a call is under way, before it arrives."""
        self.forgets = False
        """Whether the memory file is lost with the process that dies at its `line.cut_at`."""
        self.deaths = 0
        super().__init__(cfg or settings(**queue))
        self.source = EditedConfig(self.source.value)

    def start_daemon(self) -> None:
        """A fresh process over the same directory, with a right clock."""
        self.restart_clearml()
        self._scaleway_app = scaleway_app(
            self.scaleway, self.scaleway_faults, self.scaleway_calls, self.keys
        )
        self.timepiece = Timepiece(self.clock)
        self.line = Lifeline()
        self._process = asyncio.create_task(self._run(self.line))

    def restart_clearml(self) -> None:
        """A fresh ClearML process over the same database: every token is void."""
        self._clearml_app = clearml_app(self.clearml, self.clearml_faults, self.clearml_calls)

    async def _run(self, line: Lifeline) -> None:
        source = self.watched or self.source
        key = EMULATED_USER.access_key
        none = (None, None)
        secrets = Secrets(
            key, self.clearml_secret, "", SCALEWAY_SECRET, None, key, AGENT_SECRET, *none, *none
        )
        clock = self.timepiece
        with DirectoryStore(self.directory) as store:
            async with open_services(
                source.current(),
                secrets,
                clock,
                clearml_transport=Wire(self, lambda: self._clearml_app, line),
                scaleway_transport=Wire(self, lambda: self._scaleway_app, line),
            ) as services:
                self.loop = build_loop(source, secrets, services, MortalStore(store, line), clock)
                await self.loop.prepare()
                await self.loop.run()

    async def kill(self) -> None:
        """SIGKILL: whatever clean-up is written in the daemon, none of it reaches anything."""
        self.line.cut.set()
        said = len(self.log)
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        del self.log[said:]  # the dead say nothing

    async def restart(self, *, without_memory: bool = False, after: float = 20.0) -> None:
        """Killed, and started again a while later."""
        await self.kill()
        if without_memory:
            (self.directory / "memory.json").unlink(missing_ok=True)
        await self.clock.sleep(after)
        self.start_daemon()

    async def cycles(self, duration: timedelta, *, each: Callable[[], None] | None = None) -> None:
        """Let the daemon work for so long."""
        end = self.clock.now() + duration
        while self.clock.now() < end:
            await self._wait()
            if each is not None:
                each()

    async def until(self, true: Callable[[], bool], within: timedelta = timedelta(hours=3)) -> None:
        """Let the daemon work until something is so."""
        end = self.clock.now() + within
        while not true():
            assert self.clock.now() < end, f"not within {within}: {self.states()}\n{self.tail()}"
            await self._wait()

    async def _wait(self) -> None:
        """One interval; shorter when the daemon dies in it, which is then started again."""
        dying = asyncio.ensure_future(self.line.cut.wait())
        done, _ = await asyncio.wait(
            {dying, self._process}, timeout=POLL, return_when=asyncio.FIRST_COMPLETED
        )
        dying.cancel()
        if self._process in done:
            self._process.result()
            raise AssertionError("the daemon ended by itself")
        if self.line.cut.is_set():
            self.deaths += 1
            await self.restart(without_memory=self.forgets)

    async def until_done(self, *tasks: str, within: timedelta = timedelta(hours=3)) -> None:
        """Until all these tasks are completed."""
        await self.until(lambda: all(self.status(t) == "completed" for t in tasks), within)

    async def until_nothing_is_left(self, within: timedelta = timedelta(hours=1)) -> None:
        """Until no server and no volume is left."""
        await self.until(lambda: self.left() == (0, 0), within)

    async def ends_well(self, *tasks: str, created: int, billed: int | None = None) -> None:
        """All of these are completed, none was interrupted, nothing is left, nothing was doubled.

        `created`: at most so many servers ever; `billed`: so many at one time, the same unless
        given.
        """
        await self.until_done(*tasks)
        await self.until_nothing_is_left(timedelta(hours=2))
        assert self.machines.interrupted == 0
        assert self.created() <= created, self.tail()
        assert self.peak_billed() <= (created if billed is None else billed), self.tail()

    def peak_billed(self) -> int:
        """The most servers that were paid for at one time, by Scaleway's own log."""
        up: set[str] = set()
        peak = 0
        for event in self.scaleway.log.servers:
            if event.state in (None, ServerState.STOPPED):
                up.discard(event.server_id)
            else:
                up.add(event.server_id)
            peak = max(peak, len(up))
        return peak

    def said(self, event: str, **fields: str) -> list[MutableMapping[str, Any]]:
        """Log lines of this event whose fields contain these texts."""
        return [
            line
            for line in self.log
            if line["event"] == event
            and all(part in str(line.get(key, "")) for key, part in fields.items())
        ]

    def tail(self, number: int = 25) -> str:
        """The end of the log, to read when a test fails."""
        keys = ("event", "subject", "reason", "effect", "kind", "because", "error")
        rows = ([str(line[key]) for key in keys if key in line] for line in self.log[-number:])
        return "\n".join(map(" | ".join, rows))


def settings(**changes: Any) -> Config:
    """One queue with brief times, at the emulated services."""
    queue = {**BRIEF, **changes.pop("queue", {}), **changes}
    return config(
        queue,
        clearml={"api_host": "http://clearml.test"},
        scaleway={"project_id": PROJECT, "api_url": "http://scaleway.test"},
    )


def bad_day(story: Story, cfg: Config | None = None, **queue: Any) -> None:
    """Live through a story, and check what holds on every day."""

    async def main(directory: Path, log: list[MutableMapping[str, Any]]) -> None:
        world = BadDay(directory, log, cfg, **queue)
        try:
            await story(world)
        finally:
            await world.kill()

    with tempfile.TemporaryDirectory() as directory, capture_logs() as log:
        run_virtual(main(Path(directory), log))
    assert_sane(log)


def assert_sane(log: Iterable[Mapping[str, Any]]) -> None:
    """No defect of ours was caught and logged away, no secret was said, also without a mask."""
    for line in log:
        assert line["event"] not in ("cycle failed", "effect crashed"), line
        for secret in (SCALEWAY_SECRET, AGENT_SECRET, EMULATED_USER.secret_key):
            assert secret not in str(line), line["event"]
