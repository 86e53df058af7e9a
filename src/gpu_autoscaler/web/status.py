"""One cycle as the status page, the terminal and scripts see it: plain values, ready for JSON."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from pydantic import TypeAdapter

from gpu_autoscaler import __version__
from gpu_autoscaler.domain.decisions import InstanceDecision, QueueDecision
from gpu_autoscaler.domain.episodes import EpisodeKind
from gpu_autoscaler.domain.lifecycle import BILLED
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Said
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy.budgets import standings
from gpu_autoscaler.policy.history import saved
from gpu_autoscaler.policy.outlook import Step, by_name, next_step
from gpu_autoscaler.runtime.loop import Cycle

TASKS_SHOWN = 20
"""Waiting tasks told one by one, per queue."""
DECISIONS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a person should know of."""

    severity: str
    """`error`, `warning` or `info`."""
    subject: str
    text: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Money:
    """By Scaleway's own hourly prices; None while they are unknown. What was spent is with volumes
    and addresses, as in the ledger; the rate is of machines alone."""

    eur_per_hour: float | None
    month: str | None
    spent_eur: float | None
    saved_eur: float | None
    """Against as many machines as ever worked at once this month, always on."""
    prices_read_at: datetime | None = None
    """When Scaleway named the prices; the oldest of them, where zones were asked at other times."""


@dataclass(frozen=True, slots=True)
class BudgetShown:
    """A budget in its present period."""

    name: str
    """For people: `20.00 EUR a day for H100-1-80G`."""
    queue: str
    """Empty: that of the whole fleet."""
    per: str
    eur: float
    spent_eur: float
    projected_eur: float
    """By its end, if all that is paid for now goes on."""
    until: datetime
    holds: bool
    """It is used up: nothing is launched until then."""


@dataclass(frozen=True, slots=True)
class TaskShown:
    """A task, with a link to ClearML where its web address is known."""

    id: str
    name: str
    url: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class QueueShown:
    """A configured queue."""

    name: str
    reason: str
    because: str
    waiting: int
    oldest_since: datetime | None
    busy: int
    capacity: int
    billed: int
    max_instances: int
    paused_since: datetime | None
    tasks: tuple[TaskShown, ...]
    """The first that wait."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A state that began."""

    state: str
    since: datetime


@dataclass(frozen=True, slots=True)
class InstanceShown:
    """An instance of the fleet."""

    name: str
    queue: str
    type: str
    zone: str
    state: str
    since: datetime
    reason: str
    because: str
    task: TaskShown | None
    next: Step | None
    eur_per_hour: float | None
    hands_off: str
    actions: tuple[str, ...]
    """What may be asked of it now."""
    timeline: tuple[Stretch, ...]
    """Oldest first; the last one lasts."""


@dataclass(frozen=True, slots=True)
class Status:
    """The whole answer of `/api/v1/status`."""

    fleet: str
    version: str
    at: datetime
    poll_interval_seconds: float
    leads: bool
    dry_run: bool
    problems: tuple[Problem, ...]
    money: Money
    budgets: tuple[BudgetShown, ...]
    queues: tuple[QueueShown, ...]
    instances: tuple[InstanceShown, ...]
    decisions: tuple[Said, ...]
    """The newest first."""


STATUS = TypeAdapter(Status)


def status(cycle: Cycle, *, dry_run: bool = False) -> Status:
    """What this cycle saw and decided."""
    config = cycle.config
    known = by_name(cycle.plan)
    running = {t.machine: t for t in cycle.world.clearml.open_tasks if t.machine}
    decided = {each.queue: each for each in cycle.plan.queues}
    return Status(
        fleet=config.fleet,
        version=__version__,
        at=cycle.finished_at,
        poll_interval_seconds=config.poll_interval.total_seconds(),
        leads=cycle.acted,
        dry_run=dry_run,
        problems=tuple(_problems(cycle, dry_run=dry_run)),
        money=_money(cycle),
        budgets=_budgets(cycle),
        queues=tuple(_queue(cycle, decided[name]) for name in config.queues),
        instances=tuple(
            _instance(cycle, one, known[one.name], running.get(one.name))
            for one in cycle.plan.instances
        ),
        decisions=tuple(reversed(cycle.plan.memory.said[-DECISIONS_SHOWN:])),
    )


def _problems(cycle: Cycle, *, dry_run: bool) -> list[Problem]:
    found = []
    if not cycle.acted and not dry_run:
        text = "this daemon does not hold the lease: it observes, another one acts"
        found.append(Problem("info", "lease", text, None))
    if not cycle.world.clearml.complete:
        error = cycle.world.clearml.error
        text = f"gives no full answer, so nothing is launched or stopped: {error}"
        found.append(Problem("error", "ClearML", text, None))
    found += [
        Problem("error", zone.zone, f"gives no full answer: {zone.error}", None)
        for zone in cycle.world.zones.values()
        if not zone.complete
    ]
    found += [
        Problem(each.severity.value, each.subject, each.text, each.since)
        for each in cycle.plan.memory.episodes
        # mere events stand in the decision log, and who does not answer stands above
        if each.kind.recovers and each.kind is not EpisodeKind.OBSERVATION_FAILING
    ]
    return found


def _money(cycle: Cycle) -> Money:
    prices, kept = cycle.world.prices, cycle.plan.memory.account
    now = None
    if prices:
        types = by_name(cycle.plan)
        billed = (one for one in cycle.plan.instances if one.state in BILLED)
        now = sum(prices.get(types[one.name].last_seen.commercial_type, 0.0) for one in billed)
    if kept is None:
        return Money(now, None, None, None, cycle.world.prices_read_at)
    against = max(0.0, saved(kept, cycle.finished_at))
    read_at = cycle.world.prices_read_at
    return Money(now, kept.month, round(kept.eur, 2), round(against, 2), read_at)


def _budgets(cycle: Cycle) -> tuple[BudgetShown, ...]:
    memory, prices = cycle.plan.memory, cycle.world.prices
    return tuple(
        BudgetShown(
            name=each.name,
            queue=each.queue,
            per=each.budget.per,
            eur=each.budget.eur,
            spent_eur=round(each.eur, 2),
            projected_eur=round(each.projected_eur, 2),
            until=each.until,
            holds=each.blocks,
        )
        for each in standings(memory, cycle.config, prices, cycle.finished_at)
    )


def _queue(cycle: Cycle, decision: QueueDecision) -> QueueShown:
    queue = cycle.world.clearml.queues.get(decision.queue)
    tasks = {t.id: t for t in cycle.world.clearml.open_tasks if t.status is TaskStatus.QUEUED}
    line = [entry for entry in queue.entries if entry.task_id in tasks] if queue else []
    pause = cycle.plan.memory.pauses.get(decision.queue)
    return QueueShown(
        name=decision.queue,
        reason=decision.reason.value,
        because=decision.because,
        waiting=decision.demand,
        oldest_since=decision.oldest_entry_at,
        busy=decision.busy,
        capacity=decision.capacity,
        billed=decision.billed,
        max_instances=cycle.config.queues[decision.queue].max_instances,
        paused_since=pause.since if pause and not pause.ending else None,
        tasks=tuple(
            _task(cycle, tasks[entry.task_id], entry.added_at) for entry in line[:TASKS_SHOWN]
        ),
    )


def _instance(
    cycle: Cycle, one: InstanceDecision, known: InstanceMemory, task: Task | None
) -> InstanceShown:
    there = known.last_seen
    past = [Stretch(state.value, since) for state, since in known.past]
    price = cycle.world.prices.get(there.commercial_type) if one.state in BILLED else 0.0
    return InstanceShown(
        name=one.name,
        queue=one.queue,
        type=there.commercial_type,
        zone=there.zone,
        state=one.state.value,
        since=one.state_since,
        reason=one.reason.value,
        because=one.because,
        task=_task(cycle, task, task.status_changed_at) if task else None,
        next=next_step(one, known, cycle.config),
        eur_per_hour=price,
        hands_off=one.hands_off,
        actions=_actions(one, known),
        timeline=(*past, Stretch(one.state.value, one.state_since)),
    )


def _actions(one: InstanceDecision, known: InstanceMemory) -> tuple[str, ...]:
    held = known.last_seen.kept or known.quarantined_at is not None
    found = ["release"] if held else ["keep"]
    if one.state is S.IDLE and not one.hands_off and one.effect is None:
        found.append("stop")
    return tuple(found)


def _task(cycle: Cycle, task: Task, since: datetime) -> TaskShown:
    web = cycle.config.clearml.web_host
    url = f"{web}/projects/*/experiments/{quote(task.id, safe='')}" if web else None
    return TaskShown(task.id, task.name, url, since)
