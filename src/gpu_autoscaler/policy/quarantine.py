"""Black holes: an instance that fails every task at once drains a whole queue in minutes.

Three tasks in a row that failed within a minute of their start, and within ten minutes in all,
quarantine it, unless another instance of its queue has several such failures at the same time:
then the tasks are broken. What ends on it in another way breaks the row; what a person stopped
says nothing about the machine.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy.fact import ON, Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.settings import (
    CLOCK_MARGIN,
    COMMON_CAUSE,
    COMMON_FAILURES,
    FAST_FAILURE,
    FAST_FAILURES,
    ROW_WITHIN,
)


def judge(fleet: Fleet) -> None:
    """Follow the failures of every instance, and mark the black holes among them."""
    _count(fleet)
    failing: dict[str, list[Fact]] = defaultdict(list)
    for fact in fleet.facts.values():
        if len(fact.memory.fast_failures) >= COMMON_FAILURES:
            failing[fact.instance.queue].append(fact)
    for facts in failing.values():
        for fact in facts:
            if _suspect(fact) and not any(_common(fact, other) for other in facts):
                fleet.facts[fact.instance.id] = _marked(fact, fleet.now)


def _suspect(fact: Fact) -> bool:
    latest = fact.memory.fast_failures[-FAST_FAILURES:]
    is_row = len(latest) == FAST_FAILURES and latest[-1] - latest[0] <= ROW_WITHIN
    return is_row and not fact.quarantined and not fact.hands_off


def _common(suspect: Fact, other: Fact) -> bool:
    """Whether the other one's failures say that the tasks are broken.

    It must fail while the suspect does. One in quarantine cannot go on: there it is enough that
    the suspect's row began then, so that one script takes out no machine after another.
    """
    if other is suspect:
        return False
    row = suspect.memory.fast_failures
    began = row[0] if other.quarantined else row[-FAST_FAILURES]
    since, until = began - COMMON_CAUSE, row[-1] + COMMON_CAUSE
    return sum(since <= at <= until for at in other.memory.fast_failures) >= COMMON_FAILURES


def _count(fleet: Fleet) -> None:
    ended: dict[str, list[Task]] = defaultdict(list)
    skew = fleet.world.clearml.skew
    for task in fleet.world.clearml.ended_tasks or ():
        server_id = fleet.by_name.get(task.machine or "")
        if server_id is not None and _is_news(fleet.facts[server_id].memory, task, skew):
            ended[server_id].append(task)
    for server_id, tasks in ended.items():
        fact = fleet.facts[server_id]
        fleet.facts[server_id] = replace(fact, memory=_followed(fact.memory, tasks, skew))


def _is_news(memory: InstanceMemory, task: Task, skew: timedelta) -> bool:
    at, since = task.status_changed_at + skew, memory.failures_from
    counted = (since is not None and at <= since) or any(
        # the same one may run and fail again
        task.id == known and abs(at - ended_at) <= CLOCK_MARGIN
        for ended_at, known in _row(memory)
    )
    return not (counted or task.stop_requested or memory.quarantined_at)


def _row(memory: InstanceMemory) -> list[tuple[datetime, str]]:
    return list(zip(memory.fast_failures, memory.failed_tasks, strict=False))


def _followed(memory: InstanceMemory, tasks: Iterable[Task], skew: timedelta) -> InstanceMemory:
    """With what ended meanwhile."""
    counts_from, failures = memory.failures_from, _row(memory)
    for task in tasks:
        ended_at = task.status_changed_at + skew
        lasted = _lasted(task, memory.booted_at)
        if lasted is None and task.status is TaskStatus.FAILED:
            continue
        if task.status is TaskStatus.FAILED and lasted is not None and lasted <= FAST_FAILURE:
            failures.append((ended_at, task.id))
        elif counts_from is None or ended_at > counts_from:
            counts_from = ended_at
    row = sorted(each for each in failures if counts_from is None or each[0] > counts_from)
    # when it began must stay known, however long it gets
    row = row if len(row) <= FAST_FAILURES else [row[0], *row[-FAST_FAILURES:]]
    return replace(
        memory,
        failures_from=counts_from,
        fast_failures=tuple(at for at, _ in row),
        failed_tasks=tuple(task_id for _, task_id in row),
    )


def _lasted(task: Task, booted_at: datetime) -> timedelta | None:
    """How long it ran; None when that is not known: ClearML keeps the start of a task's first
    run, and what began before this boot began elsewhere."""
    began = task.started_at
    if began is None or began < booted_at or began > task.status_changed_at:
        return None
    return task.status_changed_at - began


def _marked(fact: Fact, now: datetime) -> Fact:
    memory = replace(fact.memory, quarantined_at=now)
    if fact.state not in ON:
        return replace(fact, memory=memory)
    memory = replace(
        memory,
        state=S.QUARANTINED,
        state_since=now,
        idle_since=None,
        first_idle_report_at=None,
    )
    return replace(fact, state=S.QUARANTINED, memory=memory)
