"""Ends the process when the loop is wedged: the platform may not restart it by itself.

A thread of its own judges, since whatever blocks the event loop blocks all that runs on it.
"""

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

import structlog

from gpu_autoscaler.domain.clock import Clock

log = structlog.get_logger("gpu_autoscaler")

WEDGED_AFTER = 10
"""Intervals without a finished cycle."""

WARNED_AFTER_SHARE = 0.5
"""Of that time: then the channels are told, as far as the event loop still serves them."""

LEAST = timedelta(minutes=5)
"""With very short intervals, services that hang until every deadline are not the loop's fault."""

WEDGED_EXIT_CODE = 70


class Turning(Protocol):
    """What is watched; the loop."""

    @property
    def interval(self) -> timedelta: ...

    @property
    def last(self) -> object | None: ...


def _die() -> None:
    os._exit(WEDGED_EXIT_CODE)


class Watchdog:
    """Watches while the block runs. `die` is called once, in the watching thread."""

    def __init__(
        self,
        loop: Turning,
        clock: Clock,
        *,
        warn: Callable[[str], None] = lambda _: None,
        wait: Callable[[float], bool] | None = None,
        die: Callable[[], None] = _die,
    ) -> None:
        """`warn` is called in the watching thread, once per standstill. `wait`: until so many
        seconds have passed (False) or the watch is over (True)."""
        self._loop, self._clock, self._warn, self._die = loop, clock, warn, die
        self._over = threading.Event()
        self._wait = wait or self._over.wait
        self._thread = threading.Thread(target=self.watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def watch(self) -> None:
        """Until the watch is over, or no cycle has ended for too long (by the monotonic clock,
        which stands still while the machine does)."""
        seen, since, warned = self._loop.last, self._clock.monotonic(), False
        while not self._wait(self._loop.interval.total_seconds()):
            patience = max(WEDGED_AFTER * self._loop.interval, LEAST).total_seconds()
            stood_for = self._clock.monotonic() - since
            if self._loop.last is not seen:
                seen, since, warned = self._loop.last, self._clock.monotonic(), False
            elif stood_for > patience:
                seconds = round(stood_for)
                log.critical("loop wedged", no_cycle_for_seconds=seconds, then="the process ends")
                self._die()
                return
            elif stood_for > patience * WARNED_AFTER_SHARE and not warned:
                warned = True
                self._warn(
                    f"no cycle has ended for {stood_for:.0f} s: the process ends itself after "
                    f"{patience:.0f} s; see its log, and whether the platform starts it again"
                )
