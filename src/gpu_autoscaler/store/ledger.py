"""The ledger: an object, or a file, for each day; lines are only ever added to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date
from pathlib import Path
from typing import Protocol

from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.ledger import Page, Record, Stretch, TaskRecord
from gpu_autoscaler.store.bucket import Bucket, Conflict
from gpu_autoscaler.store.files import write_whole
from gpu_autoscaler.store.pages import parse, render


class Sheets(Protocol):
    """Where the days are kept."""

    def place(self, day: date) -> str:
        """For people."""

    async def get(self, day: date) -> tuple[bytes, str | None]:
        """What there is of a day, and its version: nothing and None when there is nothing."""

    async def put(self, day: date, content: bytes, replaces: str | None) -> str | None:
        """Replace this version by the one that is returned. Raises Conflict when it is another by
        now."""


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A day as it was read or written last."""

    content: bytes
    version: str | None
    keys: frozenset[object]


class DayLedger:
    """Fits `runtime.ports.Ledger`. Every method raises StoreError."""

    def __init__(self, sheets: Sheets) -> None:
        self._sheets = sheets
        self._last: dict[date, _Sheet] = {}
        """Of the newest day that was written, so that it need not be read for each line."""

    async def read(self, day: date) -> Page:
        """What is known of a day (UTC), and which of its lines nobody can read."""
        content, _ = await self._sheets.get(day)
        return parse(day, content, self._sheets.place(day))

    async def add(self, stretches: Sequence[Stretch], tasks: Sequence[TaskRecord]) -> None:
        """Write down what is not written yet; what is there stays, byte for byte."""
        records: list[Record] = [*stretches, *tasks]
        for day in sorted({_day_of(each) for each in records}):
            of_day = Page(
                day,
                tuple(each for each in stretches if _day_of(each) == day),
                tuple(each for each in tasks if _day_of(each) == day),
            )
            await self._add(of_day)

    async def _add(self, page: Page) -> None:
        last = self._last.pop(page.day, None)  # what fails, or is cut off, may have happened
        if last is not None:
            try:
                await self._write(page, last)
                return
            except Conflict:
                pass  # another daemon wrote, or we did and did not hear of it
        await self._write(page, await self._sheet(page.day))

    async def _sheet(self, day: date) -> _Sheet:
        content, version = await self._sheets.get(day)
        page = parse(day, content, self._sheets.place(day))
        return _Sheet(content, version, _keys(page))

    async def _write(self, page: Page, there: _Sheet) -> None:
        news = Page(
            page.day,
            tuple(each for each in page.stretches if each.key not in there.keys),
            tuple(each for each in page.tasks if each.key not in there.keys),
        )
        if news.stretches or news.tasks:
            # a line that was cut short spoils itself alone
            gap = b"" if there.content.endswith(b"\n") or not there.content else b"\n"
            content = there.content + gap + render(news)
            version = await self._sheets.put(page.day, content, there.version)
            there = _Sheet(content, version, there.keys | _keys(news))
        self._last = {page.day: there}


class FileSheets:
    """A directory with a file for each day; whoever writes holds the lock of the memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, day: date) -> str:
        return str(self._file(day))

    async def get(self, day: date) -> tuple[bytes, str | None]:
        try:
            return self._file(day).read_bytes(), None
        except FileNotFoundError:
            return b"", None
        except OSError as error:
            raise StoreError(f"{self._file(day)}: cannot be read ({error.strerror})") from error

    async def put(self, day: date, content: bytes, replaces: str | None) -> None:
        file = self._file(day)
        try:
            self._directory.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{file}: cannot be written ({error.strerror})") from error
        write_whole(file, content)

    def _file(self, day: date) -> Path:
        return self._directory / f"{day.isoformat()}.jsonl"


class BucketSheets:
    """An object for each day beside the memory's, written only by who knows its version."""

    def __init__(self, bucket_of: Callable[[str], Bucket]) -> None:
        self._bucket_of = bucket_of
        """By the end of the key."""

    def place(self, day: date) -> str:
        return self._bucket(day).place

    async def get(self, day: date) -> tuple[bytes, str | None]:
        blob = await self._bucket(day).get()
        return (blob.content, blob.version) if blob else (b"", None)

    async def put(self, day: date, content: bytes, replaces: str | None) -> str:
        return await self._bucket(day).put(content, replaces)

    def _bucket(self, day: date) -> Bucket:
        return self._bucket_of(f"{day.isoformat()}.jsonl")


def _day_of(record: Record) -> date:
    moment = record.since if isinstance(record, Stretch) else record.ended_at
    return moment.astimezone(UTC).date()


def _keys(page: Page) -> frozenset[object]:
    return frozenset(each.key for each in page.records)
