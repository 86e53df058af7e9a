"""Days of the ledger, in a directory and in a bucket: added to, and never anything else."""

import asyncio
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.ledger import Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.store.ledger import BucketSheets, DayLedger, FileSheets

DAY = date(2026, 9, 7)
NOON = datetime(2026, 9, 7, 12, tzinfo=UTC)


def stretch(minute: int = 0, **changes: object) -> Stretch:
    since = NOON + timedelta(minutes=minute)
    plain = Stretch(
        server_id="id-m1",
        instance="m1",
        queue="gpu",
        commercial_type="H100-1-80G",
        zone="fr-par-2",
        state=S.IDLE,
        since=since,
        until=since + timedelta(minutes=1),
        powered_on_at=since,
        eur_per_hour=2.8665,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def task(name: str = "t1", ended: timedelta = timedelta(0)) -> TaskRecord:
    return TaskRecord(
        id=name,
        name="train",
        project="lab",
        user="ada",
        queue="gpu",
        instance="m1",
        status="completed",
        started_at=NOON - timedelta(hours=6),
        ended_at=NOON + ended,
    )


class Shelf:
    """Objects by name, as several daemons see them."""

    def __init__(self) -> None:
        self.objects: dict[str, InMemoryBucket] = defaultdict(lambda: InMemoryBucket(SystemClock()))

    def ledger(self) -> DayLedger:
        return DayLedger(BucketSheets(lambda name: self.objects[name]))


@pytest.fixture(params=["directory", "bucket"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> DayLedger:
    return (
        DayLedger(FileSheets(tmp_path / "ledger"))
        if request.param == "directory"
        else (Shelf().ledger())
    )


def test_what_was_added_is_there_once(ledger: DayLedger) -> None:
    async def scene() -> None:
        assert (await ledger.read(DAY)).records == ()
        await ledger.add([stretch()], [task()])
        await ledger.add([stretch(), stretch(1)], [task(), task(ended=timedelta(hours=1))])
        page = await ledger.read(DAY)
        assert page.stretches == (stretch(), stretch(1))
        assert page.tasks == (task(), task(ended=timedelta(hours=1)))

    asyncio.run(scene())


def test_each_record_stands_on_its_own_day(ledger: DayLedger) -> None:
    async def scene() -> None:
        tomorrow = stretch(12 * 60)
        await ledger.add([stretch(), tomorrow], [task(ended=timedelta(hours=13))])
        assert (await ledger.read(DAY)).records == (stretch(),)
        after = await ledger.read(DAY + timedelta(days=1))
        assert after.records == (tomorrow, task(ended=timedelta(hours=13)))

    asyncio.run(scene())


def test_a_line_that_was_cut_short_spoils_itself_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        first = DayLedger(FileSheets(tmp_path))
        await first.add([stretch(), stretch(1)], [])
        file = tmp_path / "2026-09-07.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-20])
        second = DayLedger(FileSheets(tmp_path))
        await second.add([stretch(2)], [])
        page = await second.read(DAY)
        assert page.stretches == (stretch(), stretch(2))
        assert len(page.problems) == 1
        assert f"{file}:2" in page.problems[0]
        assert file.read_bytes().startswith(whole[:-20])

    asyncio.run(scene())


def test_two_daemons_that_write_at_once_lose_nothing() -> None:
    async def scene() -> None:
        shelf = Shelf()
        one, other = shelf.ledger(), shelf.ledger()
        await one.add([stretch()], [])
        await other.add([stretch(1)], [])
        await one.add([stretch(2)], [])  # its version is not the newest any more
        await other.add([stretch(3)], [])
        page = await shelf.ledger().read(DAY)
        assert page.stretches == tuple(map(stretch, range(4)))

    asyncio.run(scene())


def test_a_day_is_not_read_anew_for_each_line() -> None:
    async def scene() -> None:
        shelf = Shelf()
        ledger = shelf.ledger()
        await ledger.add([stretch()], [])
        held = shelf.objects["2026-09-07.jsonl"]

        async def get(*_: object) -> None:
            raise AssertionError("read again")

        held.get = get  # type: ignore[method-assign]
        await ledger.add([stretch(1)], [])
        await ledger.add([stretch(1)], [])
        assert held.blob is not None
        assert held.blob.content.count(b"\n") == 2

    asyncio.run(scene())


def test_what_cannot_be_written_says_where(tmp_path: Path) -> None:
    blocked = tmp_path / "ledger"
    blocked.write_text("a file")
    with pytest.raises(StoreError, match=r"ledger/2026-09-07.jsonl: cannot be"):
        asyncio.run(DayLedger(FileSheets(blocked)).add([stretch()], []))
