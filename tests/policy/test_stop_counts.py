"""How many idle instances are stopped, which ones first, and what keeps the others."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.stop import stop_all
from tests.policy.test_stop_rules import agents, decided, idle, said, waiting
from tests.policy.worlds import (
    QUEUE,
    START,
    TYPE,
    ZONE,
    config,
    fact,
    fleet,
    minutes,
    registered,
    seconds,
    task,
)


def names(there: Fleet) -> list[str]:
    return [effect.subject for effect in there.effects]


FIRST, SECOND, THIRD, LAST = ORDER = ("m3", "m1", "m4", "m2")
"""Idle for the longest, and so on."""
FOUR = tuple(idle(name, minutes(80 - 10 * n)) for n, name in enumerate(ORDER))
OLD_QUEUE = tuple(replace(each, serves=False) for each in FOUR)


@pytest.mark.parametrize(
    ("queue", "world", "stopped"),
    [
        ({"max_instances": 9}, {}, 4),
        ({"max_instances": 9}, waiting(1), 3),
        ({"max_instances": 9}, waiting(4), 0),
        ({"max_instances": 9, "min_instances": 1}, {}, 3),
        ({"max_instances": 9, "min_instances": 4}, {}, 0),
        ({"max_instances": 9, "min_instances": 3}, waiting(3), 1),
        ({"max_instances": 9, "min_instances": 1}, waiting(3), 1),
        ({"max_instances": 9, "min_instances": 3}, {"queues": {}}, 4),
        ({"max_instances": 3}, waiting(4), 1),
        ({"max_instances": 2}, waiting(1), 3),
        ({"max_instances": 3, "min_instances": 3}, waiting(9), 1),
        ({"max_instances": 3, "min_instances": 3}, {}, 1),
        ({"max_instances": 4}, waiting(4), 0),
    ],
)
def test_how_many_are_stopped_the_most_idle_first(
    queue: dict[str, Any], world: dict[str, Any], stopped: int
) -> None:
    assert names(decided(*FOUR, settings=config(queue), **world)) == list(ORDER[:stopped])


@pytest.mark.parametrize("max_instances", [9, 3])
@pytest.mark.parametrize("hindrance", ["not seen", "reported once"])
def test_in_place_of_one_that_cannot_be_stopped_the_next_one_is(
    max_instances: int, hindrance: str
) -> None:
    once = replace(FOUR[0].memory, first_idle_report_at=FOUR[0].memory.last_report_at)
    changes: dict[str, Any] = {"seen": False} if hindrance == "not seen" else {"memory": once}
    settings = config({"max_instances": max_instances})
    there = decided(replace(FOUR[0], **changes), *FOUR[1:], settings=settings, **waiting(3))
    assert names(there) == [SECOND]


def test_tasks_that_this_plan_puts_back_are_waited_for_too() -> None:
    there = fleet(*FOUR, settings=config({"max_instances": 9}), workers=agents(*FOUR), **waiting(1))
    there.put_back(task("t1"), Reason.CAUGHT_TASK, "a test")
    there.put_back(task("t2", queue_id="another"), Reason.CAUGHT_TASK, "a test")
    stop_all(there, frozenset())
    assert names(there)[2:] == [FIRST, SECOND]


def test_instances_of_other_queues_are_not_above_this_one_s_maximum() -> None:
    busy = [
        fact(f"b{n}", "running_task", instance=registered(f"b{n}", queue="gone")) for n in range(3)
    ]
    settings = config({"max_instances": 4})
    assert names(decided(*FOUR, *busy, settings=settings, **waiting(4))) == []


def test_a_popped_task_that_is_nobody_s_keeps_none_above_the_maximum() -> None:
    settings = config({"max_instances": 3})
    there = decided(*FOUR, settings=settings, stuck=["t1"], open_tasks=(task("t1"),))
    assert FIRST in names(there)


def test_what_keeps_idle_ones_is_said() -> None:
    found = decided(*FOUR, settings=config({"max_instances": 9, "min_instances": 2}))
    assert said(found)[LAST] == ("", Reason.MIN_INSTANCES, "idle, kept by min_instances = 2")
    day = [{"days": "mon", "from": "08:00", "to": "19:00", "min_instances": 2}]
    hours = {"working_hours": {"timezone": "UTC", "windows": day}}
    bounds = config({"max_instances": 9, "min_instances": 2, **hours})
    said_until = "idle, kept by min_instances = 2 (in force until Mon 19:00 UTC)"
    assert said(decided(*FOUR, settings=bounds))[LAST][2] == said_until
    found = decided(*FOUR, settings=config({"max_instances": 9}), **waiting(2))
    assert said(found)[LAST] == ("", Reason.DEMAND, "idle, kept for waiting tasks")
    found = decided(*FOUR, settings=config({"max_instances": 3}), **waiting(9))
    assert said(found)[FIRST] == (
        *("stop", Reason.ABOVE_MAX),
        "m3 is idle, and 4 of at most 3 are billed",
    )


@pytest.mark.parametrize(
    ("queue", "stopped"),
    [
        ({"max_instances": 9, "min_instances": 4}, FOUR),
        ({"max_instances": 9}, FOUR),
        ({"max_instances": 2}, FOUR),
    ],
)
def test_who_does_not_serve_its_queue_is_kept_neither_for_tasks_nor_for_the_minimum(
    queue: dict[str, Any], stopped: tuple[Fact, ...]
) -> None:
    there = decided(*OLD_QUEUE, settings=config(queue), **waiting(4))
    assert names(there) == [each.name for each in stopped]


def test_who_does_not_serve_counts_for_no_task() -> None:
    old = replace(FOUR[0], serves=False)
    there = decided(old, *FOUR[1:], settings=config({"max_instances": 9}), **waiting(2))
    assert names(there) == [FIRST, SECOND], "two of the three that serve are kept"


@pytest.mark.parametrize(
    ("changes", "memory"),
    [
        ({"hands_off": "a person's"}, Memory()),
        ({}, "under way"),
    ],
)
def test_who_is_not_to_be_stopped_or_is_being_stopped_is_not_counted_as_free(
    changes: dict[str, Any], memory: Memory | str
) -> None:
    if isinstance(memory, str):
        there = fleet()
        there.add(
            StopInstance(
                instance=FOUR[0].instance,
                guard=Guard.IDLE,
                booted_at=START,
                reason=Reason.IDLE_TIMEOUT,
                because="a test",
            )
        )
        memory = Memory(pending=there.pending)
    first = replace(FOUR[0], **changes)
    settings = config({"max_instances": 9})
    there = decided(first, FOUR[1], memory=memory, settings=settings, **waiting(1))
    assert names(there) == []


@pytest.mark.parametrize(
    ("status", "after_success", "idle_for", "stopped"),
    [
        ("completed", "5m", 5, True),
        ("completed", "5m", 4.9, False),
        ("failed", "5m", 5, False),
        ("completed", None, 29.9, False),
        ("completed", "1m", 2, True),  # never within the grace
        ("completed", "1m", 1.9, False),
        (None, "5m", 5, False),
    ],
)
def test_after_a_success_another_timeout_may_count(
    status: str | None, after_success: str | None, idle_for: float, stopped: bool
) -> None:
    last = task(status=status).status if status else None
    one = idle("m1", minutes(idle_for), memory={"last_task_status": last})
    settings = config({"idle_timeout_after_success": after_success})
    assert bool(decided(one, settings=settings).effects) is stopped


BASE = {"placements": [{"type": TYPE, "zone": ZONE}], "max_instances": 9}


@pytest.mark.parametrize(("fleet_max", "stopped"), [(None, 0), (5, 0), (4, 1), (3, 2), (2, 3)])
def test_the_fleet_s_maximum_counts_all_queues(fleet_max: int | None, stopped: int) -> None:
    settings = config(
        queues={QUEUE: {"name": QUEUE, **BASE}, "other": {"name": "other", **BASE}},
        max_instances=fleet_max,
    )
    recent = [idle(name, minutes(3)) for name in ORDER]
    busy = fact("b1", "running_task", instance=registered("b1", queue="other"))
    assert len(decided(*recent, busy, settings=settings).effects) == stopped


@pytest.mark.parametrize("idle_for", [minutes(2), seconds(119)])
def test_above_the_maximum_only_the_grace_counts(idle_for: timedelta) -> None:
    settings: Config = config({"max_instances": 0})
    found = said(decided(idle("m1", idle_for), settings=settings))["m1"]
    if idle_for < minutes(2):
        assert found == ("", Reason.RECENTLY_BUSY, "idle since 07:58:01; stops in 1s")
    else:
        assert found[:2] == ("stop", Reason.ABOVE_MAX)
