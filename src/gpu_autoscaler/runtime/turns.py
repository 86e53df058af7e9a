"""Launches at one placement go one after the other, so that an empty shelf is met by one alone."""

import asyncio
from datetime import timedelta
from types import TracebackType

from gpu_autoscaler.domain.model import Placement

LONGEST_TURN = timedelta(seconds=20)
"""A creation takes some 10 s: what takes longer hangs, and holds up nobody any longer."""


class Turn:
    """One launch's: entered when it may begin, left when it has ended."""

    def __init__(self, before: "Turn | None") -> None:
        self._before = before
        self.over = asyncio.Event()
        """Nobody has to wait for it any more."""
        self.empty = False
        """The shelf is known to be empty: by the launch before, or, when it ends, by this one."""

    async def __aenter__(self) -> "Turn":
        before, self._before = self._before, None
        if before is not None:
            try:
                async with asyncio.timeout(LONGEST_TURN.total_seconds()):
                    await before.over.wait()
            except TimeoutError:
                return self
            except asyncio.CancelledError:
                self.over.set()
                raise
            self.empty = before.empty
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()


class Turns:
    """Who launches where."""

    def __init__(self) -> None:
        self._last: dict[Placement, Turn] = {}

    def take(self, placement: Placement | None) -> Turn:
        """The turn after all that were taken for this placement and are not over, or over at once
        in the same batch; at None there is nothing to wait for."""
        if placement is None:
            return Turn(None)
        turn = self._last[placement] = Turn(self._last.get(placement))
        return turn

    def forget_ended(self) -> None:
        """What comes next has nothing to do with how these ended."""
        self._last = {place: turn for place, turn in self._last.items() if not turn.over.is_set()}
