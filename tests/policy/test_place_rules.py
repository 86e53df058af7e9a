"""Why nothing is launched in a placement: back-offs, breakers, dark zones, one that tries first."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Effect, Failure, Reason, StartInstance
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory, Pending
from gpu_autoscaler.domain.model import Placement, ZoneView
from gpu_autoscaler.policy.place import Refusal, held_back
from tests.policy.test_fleet import CREATE, HERE, M1, WHY
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    SPEC,
    START,
    TYPE,
    ZONE,
    fact,
    fleet,
    minutes,
    registered,
)

OPEN = Breaker(HERE, SPEC, 3, START - minutes(60), START - minutes(30), 1)


@pytest.mark.parametrize(
    ("effect", "usable"),
    [
        (None, True),
        (StartInstance(instance=M1, **WHY), False),
        (replace(CREATE, order=replace(CREATE.order, placement=HERE, queue=QUEUE)), False),
        (replace(CREATE, order=replace(CREATE.order, queue=QUEUE)), True),
    ],
)
def test_what_is_launched_is_the_breaker_s_one_try(effect: Effect | None, usable: bool) -> None:
    there = fleet(memory=Memory(breakers=(OPEN,)))
    if effect is not None:
        there.add(effect)
    assert (held_back(there, there.config.queues[QUEUE], HERE) is None) is usable


@pytest.mark.parametrize(("spec", "usable"), [("own", False), (SPEC, True)])
def test_what_is_launched_with_a_placement_s_own_settings_tries_for_those(
    spec: str, usable: bool
) -> None:
    pending = Pending("create:m9", "m9", START, START + minutes(5), QUEUE, HERE)
    memory = Memory(breakers=(replace(OPEN, spec=spec),), pending={pending.key: pending})
    there = fleet(memory=memory, own_specs={(QUEUE, HERE): "own"})
    assert (held_back(there, there.config.queues[QUEUE], HERE) is None) is usable


DARK = {ZONE: ZoneView(ZONE, complete=False, observed_at=START)}
BACKOFF = Backoff(HERE, Failure.REJECTED, 1, START, START + timedelta(hours=1), "", SPEC)


@pytest.mark.parametrize(
    ("memory", "world", "usable"),
    [
        (Memory(), {}, True),
        (Memory(), {"zones": DARK}, False),
        (Memory(), {"zones": {}}, False),
        (Memory(backoffs=(BACKOFF,)), {}, False),
        (Memory(backoffs=(BACKOFF,)), {"specs": {}}, True),  # the back-off is another spec's
        (Memory(breakers=(replace(OPEN, until=START + minutes(1)),)), {}, False),
    ],
)
def test_where_a_launch_may_be_tried(memory: Memory, world: dict[str, Any], usable: bool) -> None:
    there = fleet(memory=memory, **world)
    assert (held_back(there, there.config.queues[QUEUE], HERE) is None) is usable


EMPTY = Backoff(HERE, Failure.OUT_OF_STOCK, 1, START - minutes(9), START - minutes(1), "none left")
THERE = Placement(TYPE, OTHER_ZONE)


def launching(key: str, placement: Placement = HERE, *, failed: bool = False) -> dict[str, Any]:
    """A launch that is under way."""
    pending = Pending(key, "m9", START, START + minutes(5), QUEUE, placement, failed=failed)
    return {"memory": Memory(backoffs=(EMPTY,), pending={key: pending})}


def booting(state: str, **changes: Any) -> dict[str, Any]:
    """A machine on its way, whose launch is no longer pending."""
    return {"facts": [fact("m9", state, **changes)], "memory": Memory(backoffs=(EMPTY,))}


ELSEWHERE = {"instance": registered("m9", zone=OTHER_ZONE)}


@pytest.mark.parametrize(
    ("scene", "tries"),
    [
        (launching("create:m9"), True),
        (launching("start:id-m9"), True),
        (launching("stop:id-m9"), False),
        (launching("create:m9", THERE), False),
        (launching("create:m9", failed=True), False),
        (booting("starting"), True),
        (booting("provisioning"), True),
        (booting("initializing"), False),  # it runs: the shelf was not empty
        (booting("starting", **ELSEWHERE), False),
        (booting("starting", overdue=True), False),
        (booting("provisioning", abandoned=True), False),
        ({"memory": Memory(), "facts": [fact("m9", "starting")]}, False),  # never was empty
    ],
)
def test_after_an_empty_shelf_one_tries_first(scene: dict[str, Any], tries: bool) -> None:
    there = fleet(*scene.get("facts", ()), memory=scene["memory"])
    refusal = held_back(there, there.config.queues[QUEUE], HERE)
    said = f"{HERE}: was out of stock, m9 tries it first"
    assert refusal == (Refusal(Reason.NO_PLACEMENT, said) if tries else None)
