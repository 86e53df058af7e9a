"""What memory learns from effects that ended, before anything new is decided."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    Failure,
    Outcome,
    Reason,
    RemoveBootstrap,
    RescueTask,
    SetTags,
    StartInstance,
    StopInstance,
)
from gpu_autoscaler.domain.memory import InstanceMemory, Memory, Pending, PowerOff, Requeue
from gpu_autoscaler.policy.settings import FAILED_EFFECT_PAUSE, START_SETTLE
from gpu_autoscaler.policy.stock import Backoffs


@dataclass(slots=True)
class Learned:
    """Memory with the outcomes folded in."""

    memory: Memory
    backoffs: Backoffs


def learn(world: World, memory: Memory, now: datetime) -> Learned:
    """Fold the outcomes of effects into memory, and forget what is no longer under way."""
    backoffs = Backoffs(memory.backoffs, now)
    unauthorized_since = _unauthorized_since(world, memory, now)
    pending = dict(memory.pending)
    instances = dict(memory.instances)
    power_offs, rescued = dict(memory.power_offs), dict(memory.rescued)
    requeued = dict(memory.requeued)
    popped, popped_back = dict(memory.popped), dict(memory.popped_back)
    counts = {Reason.LOST_TASK: requeued, Reason.POPPED_TASK: popped_back}
    for told in world.outcomes:
        # it ended since the last cycle, whatever our clock said then: it may have been set
        ended_at = min(max(told.at, memory.planned_at or told.at), now)
        outcome, effect = replace(told, at=ended_at), told.effect
        started = pending.get(effect.key)
        # of the order, not of now: a configuration changed meanwhile is not what was rejected
        spec = effect.order.spec if isinstance(effect, CreateInstance) else ""
        if not _own_fault(outcome):
            backoffs.learn(outcome, spec, unauthorized_since)
        _settle(pending, started, outcome)
        match effect:
            case StartInstance() if outcome.failure is None:
                _accepted(instances, effect.instance.id, outcome.at)
                power_offs.pop(effect.instance.name, None)
            case CreateInstance(order=order) if outcome.failure is None:
                named = (k for k, each in instances.items() if each.last_seen.name == order.name)
                _accepted(instances, next(named, ""), outcome.at)
            case StopInstance(instance=instance) if outcome.failure is Failure.GUARD:
                power_offs.pop(instance.name, None)
                _stop_refused(instances, instance.id)
            case StopInstance(instance=instance) if outcome.failure is None:
                _stop_accepted(power_offs, instance.name)
            case RemoveBootstrap(instance=instance) if outcome.failure is None:
                _bootstrap_removed(instances, instance.id)
            case RescueTask(reason=Reason.CAUGHT_TASK) if outcome.failure is None:
                rescued[effect.task.id] = outcome.at
            case RescueTask() if outcome.failure is None:
                _count(counts[effect.reason], effect.task.id, outcome.at)
                popped.pop(effect.task.id, None)  # if it is again, an agent has just pulled it
            case _:
                pass
    return Learned(
        replace(
            memory,
            pending=_not_over(pending, world, instances.values(), now),
            instances=instances,
            power_offs=power_offs,
            rescued=rescued,
            requeued=requeued,
            popped=popped,
            popped_back=popped_back,
            unauthorized_since=unauthorized_since,
        ),
        backoffs,
    )


def _count(returns: dict[str, Requeue], task_id: str, at: datetime) -> None:
    before = returns.get(task_id)
    returns[task_id] = Requeue(before.count + 1 if before else 1, at)


def _not_over(
    pending: Mapping[str, Pending], world: World, known: Iterable[InstanceMemory], now: datetime
) -> dict[str, Pending]:
    """What may still take effect, or has and was not seen yet."""
    listed = {i.name for zone in world.zones.values() if zone.complete for i in zone.instances}
    names = {each.last_seen.name for each in known}
    gone = {server_id for zone in world.zones.values() for server_id in zone.gone}
    left: dict[str, Pending] = {}
    for key, each in pending.items():
        if now < each.expires_at or key in world.in_flight or _hidden(each, world):
            left[key] = each
        elif each.doubtful and key.startswith("start:") and each.name in listed:
            # it is what the listing says, and rests a while if that is `stopped`
            rest = now + FAILED_EFFECT_PAUSE[Failure.TRANSIENT]
            left[key] = replace(each, doubtful=False, failed=True, expires_at=rest)
        elif each.failed or each.missed or each.name in listed:
            continue
        elif (key.startswith("create:") and each.name not in names) or (
            key.startswith("start:") and key.removeprefix("start:") not in gone
        ):
            # its time is over, and no listing shows it: but one listing may lack a row
            left[key] = replace(each, missed=True)
    return left


def _unauthorized_since(world: World, memory: Memory, now: datetime) -> datetime | None:
    """Since when permission is refused: any call that was allowed ends it."""
    since = memory.unauthorized_since
    for outcome in world.outcomes:
        if outcome.failure is Failure.UNAUTHORIZED:
            since = since or now
        elif outcome.failure is None and not isinstance(outcome.effect, RescueTask):
            since = None
    return since


def _settle(pending: dict[str, Pending], started: Pending | None, outcome: Outcome) -> None:
    if started is None:
        return
    seen_later = isinstance(
        outcome.effect, CreateInstance | StartInstance | StopInstance | DeleteInstance | SetTags
    )
    pause = FAILED_EFFECT_PAUSE.get(outcome.failure or Failure.NOT_FOUND)
    if isinstance(outcome.effect, CreateInstance | StartInstance) and not _own_fault(outcome):
        pause = None  # the placement backs off
    launch = isinstance(outcome.effect, CreateInstance | StartInstance)
    if launch and outcome.failure is Failure.TRANSIENT:
        until = outcome.at + START_SETTLE
        pending[started.key] = replace(started, doubtful=True, expires_at=until)
    elif outcome.failure is None and seen_later:
        pending[started.key] = replace(
            started,
            done=True,
            expires_at=outcome.at + START_SETTLE,
            effective_at=outcome.powered_on_at or outcome.at,
        )
    elif pause is not None:
        pending[started.key] = replace(started, failed=True, expires_at=outcome.at + pause)
    else:
        del pending[started.key]


def _own_fault(outcome: Outcome) -> bool:
    """Whether a start failed for this one machine's sake: others may be launched meanwhile."""
    return isinstance(outcome.effect, StartInstance) and outcome.failure in (
        Failure.REJECTED,
        Failure.TRANSIENT,
        Failure.NOT_FOUND,
    )


def _hidden(pending: Pending, world: World) -> bool:
    """Whether a launch may have taken effect where nobody can look now."""
    launch = pending.key.startswith(("create:", "start:"))
    if pending.failed or not launch or pending.placement is None:
        return False
    zone = world.zones.get(pending.placement.zone)
    return zone is None or not zone.complete


def _accepted(instances: dict[str, InstanceMemory], server_id: str, at: datetime) -> None:
    known = instances.get(server_id)
    if known is not None:
        instances[server_id] = replace(
            known, start_accepted_at=at, stop_decided_at=None, delete_when_stopped=False
        )


def _stop_accepted(power_offs: dict[str, PowerOff], name: str) -> None:
    off = power_offs.get(name)
    if off is not None:
        power_offs[name] = replace(off, accepted=True)


def _bootstrap_removed(instances: dict[str, InstanceMemory], server_id: str) -> None:
    known = instances.get(server_id)
    if known is not None:
        instances[server_id] = replace(known, bootstrap_removed=True)


def _stop_refused(instances: dict[str, InstanceMemory], server_id: str) -> None:
    known = instances.get(server_id)
    if known is not None:
        instances[server_id] = replace(known, stop_decided_at=None, delete_when_stopped=False)
