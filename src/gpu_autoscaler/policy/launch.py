"""Scale up: how many instances a queue lacks, and where they come from.

    launch = min(demand - capacity - idle workers of others, max_instances - billed)

at least up to min_instances; stopped instances are started first, then new ones created in the
best placement that may be tried (see `place`). Any waiting task counts: there is no threshold.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from gpu_autoscaler.config.fields import slug
from gpu_autoscaler.config.models import Config, QueueConfig
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.decisions import QueueDecision
from gpu_autoscaler.domain.effects import LISTING_LAG, CreateInstance, Reason, StartInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import CreateOrder, FleetTags, Placement
from gpu_autoscaler.policy import place
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.hours import note
from gpu_autoscaler.policy.settings import START_PATIENCE, ZONE_PATIENCE

UNSEEN = -1
CONFIRMED = -2
"""In `Memory.unconfirmed_need`: no complete observation of this queue yet; two that agreed."""

_TOLD_FIRST = (Reason.FLEET_MAX_EUR, Reason.BREAKER_OPEN, Reason.NO_PLACEMENT, Reason.MAX_PRICE)
"""Of the reasons of several placements the one that the whole decision has."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one queue asks for."""

    queue: QueueConfig
    waiting: tuple[datetime, ...]
    capacity: int
    others_idle: int
    billed: int
    quarantined: int
    """Of the billed ones: on their way out, and good for nothing."""
    busy: int
    exists: bool
    overdue: int = 0
    """Of the billed ones: they boot for too long, and nobody counts on them."""

    @property
    def demand(self) -> int:
        """Tasks that wait."""
        return len(self.waiting)

    @property
    def wanted(self) -> int:
        """Instances to launch, before any limit."""
        missing = self.queue.min_instances - (self.billed - self.quarantined)
        minimum = missing if self.exists else 0
        return max(self.demand - self.capacity - self.others_idle, minimum, 0)


def need(fleet: Fleet, queue: QueueConfig) -> Need:
    """Count what a queue has and lacks."""
    facts = fleet.of_queue(queue.name)
    starting = sum(f.state is S.STOPPED and fleet.under_way("start", f) for f in facts)
    ready = sum(f.capacity and not fleet.under_way("stop", f) for f in facts)
    known = fleet.world.clearml.queues.get(queue.name)
    coming = fleet.unlisted_creates(queue.name)
    late = sum(fleet.now - create.decided_at >= START_PATIENCE for create in coming)
    return Need(
        queue=queue,
        waiting=tuple(fleet.waiting(queue.name)),
        capacity=ready + starting + len(coming) - late,
        others_idle=fleet.idle_others[known.id] if known else 0,
        billed=fleet.billed(queue.name),
        quarantined=sum(f.state is S.QUARANTINED for f in facts),
        busy=sum(f.state is S.RUNNING_TASK for f in facts),
        exists=known is not None,
        overdue=late + sum(f.billed and f.overdue for f in facts),
    )


def launch_all(fleet: Fleet) -> list[QueueDecision]:
    """Plan launches for every queue, the one with the oldest waiting task first."""
    needs = [need(fleet, queue) for queue in fleet.config.queues.values()]
    needs.sort(key=lambda n: n.waiting[0] if n.waiting else fleet.now)
    return [_launch(fleet, each) for each in needs]


def _launch(fleet: Fleet, need_: Need) -> QueueDecision:
    queue, wanted = need_.queue, need_.wanted
    reason, because, launched = _nothing_needed(need_)
    hours = "" if need_.demand else note(queue, fleet.now)
    if not fleet.world.clearml.complete:
        wanted = 0
        reason, because = (
            Reason.INCOMPLETE,
            f"ClearML gave no full answer: {fleet.world.clearml.error}",
        )
    elif not need_.exists:
        wanted = 0
        reason = Reason.QUEUE_MISSING
        because = f"ClearML has no queue named {queue.name}"
    elif (pause := fleet.memory.pauses.get(queue.name)) is not None and not pause.ending:
        wanted = 0
        reason, because = Reason.PAUSED, f"paused since {pause.since:%Y-%m-%d %H:%M} UTC"
        if pause.budget:
            also = "" if pause.asked is False else f"; and {because}"
            reason, because = Reason.BUDGET, pause.budget + also
    elif wanted > (confirmed := _confirmed(fleet, queue, wanted)):
        wanted = confirmed
        reason, because = Reason.UNCONFIRMED, _why_unconfirmed(fleet)
    elif wanted and (resting := _resting(fleet, queue)):
        wanted -= min(wanted, len(resting))
        reason = Reason.WAITING
        because = f"{resting[0].name} has just stopped and is started next"
    while launched < wanted:
        limit = _limit(fleet, queue)
        if limit is not None:
            reason, because = limit
            break
        why = Reason.DEMAND if need_.demand else Reason.MIN_INSTANCES
        step = _launch_one(fleet, need_, why)
        if step is not None:
            reason, because = step
            break
        launched += 1
        reason, because = why, _sentence(need_, launched) + hours
    return QueueDecision(
        queue=queue.name,
        reason=reason,
        because=because + _not_counted(need_),
        demand=need_.demand,
        oldest_entry_at=need_.waiting[0] if need_.waiting else None,
        capacity=need_.capacity,
        billed=need_.billed,
        busy=need_.busy,
        launched=launched,
    )


def observed(fleet: Fleet, queue: QueueConfig) -> bool:
    """Whether this cycle saw everything that bounds a queue's launches may hide in.

    One dark zone must not keep a queue waiting for ever: after a while, those that answer do.
    """
    config = fleet.config
    until = _waits_for_zones_until(fleet)
    if until is not None and fleet.now >= until:
        return fleet.world.clearml.complete
    of_all = config.max_instances is not None or config.max_eur_per_hour is not None
    zones = fleet.world.zones if of_all else {placement.zone for placement in queue.placements}
    return fleet.world.clearml.complete and all(map(fleet.zone_answers, zones))


def _waits_for_zones_until(fleet: Fleet) -> datetime | None:
    begun_at = fleet.memory.begun_at
    return None if begun_at is None else begun_at + ZONE_PATIENCE


def listings_show_all(fleet: Fleet) -> bool:
    """Whether all that was done before this memory began is certainly listed by now."""
    begun_at = fleet.memory.begun_at
    return begun_at is None or fleet.now - begun_at >= LISTING_LAG


def _confirmed(fleet: Fleet, queue: QueueConfig, wanted: int) -> int:
    """How many launches two observations agree on; only one was made since memory was lost."""
    if fleet.memory.unconfirmed_need is None:
        return wanted
    before = fleet.memory.unconfirmed_need.get(queue.name, UNSEEN)
    if before == CONFIRMED:
        return wanted
    if before == UNSEEN or not (observed(fleet, queue) and listings_show_all(fleet)):
        return 0
    return min(wanted, before)


def _nothing_needed(need_: Need) -> tuple[Reason, str, int]:
    if not need_.demand:
        return Reason.NO_DEMAND, "no task waits", 0
    covered = need_.capacity + need_.others_idle
    return Reason.SATISFIED, f"{need_.demand} waiting, {covered} idle or booting for them", 0


def _why_unconfirmed(fleet: Fleet) -> str:
    because = (
        f"started without memory: a second observation, {format_duration(LISTING_LAG)} after "
        "the first, must agree before the first launch"
    )
    if dark := [zone for zone in fleet.world.zones if not fleet.zone_answers(zone)]:
        because += f"; no answer from {', '.join(dark)}"
        until = _waits_for_zones_until(fleet)
        if until is not None and fleet.now < until:
            because += f", waited for until {until:%H:%M:%S}"
    return because


def _not_counted(need_: Need) -> str:
    if not (need_.demand and need_.overdue):
        return ""
    return f"; not counted: {need_.overdue} that should have booted by now"


def _sentence(need_: Need, launched: int) -> str:
    if not need_.demand:
        return f"launching {launched} to keep min_instances = {need_.queue.min_instances}"
    return (
        f"launching {launched}: {need_.demand} waiting, "
        f"{need_.capacity + need_.others_idle} idle or booting, {need_.busy} busy"
    )


def _limit(fleet: Fleet, queue: QueueConfig) -> tuple[Reason, str] | None:
    """The bound that forbids one more billed instance, with its sentence; None when none does."""
    billed = fleet.billed(queue.name)
    if billed >= queue.max_instances:
        text = f"{billed} of max_instances = {queue.max_instances} are billed"
        return Reason.MAX_INSTANCES, text + note(queue, fleet.now)
    half_made = sum(fact.abandoned for fact in fleet.of_queue(queue.name))
    if half_made and billed + half_made >= queue.max_instances:
        # or one would be added every few minutes while none can be removed
        return Reason.HALF_MADE, f"{half_made} half-made instances could not be removed yet"
    most = fleet.config.max_instances
    if most is not None and (total := fleet.billed()) >= most:
        return Reason.FLEET_MAX_INSTANCES, f"the fleet has {total} of max_instances = {most}"
    return None


def _launch_one(fleet: Fleet, need_: Need, why: Reason) -> tuple[Reason, str] | None:
    """Plan one start or creation; or say why that cannot be."""
    queue = need_.queue
    waiting = (
        f"{need_.demand} waiting" if need_.demand else f"min_instances = {queue.min_instances}"
    )
    dear: list[place.Refusal] = []
    for fact in _spares(fleet, queue):
        if not fleet.tasks_looked_at(fact):
            continue
        if too_dear := place.too_dear(fleet, queue, fact.instance.placement):
            dear.append(too_dear)
        elif fleet.touchable(fact, "start"):
            because = f"{waiting} in {queue.name}: starting {fact.name} again"
            fleet.add(StartInstance(instance=fact.instance, reason=why, because=because))
            return None
    refusals = list(dear)
    for placement in place.in_order(fleet, queue):
        refusal = place.refused(fleet, queue, placement)
        if refusal is not None:
            refusals.append(refusal)
            continue
        because = f"{waiting} in {queue.name}: {place.choice(fleet, queue, placement)}"
        order = _order(fleet, queue, placement)
        fleet.add(CreateInstance(order=order, reason=why, because=because))
        return None
    reasons = {refusal.reason for refusal in refusals}
    reason = next(reason for reason in _TOLD_FIRST if reason in reasons)
    said = [r.because for r in dear] + place.passed_over(fleet, queue, None)
    return reason, f"{waiting}, but " + "; ".join(dict.fromkeys(said))


def _spares(fleet: Fleet, queue: QueueConfig) -> list[Fact]:
    """Stopped instances that may be started, the one stopped last first."""
    spares = [
        fact
        for fact in fleet.of_queue(queue.name)
        if fact.state is S.STOPPED
        and fact.instance.spec == fleet.spec(queue.name, fact.instance.placement)
        and not fact.memory.delete_when_stopped
        and not fact.quarantined
        and not fact.fell_back
        and fact.instance.placement in queue.placements
        and not place.held_back(fleet, queue, fact.instance.placement)
        and not fact.hands_off
        and not fact.claims
        and f"start:{fact.instance.id}" not in fleet.pending
        and not fleet.under_way("delete", fact)
    ]
    return sorted(spares, key=lambda fact: fact.memory.state_since, reverse=True)


def _resting(fleet: Fleet, queue: QueueConfig) -> list[Fact]:
    """Spares that have only just stopped: ready in the next cycle, when their tasks are seen."""
    return [
        fact
        for fact in _spares(fleet, queue)
        if fact.previous is not S.STOPPED and not fleet.tasks_looked_at(fact)
    ]


def _order(fleet: Fleet, queue: QueueConfig, placement: Placement) -> CreateOrder:
    spec = fleet.spec(queue.name, placement)
    tags = FleetTags(fleet.config.fleet).of_instance(queue.name, spec)
    return order_of(fleet.config, queue, placement, _new_name(fleet, queue), tags)


def order_of(
    config: Config, queue: QueueConfig, placement: Placement, name: str, tags: tuple[str, ...]
) -> CreateOrder:
    """What an instance of a queue is made of; a check of its boot makes the same."""
    machine = queue.at(placement)
    return CreateOrder(
        name=name,
        queue=queue.name,
        placement=placement,
        image=machine.image,
        volume_bytes=machine.volume.size,
        volume_iops=machine.volume.iops,
        scratch_bytes=machine.scratch,
        security_group_id=config.scaleway.security_group_ids.get(placement.zone),
        tags=tags,
    )


def _new_name(fleet: Fleet, queue: QueueConfig) -> str:
    """A name nobody has: drawn from the moment, so that the plan stays a pure function."""
    count = 0
    while True:
        seed = f"{fleet.config.fleet}\n{queue.name}\n{fleet.now.isoformat()}\n{count}"
        name = f"{slug(queue.name)}-{hashlib.sha256(seed.encode()).hexdigest()[:6]}"
        if name not in fleet.names_taken:
            return name
        count += 1
