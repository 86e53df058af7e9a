"""Two weeks of a small team, as the ledger has them: for the page of costs and the message."""

from datetime import UTC, datetime, timedelta
from typing import Any

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.reports.formats import as_dict
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.report import By, report
from tests.web.page_api import NOW

FIRST = datetime(2026, 11, 14, tzinfo=UTC)
WHO = ("Ada Lovelace", "Bo Zhang", "<b>Cy</b> & sons", "")
WHERE = ("vision/segmentation", "speech", "llm")
MACHINES = (
    ("H100-1-80G", "H100-1-80G", 2.87, (3.0, 6.5, 2.25)),
    ("H100-1-80G", "H100-1-80G", 2.87, (1.5, 4.0)),
    ("H100-SXM-8-80G", "H100-SXM-8-80G", 24.99, (2.5,)),
)


def two_weeks() -> tuple[list[Page], list[Stretch]]:
    """Weekdays with work, weekends with little: boots, tasks, idle ends, stopped nights."""
    pages = []
    for n in range((NOW.date() - FIRST.date()).days):
        day = FIRST + timedelta(days=n)
        stretches: list[Stretch] = []
        tasks: list[TaskRecord] = []
        for machine, (queue, kind, price, lengths) in enumerate(MACHINES):
            if (day.weekday() >= 5 and machine) or (machine == 2 and n % 3):
                continue
            _day(stretches, tasks, day, n, machine, queue, kind, price, lengths)
        pages.append(Page(day.date(), tuple(stretches), tuple(tasks)))
    return pages, []


def _day(
    stretches: list[Stretch],
    tasks: list[TaskRecord],
    day: datetime,
    n: int,
    machine: int,
    queue: str,
    kind: str,
    price: float,
    lengths: tuple[float, ...],
) -> None:
    at = on = day + timedelta(hours=8 + machine)

    def lasts(state: S, hours: float, task: str = "") -> None:
        nonlocal at
        off = state is S.STOPPED
        until = min(at + timedelta(hours=hours), day + timedelta(days=1))
        stretches.append(
            Stretch(
                server_id=f"s{machine}",
                instance=f"{kind.lower()}-{machine}",
                queue=queue,
                commercial_type=kind,
                zone="fr-par-2",
                state=state,
                since=at,
                until=until,
                powered_on_at=None if off else on,
                eur_per_hour=0.0 if off else price,
                storage_eur_per_hour=0.0236,
                tasks={task: task} if task else {},
            )
        )
        at = until

    lasts(S.STARTING, 0.1)
    for number, length in enumerate(lengths):
        task, begun = f"t{n}-{machine}-{number}", at
        who = (n + machine + number) % 4
        lasts(S.RUNNING_TASK, length * (0.6 + 0.1 * (n % 5)), task)
        name = f"train {WHERE[number]} seed {n}" if machine < 2 else f"llm finetune 70B, run {n}"
        tasks.append(
            TaskRecord(
                id=task,
                name=name,
                project=WHERE[(machine + number) % 3],
                user=WHO[who],
                queue=queue,
                instance=f"{kind.lower()}-{machine}",
                status="completed",
                started_at=begun,
                ended_at=at,
            )
        )
    lasts(S.IDLE, 0.5)
    lasts(S.STOPPED, 24)


def costs_of_two_weeks(by: str) -> dict[str, Any]:
    """As the API answers."""
    pages, lasting = two_weeks()
    period = Period(FIRST, FIRST + timedelta(days=17))
    return as_dict(report(pages, lasting, period, NOW, By(by)), "research")
