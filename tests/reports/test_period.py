"""What people write for a time, and what they mean."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from gpu_autoscaler.reports.period import ALLOWED, Period, parse_period

NOW = datetime(2026, 11, 18, 9, 30, tzinfo=UTC)
"""A Wednesday."""


def day(month: int, number: int, year: int = 2026) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "since", "until", "said"),
    [
        ("today", day(11, 18), day(11, 19), "2026-11-18"),
        ("week", day(11, 16), day(11, 23), "2026-11-16 to 2026-11-22"),
        ("last-month", day(10, 1), day(11, 1), "2026-10-01 to 2026-10-31"),
        ("month", day(11, 1), day(12, 1), "2026-11-01 to 2026-11-30"),
        ("7d", NOW - timedelta(days=7), NOW, "2026-11-11 to 2026-11-18"),
        ("12h", NOW - timedelta(hours=12), NOW, "2026-11-17 to 2026-11-18"),
        ("2026", day(1, 1), day(1, 1, 2027), "2026-01-01 to 2026-12-31"),
        ("2024-02", day(2, 1, 2024), day(3, 1, 2024), "2024-02-01 to 2024-02-29"),
        ("2025-12", day(12, 1, 2025), day(1, 1), "2025-12-01 to 2025-12-31"),
        ("2026-11-03", day(11, 3), day(11, 4), "2026-11-03"),
        ("2026-11-01..2026-11-15", day(11, 1), day(11, 16), "2026-11-01 to 2026-11-15"),
        ("2026-09..2026-11", day(9, 1), day(12, 1), "2026-09-01 to 2026-11-30"),
        ("2025..2026-11-03", day(1, 1, 2025), day(11, 4), "2025-01-01 to 2026-11-03"),
    ],
)
def test_what_is_meant(text: str, since: datetime, until: datetime, said: str) -> None:
    period = parse_period(text, NOW)
    assert period == Period(since, until)
    assert str(period) == said


def test_days_are_utc_wherever_one_is() -> None:
    tokyo = NOW.replace(hour=16).astimezone(timezone(timedelta(hours=9)))
    assert tokyo.date() != NOW.date()
    assert parse_period("today", tokyo) == parse_period("today", NOW)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", ALLOWED),
        ("yesterday", ALLOWED),
        ("7", ALLOWED),
        ("2026-13", ALLOWED),
        ("2026-02-30", ALLOWED),
        ("0001-01-01", ALLOWED),
        ("2026-11-01..", ALLOWED),
        ("..2026-11-01", ALLOWED),
        ("2026-11-01..today", ALLOWED),
        ("２０２６-11", ALLOWED),
        ("-7d", ALLOWED),
        ("2026-11-15..2026-11-01", "the end is before the beginning"),
        ("0s", "the end is before the beginning"),
        ("2026-12", "it lies in the future"),
        ("9999", ALLOWED),
        ("2020..2026", "at most 1100 days"),
        ("3000d", "at most 1100 days"),
    ],
)
def test_what_is_no_time_is_a_sentence(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_period(text, NOW)
    assert why in str(caught.value)
