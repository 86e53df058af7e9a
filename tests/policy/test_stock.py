"""Back-offs: how long nothing is launched in a placement, and what ends that."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    Failure,
    Outcome,
    Reason,
    StartInstance,
)
from gpu_autoscaler.domain.memory import Backoff
from gpu_autoscaler.domain.model import (
    Availability,
    ClearmlView,
    CreateOrder,
    Placement,
    ZoneView,
)
from gpu_autoscaler.policy.stock import Backoffs, holds_back
from tests.policy.worlds import OTHER_ZONE, SPEC, START, TYPE, ZONE, minutes, registered, seconds

HERE, THERE, OTHER = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE), Placement("L4-1-24G", ZONE)
OUT = Failure.OUT_OF_STOCK
FIRST = minutes(5)


def backoff(
    failure: Failure = OUT,
    *,
    at: Placement = HERE,
    failures: int = 1,
    failed_at: datetime = START,
    until: datetime = START + FIRST,
    spec: str = "",
    shortage_seen: bool = False,
) -> Backoff:
    return Backoff(at, failure, failures, failed_at, until, "said so", spec, shortage_seen)


def after(pause: timedelta, kept: Iterable[Backoff] = (backoff(),)) -> Backoffs:
    """So long after START."""
    return Backoffs(kept, START + pause)


@pytest.mark.parametrize(
    ("failure", "pauses"),
    [
        (OUT, (5, 10, 20, 40, 60, 60)),
        (Failure.RATE_LIMITED, (1, 2, 4, 8, 10, 10)),
        (Failure.TRANSIENT, (0.5, 1, 2, 4, 5, 5)),
        (Failure.NOT_FOUND, (0.5, 1, 2, 4, 5, 5)),
        (Failure.QUOTA, (30, 30)),
        (Failure.REJECTED, (60, 120, 240, 480, 960, 1440, 1440)),
        (Failure.UNAUTHORIZED, (5, 5)),
    ],
)
def test_each_failure_has_its_ladder(failure: Failure, pauses: tuple[float, ...]) -> None:
    kept: tuple[Backoff, ...] = ()
    now = START
    for row, pause in enumerate(pauses, 1):
        backoffs = Backoffs(kept, now)
        backoffs.failed(HERE, failure, "said so", spec=SPEC)
        kept = backoffs.kept()
        spec = SPEC if failure is Failure.REJECTED else ""
        until = now + minutes(pause)
        assert kept == (backoff(failure, failures=row, failed_at=now, until=until, spec=spec),)
        now = until


def test_a_long_row_stays_at_the_cap() -> None:
    backoffs = after(FIRST, [backoff(failures=5000)])
    backoffs.failed(HERE, OUT, "said so")
    assert backoffs.kept()[0].until == START + FIRST + minutes(60)


def test_while_it_lasts_the_same_again_changes_nothing() -> None:
    backoffs = after(minutes(4.9))
    backoffs.failed(HERE, OUT, "again")
    assert backoffs.kept() == (backoff(),)


@pytest.mark.parametrize(
    ("failure", "until"),
    [
        (Failure.QUOTA, minutes(31)),  # a longer one takes its place
        (Failure.TRANSIENT, minutes(5)),  # a shorter one does not
    ],
)
def test_another_failure_meanwhile(failure: Failure, until: timedelta) -> None:
    backoffs = after(minutes(1), [backoff(failures=3)])
    backoffs.failed(HERE, failure, "another")
    (one,) = backoffs.kept()
    assert one.until == START + until
    assert (one.failure, one.failures) == ((failure, 1) if failure is Failure.QUOTA else (OUT, 3))


def test_another_failure_afterwards_begins_a_row() -> None:
    backoffs = after(minutes(10), [backoff(failures=3)])
    backoffs.failed(HERE, Failure.TRANSIENT, "another")
    assert backoffs.kept()[0].failures == 1


def test_a_rejection_is_kept_beside_a_placement_s_own() -> None:
    backoffs = after(minutes(1))
    backoffs.failed(HERE, Failure.REJECTED, "no such image", spec="bad")
    assert [b.spec for b in backoffs.kept()] == ["", "bad"]


@pytest.mark.parametrize(("pause", "kept"), [(minutes(124.9), 1), (minutes(125), 0)])
def test_two_hours_after_its_end_it_is_forgotten(pause: timedelta, kept: int) -> None:
    assert len(after(pause).kept()) == kept


@pytest.mark.parametrize(
    ("kept", "placement", "spec", "pause", "holds"),
    [
        (backoff(), HERE, SPEC, minutes(0), True),
        (backoff(), HERE, SPEC, minutes(4.9), True),
        (backoff(), HERE, SPEC, minutes(5), False),
        (backoff(), THERE, SPEC, minutes(0), False),
        (backoff(), OTHER, SPEC, minutes(0), False),
        (backoff(Failure.REJECTED, spec=SPEC), HERE, SPEC, minutes(0), True),
        (backoff(Failure.REJECTED, spec=SPEC), HERE, "another", minutes(0), False),
        (backoff(Failure.REJECTED, spec=SPEC), THERE, SPEC, minutes(0), False),
        (backoff(Failure.QUOTA), THERE, SPEC, minutes(4.9), True),
        (backoff(Failure.QUOTA), THERE, SPEC, minutes(5), False),
        (backoff(Failure.QUOTA), OTHER, SPEC, minutes(0), False),
    ],
)
def test_what_a_back_off_holds_back(
    kept: Backoff, placement: Placement, spec: str, pause: timedelta, holds: bool
) -> None:
    assert after(pause, [kept]).of(placement, spec) == (kept if holds else None)


@pytest.mark.parametrize(
    ("kept", "placement", "spec", "booted_at", "ended"),
    [
        (backoff(), HERE, SPEC, seconds(1), True),
        (backoff(), HERE, SPEC, seconds(0), False),
        (backoff(), THERE, SPEC, seconds(1), False),
        (backoff(Failure.REJECTED, spec=SPEC), HERE, SPEC, seconds(1), True),
        (backoff(Failure.REJECTED, spec="bad"), HERE, SPEC, seconds(1), False),
    ],
)
def test_what_boots_there_ends_it(
    kept: Backoff, placement: Placement, spec: str, booted_at: timedelta, ended: bool
) -> None:
    backoffs = after(minutes(1), [kept])
    backoffs.booted(placement, spec, START + booted_at)
    assert backoffs.kept() == (() if ended else (kept,))


def world(stock: Availability | None, zone: str = ZONE) -> World:
    stocks = {TYPE: stock} if stock is not None else None
    view = ZoneView(zone, complete=True, observed_at=START, availability=stocks)
    return World(ClearmlView(complete=True, observed_at=START), {zone: view}, {})


@pytest.mark.parametrize(
    ("kept", "view", "pause", "until", "seen"),
    [
        (backoff(), world(Availability.SHORTAGE), 1, 5, True),
        (backoff(shortage_seen=True), world(Availability.AVAILABLE), 1, 1, False),
        (backoff(shortage_seen=True), world(Availability.SCARCE), 1, 1, False),
        (backoff(), world(Availability.AVAILABLE), 1, 5, False),
        (backoff(shortage_seen=True), world(Availability.AVAILABLE), 5, 5, True),
        (backoff(shortage_seen=True), world(None), 1, 5, True),
        (backoff(shortage_seen=True), world(Availability.AVAILABLE, OTHER_ZONE), 1, 5, True),
        (backoff(at=OTHER, shortage_seen=True), world(Availability.AVAILABLE), 1, 5, True),
        (backoff(Failure.QUOTA, shortage_seen=True), world(Availability.AVAILABLE), 1, 5, True),
        (backoff(Failure.QUOTA), world(Availability.SHORTAGE), 1, 5, False),
    ],
)
def test_only_a_change_from_shortage_ends_it_early(
    kept: Backoff, view: World, pause: float, until: float, seen: bool
) -> None:
    # the other one is of another kind, and in nobody's way
    backoffs = after(minutes(pause), [backoff(Failure.TRANSIENT, at=Placement("A", "a")), kept])
    backoffs.end_early(view)
    found = next(b for b in backoffs.kept() if b.placement == kept.placement)
    assert (found.until, found.shortage_seen) == (START + minutes(until), seen)


def test_who_is_not_believed_any_more_keeps_nobody_from_being_believed() -> None:
    for misled in (HERE, OTHER):
        places = (HERE, OTHER)
        both = [replace(backoff(at=p, shortage_seen=True), misled=p == misled) for p in places]
        backoffs = after(minutes(1), both)
        stocks = {place.commercial_type: Availability.AVAILABLE for place in (HERE, OTHER)}
        zones = {p.zone: ZoneView(p.zone, True, START, availability=stocks) for p in (HERE, OTHER)}
        backoffs.end_early(World(ClearmlView(complete=True, observed_at=START), zones, {}))
        ended = [b.placement for b in backoffs.kept() if b.ended_early]
        assert ended == [OTHER if misled == HERE else HERE]


def test_a_change_that_misled_is_not_believed_for_one_back_off() -> None:
    """A probe that goes to and fro each minute must not make one try each two minutes."""
    kept: tuple[Backoff, ...] = ()
    tries = []
    for minute in range(240):
        now = START + minutes(minute)
        backoffs = Backoffs(kept, now)
        level = Availability.SHORTAGE if minute % 2 else Availability.AVAILABLE
        backoffs.end_early(world(level))
        if backoffs.of(HERE, SPEC) is None:
            tries.append(minute)
            backoffs.failed(HERE, OUT, "none left")
        kept = backoffs.kept()
    # 5 min cut short, 10 in full, 20 cut short, 40 in full, 60 cut short, 60 in full ...
    assert tries == [0, 2, 12, 14, 54, 56, 116, 118, 178, 180]


@pytest.mark.parametrize(
    ("failure", "later", "misled"), [(OUT, 0, True), (OUT, 1, True), (Failure.QUOTA, 0, False)]
)
def test_only_the_same_failure_right_after_a_change_misleads(
    failure: Failure, later: float, misled: bool
) -> None:
    backoffs = after(minutes(2), [backoff(shortage_seen=True)])
    backoffs.end_early(world(Availability.AVAILABLE))
    (ended,) = backoffs.kept()
    assert (ended.until, ended.ended_early, ended.misled) == (START + minutes(2), True, False)
    backoffs = Backoffs([ended], START + minutes(2 + later))
    backoffs.failed(HERE, failure, "again")
    assert [(b.misled, b.ended_early) for b in backoffs.kept()] == [(misled, False)]


@pytest.mark.parametrize(
    ("kept", "empty"),
    [
        ((), False),
        ((backoff(),), True),
        ((backoff(until=START - minutes(9)),), True),
        ((backoff(at=THERE),), False),
        ((backoff(Failure.TRANSIENT),), False),
    ],
)
def test_what_was_empty_at_the_last_try(kept: tuple[Backoff, ...], empty: bool) -> None:
    assert after(minutes(0), kept).was_empty(HERE) is empty


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (backoff(), "out of stock, next try at 08:05:00"),
        (backoff(Failure.QUOTA), "quota exceeded, next try at 08:05:00"),
        (backoff(until=START + minutes(60 * 20)), "out of stock, next try at 2026-09-08 04:00"),
        (
            backoff(Failure.REJECTED),
            "rejected (said so) until its settings change, next try at 08:05:00",
        ),
    ],
)
def test_what_holds_back_is_a_sentence(kept: Backoff, text: str) -> None:
    assert holds_back(kept, START) == text


CREATE = CreateInstance(
    order=CreateOrder("m9", "q", HERE, "image", 1, 1, ()), reason=Reason.DEMAND, because="x"
)
START_M1 = StartInstance(instance=registered("m1"), reason=Reason.DEMAND, because="x")
DELETE = DeleteInstance(instance=registered("m1"), reason=Reason.SPEC_CHANGED, because="x")


@pytest.mark.parametrize(
    ("outcome", "refused_for", "failure"),
    [
        (Outcome(CREATE, START, OUT, "said so"), None, OUT),
        (Outcome(START_M1, START, OUT, "said so"), None, OUT),
        (Outcome(CREATE, START, Failure.REJECTED, "said so"), None, Failure.REJECTED),
        (Outcome(CREATE, START), None, None),
        (Outcome(CREATE, START, Failure.GUARD), None, None),
        (Outcome(DELETE, START, Failure.TRANSIENT), None, None),
        (Outcome(CREATE, START, Failure.UNAUTHORIZED, "said so"), None, None),
        (Outcome(CREATE, START, Failure.UNAUTHORIZED, "said so"), minutes(1.9), None),
        (
            Outcome(CREATE, START, Failure.UNAUTHORIZED, "said so"),
            minutes(2),
            Failure.UNAUTHORIZED,
        ),
    ],
)
def test_what_is_learnt_from_an_ended_launch(
    outcome: Outcome, refused_for: timedelta | None, failure: Failure | None
) -> None:
    backoffs = Backoffs([], START)
    backoffs.learn(outcome, SPEC, None if refused_for is None else START - refused_for)
    found = [(b.placement, b.failure, b.message, b.spec) for b in backoffs.kept()]
    spec = SPEC if failure is Failure.REJECTED else ""
    assert found == ([] if failure is None else [(HERE, failure, "said so", spec)])
