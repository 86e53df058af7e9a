"""What the fleet has cost, for the surface and the weekly report.

Reading and reckoning a year takes a second: it is done in a thread, one at a time, and no cycle
waits for it.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime, time, timedelta
from typing import Any, TypeVar

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.ledger import Page, Stretch
from gpu_autoscaler.reports.formats import as_dict
from gpu_autoscaler.reports.period import Period, parse_period
from gpu_autoscaler.reports.report import By, report
from gpu_autoscaler.reports.weekly import weekly

T = TypeVar("T")

Read = Callable[[Period, datetime], Coroutine[Any, Any, tuple[list[Page], list[Stretch]]]]
"""What a report on a period needs, at this moment. Runs in an event loop of its own."""

DEADLINE_SECONDS = 60.0
KEPT_SECONDS = 60.0
MOST_KEPT = 16
WEEK = timedelta(days=7)


class Costs:
    """Reports on demand, each kept for a minute."""

    def __init__(self, fleet: str, read: Read, clock: Clock) -> None:
        self._fleet, self._read, self._clock = fleet, read, clock
        self._turn = asyncio.Lock()
        self._kept: dict[tuple[str, By], tuple[float, dict[str, Any]]] = {}

    async def of(self, since: str, by: By) -> dict[str, Any]:
        """As `cost --format json`. Raises ValueError for a `since` that says nothing, and OSError
        where the ledger cannot be read in time."""
        period = parse_period(since, self._clock.now())
        async with self._turn:
            kept, now = self._kept.get((since, by)), self._clock.monotonic()
            if kept is not None and now - kept[0] < KEPT_SECONDS:
                return kept[1]
            moment = self._clock.now()

            def work() -> dict[str, Any]:
                pages, lasting = asyncio.run(self._read(period, moment))
                return as_dict(report(pages, lasting, period, moment, by), self._fleet)

            answer = await _in_thread(work)
            self._kept.pop((since, by), None)
            self._kept[since, by] = now, answer
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            return answer

    async def weekly(self, moment: datetime) -> tuple[str, str]:
        """Headline and text about the seven days (UTC) before the day of this moment. Raises
        OSError."""
        end = datetime.combine(moment.date(), time(), moment.tzinfo)
        week, before = Period(end - WEEK, end), Period(end - 2 * WEEK, end - WEEK)
        now = self._clock.now()

        def work() -> tuple[str, str]:
            found = asyncio.run(self._read(Period(before.since, week.until), now))
            this, last = (report(*found, each, now, By.TASK) for each in (week, before))
            title, body = weekly(this, last, self._fleet)
            return title.removeprefix(f"{self._fleet}: "), body

        async with self._turn:
            return await _in_thread(work)


async def _in_thread(work: Callable[[], T]) -> T:
    """In one that does not keep the process from ending. Raises what `work` raises, and OSError
    when it takes too long."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[Any], None], value: object) -> None:
        with suppress(asyncio.InvalidStateError):  # nobody waits any more
            settled(value)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], object] = done.set_result, work()
        except BaseException as error:
            outcome = done.set_exception, error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="costs", daemon=True).start()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await done
    except TimeoutError:
        raise OSError(f"the ledger was not read within {DEADLINE_SECONDS:.0f} s") from None
