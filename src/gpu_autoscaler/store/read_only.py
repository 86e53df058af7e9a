"""Reads what a daemon remembers without touching it: for dry runs and plans."""

import math

from gpu_autoscaler.domain.memory import Memory


class NothingKept:
    """The part of a store that a reader does not need."""

    async def save(self, memory: Memory) -> None:
        """Nothing is kept."""

    async def release(self) -> None:
        """Nothing was taken."""

    def lease_left(self) -> float:
        """For ever: a dry run does nothing that another daemon could mind."""
        return math.inf
