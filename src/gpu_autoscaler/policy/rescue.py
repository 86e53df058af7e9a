"""Tasks that a power-off caught all the same go back to the head of their queue, once.

Between our last look and the power going there are seconds in which an agent may pull a task;
nothing at ClearML can forbid it. So what we are about to stop is stored before we stop it, and
afterwards its tasks are looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gpu_autoscaler.domain.effects import Reason, RescueTask
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import PowerOff
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.guard import popped_tasks
from gpu_autoscaler.policy.settings import CLOCK_MARGIN, HANGING_AFTER, PAUSED_AFTER, POPPED_STUCK

_ON = frozenset({S.INITIALIZING, S.IDLE, S.RUNNING_TASK, S.LOST})


@dataclass(frozen=True, slots=True)
class Popped:
    """Tasks queued in name but in no queue."""

    first_seen: dict[str, datetime]
    stuck: frozenset[str]
    """Those that nobody will start any more."""


def watch_popped(fleet: Fleet) -> Popped:
    """Follow the tasks between pop and start; the ones that stay there have lost their agent."""
    clearml = fleet.world.clearml
    if not clearml.complete:
        return Popped({}, frozenset())
    last = fleet.memory.planned_at
    # who could not reach ClearML, or stood still, may be about to start what it pulled
    longest = max(PAUSED_AFTER, 3 * fleet.config.poll_interval)
    paused = last is None or fleet.now - last > longest
    before = {} if paused else fleet.memory.popped
    first_seen = {
        task.id: before.get(task.id, fleet.now)
        for task in popped_tasks(clearml.queues, clearml.open_tasks)
    }
    return Popped(first_seen, stuck_tasks(first_seen, fleet.now))


def stuck_tasks(first_seen: Mapping[str, datetime], now: datetime) -> frozenset[str]:
    """Popped tasks that have stayed so for too long: their agent is gone."""
    return frozenset(task for task, at in first_seen.items() if now - at >= POPPED_STUCK)


def forget_undone(fleet: Fleet) -> dict[str, PowerOff]:
    """The power-offs that happened: not those of machines that run, and are not being stopped.

    What ends on such a machine ends for its own reasons.
    """
    running = {
        fact.name
        for fact in fleet.facts.values()
        if fact.seen
        and fact.state in (S.INITIALIZING, S.IDLE, S.RUNNING_TASK)
        and f"stop:{fact.instance.id}" not in fleet.pending
    }
    return {name: off for name, off in fleet.memory.power_offs.items() if name not in running}


def rescue_all(fleet: Fleet, popped: Popped) -> None:
    """Plan the return of every task that a power-off of ours caught."""
    clearml = fleet.world.clearml
    if not clearml.complete:
        return
    for task in clearml.open_tasks:
        if task.id in popped.stuck:
            because = (
                f"task {task.name} ({task.id}) was pulled by an agent that did not start it: "
                "back to the head of its queue"
            )
            _rescue(fleet, task, Reason.POPPED_TASK, because)
    down = _powered_down(fleet)
    on = {fact.name for fact in fleet.facts.values() if fact.state in _ON}
    for task in (*clearml.open_tasks, *(clearml.ended_tasks or ())):
        if task.machine in fleet.memory.power_offs and _caught(fleet, task, down, on):
            because = (
                f"task {task.name} ({task.id}) was caught by the power-off of {task.machine}: "
                "back to the head of its queue"
            )
            _rescue(fleet, task, Reason.CAUGHT_TASK, because)


def _caught(fleet: Fleet, task: Task, down: frozenset[str], on: set[str]) -> bool:
    if task.stop_requested or task.id in fleet.memory.rescued:
        return False
    off = fleet.memory.power_offs[task.machine or ""]
    decided_at = off.decided_at
    if task.status_changed_at < decided_at - CLOCK_MARGIN:
        return False
    if task.status.ended:
        # while the machine is on, whatever ended there ended by itself
        return task.machine not in on and task.id not in off.known_ended
    hangs = fleet.now - decided_at >= HANGING_AFTER
    return task.status is TaskStatus.IN_PROGRESS and hangs and task.machine in down


def _powered_down(fleet: Fleet) -> frozenset[str]:
    """Names of watched machines that are off, or gone."""
    up = {f.name for f in fleet.facts.values() if f.state not in (S.STOPPED, S.DELETING)}
    return frozenset(set(fleet.memory.power_offs) - up)


def _rescue(fleet: Fleet, task: Task, reason: Reason, because: str) -> None:
    if f"rescue:{task.id}" not in fleet.pending:
        fleet.add(RescueTask(task=task, reason=reason, because=because))
