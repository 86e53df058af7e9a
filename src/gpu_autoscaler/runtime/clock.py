"""The one place that reads the wall clock, sleeps, and draws random numbers.

`SystemClock` is what ships. `ScaledClock` lets emulated minutes pass in seconds. `run_virtual`
runs a coroutine on an event loop whose time jumps to the next timer as soon as nothing is left
to do, so hours pass in milliseconds and every timeout, sleep and deadline in the process agrees.
"""

import asyncio
import random
import secrets
import selectors
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

Dice = random.Random
"""What is drawn from."""

VIRTUAL_START = datetime(2026, 9, 7, 8, 0, tzinfo=UTC)
"""A Monday morning: where virtual time begins unless told otherwise."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ScaledClock:
    """Real time, `speed` times as fast, starting at the present."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._start = datetime.now(UTC)
        self._zero = time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return (time.monotonic() - self._zero) * self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)


class LoopClock:
    """The running event loop's clock, given a calendar: virtual inside `run_virtual`."""

    def __init__(self, start: datetime = VIRTUAL_START) -> None:
        self._start = start
        self._zero = asyncio.get_running_loop().time()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic() - self._zero)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RandomIds:
    """Identifiers nobody can guess."""

    def hex(self, digits: int) -> str:
        return secrets.token_hex(digits)[:digits]


def seeded(seed: int | str) -> Dice:
    """A generator that draws the same for the same seed, on every machine."""
    return random.Random(seed)  # noqa: S311 - makes simulated events repeatable, no secrets


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for real events, but turns the waiting time into virtual time."""

    def __init__(self, speed: float | None) -> None:
        super().__init__()
        self.virtual = 0.0
        self._speed = speed
        self._zero = time.monotonic()

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            return super().select(None)
        if self._speed is not None and timeout > 0:
            # paced: never ahead of speed x wall time; behind it (a slow machine) never waits
            ahead = (self.virtual + timeout) / self._speed - (time.monotonic() - self._zero)
            events = super().select(max(0.0, ahead))
        else:
            events = super().select(0)
        if not events and timeout > 0:
            self.virtual += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` moves only while nothing else can.

    With `speed` it is paced to at most that many virtual seconds per real one. Sockets work
    between parties on this loop: loopback delivers before the next look, so time does not jump
    over a reply that is under way.
    """

    def __init__(self, speed: float | None = None) -> None:
        self._jumping = _JumpingSelector(speed)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.virtual


def run_virtual(main: Coroutine[Any, Any, T], speed: float | None = None) -> T:
    """Run a coroutine to its end in virtual time (see `VirtualLoop`)."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(speed)) as runner:
        return runner.run(main)


class Stopwatch:
    """Real seconds since it was made, whatever time the event loop believes in."""

    def __init__(self) -> None:
        self._zero = time.monotonic()

    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._zero
