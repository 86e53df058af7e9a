"""What a cycle asks beyond its fixed reads."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.memory import Backoff, Memory, Pause, Pending, PowerOff
from gpu_autoscaler.domain.model import Entry, Placement, Queue, Task, Worker
from gpu_autoscaler.policy.questions import (
    availability_zones,
    ended_tasks_since,
    queue_names,
    volumes_wanted,
    zones,
)
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    START,
    TYPE,
    ZONE,
    config,
    known,
    minutes,
    registered,
    seconds,
    task,
)

PLANNED_AT = START - seconds(30)
MARGIN = seconds(5)
LONG_AGO = START - timedelta(hours=9)

IDLE = {"state": "idle", "idle_since": START - minutes(1)}
IDLED_OUT = START - minutes(30)
BASE = {"placements": [{"type": TYPE, "zone": ZONE}]}
TWO_QUEUES = config(
    queues={
        QUEUE: {"name": QUEUE, "idle_timeout": "30m", **BASE},
        "quick": {"name": "quick", "idle_timeout": "10m", **BASE},
    }
)


def asked_since(
    memory: Memory,
    settings: Config | None = None,
    workers: tuple[Worker, ...] = (),
    tasks: tuple[Task, ...] = (),
    *,
    lost_memory: bool = False,
    skew: timedelta = timedelta(0),
) -> datetime | None:
    """From when on, without the margin."""
    found = ended_tasks_since(
        memory, settings or config(), workers, tasks, START, lost_memory=lost_memory, skew=skew
    )
    return found + MARGIN if found is not None else None


def remembered(*instances: Mapping[str, Any], **changes: Any) -> Memory:
    """A daemon that looked half a minute ago; the instances are m1, m2..."""
    there = {f"id-m{n}": known(f"m{n}", **each) for n, each in enumerate(instances, 1)}
    plain = Memory(instances=there, planned_at=PLANNED_AT, clearml_since=LONG_AGO)
    return replace(plain, **changes)


def at_work(name: str = "m1") -> Worker:
    return Worker(name, LONG_AGO, START, task_id="t1")


@pytest.mark.parametrize(
    ("memory", "since"),
    [
        (remembered(), None),
        (remembered(IDLE), None),
        # idle for as long as its queue allows
        (remembered({"state": "idle", "idle_since": IDLED_OUT}), IDLED_OUT),
        (remembered({"state": "idle", "idle_since": IDLED_OUT + seconds(1)}), None),
        (remembered({"state": "idle"}), None),
        # its task has just ended
        (remembered({"state": "running_task"}), PLANNED_AT),
        (remembered({"state": "running_task"}, planned_at=None), START),
        # tasks wait where it serves
        (remembered(IDLE, waited=(QUEUE,)), PLANNED_AT),
        (remembered(IDLE, waited=(QUEUE,), planned_at=None), START),
        (remembered(IDLE, waited=("another",)), None),
        (remembered({"state": "stopped"}, waited=(QUEUE,)), None),
        # after a time in which nobody looked, or nobody answered
        (remembered(IDLE, planned_at=START - minutes(2)), None),
        (remembered(IDLE, planned_at=START - minutes(2.1)), START - minutes(2.1)),
        (remembered(IDLE, clearml_since=None), PLANNED_AT - timedelta(hours=2)),
        (remembered(IDLE, clearml_since=None, planned_at=None), None),
        (remembered(clearml_since=None), None),
        # while nothing is confirmed that was found without memory
        (remembered(unconfirmed_need={}), START - timedelta(hours=2)),
        # a power-off may have caught one
        (remembered(power_offs={"m9": PowerOff(QUEUE, START - minutes(9))}), START - minutes(9)),
        # the earliest of several
        (
            remembered(
                {"state": "idle", "idle_since": IDLED_OUT},
                {"state": "running_task"},
                power_offs={"m9": PowerOff(QUEUE, START - minutes(9))},
            ),
            IDLED_OUT,
        ),
    ],
)
def test_ended_tasks_are_asked_for_only_when_they_matter(
    memory: Memory, since: datetime | None
) -> None:
    assert asked_since(memory) == since


def test_a_task_that_still_runs_has_not_just_ended() -> None:
    memory = remembered({"state": "running_task"})
    assert asked_since(memory, workers=(at_work(),)) is None
    assert asked_since(memory, tasks=(task("t1", "in_progress", "m1"),)) is None
    assert asked_since(memory, workers=(at_work("m2"),)) == PLANNED_AT


@pytest.mark.parametrize(("timeout", "hours"), [("30m", 2), ("5h", 5)])
def test_without_memory_as_far_back_as_the_longest_idleness(timeout: str, hours: int) -> None:
    settings = config({"idle_timeout": timeout})
    back = asked_since(Memory(), settings, lost_memory=True)
    assert back == START - timedelta(hours=hours)


@pytest.mark.parametrize(("idle_for", "asked"), [(5, True), (4.9, False)])
def test_the_shorter_timeout_after_success_counts(idle_for: float, asked: bool) -> None:
    since = START - minutes(idle_for)
    memory = remembered({"state": "idle", "idle_since": since})
    found = asked_since(memory, config({"idle_timeout_after_success": "5m"}))
    assert found == (since if asked else None)


@pytest.mark.parametrize(
    ("queue", "idle_for", "asked"),
    [(QUEUE, 30, True), (QUEUE, 29.9, False), ("gone", 0, True)],
)
def test_otherwise_its_own_queues_timeout_counts(queue: str, idle_for: float, asked: bool) -> None:
    since = START - minutes(idle_for)
    one = {"state": "idle", "idle_since": since, "last_seen": registered("m1", queue=queue)}
    assert asked_since(remembered(one), TWO_QUEUES) == (since if asked else None)


@pytest.mark.parametrize(
    ("state", "works", "asked"),
    [("lost", True, False), ("lost", False, True), ("stopped", True, True)],
)
def test_the_task_of_a_silent_machine_is_awaited(state: str, works: bool, asked: bool) -> None:
    off = PowerOff(QUEUE, START - minutes(9), ours=False, at_work_at=START - minutes(11))
    memory = remembered({"state": state}, power_offs={"m1": off})
    found = asked_since(memory, workers=(at_work(),) if works else ())
    assert found == (START - minutes(11) if asked else None)


@pytest.mark.parametrize(
    ("failures", "waited", "since"),
    [
        ((START - minutes(50), START - minutes(9)), (QUEUE,), START - minutes(50)),
        ((START - timedelta(hours=5),), (QUEUE,), START - timedelta(hours=2)),
        ((START - minutes(50),), (), None),  # nothing asks: a row alone is no reason
    ],
)
def test_a_row_of_failures_is_followed_from_its_beginning(
    failures: tuple[datetime, ...], waited: tuple[str, ...], since: datetime | None
) -> None:
    memory = remembered({**IDLE, "fast_failures": failures}, waited=waited)
    assert asked_since(memory) == since


def test_a_row_is_timed_by_clearmls_clock() -> None:
    memory = remembered({**IDLE, "fast_failures": (START,)}, waited=(QUEUE,))
    assert asked_since(memory, skew=minutes(50)) == START - minutes(50)


@pytest.mark.parametrize(
    ("served", "off", "names"),
    [
        ([], [], [QUEUE]),
        ([QUEUE, "old"], [], [QUEUE, "old"]),
        (["z", "a", ""], ["m"], [QUEUE, "a", "m", "z"]),
    ],
)
def test_queues_that_are_still_served_are_read(
    served: list[str], off: list[str], names: list[str]
) -> None:
    memory = Memory(
        instances={q: known(last_seen=registered(queue=q)) for q in served},
        power_offs={q: PowerOff(q, START) for q in off},
    )
    assert queue_names(memory, config()) == names


def test_zones_are_listed_where_something_may_be() -> None:
    assert zones(Memory(zones=(OTHER_ZONE, "nl-ams-1")), config()) == (ZONE, "nl-ams-1", OTHER_ZONE)


@pytest.mark.parametrize(
    ("listed_at", "wanted"),
    [
        (None, True),
        (START - minutes(2.5), True),  # a quarter of orphan_timeout
        (START - minutes(2.4), False),
    ],
)
def test_volumes_are_listed_four_times_per_orphan_timeout(
    listed_at: datetime | None, wanted: bool
) -> None:
    assert volumes_wanted(Memory(volumes_listed_at=listed_at), config(), START) is wanted


HERE, THERE = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE)


@pytest.mark.parametrize(
    ("queue", "entries", "placement", "failure", "asked"),
    [
        (QUEUE, 1, HERE, Failure.OUT_OF_STOCK, {ZONE}),
        (QUEUE, 0, HERE, Failure.OUT_OF_STOCK, set()),
        (QUEUE, 1, THERE, Failure.OUT_OF_STOCK, set()),  # not one of its placements
        (QUEUE, 1, HERE, Failure.QUOTA, set()),
        ("not ours", 1, HERE, Failure.OUT_OF_STOCK, set()),
    ],
)
def test_stock_is_asked_for_where_a_task_waits_for_it(
    queue: str, entries: int, placement: Placement, failure: Failure, asked: set[str]
) -> None:
    memory = Memory(backoffs=(Backoff(placement, failure, 1, START, START, "none left"),))
    waiting = Queue("q-1", queue, (Entry("t1", START),) * entries)
    assert availability_zones(memory, config(), [waiting]) == asked


DRY = Backoff(HERE, Failure.OUT_OF_STOCK, 1, START, START, "none left")
BOTH_ZONES = [{"type": TYPE, "zone": zone} for zone in (ZONE, OTHER_ZONE)]
CREATED = Pending("create:m9", "m9", START, START + minutes(3), QUEUE, HERE)
BOOTS, WORKS = {"state": "initializing"}, {"state": "running_task"}


@pytest.mark.parametrize(
    ("queue", "entries", "memory", "asked"),
    [
        ({"placements": BOTH_ZONES}, 1, {}, True),
        ({"placements": BOTH_ZONES}, 0, {}, False),
        ({}, 1, {}, False),  # there is nothing to choose
        ({}, 1, {"backoffs": (DRY,)}, True),  # it may end
        ({}, 1, {"backoffs": (DRY,), "instances": BOOTS}, True),  # or begin anew
        ({}, 0, {"backoffs": (DRY,), "instances": BOOTS}, False),
        ({"placements": BOTH_ZONES}, 1, {"instances": BOOTS}, False),  # a machine comes for it
        ({"placements": BOTH_ZONES}, 1, {"instances": IDLE}, False),
        ({"placements": BOTH_ZONES}, 2, {"instances": BOOTS}, True),
        ({"placements": BOTH_ZONES}, 1, {"instances": WORKS}, True),
        ({"placements": BOTH_ZONES, "max_instances": 1}, 9, {"instances": WORKS}, False),
        ({"placements": BOTH_ZONES}, 1, {"pending": CREATED}, False),
        ({"placements": BOTH_ZONES}, 2, {"pending": CREATED}, True),
        ({"placements": BOTH_ZONES}, 1, {"pending": replace(CREATED, failed=True)}, True),
        ({"placements": BOTH_ZONES}, 1, {"pending": replace(CREATED, queue="another")}, True),
        ({"placements": BOTH_ZONES}, 1, {"pauses": {QUEUE: Pause(START)}}, False),
    ],
)
def test_stock_is_asked_for_when_a_launch_is_due_and_it_may_matter(
    queue: Mapping[str, Any], entries: int, memory: dict[str, Any], asked: bool
) -> None:
    given = dict(memory)
    if "instances" in given:
        given["instances"] = {"id-m1": known("m1", **given["instances"])}
    if "pending" in given:
        given["pending"] = {given["pending"].key: given["pending"]}
    waiting = Queue("q-1", QUEUE, tuple(Entry(f"t{n}", START) for n in range(entries)))
    settings = config(queue)
    expected = frozenset(settings.zones) if asked else frozenset()
    assert availability_zones(Memory(**given), settings, [waiting]) == expected


CREATES = {f"create:m{n}": replace(CREATED, key=f"create:m{n}", name=f"m{n}") for n in (8, 9)}


@pytest.mark.parametrize(
    ("most", "entries", "instances", "pending", "asked"),
    [
        (9, 2, [BOOTS, BOOTS], {}, False),
        (9, 3, [BOOTS, BOOTS], {}, True),
        (9, 2, [BOOTS, WORKS], {}, True),
        (2, 9, [WORKS, WORKS], {}, False),
        (3, 9, [WORKS, WORKS], {}, True),
        (9, 2, [], CREATES, False),
        (9, 3, [], CREATES, True),
        (2, 9, [], CREATES, False),
        (3, 9, [], CREATES, True),
        (9, 2, [BOOTS], {"create:m1": replace(CREATED, name="m1")}, True),  # one and the same
    ],
)
def test_whether_a_launch_is_due_counts_every_machine_once(
    most: int,
    entries: int,
    instances: list[dict[str, Any]],
    pending: dict[str, Pending],
    asked: bool,
) -> None:
    settings = config({"placements": BOTH_ZONES, "max_instances": most})
    waiting = Queue("q-1", QUEUE, tuple(Entry(f"t{n}", START) for n in range(entries)))
    memory = remembered(*instances, pending=pending)
    expected = frozenset(settings.zones) if asked else frozenset()
    assert availability_zones(memory, settings, [waiting]) == expected


def test_stock_is_asked_for_of_all_queues_together() -> None:
    zones_of = {"one": ZONE, "two": OTHER_ZONE}
    queues = {
        name: {"name": name, "placements": [{"type": TYPE, "zone": zone}]}
        for name, zone in zones_of.items()
    }
    memory = Memory(backoffs=(DRY, replace(DRY, placement=THERE)))
    waiting = [Queue(name, name, (Entry("t1", START),)) for name in zones_of]
    assert availability_zones(memory, config(queues=queues), waiting) == {ZONE, OTHER_ZONE}


def test_a_power_off_is_timed_by_clearmls_clock() -> None:
    memory = remembered(power_offs={"m9": PowerOff(QUEUE, START - minutes(9))})
    assert asked_since(memory, skew=minutes(5)) == START - minutes(14)
