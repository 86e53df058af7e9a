"""Object storage in memory: the same conditional writes as the real one, no network."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import md5

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.store.bucket import Blob, Conflict

Hook = Callable[[str], Awaitable[None]]
"""Called with "get" or "put"; may wait, and may raise what a bucket raises."""


async def _nothing(_: str) -> None:
    """No delay and no failure."""


class InMemoryBucket:
    """A `store.bucket.Bucket` that several daemons may share.

    `before` runs before a call takes effect, `after` when it has: delays, failures and lost
    replies. A call that is given up goes on as on a real network, and may take effect later.
    """

    place = "memory://bucket/object"

    def __init__(self, clock: Clock, before: Hook = _nothing, after: Hook = _nothing) -> None:
        self._clock = clock
        self.before, self.after = before, after
        self.blob: Blob | None = None
        """The object: may be looked at, replaced and removed."""
        self.aside: dict[str, bytes] = {}
        """What was set aside, by suffix."""
        self._others: dict[str, InMemoryBucket] = {}

    def at(self, key: str) -> "InMemoryBucket":
        """Another object, without these hooks."""
        return self._others.setdefault(key, InMemoryBucket(self._clock))

    async def get(self) -> Blob | None:
        """See `Bucket`."""
        return await asyncio.shield(asyncio.ensure_future(self._get()))

    async def put(self, content: bytes, replaces: str | None) -> str:
        """See `Bucket`."""
        return await asyncio.shield(asyncio.ensure_future(self._put(content, replaces)))

    async def set_aside(self, content: bytes, suffix: str) -> str:
        """See `Bucket`."""
        self.aside[suffix] = content
        return self.place + suffix

    async def service_time(self) -> datetime:
        """See `Bucket`."""
        return self._clock.now().replace(microsecond=0)

    def write(self, content: bytes) -> str:
        """Put the object there whatever it was; returns its version, equal for equal content."""
        version = md5(content, usedforsecurity=False).hexdigest()
        self.blob = Blob(content, version, self._clock.now().replace(microsecond=0))
        return version

    async def _get(self) -> Blob | None:
        await self.before("get")
        blob = self.blob
        await self.after("get")
        return blob

    async def _put(self, content: bytes, replaces: str | None) -> str:
        await self.before("put")
        if replaces != (self.blob.version if self.blob else None):
            raise Conflict(f"{self.place}: changed by somebody else in the meantime")
        version = self.write(content)
        await self.after("put")
        return version
