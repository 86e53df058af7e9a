"""The ledger's pages in a directory, for looks alone."""

from datetime import date
from pathlib import Path

from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.ledger import Page
from gpu_autoscaler.store.pages import parse


class PageFiles:
    """One file a day, `ledger/2026-11-03.jsonl` in the state directory; no lock is needed."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "ledger"

    async def read(self, day: date) -> Page:
        """The page of this day, empty when nothing was written. Raises StoreError."""
        file = self._directory / f"{day.isoformat()}.jsonl"
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return Page(day)
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({error.strerror})") from error
        return parse(day, content, str(file))
