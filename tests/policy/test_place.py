"""Where a new instance is created: which placement first, which not at all, and what is said."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.effects import CreateInstance, Failure, Reason
from gpu_autoscaler.domain.memory import Backoff, Memory
from gpu_autoscaler.domain.model import Availability, Placement, ZoneView
from gpu_autoscaler.policy.launch import launch_all
from tests.policy.test_launch_rules import waiting
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    SPEC,
    START,
    TYPE,
    ZONE,
    Story,
    config,
    fact,
    fleet,
    instance,
    minutes,
    registered,
    seconds,
    verbs,
)

BIG = "H100-SXM-2-80G"
FIRST, SECOND, THIRD = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE), Placement(BIG, ZONE)
PLACES = [{"type": p.commercial_type, "zone": p.zone} for p in (FIRST, SECOND, THIRD)]
THREE: dict[str, Any] = {"placements": PLACES}
DEAR_FIRST: dict[str, Any] = {"placements": PLACES[::-1], "select": "cheapest"}
PRICES = {TYPE: 2.5, BIG: 6.5}
EMPTY, FULL, FEW = Availability.SHORTAGE, Availability.AVAILABLE, Availability.SCARCE
OUT = Failure.OUT_OF_STOCK


def stock(here: Mapping[str, Availability], there: Mapping[str, Availability]) -> dict[str, Any]:
    """What the two zones say of their stock."""
    told = {ZONE: here, OTHER_ZONE: there}
    zones = {z: ZoneView(z, True, START, availability=told[z]) for z in told}
    return {"zones": zones}


def backoff(at: Placement, minutes_left: float = 5, **changes: Any) -> Backoff:
    until = START + minutes(minutes_left)
    return replace(Backoff(at, OUT, 1, START, until, "none left"), **changes)


def chosen(queue: dict[str, Any], count: int = 1, **world: Any) -> list[tuple[Placement, str]]:
    """Where instances are created, and why there."""
    given = {"prices": PRICES, **waiting(count), **world}
    there = fleet(settings=config({"max_instances": 9, **queue}), **given)
    launch_all(there)
    found = [effect for effect in there.effects if isinstance(effect, CreateInstance)]
    return [(e.order.placement, e.because.removeprefix(f"1 waiting in {QUEUE}: ")) for e in found]


@pytest.mark.parametrize(
    ("queue", "world", "place", "because"),
    [
        (THREE, {}, FIRST, f"creating one ({FIRST})"),
        (
            THREE,
            stock({TYPE: EMPTY, BIG: FULL}, {TYPE: FULL}),
            SECOND,
            f"creating one ({SECOND}); {FIRST}: out of stock, says Scaleway",
        ),
        (THREE, stock({TYPE: FEW, BIG: FULL}, {TYPE: FULL}), FIRST, f"creating one ({FIRST})"),
        (
            THREE,
            stock({TYPE: EMPTY, BIG: FULL}, {TYPE: EMPTY}),
            THIRD,
            f"creating one ({THIRD}); {FIRST}: out of stock, says Scaleway; "
            f"{SECOND}: out of stock, says Scaleway",
        ),
        (
            THREE,
            stock({TYPE: EMPTY, BIG: EMPTY}, {TYPE: EMPTY}),
            FIRST,
            f"creating one ({FIRST}), though Scaleway calls it out of stock",
        ),
        (THREE, stock({}, {}), FIRST, f"creating one ({FIRST})"),
        (
            THREE,
            {"memory": Memory(backoffs=(backoff(FIRST),))},
            SECOND,
            f"creating one ({SECOND}); {FIRST}: out of stock, next try at 08:05:00",
        ),
        (
            THREE,
            {
                "memory": Memory(
                    backoffs=(
                        backoff(
                            FIRST, 20 * 60, failure=Failure.REJECTED, spec=SPEC
                        ),
                    )
                )
            },
            SECOND,
            f"creating one ({SECOND}); {FIRST}: rejected (none left) until its settings change, "
            "next try at 2026-09-08 04:00",
        ),
        (DEAR_FIRST, {}, SECOND, f"creating one ({SECOND})"),
        (
            DEAR_FIRST,
            stock({TYPE: FULL, BIG: FULL}, {TYPE: EMPTY}),
            FIRST,
            f"creating one ({FIRST}); {SECOND}: out of stock, says Scaleway",
        ),
        (
            DEAR_FIRST,
            {"prices": {BIG: 6.5}},
            THIRD,
            f"creating one ({THIRD}); {SECOND}: its price is not known yet, so it comes last; "
            f"{FIRST}: its price is not known yet, so it comes last",
        ),
        (
            DEAR_FIRST,
            {"prices": {}},
            THIRD,
            f"creating one ({THIRD}); {THIRD}: its price is not known yet, so it comes last; "
            f"{SECOND}: its price is not known yet, so it comes last; "
            f"{FIRST}: its price is not known yet, so it comes last",
        ),
        (
            {"placements": PLACES[::-1], "max_price_per_hour": 5},
            {},
            SECOND,
            f"creating one ({SECOND}); {THIRD}: 6.50 EUR/h is above max_price_per_hour = 5.00",
        ),
        (
            {"placements": [{**PLACES[2], "max_price_per_hour": 7}, PLACES[0]],
             "max_price_per_hour": 5},
            {},
            THIRD,
            f"creating one ({THIRD})",
        ),
        (
            {"placements": [PLACES[2], PLACES[0]], "max_price_per_hour": 6.5},
            {},
            THIRD,
            f"creating one ({THIRD})",
        ),
        (
            {"placements": [{**PLACES[2], "max_price_per_hour": 9}, PLACES[0]]},
            {"prices": {}},
            FIRST,
            f"creating one ({FIRST}); {THIRD}: its price is not known yet, and "
            "max_price_per_hour bounds it",
        ),
    ],
)  # fmt: skip
def test_where_it_is_created_and_why_there(
    queue: dict[str, Any], world: dict[str, Any], place: Placement, because: str
) -> None:
    assert chosen(queue, **world) == [(place, because)]


def test_what_is_made_there_is_as_the_placement_says() -> None:
    own = {**PLACES[1], "image": "theirs", "volume": {"size": "300GB"}, "scratch": "1TB"}
    story = Story(config({"placements": [PLACES[0], own], "max_instances": 2}))
    story.availability = {TYPE: FULL}
    story.enqueue("t1")
    (first,) = story.cycle().effects
    story.done(first, failure=OUT)
    (second,) = story.cycle(seconds(2)).effects
    assert isinstance(first, CreateInstance)
    assert isinstance(second, CreateInstance)
    made = [
        (o.image, o.volume_bytes, o.volume_iops, o.scratch_bytes)
        for o in (first.order, second.order)
    ]
    assert made == [
        ("ubuntu_jammy_gpu_os_12", 200 * 10**9, 5000, 0),
        ("theirs", 300 * 10**9, 5000, 10**12),
    ]


OWN_SPEC = "own000own000"


@pytest.mark.parametrize(
    ("failure", "changed", "created"),
    [
        (Failure.REJECTED, {(QUEUE, SECOND): "fff000fff000"}, True),
        (Failure.REJECTED, {}, True),  # its own settings are gone: as the queue says
        (Failure.REJECTED, {(QUEUE, SECOND): OWN_SPEC}, False),
        (OUT, {(QUEUE, SECOND): "fff000fff000"}, False),
    ],
)
def test_a_rejection_ends_when_the_placement_s_own_settings_change(
    failure: Failure, changed: dict[tuple[str, Placement], str], created: bool
) -> None:
    def places(own_specs: dict[tuple[str, Placement], str], memory: Memory) -> list[Placement]:
        only = {"placements": PLACES[1:2]}
        return [place for place, _ in chosen(only, own_specs=own_specs, memory=memory)]

    spec = OWN_SPEC if failure is Failure.REJECTED else ""
    memory = Memory(backoffs=(backoff(SECOND, failure=failure, spec=spec),))
    assert places({(QUEUE, SECOND): OWN_SPEC}, memory) == []
    assert places(changed, memory) == ([SECOND] if created else [])


def test_a_stopped_one_of_other_settings_is_removed_and_those_of_other_placements_stay() -> None:
    there = fleet(
        fact("m1", "stopped", instance=registered("m1", "stopped")),
        fact("m2", "stopped", instance=registered("m2", "stopped", zone=OTHER_ZONE)),
        settings=config(THREE),
        own_specs={(QUEUE, SECOND): OWN_SPEC},
        **waiting(2),
    )
    launch_all(there)
    assert [(e.verb, e.subject) for e in there.effects][:1] == [("start", "m1")]
    assert "m2" not in [e.subject for e in there.effects]


@pytest.mark.parametrize(("spec", "removed"), [(OWN_SPEC, False), (SPEC, True)])
def test_a_stopped_one_is_as_old_as_its_placement_s_settings(spec: str, removed: bool) -> None:
    settings = config({"placements": PLACES[1:2]})
    story = Story(settings, own_specs={(QUEUE, SECOND): OWN_SPEC})
    story.has(registered("m1", "stopped", zone=OTHER_ZONE, spec=spec))
    assert verbs(story.cycle()) == (["delete"] if removed else [])


def test_a_new_one_is_made_from_its_placement_s_settings() -> None:
    there = fleet(
        settings=config({"placements": PLACES[1:2]}),
        own_specs={(QUEUE, SECOND): OWN_SPEC},
        **waiting(1),
    )
    launch_all(there)
    (effect,) = there.effects
    assert isinstance(effect, CreateInstance)
    assert effect.order.spec == OWN_SPEC


def test_all_too_dear_is_a_reason_of_its_own() -> None:
    there = fleet(settings=config({**THREE, "max_price_per_hour": 1}), prices=PRICES, **waiting(1))
    (decision,) = launch_all(there)
    assert (decision.reason, there.effects) == (Reason.MAX_PRICE, [])
    assert decision.because == "1 waiting, but " + "; ".join(
        f"{place}: {price:.2f} EUR/h is above max_price_per_hour = 1.00"
        for place, price in ((FIRST, 2.5), (SECOND, 2.5), (THIRD, 6.5))
    )


@pytest.mark.parametrize(("at_cap", "created"), [("block", 0), ("alert", 1)])
def test_what_has_no_known_price_is_not_launched_while_a_budget_bounds_it(
    at_cap: str, created: int
) -> None:
    """What it cost would count as nothing."""
    budget = {"eur": 20, "per": "day", "at_cap": at_cap}
    there = fleet(settings=config({"budgets": [budget]}), **waiting(1))
    (decision,) = launch_all(there)
    assert len(there.effects) == created
    if not created:
        assert decision.because.endswith("its price is not known yet, and a budget bounds it")


def test_a_stopped_one_that_has_become_too_dear_is_not_started() -> None:
    there = fleet(
        fact("m1", "stopped", instance=registered("m1", "stopped", commercial_type=BIG)),
        settings=config({**THREE, "max_price_per_hour": 5}),
        prices=PRICES,
        **waiting(1),
    )
    launch_all(there)
    assert verbs(Plan(tuple(there.effects), there.memory, (), ())) == ["create"]


@pytest.mark.parametrize("stocked", [None, FULL, EMPTY])
def test_after_an_empty_shelf_one_tries_and_the_others_go_on(stocked: Availability | None) -> None:
    """Whether it is full again, a start that ends silently in `stopped` tells a minute later."""
    story = Story(config({**THREE, "max_instances": 9}), prices=PRICES)
    story.availability = None if stocked is None else {TYPE: stocked, BIG: FULL}
    story.enqueue("t1", "t2", "t3")
    story.memory = Memory(
        planned_at=START,
        backoffs=(backoff(FIRST, -1, failed_at=START - minutes(6)), backoff(SECOND)),
    )
    made = story.cycle()
    places = [e.order.placement for e in made.effects if isinstance(e, CreateInstance)]
    assert places.count(FIRST) == (0 if stocked is EMPTY else 1)
    assert places.count(THIRD) == 3 - places.count(FIRST)
    assert SECOND not in places
    if stocked is EMPTY:
        return
    name = next(e.subject for e in made.effects if e.order.placement == FIRST)  # type: ignore[attr-defined]
    assert f"{FIRST}: was out of stock, {name} tries it first" in made.effects[1].because
    story.done(*made.effects)
    for state in ("starting", "running"):
        story.enqueue(f"more {state}")
        story.has(*(instance(
            e.subject, state, zone=e.order.placement.zone,  # type: ignore[attr-defined]
            commercial_type=e.order.placement.commercial_type,  # type: ignore[attr-defined]
            created_at=story.now,
        ) for e in made.effects))  # fmt: skip
        (effect,) = story.cycle().effects
        assert isinstance(effect, CreateInstance)
        assert effect.order.placement == (THIRD if state == "starting" else FIRST), "it runs"


def test_what_runs_in_a_dear_placement_stays_there() -> None:
    story = Story(config({**DEAR_FIRST, "max_price_per_hour": 5}), prices=PRICES)
    story.has(registered("m1", commercial_type=BIG), registered("m2", commercial_type=BIG))
    story.report("m1")
    story.report("m2")
    story.enqueue("t1")
    story.run("m1", "t1")
    plans = [story.cycle() for _ in range(20)]
    assert [e.because for made in plans for e in made.effects] == []
    story.enqueue("t2")
    assert not story.cycle().effects, "the idle one takes it"


@pytest.mark.parametrize("silent", [False, True])
def test_a_stopped_one_without_stock_is_kept_for_its_time_while_another_is_created(
    silent: bool,
) -> None:
    story = Story(config(THREE), prices=PRICES)
    story.has(registered("m1", "stopped", modified_at=START))
    story.cycle()
    story.cycle(timedelta(hours=20))
    story.enqueue("t1")
    (start,) = story.cycle().effects
    assert (start.verb, start.subject) == ("start", "m1")
    if silent:
        story.done(start)
        story.has(registered("m1", "starting"))
        assert not story.cycle().effects
        story.has(registered("m1", "stopped"))
    else:
        story.done(start, failure=OUT)
    (create,) = story.cycle(seconds(2)).effects
    assert isinstance(create, CreateInstance)
    assert create.order.placement == SECOND
    story.done(create)
    story.has(instance(create.subject, zone=OTHER_ZONE, created_at=story.now))
    story.report(create.subject)
    story.run(create.subject, "t1")
    while "delete:id-m1" not in story.cycle(minutes(1)).memory.pending:
        assert story.now - START < timedelta(hours=30)
    assert "stopped for 1d" in story.last.effects[0].because  # type: ignore[union-attr]
    off_for = story.now - START
    assert timedelta(hours=24) <= off_for <= timedelta(hours=24, minutes=2), "the try is no news"


def test_a_quota_is_told_once_also_where_another_placement_serves() -> None:
    story = Story(config(THREE), prices=PRICES)
    story.enqueue("t1")
    told: list[str] = []
    for _ in range(4 * 120):
        before = {e.key for e in story.memory.episodes}
        for effect in story.cycle().effects:
            if not isinstance(effect, CreateInstance):
                continue
            if effect.order.placement.commercial_type == TYPE:
                story.done(effect, failure=Failure.QUOTA, message="quota 0")
            else:
                story.has(instance(effect.subject, commercial_type=BIG, created_at=story.now))
                story.report(effect.subject)
                story.run(effect.subject, "t1")
                story.done(effect)
        told += [e.text for e in story.memory.episodes if e.key not in before]
    assert len(told) == 1
    assert told[0].startswith(f"no more {TYPE} may be launched, in whatever zone (quota 0): ask")
    assert story.memory.episodes == (), "nobody has tried for hours"
