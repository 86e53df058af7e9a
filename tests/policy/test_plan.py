"""The plan as a whole: what is remembered after it, and what is said of each instance."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.memory import (
    SCHEMA_VERSION,
    Backoff,
    Breaker,
    InstanceMemory,
    Memory,
    Pending,
    PowerOff,
    Requeue,
)
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    Entry,
    Instance,
    Placement,
    Queue,
    Volume,
    Worker,
    ZoneView,
)
from gpu_autoscaler.policy.launch import CONFIRMED, UNSEEN
from gpu_autoscaler.policy.plan import plan
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    QUEUE_ID,
    SPEC,
    START,
    TYPE,
    ZONE,
    config,
    fleet,
    instance,
    known,
    minutes,
    registered,
    seconds,
    task,
)

HERE, THERE = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE)
HOUR_AGO = START - timedelta(hours=1)
LAST = START - seconds(30)


def remembered(*instances: InstanceMemory, **changes: Any) -> Memory:
    there = {each.last_seen.id: each for each in instances}
    return Memory(instances=there, **{"planned_at": LAST, "clearml_since": HOUR_AGO, **changes})


def zone(
    *listed: Instance,
    name: str = ZONE,
    complete: bool = True,
    volumes: tuple[Volume, ...] | None = None,
    gone: frozenset[str] = frozenset(),
) -> dict[str, ZoneView]:
    return {name: ZoneView(name, complete, START, listed, volumes, gone=gone)}


def planned(*listed: Instance, memory: Memory | None = None, **world: Any) -> Plan:
    """At START, in one zone that has answered; every idle or busy agent has just reported."""
    there = fleet(memory=memory or remembered(), zones=world.pop("zones", zone(*listed)), **world)
    return plan(there.world, there.memory, there.config, START)


def reports(*names: str, task_id: str | None = None) -> tuple[Worker, ...]:
    return tuple(Worker(n, HOUR_AGO, START - seconds(5), task_id, (QUEUE_ID,)) for n in names)


def pending(key: str, **changes: Any) -> Pending:
    plain = Pending(key, "m1", LAST, START + minutes(1), QUEUE, HERE)
    return replace(plain, **changes)


# --- what is remembered


def test_every_plan_is_dated_and_of_this_version() -> None:
    memory = planned(memory=remembered(version=1)).memory
    assert (memory.version, memory.planned_at) == (SCHEMA_VERSION, START)


def test_without_memory_nothing_is_confirmed() -> None:
    memory = planned(memory=Memory(), lost_memory=True).memory
    assert (memory.begun_at, memory.unconfirmed_need) == (START, {QUEUE: 0})
    dark = planned(memory=Memory(), lost_memory=True, zones=zone(complete=False)).memory
    assert dark.unconfirmed_need == {QUEUE: UNSEEN}


EMPTY = zone(volumes=())
VOLUME = Volume("v1", ZONE, "v1", None, START)


@pytest.mark.parametrize(
    ("zones", "left"),
    [
        (EMPTY, False),
        (zone(), True),  # nobody has looked at its volumes
        (zone(volumes=(VOLUME,)), True),
        (zone(complete=False, volumes=()), True),
        (zone(registered("m1"), volumes=()), True),
        ({}, True),
    ],
)
def test_a_zone_is_remembered_until_it_was_seen_empty(
    zones: dict[str, ZoneView], left: bool
) -> None:
    memory = planned(memory=remembered(zones=(ZONE,)), zones=zones).memory
    assert memory.zones == ((ZONE,) if left else ())


def test_zones_are_those_of_instances_and_of_what_is_under_way() -> None:
    under_way = {"create:m9": pending("create:m9", placement=Placement(TYPE, "nl-ams-1"))}
    volume = {"delete_volume:v1": pending("delete_volume:v1", placement=None)}
    memory = remembered(known("m2"), pending=under_way | volume)
    zones = zone(registered("m2", zone=OTHER_ZONE), name=OTHER_ZONE)
    assert planned(memory=memory, zones=zones).memory.zones == ("nl-ams-1", OTHER_ZONE)


@pytest.mark.parametrize(
    ("world", "ids"),
    [
        ({}, {"q-0": QUEUE, "q-2": "off", QUEUE_ID: QUEUE}),
        ({"queues": {}}, {"q-0": QUEUE, "q-2": "off"}),
        ({"complete": False}, {"q-0": QUEUE, "q-2": "off", "q-3": "nobody's"}),
    ],
)
def test_ids_of_queues_are_kept_while_something_serves_them(
    world: dict[str, Any], ids: dict[str, str]
) -> None:
    before = {"q-0": QUEUE, "q-2": "off", "q-3": "nobody's"}
    offs = {"m9": PowerOff("off", START - minutes(1))}
    memory = remembered(known("m1"), queue_ids=before, power_offs=offs)
    assert planned(registered("m1"), memory=memory, **world).memory.queue_ids == ids


@pytest.mark.parametrize(
    ("listed", "changes", "left"),
    [
        (instance("m1", "starting"), {"done": True}, False),
        (instance("m1", "starting"), {}, True),
        (instance("m1", "starting", tags=(PROVISIONING_TAG,)), {"done": True}, True),
        (instance("m2", "starting"), {"done": True}, True),
    ],
)
def test_a_creation_is_under_way_until_it_ended_and_is_listed(
    listed: Instance, changes: dict[str, Any], left: bool
) -> None:
    memory = remembered(pending={"create:m1": pending("create:m1", **changes)})
    assert ("create:m1" in planned(listed, memory=memory).memory.pending) is left


def test_a_creation_is_not_seen_in_a_listing_that_is_not_complete() -> None:
    before = known("m1", "starting", last_seen=instance("m1", "starting"))
    under_way = {"create:m1": pending("create:m1", done=True)}
    memory = remembered(before, pending=under_way)
    assert "create:m1" in planned(memory=memory, zones=zone(complete=False)).memory.pending


def test_what_else_is_under_way_stays_so() -> None:
    under_way = {"start:id-m1": pending("start:id-m1", done=True)}
    memory = remembered(known("m1", "starting"), pending=under_way)
    assert planned(registered("m1", "starting"), memory=memory).memory.pending == under_way


@pytest.mark.parametrize(
    ("world", "waited"),
    [({}, ("a", "b")), ({"open_tasks": ()}, ()), ({"complete": False}, ("before",))],
)
def test_where_tasks_waited(world: dict[str, Any], waited: tuple[str, ...]) -> None:
    queues = {n: Queue(n, n, (Entry("t1", START),) if n != "c" else ()) for n in "bac"}
    shown = {"queues": queues, "open_tasks": (task("t1"),), **world}
    assert planned(memory=remembered(waited=("before",)), **shown).memory.waited == waited


def test_names_of_those_that_are_gone_are_kept_for_eleven_minutes() -> None:
    before = {
        "young": START - minutes(10.9),
        "old": START - minutes(11),
        "m1": START - minutes(1),  # there again
    }
    memory = remembered(known("m1"), known("m2"), retired=before)
    zones = zone(registered("m1"), gone=frozenset({"id-m2"}))
    found = planned(memory=memory, zones=zones).memory
    assert found.retired == {"young": before["young"], "m2": START}
    assert set(found.instances) == {"id-m1"}


def test_tasks_that_were_put_back_are_remembered_for_thirty_days() -> None:
    month = timedelta(days=30)
    times = {"young": START - month + seconds(1), "old": START - month}
    counts = {name: Requeue(2, at) for name, at in times.items()}
    found = planned(memory=remembered(rescued=times, requeued=counts)).memory
    assert found.rescued == {"young": times["young"]}
    assert found.requeued == {"young": counts["young"]}


@pytest.mark.parametrize(
    ("since", "complete", "after"),
    [(HOUR_AGO, True, HOUR_AGO), (None, True, START), (HOUR_AGO, False, None), (None, False, None)],
)
def test_since_when_clearml_answers(
    since: datetime | None, complete: bool, after: datetime | None
) -> None:
    found = planned(memory=remembered(clearml_since=since), complete=complete).memory
    assert found.clearml_since == after


@pytest.mark.parametrize(
    ("zones", "at"),
    [
        (zone(), HOUR_AGO),
        (zone(volumes=()), START),
        (zone() | zone(name=OTHER_ZONE, volumes=()), START),
    ],
)
def test_when_volumes_were_listed(zones: dict[str, ZoneView], at: datetime) -> None:
    memory = remembered(volumes_listed_at=HOUR_AGO)
    assert planned(memory=memory, zones=zones).memory.volumes_listed_at == at


BASE = {"placements": [{"type": TYPE, "zone": ZONE}]}
ELSEWHERE = {"placements": [{"type": TYPE, "zone": OTHER_ZONE}]}
TWO = config(queues={"first": {"name": "first", **BASE}, "second": {"name": "second", **ELSEWHERE}})


@pytest.mark.parametrize(
    ("before", "begun_ago", "after"),
    [
        (None, 30, None),
        ({"first": UNSEEN, "second": UNSEEN}, 30, {"first": 1, "second": UNSEEN}),
        ({"first": 2, "second": UNSEEN}, 30, {"first": CONFIRMED, "second": UNSEEN}),
        ({"first": 2, "second": UNSEEN}, 29, {"first": 1, "second": UNSEEN}),
        ({"first": CONFIRMED, "second": UNSEEN}, 29, {"first": CONFIRMED, "second": UNSEEN}),
        ({"first": CONFIRMED, "second": CONFIRMED}, 30, None),
        ({"first": 0, "second": CONFIRMED}, 30, None),
        ({"second": CONFIRMED, "gone": 3}, 30, {"first": 1, "second": CONFIRMED}),
    ],
)
def test_two_observations_agree_for_each_queue(
    before: dict[str, int] | None, begun_ago: float, after: dict[str, int] | None
) -> None:
    memory = remembered(unconfirmed_need=before, begun_at=START - seconds(begun_ago))
    queues = {name: Queue(name, name, (Entry(f"t-{name}", START),)) for name in ("first", "second")}
    dark = zone() | zone(name=OTHER_ZONE, complete=False)
    tasks = (task("t-first"), task("t-second"))
    made = planned(memory=memory, settings=TWO, zones=dark, queues=queues, open_tasks=tasks)
    assert made.memory.unconfirmed_need == after


@pytest.mark.parametrize(
    ("listed", "state", "ended"),
    [
        (registered("m1"), "initializing", True),
        (registered("m1", "starting"), "starting", False),
        (registered("m1", "stopped"), "stopped", False),
    ],
)
@pytest.mark.parametrize(("failure", "spec"), [("out_of_stock", ""), ("rejected", SPEC)])
def test_what_boots_somewhere_ends_the_back_off_there(
    listed: Instance, state: str, ended: bool, failure: str, spec: str
) -> None:
    until = START + minutes(5)
    failed = Backoff(HERE, Failure(failure), 1, HOUR_AGO, until, "said so", spec)
    recent = START - minutes(1)
    before = known("m1", state, booted_at=recent, state_since=recent, last_seen=listed)
    found = planned(listed, memory=remembered(before, backoffs=(failed,))).memory
    assert found.backoffs == (() if ended else (failed,))


def test_breakers_are_kept() -> None:
    opened = Breaker(HERE, SPEC, 3, LAST, START + minutes(5), 1)
    assert planned(memory=remembered(breakers=(opened,))).memory.breakers == (opened,)


def test_what_is_not_seen_ends_no_back_off() -> None:
    failed = Backoff(HERE, Failure.OUT_OF_STOCK, 1, HOUR_AGO, START + minutes(5), "none left")
    before = known("m1", "initializing", booted_at=START - minutes(1))
    memory = remembered(before, backoffs=(failed,))
    assert planned(memory=memory, zones=zone(complete=False)).memory.backoffs == (failed,)


def test_an_outcome_is_learnt_before_anything_is_decided() -> None:
    failed = Backoff(HERE, Failure.OUT_OF_STOCK, 1, LAST, START + minutes(5), "none left")
    queues = {QUEUE: Queue(QUEUE_ID, QUEUE, (Entry("t1", START),))}
    shown: dict[str, Any] = {"queues": queues, "open_tasks": (task("t1"),)}
    assert [e.verb for e in planned(**shown).effects] == ["create"]
    assert planned(memory=remembered(backoffs=(failed,)), **shown).effects == ()


def test_what_lies_in_the_future_is_brought_back_first() -> None:
    later = START + minutes(10)
    before = known("m1", "initializing", booted_at=later, state_since=later)
    made = planned(registered("m1"), memory=remembered(before, planned_at=later))
    assert made.memory.instances["id-m1"].booted_at == START


def test_a_spec_is_part_of_what_a_new_one_is_born_with() -> None:
    queues = {QUEUE: Queue(QUEUE_ID, QUEUE, (Entry("t1", START),))}
    (effect,) = planned(queues=queues, open_tasks=(task("t1"),)).effects
    assert f"spec={SPEC}" in effect.order.tags  # type: ignore[attr-defined]
