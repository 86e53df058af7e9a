"""What the lease needs of object storage: one object, replaced only by who knows its version."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gpu_autoscaler.domain.errors import StoreError


class Conflict(StoreError):
    """The object is not the version that was to be replaced: somebody else wrote it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """The object as it was read."""

    content: bytes
    version: str
    """Changes with every change of the content (an ETag)."""
    written_at: datetime
    """By the clock of the storage service, to the second."""


class Bucket(Protocol):
    """One object. Every method raises StoreError when the service does not answer as it should."""

    @property
    def place(self) -> str:
        """Where the object is, for people."""

    async def get(self) -> Blob | None:
        """The newest version; None when there is no object."""

    async def put(self, content: bytes, replaces: str | None) -> str:
        """Replace this version (None: there must be no object) and return the new version.

        Raises Conflict when it is another one. When it fails otherwise, or is cut off, it may
        have happened all the same, or may still happen.
        """

    async def set_aside(self, content: bytes, suffix: str) -> str:
        """Keep this content beside the object; returns where."""

    async def service_time(self) -> datetime:
        """The present moment by the clock of `Blob.written_at`."""
