"""Without memory, two observations must agree before the first launch."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ZoneView
from gpu_autoscaler.policy.launch import CONFIRMED, UNSEEN, launch_all
from gpu_autoscaler.policy.questions import zones
from tests.policy.test_launch_rules import DARK, PRICE, decided, waiting
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    START,
    TYPE,
    ZONE,
    Story,
    config,
    fleet,
    minutes,
    seconds,
    verbs,
)

BEGUN = START - seconds(30)


@pytest.mark.parametrize(
    ("before", "begun_at", "launched"),
    [
        (None, None, 3),
        ({QUEUE: CONFIRMED}, BEGUN, 3),
        ({QUEUE: UNSEEN}, BEGUN, 0),
        ({}, BEGUN, 0),
        ({QUEUE: 2}, BEGUN, 2),
        ({QUEUE: 2}, None, 2),
        ({QUEUE: 9}, BEGUN, 3),
        ({QUEUE: 0}, BEGUN, 0),
        ({QUEUE: 2}, BEGUN + seconds(1), 0),  # a listing may still lack what was made before
    ],
)
def test_without_memory_only_what_two_observations_ask_for(
    before: dict[str, int] | None, begun_at: Any, launched: int
) -> None:
    memory = Memory(unconfirmed_need=before, begun_at=begun_at)
    there = fleet(memory=memory, settings=config({"max_instances": 9}), **waiting(3))
    found = decided(there)
    assert found.launched == launched
    assert found.reason is (Reason.DEMAND if launched in (2, 3) else Reason.UNCONFIRMED)


@pytest.mark.parametrize(
    ("begun", "said", "launched"),
    [
        (minutes(0.5), f"; no answer from {ZONE}, {OTHER_ZONE}, waited for until 08:59:30", 0),
        (minutes(60) - seconds(1), f"{ZONE}, {OTHER_ZONE}, waited for until 08:00:01", 0),
        (minutes(60), "", 1),
    ],
)
def test_dark_zones_are_waited_for_an_hour_and_named(
    begun: timedelta, said: str, launched: int
) -> None:
    memory = Memory(unconfirmed_need={QUEUE: 1}, begun_at=START - begun)
    dark = {name: ZoneView(name, False, START) for name in (ZONE, OTHER_ZONE)}
    shown = dark if said else {**dark, ZONE: ZoneView(ZONE, True, START)}
    places = [{"type": TYPE, "zone": zone} for zone in (ZONE, OTHER_ZONE)]
    settings = config({"placements": places})
    found = decided(fleet(memory=memory, settings=settings, zones=shown, **waiting(1)))
    assert found.launched == launched
    assert found.because.endswith(said)


def test_after_that_who_does_not_answer_is_still_named() -> None:
    memory = Memory(unconfirmed_need={QUEUE: UNSEEN}, begun_at=START - minutes(60))
    found = decided(fleet(memory=memory, zones=DARK, **waiting(1)))
    assert found.because.endswith(f"; no answer from {ZONE}")


@pytest.mark.parametrize(
    ("of_fleet", "zones", "launched"),
    [
        ({}, DARK, 1),
        ({"max_instances": 5}, DARK, 0),  # what counts for the fleet may hide there
        ({"max_eur_per_hour": 50}, DARK, 0),
        ({"max_instances": 5}, None, 1),
    ],
)
def test_without_memory_all_that_bounds_a_launch_must_be_seen(
    of_fleet: dict[str, Any], zones: Any, launched: int
) -> None:
    there = {"placements": [{"type": TYPE, "zone": OTHER_ZONE}], "name": QUEUE}
    other = {"placements": [{"type": TYPE, "zone": ZONE}], "name": "other"}
    settings = config(queues={QUEUE: there, "other": other}, **of_fleet)
    memory = Memory(unconfirmed_need={QUEUE: 1, "other": CONFIRMED}, begun_at=BEGUN)
    world = {**waiting(1), **({"zones": zones} if zones else {})}
    found = {
        d.queue: d
        for d in launch_all(fleet(memory=memory, settings=settings, prices=PRICE, **world))
    }
    assert found[QUEUE].launched == launched
    if not launched:
        for figure in ("30s after the first", "fr-par-2", "08:59:30"):
            assert figure in found[QUEUE].because


@pytest.mark.parametrize("of_fleet", [{}, {"max_instances": 5}])
@pytest.mark.parametrize("memory", ["none", "of a stale lease", "of a stale lease, begun long ago"])
def test_a_dark_zone_is_waited_for_and_not_for_ever(memory: str, of_fleet: dict[str, Any]) -> None:
    places = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]
    story = Story(config({"placements": places}, **of_fleet), dark_zones={OTHER_ZONE})
    story.lost_memory = memory == "none"
    if memory != "none":
        story.memory = replace(story.memory, unconfirmed_need={})
    if memory == "of a stale lease, begun long ago":
        story.memory = replace(story.memory, begun_at=START - timedelta(days=1))
    story.enqueue("t1")
    assert not story.wait(minutes(59)).effects
    assert story.last is not None
    assert "waited for until 09:0" in story.last.queues[0].because
    assert verbs(story.wait(minutes(3))) == ["create"]


@pytest.mark.parametrize(("of_fleet", "first"), [({"max_instances": 5}, 59), ({}, 1)])
def test_a_zone_that_is_no_longer_configured_may_hide_what_the_fleet_may_have(
    of_fleet: dict[str, Any], first: float
) -> None:
    """The ledger tells that something was there."""
    story = Story(config(**of_fleet), dark_zones={OTHER_ZONE}, lost_memory=True)
    story.memory = Memory(zones=(OTHER_ZONE,))
    story.enqueue("t1")
    assert OTHER_ZONE in zones(story.memory, story.config)
    while "create" not in verbs(story.cycle()):
        story.lost_memory = False
        assert story.now - START < minutes(62)
    assert story.now - START >= minutes(first)


def test_while_no_zone_answers_none_is_waited_for_in_particular() -> None:
    """Scaleway did not answer at all for two hours, and then one zone did, a moment before the one
    in which the queue's only machine stood."""
    places = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]
    story = Story(config({"placements": places}), dark_zones={ZONE, OTHER_ZONE}, lost_memory=True)
    story.enqueue("t1")
    assert not story.wait(timedelta(hours=2)).effects
    story.dark_zones = {OTHER_ZONE}
    assert not story.wait(minutes(59)).effects
    assert verbs(story.wait(minutes(3))) == ["create"]


def test_a_stale_lease_delays_nothing_beyond_a_second_look() -> None:
    story = Story()
    story.memory = replace(story.memory, unconfirmed_need={})
    story.enqueue("t1")
    assert verbs(story.cycle(seconds(1))) == []
    assert verbs(story.cycle(seconds(1))) == ["create"]
