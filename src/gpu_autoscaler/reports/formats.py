"""A report for programs: JSON values, and CSV for a spreadsheet. `config/README.md` lists both."""

import csv
import io
from typing import Any

from gpu_autoscaler.domain.ledger import Use
from gpu_autoscaler.reports.report import Report, Row, Spent

DECIMALS = 6
"""So the rows add up to the total to the cent, however many there are."""

COLUMNS = (
    *("by", "key", "name", "project", "user", "tasks"),
    *("eur", "eur_busy", "eur_boot", "eur_idle", "eur_stopped"),
    *("hours_busy", "hours_boot", "hours_idle", "hours_stopped"),
)

BYTE_ORDER_MARK = "\ufeff"
"""Without it Excel takes UTF-8 for something else."""


def as_dict(report: Report, fleet: str) -> dict[str, Any]:
    """The report in plain values."""
    on = report.always_on
    return {
        "fleet": fleet,
        "since": report.period.since.isoformat(),
        "until": report.period.until.isoformat(),
        "by": report.by.value,
        "rows": [_row(row) for row in report.rows],
        "overhead": [_row(row) for row in report.overhead],
        "total": {"tasks": report.tasks, **_spent(report.total)},
        "overhead_share": round(report.total.overhead_share, DECIMALS),
        "hours_above_floor": round(report.total.hours_above_floor, DECIMALS),
        "always_on": on
        and {
            "machines": dict(on.machines),
            "hours": round(on.hours, DECIMALS),
            "eur": round(on.eur, DECIMALS),
            "saved_eur": round(on.saved_eur, DECIMALS),
            "saved_share": round(on.saved_share, DECIMALS),
        },
        "unpriced_hours": {
            name: round(hours, DECIMALS) for name, hours in report.unpriced_hours.items()
        },
        "warnings": list(report.warnings),
    }


def as_csv(report: Report) -> str:
    """A header and the rows, without a total: a spreadsheet sums a column up by itself."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for by, rows in ((report.by.value, report.rows), ("overhead", report.overhead)):
        for row in rows:
            names = (_harmless(each) for each in (row.key, row.name, row.project, row.user))
            plain = _spent(row.spent)
            money = [plain["eur"], *plain["eur_by_use"].values()]
            writer.writerow([by, *names, row.tasks, *money, *plain["hours"].values()])
    return BYTE_ORDER_MARK + text.getvalue()


def _row(row: Row) -> dict[str, Any]:
    return {
        "key": row.key,
        "name": row.name,
        "project": row.project,
        "user": row.user,
        "tasks": row.tasks,
        **_spent(row.spent),
    }


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "eur": round(spent.eur, DECIMALS),
        "eur_by_use": {use.value: round(spent.eur_of(use), DECIMALS) for use in Use},
        "hours": {use.value: round(spent.hours_of(use), DECIMALS) for use in Use},
    }


def _harmless(text: str) -> str:
    """A spreadsheet takes what begins like this for a formula, and runs it; a quote makes it text.
    Anybody may name a task."""
    risky = text.lstrip()[:1] in tuple("=+-@＝＋－＠") or text[:1] in tuple("\t\r\n")
    return f"'{text}" if text and risky else text
