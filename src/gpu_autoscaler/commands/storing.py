"""Which store a configuration asks for: object storage with a lease, or a directory."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gpu_autoscaler.commands.wiring import Setup
from gpu_autoscaler.config.models import StoreConfig
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.runtime.clock import RandomIds
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.store.bucket import Bucket
from gpu_autoscaler.store.directory import DirectoryStore, ReadOnlyStore
from gpu_autoscaler.store.lease import LeasedStore, ReadOnlyLeasedStore


@asynccontextmanager
async def open_store(setup: Setup, clock: Clock) -> AsyncIterator[DirectoryStore | LeasedStore]:
    """The store of a daemon that acts. Raises OSError when its directory is not to be had."""
    settings = setup.config.store
    if settings is None:
        with DirectoryStore(Path(setup.config.state_dir)) as store:
            yield store
        return
    holder = f"{socket.gethostname()}-{RandomIds().hex(6)}"
    yield LeasedStore(_bucket(settings, setup.secrets), clock, holder=holder, lasts=settings.lease)


def read_only_store(setup: Setup) -> Store:
    """The same memory for looks alone."""
    if setup.config.store is None:
        return ReadOnlyStore(Path(setup.config.state_dir))
    return ReadOnlyLeasedStore(_bucket(setup.config.store, setup.secrets))


def _bucket(settings: StoreConfig, secrets: Secrets) -> Bucket:
    # loads five megabytes, which a daemon with a directory does without
    from gpu_autoscaler.store.s3 import S3Bucket  # noqa: PLC0415

    return S3Bucket(
        settings.bucket,
        settings.key or "",
        region=settings.region,
        endpoint=settings.endpoint or "",
        access_key=secrets.scaleway_access_key,
        secret_key=secrets.scaleway_secret_key,
    )
