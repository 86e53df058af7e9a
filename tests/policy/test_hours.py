"""Working hours: read off a clock on the wall, also where that is set forward or back."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpu_autoscaler.config.hours import (
    A_WEEK,
    DAYS,
    WindowConfig,
    WorkingHoursConfig,
    clock,
    most_at_once,
)
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.policy.hours import in_force, note
from tests.policy.worlds import QUEUE, Story, config, reasons, registered, task

PARIS, SYDNEY = "Europe/Paris", "Australia/Sydney"


def window(days: object, begin: object, to: object, **bounds: Any) -> dict[str, Any]:
    return {"days": days, "from": begin, "to": to, **(bounds or {"min_instances": 1})}


def hours(*windows: dict[str, Any], timezone: str = "UTC") -> WorkingHoursConfig:
    return WorkingHoursConfig.model_validate({"timezone": timezone, "windows": windows})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


SET_BACK = [
    (PARIS, "2026-10-24T12:00"),
    (SYDNEY, "2026-04-04T02:00"),
    ("Australia/Lord_Howe", "2026-04-04T02:00"),  # by half an hour
]
"""The noon before."""
NIGHT = window("sat", "22:00", "06:00")
WORK = window("mon-fri", "08:00", "19:00")
EARLY = window("sun", "02:30", "05:00")
LATE = window("sat", "22:00", "02:30")


@pytest.mark.parametrize(
    ("written", "timezone", "moment", "inside"),
    [
        (WORK, "UTC", "2026-09-07T07:59", False),  # a Monday
        (WORK, "UTC", "2026-09-07T08:00", True),
        (WORK, "UTC", "2026-09-07T18:59", True),
        (WORK, "UTC", "2026-09-07T19:00", False),
        (WORK, "UTC", "2026-09-12T12:00", False),
        (WORK, PARIS, "2026-09-07T06:00", True),
        (WORK, PARIS, "2026-12-07T06:00", False),  # winter
        (WORK, PARIS, "2026-12-07T07:00", True),
        (NIGHT, "UTC", "2026-09-12T22:00", True),
        (NIGHT, "UTC", "2026-09-13T05:59", True),
        (NIGHT, "UTC", "2026-09-13T06:00", False),
        (NIGHT, "UTC", "2026-09-12T05:00", False),
        (window("sun", "20:00", "04:00"), "UTC", "2026-09-07T03:59", True),  # into the next week
        (window("fri-mon", "00:00", "24:00"), "UTC", "2026-09-07T23:59", True),
        (window("fri-mon", "00:00", "24:00"), "UTC", "2026-09-08T00:00", False),
        # Paris sets its clocks forward on 2026-03-29: 02:00 is 03:00, at 01:00 UTC
        (EARLY, PARIS, "2026-03-29T00:59", False),
        (EARLY, PARIS, "2026-03-29T01:00", True),
        (EARLY, PARIS, "2026-03-29T02:59", True),
        (EARLY, PARIS, "2026-03-29T03:00", False),
        # and back on 2026-10-25: 03:00 is 02:00, at 01:00 UTC; 02:45 comes twice
        (EARLY, PARIS, "2026-10-25T00:29", False),
        (EARLY, PARIS, "2026-10-25T00:30", True),
        (EARLY, PARIS, "2026-10-25T01:15", True),
        (EARLY, PARIS, "2026-10-25T03:59", True),
        (EARLY, PARIS, "2026-10-25T04:00", False),
        (LATE, PARIS, "2026-10-25T00:29", True),
        (LATE, PARIS, "2026-10-25T00:30", False),
        (LATE, PARIS, "2026-10-25T01:15", False),  # 02:15 again
        # Sydney goes forward on 2026-10-04: 02:00 is 03:00, at 16:00 UTC of the day before
        (EARLY, SYDNEY, "2026-10-03T15:59", False),
        (EARLY, SYDNEY, "2026-10-03T16:00", True),
        (EARLY, SYDNEY, "2026-10-03T18:00", False),
        # and back on 2026-04-05: 03:00 is 02:00, at 16:00 UTC of the day before
        (EARLY, SYDNEY, "2026-04-04T15:29", False),
        (EARLY, SYDNEY, "2026-04-04T15:30", True),
        (EARLY, SYDNEY, "2026-04-04T16:15", True),
        (EARLY, SYDNEY, "2026-04-04T19:00", False),
    ],
)
def test_whether_a_moment_is_inside(
    written: dict[str, Any], timezone: str, moment: str, inside: bool
) -> None:
    assert (hours(written, timezone=timezone).window(at(moment)) is not None) is inside


@pytest.mark.parametrize(
    ("moment", "changes"),
    [
        ("2026-09-07T07:00", "Mon 08:00 UTC"),
        ("2026-09-07T08:00", "Mon 19:00 UTC"),
        ("2026-09-11T19:00", "Mon 08:00 UTC"),
        ("2026-09-13T23:59", "Mon 08:00 UTC"),
    ],
)
def test_when_it_changes(moment: str, changes: str) -> None:
    assert hours(WORK).changes(at(moment)) == changes


def test_midnight_within_a_window_of_several_days_changes_nothing() -> None:
    weekend = hours(window("sat,sun", "00:00", "24:00"))
    assert weekend.changes(at("2026-09-12T12:00")) == "Mon 00:00 UTC"
    assert hours(window("mon-sun", "00:00", "24:00")).changes(at("2026-09-12T12:00")) == ""


@given(st.integers(0, 4 * 60 - 1), st.integers(0, 4 * 60), st.sampled_from(SET_BACK))
def test_a_clock_that_is_set_back_begins_and_ends_no_window_twice(
    begin: int, to: int, night: tuple[str, str]
) -> None:
    if begin == to:
        return
    timezone, noon = night
    edge = hours(window("sun", clock(begin), clock(to)), timezone=timezone)
    seen = [edge.window(at(noon) + timedelta(minutes=n)) is not None for n in range(36 * 60)]
    assert sum(now and not before for before, now in pairwise([False, *seen])) <= 1


MINUTES = st.integers(0, 24 * 60 - 1)
WRITTEN = st.lists(
    st.builds(
        lambda days, begin, to: window(
            ",".join(DAYS[day] for day in days), clock(begin), clock(to)
        ),
        st.sets(st.integers(0, 6), min_size=1),
        MINUTES,
        MINUTES | st.just(24 * 60),
    ),
    min_size=1,
    max_size=4,
)


@given(WRITTEN, st.integers(0, A_WEEK - 1))
def test_at_most_one_window_is_in_force_and_all_of_its_minutes(
    written: list[dict[str, Any]], minute: int
) -> None:
    """What overlaps is refused; else each minute belongs to whom says so, and to nobody else."""
    try:
        week = hours(*written)
    except ValidationError:
        return
    moment = at("2026-09-07T00:00") + timedelta(minutes=minute)
    owners = [
        each
        for each in week.windows
        for begin, end in each.spans()
        if any(begin <= minute + week_ * A_WEEK < end for week_ in (0, 1))
    ]
    assert len(owners) <= 1
    assert week.window(moment) is (owners[0] if owners else None)


@given(WRITTEN)
def test_windows_that_share_a_minute_are_refused_and_others_are_not(
    written: list[dict[str, Any]],
) -> None:
    try:
        windows = [WindowConfig.model_validate(each) for each in written]
    except ValidationError:
        return
    minutes = [m % A_WEEK for each in windows for b, e in each.spans() for m in range(b, e)]
    apart = len(set(minutes)) == len(minutes)
    try:
        hours(*written)
    except ValidationError:
        assert not apart
    else:
        # one window of several days may meet itself at midnight, and means one thing
        assert apart or len(windows) == 1


EDGES = st.sampled_from([0, 6 * 60, 8 * 60, 18 * 60])
ONE = st.builds(
    lambda days, begin, to, least: window(
        ",".join(DAYS[day] for day in days), clock(begin), clock(to or 24 * 60), min_instances=least
    ),
    st.sets(st.integers(0, 6), min_size=1),
    EDGES,
    EDGES,
    st.integers(0, 3),
)


@given(st.lists(st.tuples(st.integers(0, 3), ONE | st.none()), min_size=1, max_size=3))
def test_what_is_kept_at_once_is_what_some_minute_of_the_week_keeps(
    written: list[tuple[int, dict[str, Any] | None]],
) -> None:
    if any(one and one["from"] == one["to"] for _, one in written):
        return
    queues = [(least, hours(one) if one else None) for least, one in written]
    kept = [0] * A_WEEK
    for least, week in queues:
        mine = [least] * A_WEEK
        for each in week.windows if week else ():
            for begin, end in each.spans():
                for minute in range(begin, end):
                    mine[minute % A_WEEK] = each.min_instances or 0
        kept = [a + b for a, b in zip(kept, mine, strict=True)]
    assert most_at_once(queues) == max(kept)


def settings(*windows: dict[str, Any], **queue: Any) -> Any:
    working = {"timezone": PARIS, "windows": list(windows)}
    return config({"working_hours": working, **queue})


def test_what_a_window_names_is_in_force_in_it() -> None:
    bounds = {"min_instances": 1, "max_instances": 3, "idle_timeout": "1h"}
    given_ = settings(window("mon", "10:00", "19:00", **bounds), idle_timeout_after_success="5m")
    inside = in_force(given_, at("2026-09-07T08:00")).queues[QUEUE]
    assert (inside.min_instances, inside.max_instances) == (1, 3)
    assert (inside.idle_timeout, inside.idle_timeout_after_success) == (timedelta(hours=1), None)
    outside = in_force(given_, at("2026-09-07T17:00")).queues[QUEUE]
    assert outside == given_.queues[QUEUE]
    assert note(inside, at("2026-09-07T08:00")) == " (in force until Mon 19:00 Europe/Paris)"
    assert note(outside, at("2026-09-07T17:00")) == (" (in force until Mon 10:00 Europe/Paris)")


def test_without_working_hours_nothing_is_made_anew() -> None:
    plain = config()
    assert in_force(plain, at("2026-09-07T08:00")) is plain
    assert note(plain.queues[QUEUE], at("2026-09-07T08:00")) == ""


def told(moment: str, written: dict[str, Any], **queue: Any) -> Story:
    """A cycle of a story at that moment."""
    now = at(moment)
    return Story(config=in_force(settings(written, **queue), now), now=now)


def test_a_machine_is_there_when_work_begins_and_goes_after_it() -> None:
    early = told("2026-09-07T06:00", WORK)
    made = early.cycle()
    assert reasons(made) == ["min_instances"]
    assert made.queues[0].because == (
        "launching 1 to keep min_instances = 1 (in force until Mon 19:00 Europe/Paris)"
    )
    late = told("2026-09-07T17:30", WORK)
    late.has(registered("m1"))
    late.report("m1")
    late.cycle()
    assert "idle_timeout" in reasons(late.wait(timedelta(hours=1)))


def test_who_has_to_wait_is_told_until_when() -> None:
    closed = told("2026-09-12T10:00", window("sat,sun", "00:00", "24:00", max_instances=0))
    closed.enqueue("t1")
    (queue,) = closed.cycle().queues
    assert queue.reason is Reason.MAX_INSTANCES
    assert queue.because == (
        "0 of max_instances = 0 are billed (in force until Mon 00:00 Europe/Paris)"
    )


def test_where_hours_end_what_idles_goes_and_what_works_goes_on() -> None:
    closed = told("2026-09-12T10:00", window("sat,sun", "00:00", "24:00", max_instances=0))
    closed.has(registered("m1"), registered("m2"))
    closed.tasks["t1"] = task("t1", "in_progress", worker="m1")
    closed.report("m1", "t1")
    closed.report("m2")
    closed.cycle()
    made = closed.wait(timedelta(hours=1))
    assert [(each.subject, each.reason) for each in made.effects] == [("m2", Reason.ABOVE_MAX)]
