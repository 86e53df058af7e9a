"""Whether an instance may be powered off: asked by the plan, and once more right before the act.

The same function answers both times, so the last look can never be laxer than the first.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from gpu_autoscaler.domain.effects import Guard
from gpu_autoscaler.domain.model import ClearmlView, Instance, Queue, Task, TaskStatus, Worker
from gpu_autoscaler.policy.settings import FAST_FAILURE, WORKER_FRESH


def popped_tasks(queues: Mapping[str, Queue], tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Tasks that an agent took from their queue and has not started: whose, nobody knows.

    ClearML tells no worker's name between the pop and the start, and the worker looks idle.
    """
    read = {queue.id for queue in queues.values()}
    waiting = {entry.task_id for queue in queues.values() for entry in queue.entries}
    return tuple(
        task
        for task in tasks
        if task.status is TaskStatus.QUEUED and task.queue_id in read and task.id not in waiting
    )


def claims_on(machine: str, workers: Sequence[Worker], tasks: Sequence[Task]) -> tuple[str, ...]:
    """Ids of the tasks that anything in ClearML places on this machine."""
    from_workers = [w.task_id for w in workers if w.machine == machine and w.task_id]
    from_tasks = [
        t.id for t in tasks if t.status is TaskStatus.IN_PROGRESS and t.machine == machine
    ]
    return tuple(dict.fromkeys(from_workers + from_tasks))


def claimed_machines(workers: Sequence[Worker], tasks: Sequence[Task]) -> frozenset[str]:
    """Every machine that `claims_on` finds a task for."""
    from_tasks = {t.machine for t in tasks if t.status is TaskStatus.IN_PROGRESS and t.machine}
    return frozenset(from_tasks | {w.machine for w in workers if w.task_id})


def refusal(
    guard: Guard,
    instance: Instance,
    booted_at: datetime,
    view: ClearmlView,
    stuck: Collection[str],
    now: datetime,
) -> str | None:
    """Why this machine must not be powered off now, as a sentence; None when it may.

    `stuck` are popped tasks known to be nobody's any more. In the last look before the act,
    the view's tasks are read before its queues: a task popped between the two reads then shows
    as popped, never as waiting.
    """
    if guard is Guard.NONE:
        return None
    if not view.complete:
        return f"ClearML gave no full answer: {view.error}"
    machine = instance.name
    claimed = claims_on(machine, view.workers, view.open_tasks)
    if guard is Guard.QUARANTINE:
        return _at_work(claimed, view.open_tasks, now)
    if claimed:
        return f"task {claimed[0]} is on it"
    return _perhaps_at_work(instance, view, stuck) or _agent_says(
        guard, machine, booted_at, view.workers, now
    )


def _perhaps_at_work(instance: Instance, view: ClearmlView, stuck: Collection[str]) -> str | None:
    queue = view.queues.get(instance.queue)
    for task in popped_tasks(view.queues, view.open_tasks):
        if queue is not None and task.queue_id == queue.id and task.id not in stuck:
            return f"task {task.id} was just pulled from {queue.name}, perhaps by it"
    return None


def _agent_says(
    guard: Guard, machine: str, booted_at: datetime, workers: Sequence[Worker], now: datetime
) -> str | None:
    mine = [w for w in workers if w.machine == machine]
    reports = [w.last_report_at for w in mine if w.last_report_at > booted_at]
    if guard is Guard.NEVER_REGISTERED:
        return "its agent has registered after all" if reports else None
    fresh = bool(reports) and now - max(reports) < WORKER_FRESH
    if guard is Guard.SILENT:
        return "its agent reports again" if fresh else None
    if not fresh:
        return "its agent has not reported for 90 s, so it cannot be known to be idle"
    if max(reports) > now + WORKER_FRESH:
        return "its agent's last report lies in the future: one of the clocks is wrong"
    return None


def _at_work(claimed: Collection[str], tasks: Sequence[Task], now: datetime) -> str | None:
    """Why a black hole is left on all the same: something has held out on it, or may have."""
    open_tasks = {task.id: task for task in tasks} if claimed else {}
    for task_id in claimed:
        task = open_tasks.get(task_id)
        if task is not None and task.status is not TaskStatus.IN_PROGRESS:
            continue  # just pulled
        if task is None or task.started_at is None:
            return f"task {task_id} is on it, and since when is not known"
        if now - task.started_at > FAST_FAILURE:
            return f"task {task_id} has run on it for more than a minute"
    return None
