"""Working hours: windows of the week, in local time, in which a queue has other bounds.

A window is read off a clock on the wall: when that is set forward, what would begin in the hour
that it leaves out begins with the next one; when it is set back, the hour that comes twice counts
the first time, and the minute before the change lasts through the second: nothing begins or ends
twice. So days with a change have windows that are an hour shorter or longer.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gpu_autoscaler.config.base import Settings
from gpu_autoscaler.config.fields import Count, Duration

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
A_DAY, A_WEEK = 24 * 60, 7 * 24 * 60
"""Minutes."""

_TIME = re.compile(r"(\d{1,2}):(\d\d)", re.ASCII)
_LIKE = "expected a time such as 08:00, up to 24:00"


def _days(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(each, str) for each in parts):
        raise ValueError("expected days such as mon-fri, or sat,sun")
    found: set[int] = set()
    for part in parts:
        first, dash, last = part.strip().lower().partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"days are {', '.join(DAYS)}, such as mon-fri, or sat,sun")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {(begin + n) % 7 for n in range((end - begin) % 7 + 1)}
    return tuple(sorted(found))


def _time(value: object) -> object:
    if isinstance(value, str) and (parts := _TIME.fullmatch(value.strip())):
        hours, minutes = int(parts[1]), int(parts[2])
        if minutes < 60 and hours * 60 + minutes <= A_DAY:
            return hours * 60 + minutes
    # YAML reads 19:00 without quotes as a number to the base of 60, which is the minutes
    if isinstance(value, int) and not isinstance(value, bool) and 60 <= value <= A_DAY:
        return value
    raise ValueError(_LIKE)


def _not_at_the_end(value: int) -> int:
    if value == A_DAY:
        raise ValueError("a window begins at 23:59 at the latest; 24:00 is 00:00 of the day after")
    return value


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise ValueError("no such time zone; their names look like Europe/Paris, or UTC") from None
    return value


TimeZone = Annotated[str, AfterValidator(_time_zone)]
Days = Annotated[tuple[int, ...], BeforeValidator(_days), Field(min_length=1)]
"""0 for Monday."""
TimeOfDay = Annotated[int, BeforeValidator(_time)]
"""Minutes since midnight."""


class WindowConfig(Settings):
    """Some hours of some days, and what is in force then; None: what the queue says."""

    days: Days
    """On which it begins."""
    begin: Annotated[TimeOfDay, AfterValidator(_not_at_the_end)] = Field(alias="from")
    to: TimeOfDay
    """Before `from`: on the day after."""
    min_instances: Count | None = None
    max_instances: Count | None = None
    idle_timeout: Duration | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "WindowConfig":
        if self.begin == self.to:
            raise ValueError("from and to are the same; a whole day is from 00:00 to 24:00")
        if {self.min_instances, self.max_instances, self.idle_timeout} == {None}:
            raise ValueError("changes nothing: give min_instances, max_instances or idle_timeout")
        return self

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in self.days)
        return f"{days} {clock(self.begin)}-{clock(self.to)}"

    def spans(self) -> Iterator[tuple[int, int]]:
        """Beginning and end of each, in minutes since Monday 0:00; the end may be in the week
        after."""
        for day in self.days:
            begin = day * A_DAY + self.begin
            yield begin, begin + ((self.to - self.begin) % A_DAY or A_DAY)


class WorkingHoursConfig(Settings):
    """The windows of one queue."""

    timezone: TimeZone = "UTC"
    windows: tuple[WindowConfig, ...] = Field(default=(), min_length=1, validate_default=False)
    """None where the defaults name the time zone for queues that have some."""

    @model_validator(mode="after")
    def _apart(self) -> "WorkingHoursConfig":
        taken: dict[int, WindowConfig] = {}
        for window in self.windows:
            for begin, end in window.spans():
                for minute in range(begin, end):
                    other = taken.setdefault(minute % A_WEEK, window)
                    if other is not window:
                        when = f"{DAYS[minute // A_DAY % 7]} {clock(minute % A_DAY)}"
                        raise ValueError(f"{other} and {window} overlap on {when}")
        return self

    def window(self, now: datetime) -> WindowConfig | None:
        """The one that a moment is in."""
        return self._window(self._minute(now))

    def _window(self, minute: int) -> WindowConfig | None:
        for window in self.windows:
            for begin, end in window.spans():
                if (minute - begin) % A_WEEK < end - begin:
                    return window
        return None

    def changes(self, now: datetime) -> str:
        """When another window begins or this one ends, as `Mon 08:00 Europe/Paris`; empty when
        one lasts the whole week."""
        minute = self._minute(now)
        edges = {edge % A_WEEK for each in self.windows for span in each.spans() for edge in span}
        for at in sorted(edges, key=lambda edge: (edge - minute) % A_WEEK or A_WEEK):
            if self._window(at) is not self._window(minute):
                return f"{DAYS[at // A_DAY].capitalize()} {clock(at % A_DAY)} {self.timezone}"
        return ""

    def _minute(self, now: datetime) -> int:
        zone = ZoneInfo(self.timezone)
        while (local := now.astimezone(zone)).fold:  # the hour after a clock was set back
            now -= timedelta(minutes=1)
        return local.weekday() * A_DAY + local.hour * 60 + local.minute


def most_at_once(queues: Iterable[tuple[int, WorkingHoursConfig | None]]) -> int:
    """The largest sum of min_instances that is ever in force, of queues with what they keep
    outside their windows. Windows of different time zones are taken to meet: these move against
    each other during the year."""
    zones: dict[str, tuple[list[int], Counter[int]]] = {}
    for least, hours in queues:
        # what is kept as the week ends, and by how much that changes at a minute of it
        kept, steps = zones.setdefault(hours.timezone if hours else "", ([], Counter()))
        kept.append(least)
        for window in hours.windows if hours else ():
            more = 0 if window.min_instances is None else window.min_instances - least
            for begin, end in window.spans():
                steps[begin] += more
                steps[end % A_WEEK] -= more
                if end >= A_WEEK:
                    kept.append(more)
    return sum(
        max(accumulate((steps[minute] for minute in sorted(steps)), initial=sum(kept)))
        for kept, steps in zones.values()
    )


def clock(minutes: int) -> str:
    """`08:00`."""
    return f"{minutes // 60:02}:{minutes % 60:02}"
