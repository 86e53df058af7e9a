"""What a run on the emulators cost, and what it could have cost at best and at worst.

Everything comes from the emulators' own records: the cloud's log of billed states, the tasks'
documents, and when agents came up. No code is shared with what the daemon reckons.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.table import Table

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import IN_PROGRESS, TaskRecord
from gpu_autoscaler.emulator.machines import Habit
from gpu_autoscaler.emulator.scaleway_bill import ServerEvent
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline

HOUR = timedelta(hours=1)
POWERED = (ServerState.STARTING, ServerState.RUNNING)

Span = tuple[datetime, datetime]
"""From, to."""

FIRST_RUN = (None, "created")
"""What a task was before it was queued for the only time; anything else: it had run before."""


@dataclass(frozen=True, slots=True)
class Published:
    """Somebody else's figures, to print beside ours."""

    hours_above_floor: float
    active_hours: float
    saving_percent: float


PUBLISHED = Published(hours_above_floor=50.0, active_hours=900.0, saving_percent=73.6)
"""From a published Go implementation of this idea, for another workload; not measured again."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A machine came up, and an agent on it, or (None) will not."""

    server_id: str
    worker: str
    commercial_type: str
    running_at: datetime
    registered_at: datetime | None


class BootLog:
    """Notes every boot of the emulated machines, whose entries in ClearML do not last."""

    def __init__(self, timeline: Timeline, habit: Callable[[Server], Habit]) -> None:
        self._timeline, self._habit = timeline, habit
        self.boots: list[Boot] = []

    def habit(self, server: Server) -> Habit:
        """The habit it was given; pass this one to `EmulatedMachines`."""
        habit = self._habit(server)
        now = self._timeline.now()
        up = now + timedelta(seconds=habit.boot_seconds) if habit.comes else None
        self.boots.append(Boot(server.id, server.name, server.commercial_type, now, up))
        return habit


@dataclass(frozen=True, slots=True)
class Run:
    """The time in which a machine worked on a task."""

    queue: str
    commercial_type: str
    begin: datetime
    end: datetime

    @property
    def hours(self) -> float:
        """How long."""
        return (self.end - self.begin) / HOUR


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run cost. Hours are machine hours; money is in EUR, without tax and addresses."""

    span: timedelta
    tasks_by_status: Mapping[str, int]
    tasks_requeued: int
    """Put in a queue again after they had run."""
    mean_wait: timedelta
    p95_wait: timedelta
    active_hours_by_type: Mapping[str, float]
    """The floor: hours in which a task ran (see `runs`)."""
    billed_hours_by_type: Mapping[str, float]
    boot_hours: float
    """From power-on to the agent's registration, where it got that far."""
    machines_eur: float
    storage_eur: float
    floor_eur: float
    """What the active hours cost."""
    peak_busy: Mapping[str, int]
    """By queue, the most tasks that ran at once."""
    always_on_eur: float
    """As many machines as at the peak, all the time, without their storage."""

    @property
    def tasks(self) -> int:
        """All of them."""
        return sum(self.tasks_by_status.values())

    @property
    def tasks_interrupted(self) -> int:
        """Those that ended `stopped`: by a person, a power-off, or the server's watchdog."""
        return self.tasks_by_status.get("stopped", 0)

    @property
    def active_hours(self) -> float:
        """The floor."""
        return sum(self.active_hours_by_type.values())

    @property
    def billed_hours(self) -> float:
        """As on the bill."""
        return sum(self.billed_hours_by_type.values())

    @property
    def hours_above_floor(self) -> float:
        """Billed hours in which no task ran: boots, idling, shutting down, what was lost."""
        return self.billed_hours - self.active_hours

    @property
    def hours_above_floor_without_boot(self) -> float:
        """The same, without the boots that a fleet starting from nothing cannot avoid."""
        return self.hours_above_floor - self.boot_hours

    @property
    def eur(self) -> float:
        """With storage."""
        return self.machines_eur + self.storage_eur

    @property
    def eur_above_floor(self) -> float:
        """Of the machines; without storage."""
        return self.machines_eur - self.floor_eur

    @property
    def saved(self) -> float:
        """Share of the always-on cost that was not spent; our storage counts against us."""
        return 1 - self.eur / self.always_on_eur if self.always_on_eur else 0.0

    def to_json(self) -> dict[str, Any]:
        """Rounded, keys always in the same order."""
        return {
            "simulated_hours": round(self.span / HOUR, 1),
            "tasks": self.tasks,
            "tasks_by_status": dict(sorted(self.tasks_by_status.items())),
            "tasks_interrupted": self.tasks_interrupted,
            "tasks_requeued": self.tasks_requeued,
            "mean_wait_s": round(self.mean_wait.total_seconds(), 1),
            "p95_wait_s": round(self.p95_wait.total_seconds(), 1),
            "active_hours": round(self.active_hours, 2),
            "active_hours_by_type": _rounded(self.active_hours_by_type),
            "billed_hours": round(self.billed_hours, 2),
            "billed_hours_by_type": _rounded(self.billed_hours_by_type),
            "boot_hours": round(self.boot_hours, 2),
            "hours_above_floor": round(self.hours_above_floor, 2),
            "hours_above_floor_without_boot": round(self.hours_above_floor_without_boot, 2),
            "cost_eur": round(self.eur, 2),
            "machines_cost_eur": round(self.machines_eur, 2),
            "storage_cost_eur": round(self.storage_eur, 2),
            "cost_above_floor_eur": round(self.eur_above_floor, 2),
            "peak_busy": dict(sorted(self.peak_busy.items())),
            "always_on_cost_eur": round(self.always_on_eur, 2),
            "saving_percent": round(100 * self.saved, 1),
        }

    def table(self) -> Table:
        """For people, with the published figures beside where there are any."""
        table = Table("", "This run", "Published")
        statuses = ", ".join(f"{n} {status}" for status, n in sorted(self.tasks_by_status.items()))
        waits = f"{_minutes(self.mean_wait)}, {_minutes(self.p95_wait)}"
        above, floor = PUBLISHED.hours_above_floor, PUBLISHED.active_hours
        without_boot = f"{self.hours_above_floor_without_boot:.1f} h"
        rows = (
            ("Simulated", f"{self.span / HOUR:.1f} h", ""),
            ("Tasks", f"{self.tasks}: {statuses}", ""),
            ("Put in a queue again", f"{self.tasks_requeued}", ""),
            ("Mean wait, 95th percentile", waits, ""),
            ("Machines billed", f"{self.billed_hours:.1f} h", f"{floor + above:.1f} h"),
            ("Tasks ran (the floor)", f"{self.active_hours:.1f} h", f"{floor:.1f} h"),
            ("Above the floor", _share(self.hours_above_floor, self.active_hours),
             _share(above, floor)),
            ("Above the floor, without boots", without_boot, ""),
            ("Cost, with storage", f"{self.eur:.2f} EUR", ""),
            ("Cost, machines alone", f"{self.machines_eur:.2f} EUR", ""),
            ("Cost above the floor", f"{self.eur_above_floor:.2f} EUR", ""),
            ("Always on would have cost", f"{self.always_on_eur:.2f} EUR", ""),
            ("Saved", f"{100 * self.saved:.1f} %", f"{PUBLISHED.saving_percent:.1f} %"),
        )  # fmt: skip
        for row in rows:
            table.add_row(*row)
        return table


def figures(
    clearml: ClearmlModel,
    scaleway: ScalewayModel,
    boots: Sequence[Boot],
    queue_types: Mapping[str, str],
) -> Figures:
    """The account from the emulators' beginning to their present, of all that is in them.

    `boots`: all of them, from a `BootLog`. `queue_types`: by each queue's name, the commercial
    type that always-on machines of it would have.
    """
    bill = scaleway.bill()
    now = scaleway.timeline.now()
    powered = powered_spans(scaleway.log.servers, now)
    ran = runs(clearml, boots, powered, now)
    active: dict[str, float] = defaultdict(float)
    for run in ran:
        active[run.commercial_type] += run.hours
    tasks = list(clearml.tasks.all.values())
    waited = sorted(waits(tasks))
    span = now - clearml.started_at
    peak = peak_busy(ran)
    prices = {name: kind.eur_per_hour for name, kind in scaleway.catalog.types.items()}
    return Figures(
        span=span,
        tasks_by_status=Counter(task.status for task in tasks),
        tasks_requeued=sum(_ran_before(task) for task in tasks),
        mean_wait=sum(waited, timedelta(0)) / len(waited) if waited else timedelta(0),
        p95_wait=waited[math.ceil(0.95 * len(waited)) - 1] if waited else timedelta(0),
        active_hours_by_type=dict(active),
        billed_hours_by_type=bill.billed_hours_by_type,
        boot_hours=boot_hours(boots, powered),
        machines_eur=bill.servers_eur,
        storage_eur=bill.volumes_eur,
        floor_eur=sum(prices[name] * hours for name, hours in active.items()),
        peak_busy=peak,
        always_on_eur=sum(
            prices[queue_types[queue]] * most * (span / HOUR) for queue, most in peak.items()
        ),
    )


def waits(tasks: Iterable[TaskRecord]) -> list[timedelta]:
    """From submission to the first start, of the tasks that were started at all.

    One that was put in a queue again counts once, with its first wait: the server keeps the
    first start (only a reset forgets it).
    """
    return [
        task.fields["started"] - task.fields["created"]
        for task in tasks
        if "started" in task.fields
    ]


def powered_spans(events: Iterable[ServerEvent], now: datetime) -> dict[str, list[Span]]:
    """By server id, from each power-on (or reboot) until the machine is off, or `now`."""
    spans: dict[str, list[Span]] = defaultdict(list)
    since: dict[str, datetime] = {}
    before: dict[str, ServerState | None] = {}
    for event in events:
        begins = event.state is ServerState.STARTING != before.get(event.server_id)
        if event.server_id in since and (begins or event.state not in POWERED):
            spans[event.server_id].append((since.pop(event.server_id), event.at))
        if begins:
            since[event.server_id] = event.at
        before[event.server_id] = event.state
    for server_id, begin in since.items():
        spans[server_id].append((begin, now))
    return spans


def boot_hours(boots: Iterable[Boot], powered: Mapping[str, Sequence[Span]]) -> float:
    """Hours from power-on to the agent's registration, of the boots that got so far.

    One whose machine was switched off before, or that was to fail, was for nothing.
    """
    total = timedelta(0)
    for boot in boots:
        span = _span_at(powered.get(boot.server_id, ()), boot.running_at)
        if span is not None and boot.registered_at is not None and boot.registered_at <= span[1]:
            total += boot.registered_at - span[0]
    return total / HOUR


def runs(
    clearml: ClearmlModel,
    boots: Iterable[Boot],
    powered: Mapping[str, Sequence[Span]],
    now: datetime,
) -> list[Run]:
    """The last run of every task on the machines that booted, as long as its machine was on.

    Of a task that was put in a queue again only the last run counts, and only where it can be
    told when it began: what an interruption cost is above the floor.
    """
    machines = {boot.worker: boot for boot in boots}
    queues = {queue.id: queue.name for queue in clearml.queues.all.values()}
    found = []
    for task in clearml.tasks.all.values():
        boot, queue = machines.get(task.last_worker or ""), queues.get(task.queue_id or "")
        if boot is None or queue is None or "started" not in task.fields:
            continue
        lasted = _last_run(task, powered.get(boot.server_id, ()), now)
        if lasted is not None:
            found.append(Run(queue, boot.commercial_type, *lasted))
    return found


def peak_busy(ran: Iterable[Run]) -> dict[str, int]:
    """By queue, how many of the runs overlapped at most: 1 or more where one ran at all."""
    changes = [
        change for run in ran for change in ((run.begin, 1, run.queue), (run.end, -1, run.queue))
    ]
    running: Counter[str] = Counter()
    peak: dict[str, int] = {}
    for _, change, queue in sorted(changes):  # at the same moment ends come before begins
        running[queue] += change
        peak[queue] = max(peak.get(queue, 1), running[queue])
    return peak


def _span_at(spans: Sequence[Span], moment: datetime) -> Span | None:
    """The latest that holds the moment."""
    return next((span for span in reversed(spans) if span[0] <= moment <= span[1]), None)


def _ran_before(task: TaskRecord) -> bool:
    return task.fields.get("enqueue_status") not in FIRST_RUN


def _last_run(task: TaskRecord, powered: Sequence[Span], now: datetime) -> Span | None:
    """See `runs`. The server keeps the beginning of the first run alone."""
    again, changed_at = _ran_before(task), task.fields["status_changed"]
    if task.status == IN_PROGRESS or not again:
        begin = changed_at if again else task.fields["started"]
        end = now if task.status == IN_PROGRESS else changed_at
        span = _span_at(powered, begin)
        return (begin, min(end, span[1])) if span is not None else None
    if task.status in ("completed", "failed") and task.emulated_duration is not None:
        begin = changed_at - timedelta(seconds=task.emulated_duration)
        span = _span_at(powered, changed_at)
        return (max(begin, span[0]), changed_at) if span is not None else None
    return None


def _rounded(hours: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in sorted(hours.items())}


def _minutes(duration: timedelta) -> str:
    return f"{duration / timedelta(minutes=1):.1f} min"


def _share(above: float, floor: float) -> str:
    share = f" ({100 * above / floor:.1f} %)" if floor else ""
    return f"{above:.1f} h{share}"
