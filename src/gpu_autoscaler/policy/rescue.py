"""Tasks that a power-off caught all the same go back to the head of their queue, once.

Between our last look and the power going there are seconds in which an agent may pull a task;
nothing at ClearML can forbid it. So what we are about to stop is stored before we stop it, and
afterwards its tasks are looked at. Instances that die by themselves are watched alike where their
queue asks for it: see `policy.lost`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gpu_autoscaler.domain.decisions import QueueDecision
from gpu_autoscaler.domain.effects import LISTING_LAG, Guard, Reason, StopInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import PowerOff
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy import lost
from gpu_autoscaler.policy.fact import ON
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.guard import popped_tasks
from gpu_autoscaler.policy.settings import (
    CLOCK_MARGIN,
    GOING_OFF,
    HANGING_AFTER,
    POPPED_RETURNS,
    POPPED_STUCK,
    RESCUE_WATCH,
)
from gpu_autoscaler.policy.state import stood_still

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
    paused = last is None or stood_still(fleet.memory, fleet.config, fleet.now)
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

    What ends on such a machine ends for its own reasons. One that Scaleway changed since went off
    and was started again, also if nobody who remembers has seen that.
    """
    kept = dict(fleet.memory.power_offs)
    for fact in fleet.facts.values():
        off = kept.get(fact.name)
        stopping = f"stop:{fact.instance.id}" in fleet.pending
        if off is None or off.accepted or stopping or not (fact.seen and fact.state in _AWAKE):
            continue
        if fact.instance.modified_at > off.decided_at:
            kept[fact.name] = replace(off, accepted=True)
        else:
            del kept[fact.name]
    return kept


def unremembered(fleet: Fleet) -> dict[str, PowerOff]:
    """Instances that went off while nobody remembers by whose doing, as if by ours.

    Memory was lost, and with it what we were about to stop. A task that a person's power-off ended
    right before may go back too: run once more is better than never.
    """
    forgot_at, found = fleet.memory.forgot_at, dict[str, PowerOff]()
    if forgot_at is None:
        return found
    # what was first seen then may have been the past: as if it was not seen
    old_sight = fleet.now - forgot_at <= 2 * LISTING_LAG + fleet.config.poll_interval
    for server_id, fact in fleet.facts.items():
        known = fleet.memory.instances.get(server_id)
        seen_on = known is not None and known.state in ON and known.stop_decided_at is None
        if not fact.seen or fact.state not in (S.STOPPING, S.STOPPED):
            continue
        went_off = fact.instance.modified_at if known is None else fleet.clearml_now
        since_then = forgot_at + fleet.world.clearml.skew - went_off
        # what went off long after that, a daemon with a memory would know of, if it was its doing
        lately = -GOING_OFF < since_then < RESCUE_WATCH
        if lately and (known is None or (seen_on and old_sight)):
            found[fact.name] = PowerOff(fact.instance.queue, went_off - GOING_OFF)
    return found


def rescue_all(fleet: Fleet, popped: Popped) -> None:
    """Plan the return of every task that a power-off caught."""
    clearml = fleet.world.clearml
    if not clearml.complete:
        return
    for task in clearml.open_tasks:
        if task.id in popped.stuck and (before := _put_back_before(fleet, task)) < POPPED_RETURNS:
            because = (
                f"task {task.name} ({task.id}) was pulled by an agent that did not start it: "
                f"back to the head of its queue ({before + 1} of {POPPED_RETURNS}, then it is left)"
            )
            fleet.put_back(task, Reason.POPPED_TASK, because)
    states = {fact.name: fact.state for fact in fleet.facts.values()}
    for task in (*clearml.open_tasks, *(clearml.ended_tasks or ())):
        name = task.machine or ""
        off = fleet.memory.power_offs.get(name)
        if off is None or not _caught(fleet, off, task, states.get(name, S.GONE)):
            continue
        if not _surely(fleet, off, task) and _perhaps_on(fleet, name):
            fleet.withheld.add(name)
        elif not off.ours:
            lost.requeue(fleet, off, task)
        elif task.id not in fleet.memory.rescued:
            because = (
                f"task {task.name} ({task.id}) was caught by the power-off of {task.machine}: "
                "back to the head of its queue"
            )
            fleet.put_back(task, Reason.CAUGHT_TASK, because)


def tell_left(
    fleet: Fleet, popped: Popped, decisions: Sequence[QueueDecision]
) -> tuple[QueueDecision, ...]:
    """The same decisions, and which popped tasks of each queue are not put back any more."""
    left: dict[str, list[str]] = defaultdict(list)
    for task in fleet.world.clearml.open_tasks if popped.stuck else ():
        if task.id in popped.stuck and _put_back_before(fleet, task) >= POPPED_RETURNS:
            left[task.queue_id].append(task.id)
    by_name = {queue.name: left.get(queue.id, []) for queue in fleet.world.clearml.queues.values()}
    return tuple(
        replace(each, because=f"{each.because}; {_left(ids)}")
        if (ids := by_name.get(each.queue))
        else each
        for each in decisions
    )


def _left(ids: Sequence[str]) -> str:
    times = f"pulled {POPPED_RETURNS + 1} times and never started"
    return f"left out of the queue, {times}: {', '.join(ids)}"


def _put_back_before(fleet: Fleet, task: Task) -> int:
    before = fleet.memory.popped_back.get(task.id)
    return before.count if before else 0


def _caught(fleet: Fleet, off: PowerOff, task: Task, state: S) -> bool:
    if task.stop_requested or task.status is TaskStatus.COMPLETED or task.id in off.known_ended:
        return False
    changed_at = task.status_changed_at + fleet.world.clearml.skew
    early = changed_at < off.since - CLOCK_MARGIN
    if task.status.ended:
        # while the machine is on, whatever ended there ended by itself; but what ends on a silent
        # one that nobody powered off was given up by ClearML
        by_itself = state in (ON if off.ours else _AWAKE) and not _surely(fleet, off, task)
        return not (early or by_itself)
    down = state in _DOWN or (state is S.STOPPED_IN_PLACE and not off.ours)
    hangs = task.status is TaskStatus.IN_PROGRESS and down
    if off.accepted and changed_at > off.decided_at + GOING_OFF:
        hangs = False  # somebody had started it again
    long_enough = fleet.clearml_now - off.decided_at >= HANGING_AFTER
    return hangs and long_enough and (off.at_work_at is not None or not early)


def _surely(fleet: Fleet, off: PowerOff, task: Task) -> bool:
    """Whether it ended with the power, whatever became of the machine since. ClearML ends what
    was on a machine that died by itself only hours later."""
    if not off.accepted or not task.status.ended:
        return False
    moment = task.status_changed_at - GOING_OFF if off.ours else task.started_at
    return moment is not None and moment + fleet.world.clearml.skew <= off.decided_at


def _perhaps_on(fleet: Fleet, machine: str) -> bool:
    """Whether somebody may have started it again: its zone does not answer, or its agent reported
    after it was first seen as it is (a listing may be old). Its tasks may be at work then."""
    server_id = fleet.by_name.get(machine)
    if server_id is None:
        return False
    fact = fleet.facts[server_id]
    since = fact.memory.state_since + CLOCK_MARGIN
    workers = fleet.world.clearml.workers
    heard = any(w.machine == machine and w.last_report_at > since for w in workers)
    return heard or not fact.seen


def kept_power_offs(fleet: Fleet) -> dict[str, PowerOff]:
    """What is still to be watched after this cycle, with what it decided."""
    clearml = fleet.world.clearml
    asked = clearml.complete and clearml.ended_tasks is not None
    stopping = {fact.name for fact in fleet.facts.values() if fact.state is S.STOPPING}
    silent = {fact.name for fact in fleet.facts.values() if fact.state is S.LOST}
    unseen = {fact.name for fact in fleet.facts.values() if not fact.seen}
    # what is on its way back may fail, and is tried again
    tasks = (*clearml.open_tasks, *(clearml.ended_tasks or ()))
    returning = {task.machine for task in tasks if f"rescue:{task.id}" in fleet.pending}
    reopened = {task.id for task in clearml.open_tasks}
    at_work = {t.machine for t in clearml.open_tasks if t.status is TaskStatus.IN_PROGRESS}
    kept = {
        name: replace(off, known_ended=tuple(i for i in off.known_ended if i not in reopened))
        for name, off in fleet.memory.power_offs.items()
        if not asked
        or name in stopping
        or name in unseen
        or name in returning
        or (name in silent | at_work and not off.ours)
        or fleet.clearml_now - off.decided_at < RESCUE_WATCH
    }
    for effect in fleet.effects:
        if not isinstance(effect, StopInstance):
            continue
        name = effect.instance.name
        if effect.guard is Guard.NONE and name in kept and not kept[name].ours:
            continue  # it was down already: this only ends its bill
        ended = tuple(t.id for t in clearml.ended_tasks or () if t.machine == name)
        now = fleet.clearml_now
        at_work_at = now if effect.guard is Guard.QUARANTINE else None
        kept[name] = PowerOff(effect.instance.queue, now, ended, at_work_at=at_work_at)
    for task in clearml.open_tasks:
        off = kept.get(task.machine or "")
        if off is not None and task.stop_requested:
            kept[task.machine or ""] = replace(off, known_ended=(*off.known_ended, task.id))
    return kept
