"""The smallest parts that a report adds up: one use, one day, at most one task each.

Time is in whole microseconds and money in `UNITS_PER_EUR`, so that sums are exact however the
parts are grouped: what all tasks and all overhead cost is what all instances cost.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from gpu_autoscaler.domain.ledger import Stretch, TaskRecord, Use
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.timeline import Ended

MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_HOUR = 3_600 * 10**6
_MICROSECONDS_PER_DAY = 24 * MICROSECONDS_PER_HOUR
_NANOS_PER_EUR = 10**9
"""A price per hour is exact to this part."""
UNITS_PER_EUR = _NANOS_PER_EUR * MICROSECONDS_PER_HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stretch."""

    stretch: Stretch
    use: Use
    day: date
    microseconds: int
    cost: int
    """In `UNITS_PER_EUR`."""
    task: str = ""
    """Its id, when the machine was busy and with what is known."""


def price(stretch: Stretch) -> int:
    """Of an hour of it, with its storage, in billionths of a euro."""
    return _machine_price(stretch) + _nanos(stretch.storage_eur_per_hour)


def pieces(stretches: Iterable[Stretch], ended: Ended, period: Period) -> Iterator[Piece]:
    """Of what lies in the period: parts of neighbouring periods add up to those of both."""
    first, last = _number(period.since), _number(period.until)
    for stretch in stretches:
        since, until = _number(stretch.since), _number(stretch.until)
        if since >= last or until < first or until == first != since:
            continue
        begin, end = max(since, first), min(until, last)
        use, per_hour = stretch.use, price(stretch)
        while begin < end:
            day = begin // _MICROSECONDS_PER_DAY
            stop = min(end, (day + 1) * _MICROSECONDS_PER_DAY)
            busy = use is Use.BUSY
            shares = _shares(stretch, ended, begin, stop) if busy else {"": stop - begin}
            for task, length in shares.items():
                if length:
                    yield Piece(stretch, use, _date(day), length, per_hour * length, task)
            begin = stop
        if stretch.rounding_seconds and stretch.powered and until <= last:
            # paid for after the work: nobody's
            length = round(stretch.rounding_seconds * 10**6)
            day = max(since, until - 1) // _MICROSECONDS_PER_DAY
            cost = _machine_price(stretch) * length
            yield Piece(stretch, Use.IDLE, _date(day), length, cost)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of `total` by weight that add up to it (largest remainder); equal ones when
    nothing has weight. Each is within one of its exact share."""
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts, rests = [], []
    for number, weight in enumerate(weights):
        part, rest = divmod(total * weight, whole)
        parts.append(part)
        rests.append((-rest, number))
    for _, number in sorted(rests)[: total - sum(parts)]:
        parts[number] += 1
    return parts


def _shares(stretch: Stretch, ended: Ended, begin: int, end: int) -> Mapping[str, int]:
    """What each task has of these microseconds of a busy stretch."""
    if len(stretch.tasks) <= 1:
        return {next(iter(stretch.tasks), ""): end - begin}
    known = {
        task: sum(_overlap(each, begin, end) for each in records)
        for task in stretch.tasks
        if (records := ended.get((task, stretch.instance)))
    }
    unknown = len(stretch.tasks) - len(known)
    left = max(0, end - begin - sum(known.values()))
    # the unknown ones share what the known ones leave; scaled by their number to stay whole
    weights = [known[task] * unknown if task in known else left for task in stretch.tasks]
    if not unknown:
        weights = list(known.values())
    return dict(zip(stretch.tasks, apportion(end - begin, weights), strict=True))


def _overlap(record: TaskRecord, begin: int, end: int) -> int:
    """A time that ClearML does not know bounds nothing."""
    if record.started_at:
        begin = max(begin, _number(record.started_at))
    return max(0, min(end, _number(record.ended_at)) - begin)


def _machine_price(stretch: Stretch) -> int:
    return _nanos(stretch.eur_per_hour or 0.0) if stretch.powered else 0


def _nanos(eur: float) -> int:
    return round(eur * _NANOS_PER_EUR)


def _number(moment: datetime) -> int:
    return (moment - _EPOCH) // MICROSECOND


def _date(day: int) -> date:
    return date.fromordinal(_EPOCH.toordinal() + day)
