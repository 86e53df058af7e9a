from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_autoscaler.config.units import (
    MAX_DURATION,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@given(st.integers(0, int(MAX_DURATION.total_seconds())))
def test_every_duration_survives_the_round_trip(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@given(st.one_of(st.integers(0, 10**15), st.builds(lambda n: n * 2**30, st.integers(0, 10**5))))
def test_every_size_survives_the_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=30))
def test_any_text_is_a_duration_and_a_size_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172_800), ("1d1s", 86_401), ("0s", 0)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30", "needs a unit"),
        ("1.5", "needs a unit"),
        ("", "not a duration"),
        ("30:00", "not a duration"),
        ("30m1h", "not a duration"),
        ("1.5h", "not a duration"),
        ("-5m", "not a duration"),
        ("30 m", "not a duration"),
        ("30M", "not a duration"),
        ("٣m", "not a duration"),
        ("30m\n", "not a duration"),
        ("9999d", "longer than 3650d"),
        ("9" * 30 + "d", "not a duration"),
    ],
)
def test_what_is_no_duration(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(minutes=90), "1h30m"),
        (timedelta(days=1, seconds=59.9), "1d59s"),
        (timedelta(milliseconds=300), "0s"),
        (timedelta(minutes=-5), "-5m"),
    ],
)
def test_durations_are_written_short(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200GB", 200_000_000_000),
        ("128GiB", 137_438_953_472),
        ("3.2TB", 3_200_000_000_000),
        ("12B", 12),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("200", "needs a unit"),
        ("200G", "not a size"),
        ("200gb", "not a size"),
        ("200 GB", "not a size"),
        ("-1GB", "not a size"),
        ("1.5B", "not a whole number"),
        ("9" * 40 + "GB", "not a size"),
    ],
)
def test_what_is_no_size(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_size(text)


def test_sizes_are_written_with_the_largest_unit_that_fits() -> None:
    assert [format_size(n) for n in (125 * 10**9, 3_200 * 10**9, 2**30, 1001, 0)] == [
        "125GB",
        "3200GB",
        "1GiB",
        "1001B",
        "0B",
    ]
