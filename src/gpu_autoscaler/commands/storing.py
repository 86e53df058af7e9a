"""Which store a configuration asks for: object storage with a lease, or a directory."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from gpu_autoscaler.commands.reading import bucket_of
from gpu_autoscaler.commands.wiring import Setup
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.config.services import StoreConfig
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.runtime.clock import RandomIds
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.store.bucket import Conflict
from gpu_autoscaler.store.directory import DirectoryStore, ReadOnlyStore
from gpu_autoscaler.store.lease import LeasedStore, ReadOnlyLeasedStore
from gpu_autoscaler.store.ledger import BucketSheets, DayLedger, FileSheets

log = structlog.get_logger("gpu_autoscaler")


@asynccontextmanager
async def open_store(setup: Setup, clock: Clock) -> AsyncIterator[DirectoryStore | LeasedStore]:
    """The store of a daemon that acts; the lease is given back however the block is left.

    Raises StateInUse when another process has the directory, StoreError when it cannot be used.
    """
    settings = setup.config.store
    if settings is None:
        with DirectoryStore(Path(setup.config.state_dir)) as store:
            yield store
        return
    holder = f"{socket.gethostname()}-{RandomIds().hex(6)}"
    bucket = bucket_of(settings, setup.secrets)
    leased = LeasedStore(bucket, clock, holder=holder, lasts=settings.lease)
    try:
        yield leased
    finally:
        try:
            await leased.release()
        except OSError as error:
            # what was done is done; the next daemon waits until the lease has run out
            log.warning("lease not given back", error=str(error))


def read_only_store(config: Config, secrets: Secrets | None) -> Store:
    """The same memory for looks alone; likewise."""
    if config.store is None or secrets is None:
        return ReadOnlyStore(Path(config.state_dir))
    return ReadOnlyLeasedStore(bucket_of(config.store, secrets))


def ledger_of(config: Config, secrets: Secrets | None) -> DayLedger:
    """The ledger, beside the memory; only one in object storage needs secrets."""
    settings = config.store
    if settings is None or secrets is None:
        return DayLedger(FileSheets(Path(config.state_dir) / "ledger"))
    folder = (settings.key or "").removesuffix(".json")
    memory = bucket_of(settings, secrets)
    return DayLedger(BucketSheets(lambda name: memory.at(f"{folder}/{name}")))


async def conditions_hold(setup: Setup, settings: StoreConfig) -> bool:
    """Whether the storage service refuses a write that names a wrong version, on which the lease
    rests; tried with an object beside the real one. Raises OSError."""
    beside = settings.model_copy(update={"key": f"{settings.key}.probe"})
    bucket = bucket_of(beside, setup.secrets)
    found = await bucket.get()
    newest = await bucket.put(b"a", found.version if found else None)
    await bucket.put(b"b", newest)
    for wrong in (newest, None):
        try:
            await bucket.put(b"c", wrong)
        except Conflict:
            continue
        return False
    return True
