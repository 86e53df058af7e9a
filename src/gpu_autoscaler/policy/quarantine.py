"""Black holes: an instance that fails every task at once drains a whole queue in minutes.

Three tasks in a row that failed within a minute of their start quarantine it, unless another
instance of its queue has such failures at the same time: then the tasks are broken. What ends on
it in another way breaks the row; what a person stopped says nothing about the machine.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import zip_longest

from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.settings import COMMON_CAUSE, FAST_FAILURE, FAST_FAILURES
from gpu_autoscaler.policy.state import ON, Fact


def judge(fleet: Fleet) -> None:
    """Follow the failures of every instance, and mark the black holes among them."""
    _count(fleet)
    failing: dict[str, list[Fact]] = defaultdict(list)
    for fact in fleet.facts.values():
        if fact.memory.fast_failures:
            failing[fact.instance.queue].append(fact)
    for facts in failing.values():
        for fact in _alone(facts):
            suspect = len(fact.memory.fast_failures) >= FAST_FAILURES and not fact.quarantined
            if suspect and not fact.hands_off:
                fleet.facts[fact.instance.id] = _marked(fact, fleet.now)


def _alone(failing: Iterable[Fact]) -> Iterator[Fact]:
    """Those of one queue that failed while no other one did; a quarantined one keeps its row."""
    by_start = sorted(failing, key=lambda fact: fact.memory.fast_failures[0])
    ended_before: datetime | None = None
    for fact, following in zip_longest(by_start, by_start[1:]):
        first, last = fact.memory.fast_failures[0], fact.memory.fast_failures[-1]
        after = ended_before is None or first - ended_before > COMMON_CAUSE
        if after and (following is None or following.memory.fast_failures[0] - last > COMMON_CAUSE):
            yield fact
        ended_before = max(last, ended_before or last)


def _count(fleet: Fleet) -> None:
    ended: dict[str, list[Task]] = defaultdict(list)
    for task in fleet.world.clearml.ended_tasks or ():
        server_id = fleet.by_name.get(task.machine or "")
        if server_id is not None and _is_news(fleet.facts[server_id].memory, task):
            ended[server_id].append(task)
    for server_id, tasks in ended.items():
        fact = fleet.facts[server_id]
        fleet.facts[server_id] = replace(fact, memory=_followed(fact.memory, tasks))


def _is_news(memory: InstanceMemory, task: Task) -> bool:
    at, since = task.status_changed_at, memory.failures_from
    counted = at in memory.fast_failures or (since is not None and at <= since)
    return not (counted or task.stop_requested or memory.quarantined_at)


def _followed(memory: InstanceMemory, tasks: Iterable[Task]) -> InstanceMemory:
    """With what ended meanwhile."""
    counts_from, failures = memory.failures_from, set(memory.fast_failures)
    for task in tasks:
        ended_at = task.status_changed_at
        lasted = _lasted(task, memory.booted_at)
        if lasted is None and task.status is TaskStatus.FAILED:
            continue
        if task.status is TaskStatus.FAILED and lasted is not None and lasted <= FAST_FAILURE:
            failures.add(ended_at)
        elif counts_from is None or ended_at > counts_from:
            counts_from = ended_at
    row = sorted(at for at in failures if counts_from is None or at > counts_from)
    return replace(memory, failures_from=counts_from, fast_failures=_ends_of(row, FAST_FAILURES))


def _lasted(task: Task, booted_at: datetime) -> timedelta | None:
    """How long it ran; None when that is not known: ClearML keeps the start of a task's first
    run, and what began before this boot began elsewhere."""
    began = task.started_at
    if began is None or began < booted_at or began > task.status_changed_at:
        return None
    return task.status_changed_at - began


def _ends_of(row: Sequence[datetime], most: int) -> tuple[datetime, ...]:
    """The first and the last ones: when the row began must stay known, however long it gets."""
    return tuple(row) if len(row) <= most else (row[0], *row[1 - most :])


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
