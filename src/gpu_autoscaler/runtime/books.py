"""Brings what a plan's memory has for the ledger into it, and back when the memory was lost."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.domain.ledger import Page, TaskRecord
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView
from gpu_autoscaler.policy.ledger import SPENT_KEPT
from gpu_autoscaler.runtime.ports import Clearml, Ledger, Pages
from gpu_autoscaler.runtime.record import Recorder

WITHIN = timedelta(seconds=15)
"""For all of it in one cycle: what is not done is kept, and done in the next."""

AT_ONCE = 8
"""Pages read at once."""


async def read_days(ledger: Pages, days: Iterable[date]) -> list[Page]:
    """What is known of these days, in their order. Raises StoreError."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def read(day: date) -> Page:
        async with limit:
            return await ledger.read(day)

    return await asyncio.gather(*map(read, days))


class Books:
    """Keeps the ledger of one daemon; only who holds the lease writes."""

    def __init__(self, ledger: Ledger, clearml: Clearml, clock: Clock, recorder: Recorder) -> None:
        self._ledger, self._clearml = ledger, clearml
        self._clock, self._recorder = clock, recorder

    async def keep(self, memory: Memory, view: ClearmlView) -> Memory:
        """Write down what ended, and the tasks that did as ClearML knows them; the memory without
        what is written. Whatever fails is tried again in the next cycle."""
        open_ids = {task.id for task in view.open_tasks}
        over = [task for task in memory.untold if task not in open_ids] if view.complete else []
        if not memory.unbooked and not over:
            return memory
        try:
            async with asyncio.timeout(WITHIN.total_seconds()):
                told = await self._told(over, memory)
                await self._ledger.add(memory.unbooked, told or ())
        except TimeoutError:
            error = OSError(f"not written within {WITHIN.total_seconds():.0f} s")
            self._recorder.failing("ledger", error, self._clock.now())
            return memory
        except OSError as error:
            self._recorder.failing("ledger", error, self._clock.now())
            return memory
        self._recorder.failing("ledger", None, self._clock.now())
        done = frozenset(over) if told is not None else frozenset[str]()
        untold = {task: at for task, at in memory.untold.items() if task not in done}
        return replace(memory, unbooked=(), untold=untold)

    async def _told(self, task_ids: list[str], memory: Memory) -> tuple[TaskRecord, ...] | None:
        """None when ClearML does not answer."""
        if not task_ids:
            return ()
        try:
            return tuple(await self._clearml.task_records(task_ids, memory.queue_ids))
        except ApiError:
            return None

    async def recall(self) -> Memory:
        """A memory of money, and of where instances were, for a daemon that found none. Raises
        StoreError: without it, time would be booked and budgets spent twice, and what is left in a
        zone that is no longer configured would be billed for ever."""
        now = self._clock.now()
        days = (now.date() - timedelta(days=ago) for ago in range(SPENT_KEPT.days))
        pages = await read_days(self._ledger, days)
        spent: dict[str, dict[str, float]] = {}
        booked_until: dict[str, datetime] = {}
        for page in pages:
            of_day = spent.setdefault(page.day.isoformat(), {})
            for each in {stretch.key: stretch for stretch in page.stretches}.values():
                of_day[each.queue] = of_day.get(each.queue, 0.0) + each.eur
                before = booked_until.get(each.server_id, datetime.min.replace(tzinfo=UTC))
                booked_until[each.server_id] = max(before, each.until)
        zones = {each.zone for page in pages for each in page.stretches}
        spent = {day: of_day for day, of_day in spent.items() if of_day}
        return Memory(spent=spent, booked_until=booked_until, zones=tuple(sorted(zones)))
