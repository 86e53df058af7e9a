"""One simulated process of the daemon: the shipped loop, its wires to the services, its end.

Only clock, services and store are exchanged. A killed process does nothing more, not even its
clean-up; a paused one stands still at its next call.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from gpu_autoscaler.clearml.transport import steadied
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import RateLimited, Transient, Unauthorized
from gpu_autoscaler.domain.model import FleetTags, Instance, Volume
from gpu_autoscaler.emulator.inprocess import InProcessClearml, InProcessScaleway
from gpu_autoscaler.runtime.books import Books
from gpu_autoscaler.runtime.execute import LiveExecutor
from gpu_autoscaler.runtime.loop import Cycle, Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.record import Recorder
from gpu_autoscaler.simulation.faults import NONE

if TYPE_CHECKING:
    from gpu_autoscaler.simulation.world import World

T = TypeVar("T")
Row: TypeAlias = Instance | Volume

FASTEST_CALL, SLOWEST_CALL = 0.02, 0.6
"""Seconds, each way."""
VERY_SLOW_CALL = 20.0
SLOW_READS = 0.3
"""So many of the reads take any time at all: waiting is most of what a simulation costs."""

LISTINGS = ("/servers", "/volumes")
LISTING_FAULTS = ("row_missing", "row_repeated", "empty")

_process: ContextVar["Process | None"] = ContextVar("process", default=None)


class Process:
    """What lives and dies together: every asyncio task that began inside it."""

    def __init__(self) -> None:
        self.dead = False
        self._resumed: asyncio.Event | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def start(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it as this process's main task."""
        token = _process.set(self)
        try:
            return asyncio.create_task(main)
        finally:
            _process.reset(token)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """It began in here."""
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    def kill(self) -> None:
        """SIGKILL: what is under way reaches nothing any more."""
        self.dead = True
        self.resume()
        for task in list(self._tasks):
            task.cancel()

    def pause(self) -> None:
        """SIGSTOP."""
        self._resumed = self._resumed or asyncio.Event()

    def resume(self) -> None:
        """SIGCONT."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def gate(self) -> None:
        """Every step to the outside passes here: not while paused, never when dead."""
        while self._resumed is not None:
            await self._resumed.wait()
        if self.dead:
            raise asyncio.CancelledError


def track_processes() -> None:
    """Let every task that begins in the running loop belong to its process."""

    def make(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        task = asyncio.Task(work, loop=loop, **options)
        process = _process.get()
        if process is not None:
            process.adopt(task)
        return task

    asyncio.get_running_loop().set_task_factory(make)  # type: ignore[arg-type]


class ProcessClock:
    """A process's own clock: its wall time may be wrong."""

    def __init__(self, true: Clock, process: Process) -> None:
        self._true, self._process = true, process
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return self._true.now() + self.ahead

    def monotonic(self) -> float:
        return self._true.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._true.sleep(seconds)
        await self._process.gate()


class FaultyLine:
    """The wire to both services: takes time, loses, distorts, is cut. Fits `emulator.Line`."""

    def __init__(self, world: "World", daemon: "Daemon") -> None:
        self._world, self._daemon = world, daemon
        self._random = world.random("calls")

    async def carry(self, call: str, take_effect: Callable[[], T]) -> T:
        """One call, there and back."""
        world, process = self._world, self._daemon.process
        await process.gate()
        world.watch.calling(self._daemon, call)
        fault = self._draw(call)
        changes = not call.startswith("GET ") and not call.endswith("get_all")
        # a change takes its time both ways, so that it can be cut in both; of reads, some do
        slow = changes or fault or self._random.random() < SLOW_READS
        if slow:
            await world.clock.sleep(self._latency(fault))
        world.passing(self._daemon, call, before=True)
        await process.gate()
        self._refuse(call, fault)
        result = world.acting(self._daemon, take_effect)
        world.watch.called(call)
        world.passing(self._daemon, call, before=False)
        if changes:
            await world.clock.sleep(self._latency(fault))
        await process.gate()
        if fault == "lost_reply":
            raise Transient(f"{call}: 502 from a proxy")
        if call.startswith("GET ") and call.endswith(LISTINGS) and isinstance(result, tuple):
            return cast(T, self._distorted(call, fault, result))
        return result

    def _draw(self, call: str) -> str:
        """Which fault hits this call; empty for none."""
        faults = (NONE if self._world.calm else self._world.rates).calls
        left = self._random.random()
        for name in ("error", "lost_reply", "rate_limited", "slow"):
            left -= getattr(faults, name)
            if left < 0:
                self._world.happened[name] += 1
                return name
        if call.startswith("GET ") and call.endswith(LISTINGS):
            for name in LISTING_FAULTS:
                left -= getattr(faults, name)
                if left < 0:
                    self._world.happened[name] += 1
                    return name
        return ""

    def _latency(self, fault: str) -> float:
        if fault == "slow":
            return self._random.uniform(SLOWEST_CALL, VERY_SLOW_CALL)
        return self._random.uniform(FASTEST_CALL, SLOWEST_CALL)

    def _refuse(self, call: str, fault: str) -> None:
        down = self._world.down
        service = next((name for name in down if name in call), None)
        if service is None and "clearml" in down and "/zones/" not in call:
            service = "clearml"
        if service is not None:
            raise Transient(f"{call}: {service} does not answer")
        at_clearml = "/zones/" not in call
        changes = call.startswith(("POST", "PATCH", "DELETE"))
        forbidden = "everything" in down or ("changes" in down and changes)
        if ("clearml key" in down) if at_clearml else forbidden:
            raise Unauthorized(f"{call}: 403 insufficient permissions")
        if fault == "error":
            raise Transient(f"{call}: 500")
        if fault == "rate_limited":
            raise RateLimited(f"{call}: 429")

    def _distorted(self, call: str, fault: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """What a listing lacks, the next one has: two that agree are the truth."""
        lacked = self._world.lacked.pop(call, frozenset())
        may_lack = [row for row in rows if row.id not in lacked]
        if fault == "row_repeated" and rows:
            return (*rows, self._random.choice(rows))
        if fault not in ("row_missing", "empty") or not may_lack:
            return rows
        lacks = may_lack if fault == "empty" else [self._random.choice(may_lack)]
        self._world.lacked[call] = frozenset(row.id for row in lacks)
        return tuple(row for row in rows if row not in lacks)


class _Clearml(InProcessClearml):
    """Tells the daemon how wrong its clock is as the `Date` header does: in whole seconds."""

    def __init__(self, world: "World", daemon: "Daemon", line: FaultyLine) -> None:
        super().__init__(world.clearml, line)
        self._world, self._daemon = world, daemon
        self._skew = timedelta(0)

    @property
    def skew(self) -> timedelta:
        told = self._world.clock.now().replace(microsecond=0)
        self._skew = steadied(self._skew, told - self._daemon.clock.now())
        return self._skew


class Daemon:
    """One process from its start to its end."""

    def __init__(self, world: "World", number: int, *, ahead: timedelta = timedelta(0)) -> None:
        self.name = f"daemon-{number}"
        self.process = Process()
        self.clock = ProcessClock(world.clock, self.process)
        self.clock.ahead = ahead
        line = FaultyLine(world, self)
        clearml = _Clearml(world, self, line)
        scaleway = InProcessScaleway(
            world.scaleway, FleetTags(world.fleet), world.project, line=line
        )
        self.store = world.store_for(self)
        self.executor = LiveExecutor(
            clearml, scaleway, self.clock, self._wake, self.store.lease_left
        )
        recorder = Recorder()
        self.loop = Loop(
            world.source(),
            Observer(clearml, scaleway, self.clock),
            self.executor,
            self.store,
            world.bootstrap,
            self.clock,
            recorder,
            lambda cycle: self._cycled(world, cycle),
            Books(world.ledger_for(self), clearml, self.clock, recorder),
        )
        self.main = self.process.start(self._live())

    async def _live(self) -> None:
        await self.loop.prepare()
        await self.loop.run()
        with suppress(OSError):
            await self.store.release()

    def _wake(self) -> None:
        self.loop.wake()

    def _cycled(self, world: "World", cycle: Cycle) -> None:
        world.watch.cycled(self, cycle)

    @property
    def lives(self) -> bool:
        """Whether it still runs, paused or not."""
        return not self.process.dead and not self.main.done()
