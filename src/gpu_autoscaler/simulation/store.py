"""Where a simulated daemon keeps its memory: one object in memory, behind a faulty wire."""

import math
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.store.bucket import Blob, Bucket

if TYPE_CHECKING:
    from gpu_autoscaler.simulation.daemon import Daemon
    from gpu_autoscaler.simulation.world import World

_MEMORY = TypeAdapter(Memory)

FASTEST_CALL, SLOWEST_CALL = 0.01, 0.3
"""Seconds, each way."""


class FaultyBucket:
    """One daemon's way to the bucket. Fits `store.bucket.Bucket`."""

    def __init__(self, bucket: Bucket, world: "World", daemon: "Daemon") -> None:
        self._bucket, self._world, self._daemon = bucket, world, daemon
        self._random = world.random("store")
        self.place = bucket.place

    async def get(self) -> Blob | None:
        await self._way("get", before=True)
        found = await self._bucket.get()
        await self._way("get", before=False)
        return found

    async def put(self, content: bytes, replaces: str | None) -> str:
        await self._way("put", before=True)
        version = await self._bucket.put(content, replaces)
        await self._way("put", before=False)
        lost = 0.0 if self._world.calm else self._world.rates.calls.lost_reply
        if self._random.random() < lost:
            raise StoreError("no answer from the bucket")
        return version

    async def set_aside(self, content: bytes, suffix: str) -> str:
        return await self._bucket.set_aside(content, suffix)

    async def service_time(self) -> datetime:
        await self._way("time", before=True)
        now = await self._bucket.service_time()
        await self._way("time", before=False)
        return now

    async def _way(self, call: str, *, before: bool) -> None:
        await self._daemon.process.gate()
        await self._world.clock.sleep(self._random.uniform(FASTEST_CALL, SLOWEST_CALL))
        self._world.passing(self._daemon, f"store.{call}", before=before)
        await self._daemon.process.gate()
        if "store" in self._world.down:
            raise StoreError("the bucket does not answer")


class LocalStore:
    """A directory, as far as the loop can tell; who runs whom takes care of the lock."""

    def __init__(self, world: "World", daemon: "Daemon") -> None:
        self._world, self._daemon = world, daemon
        self._usable = True

    async def load(self) -> Kept:
        self._world.passing(self._daemon, "store.load", before=True)
        await self._daemon.process.gate()
        self._world.passing(self._daemon, "store.load", before=False)
        await self._daemon.process.gate()
        stored = self._world.on_disk
        return Kept(_MEMORY.validate_json(stored) if stored else None)

    async def save(self, memory: Memory) -> None:
        self._world.passing(self._daemon, "store.save", before=True)
        await self._daemon.process.gate()
        self._usable = "store" not in self._world.down
        if not self._usable:
            raise OSError("No space left on device")
        self._world.on_disk = _MEMORY.dump_json(memory)
        self._world.passing(self._daemon, "store.save", before=False)
        await self._daemon.process.gate()

    async def release(self) -> None:
        """The lock goes with the process."""

    def lease_left(self) -> float:
        return math.inf if self._usable else 0.0
