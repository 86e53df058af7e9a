"""Durations and sizes as people write them: `1h30m`, `200GB`.

Formatting is exact for what parsing accepts: `parse(format(x)) == x`.
"""

import re
from datetime import timedelta
from decimal import Decimal

DURATION_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""Seconds per unit, largest first."""

MAX_DURATION = timedelta(days=3_650)
"""Ten years: anything longer is a slip of the keyboard (and would overflow a date)."""

DECIMAL_UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}
BINARY_UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
SIZE_UNITS = {**DECIMAL_UNITS, **BINARY_UNITS, "B": 1}
"""Bytes per unit. Scaleway and disk makers count in powers of ten."""

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(" + "|".join(SIZE_UNITS) + ")", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_MAX_CHARACTERS = 24


def parse_duration(text: str) -> timedelta:
    """Read `90s`, `30m`, `1h30m` or `2d`: whole numbers, largest unit first, no spaces.

    A bare number is refused: it was seconds in one tool and minutes in the next.

    Raises ValueError with a sentence that says what to write instead (and not the text itself).
    """
    if _NUMBER.fullmatch(text):
        raise ValueError("a duration needs a unit, such as 30s or 30m")
    found = _DURATION.fullmatch(text)
    if not text or len(text) > _MAX_CHARACTERS or found is None:
        raise ValueError("not a duration: write it like 90s, 30m, 1h30m or 2d")
    seconds = sum(
        int(number or 0) * unit
        for number, unit in zip(found.groups(), DURATION_UNITS.values(), strict=True)
    )
    if seconds > MAX_DURATION.total_seconds():
        raise ValueError(f"longer than {format_duration(MAX_DURATION)}")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """Write a duration like `1h30m`, cut to whole seconds; a negative one gets a minus sign."""
    seconds = int(duration.total_seconds())
    if seconds < 0:
        return "-" + format_duration(-duration)
    parts = []
    for unit, length in DURATION_UNITS.items():
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Read `200GB`, `3.2TB` or `128GiB` as bytes; a lone `0` needs no unit.

    Raises ValueError with a sentence that says what to write instead (and not the text itself).
    """
    if text == "0":
        return 0
    if _NUMBER.fullmatch(text):
        raise ValueError("a size needs a unit, such as 200GB or 200GiB")
    found = _SIZE.fullmatch(text)
    if len(text) > _MAX_CHARACTERS or found is None:
        raise ValueError(f"not a size: write a number and one of {', '.join(SIZE_UNITS)}")
    size = Decimal(found[1]) * SIZE_UNITS[found[2]]
    if size != int(size):
        raise ValueError("not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Write bytes with the largest unit that leaves no fraction, powers of ten first."""
    for unit, length in (*DECIMAL_UNITS.items(), *BINARY_UNITS.items()):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size}B"
