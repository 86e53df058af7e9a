"""The process ends when no cycle ends any more; judged from outside the loop."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import repeat

import pytest

from gpu_autoscaler.web.watchdog import Watchdog


class Watched:
    """A loop whose cycles a test ends by hand, and the clock of a thread that never waits."""

    def __init__(self, interval: float, cycles: Iterator[bool]) -> None:
        self.interval = timedelta(seconds=interval)
        self.last: object | None = None
        self.seconds = 0.0
        self.died_at: list[float] = []
        self.warned_at: list[float] = []
        self._cycles = cycles

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> bool:
        """One interval passes, with or without a finished cycle; over when the story is."""
        self.seconds += seconds
        finished = next(self._cycles, None)
        if finished:
            self.last = object()
        return finished is None

    def watch(self) -> list[float]:
        def die() -> None:
            self.died_at.append(self.seconds)

        def warn(text: str) -> None:
            assert "no cycle has ended" in text
            self.warned_at.append(self.seconds)

        dog = Watchdog(self, self, warn=warn, wait=self.wait, die=die)  # type: ignore[arg-type]
        dog.watch()
        return self.died_at


@pytest.mark.parametrize(
    ("interval", "finished", "dies_at"),
    [
        (30, [True] * 100, []),
        (30, [False] * 10, []),
        (30, [False] * 11, [330]),
        (30, [True, *[False] * 11], [360]),
        (30, [*[False] * 10, True, *[False] * 10], []),
        (60, [False] * 11, [660]),
        (1, [False] * 300, []),  # slow services alone may take a minute
        (1, [False] * 301, [301]),
    ],
)
def test_after_ten_intervals_without_a_cycle_it_dies(
    interval: float, finished: list[bool], dies_at: list[float]
) -> None:
    assert Watched(interval, iter(finished)).watch() == dies_at


def test_it_warns_once_per_standstill() -> None:
    watched = Watched(30, iter([*[False] * 9, True, *[False] * 9, True]))
    assert watched.watch() == []
    assert watched.warned_at == [180, 480]


def test_it_dies_once() -> None:
    assert len(Watched(30, repeat(False, 1000)).watch()) == 1


def test_the_watch_ends_with_its_block() -> None:
    watched = Watched(3600, iter(()))
    with Watchdog(watched, watched) as dog:  # type: ignore[arg-type]
        thread = dog._thread
        assert thread.is_alive()
    assert not thread.is_alive()
