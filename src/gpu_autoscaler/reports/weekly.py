"""The weekly report as a message: ten lines of plain text that need no table."""

from collections import Counter

from gpu_autoscaler.domain.ledger import Use
from gpu_autoscaler.reports.cents import cents, eur
from gpu_autoscaler.reports.report import UNKNOWN, Report

TOP = 3
"""Users and tasks that are named."""

MOST_WARNINGS = 3
LONGEST_NAME = 40


def weekly(week: Report, before: Report, fleet: str) -> tuple[str, str]:
    """Title and body; both reports are by task, `before` is of the week before."""
    spent, was = cents(week), cents(before)
    total = week.total
    title = f"{fleet}: {eur(spent.total)} EUR, {week.period}"
    lines = [f"Spent {eur(spent.total)} EUR, {_against(spent.total, was.total)}."]
    if not spent.total and not week.rows and not week.overhead:
        lines.append("No machine was there.")
    else:
        lines += [
            f"{name}: {eur(spent.uses[use])} EUR, {total.hours_of(use):,.1f} h"
            for use, name in (
                (Use.BUSY, f"Busy with {_count(week.tasks, 'task')}"),
                (Use.BOOT, "Booting"),
                (Use.IDLE, "Idle"),
                (Use.STOPPED, "Stopped, the volume alone"),
            )
        ]
    lines += _saved(week)
    users, tasks = Counter[str](), Counter[str]()
    for row, share in zip(week.rows, spent.rows, strict=True):
        users[row.user or UNKNOWN] += share
        tasks[row.key] = share
    names = {row.key: row.name for row in week.rows}
    lines += _top("Most used by", users, {})
    lines += _top("Dearest tasks", tasks, names)
    lines += [f"Note: {one_line(each, 300)}" for each in week.warnings[:MOST_WARNINGS]]
    if len(week.warnings) > MOST_WARNINGS:
        lines.append(f"... and {len(week.warnings) - MOST_WARNINGS} more such notes.")
    return one_line(title, 200), "\n".join(lines)


def one_line(text: str, longest: int) -> str:
    """A name that somebody gave, fit for a line of text."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def _against(now: int, before: int) -> str:
    if not before:
        return "after nothing the week before" if now else "as the week before"
    change = (now - before) / before
    if abs(change) < 0.005:
        return f"as the week before ({eur(before)})"
    return (
        f"{abs(change):.0%} {'more' if change > 0 else 'less'} than the week before ({eur(before)})"
    )


def _saved(week: Report) -> list[str]:
    on = week.always_on
    if on is None:
        return []
    machines = ", ".join(f"{count} x {name}" for name, count in on.machines.items())
    saved = round(on.saved_eur * 100)
    more = f"{eur(saved)} EUR saved ({on.saved_share:.0%})"
    if saved < 0:
        more = f"{eur(-saved)} EUR less than was spent"
    return [f"Always on ({machines}) would have cost {eur(round(on.eur * 100))} EUR: {more}."]


def _top(title: str, cost: Counter[str], names: dict[str, str]) -> list[str]:
    named = [
        f"{eur(share)} {one_line(names.get(key, key), LONGEST_NAME)}"
        for key, share in cost.most_common(TOP)
        if share
    ]
    return [f"{title} (EUR): {'; '.join(named)}."] if named else []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
