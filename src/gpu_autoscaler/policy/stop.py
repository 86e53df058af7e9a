"""Scale down: which instances are powered off, and why the others are not.

stop = idle - demand (never below min_instances), most idle first, each past its timeout;
above max, idle ones at once.
"""

from dataclasses import replace
from datetime import timedelta

from gpu_autoscaler.config.models import QueueConfig
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import BOOT_FAILED, TaskStatus
from gpu_autoscaler.policy import guard
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.hours import note
from gpu_autoscaler.policy.settings import (
    CLOCK_MARGIN,
    FAST_FAILURE,
    FAST_FAILURES,
    GRACE_AFTER_TASK,
    OUTAGE_HOLD,
    OUTAGE_WINDOW,
)
from gpu_autoscaler.policy.state import stood_still

_PERHAPS_BOOTING = frozenset({S.INITIALIZING, S.LOST, S.STOPPING})
"""What was seen before a machine is off whose boot failed; from `starting` it is no stock."""


def stop_all(fleet: Fleet, stuck: frozenset[str]) -> None:
    """Plan every power-off of this cycle."""
    if not fleet.world.clearml.complete:
        for fact in fleet.facts.values():
            fleet.verdicts.setdefault(
                fact.instance.id,
                (Reason.INCOMPLETE, "ClearML gave no full answer: nothing is stopped"),
            )
        return
    for fact in fleet.facts.values():
        match fact.state:
            case S.STOPPED_IN_PLACE:
                because = f"{fact.name} is stopped in place, which is billed in full"
                stop(fleet, fact, Reason.STOPPED_IN_PLACE, because, Guard.NONE, stuck)
            case S.QUARANTINED if fact.memory.untagged_at is not None:
                text = "its tag is off: released if the next listings agree"
                fleet.verdicts[fact.instance.id] = (Reason.WAITING, text)
            case S.QUARANTINED:
                because = f"{_why_quarantined(fleet, fact)}: powering it off"
                stop(fleet, fact, Reason.QUARANTINED, because, Guard.QUARANTINE, stuck)
            case S.INITIALIZING:
                _stop_if_stale(fleet, fact, stuck)
            case S.LOST:
                _stop_if_lost(fleet, fact, stuck)
            case _:
                pass
    for queue in sorted({fact.instance.queue for fact in fleet.facts.values()}):
        _stop_idle(fleet, queue, stuck)


def note_boots_in_vain(fleet: Fleet) -> None:
    """A machine that goes off by itself before its agent came has booted in vain, too."""
    clearml = fleet.world.clearml
    if not clearml.complete or fleet.memory.clearml_since is None:
        return  # its agent could not have told anybody
    if stood_still(fleet.memory, fleet.config, fleet.now):
        return  # who knows what it did meanwhile
    for server_id, fact in fleet.facts.items():
        before = fleet.memory.instances.get(server_id)
        if before is None or not _went_off_booting(fact, before):
            continue
        mine = (w.last_report_at for w in clearml.workers if w.machine == fact.name)
        if any(at > before.booted_at for at in mine):
            continue  # it came between two looks
        placement, spec = fact.instance.placement, fact.instance.spec
        fleet.breakers.failed(placement, spec, before.boot_report)
        # one that has worked may have been stopped by a person; not time after time, though
        remove = not fact.registered or fleet.breakers.refusal(placement, spec) is not None
        memory = fact.memory
        memory = replace(memory, delete_when_stopped=memory.delete_when_stopped or remove)
        fleet.facts[server_id] = replace(fact, memory=memory)


def _went_off_booting(fact: Fact, before: InstanceMemory) -> bool:
    """It was seen to run, nobody here decided its stop, and it never reported in that boot."""
    if fact.state is S.PROVISIONING:
        went_off = before.state is S.INITIALIZING
    else:
        went_off = fact.state is S.STOPPED and before.state in _PERHAPS_BOOTING
    silent = before.last_report_at is None and not before.boot_failed
    ours = before.stop_decided_at is not None or fact.fell_back
    return went_off and silent and not (ours or fact.hands_off or fact.quarantined)


def _stop_idle(fleet: Fleet, name: str, stuck: frozenset[str]) -> None:
    queue = fleet.queue(name)
    idle = [
        fact
        for fact in fleet.of_queue(name)
        if fact.state is S.IDLE and not fact.hands_off and not fleet.under_way("stop", fact)
    ]
    idle.sort(key=lambda fact: fact.memory.idle_since or fleet.now)
    excess = _excess(fleet, name, queue)
    staying = fleet.staying(name)
    fewest = queue.min_instances if queue and name in fleet.world.clearml.queues else 0
    needed = len(fleet.waiting(name)) + fleet.returning(name)
    if name in fleet.memory.pauses:
        fewest = needed = 0  # nobody may pull: what idles goes
    spare = staying - fewest
    free = sum(fact.serves for fact in idle) - needed
    for fact in idle:
        since = fact.memory.idle_since or fleet.now
        idle_for = fleet.now - since
        timeout = GRACE_AFTER_TASK if excess > 0 else idle_timeout(queue, fact.memory)
        if idle_for < timeout:
            left = format_duration(timeout - idle_for)
            verdict = Reason.RECENTLY_BUSY if idle_for < GRACE_AFTER_TASK else Reason.WAITING
            fleet.verdicts[fact.instance.id] = (
                verdict,
                f"idle since {since:%H:%M:%S}; stops in {left}",
            )
        elif spare <= 0 and fact.serves:
            text = f"idle, kept by min_instances = {fewest}"
            text += note(queue, fleet.now) if queue else ""
            fleet.verdicts[fact.instance.id] = (Reason.MIN_INSTANCES, text)
        elif excess > 0:
            why = f"{staying} of at most {staying - excess} are billed"
            if queue is None:
                why = f"queue {name} is no longer in the configuration"
            because = f"{fact.name} is idle, and {why}"
            if stop(fleet, fact, Reason.ABOVE_MAX, because, Guard.IDLE, stuck):
                excess, spare, free = excess - 1, spare - 1, free - fact.serves
        elif free <= 0 and fact.serves:
            fleet.verdicts[fact.instance.id] = (Reason.DEMAND, "idle, kept for waiting tasks")
        else:
            because = (
                f"{fact.name} is idle for {format_duration(idle_for)}, "
                f"its timeout is {format_duration(timeout)}"
            )
            if stop(fleet, fact, Reason.IDLE_TIMEOUT, because, Guard.IDLE, stuck):
                spare, free = spare - 1, free - fact.serves


def _excess(fleet: Fleet, name: str, queue: QueueConfig | None) -> int:
    """How many billed instances are above the queue's, or the fleet's, maximum."""
    own = fleet.staying(name) - (queue.max_instances if queue else 0)
    most = fleet.config.max_instances
    return own if most is None else max(own, fleet.staying() - most)


def idle_timeout(queue: QueueConfig | None, memory: InstanceMemory) -> timedelta:
    """How long an instance idles before it is powered off."""
    if queue is None:
        return GRACE_AFTER_TASK
    timeout = queue.idle_timeout
    if memory.last_task_status is TaskStatus.COMPLETED and queue.idle_timeout_after_success:
        timeout = queue.idle_timeout_after_success
    return max(timeout, GRACE_AFTER_TASK)


def _stop_if_stale(fleet: Fleet, fact: Fact, stuck: frozenset[str]) -> None:
    queue = fleet.queue(fact.instance.queue)
    timeout = queue.stale_timeout if queue else fleet.config.orphan_timeout
    waited = fleet.now - fact.memory.state_since
    report = fact.memory.boot_report
    if report.startswith(BOOT_FAILED):
        because = f"{fact.name} cannot become a worker ({report}): removing it"
        stop(fleet, fact, Reason.BOOT_FAILED, because, Guard.NEVER_REGISTERED, stuck)
        return
    says = f"; it says: {report}" if report else ""
    if fact.registered or waited < timeout:
        text = f"booting for {format_duration(waited)}{says}"
        fleet.verdicts[fact.instance.id] = (Reason.BOOTING, text)
        return
    because = (
        f"{fact.name} runs for {format_duration(waited)} and its agent never registered "
        f"(stale_timeout {format_duration(timeout)}{says}): removing it"
    )
    stop(fleet, fact, Reason.NEVER_REGISTERED, because, Guard.NEVER_REGISTERED, stuck)


def _stop_if_lost(fleet: Fleet, fact: Fact, stuck: frozenset[str]) -> None:
    silent = f"silent since {fact.memory.state_since:%H:%M:%S}"
    if fact.claims:
        text = f"{silent} with task {fact.claims[0]} on it: hands off until ClearML ends the task"
        fleet.verdicts[fact.instance.id] = (Reason.LOST_WORKER, text)
        return
    if _outage(fleet, fact):
        text = f"{silent}, and others with it: an outage, nothing is stopped"
        fleet.verdicts[fact.instance.id] = (Reason.OUTAGE, text)
        return
    queue = fleet.queue(fact.instance.queue)
    timeout = queue.lost_timeout if queue else fleet.config.orphan_timeout
    since = max(fact.memory.state_since, fact.memory.claimed_at or fact.memory.state_since)
    if fleet.now - since < timeout:
        text = f"{silent}; powered off after {format_duration(timeout)}"
        fleet.verdicts[fact.instance.id] = (Reason.LOST_WORKER, text)
        return
    because = f"{fact.name} is {silent} and has no task: powering it off"
    stop(fleet, fact, Reason.LOST_WORKER, because, Guard.SILENT, stuck)


def _why_quarantined(fleet: Fleet, fact: Fact) -> str:
    since = fact.memory.quarantined_at
    if since != fleet.now or len(fact.memory.fast_failures) < FAST_FAILURES:
        return f"{fact.name} is quarantined since {since:%Y-%m-%d %H:%M}"
    return (
        f"{FAST_FAILURES} tasks in a row failed on {fact.name} within "
        f"{format_duration(FAST_FAILURE)} of their start, and no other instance of "
        f"{fact.instance.queue} has several such failures"
    )


def _outage(fleet: Fleet, fact: Fact) -> bool:
    """Whether others fell silent at the same time: then the cause is not the machine."""
    since = fact.memory.state_since
    if fleet.now - since > OUTAGE_HOLD:
        return False
    return any(
        other.state is S.LOST
        and other.instance.id != fact.instance.id
        and abs(other.memory.state_since - since) < OUTAGE_WINDOW
        for other in fleet.facts.values()
    )


def _reported_once(fact: Fact) -> bool:
    """Whether one report alone says that it idles; a new measure of the skew moves its time."""
    first, last = fact.memory.first_idle_report_at, fact.memory.last_report_at
    return first is None or last is None or last - first <= CLOCK_MARGIN


def stop(
    fleet: Fleet, fact: Fact, reason: Reason, because: str, held: Guard, stuck: frozenset[str]
) -> bool:
    """Plan it unless something forbids it; whether it was planned."""
    if not fleet.touchable(fact, "stop"):
        return False
    memory = fact.memory
    refused = guard.refusal(
        held, fact.instance, memory.booted_at, fleet.world.clearml, stuck, fleet.now
    )
    if refused is None and held is Guard.IDLE and _reported_once(fact):
        refused = "its agent has reported no task only once"
    if refused is not None:
        fleet.verdicts[fact.instance.id] = (Reason.WAITING, f"not stopped: {refused}")
        return False
    fleet.add(
        StopInstance(
            instance=fact.instance,
            guard=held,
            booted_at=memory.booted_at,
            reason=reason,
            because=because,
        )
    )
    queue = fleet.queue(fact.instance.queue)
    # whose agent did not even come back in this boot would not in the next one
    dead = reason is Reason.LOST_WORKER and memory.last_report_at is None
    in_vain = dead or reason in (Reason.NEVER_REGISTERED, Reason.BOOT_FAILED)
    remove = in_vain or queue is None or queue.idle_action == "delete"
    if in_vain and not memory.boot_failed:
        fleet.breakers.failed(fact.instance.placement, fact.instance.spec, memory.boot_report)
    fleet.facts[fact.instance.id] = replace(
        fact,
        memory=replace(
            memory,
            stop_decided_at=fleet.now,
            delete_when_stopped=remove,
            boot_failed=memory.boot_failed or in_vain,
        ),
    )
    return True
