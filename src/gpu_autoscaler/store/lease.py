"""Memory and lease as one object in object storage: who saves renews, and nobody else can save.

Nobody compares its clock with another's. Each write makes a new version of the object and asks for
the version it replaces, so of two daemons that write one is refused. A daemon without the lease
watches: when it has seen the same version for as long as the document says that the lease lasts, by
its own monotonic clock, the holder has not renewed it, and it may be taken. At its first look it
asks the storage service how old the version is, by the service's clock alone. The holder counts
from the start of its last write that worked, which is before anybody could see it, and stops
earlier.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import LeaseLost, StateRefused, StoreError
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Kept, Memory
from gpu_autoscaler.store.bucket import Blob, Bucket, Conflict
from gpu_autoscaler.store.document import refuse_newer
from gpu_autoscaler.store.read_only import NothingKept

log = structlog.get_logger("gpu_autoscaler")

T = TypeVar("T")

TRUSTED_SHARE = 2 / 3
"""Of the lease's length is what its holder trusts. The last third covers what may still become
visible of its doings when the next one begins (30 s of listing lag at Scaleway), the clean-up of
calls that are cut off, and clocks that do not run equally fast."""

CALL_DEADLINE = timedelta(seconds=10)
"""For one read or write, with the client's own retries."""

SERVICE_CLOCK_TICK = timedelta(seconds=2)
"""Of two moments in whole seconds."""

UNREADABLE = "unknown (the object cannot be read)"


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may act, as it is stored."""

    holder: str
    """Empty when it was given back."""
    epoch: int
    """Grows with each new holder."""
    serial: int
    """Of the holder's writes, the failed ones counted: no two are ever equal, so that each has a
    version of its own."""
    lasts_seconds: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Document:
    """The object."""

    lease: Lease
    memory: Memory | None
    version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class _Moment:
    monotonic: float
    wall: datetime


@dataclass(frozen=True, slots=True)
class _Held:
    """Our last write that worked."""

    version: str
    epoch: int
    memory: Memory | None
    """The newest one, also when the write of it failed."""
    begun: _Moment


@dataclass(frozen=True, slots=True)
class _Watched:
    """What somebody else wrote, and when it was seen first (monotonic)."""

    version: str | None
    """None: the object was removed meanwhile."""
    lease: Lease
    since: float


_DOCUMENT = TypeAdapter(Document)


class LeasedStore:
    """The store of a deployed daemon. Its methods are called one at a time.

    `holder` names this process, differently at each start; `lasts` is how long the lease runs
    after each save, the same for as long as the process lives.
    """

    def __init__(self, bucket: Bucket, clock: Clock, *, holder: str, lasts: timedelta) -> None:
        self._bucket, self._clock = bucket, clock
        self._holder, self._lasts = holder, lasts.total_seconds()
        self._serial = 0
        self._held: _Held | None = None
        self._watched: _Watched | None = None

    async def load(self) -> Kept:
        """Read the newest memory, and take the lease when it is free.

        Raises StateRefused when a newer version wrote it, StoreError when nothing answers.
        """
        blob = await _within_deadline(self._bucket, self._bucket.get())
        found = self._document(blob) if blob else Document(self._lease_without_object(), None)
        if not await self._is_free(blob, found.lease):
            self._held = None
            return Kept(found.memory, ours=False, holder=found.lease.holder)
        if blob and found.lease.holder == UNREADABLE:
            await self._set_aside(blob.content)
        return await self._take(blob.version if blob else None, found.lease, found.memory)

    async def save(self, memory: Memory) -> None:
        """Keep it and renew the lease, also one that has run out but that nobody took.

        Raises LeaseLost, or StoreError when it may not have been kept.
        """
        if self._held is None:
            raise LeaseLost(f"{self._bucket.place}: this daemon does not hold the lease")
        # before the write: what it leaves undone if it fails is handed over all the same
        self._held = replace(self._held, memory=memory)
        self._held = await self._replace(self._held, self._holder, memory)

    async def release(self) -> None:
        """Give the lease away with the newest memory, kept or not. Raises StoreError.

        Whatever comes of it, this daemon may not act any more: the write may have happened.
        """
        held, self._held = self._held, None
        if held is None:
            return
        try:
            await self._replace(held, "", held.memory)
        except LeaseLost:
            return  # somebody has it already

    def lease_left(self) -> float:
        """Seconds for which this daemon may still act.

        The wall clock counts too: it goes on while a machine is suspended. It can only shorten.
        """
        if self._held is None:
            return 0.0
        now, begun = self._moment(), self._held.begun
        elapsed = max(now.monotonic - begun.monotonic, (now.wall - begun.wall).total_seconds())
        return max(0.0, self._lasts * TRUSTED_SHARE - elapsed)

    async def age(self) -> timedelta | None:
        """How long ago a daemon wrote last, by the service's clock, also when it was a farewell;
        None when there is no object. Raises as `load` does."""
        blob = await _within_deadline(self._bucket, self._bucket.get())
        if blob is None:
            return None
        self._document(blob)
        return await self._age_of(blob)

    async def _age_of(self, blob: Blob) -> timedelta:
        now = await _within_deadline(self._bucket, self._bucket.service_time())
        return max(timedelta(0), now - blob.written_at)

    async def _is_free(self, blob: Blob | None, lease: Lease) -> bool:
        if lease.holder in ("", self._holder):
            # ours: a write of ours whose reply was lost has made it so
            return True
        before, now = self._watched, self._clock.monotonic()
        version = blob.version if blob else None
        if before is None or before.version != version:
            self._watched = _Watched(version, lease, since=now)
            if before is None and blob is not None:
                # this process has seen nothing yet: how long nothing was written is not its to say
                unheard = await self._age_of(blob) - SERVICE_CLOCK_TICK
                return unheard.total_seconds() > lease.lasts_seconds
            return False
        return now - before.since >= lease.lasts_seconds

    async def _take(self, version: str | None, lease: Lease, memory: Memory | None) -> Kept:
        epoch = lease.epoch + (lease.holder != self._holder)
        if memory is not None and lease.holder not in ("", self._holder):
            # its holder may have acted after it could save no more: two looks must agree before a
            # launch, as without memory
            memory = replace(memory, unconfirmed_need={})
        try:
            self._held = await self._write(version, self._holder, epoch, memory)
        except Conflict:
            return Kept(memory, ours=False, holder="another daemon that was faster")
        self._watched = None
        return Kept(memory)

    async def _replace(self, held: _Held, holder: str, memory: Memory | None) -> _Held:
        """Write over our own document. Raises LeaseLost when it is not ours any more."""
        try:
            return await self._write(held.version, holder, held.epoch, memory)
        except Conflict:
            # often with ourselves: the reply to a write was lost, or the client repeated one
            version = await self._version_of(held)
        return await self._write(version, holder, held.epoch, memory)

    async def _version_of(self, held: _Held) -> str | None:
        """The version that our document has by now; None when somebody removed the object."""
        blob = await _within_deadline(self._bucket, self._bucket.get())
        if blob is None:
            return None
        try:
            lease = self._document(blob).lease
        except StateRefused:
            lease = self._lease_of("a newer version of the daemon")
        if (lease.holder, lease.epoch) == (self._holder, held.epoch):
            return blob.version
        self._held = None
        holder = lease.holder or "nobody: it was given back"
        raise LeaseLost(f"{self._bucket.place}: the lease was lost; its holder is now {holder}")

    async def _write(
        self, replaces: str | None, holder: str, epoch: int, memory: Memory | None
    ) -> _Held:
        self._serial += 1
        document = Document(Lease(holder, epoch, self._serial, self._lasts), memory)
        begun = self._moment()  # before the write: nobody can have seen it earlier
        writing = self._bucket.put(_DOCUMENT.dump_json(document), replaces)
        return _Held(await _within_deadline(self._bucket, writing), epoch, memory, begun)

    async def _set_aside(self, content: bytes) -> None:
        """Before it is overwritten: raises StoreError when that fails, and all stays as it is."""
        copying = self._bucket.set_aside(content, ".unreadable")
        aside = await _within_deadline(self._bucket, copying)
        log.error("memory unreadable", set_aside=aside, then="starting without memory")

    def _document(self, blob: Blob) -> Document:
        """What nobody can read may be a living holder's all the same: its lease is waited out."""
        try:
            return _read(blob, self._bucket.place)
        except ValidationError:
            return Document(self._lease_of(UNREADABLE), None)

    def _lease_without_object(self) -> Lease:
        """Who removed the object did not end its holder: a lease that was watched is waited out."""
        return self._watched.lease if self._watched else self._lease_of("")

    def _lease_of(self, holder: str) -> Lease:
        """What stands for a lease where none is written."""
        return Lease(holder, epoch=0, serial=0, lasts_seconds=self._lasts)

    def _moment(self) -> _Moment:
        return _Moment(self._clock.monotonic(), self._clock.now())


class ReadOnlyLeasedStore(NothingKept):
    """The memory of a daemon that keeps it in a bucket, without its lease."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def load(self) -> Kept:
        """The memory kept last, if any. Raises as `LeasedStore.load` does."""
        blob = await _within_deadline(self._bucket, self._bucket.get())
        if blob is None:
            return Kept(None)
        try:
            return Kept(_read(blob, self._bucket.place).memory)
        except ValidationError:
            return Kept(None)


def _read(blob: Blob, place: str) -> Document:
    """Raises StateRefused for a newer schema, ValidationError for what nobody can read."""
    refuse_newer(blob.content, place)
    return _DOCUMENT.validate_json(blob.content)


async def _within_deadline(bucket: Bucket, call: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(CALL_DEADLINE.total_seconds()):
            return await call
    except TimeoutError:
        seconds = CALL_DEADLINE.total_seconds()
        raise StoreError(f"{bucket.place}: no answer within {seconds:g} s") from None
