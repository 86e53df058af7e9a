"""What is kept for people: the decision log, how long boots took, what the month has cost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import (
    Failure,
    Guard,
    Outcome,
    Reason,
    RemoveBootstrap,
    StopInstance,
)
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Account, Memory, Said
from gpu_autoscaler.domain.requests import Answer, Request, RequestKind
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.history import LAST_BOOTS, LAST_SAID, account, boots, said, saved
from tests.policy.worlds import (
    QUEUE,
    START,
    TYPE,
    ZONE,
    fact,
    fleet,
    known,
    minutes,
    registered,
    seconds,
)
from tests.store.test_ledger import stretch

M1 = registered("m1")
STOP = StopInstance(
    instance=M1,
    guard=Guard.IDLE,
    booted_at=START,
    reason=Reason.IDLE_TIMEOUT,
    because="it idles for 30m",
)
EARLIER = Said(START - minutes(9), "m9", "old", "delete", "idle", "it was off for a day")


# --- the decision log


def test_the_log_tells_requests_then_failures_then_effects() -> None:
    ended_at = START - seconds(3)
    there = fleet(
        fact(),
        memory=Memory(said=(EARLIER,)),
        outcomes=(
            Outcome(STOP, ended_at, Failure.GUARD, "task t1 is on it"),
            Outcome(STOP, ended_at, Failure.TRANSIENT),
            Outcome(STOP, ended_at),
        ),
    )
    there.add(STOP)
    there.add(RemoveBootstrap(instance=M1, reason=Reason.REGISTERED, because="it has registered"))
    asked = Answer(Request(RequestKind.PAUSE, QUEUE), True, "it is paused")
    assert said(there, (asked,)) == (
        EARLIER,
        Said(START, QUEUE, "", "pause", Reason.OPERATOR, "it is paused"),
        Said(ended_at, "m1", QUEUE, "left undone", Failure.GUARD, "task t1 is on it"),
        Said(ended_at, "m1", QUEUE, "stop failed", Failure.TRANSIENT, "transient"),
        Said(START, "m1", QUEUE, "stop", Reason.IDLE_TIMEOUT, "it idles for 30m"),
    )


def test_of_the_log_the_last_lines_are_kept() -> None:
    there = fleet(memory=Memory(said=(EARLIER,) * LAST_SAID))
    there.add(STOP)
    lines = said(there, ())
    assert (len(lines), lines[-2], lines[-1].verb) == (LAST_SAID, EARLIER, "stop")


# --- boots


def came(name: str, previous: str, state: str = "idle", **memory: Any) -> Fact:
    """One that was powered on 200 s before its first report."""
    heard = {"booted_at": START - seconds(210), "last_report_at": START - seconds(10)}
    return fact(name, state, memory={**heard, **memory}, previous=S(previous))


@pytest.mark.parametrize(
    ("one", "measured"),
    [
        (came("m1", "initializing"), True),
        (came("m1", "starting", "running_task"), True),
        (came("m1", "idle"), False),
        (came("m1", "initializing", "lost"), False),
        (came("m1", "initializing", last_report_at=None), False),
    ],
)
def test_a_boot_is_measured_once_from_power_on_to_the_first_report(
    one: Fact, measured: bool
) -> None:
    place = f"{TYPE} in {ZONE}"
    before: dict[str, tuple[float, ...]] = {place: (180.0,), "elsewhere": (99.0,)}
    found = boots(fleet(one, memory=Memory(boots=before)))
    assert found == (before | {place: (180.0, 200.0)} if measured else before)
    assert boots(fleet(one, memory=Memory())) == ({place: (200.0,)} if measured else {})


def test_of_each_placement_the_last_boots_are_kept() -> None:
    place = f"{TYPE} in {ZONE}"
    before = tuple(float(n) for n in range(LAST_BOOTS))
    there = fleet(came("m1", "initializing"), memory=Memory(boots={place: before}))
    assert boots(there) == {place: (*before[1:], 200.0)}


# --- the month


def month(*facts: Fact, prices: dict[str, float] | None = None, **memory: Any) -> Account | None:
    """Of a fleet that spent 7 EUR today and 5 in another month."""
    spent = {"2026-08-31": {QUEUE: 5.0}, "2026-09-07": {QUEUE: 4.0, "other": 3.0}}
    given = {TYPE: 2.5} if prices is None else prices
    return account(fleet(*facts, memory=Memory(spent=spent, **memory), prices=given))


SINCE = START - timedelta(days=3)
AT_WORK = [fact(name, "running_task") for name in ("m1", "m2")]
OF_UNKNOWN_PRICE = fact("m3", "running_task", instance=registered("m3", commercial_type="L4-1-24G"))


def test_a_month_s_account_begins_with_the_first_look_in_it() -> None:
    assert month() == Account("2026-09", START, 7.0, 0.0)
    assert month(account=Account("2026-08", SINCE, 99.0, 9.0)) == Account(
        "2026-09", START, 7.0, 0.0
    )


@pytest.mark.parametrize(("before", "peak"), [(0.0, 5.0), (7.5, 7.5)])
def test_what_works_at_once_is_the_measure_and_what_it_cost_is_the_ledger_s(
    before: float, peak: float
) -> None:
    kept = Account("2026-09", SINCE, 1.0, before)
    on = replace(known("m1"), stretch=stretch(since=START - minutes(60), eur_per_hour=2.5))
    found = month(
        *AT_WORK, fact("m4", "idle"), OF_UNKNOWN_PRICE, account=kept, instances={"id-m1": on}
    )
    assert found == Account("2026-09", SINCE, 9.5, peak)


def test_without_prices_the_account_stays_as_it_is() -> None:
    kept = Account("2026-08", SINCE, 1.0, 2.0)
    assert month(prices={}, account=kept) == kept
    assert month(prices={}) is None


@pytest.mark.usefixtures("far_east")
def test_a_month_is_one_of_utc_wherever_the_daemon_runs() -> None:
    there = fleet(prices={TYPE: 2.5})
    there.now = datetime(2026, 9, 30, 23, 59, tzinfo=UTC)
    found = account(there)
    assert found is not None
    assert found.month == "2026-09"


def test_what_is_saved_is_reckoned_against_the_most_that_worked_at_once() -> None:
    since = START - timedelta(hours=10)
    assert saved(Account("2026-09", since, eur=12.0, peak_eur_per_hour=5.0), START) == 38.0
