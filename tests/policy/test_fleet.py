"""What every rule reads of the fleet: what is counted, and what may be done to an instance."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    DeleteVolume,
    Effect,
    Guard,
    Reason,
    RescueTask,
    SetTags,
    StartInstance,
    StopInstance,
)
from gpu_autoscaler.domain.memory import Memory, Pending, PowerOff
from gpu_autoscaler.domain.model import (
    CreateOrder,
    Entry,
    Placement,
    Queue,
    Volume,
    Worker,
)
from gpu_autoscaler.policy.fact import Fact
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    QUEUE_ID,
    SPEC,
    START,
    TYPE,
    ZONE,
    fact,
    fleet,
    known,
    minutes,
    registered,
    seconds,
    task,
)

HERE, THERE = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE)
WHY: Mapping[str, Any] = {"reason": Reason.DEMAND, "because": "a test"}
M1 = registered("m1")


def pending(key: str, name: str = "m1", **changes: Any) -> dict[str, Pending]:
    plain = Pending(key, name, START - minutes(1), START + minutes(2), QUEUE, HERE)
    return {key: replace(plain, **changes)}


def under_way(*keys: str, **changes: Any) -> Memory:
    """These effects are; a created one is named by its key."""
    found: dict[str, Pending] = {}
    for key in keys:
        found |= pending(key, key.split(":")[1], **changes)
    return Memory(pending=found)


def worker(name: str, ago: float = 10, **changes: Any) -> Worker:
    plain = Worker(name, START, START - seconds(ago), queue_ids=(QUEUE_ID,))
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("workers", "counted"),
    [
        ([], 0),
        ([worker("desk")], 1),
        ([worker("desk", 89)], 1),
        ([worker("desk", 90)], 0),
        ([worker("desk"), worker("desk:gpu1")], 2),
        ([worker("desk"), worker("desk")], 1),
        ([worker("desk", task_id="t1")], 0),
        ([worker("desk", task_id="t1"), worker("desk")], 0),
        ([worker("desk", queue_ids=("q-9",))], 0),
        ([worker("desk", queue_ids=("q-9", QUEUE_ID))], 1),
        ([worker("m1"), worker("gone:gpu0"), worker("unseen")], 0),
        ([worker("m1"), worker("desk"), worker("m1:gpu0")], 1),
    ],
)
def test_idle_workers_of_others_are_fresh_and_nobody_s_instance(
    workers: list[Worker], counted: int
) -> None:
    memory = Memory(retired={"gone": START}, instances={"x": known("unseen")})
    there = fleet(fact("m1"), memory=memory, workers=tuple(workers))
    assert there.idle_others[QUEUE_ID] == counted


FACTS = (
    fact("m1", "idle"),
    fact("m2", "stopped"),
    fact("m3", "stopping"),
    fact("m4", "quarantined"),
    fact("m5", "running_task", instance=registered("m5", queue="another")),
    fact("m6", "provisioning", abandoned=True),
    fact("m7", "lost", instance=registered("m7", commercial_type="L4-1-24G")),
    fact(
        "m80", "stopping", instance=registered("m80", queue="another", commercial_type="L4-1-24G")
    ),
)


@pytest.mark.parametrize(
    ("memory", "billed", "of_all", "staying", "of_all_staying"),
    [
        (Memory(), 4, 6, 2, 3),
        (under_way("start:id-m2"), 5, 7, 3, 4),
        (under_way("start:id-m2", failed=True), 4, 6, 2, 3),
        (under_way("stop:id-m1"), 4, 6, 1, 2),
        (under_way("stop:id-m3"), 4, 6, 2, 3),
        (under_way("stop:id-m2"), 4, 6, 2, 3),
        (under_way("create:m9"), 5, 7, 3, 4),
        (under_way("create:m9", queue="another"), 4, 7, 2, 4),
        (under_way("create:m1"), 4, 6, 2, 3),  # listed by now
    ],
)
def test_what_is_billed_and_what_stays(
    memory: Memory, billed: int, of_all: int, staying: int, of_all_staying: int
) -> None:
    there = fleet(*FACTS, memory=memory)
    assert (there.billed(QUEUE), there.billed()) == (billed, of_all)
    assert (there.staying(QUEUE), there.staying()) == (staying, of_all_staying)


PRICES = {TYPE: 3.0, "H100-2-80G": 5.5}


@pytest.mark.parametrize(
    ("memory", "cost"),
    [
        (Memory(), 12.0),  # m7's type has no known price
        (under_way("start:id-m2"), 15.0),
        (under_way("create:m9"), 15.0),
        (under_way("create:m9", placement=Placement("H100-2-80G", ZONE)), 17.5),
        (under_way("create:m9", placement=Placement("L4-1-24G", ZONE)), 12.0),
        (under_way("create:m9", placement=None), 12.0),
        (under_way("create:m8", "create:m9"), 18.0),
    ],
)
def test_what_the_fleet_costs_per_hour(memory: Memory, cost: float) -> None:
    assert fleet(*FACTS, memory=memory, prices=PRICES).eur_per_hour() == cost


def test_creations_that_no_listing_shows_are_counted_with_their_queue() -> None:
    memory = under_way("create:m8", "create:m9", "create:m1", "start:id-m2")
    memory = replace(memory, pending=memory.pending | pending("create:m7", "m7", queue="another"))
    there = fleet(fact("m1"), memory=memory)
    assert [p.name for p in there.unlisted_creates(QUEUE)] == ["m8", "m9"]
    assert [p.name for p in there.unlisted_creates("another")] == ["m7"]
    assert there.unlisted_creates("a third") == []
    assert {p.name for p in there.unlisted_creates()} == {"m7", "m8", "m9"}


def test_a_name_is_taken_for_as_long_as_anything_knows_it() -> None:
    memory = replace(under_way("create:m9"), retired={"gone": START})
    there = fleet(fact("m1"), memory=memory)
    assert there.names_taken == {"m1", "m9", "gone"}


def test_a_queue_whose_bootstrap_nobody_rendered_has_no_spec() -> None:
    assert [fleet(specs=specs).spec(QUEUE, HERE) for specs in ({QUEUE: SPEC}, {})] == [SPEC, ""]


def test_instances_of_a_queue_come_in_the_order_of_their_names() -> None:
    ids = {"m2": "a", "m1": "c", "m3": "b"}
    facts = [fact(name, instance=registered(name, id=ids[name])) for name in ids]
    there = fleet(*facts, *FACTS[4:5])
    assert [each.name for each in there.of_queue(QUEUE)] == ["m1", "m2", "m3"]
    assert [each.name for each in there.of_queue("another")] == ["m5"]
    assert there.of_queue("a third") == []


def queue_with(*entries: Entry) -> dict[str, Queue]:
    return {QUEUE: Queue(QUEUE_ID, QUEUE, entries)}


def test_waiting_is_what_is_really_queued_oldest_first() -> None:
    late, early = START - minutes(1), START - minutes(9)
    entries = (Entry("t1", late), Entry("t2", early), Entry("gone", early), Entry("t3", early))
    tasks = (task("t1"), task("t2"), task("t3", "in_progress"))
    there = fleet(queues=queue_with(*entries), open_tasks=tasks)
    assert there.waiting(QUEUE) == [early, late]
    assert there.waiting("another") == []


def test_returning_are_the_tasks_that_this_plan_puts_back_there() -> None:
    there = fleet()
    for name, queue_id in (("t1", QUEUE_ID), ("t2", QUEUE_ID), ("t3", "q-9")):
        there.put_back(task(name, queue_id=queue_id), Reason.CAUGHT_TASK, "a test")
    there.put_back(task("t1"), Reason.LOST_TASK, "once is enough")
    there.add(StartInstance(instance=M1, **WHY))
    assert (there.returning(QUEUE), there.returning("another")) == (2, 0)
    assert [e.because for e in there.effects] == ["a test"] * 4


WATCHED = Memory(power_offs={"m1": PowerOff(QUEUE, START)})
HANGS = task("t1", "in_progress", "m1")


@pytest.mark.parametrize(
    ("memory", "previous", "world", "looked"),
    [
        (Memory(), "idle", {"ended_tasks": None, "open_tasks": (HANGS,)}, True),  # nobody asks
        (WATCHED, "stopped", {}, True),
        (WATCHED, "stopping", {}, False),
        (WATCHED, "stopped", {"ended_tasks": None}, False),
        (WATCHED, "stopped", {"open_tasks": (HANGS,)}, False),
        (WATCHED, "stopped", {"open_tasks": (replace(HANGS, stop_requested=True),)}, True),
        (WATCHED, "stopped", {"open_tasks": (task("t1", "queued", "m1"),)}, True),
        (WATCHED, "stopped", {"open_tasks": (task("t1", "in_progress", "m2"),)}, True),
    ],
)
def test_its_tasks_are_looked_at_once_it_is_down(
    memory: Memory, previous: str, world: dict[str, Any], looked: bool
) -> None:
    one = replace(fact("m1", "stopped"), previous=fact(state=previous).state)
    assert fleet(one, memory=memory, **world).tasks_looked_at(one) is looked


@pytest.mark.parametrize(
    ("one", "memory", "reason", "sentence"),
    [
        (
            fact(hands_off="it is protected at Scaleway", seen=False),
            Memory(),
            Reason.HANDS_OFF,
            "hands off: it is protected at Scaleway",
        ),
        (
            fact(seen=False),
            Memory(),
            Reason.UNSEEN,
            "not listed in fr-par-2 in this cycle: counted as last seen",
        ),
        (
            fact(instance=registered("m1", queue="another")),
            Memory(),
            Reason.INCOMPLETE,
            "the tasks of its queue another were not asked for in this cycle",
        ),
        (
            fact(),
            under_way("stop:id-m1", failed=True),
            Reason.IN_FLIGHT,
            "stop failed, tried again at 08:02:00",
        ),
        (fact(), under_way("stop:id-m1"), Reason.IN_FLIGHT, "stop is under way"),
        (fact(), under_way("create:m1"), Reason.IN_FLIGHT, "create is under way"),
    ],
)
def test_why_an_instance_is_not_touched(
    one: Fact, memory: Memory, reason: Reason, sentence: str
) -> None:
    there = fleet(one, memory=memory)
    assert not there.touchable(one, "stop")
    assert there.verdicts == {"id-m1": (reason, sentence)}


@pytest.mark.parametrize(
    ("one", "memory"),
    [
        (fact(), Memory()),
        (fact(instance=registered("m1", queue="")), Memory()),
        (fact(instance=registered("m1", queue="old")), Memory(instances={"x": known(
            last_seen=registered(queue="old"))})),
        (fact(), under_way("start:id-m1", failed=True)),
        (fact(), under_way("stop:id-m2", "tag:id-m2", "create:m2")),
    ],
)  # fmt: skip
def test_otherwise_it_may_be(one: Fact, memory: Memory) -> None:
    there = fleet(one, memory=memory)
    assert there.touchable(one, "stop")
    assert there.verdicts == {}


@pytest.mark.parametrize(
    ("state", "verb", "doing", "changes", "free"),
    [
        ("idle", "tag", "create", {}, False),
        ("idle", "delete", "start", {}, False),
        ("idle", "stop", "delete", {}, False),
        ("idle", "stop", "tag", {}, False),
        ("idle", "stop", "tag", {"done": True}, True),  # accepted: in nobody's way but its own
        ("idle", "tag", "tag", {"done": True}, False),
        ("idle", "delete", "stop", {}, False),
        ("stopped", "delete", "stop", {}, True),  # a stop that is seen needs no news of its end
        ("stopped", "delete", "start", {}, False),
    ],
)
def test_one_thing_at_a_time(
    state: str, verb: str, doing: str, changes: dict[str, Any], free: bool
) -> None:
    one = fact(state=state)
    subject = "m1" if doing == "create" else "id-m1"
    there = fleet(one, memory=under_way(f"{doing}:{subject}", **changes))
    assert there.touchable(one, verb) is free


CREATE = CreateInstance(order=CreateOrder("m9", "another", THERE, "i", 1, 1, ()), **WHY)
VOLUME = Volume("v1", ZONE, "v1", None, START)


@pytest.mark.parametrize(
    ("effect", "name", "queue", "placement", "deadline"),
    [
        (CREATE, "m9", "another", THERE, 180),
        (StartInstance(instance=M1, **WHY), "m1", QUEUE, HERE, 60),
        (
            StopInstance(instance=M1, guard=Guard.IDLE, booted_at=START, **WHY),
            "m1",
            QUEUE,
            HERE,
            60,
        ),
        (DeleteInstance(instance=M1, **WHY), "m1", QUEUE, HERE, 300),
        (SetTags(instance=M1, **WHY), "m1", QUEUE, HERE, 60),
        (DeleteVolume(volume=VOLUME, **WHY), "v1", "", None, 60),
        (RescueTask(task=task("t1"), **WHY), "t1", "", None, 60),
    ],
)
def test_what_is_planned_is_under_way_until_its_deadline_and_the_listing_s_lag(
    effect: Effect, name: str, queue: str, placement: Placement | None, deadline: float
) -> None:
    there = fleet()
    there.add(effect)
    expires_at = START + seconds(deadline + 30)
    assert there.effects == [effect]
    assert there.pending == {
        effect.key: Pending(effect.key, name, START, expires_at, queue, placement)
    }
    assert name in there.names_taken
