"""Scale up, rule by rule: where an instance comes from, and the sentence that says why (not)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import QueueDecision
from gpu_autoscaler.domain.effects import CreateInstance, Failure, Reason
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory, Pending, PowerOff
from gpu_autoscaler.domain.model import (
    MANAGED_BY_TAG,
    CreateOrder,
    Entry,
    Placement,
    Queue,
    Worker,
    ZoneView,
)
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.launch import launch_all, need
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    QUEUE_ID,
    SPEC,
    START,
    TYPE,
    ZONE,
    config,
    fact,
    fleet,
    minutes,
    registered,
    task,
)

HERE, THERE = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE)
BOTH = {"placements": [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]}
OLDEST = START - minutes(7)
SOON = START + minutes(10)


def waiting(count: int, *workers: str) -> dict[str, Any]:
    """So many tasks wait in the queue, for these idle workers too."""
    names = [f"w{n}" for n in range(count)]
    entries = tuple(Entry(name, OLDEST + minutes(n)) for n, name in enumerate(names))
    agents = [Worker(name, START, START, queue_ids=(QUEUE_ID,)) for name in workers]
    return {
        "queues": {QUEUE: Queue(QUEUE_ID, QUEUE, entries)},
        "open_tasks": tuple(task(name) for name in names),
        "workers": tuple(agents),
    }


def given(*facts: Fact, **world: Any) -> Callable[[], Fleet]:
    """Makes this fleet anew for each test: a plan leaves its conclusions there."""
    return lambda: fleet(*facts, **world)


def decided(there: Fleet) -> QueueDecision:
    (decision,) = launch_all(there)
    return decision


def spare(name: str = "s1", off_for: timedelta = timedelta(hours=1), **changes: Any) -> Fact:
    """Stopped, and ready to be started."""
    memory = {"state_since": START - off_for, **changes.pop("memory", {})}
    return fact(name, "stopped", memory=memory, **changes)


def pending(key: str, **changes: Any) -> Memory:
    plain = Pending(key, key.split(":")[1], START - minutes(1), START + minutes(2), QUEUE, HERE)
    return Memory(pending={key: replace(plain, **changes)})


CROWD = (
    fact("m1", "idle"),
    fact("m2", "idle", serves=False),
    fact("m3", "running_task"),
    fact("m4", "running_task"),
    fact("m5", "starting"),
    fact("m6", "lost"),
    fact("m7", "quarantined", memory={"quarantined_at": START}),
    fact("m8", "stopped"),
    fact("m9", "running_task", instance=registered("m9", queue="another")),
)


@pytest.mark.parametrize(
    ("memory", "capacity", "billed"),
    [
        (Memory(), 2, 7),
        (pending("start:id-m8"), 3, 8),
        (pending("stop:id-m1"), 1, 7),
        (pending("create:m10"), 3, 8),
        (pending("start:id-m8", failed=True), 2, 7),
        (pending("create:m10", queue="another"), 2, 7),
    ],
)
def test_what_a_queue_has(memory: Memory, capacity: int, billed: int) -> None:
    settings = config({"max_instances": 0})
    there = fleet(*CROWD, memory=memory, settings=settings, **waiting(5, "desk"))
    found = need(there, settings.queues[QUEUE])
    assert (found.capacity, found.billed) == (capacity, billed)
    assert (found.others_idle, found.quarantined, found.busy) == (1, 1, 2)
    assert found.wanted == 5 - capacity - 1
    assert decided(there) == QueueDecision(
        queue=QUEUE,
        reason=Reason.MAX_INSTANCES,
        because=f"{billed} of max_instances = 0 are billed",
        demand=5,
        oldest_entry_at=OLDEST,
        capacity=capacity,
        billed=billed,
        busy=2,
        launched=0,
    )


@pytest.mark.parametrize(("seconds_short", "late"), [(0, 1), (1, 0)])
def test_a_creation_that_nobody_sees_counts_for_ten_minutes(seconds_short: int, late: int) -> None:
    made_at = START - minutes(10) + timedelta(seconds=seconds_short)
    found = need(fleet(memory=pending("create:m10", decided_at=made_at)), config().queues[QUEUE])
    assert (found.capacity, found.overdue, found.billed) == (1 - late, late, 1)


@pytest.mark.parametrize(
    ("facts", "exists", "wanted"),
    [
        ((), True, 3),
        (CROWD[:1], True, 2),
        (CROWD[6:7], True, 3),  # good for nothing
        (CROWD, True, 0),
        ((), False, 0),
    ],
)
def test_what_the_minimum_asks_for(facts: tuple[Fact, ...], exists: bool, wanted: int) -> None:
    settings = config({"min_instances": 3, "max_instances": 9})
    world: dict[str, Any] = {} if exists else {"queues": {}}
    found = need(fleet(*facts, settings=settings, **world), settings.queues[QUEUE])
    assert (found.wanted, found.others_idle) == (wanted, 0)


DARK = {
    ZONE: ZoneView(ZONE, complete=False, observed_at=START),
    OTHER_ZONE: ZoneView(OTHER_ZONE, complete=True, observed_at=START),
}


def no_stock(at: Placement) -> Backoff:
    return Backoff(at, Failure.OUT_OF_STOCK, 1, START, SOON, "none left")


OPEN = Breaker(HERE, SPEC, 3, START - minutes(5), START + minutes(25), 1)
HALF_MADE = fact("h1", "provisioning", abandoned=True)
PRICE = {TYPE: 2.5}


@pytest.mark.parametrize(
    ("make", "reason", "because"),
    [
        (given(), Reason.NO_DEMAND, "no task waits"),
        (
            given(fact("m1"), fact("m2"), **waiting(2, "desk")),
            Reason.SATISFIED,
            "2 waiting, 3 idle or booting for them",
        ),
        (
            given(complete=False, error="502", **waiting(1)),
            Reason.INCOMPLETE,
            "ClearML gave no full answer: 502",
        ),
        (given(queues={}), Reason.QUEUE_MISSING, "ClearML has no queue named H100-1-80G"),
        (
            given(
                spare(previous=S.STOPPING),
                memory=Memory(power_offs={"s1": PowerOff(QUEUE, START)}),
                **waiting(1),
            ),
            Reason.WAITING,
            "s1 has just stopped and is started next",
        ),
        (
            given(fact("m1", "running_task"), fact("m2", "lost"), **waiting(1)),
            Reason.MAX_INSTANCES,
            "2 of max_instances = 2 are billed",
        ),
        (
            given(fact("m1", "lost"), HALF_MADE, **waiting(1)),
            Reason.HALF_MADE,
            "1 half-made instances could not be removed yet",
        ),
        (
            given(
                fact("m1", "running_task", instance=registered("m1", queue="another")),
                settings=config(max_instances=1),
                **waiting(1),
            ),
            Reason.FLEET_MAX_INSTANCES,
            "the fleet has 1 of max_instances = 1",
        ),
        (
            given(settings=config(max_eur_per_hour=2.4), prices=PRICE, **waiting(1)),
            Reason.FLEET_MAX_EUR,
            "1 waiting, but H100-1-80G in fr-par-2: 2.50 EUR/h would be above "
            "max_eur_per_hour = 2.40",
        ),
        (
            given(settings=config(max_eur_per_hour=2.4), **waiting(1)),
            Reason.FLEET_MAX_EUR,
            "1 waiting, but H100-1-80G in fr-par-2: its price is not known yet, and "
            "max_eur_per_hour bounds it",
        ),
        (
            given(
                spare(),
                settings=config({**BOTH, "min_instances": 1}, max_eur_per_hour=2.4),
                prices=PRICE,
                memory=Memory(backoffs=(no_stock(THERE),)),
            ),
            Reason.FLEET_MAX_EUR,
            "min_instances = 1, but H100-1-80G in fr-par-2: 2.50 EUR/h would be above "
            "max_eur_per_hour = 2.40; "
            "H100-1-80G in pl-waw-2: out of stock, next try at 08:10:00",
        ),
        (
            given(memory=Memory(backoffs=(no_stock(HERE),)), **waiting(3)),
            Reason.NO_PLACEMENT,
            "3 waiting, but H100-1-80G in fr-par-2: out of stock, next try at 08:10:00",
        ),
        (
            given(
                settings=config(BOTH),
                zones=DARK,
                memory=Memory(breakers=(replace(OPEN, placement=THERE),)),
                **waiting(3),
            ),
            Reason.BREAKER_OPEN,
            "3 waiting, but H100-1-80G in fr-par-2: the zone does not answer; "
            "H100-1-80G in pl-waw-2: 3 in a row booted and never registered, "
            "next try at 08:25:00",
        ),
    ],
)  # fmt: skip
def test_why_nothing_is_launched(make: Callable[[], Fleet], reason: Reason, because: str) -> None:
    there = make()
    found = decided(there)
    assert (found.reason, found.because) == (reason, because)
    assert there.effects == []


@pytest.mark.parametrize(
    ("make", "decision", "effect"),
    [
        (
            given(fact("m1", "running_task"), **waiting(1)),
            "launching 1: 1 waiting, 0 idle or booting, 1 busy",
            "1 waiting in H100-1-80G: creating one (H100-1-80G in fr-par-2)",
        ),
        (
            given(spare(), **waiting(2, "desk")),
            "launching 1: 2 waiting, 1 idle or booting, 0 busy",
            "2 waiting in H100-1-80G: starting s1 again",
        ),
        (
            given(settings=config({"min_instances": 1})),
            "launching 1 to keep min_instances = 1",
            "min_instances = 1 in H100-1-80G: creating one (H100-1-80G in fr-par-2)",
        ),
    ],
)
def test_why_something_is_launched(make: Callable[[], Fleet], decision: str, effect: str) -> None:
    there = make()
    found = decided(there)
    (made,) = there.effects
    assert (found.because, found.launched) == (decision, 1)
    assert made.because == effect
    reason = Reason.DEMAND if found.demand else Reason.MIN_INSTANCES
    assert (found.reason, made.reason) == (reason, reason)


def test_an_order_says_everything() -> None:
    group = "99999999-2222-3333-4444-555555555555"
    queue = {
        "image": "another_image",
        "volume": {"size": "300GB", "iops": 15000},
        "scratch": "3000GB",
    }
    scaleway = {
        "project_id": "11111111-2222-3333-4444-555555555555",
        "security_group_ids": {ZONE: group, OTHER_ZONE: "88" + group[2:]},
    }
    there = fleet(settings=config(queue, scaleway=scaleway), **waiting(1))
    decided(there)
    (effect,) = there.effects
    assert isinstance(effect, CreateInstance)
    assert effect.order == CreateOrder(
        name=effect.order.name,
        queue=QUEUE,
        placement=HERE,
        image="another_image",
        volume_bytes=300 * 10**9,
        volume_iops=15000,
        tags=(MANAGED_BY_TAG, "fleet=test", f"queue={QUEUE}", f"spec={SPEC}"),
        security_group_id=group,
        scratch_bytes=3000 * 10**9,
    )


def named(of: str = "test", **memory: Any) -> str:
    """What the first instance is called."""
    there = fleet(settings=config(fleet=of), memory=Memory(**memory), **waiting(1))
    decided(there)
    return there.effects[0].subject


def test_a_name_is_drawn_from_the_moment_and_never_twice() -> None:
    first = named()
    assert named() == first, "a plan is a pure function"
    second = named(retired={first: START})
    third = named(retired={first: START, second: START})
    names = {first, second, third, named("another fleet of the project")}
    assert len(names) == 4
    assert {len(name) for name in names} == {len("h100-1-80g-") + 6}


@pytest.mark.parametrize(
    ("cap", "launched"), [(2.5, 1), (2.4, 0), (4.9, 1), (5.0, 2), (0.0, 0), (None, 2)]
)
@pytest.mark.parametrize("spares", [0, 2])
def test_the_price_is_bounded_up_to_the_cent(cap: float | None, launched: int, spares: int) -> None:
    stopped = [spare(f"s{n}") for n in range(spares)]
    settings = config(max_eur_per_hour=cap)
    there = fleet(*stopped, settings=settings, prices=PRICE, **waiting(2))
    assert decided(there).launched == launched
    assert {e.verb for e in there.effects} <= {"start" if spares else "create"}


@pytest.mark.parametrize(
    ("queue", "fleet_max", "half_made", "launched"),
    [
        ({"max_instances": 3}, None, 0, 2),
        ({"max_instances": 3}, None, 1, 1),
        ({"max_instances": 3}, None, 2, 0),
        ({"max_instances": 9}, 3, 0, 2),
        ({"max_instances": 9}, 3, 2, 2),
        ({"max_instances": 9}, None, 0, 5),
    ],
)
def test_how_many_are_launched(
    queue: Mapping[str, Any], fleet_max: int | None, half_made: int, launched: int
) -> None:
    busy = fact("m1", "running_task")
    dead = [replace(HALF_MADE, instance=registered(f"h{n}", "stopped")) for n in range(half_made)]
    settings = config(queue, max_instances=fleet_max)
    assert decided(fleet(busy, *dead, settings=settings, **waiting(5))).launched == launched


def test_instances_of_other_queues_bound_only_the_fleet() -> None:
    others = [
        fact(f"o{n}", "running_task", instance=registered(f"o{n}", queue="old")) for n in range(5)
    ]
    settings = config({"max_instances": 2}, max_instances=6)
    assert decided(fleet(*others, settings=settings, **waiting(5))).launched == 1


def test_the_queue_whose_task_waits_longest_comes_first() -> None:
    base = {"placements": [{"type": TYPE, "zone": ZONE}]}
    names = ("none", "young", "old")
    queues = {
        name: Queue(name, name, (Entry(name, START - minutes(age)),) * (age > 0))
        for age, name in enumerate(names)
    }
    settings = config(queues={name: {"name": name, **base} for name in names})
    there = fleet(settings=settings, queues=queues, open_tasks=tuple(map(task, names)))
    assert [d.queue for d in launch_all(there)] == ["old", "young", "none"]
