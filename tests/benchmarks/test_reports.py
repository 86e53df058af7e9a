"""What a report on a year with 20,000 stretches costs: time and memory (`make bench`).

Asserted is what holds on every machine: memory, and that all of it was counted.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.store.pages import render
from tests.benchmarks.ledger import DAYS
from tests.benchmarks.test_cost import CHILD_DEADLINE, ROOT

FIRST = datetime(2025, 1, 1, tzinfo=UTC)
RUNS_A_DAY = 11
"""Boot, task, a look between, task, idle: of each run."""
STRETCHES = DAYS * RUNS_A_DAY * 5
MEMORY_AT_MOST_MB = 150
USERS = 20


def a_day(number: int) -> Page:
    """Machines that boot, work twice and idle, and the ends of their tasks."""
    day = FIRST + timedelta(days=number)
    stretches, tasks = [], []
    for run in range(RUNS_A_DAY):
        name = f"{number:03}-{run:02}"
        on = day + timedelta(hours=run)
        moments = [on + timedelta(minutes=each) for each in (0, 3.5, 90, 92, 300, 330)]
        states = (S.STARTING, S.RUNNING_TASK, S.IDLE, S.RUNNING_TASK, S.IDLE)
        for part, state in enumerate(states):
            since, until = moments[part], moments[part + 1]
            task = f"{number:03}{run:02}{part}".ljust(32, "0")
            busy = state is S.RUNNING_TASK
            stretches.append(
                Stretch(
                    server_id=f"5a0c1d2e-0000-4000-8000-{number:06}{run:06}",
                    instance=f"h100-1-80g-{name}",
                    queue="H100-1-80G",
                    commercial_type="H100-1-80G",
                    zone="fr-par-2",
                    state=state,
                    since=since,
                    until=until,
                    powered_on_at=on,
                    eur_per_hour=2.8665,
                    storage_eur_per_hour=0.0194,
                    tasks={task: f"train {name}"} if busy else {},
                )
            )
            if busy:
                tasks.append(
                    TaskRecord(
                        id=task,
                        name=f"train {name}",
                        project=f"Vision/{run}",
                        user=f"Person {(number + run) % USERS}",
                        queue="H100-1-80G",
                        instance=f"h100-1-80g-{name}",
                        status="completed",
                        started_at=since - timedelta(seconds=11.2),
                        ended_at=until - timedelta(seconds=9.7),
                    )
                )
    return Page(day.date(), tuple(stretches), tuple(tasks))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    directory: Path = tmp_path_factory.mktemp("year")
    (directory / "ledger").mkdir()
    for number in range(DAYS):
        page = a_day(number)
        (directory / "ledger" / f"{page.day}.jsonl").write_bytes(render(page))
    command = [sys.executable, "-m", "tests.benchmarks.ledger", str(directory)]
    printed = subprocess.run(
        [*command, FIRST.date().isoformat()],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=CHILD_DEADLINE,
    ).stdout
    found: dict[str, float] = json.loads(printed)
    table = Table("", f"{found['stretches']:,.0f} stretches", title="A report on a year")
    for name, key in (
        ("read the files, CPU", "read_s"),
        ("report by task, CPU", "task_s"),
        ("report by user, CPU", "user_s"),
    ):
        table.add_row(name, f"{found[key] * 1000:,.0f} ms")
    table.add_row("memory at start", f"{found['start_mb']:.0f} MB")
    table.add_row("memory, peak", f"{found['peak_mb']:.0f} MB")
    Console(width=100).print(table)
    return found


def test_a_year_fits_into_memory(figures: dict[str, float]) -> None:
    assert figures["peak_mb"] < MEMORY_AT_MOST_MB


def test_all_of_it_is_counted(figures: dict[str, float]) -> None:
    assert figures["stretches"] == STRETCHES
    assert (figures["task_rows"], figures["user_rows"]) == (2 * DAYS * RUNS_A_DAY, USERS)
    # runs reach into the next year on its last day
    hours = (DAYS * RUNS_A_DAY * 5.5) - sum(max(0.0, run + 5.5 - 24) for run in range(RUNS_A_DAY))
    assert figures["task_eur"] == figures["user_eur"]
    assert abs(figures["task_eur"] - hours * (2.8665 + 0.0194)) < 0.01
