"""The decision of one cycle, as one pure function.

No await, no clock, no log, no randomness: the same world, memory, configuration and moment give
the same plan, in production, in tests and in the simulation.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import InstanceDecision, Plan, World
from gpu_autoscaler.domain.effects import (
    LISTING_LAG,
    Effect,
    OnInstance,
    Reason,
    RemoveBootstrap,
    SetTags,
)
from gpu_autoscaler.domain.lifecycle import TRANSITIONS
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Memory, Pending, Requeue
from gpu_autoscaler.domain.model import PROVISIONING_TAG
from gpu_autoscaler.policy import (
    budgets,
    cleanup,
    episodes,
    history,
    launch,
    ledger,
    lost,
    obey,
    quarantine,
    rescue,
    stop,
    weekly,
)
from gpu_autoscaler.policy.breaker import Breakers
from gpu_autoscaler.policy.clocks import by_present_clock
from gpu_autoscaler.policy.fact import ON, Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.learn import learn
from gpu_autoscaler.policy.pause import pauses, tag_queues
from gpu_autoscaler.policy.settings import RETIRED_FOR
from gpu_autoscaler.policy.state import Join

_RESCUED_FOR = timedelta(days=30)
"""How long a task that was put back is remembered, so that it is not put back for ever."""


def plan(world: World, memory: Memory, config: Config, now: datetime) -> Plan:
    """Decide what to do now, and say for every queue and instance why that, or why nothing."""
    memory = by_present_clock(memory, world, now)
    if world.lost_memory:
        unseen = dict.fromkeys(config.queues, launch.UNSEEN)
        memory = replace(memory, begun_at=now, forgot_at=now, unconfirmed_need=unseen)
    elif memory.unconfirmed_need == {}:
        # its last holder has ended long enough ago for every listing to show what it did
        memory = replace(memory, begun_at=now - LISTING_LAG)
    elif memory.unconfirmed_need and not any(zone.complete for zone in world.zones.values()):
        # while no zone answers, none is waited for in particular
        memory = replace(memory, begun_at=now)
    learned = learn(world, memory, now)
    standings = budgets.standings(learned.memory, config, world.prices, now)
    held = budgets.held(standings, config)
    memory = replace(learned.memory, pauses=pauses(world, learned.memory, config, now, held))
    facts = Join(world, memory, config, now).facts()
    pending, breakers = dict(memory.pending), Breakers(memory.breakers, now)
    fleet = Fleet(config, world, memory, now, facts, learned.backoffs, breakers, pending)
    fleet.budgets = standings
    quarantine.judge(fleet)
    breakers.watch(fleet.facts.values(), memory)
    for fact in facts.values():
        if fact.state in (S.INITIALIZING, S.IDLE, S.RUNNING_TASK) and fact.seen:
            instance = fact.instance
            fleet.backoffs.booted(instance.placement, instance.spec, fact.memory.booted_at)
    cleanup.note_fall_backs(fleet)
    stop.note_boots_in_vain(fleet)
    fleet.backoffs.end_early(world)
    offs = rescue.unremembered(fleet) | rescue.forget_undone(fleet)
    fleet.memory = replace(memory, power_offs=lost.watched(fleet, offs))
    popped = rescue.watch_popped(fleet)
    rescue.rescue_all(fleet, popped)
    queues = rescue.tell_left(fleet, popped, launch.launch_all(fleet))
    answers = obey.obey_all(fleet, popped.stuck)
    stop.stop_all(fleet, popped.stuck)
    cleanup.delete_all(fleet)
    cleanup.mend_tags(fleet)
    cleanup.remove_bootstraps(fleet)
    tag_queues(fleet)
    free_volumes = cleanup.sweep_volumes(fleet)
    news = episodes.follow(fleet, queues, free_volumes)
    told, reports = weekly.look(memory, config, now)
    books = ledger.book(fleet)
    return Plan(
        effects=tuple(fleet.effects),
        memory=replace(
            memory,
            version=SCHEMA_VERSION,
            instances=books.instances,
            pending=_pending(fleet),
            backoffs=fleet.backoffs.kept(),
            breakers=breakers.kept(),
            power_offs=rescue.kept_power_offs(fleet),
            rescued=_recent(memory.rescued, now - _RESCUED_FOR),
            requeued=_recent_returns(memory.requeued, now),
            popped_back=_recent_returns(memory.popped_back, now),
            waited=_waited(fleet),
            popped=popped.first_seen,
            free_volumes=free_volumes,
            retired=_retired(fleet),
            planned_at=now,
            skew=world.clearml.skew if world.clearml.complete else memory.skew,
            clearml_since=(memory.clearml_since or now) if world.clearml.complete else None,
            queue_ids=_queue_ids(fleet),
            volumes_listed_at=_volumes_listed_at(fleet),
            unconfirmed_need=_unconfirmed(fleet),
            said=history.said(fleet, answers),
            boots=history.boots(fleet),
            account=history.account(fleet),
            unbooked=books.unbooked,
            untold=books.untold,
            spent=books.spent,
            booked_until=books.booked_until,
            weekly_told=told,
            zones=_zones(fleet),
            troubles=news.troubles,
            episodes=(*news.episodes, *reports),
        ),
        queues=queues,
        instances=tuple(_decisions(fleet)),
        answers=answers,
    )


def _zones(fleet: Fleet) -> tuple[str, ...]:
    """Where something of ours is, may come to be, or was not yet seen to be gone."""
    zones = {fact.instance.zone for fact in fleet.facts.values()}
    zones |= {p.placement.zone for p in fleet.pending.values() if p.placement is not None}
    for name in fleet.memory.zones:
        view = fleet.world.zones.get(name)
        if view is None or not view.complete or view.volumes is None or view.volumes:
            zones.add(name)
    return tuple(sorted(zones))


def _queue_ids(fleet: Fleet) -> dict[str, str]:
    known = fleet.memory.queue_ids
    if not fleet.world.clearml.complete:
        return known
    served = {fact.instance.queue for fact in fleet.facts.values()}
    served |= {off.queue for off in fleet.memory.power_offs.values()}
    seen = {queue.id: name for name, queue in fleet.world.clearml.queues.items()}
    return {queue_id: name for queue_id, name in known.items() if name in served} | seen


def _pending(fleet: Fleet) -> dict[str, Pending]:
    """Without the creations that ended and that every listing shows by now."""
    visible = {
        f"create:{fact.name}"
        for fact in fleet.facts.values()
        if fact.seen and PROVISIONING_TAG not in fact.instance.tags
    }
    return {k: p for k, p in fleet.pending.items() if not (p.done and k in visible)}


def _waited(fleet: Fleet) -> tuple[str, ...]:
    if not fleet.world.clearml.complete:
        return fleet.memory.waited
    return tuple(sorted(name for name in fleet.world.clearml.queues if fleet.waiting(name)))


def _retired(fleet: Fleet) -> dict[str, datetime]:
    names = {fact.name for fact in fleet.facts.values()}
    gone = {m.last_seen.name: fleet.now for m in fleet.memory.instances.values()}
    kept = _recent(fleet.memory.retired, fleet.now - RETIRED_FOR)
    return {name: at for name, at in (gone | kept).items() if name not in names}


def _recent(times: Mapping[str, datetime], since: datetime) -> dict[str, datetime]:
    return {key: at for key, at in times.items() if at > since}


def _recent_returns(returns: Mapping[str, Requeue], now: datetime) -> dict[str, Requeue]:
    return {task: back for task, back in returns.items() if back.at > now - _RESCUED_FOR}


def _volumes_listed_at(fleet: Fleet) -> datetime | None:
    asked = any(zone.volumes is not None for zone in fleet.world.zones.values())
    return fleet.now if asked else fleet.memory.volumes_listed_at


def _unconfirmed(fleet: Fleet) -> dict[str, int] | None:
    """What this observation asked for, of the queues that no second one has confirmed yet."""
    known = fleet.memory.unconfirmed_need
    if known is None:
        return None
    left: dict[str, int] = {}
    for queue in fleet.config.queues.values():
        before = left[queue.name] = known.get(queue.name, launch.UNSEEN)
        if before != launch.CONFIRMED and launch.observed(fleet, queue):
            agreed = before != launch.UNSEEN and launch.listings_show_all(fleet)
            left[queue.name] = launch.CONFIRMED if agreed else launch.need(fleet, queue).wanted
    return left if set(left.values()) != {launch.CONFIRMED} else None


def _decisions(fleet: Fleet) -> list[InstanceDecision]:
    by_instance: dict[str, Effect] = {}
    for effect in fleet.effects:
        if isinstance(effect, OnInstance) and not isinstance(effect, SetTags | RemoveBootstrap):
            by_instance.setdefault(effect.instance.id, effect)
    tasks = {task.id: task.name for task in fleet.world.clearml.open_tasks}
    return [
        _decision(fleet, fact, by_instance.get(server_id), tasks)
        for server_id, fact in sorted(fleet.facts.items(), key=lambda item: item[1].name)
    ]


def _decision(
    fleet: Fleet, fact: Fact, effect: Effect | None, tasks: Mapping[str, str]
) -> InstanceDecision:
    if effect is not None:
        reason, because = effect.reason, effect.because
    elif fact.instance.id in fleet.verdicts:
        reason, because = fleet.verdicts[fact.instance.id]
    else:
        reason, because = _plain_verdict(fact, tasks)
    if effect is None and fact.quarantined and not fact.hands_off:
        reason, because = Reason.QUARANTINED, f"quarantined: {because}"
    return InstanceDecision(
        name=fact.name,
        queue=fact.instance.queue,
        state=fact.state,
        state_since=fact.memory.state_since,
        reason=reason,
        because=because,
        previous=fact.previous if fact.previous is not fact.state else None,
        effect=effect,
        hands_off=fact.hands_off,
        from_outside=_from_outside(fleet, fact),
    )


_UP = ON | {S.STARTING}


def _from_outside(fleet: Fleet, fact: Fact) -> bool:
    """Whether its state changed by somebody else's doing."""
    before = fleet.memory.instances.get(fact.instance.id)
    if before is None or before.state is fact.state:
        return False
    if fact.state not in TRANSITIONS[before.state]:
        return True
    stopped = fact.state in (S.STOPPING, S.STOPPED, S.STOPPED_IN_PLACE)
    return stopped and before.state in _UP and not (before.stop_decided_at or fact.fell_back)


def _plain_verdict(fact: Fact, tasks: Mapping[str, str]) -> tuple[Reason, str]:
    match fact.state:
        case S.RUNNING_TASK:
            names = ", ".join(tasks.get(claim) or claim for claim in fact.claims)
            return Reason.BUSY, f"runs {names or 'a task'}"
        case S.PROVISIONING | S.STARTING | S.INITIALIZING:
            return Reason.BOOTING, "booting"
        case S.STOPPING | S.DELETING:
            return Reason.IN_FLIGHT, fact.state.value
        case _ if fact.hands_off:
            return Reason.HANDS_OFF, f"hands off: {fact.hands_off}"
        case _:
            return Reason.WAITING, fact.state.value.replace("_", " ")
