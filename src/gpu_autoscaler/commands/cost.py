"""`cost`: what a period cost, by what, and what it was good for; from what the store keeps."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpu_autoscaler.commands.reading import watcher_at
from gpu_autoscaler.commands.storing import ledger_of, read_only_store
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.config.secrets import Secrets, load_secrets
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.ledger import Page, Stretch, Use
from gpu_autoscaler.policy.ledger import lasting
from gpu_autoscaler.reports.cents import cents, eur
from gpu_autoscaler.reports.formats import as_csv, as_dict
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.report import UNKNOWN, WORK, AlwaysOn, By, Report, Row, Spent, report
from gpu_autoscaler.reports.weekly import one_line
from gpu_autoscaler.runtime.books import read_days
from gpu_autoscaler.runtime.ports import Pages, Store

LOOK_BACK = timedelta(days=7)
"""Whether the ledger was kept before the period, or begins within it."""

LOOK_AHEAD = timedelta(days=14)
"""A task's project and user stand where it ended: those that ran on for longer are unknown."""

MOST_ROWS = 25
"""Of a table that is for people: the others are one row."""
LONGEST_NAME = 48

_ON = (Use.BUSY, Use.BOOT, Use.IDLE)
_OVERHEAD = {Use.BOOT: "booting", Use.IDLE: "idle", Use.STOPPED: "stopped, disk only"}


Found = tuple[list[Page], list[Stretch]]


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a fleet's ledger is, and the memory with what is not in it yet."""

    fleet: str
    ledger: Pages
    store: Store


def sources_of(config: Config, secrets: Secrets | None) -> Sources:
    """Of a configuration; secrets are needed where its store is in object storage."""
    return Sources(config.fleet, ledger_of(config, secrets), read_only_store(config, secrets))


def open_sources(place: str, env: Mapping[str, str]) -> Sources:
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
    if config.store is not None and secrets is None:
        raise missing
    return sources_of(config, secrets)


async def reckon(
    sources: Sources, period: Period, now: datetime, by: By, always_on: int | None = None
) -> Report:
    """Read what it takes, and make the report. Raises OSError."""
    found = await read(sources, period, now)
    return report(*found, period, now, by, always_on=always_on)


async def read(sources: Sources, period: Period, now: datetime) -> Found:
    """What a report on this period needs: pages, and what has not ended. Raises OSError."""
    first = (period.since - LOOK_BACK).date()
    last = min(period.until + LOOK_AHEAD, now).date()
    # before the ledger: what ends meanwhile is then in both, told twice, rather than in neither
    memory = (await sources.store.load()).memory
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return await read_days(sources.ledger, days), list(lasting(memory)) if memory else []


async def cost(
    sources: Sources,
    period: Period,
    clock: Clock,
    console: Console,
    *,
    by: By,
    format_: Format,
    always_on: int | None,
) -> int:
    """Print it. 0 also when nothing was used. Raises OSError."""
    found = await reckon(sources, period, clock.now(), by, always_on)
    if format_ is Format.JSON:
        sys.stdout.write(json.dumps(as_dict(found, sources.fleet), indent=2) + "\n")
    elif format_ is Format.CSV:
        # as bytes: the ends of lines and the encoding are the file's, not the terminal's
        sys.stdout.buffer.write(as_csv(found).encode("utf-8", "replace"))
        sys.stdout.flush()
    else:
        _print(found, sources.fleet, clock.now(), console)
    return 0


def _print(found: Report, fleet: str, now: datetime, console: Console) -> None:
    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    so_far = ", so far" if found.period.until > now else ""
    say(f"[bold]{escape(fleet)}[/], {found.period}{so_far} (UTC)")
    for line in _headline(found):
        say(escape(line))
    if found.rows or found.overhead:
        console.print(_table(found))
    else:
        say(
            "Nothing was used in this time, as far as the ledger knows: the daemon writes it "
            "while it runs."
        )
    for each in found.warnings:
        say(f"[yellow]note:[/] {escape(one_line(each, 400))}")


def _headline(found: Report) -> list[str]:
    total, money = found.total, cents(found)
    spent = ", ".join(f"{use.value} {eur(money.uses[use])}" for use in Use)
    on = ", ".join(f"{use.value} {_hours(total, use)}" for use in _ON)
    lines = [
        f"Spent {eur(money.total)} EUR, {total.overhead_share:.0%} of it overhead: {spent}.",
        f"On for {_hours(total, *_ON)} h: {on} ({total.hours_above_floor:,.1f} h above the floor "
        f"of active hours); stopped {_hours(total, Use.STOPPED)} h.",
    ]
    if found.always_on is not None:
        lines.append(_saved(found.always_on))
    return lines


def _saved(on: AlwaysOn) -> str:
    machines = ", ".join(f"{count} x {name}" for name, count in on.machines.items())
    always = f"always on: {eur(round(on.eur * 100))} EUR for {on.hours:,.1f} h of {machines}."
    if on.saved_eur < 0:
        return f"{eur(round(-on.saved_eur * 100))} EUR dearer than {always}"
    return f"Saved {eur(round(on.saved_eur * 100))} EUR ({on.saved_share:.0%}) against {always}"


def _table(found: Report) -> Table:
    """Rows, then overhead where it is apart, then the total: shown cents add up."""
    money, work = cents(found), found.by in WORK
    names = ("Task", "Project", "User") if found.by is By.TASK else (found.by.value.capitalize(),)
    table = Table(*names)
    hours = ("Hours",) if work else (*(f"{use.value.capitalize()} h" for use in Use), "Overhead")
    for figure in ("EUR", "Share", *hours, *([] if found.by is By.TASK else ["Tasks"])):
        table.add_column(figure, justify="right", no_wrap=True)

    def add(called: Sequence[str], share: int, spent: Spent, tasks: str = "") -> None:
        cells = [escape(one_line(each, LONGEST_NAME)) for each in called]
        cells += [""] * (len(names) - len(cells))
        cells += [eur(share), f"{share / money.total:.0%}" if money.total else ""]
        if work:
            cells.append(_hours(spent, *Use))
        else:
            cells += [*(_hours(spent, use) for use in Use), f"{spent.overhead_share:.0%}"]
        table.add_row(*cells, *([] if found.by is By.TASK else [tasks]))

    priced = list(zip(found.rows, money.rows, strict=True))
    shown, others = priced[:MOST_ROWS], priced[MOST_ROWS:]
    for row, share in shown:
        add(_names(row, found.by), share, row.spent, str(row.tasks))
    if others:
        spent = _sum([row.spent for row, _ in others])
        add((f"({len(others)} others)",), sum(share for _, share in others), spent)
    if found.overhead:
        table.add_section()
    for row, share in zip(found.overhead, money.overhead, strict=True):
        add((f"Overhead: {_OVERHEAD[Use(row.key)]}",), share, row.spent)
    table.add_section()
    add(("Total",), money.total, found.total, str(found.tasks))
    return table


def _names(row: Row, by: By) -> tuple[str, ...]:
    if by is not By.TASK:
        return (row.name,)
    return row.name or UNKNOWN, row.project or "-", row.user or "-"


def _sum(parts: Sequence[Spent]) -> Spent:
    return Spent(
        {use: sum(part.microseconds[use] for part in parts) for use in Use},
        {use: sum(part.cost[use] for part in parts) for use in Use},
    )


def _hours(spent: Spent, *uses: Use) -> str:
    return f"{spent.hours_of(*uses):,.1f}"
