"""When the weekly report is due."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.services import WeeklyReportConfig
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.policy.weekly import last_moment, look
from tests.policy.worlds import Story, config, registered

TOLD: dict[str, Any] = {"notifications": [{"url": "json://team.example/x"}]}


def wanting(**report: object) -> Config:
    return config(None, **TOLD, weekly_report=report)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("report", "now", "moment"),
    [
        ({}, "2026-11-30 08:00:00", "2026-11-30 08:00"),  # a Monday
        ({}, "2026-11-30 07:59:59", "2026-11-23 08:00"),
        ({}, "2026-12-06 23:59:59", "2026-11-30 08:00"),
        ({"day": "friday", "hour": 0}, "2026-11-27 00:00:00", "2026-11-27 00:00"),
        ({"day": "sunday", "hour": 23}, "2026-11-30 00:00:00", "2026-11-29 23:00"),
        # winter and summer
        ({"timezone": "Europe/Paris"}, "2026-11-30 07:00:00", "2026-11-30 07:00"),
        ({"timezone": "Europe/Paris"}, "2026-07-06 06:00:00", "2026-07-06 06:00"),
        # the night in which 02:00 does not exist, and the one in which it comes twice
        ({"timezone": "Europe/Paris", "day": "sunday", "hour": 2},
         "2026-03-29 12:00:00", "2026-03-29 01:00"),
        ({"timezone": "Europe/Paris", "day": "sunday", "hour": 2},
         "2026-10-25 12:00:00", "2026-10-25 00:00"),
        # Monday there is Sunday in UTC
        ({"timezone": "Pacific/Auckland"}, "2026-11-29 20:00:00", "2026-11-29 19:00"),
        ({"timezone": "America/Los_Angeles", "day": "sunday", "hour": 20},
         "2026-11-30 03:59:59", "2026-11-23 04:00"),
    ],
)  # fmt: skip
def test_the_last_moment(report: dict[str, object], now: str, moment: str) -> None:
    assert last_moment(WeeklyReportConfig.model_validate(report), utc(now)) == utc(moment)


@pytest.mark.parametrize(
    ("told", "now", "then", "about"),
    [
        # who begins has nothing to tell
        (None, "2026-12-02 09:00:00", date(2026, 11, 30), None),
        (date(2026, 11, 23), "2026-11-30 07:59:59", date(2026, 11, 23), None),
        (date(2026, 11, 23), "2026-11-30 08:00:00", date(2026, 11, 30), "2026-11-23 to 2026-11-29"),
        (date(2026, 11, 30), "2026-11-30 08:00:30", date(2026, 11, 30), None),
        # a downtime of weeks: the last one, late
        (date(2026, 10, 5), "2026-12-04 00:00:00", date(2026, 11, 30), "2026-11-23 to 2026-11-29"),
        # the clock went back over it, and it comes again
        (date(2026, 11, 30), "2026-11-29 12:00:00", date(2026, 11, 30), None),
        # the clock had run ahead for a year
        (date(2027, 11, 29), "2026-12-02 09:00:00", date(2026, 11, 30), None),
    ],
)
def test_due_once(told: date | None, now: str, then: date, about: str | None) -> None:
    kept, events = look(Memory(weekly_told=told), wanting(), utc(now))
    assert kept == then
    assert [event.subject for event in events] == ([about] if about else [])


def test_an_hour_that_is_changed_does_not_tell_it_again() -> None:
    told = date(2026, 11, 30)
    _, events = look(Memory(weekly_told=told), wanting(hour=9), utc("2026-11-30 10:00:00"))
    assert events == ()


def test_never_and_nobody_to_tell_want_none_and_keep_nothing_for_later() -> None:
    memory, now = Memory(weekly_told=date(2026, 11, 23)), utc("2026-12-01 10:00:00")
    assert look(memory, wanting(day="never"), now) == (None, ())
    assert look(memory, config(), now) == (None, ())


@given(
    st.lists(st.integers(1, 60 * 24 * 3), min_size=1, max_size=60),
    st.sampled_from(("UTC", "Europe/Paris", "Pacific/Auckland", "America/Los_Angeles")),
    st.sampled_from(("monday", "wednesday", "sunday")),
    st.integers(0, 23),
)
def test_never_twice_and_never_skipped_while_it_runs(
    minutes: list[int], zone: str, day: str, hour: int
) -> None:
    """Looks at any moments, never three days apart: each week's moment is told at the next look."""
    wanted = wanting(day=day, hour=hour, timezone=zone)
    now = utc("2026-03-16 00:00:00")
    memory, told = Memory(), []
    moments = {last_moment(wanted.weekly_report, now)}
    for step in minutes:
        memory = replace(memory, weekly_told=look(memory, wanted, now)[0])
        now += timedelta(minutes=step)
        kept, events = look(memory, wanted, now)
        memory = replace(memory, weekly_told=kept)
        told += [event.since for event in events]
        moments.add(last_moment(wanted.weekly_report, now))
    assert told == sorted(moments)[1:]


def test_the_plan_tells_it_in_one_cycle_and_keeps_that() -> None:
    story = Story(wanting(day="monday", hour=9))
    story.has(registered("m1"))
    events = []
    for _ in range(5):
        made = story.cycle(timedelta(minutes=30))
        events += [each for each in made.memory.episodes if each.kind == "weekly_report"]
    assert [each.subject for each in events] == ["2026-08-31 to 2026-09-06"]
