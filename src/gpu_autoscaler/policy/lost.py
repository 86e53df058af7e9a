"""Tasks on an instance that died by itself: put back where the queue says `on_lost: requeue`.

Dead is what we did not power off, and what is off or gone all the same; its tasks hang, or its
agent ended them on the way down. An instance that runs and is silent may still work: its task is
put back when ClearML has given it up. What completed, failed, or was stopped by a person is over.
"""

from collections.abc import Mapping
from datetime import datetime

from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, PowerOff
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.policy.fact import ON, Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.settings import GOING_OFF, RESCUE_WATCH, WORKER_LOST

_DOWN = frozenset({S.STOPPING, S.STOPPED, S.STOPPED_IN_PLACE})


def watched(fleet: Fleet, offs: Mapping[str, PowerOff]) -> dict[str, PowerOff]:
    """These power-offs, and the instances that died or fell silent with a task on them."""
    found = dict(offs)
    if not any(queue.on_lost == "requeue" for queue in fleet.config.queues.values()):
        return found
    for server_id, known in fleet.memory.instances.items():
        queue = fleet.queue(known.last_seen.queue)
        watched_off = found.get(known.last_seen.name)
        if queue is None or queue.on_lost == "leave" or (watched_off and not watched_off.accepted):
            continue  # (an accepted power-off is over by the time it dies by itself)
        if _is_lost(known, fleet.facts.get(server_id)):
            since = _last_at_work(known, fleet.memory.planned_at or fleet.now)
            since += fleet.world.clearml.skew
            # what a person asked to stop before an earlier death may hang on it still
            over = watched_off.known_ended if watched_off else ()
            off = PowerOff(queue.name, fleet.clearml_now, over, ours=False, at_work_at=since)
            found[known.last_seen.name] = off
    for fact in fleet.facts.values():
        queue = fleet.queue(fact.instance.queue)
        requeues = queue is not None and queue.on_lost == "requeue"
        if requeues and fact.name not in found and _came_and_went(fleet, fact):
            went_off = fact.instance.modified_at
            since = went_off - GOING_OFF
            found[fact.name] = PowerOff(fact.instance.queue, went_off, ours=False, at_work_at=since)
    at_work = {task.machine for task in fleet.world.clearml.open_tasks}
    for pending in fleet.memory.pending.values():
        queue = fleet.queue(pending.queue)
        unseen = pending.missed and pending.name in at_work - fleet.by_name.keys()
        if unseen and pending.name not in found and queue and queue.on_lost == "requeue":
            # made, put to work and removed, all before anybody looked
            since = pending.decided_at + fleet.world.clearml.skew
            off = PowerOff(queue.name, fleet.clearml_now, ours=False, at_work_at=since)
            found[pending.name] = off
    return found


def _is_lost(before: InstanceMemory, fact: Fact | None) -> bool:
    if fact is not None and fact.state is S.LOST:
        return bool(fact.claims)
    went_down = fact is None or fact.state in _DOWN
    return went_down and before.state in ON and before.stop_decided_at is None


def _came_and_went(fleet: Fleet, fact: Fact) -> bool:
    """Whether it is down, and may have been at work while nobody could keep a memory."""
    lately = fleet.clearml_now - fact.instance.modified_at < RESCUE_WATCH
    if fact.state not in _DOWN or not (fact.claims or lately):
        return False
    known = fleet.memory.instances.get(fact.instance.id)
    if known is None:
        return True
    before, now = known.last_seen, fact.instance
    touched = (before.tags, before.protected) != (now.tags, now.protected)
    return known.state not in ON and before.modified_at < now.modified_at and not touched


def _last_at_work(before: InstanceMemory, last_cycle: datetime) -> datetime:
    """When it surely ran: a shutdown from within ends the task up to some minutes before
    Scaleway says anything, and a zone that does not answer says nothing at all."""
    claimed, heard = before.claimed_at, before.last_report_at
    if claimed is None:
        return last_cycle
    last = last_cycle if heard is None else min(last_cycle, max(claimed, heard))
    return claimed if last - claimed < WORKER_LOST else last


def requeue(fleet: Fleet, off: PowerOff, task: Task) -> None:
    """Plan the return of a task that was lost with its instance, if it may run once more."""
    queue = fleet.queue(off.queue)
    if queue is None or queue.on_lost == "leave":
        return
    if task.status not in (TaskStatus.IN_PROGRESS, TaskStatus.STOPPED):
        return  # it failed or finished by itself
    before = fleet.memory.requeued.get(task.id)
    count = before.count if before else 0
    if count < queue.max_requeues:
        because = (
            f"task {task.name} ({task.id}) was on {task.machine}, which {_what_became(fleet, task)}"
            f": back to the head of its queue ({count + 1} of {queue.max_requeues})"
        )
        fleet.put_back(task, Reason.LOST_TASK, because)


def _what_became(fleet: Fleet, task: Task) -> str:
    server_id = fleet.by_name.get(task.machine or "")
    if server_id is None:
        return "is gone, and not by our doing"
    if fleet.facts[server_id].state is S.LOST:
        return "fell silent, and ClearML has ended the task"
    return "went off by itself"
