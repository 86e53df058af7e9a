"""Events happen in the order of their times, each at its own, whenever somebody looks."""

from datetime import timedelta

import pytest

from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START
from tests.emulator.scaleway_rig import ManualClock


class Course:
    """A timeline that writes down what happened when, in seconds."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.line = Timeline(self.clock)
        self.seen: list[tuple[str, float]] = []

    def note(self, name: str) -> None:
        self.seen.append((name, (self.line.now() - VIRTUAL_START).total_seconds()))

    def plan(self, seconds: float, name: str) -> None:
        self.line.after(seconds, lambda: self.note(name))


def test_nothing_happens_before_somebody_looks_nor_before_its_time() -> None:
    course = Course()
    course.plan(10, "a")
    course.clock.turn(9.9)
    course.line.advance()
    assert course.seen == []
    course.clock.turn(0.1)
    assert course.seen == []
    course.line.advance()
    assert course.seen == [("a", 10)]
    course.line.advance()
    assert course.seen == [("a", 10)], "once"


def test_a_late_look_finds_everything_in_order_and_at_its_time() -> None:
    course = Course()
    for seconds, name in ((30, "c"), (10, "a"), (20, "b"), (10, "a, too")):
        course.plan(seconds, name)
    course.clock.turn(3600)
    course.line.advance()
    assert course.seen == [("a", 10), ("a, too", 10), ("b", 20), ("c", 30)]
    assert course.line.now() == VIRTUAL_START + timedelta(hours=1), "the present is back"


def test_what_an_event_begins_counts_from_the_events_own_time() -> None:
    course = Course()

    def first() -> None:
        course.note("first")
        course.plan(5, "second")

    course.line.after(10, first)
    course.plan(12, "between")
    course.clock.turn(3600)
    course.line.advance()
    assert course.seen == [("first", 10), ("between", 12), ("second", 15)]


def test_an_event_that_asks_a_model_does_not_let_others_overtake_it() -> None:
    course = Course()

    def asks() -> None:
        course.line.advance()
        course.note("asks")

    course.line.after(10, asks)
    course.plan(20, "later")
    course.clock.turn(60)
    course.line.advance()
    assert course.seen == [("asks", 10), ("later", 20)]


def test_an_event_that_breaks_does_not_stop_the_clock() -> None:
    course = Course()

    def breaks() -> None:
        raise ZeroDivisionError

    course.line.after(10, breaks)
    course.plan(20, "later")
    course.clock.turn(60)
    with pytest.raises(ZeroDivisionError):
        course.line.advance()
    assert course.line.now() == course.clock.now()
    course.line.advance()
    assert course.seen == [("later", 20)]
