"""Reads a year of the ledger and reports, for `test_reports`: a process of its own.

python -m tests.benchmarks.ledger STATE_DIR FIRST_DAY; it prints seconds of CPU and megabytes.
"""

import asyncio
import json
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from gpu_autoscaler.domain.ledger import Page
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.report import By, report
from gpu_autoscaler.store.ledger import DayLedger, FileSheets
from tests.benchmarks.daemon import cpu_seconds, peak_megabytes

DAYS = 365


def main(state_dir: str, first_day: str) -> None:
    """Entry point."""
    first = date.fromisoformat(first_day)
    since = datetime.combine(first, time(), UTC)
    period = Period(since, since + timedelta(days=DAYS))
    ledger = DayLedger(FileSheets(Path(state_dir) / "ledger"))

    async def read() -> list[Page]:
        return [await ledger.read(first + timedelta(days=n)) for n in range(DAYS)]

    found: dict[str, float] = {"start_mb": peak_megabytes()}
    begun = cpu_seconds()
    pages = asyncio.run(read())
    found["read_s"] = cpu_seconds() - begun
    for by in (By.TASK, By.USER):
        begun = cpu_seconds()
        made = report(pages, (), period, period.until, by)
        found[f"{by}_s"] = cpu_seconds() - begun
        found[f"{by}_rows"] = len(made.rows)
        found[f"{by}_eur"] = made.total.eur
    found["stretches"] = sum(len(page.stretches) for page in pages)
    found["peak_mb"] = peak_megabytes()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
