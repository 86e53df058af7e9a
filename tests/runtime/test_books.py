"""What a plan left for the ledger gets into it, whatever fails on the way, and comes back."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest

from gpu_autoscaler.domain.errors import StoreError, Transient
from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView
from gpu_autoscaler.runtime.books import WITHIN, Books
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.runtime.record import Recorder
from tests.policy.worlds import START, minutes
from tests.policy.worlds import task as open_task
from tests.runtime.fakes import FakeClearml, Wire
from tests.store.test_ledger import NOON, stretch, task

QUIET = ClearmlView(complete=True, observed_at=START)
FULL = Memory(unbooked=(stretch(),), untold={"t1": NOON})


class Pages:
    """A ledger that notes what it gets, and fails or hangs when told to."""

    def __init__(self) -> None:
        self.pages: dict[date, Page] = {}
        self.got: list[object] = []
        self.error: Exception | None = None
        self.hangs = False

    async def read(self, day: date) -> Page:
        if self.error is not None:
            raise self.error
        return self.pages.get(day, Page(day))

    async def add(self, stretches: Sequence[Stretch], tasks: Sequence[TaskRecord]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.got += [*stretches, *tasks]


class Desk:
    def __init__(self) -> None:
        clock = LoopClock()
        self.wire = Wire(clock)
        self.clearml = FakeClearml(self.wire)
        self.clearml.records["t1"] = task()
        self.pages = Pages()
        self.books = Books(self.pages, self.clearml, clock, Recorder())


def test_what_is_written_leaves_the_memory() -> None:
    async def main() -> None:
        desk = Desk()
        assert await desk.books.keep(FULL, QUIET) == Memory()
        assert desk.pages.got == [stretch(), task()]
        desk.wire.calls.clear()
        assert await desk.books.keep(Memory(), QUIET) == Memory()
        assert (desk.wire.calls, len(desk.pages.got)) == ([], 2)

    run_virtual(main())


def test_what_cannot_be_written_stays() -> None:
    async def main() -> None:
        desk = Desk()
        desk.pages.error = StoreError("disk full")
        assert await desk.books.keep(FULL, QUIET) == FULL
        desk.pages.error, desk.pages.hangs = None, True
        begun = asyncio.get_running_loop().time()
        assert await desk.books.keep(FULL, QUIET) == FULL
        assert asyncio.get_running_loop().time() - begun <= WITHIN.total_seconds() + 1

    run_virtual(main())


def test_without_clearml_stretches_are_written_and_tasks_later() -> None:
    async def main() -> None:
        desk = Desk()
        desk.wire.errors["task_records"] = Transient("502")
        after = await desk.books.keep(FULL, QUIET)
        assert after == replace(FULL, unbooked=())
        assert desk.pages.got == [stretch()]
        dark = replace(QUIET, complete=False)
        assert await desk.books.keep(after, dark) == after

    run_virtual(main())


def test_a_task_that_still_runs_is_asked_for_when_it_has_ended() -> None:
    async def main() -> None:
        desk = Desk()
        runs = replace(QUIET, open_tasks=(open_task("t1", "in_progress", "m1"),))
        after = await desk.books.keep(FULL, runs)
        assert after.untold == FULL.untold
        assert "task_records" not in desk.wire.calls

    run_virtual(main())


def test_a_task_that_was_deleted_is_not_asked_for_again() -> None:
    async def main() -> None:
        desk = Desk()
        desk.clearml.records.clear()
        assert (await desk.books.keep(FULL, QUIET)).untold == {}

    run_virtual(main())


def test_the_ledger_remembers_money_when_memory_was_lost() -> None:
    async def main() -> None:
        desk = Desk()
        day = LoopClock().now().date()
        twice = (stretch(), stretch(), stretch(5))
        desk.pages.pages[day] = Page(day, twice)
        found = await desk.books.recall()
        once = stretch().eur + stretch(5).eur
        assert found.spent == {day.isoformat(): {"gpu": once}}
        assert found.booked_until == {"id-m1": NOON + minutes(6)}
        assert found.planned_at is None
        assert found.zones == ("fr-par-2",), "what is left there is looked for, configured or not"
        desk.pages.error = StoreError("403")
        with pytest.raises(StoreError):  # or time would be booked twice
            await desk.books.recall()

    run_virtual(main())
