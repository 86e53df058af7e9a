"""Tasks that a power-off caught all the same go back to the head of their queue, once.

Between our last look and the power going there are seconds in which an agent may pull a task;
nothing at ClearML can forbid it. So what we are about to stop is stored before we stop it, and
afterwards its tasks are looked at. Instances that die by themselves are watched alike where their
queue asks for it: see `policy.lost`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import PowerOff
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy import lost
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.guard import popped_tasks
from gpu_autoscaler.policy.settings import (
    CLOCK_MARGIN,
    HANGING_AFTER,
    PAUSED_AFTER,
    POPPED_STUCK,
    RESCUE_WATCH,
)
from gpu_autoscaler.policy.state import ON

_AWAKE = ON - {S.LOST}
_DOWN = frozenset({S.STOPPED, S.DELETING, S.GONE})


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
        if fact.seen and fact.state in _AWAKE and f"stop:{fact.instance.id}" not in fleet.pending
    }
    return {name: off for name, off in fleet.memory.power_offs.items() if name not in running}


def rescue_all(fleet: Fleet, popped: Popped) -> None:
    """Plan the return of every task that a power-off caught."""
    clearml = fleet.world.clearml
    if not clearml.complete:
        return
    for task in clearml.open_tasks:
        if task.id in popped.stuck:
            because = (
                f"task {task.name} ({task.id}) was pulled by an agent that did not start it: "
                "back to the head of its queue"
            )
            fleet.put_back(task, Reason.POPPED_TASK, because)
    states = {fact.name: fact.state for fact in fleet.facts.values()}
    for task in (*clearml.open_tasks, *(clearml.ended_tasks or ())):
        off = fleet.memory.power_offs.get(task.machine or "")
        if off is None or not _caught(fleet, off, task, states.get(task.machine or "", S.GONE)):
            continue
        if not off.ours:
            lost.requeue(fleet, off, task)
        elif task.id not in fleet.memory.rescued:
            because = (
                f"task {task.name} ({task.id}) was caught by the power-off of {task.machine}: "
                "back to the head of its queue"
            )
            fleet.put_back(task, Reason.CAUGHT_TASK, because)


def _caught(fleet: Fleet, off: PowerOff, task: Task, state: S) -> bool:
    if task.stop_requested:
        return False
    early = task.status_changed_at < off.since - CLOCK_MARGIN
    if task.status.ended:
        # while the machine is on, whatever ended there ended by itself; but what ends on a silent
        # one that nobody powered off was given up by ClearML
        by_itself = state in (ON if off.ours else _AWAKE) or (
            off.at_work_at is not None and task.status is TaskStatus.COMPLETED
        )
        return not (early or by_itself or task.id in off.known_ended)
    down = state in _DOWN or (state is S.STOPPED_IN_PLACE and not off.ours)
    hangs = task.status is TaskStatus.IN_PROGRESS and down
    long_enough = fleet.now - off.decided_at >= HANGING_AFTER
    return hangs and long_enough and (off.at_work_at is not None or not early)


def kept_power_offs(fleet: Fleet) -> dict[str, PowerOff]:
    """What is still to be watched after this cycle, with what it decided."""
    clearml = fleet.world.clearml
    asked = clearml.complete and clearml.ended_tasks is not None
    stopping = {fact.name for fact in fleet.facts.values() if fact.state is S.STOPPING}
    silent = {fact.name for fact in fleet.facts.values() if fact.state is S.LOST}
    reopened = {task.id for task in clearml.open_tasks}
    kept = {
        name: replace(off, known_ended=tuple(i for i in off.known_ended if i not in reopened))
        for name, off in fleet.memory.power_offs.items()
        if not asked
        or name in stopping
        or (name in silent and not off.ours)
        or fleet.now - off.decided_at < RESCUE_WATCH
    }
    for effect in fleet.effects:
        if not isinstance(effect, StopInstance):
            continue
        name = effect.instance.name
        if effect.guard is Guard.NONE and name in kept and not kept[name].ours:
            continue  # it was down already: this only ends its bill
        ended = tuple(t.id for t in clearml.ended_tasks or () if t.machine == name)
        at_work_at = fleet.now if effect.guard is Guard.QUARANTINE else None
        kept[name] = PowerOff(effect.instance.queue, fleet.now, ended, at_work_at=at_work_at)
    for task in clearml.open_tasks:
        off = kept.get(task.machine or "")
        if off is not None and task.stop_requested:
            kept[task.machine or ""] = replace(off, known_ended=(*off.known_ended, task.id))
    return kept
