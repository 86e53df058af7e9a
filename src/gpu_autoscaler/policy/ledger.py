"""What the ledger gets: every moment of every instance is in one stretch, and in no other.

A stretch ends when state or task change, at midnight (UTC), and with the instance. Scaleway's own
dates say when power, which costs most, came and went; the rest is as precise as a cycle. A stretch
that ended stays in memory until it is booked, so a crash at any moment loses none, and a record
that is written twice is the same.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta

from gpu_autoscaler.domain.effects import CreateInstance, StartInstance
from gpu_autoscaler.domain.ledger import Stretch
from gpu_autoscaler.domain.lifecycle import BILLED
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Memory
from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet

_ON = BILLED - {S.PROVISIONING}

SPENT_KEPT = timedelta(days=62)
"""For the budget of a month, and the one before it."""

UNTOLD_KEPT = timedelta(days=7)
"""A task that ClearML does not end for so long, or does not know, stays without a record."""


@dataclass(slots=True)
class Booked:
    """The parts of the next memory that are about money."""

    instances: dict[str, InstanceMemory]
    unbooked: tuple[Stretch, ...]
    untold: dict[str, datetime]
    spent: dict[str, dict[str, float]]
    booked_until: dict[str, datetime]


def book(fleet: Fleet) -> Booked:
    """Follow every instance, and end the stretches that are over."""
    ended: list[Stretch] = []
    instances: dict[str, InstanceMemory] = {}
    launches = _launches(fleet)
    for server_id, fact in fleet.facts.items():
        known = fact.memory
        lasting = _follow(fleet, fact, launches, ended)
        if lasting is not known.stretch:
            volume = known.volume_eur_per_hour or _volume_eur_per_hour(fleet, fact)
            known = replace(known, stretch=lasting, volume_eur_per_hour=volume)
        instances[server_id] = known
    for server_id, known in fleet.memory.instances.items():
        if server_id not in fleet.facts and known.stretch is not None:
            deleted = fleet.memory.pending.get(f"delete:{server_id}")
            at = (deleted and deleted.effective_at) or fleet.now
            ended += _ended(fleet, known.stretch, at)
    memory = fleet.memory
    lasting_tasks = {t for each in instances.values() if each.stretch for t in each.stretch.tasks}
    left = {t for each in ended for t in each.tasks} - lasting_tasks
    untold = {t: at for t, at in memory.untold.items() if fleet.now - at < UNTOLD_KEPT}
    return Booked(
        instances,
        (*memory.unbooked, *ended),
        untold | dict.fromkeys(sorted(left), fleet.now),
        _spent(memory.spent, ended, fleet.now),
        {k: v for k, v in memory.booked_until.items() if k not in instances},
    )


def lasting(memory: Memory) -> tuple[Stretch, ...]:
    """What had not ended by the last cycle, up to then."""
    until = memory.planned_at
    stretches = (known.stretch for known in memory.instances.values())
    return tuple(
        replace(each, until=until) for each in stretches if each and until and each.since < until
    )


@dataclass(frozen=True, slots=True)
class _Launch:
    """A creation or a start that lately was, or is, under way."""

    key: str
    at: datetime
    """From when on the machine is billed; as long as nobody knows, when it was decided."""
    accepted: bool


def _launches(fleet: Fleet) -> dict[str, _Launch]:
    """By effect key, with those that ended since the last cycle: they may be forgotten by now."""
    found = {
        key: _Launch(key, each.effective_at or each.decided_at, each.done)
        for key, each in fleet.memory.pending.items()
        if key.startswith(("create:", "start:")) and not each.failed
    }
    for outcome in fleet.world.outcomes:
        effect = outcome.effect
        if outcome.failure is None and isinstance(effect, CreateInstance | StartInstance):
            at = outcome.powered_on_at or outcome.at
            found[effect.key] = _Launch(effect.key, at, accepted=True)
    return found


def _of(launches: Mapping[str, _Launch], fact: Fact) -> _Launch | None:
    return launches.get(f"start:{fact.instance.id}") or launches.get(f"create:{fact.name}")


def _follow(
    fleet: Fleet, fact: Fact, launches: Mapping[str, _Launch], ended: list[Stretch]
) -> Stretch:
    """What lasts now; `ended` gets what does not."""
    launch = _of(launches, fact)
    before = fact.memory.stretch or _first(fleet, fact, launch)
    state = _state(fleet, fact, launch, before)
    claims = fact.claims if state is S.RUNNING_TASK else ()
    if state is before.state and before.tasks.keys() == set(claims):
        return _goes_on(fleet, before, ended)
    on = state in _ON
    at = fleet.now if on is before.powered else _power_changed_at(fact, launch)
    at = max(before.since, min(at, fleet.now))
    ended += _ended(fleet, before, at, goes_on=on and before.powered)
    names = {task.id: task.name for task in fleet.world.clearml.open_tasks} if claims else {}
    prices = fleet.config.prices
    storage = fact.memory.volume_eur_per_hour or _volume_eur_per_hour(fleet, fact)
    return replace(
        before,
        state=state,
        since=at,
        until=at,
        tasks={task: names.get(task, "") for task in claims},
        powered_on_at=(before.powered_on_at or at) if on else None,
        eur_per_hour=fleet.world.prices.get(before.commercial_type) if on else 0.0,
        storage_eur_per_hour=storage + (prices.address_eur_per_hour if on else 0.0),
    )


def _goes_on(fleet: Fleet, before: Stretch, ended: list[Stretch]) -> Stretch:
    today = _midnight(fleet.now)
    if before.since < today:
        ended += _ended(fleet, before, today, goes_on=True)
        before = replace(before, since=today)
    if before.powered and before.eur_per_hour is None:
        price = fleet.world.prices.get(before.commercial_type)
        before = replace(before, eur_per_hour=price) if price is not None else before
    return before


def _first(fleet: Fleet, fact: Fact, launch: _Launch | None) -> Stretch:
    """Of an instance that the ledger does not know: it begins switched off, when it was made; or,
    where it is stopped or was adopted, with what is known of its present state."""
    known, instance = fact.memory, fact.instance
    fresh = launch is not None or fact.state in (S.PROVISIONING, S.STARTING, S.INITIALIZING)
    since = known.state_since if fact.state in (S.STOPPED, S.DELETING) else known.booted_at
    since = min(instance.created_at if fresh else since, fleet.now)
    since = max(since, fleet.memory.booked_until.get(instance.id, since))
    return Stretch(
        server_id=instance.id,
        instance=instance.name,
        queue=instance.queue,
        commercial_type=instance.commercial_type,
        zone=instance.zone,
        state=S.PROVISIONING if fact.state in _ON else fact.state,
        since=since,
        until=since,
        storage_eur_per_hour=_volume_eur_per_hour(fleet, fact),
    )


def _state(fleet: Fleet, fact: Fact, launch: _Launch | None, before: Stretch) -> S:
    """Its state; but until a launch has ended, nobody knows from when on it is billed."""
    if fact.state not in _ON or before.powered:
        return fact.state
    if launch is not None and launch.key in fleet.world.in_flight:
        return before.state
    off = fact.instance.state is ServerState.STOPPED
    return before.state if off and not (launch and launch.accepted) else fact.state


def _power_changed_at(fact: Fact, launch: _Launch | None) -> datetime:
    if fact.state in _ON and launch is not None:
        return launch.at
    if fact.state in _ON and fact.memory.stretch is None:
        return fact.memory.booted_at
    return fact.instance.modified_at


def _ended(fleet: Fleet, last: Stretch, at: datetime, *, goes_on: bool = False) -> list[Stretch]:
    """What of it ended by `at`, day by day; with the begun unit of billing if its power did."""
    pieces = list(_by_day(last, at))
    if pieces and last.powered_on_at is not None and not goes_on:
        unit = fleet.config.prices.billing_unit
        used = at - last.powered_on_at
        rounding = math.ceil(used / unit) * unit - used
        pieces[-1] = replace(pieces[-1], rounding_seconds=rounding.total_seconds())
    return pieces


def _by_day(stretch: Stretch, until: datetime) -> Iterator[Stretch]:
    since = stretch.since
    while since < until:
        end = min(until, _midnight(since) + timedelta(days=1))
        yield replace(stretch, since=since, until=end)
        since = end


def _midnight(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date(), time(), UTC)


def _volume_eur_per_hour(fleet: Fleet, fact: Fact) -> float:
    queue = fleet.queue(fact.instance.queue)
    size = queue.at(fact.instance.placement).volume.size if queue is not None else 0
    return size / 10**9 * fleet.config.prices.volume_eur_per_gb_hour


def _spent(
    before: Mapping[str, Mapping[str, float]], ended: list[Stretch], now: datetime
) -> dict[str, dict[str, float]]:
    oldest = (now - SPENT_KEPT).date().isoformat()
    spent = {day: dict(queues) for day, queues in before.items() if day >= oldest}
    for each in ended:
        of_day = spent.setdefault(each.since.astimezone(UTC).date().isoformat(), {})
        of_day[each.queue] = of_day.get(each.queue, 0.0) + each.eur
    return spent
