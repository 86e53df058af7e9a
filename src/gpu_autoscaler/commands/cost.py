"""`cost`: what a period cost, by what, and what it was good for; from what the store keeps."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpu_autoscaler.commands.reading import bucket_of, watcher_at
from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.config.secrets import Secrets, load_secrets
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.ledger import Page, Stretch, Use
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.reports.cents import cents, eur
from gpu_autoscaler.reports.formats import as_csv, as_dict
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.report import UNKNOWN, WORK, AlwaysOn, By, Report, Row, Spent, report
from gpu_autoscaler.reports.weekly import one_line
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.store.directory import ReadOnlyStore
from gpu_autoscaler.store.lease import ReadOnlyLeasedStore
from gpu_autoscaler.store.page_files import PageFiles

LOOK_BACK = timedelta(days=7)
"""Whether the ledger was kept before the period, or begins within it."""

LOOK_AHEAD = timedelta(days=14)
"""A task's project and user stand where it ended: those that ran on for longer are unknown."""

READS_AT_ONCE = 8
MOST_ROWS = 25
"""Of a table that is for people: the others are one row."""
LONGEST_NAME = 48


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Ledger(Protocol):
    """What was used, by day."""

    async def read(self, day: date) -> Page:
        """Of this day; an empty one when nothing was written. Raises StoreError."""


@dataclass(frozen=True, slots=True)
class Books:
    """Where a fleet's ledger is, and the memory with what is not in it yet."""

    fleet: str
    ledger: Ledger
    store: Store


def open_books(place: str, env: Mapping[str, str]) -> Books:
    """Of the configuration at this place; secrets are needed only where one of the two is in
    object storage. Raises ConfigError."""
    secrets: Secrets | None = None
    missing = ConfigError([])
    try:
        secrets = load_secrets(env)
    except ConfigError as error:
        missing = error
    watcher = watcher_at(place, env, secrets)
    if watcher is None:
        raise missing
    config = watcher.current()
    if config.store is None:
        directory = Path(config.state_dir)
        return Books(config.fleet, PageFiles(directory), ReadOnlyStore(directory))
    if secrets is None:
        raise missing
    bucket = bucket_of(config.store, secrets)
    return Books(config.fleet, _NotYet(), ReadOnlyLeasedStore(bucket))


class _NotYet:
    async def read(self, day: date) -> Page:
        raise StoreError("the ledger in object storage cannot be read yet")


async def reckon(
    books: Books, period: Period, clock: Clock, by: By, always_on: int | None
) -> Report:
    """Read what it takes, and make the report. Raises OSError."""
    now = clock.now()
    first = (period.since - LOOK_BACK).date()
    last = min(period.until + LOOK_AHEAD, now).date()
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def read(day: date) -> Page:
        async with gate:
            return await books.ledger.read(day)

    memory = (await books.store.load()).memory
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    pages = await asyncio.gather(*map(read, days))
    return report(pages, _lasting(memory), period, now, by, always_on=always_on)


async def cost(
    books: Books,
    period: Period,
    clock: Clock,
    console: Console,
    *,
    by: By,
    format_: Format,
    always_on: int | None,
) -> int:
    """Print it. 0 also when nothing was used. Raises OSError."""
    found = await reckon(books, period, clock, by, always_on)
    if format_ is Format.JSON:
        sys.stdout.write(json.dumps(as_dict(found, books.fleet), indent=2) + "\n")
    elif format_ is Format.CSV:
        # as bytes: the ends of lines and the encoding are the file's, not the terminal's
        sys.stdout.buffer.write(as_csv(found).encode("utf-8", "replace"))
        sys.stdout.flush()
    else:
        _print(found, books.fleet, clock.now(), console)
    return 0


def _lasting(memory: Memory | None) -> list[Stretch]:
    """What has not ended, and so is not in the ledger yet."""
    known = memory.instances.values() if memory else ()
    found = (getattr(each, "stretch", None) for each in known)
    return [each for each in found if isinstance(each, Stretch)]


def _print(found: Report, fleet: str, now: datetime, console: Console) -> None:
    so_far = ", so far" if found.period.until > now else ""
    console.print(f"[bold]{escape(fleet)}[/], {found.period.days}{so_far} (UTC)", highlight=False)
    for line in _headline(found):
        console.print(escape(line), highlight=False)
    if found.rows or found.overhead:
        console.print(_table(found))
    else:
        console.print(
            "Nothing was used in this time, as far as the ledger knows: the daemon writes it "
            "while it runs.",
            highlight=False,
        )
    for each in found.warnings:
        console.print(f"[yellow]note:[/] {escape(one_line(each, 400))}", highlight=False)


def _headline(found: Report) -> list[str]:
    total, money = found.total, cents(found)
    spent = ", ".join(f"{use.value} {eur(money.uses[use])}" for use in Use)
    lines = [
        f"Spent {eur(money.total)} EUR: {spent}.",
        f"Machines were on for {_hours(total, Use.BUSY, Use.BOOT, Use.IDLE)} h: "
        f"{_hours(total, Use.BUSY)} busy, {_hours(total, Use.BOOT)} booting, "
        f"{_hours(total, Use.IDLE)} idle, which is {total.hours_above_floor:,.1f} h above what "
        f"the tasks took. Stopped: {_hours(total, Use.STOPPED)} h.",
    ]
    if found.always_on is not None:
        lines.append(_saved(found.always_on))
    return lines


def _saved(on: AlwaysOn) -> str:
    machines = ", ".join(f"{count} x {name}" for name, count in on.machines.items())
    sentence = f"Always on, {machines} for {on.hours:,.1f} h would have cost "
    sentence += f"{eur(round(on.eur * 100))} EUR: "
    if on.saved_eur < 0:
        return sentence + f"{eur(round(-on.saved_eur * 100))} EUR less than was spent."
    return sentence + f"{eur(round(on.saved_eur * 100))} EUR saved ({on.saved_share:.0%})."


def _table(found: Report) -> Table:
    """Rows, then overhead where it is apart, then the total: shown cents add up."""
    money, work = cents(found), found.by in WORK
    table = Table(found.by.value.capitalize())
    if found.by is By.TASK:
        table.add_column("Project")
        table.add_column("User")
    uses = (Use.BUSY,) if work else tuple(Use)
    hours = ("Hours",) if work else tuple(f"{use.value.capitalize()} h" for use in uses)
    for name in ("EUR", "Share", *hours, "Tasks" if found.by is not By.TASK else ""):
        if name:
            table.add_column(name, justify="right", no_wrap=True)

    def add(name: Sequence[str], share: int, spent: Spent, tasks: int | None, *of: Use) -> None:
        names = [escape(one_line(each, LONGEST_NAME)) for each in name]
        if found.by is By.TASK and len(names) == 1:
            names += ["", ""]
        part = f"{share / money.total:.0%}" if money.total else ""
        hours = [_hours(spent, *of)] if work else [_hours(spent, use) for use in uses]
        count = [] if found.by is By.TASK else ["" if tasks is None else str(tasks)]
        table.add_row(*names, eur(share), part, *hours, *count)

    shown = list(zip(found.rows, money.rows, strict=True))
    shown, others = shown[:MOST_ROWS], shown[MOST_ROWS:]
    for row, share in shown:
        add(_names(row, found.by), share, row.spent, row.tasks, *uses)
    if others:
        add(
            (f"{len(others)} others",),
            sum(share for _, share in others),
            _sum([row.spent for row, _ in others]),
            None,
            *uses,
        )
    for row, share in zip(found.overhead, money.overhead, strict=True):
        if row is found.overhead[0]:
            table.add_section()
        add((f"Overhead: {row.name}",), share, row.spent, None, Use(row.key))
    table.add_section()
    add(("Total",), money.total, found.total, found.tasks, *Use)
    return table


def _names(row: Row, by: By) -> tuple[str, ...]:
    if by is not By.TASK:
        return (row.name,)
    return row.name or UNKNOWN, row.project or "-", row.user or "-"


def _sum(parts: Sequence[Spent]) -> Spent:
    return Spent(
        {use: sum(part.microseconds.get(use, 0) for part in parts) for use in Use},
        {use: sum(part.cost.get(use, 0) for part in parts) for use in Use},
    )


def _hours(spent: Spent, *uses: Use) -> str:
    return f"{spent.hours_of(*uses):,.1f}"
