"""What one cycle says about the present, as gauges: made anew from each, so nothing stale stays.

Facts about the fleet are told by a daemon that stands by as well: it sees them, too. Alerts take
the maximum over all daemons of a fleet for that reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily

from gpu_autoscaler.domain.lifecycle import BILLED
from gpu_autoscaler.policy.budgets import standings
from gpu_autoscaler.policy.settings import BREAKER_FAILURES
from gpu_autoscaler.runtime.loop import Cycle

PREFIX = "gpu_autoscaler_"

_Counts = Counter[tuple[str, ...]]
"""By the values of the labels."""


def gauges(cycle: Cycle, last_success: datetime | None) -> list[GaugeMetricFamily]:
    """Every gauge of this cycle; `last_success`: the end of the last one that saw everything."""
    return [
        *_of_the_loop(cycle, last_success),
        *_of_queues(cycle),
        *_of_the_fleet(cycle),
        *_of_budgets(cycle),
    ]


def _of_the_loop(cycle: Cycle, last_success: datetime | None) -> list[GaugeMetricFamily]:
    return [
        _one(
            "last_cycle_timestamp_seconds",
            "When the last cycle ended, whatever it saw.",
            cycle.finished_at.timestamp(),
        ),
        _one(
            "last_success_timestamp_seconds",
            "When the last cycle ended in which ClearML and every zone answered in full; 0: never.",
            last_success.timestamp() if last_success else 0.0,
        ),
        _one(
            "poll_interval_seconds",
            "The pause between two cycles that is configured.",
            cycle.config.poll_interval.total_seconds(),
        ),
        _one(
            "lease_held",
            "1 when this daemon holds the lease and acts, 0 when it stands by.",
            float(cycle.acted),
        ),
    ]


def _of_queues(cycle: Cycle) -> list[GaugeMetricFamily]:
    queues = cycle.plan.queues
    # without ClearML's answer nobody knows what waits, and "nothing" would be a lie
    known = queues if cycle.world.clearml.complete else ()
    return [
        _family(
            "queue_waiting_tasks",
            "Tasks that wait in the queue.",
            ["queue"],
            {(each.queue,): each.demand for each in known},
        ),
        _family(
            "queue_oldest_wait_seconds",
            "For how long the task has waited that came first; 0 when none waits.",
            ["queue"],
            {(each.queue,): _age(each.oldest_entry_at, cycle.finished_at) for each in known},
        ),
        _family(
            "queue_capacity_instances",
            "Instances that will take a waiting task: booting, being made or started, or idle.",
            ["queue"],
            {(each.queue,): each.capacity for each in queues},
        ),
    ]


def _of_the_fleet(cycle: Cycle) -> list[GaugeMetricFamily]:
    memory, now = cycle.plan.memory, cycle.finished_at
    instances: _Counts = Counter(
        (known.state.value, there.queue, there.commercial_type, there.zone)
        for known in memory.instances.values()
        for there in (known.last_seen,)
    )
    backoffs: _Counts = Counter(
        (each.placement.commercial_type, each.placement.zone, each.failure.value)
        for each in memory.backoffs
        if now < each.until
    )
    breakers: _Counts = Counter(
        (each.placement.commercial_type, each.placement.zone)
        for each in memory.breakers
        if each.failures >= BREAKER_FAILURES and now < each.until
    )
    bound = cycle.config.max_eur_per_hour
    return [
        _family(
            "instances",
            "Instances of the fleet.",
            ["state", "queue", "type", "zone"],
            instances,
        ),
        _family(
            "skipped_actions",
            "Queues and instances for which nothing is done now, by the reason why.",
            ["subject", "queue", "reason"],
            _skipped(cycle),
        ),
        _family(
            "backoffs",
            "Placements where nothing is launched for a while, by what failed there.",
            ["type", "zone", "failure"],
            backoffs,
        ),
        _family(
            "breakers_open",
            "Placements where nothing is launched for a while: machines booted, none registered.",
            ["type", "zone"],
            breakers,
        ),
        _family(
            "cost_euros_per_hour",
            "What the billed instances cost now; absent while prices are unknown.",
            ["queue"],
            _cost(cycle),
        ),
        _family(
            "max_euros_per_hour",
            "The bound on what the fleet may cost; absent when there is none.",
            [],
            {} if bound is None else {(): bound},
        ),
    ]


def _of_budgets(cycle: Cycle) -> list[GaugeMetricFamily]:
    memory, prices = cycle.plan.memory, cycle.world.prices
    found = {
        (each.queue, each.budget.per): each
        for each in standings(memory, cycle.config, prices, cycle.finished_at)
    }
    return [
        _family(
            "budget_euros",
            "What the period may cost; without a queue that of the whole fleet.",
            ["queue", "per"],
            {key: each.budget.eur for key, each in found.items()},
        ),
        _family(
            "budget_spent_ratio",
            "How much of the budget is spent; 1 and more: it is used up.",
            ["queue", "per"],
            {key: each.share for key, each in found.items()},
        ),
    ]


def _skipped(cycle: Cycle) -> _Counts:
    """The same that the log calls `nothing done`."""
    queues: list[tuple[str, ...]] = [
        ("queue", each.queue, each.reason.value) for each in cycle.plan.queues if not each.launched
    ]
    instances = [
        ("instance", each.queue, each.reason.value)
        for each in cycle.plan.instances
        if each.effect is None
    ]
    return Counter([*queues, *instances])


def _cost(cycle: Cycle) -> dict[tuple[str, ...], float]:
    """By queue, also those that cost nothing: only then is a sum over them never missing."""
    prices = cycle.world.prices
    if not prices:
        return {}
    cost: dict[tuple[str, ...], float] = {(queue,): 0.0 for queue in cycle.config.queues}
    for known in cycle.plan.memory.instances.values():
        if known.state in BILLED:
            queue = (known.last_seen.queue,)
            price = prices.get(known.last_seen.commercial_type, 0.0)
            cost[queue] = cost.get(queue, 0.0) + price
    return cost


def _age(since: datetime | None, now: datetime) -> float:
    """Clocks differ a little: nothing waits since a moment to come."""
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return _family(name, text, [], {(): value})


def _family(
    name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
