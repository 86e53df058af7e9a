"""Which stopped instances are started again, and when that is waited for."""

from typing import Any

import pytest

from gpu_autoscaler.domain.effects import StartInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory, PowerOff
from tests.policy.test_launch_rules import decided, pending, spare, waiting
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    START,
    config,
    fleet,
    minutes,
    registered,
)


@pytest.mark.parametrize(
    ("changes", "memory", "started"),
    [
        ({}, Memory(), True),
        ({"instance": registered("s1", "stopped", spec="old")}, Memory(), False),
        ({"instance": registered("s1", "stopped", zone=OTHER_ZONE)}, Memory(), False),
        ({"memory": {"delete_when_stopped": True}}, Memory(), False),
        ({"memory": {"quarantined_at": START}}, Memory(), False),
        ({"fell_back": True}, Memory(), False),
        ({"hands_off": "a person's"}, Memory(), False),
        ({"claims": ("t1",)}, Memory(), False),
        ({}, pending("start:id-s1", failed=True), False),
        ({}, pending("delete:id-s1"), False),
        ({}, pending("delete:id-s1", failed=True), True),
        ({}, pending("start:id-s2", failed=True), True),
        ({}, Memory(power_offs={"s1": PowerOff(QUEUE, START)}), True),
    ],
)
def test_which_stopped_ones_are_started(
    changes: dict[str, Any], memory: Memory, started: bool
) -> None:
    there = fleet(spare(**changes), memory=memory, **waiting(1))
    decided(there)
    assert [e.verb for e in there.effects] == ["start" if started else "create"]


def test_the_one_that_was_stopped_last_is_started_first() -> None:
    spares = [spare("s1", minutes(50)), spare("s2", minutes(5)), spare("s3", minutes(500))]
    there = fleet(*spares, settings=config({"max_instances": 9}), **waiting(2))
    decided(there)
    assert [e.subject for e in there.effects] == ["s2", "s1"]
    assert all(isinstance(e, StartInstance) for e in there.effects)


@pytest.mark.parametrize("hindrance", ["tasks", "touch"])
def test_one_that_may_not_be_started_yet_does_not_keep_others(hindrance: str) -> None:
    first = spare("s1", minutes(1), seen=hindrance != "touch")
    offs = {"s1": PowerOff(QUEUE, START)} if hindrance == "tasks" else {}
    world = {**waiting(1), "ended_tasks": None}
    there = fleet(first, spare("s2"), memory=Memory(power_offs=offs), **world)
    decided(there)
    assert [(e.verb, e.subject) for e in there.effects] == [("start", "s2")]


@pytest.mark.parametrize(
    ("tasks", "resting", "launched"), [(1, 1, 0), (2, 1, 1), (1, 2, 0), (3, 2, 1)]
)
def test_those_that_have_just_stopped_are_waited_for(
    tasks: int, resting: int, launched: int
) -> None:
    just = [spare(f"s{n}", previous=S.STOPPING) for n in range(resting)]
    offs = {each.name: PowerOff(QUEUE, START) for each in just}
    settings = config({"max_instances": 9})
    there = fleet(*just, memory=Memory(power_offs=offs), settings=settings, **waiting(tasks))
    assert decided(there).launched == launched
    assert [e.verb for e in there.effects] == ["create"] * launched
