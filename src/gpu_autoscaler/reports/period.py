"""The time that a report is about, as people write it."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from gpu_autoscaler.config.units import parse_duration

DAY = timedelta(days=1)

LONGEST = timedelta(days=1100)
"""Three years: each day is a page to read."""

FIRST_YEAR = 2020

ALLOWED = (
    "write today, week, month, last-week, last-month, a duration up to now (7d), a year (2026), "
    "a month (2026-11), a day (2026-11-03), or two of these with .. between them "
    "(2026-11-01..2026-11-15, the last one included)"
)

_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` to `until`, which does not belong to it; both UTC."""

    since: datetime
    until: datetime

    @property
    def first_day(self) -> date:
        """It may be cut, and so may the last one."""
        return self.since.date()

    @property
    def last_day(self) -> date:
        """The one before, when the period ends with it."""
        return max(self.since, self.until - timedelta(microseconds=1)).date()

    def __str__(self) -> str:
        if self.first_day == self.last_day:
            return self.first_day.isoformat()
        return f"{self.first_day} to {self.last_day}"


def parse_period(text: str, now: datetime) -> Period:
    """What `--since` says; all days are UTC. Raises ValueError with what is allowed."""
    now = now.astimezone(UTC)
    period = _named(text, now) or _dates(text) or _lasting(text, now)
    if period is None:
        raise ValueError(ALLOWED)
    if period.until <= period.since:
        raise ValueError(f"the end is before the beginning; {ALLOWED}")
    if period.since > now:
        raise ValueError("it lies in the future")
    if period.until - period.since > LONGEST:
        raise ValueError(f"at most {LONGEST.days} days")
    return period


def _named(text: str, now: datetime) -> Period | None:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text == "today":
        return Period(today, today + DAY)
    monday = today - today.weekday() * DAY
    if text == "week":
        return Period(monday, monday + 7 * DAY)
    if text == "last-week":
        return Period(monday - 7 * DAY, monday)
    if text == "month":
        return _date(f"{today:%Y-%m}")
    if text == "last-month":
        return _date(f"{today.replace(day=1) - DAY:%Y-%m}")
    return None


def _dates(text: str) -> Period | None:
    first, dots, last = text.partition("..")
    begin = _date(first)
    end = _date(last) if dots else begin
    return Period(begin.since, end.until) if begin and end else None


def _date(text: str) -> Period | None:
    """A year, a month or a day."""
    found = _DATE.fullmatch(text)
    if found is None or int(found[1]) < FIRST_YEAR:
        return None
    year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    try:
        since = datetime(year, month, day, tzinfo=UTC)
        if found[3]:
            return Period(since, since + DAY)
        if found[2]:
            return Period(since, (since + 31 * DAY).replace(day=1))
        return Period(since, since.replace(year=year + 1))
    except (ValueError, OverflowError):  # no such day, or the calendar ends
        return None


def _lasting(text: str, now: datetime) -> Period | None:
    try:
        duration = parse_duration(text)
    except ValueError:
        return None
    return Period(now - min(duration, LONGEST + DAY), now)
