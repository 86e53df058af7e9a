"""What the rest of the house knows about time and identity: two small promises.

The implementations stand in `runtime.clock`, the only module that may read the wall clock,
sleep, or draw a random number.
"""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Time as the daemon sees it: real, scaled (the emulators), or virtual (tests, demo)."""

    def now(self) -> datetime:
        """The present moment, timezone-aware, UTC."""

    def monotonic(self) -> float:
        """Seconds since some moment, which no correction of the wall clock moves."""

    async def sleep(self, seconds: float) -> None:
        """Wait, cancellably, for this many seconds of this clock."""


class Ids(Protocol):
    """A source of short identifiers."""

    def hex(self, digits: int) -> str:
        """`digits` lower-case hexadecimal digits that were not handed out before."""
