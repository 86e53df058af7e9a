"""Files that are there as a whole, or as they were."""

import contextlib
import os
from pathlib import Path

from gpu_autoscaler.domain.errors import StoreError


def write_whole(file: Path, content: bytes) -> None:
    """Replace it: when this returns, no crash loses it. Raises StoreError."""
    draft = file.with_name(f"{file.stem}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(file)
        _flush_directory(file.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise StoreError(f"{file}: cannot be written ({error.strerror})") from error


def _flush_directory(directory: Path) -> None:
    """The new name, too, must survive a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
