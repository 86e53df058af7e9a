"""Things that will happen at the emulated services, in the order of their times."""

import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta

from gpu_autoscaler.domain.clock import Clock


class Timeline:
    """A schedule shared by all emulated models; whoever owns the clock advances it.

    Models call `advance` before they answer anything, so an answer is right also when nobody
    drives the timeline in the background.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._heap: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._present: datetime | None = None

    def now(self) -> datetime:
        """The clock's time, or, while a due event runs, the time that event was due."""
        return self._present or self.clock.now()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let `event` happen `seconds` from now. An event checks by itself if it still applies."""
        when = self.now() + timedelta(seconds=seconds)
        heapq.heappush(self._heap, (when, next(self._order), event))

    def advance(self) -> None:
        """Run everything that is due, each at its own time."""
        if self._present is not None:  # an event asked a model: it is being advanced already
            return
        now = self.clock.now()
        try:
            while self._heap and self._heap[0][0] <= now:
                self._present, _, event = heapq.heappop(self._heap)
                event()
        finally:
            self._present = None
