"""Memory as one JSON file in a directory: replaced atomically, locked against a second daemon."""

import contextlib
import os
from pathlib import Path

import structlog
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Memory

log = structlog.get_logger("gpu_autoscaler")

_MEMORY = TypeAdapter(Memory)
_VERSION = TypeAdapter(dict[str, object])


class StoreError(OSError):
    """The state directory cannot be used; the message says what to do."""


class DirectoryStore:
    """The default store. Open it with `with`: that takes the lock, or raises StoreError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "memory.json"
        self._lock = FileLock(directory / "lock")
        self._flushed: object = None
        """The intents that are certainly on the disk."""

    def __enter__(self) -> "DirectoryStore":
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"{self._directory}: another daemon uses this state directory; "
                "stop it, or give this one its own state_dir"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{self._directory}: cannot be used as state directory ({error.strerror}); "
                "set state_dir to a directory this user may write"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    async def load(self) -> Memory | None:
        """The memory kept last, or None. An unreadable one is set aside, a newer one refused."""
        try:
            return _read(self._file)
        except ValidationError:
            aside = self._file.with_suffix(".unreadable.json")
            self._file.replace(aside)
            log.error("memory unreadable", set_aside=str(aside), then="starting without memory")
            return None

    async def save(self, memory: Memory) -> None:
        """Keep it: when this returns, a crash of the process loses nothing, and a crash of the
        machine at most observations, never an intent. Raises StoreError."""
        intents = (memory.pending, memory.power_offs, memory.rescued)
        draft = self._file.with_suffix(".new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: ASYNC230 - a few kilobytes
                file.write(_MEMORY.dump_json(memory))
                file.flush()
                if any(intents) or intents != self._flushed:
                    os.fsync(file.fileno())
            draft.replace(self._file)
            if intents != self._flushed:
                _flush_directory(self._directory)
            self._flushed = intents
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise StoreError(f"{self._file}: cannot be written ({error.strerror})") from error


class ReadOnlyStore:
    """Reads what a daemon remembers without touching it: for dry runs and plans."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "memory.json"

    async def load(self) -> Memory | None:
        """The memory kept last, or None. Raises StoreError for one of a newer version."""
        try:
            return _read(self._file)
        except ValidationError:
            return None

    async def save(self, memory: Memory) -> None:
        """Nothing is kept."""


def _flush_directory(directory: Path) -> None:
    """The new name, too, must survive a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(file: Path) -> Memory | None:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error
    version = _VERSION.validate_json(content).get("version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"{file}: written by a newer version of the daemon (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); run that one, or use another state_dir"
        )
    return _MEMORY.validate_json(content)
