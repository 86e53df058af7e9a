"""Memory as one JSON file in a directory: replaced atomically, locked against a second daemon."""

import math
from datetime import timedelta
from pathlib import Path

import structlog
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from gpu_autoscaler.domain.errors import StateInUse, StoreError
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.store.document import refuse_newer
from gpu_autoscaler.store.files import write_whole
from gpu_autoscaler.store.read_only import NothingKept

log = structlog.get_logger("gpu_autoscaler")

_MEMORY = TypeAdapter(Memory)


class DirectoryStore:
    """The default store. Open it with `with`: that takes the lock, or raises StoreError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "memory.json"
        self._present = directory / "lock"
        """Touched, it gets the present time of whatever keeps the directory."""
        self._lock = FileLock(self._present)
        self._keeps = True
        """The last save worked."""

    def __enter__(self) -> "DirectoryStore":
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StateInUse(
                f"{self._directory}: another daemon uses this state directory; "
                "stop it first (a daemon of another fleet needs a state_dir of its own)"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{self._directory}: cannot be used as state directory ({error.strerror}); "
                "set state_dir to a directory this user may write"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    async def load(self) -> Kept:
        """The memory kept last, if any. An unreadable one is set aside, a newer one refused."""
        try:
            return Kept(_read(self._file))
        except ValidationError:
            aside = self._file.with_suffix(".unreadable.json")
            try:
                self._file.replace(aside)
            except OSError as error:
                raise StoreError(
                    f"{self._file}: unreadable, and cannot be renamed to {aside.name} "
                    f"({error.strerror}); move it away by hand"
                ) from error
            log.error("memory unreadable", set_aside=str(aside), then="starting without memory")
            return Kept(None)

    async def save(self, memory: Memory) -> None:
        """Keep it: when this returns, no crash loses it. Raises StoreError."""
        self._keeps = False
        write_whole(self._file, _MEMORY.dump_json(memory))
        self._keeps = True

    async def release(self) -> None:
        """The lock is given back when the store is closed."""

    def lease_left(self) -> float:
        """Without end while it can write: what cannot be remembered must not be begun."""
        return math.inf if self._keeps else 0.0

    async def age(self) -> timedelta | None:
        """How long ago a daemon saved last, by the clock of the disk; None when there is no memory.
        Raises StoreError."""
        try:
            changed_at = self._file.stat().st_mtime
            self._present.touch()
            return timedelta(seconds=max(0.0, self._present.stat().st_mtime - changed_at))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._file}: cannot be read ({error.strerror})") from error


class ReadOnlyStore(NothingKept):
    """The memory of a daemon that keeps it in a directory, without its lock."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "memory.json"

    async def load(self) -> Kept:
        """The memory kept last, if any. Raises StateRefused for one of a newer version."""
        try:
            return Kept(_read(self._file))
        except ValidationError:
            return Kept(None)


def _read(file: Path) -> Memory | None:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error
    refuse_newer(content, str(file))
    return _MEMORY.validate_json(content)
