"""What it cost, read in a thread, and told once a week."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from gpu_autoscaler.domain.ledger import Page, Stretch
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.report import By
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.web import costs as module
from gpu_autoscaler.web.costs import Costs
from tests.web.costs_scene import two_weeks


class Then(SystemClock):
    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 28, 14, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.passed


class Shelf:
    """The ledger of two weeks, and who read it."""

    def __init__(self) -> None:
        self.reads: list[Period] = []
        self.threads: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.fails: Exception | None = None

    async def __call__(self, period: Period, now: datetime) -> tuple[list[Page], list[Stretch]]:
        self.reads.append(period)
        self.threads.add(threading.current_thread().name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await SystemClock().sleep(0)
        self.at_once -= 1
        if self.fails is not None:
            raise self.fails
        return two_weeks()


def test_in_a_thread_one_at_a_time_and_kept_for_a_minute() -> None:
    shelf, clock = Shelf(), Then()

    async def main() -> None:
        costs = Costs("research", shelf, clock)
        asks = [costs.of("2026-11", by) for by in (By.DAY, By.USER, By.DAY)]
        day, user, again = await asyncio.gather(*asks)
        assert day is again
        assert day["total"]["eur"] == user["total"]["eur"] > 0
        clock.passed = 61.0
        await costs.of("2026-11", By.DAY)
        for n in range(1, 25):
            await costs.of(f"2026-11-{n:02}", By.DAY)

    asyncio.run(main())
    assert len(shelf.reads) == 27
    assert shelf.threads == {"costs"}
    assert shelf.most_at_once == 1


def test_what_cannot_be_read_is_said_and_tried_again() -> None:
    shelf = Shelf()
    shelf.fails = OSError("the bucket does not answer")

    async def main() -> None:
        costs = Costs("research", shelf, Then())
        with pytest.raises(OSError, match="the bucket does not answer"):
            await costs.of("7d", By.DAY)
        with pytest.raises(ValueError, match="write today"):
            await costs.of("soon", By.DAY)
        shelf.fails = None
        assert (await costs.of("7d", By.DAY))["total"]["eur"] > 0

    asyncio.run(main())


def test_who_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_SECONDS", 0.01)
    ends = threading.Event()

    async def hangs(period: Period, now: datetime) -> tuple[list[Page], list[Stretch]]:
        ends.wait()
        return [], []

    async def main() -> None:
        with pytest.raises(OSError, match="was not read within"):
            await Costs("research", hangs, Then()).of("7d", By.DAY)

    try:
        asyncio.run(main())
    finally:
        ends.set()


def test_the_weekly_report_is_about_the_seven_days_before() -> None:
    shelf = Shelf()
    moment = datetime(2026, 11, 23, 7, tzinfo=UTC)
    headline, text = asyncio.run(Costs("research", shelf, Then()).weekly(moment))
    assert headline.endswith(" EUR, 2026-11-16 to 2026-11-22")
    assert "than the week before" in text
    assert "Busy with" in text
    day = datetime(2026, 11, 9, tzinfo=UTC)
    assert shelf.reads == [Period(day, datetime(2026, 11, 23, tzinfo=UTC))]
