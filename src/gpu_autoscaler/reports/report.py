"""A report: what a period cost, by what, and what it was good for."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gpu_autoscaler.domain.ledger import HOUR, Page, Stretch, TaskRecord, Use
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.pieces import (
    MICROSECOND,
    MICROSECONDS_PER_HOUR,
    UNITS_PER_EUR,
    Piece,
    pieces,
    price,
)
from gpu_autoscaler.reports.timeline import by_run, newest, sharpen, untangled

UNKNOWN = "(unknown)"
"""Project, user or task: not yet, as the task still runs, or not any more, as it was deleted."""


class By(StrEnum):
    """What a row stands for."""

    TASK = "task"
    PROJECT = "project"
    USER = "user"
    QUEUE = "queue"
    TYPE = "type"
    DAY = "day"


WORK = frozenset({By.TASK, By.PROJECT, By.USER})
"""To these only what was busy can be counted: the rest is overhead, in rows of its own."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Time and money by use (each is there), exactly: the units are those of `pieces`."""

    microseconds: Mapping[Use, int]
    cost: Mapping[Use, int]

    @property
    def total_cost(self) -> int:
        """All of it, in `UNITS_PER_EUR`."""
        return sum(self.cost.values())

    @property
    def eur(self) -> float:
        """All of it."""
        return self.total_cost / UNITS_PER_EUR

    def eur_of(self, *uses: Use) -> float:
        """What these cost."""
        return sum(self.cost[use] for use in uses) / UNITS_PER_EUR

    def hours_of(self, *uses: Use) -> float:
        """How long these lasted; of a machine that is on, what is billed."""
        return sum(self.microseconds[use] for use in uses) / MICROSECONDS_PER_HOUR

    @property
    def hours_above_floor(self) -> float:
        """Billed hours of machines, without the busy ones: what no scaler can go below."""
        return self.hours_of(Use.BOOT, Use.IDLE)

    @property
    def overhead_share(self) -> float:
        """Of the money, what no task ran for; 0 to 1."""
        overhead = self.total_cost - self.cost[Use.BUSY]
        return overhead / self.total_cost if self.total_cost else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One task, project, queue, ..."""

    key: str
    """What tells it from the others: the id of a task, otherwise its name."""
    name: str
    spent: Spent
    tasks: int
    """That ran in the period, in part at least."""
    project: str = ""
    user: str = ""
    """Both of a task alone; empty when not known."""


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """What machines would have cost that are never off."""

    machines: Mapping[str, int]
    """By type."""
    hours: float
    """Of the period, as far as the ledger covers it."""
    eur: float
    saved_eur: float
    """Below zero when they would have been cheaper."""

    @property
    def saved_share(self) -> float:
        """0 to 1, or below."""
        return self.saved_eur / self.eur if self.eur else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a period cost."""

    period: Period
    by: By
    rows: Sequence[Row]
    """The dearest first, days in their order; with `overhead` they add up to `total`, exactly."""
    overhead: Sequence[Row]
    """By use, where rows stand for work; otherwise it is within the rows."""
    total: Spent
    tasks: int
    always_on: AlwaysOn | None
    """None when no machine was busy."""
    unpriced_hours: Mapping[str, float] = field(default_factory=dict)
    """By type: billed, but nobody knew the price, so they count as nothing."""
    warnings: Sequence[str] = ()
    """What makes it less than the truth, for people."""


def report(
    pages: Iterable[Page],
    lasting: Iterable[Stretch],
    period: Period,
    now: datetime,
    by: By,
    *,
    always_on: int | None = None,
) -> Report:
    """Reckon.

    `pages` are those of the period, with some before it, which show since when the ledger is
    kept, and after it, where tasks stand that ended later. `lasting` are the stretches that
    have not ended, up to the last look. Saved is counted against `always_on` machines of the type
    that worked most; None: as many of each type as ever worked at once.
    """
    pages = list(pages)
    records = newest(each for page in pages for each in page.tasks)
    ended = by_run(records)
    told = [*(each for page in pages for each in page.stretches), *lasting]
    stretches = sharpen(untangled(told), ended)
    parts = list(pieces(stretches, ended, period))
    rows, overhead = _rows(parts, by, {each.id: each for each in records})
    total = _spent(parts)
    within = _covered(stretches, period, now)
    unpriced = Counter[str]()
    for part in parts:
        if part.use is not Use.STOPPED and part.stretch.eur_per_hour is None:
            unpriced[part.stretch.commercial_type] += part.microseconds
    hours = {name: count / MICROSECONDS_PER_HOUR for name, count in sorted(unpriced.items())}
    return Report(
        period=period,
        by=by,
        rows=rows,
        overhead=overhead,
        total=total,
        tasks=len({part.task for part in parts if part.task}),
        always_on=_always_on(stretches, parts, within, always_on, total),
        unpriced_hours=hours,
        warnings=[
            *(
                f"{count:.1f} h of {name} had no known price and are counted without it"
                for name, count in hours.items()
            ),
            *(
                problem
                for page in pages
                if period.first_day <= page.day <= period.last_day
                for problem in page.problems
            ),
        ],
    )


def _spent(parts: Iterable[Piece]) -> Spent:
    microseconds, cost = dict.fromkeys(Use, 0), dict.fromkeys(Use, 0)
    for part in parts:
        microseconds[part.use] += part.microseconds
        cost[part.use] += part.cost
    return Spent(microseconds, cost)


def _rows(
    parts: Sequence[Piece], by: By, records: Mapping[str, TaskRecord]
) -> tuple[list[Row], list[Row]]:
    key_of = _key_of(by, records)
    groups: dict[str, list[Piece]] = defaultdict(list)
    overhead: dict[Use, list[Piece]] = defaultdict(list)
    for part in parts:
        if by in WORK and part.use is not Use.BUSY:
            overhead[part.use].append(part)
        else:
            groups[key_of(part)].append(part)
    rows = [_row(key, group, by, records) for key, group in groups.items()]
    if by is By.DAY:
        rows.sort(key=lambda row: row.key)
    else:
        rows.sort(key=lambda row: (-row.spent.total_cost, row.name, row.key))
    uses = [use for use in Use if use in overhead]
    return rows, [Row(use.value, use.value, _spent(overhead[use]), 0) for use in uses]


def _key_of(by: By, records: Mapping[str, TaskRecord]) -> Callable[[Piece], str]:
    def project(part: Piece) -> str:
        return (part.task in records and records[part.task].project) or UNKNOWN

    def user(part: Piece) -> str:
        return (part.task in records and records[part.task].user) or UNKNOWN

    keys: Mapping[By, Callable[[Piece], str]] = {
        By.TASK: lambda part: part.task,
        By.PROJECT: project,
        By.USER: user,
        By.QUEUE: lambda part: part.stretch.queue,
        By.TYPE: lambda part: part.stretch.commercial_type,
        By.DAY: lambda part: part.day.isoformat(),
    }
    return keys[by]


def _row(key: str, parts: Sequence[Piece], by: By, records: Mapping[str, TaskRecord]) -> Row:
    spent, tasks = _spent(parts), len({part.task for part in parts if part.task})
    if by is not By.TASK:
        return Row(key, key, spent, tasks)
    seen = parts[-1].stretch.tasks.get(key, "")
    record = records.get(key)
    if record is None:
        return Row(key, seen or key or UNKNOWN, spent, tasks)
    return Row(key, record.name or seen or key, spent, tasks, record.project, record.user)


def _covered(stretches: Iterable[Stretch], period: Period, now: datetime) -> Period:
    """What of the period the ledger can know of: from its first record to now."""
    first = min((each.since for each in stretches), default=period.until)
    until = min(period.until, now)
    return Period(min(until, max(period.since, first)), until)


def _always_on(
    stretches: Iterable[Stretch],
    parts: Iterable[Piece],
    within: Period,
    wanted: int | None,
    total: Spent,
) -> AlwaysOn | None:
    busy = Counter[str]()
    for part in parts:
        if part.use is Use.BUSY:
            busy[part.stretch.commercial_type] += part.microseconds
    prices: dict[str, tuple[datetime, int]] = {}
    for each in stretches:
        name = each.commercial_type
        known = each.powered and each.eur_per_hour is not None
        within_it = each.since < within.until and within.since < each.until
        if known and within_it and (name not in prices or prices[name][0] < each.until):
            prices[name] = each.until, price(each)
    if wanted is None:
        machines = _peaks(stretches, within)
    else:
        machines = {name: wanted for name, _ in busy.most_common(1)}
    if not busy:
        return None
    length = (within.until - within.since) // MICROSECOND
    per_hour = sum(prices[name][1] * n for name, n in machines.items() if name in prices)
    cost = per_hour * length
    return AlwaysOn(
        machines,
        hours=(within.until - within.since) / HOUR,
        eur=cost / UNITS_PER_EUR,
        saved_eur=(cost - total.total_cost) / UNITS_PER_EUR,
    )


def _peaks(stretches: Iterable[Stretch], within: Period) -> dict[str, int]:
    """The most machines of each type that were busy at once."""
    turns: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for each in stretches:
        since, until = max(each.since, within.since), min(each.until, within.until)
        if each.use is Use.BUSY and since < until:
            turns[each.commercial_type] += [(since, 1), (until, -1)]
    found = {}
    for name, changes in sorted(turns.items()):
        busy = peak = 0
        for _, change in sorted(changes):  # at one moment, ends come first
            busy += change
            peak = max(peak, busy)
        found[name] = peak
    return found
