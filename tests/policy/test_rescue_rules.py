"""Tasks that go back to their queue, rule by rule, and for how long power-offs are watched."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Guard, Reason, RescueTask, StopInstance
from gpu_autoscaler.domain.memory import Memory, Pending, PowerOff, Requeue
from gpu_autoscaler.domain.model import Entry, Queue, Task, Worker
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.rescue import (
    Popped,
    forget_undone,
    kept_power_offs,
    rescue_all,
    stuck_tasks,
    unremembered,
    watch_popped,
)
from gpu_autoscaler.policy.settings import GOING_OFF, RESCUE_WATCH
from tests.policy.worlds import (
    QUEUE,
    QUEUE_ID,
    START,
    config,
    fact,
    fleet,
    known,
    minutes,
    registered,
    seconds,
    task,
)

HOUR_AGO = START - timedelta(hours=1)
NOTHING = Popped({}, frozenset())
REQUEUE = config({"on_lost": "requeue", "max_requeues": 2})


# --- between pop and start


@pytest.mark.parametrize(
    ("poll", "last", "kept"),
    [
        ("30s", minutes(2), True),
        ("30s", seconds(121), False),
        ("1m", minutes(3), True),
        ("1m", seconds(181), False),
        ("30s", None, False),
    ],
)
def test_who_stood_still_meanwhile_starts_anew(
    poll: str, last: timedelta | None, kept: bool
) -> None:
    before = START - minutes(3)
    planned_at = None if last is None else START - last
    memory = Memory(planned_at=planned_at, popped={"t1": before, "gone": before})
    settings = config(poll_interval=poll)
    queues = {QUEUE: Queue(QUEUE_ID, QUEUE, (Entry("t3", START),))}
    there = fleet(
        memory=memory,
        settings=settings,
        queues=queues,
        open_tasks=(task("t1"), task("t2"), task("t3")),
    )
    first = before if kept else START
    assert watch_popped(there) == Popped(
        {"t1": first, "t2": START}, frozenset({"t1"} if kept else ())
    )


def test_without_a_full_answer_nothing_is_popped() -> None:
    memory = Memory(planned_at=START, popped={"t1": HOUR_AGO})
    assert watch_popped(fleet(memory=memory, complete=False)) == NOTHING


def test_after_three_minutes_nobody_will_start_it() -> None:
    seen = {"t1": START - minutes(3), "t2": START - seconds(179)}
    assert stuck_tasks(seen, START) == {"t1"}


def test_it_is_put_back() -> None:
    there = fleet(open_tasks=(task("t1"), task("t2")))
    rescue_all(there, Popped({}, frozenset({"t1"})))
    because = (
        "task task t1 (t1) was pulled by an agent that did not start it: "
        "back to the head of its queue (1 of 3, then it is left)"
    )
    assert there.effects == [
        RescueTask(task=task("t1"), reason=Reason.POPPED_TASK, because=because)
    ]


# --- what a power-off caught


@pytest.mark.parametrize(
    ("one", "under_way", "kept"),
    [
        (fact(state="idle"), "", False),
        (fact(state="running_task"), "", False),
        (fact(state="initializing"), "", False),
        (fact(state="idle"), "stop:id-m1", True),
        (fact(state="idle"), "stop:id-m2", False),
        (fact(state="idle", seen=False), "", True),
        (fact(state="lost"), "", True),
        (fact(state="stopping"), "", True),
        (fact("m2", "idle"), "", True),
    ],
)
def test_a_power_off_that_did_not_happen_is_forgotten(
    one: Fact, under_way: str, kept: bool
) -> None:
    offs = {"m1": PowerOff(QUEUE, HOUR_AGO)}
    pending = {under_way: Pending(under_way, "m1", START, START)} if under_way else {}
    there = fleet(one, memory=Memory(power_offs=offs, pending=pending))
    assert forget_undone(there) == (offs if kept else {})


def test_each_power_off_is_judged_by_itself() -> None:
    offs = {name: PowerOff(QUEUE, HOUR_AGO) for name in ("m1", "m2")}
    there = fleet(fact("m1", "stopping"), fact("m2", "idle"), memory=Memory(power_offs=offs))
    assert list(forget_undone(there)) == ["m1"]


# --- what may have been powered off before memory was lost


FORGOT_AT = START - seconds(20)
WENT_OFF = START - seconds(60)


def off(name: str = "m1", state: str = "stopped", at: datetime = WENT_OFF, **changes: Any) -> Fact:
    there = registered(name, {"idle": "running"}.get(state, state), modified_at=at)
    return fact(name, state, instance=there, **changes)


def unheard(*facts: Fact, forgot_at: datetime = FORGOT_AT, **more: Any) -> dict[str, PowerOff]:
    skew = more.pop("skew", seconds(0))
    return unremembered(fleet(*facts, memory=Memory(forgot_at=forgot_at, **more), skew=skew))


@pytest.mark.parametrize("skew", [-45, 0, 45])
@pytest.mark.parametrize(
    ("forgot_after", "found"),
    [
        (seconds(40), True),
        (-GOING_OFF + seconds(1), True),
        (-GOING_OFF, False),  # a daemon with a memory had begun by then
        (RESCUE_WATCH - seconds(1), True),
        (RESCUE_WATCH, False),
    ],
)
def test_what_went_off_right_before_memory_was_lost_may_have_been_ours(
    skew: float, forgot_after: timedelta, found: bool
) -> None:
    forgot_at = WENT_OFF + forgot_after - seconds(skew)
    assert unheard(off(), forgot_at=forgot_at, skew=seconds(skew)) == (
        {"m1": PowerOff(QUEUE, WENT_OFF - GOING_OFF)} if found else {}
    )


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (off(state="stopping"), True),
        (off(state="idle"), False),
        (off(seen=False), False),
        (off(state="stopping", seen=False), False),
    ],
)
def test_only_what_is_seen_off_may_have_been_powered_off(one: Fact, found: bool) -> None:
    assert list(unheard(one, off("m2"))) == (["m1", "m2"] if found else ["m2"])


@pytest.mark.parametrize(
    ("before", "forgot", "found"),
    [
        ({"state": "idle"}, 20, True),
        ({"state": "idle"}, 90, True),  # twice the lag of listings, and a cycle
        ({"state": "idle"}, 91, False),
        ({"state": "stopped"}, 20, False),
        ({"state": "idle", "stop_decided_at": START}, 20, False),  # that one is remembered
    ],
)
def test_what_was_seen_on_in_a_late_listing_counts_as_never_seen(
    before: dict[str, Any], forgot: float, found: bool
) -> None:
    forgot_at, skew = START - seconds(forgot), seconds(45)
    there = {"id-m1": known("m1", **before)}
    assert unheard(off(), forgot_at=forgot_at, instances=there, skew=skew) == (
        {"m1": PowerOff(QUEUE, START + skew - GOING_OFF)} if found else {}
    )


def test_with_a_memory_nothing_is_unremembered() -> None:
    assert unremembered(fleet(off(), memory=Memory())) == {}


def caught(status: str, ago: float, **changes: Any) -> Task:
    return task("t1", status, "m1", status_changed_at=START - seconds(ago), **changes)


def put_back(one: Fact | None, off: PowerOff, there_is: Task, **memory: Any) -> Fleet:
    shown = {"ended_tasks": (there_is,)} if there_is.status.ended else {"open_tasks": (there_is,)}
    there = fleet(
        *([one] if one else []),
        memory=Memory(power_offs={"m1": off}, **memory),
        settings=REQUEUE,
        **shown,  # type: ignore[arg-type]
    )
    rescue_all(there, NOTHING)
    return there


def ours(ago: float = 100, at_work: float | None = None) -> PowerOff:
    at = None if at_work is None else START - seconds(at_work)
    return PowerOff(QUEUE, START - seconds(ago), at_work_at=at)


def died(ago: float = 100, at_work: float | None = 100) -> PowerOff:
    return replace(ours(ago, at_work), ours=False)


DOWN, ON, SILENT = fact(state="stopped"), fact(state="quarantined"), fact(state="lost")


@pytest.mark.parametrize(
    ("one", "off", "there_is", "found"),
    [
        # ended with the machine
        (DOWN, ours(), caught("stopped", 50), True),
        (DOWN, ours(), caught("failed", 50), True),
        (DOWN, ours(), caught("completed", 50), False),  # it is done
        (DOWN, ours(), caught("stopped", 105), True),  # the clocks may differ by 5 s
        (DOWN, ours(), caught("stopped", 106), False),
        (DOWN, ours(), caught("stopped", 50, stop_requested=True), False),
        (None, ours(), caught("stopped", 50), True),
        (ON, ours(), caught("stopped", 50), False),  # while it is on, it ended by itself
        (SILENT, ours(), caught("stopped", 50), False),
        (DOWN, ours(at_work=100), caught("completed", 50), False),
        (DOWN, ours(at_work=100), caught("failed", 50), True),
        (DOWN, replace(ours(), known_ended=("t1",)), caught("stopped", 50), False),
        # still hanging on it
        (DOWN, ours(90), caught("in_progress", 50), True),
        (DOWN, ours(89), caught("in_progress", 50), False),
        (DOWN, ours(100), caught("in_progress", 105), True),
        (DOWN, ours(100), caught("in_progress", 106), False),
        (DOWN, ours(100, at_work=100), caught("in_progress", 3600), True),
        (DOWN, ours(100), caught("in_progress", 50, stop_requested=True), False),
        (DOWN, ours(100), caught("queued", 50), False),
        (None, ours(100), caught("in_progress", 50), True),
        (fact(state="deleting"), ours(100), caught("in_progress", 50), True),
        (fact(state="stopping"), ours(100), caught("in_progress", 50), False),
        (fact(state="stopped_in_place"), ours(100), caught("in_progress", 50), False),
        # it died by itself
        (DOWN, died(), caught("in_progress", 3600), True),
        (fact(state="stopped_in_place"), died(), caught("in_progress", 3600), True),
        (DOWN, died(), caught("stopped", 50), True),
        (DOWN, died(at_work=200), caught("stopped", 205), True),
        (DOWN, died(at_work=200), caught("stopped", 206), False),
        (DOWN, died(), caught("completed", 50), False),
        (SILENT, died(), caught("stopped", 50), True),  # ClearML has given it up
        (SILENT, died(), caught("in_progress", 3600), False),
        (fact(state="idle"), died(), caught("stopped", 50), False),
    ],
)
def test_what_a_power_off_caught(
    one: Fact | None, off: PowerOff, there_is: Task, found: bool
) -> None:
    assert bool(put_back(one, off, there_is).effects) is found


@pytest.mark.parametrize("skew", [-60, 0, 60])
@pytest.mark.parametrize(("later", "found"), [(0, True), (1, False)])
def test_what_ended_with_the_power_is_timed_by_clearml_s_clock(
    skew: float, later: float, found: bool
) -> None:
    """Also where the machine was started again since; the power-off is a minute ago."""
    off = replace(ours(60 - skew), accepted=True)
    ended_at = START - seconds(60) + GOING_OFF + seconds(later)
    there = fleet(
        fact(),
        memory=Memory(power_offs={"m1": off}),
        ended_tasks=(task("t1", "stopped", "m1", status_changed_at=ended_at),),
        skew=seconds(skew),
    )
    rescue_all(there, NOTHING)
    assert bool(there.effects) is found


@pytest.mark.parametrize(("after", "found"), [(5, True), (6, False)])
def test_a_machine_that_reports_after_it_was_seen_off_may_be_on(after: float, found: bool) -> None:
    """By more than clocks may differ."""
    one = fact(state="stopped", memory={"state_since": START - seconds(50)})
    heard = Worker("m1", HOUR_AGO, START - seconds(50) + seconds(after))
    there = fleet(
        one,
        memory=Memory(power_offs={"m1": ours()}),
        open_tasks=(caught("in_progress", 90),),
        workers=(heard,),
    )
    rescue_all(there, NOTHING)
    assert (bool(there.effects), there.withheld) == (found, set() if found else {"m1"})


def test_it_is_said_what_became_of_it() -> None:
    (effect,) = put_back(DOWN, ours(), caught("stopped", 50)).effects
    assert (effect.reason, effect.because) == (
        Reason.CAUGHT_TASK,
        "task task t1 (t1) was caught by the power-off of m1: back to the head of its queue",
    )


def test_it_is_put_back_once_and_only_what_was_on_it() -> None:
    assert not put_back(DOWN, ours(), caught("stopped", 50), rescued={"t1": HOUR_AGO}).effects
    elsewhere = replace(caught("stopped", 50), last_worker="m2")
    assert not put_back(DOWN, ours(), elsewhere).effects
    nowhere = replace(caught("stopped", 50), last_worker=None)
    assert not put_back(DOWN, ours(), nowhere).effects


def test_without_a_full_answer_nothing_is_put_back() -> None:
    memory = Memory(power_offs={"m1": ours()})
    there = fleet(DOWN, memory=memory, complete=False, ended_tasks=(caught("stopped", 50),))
    rescue_all(there, Popped({}, frozenset({"t1"})))
    assert there.effects == []


@pytest.mark.parametrize(
    ("one", "count", "sentence"),
    [
        (DOWN, None, "went off by itself: back to the head of its queue (1 of 2)"),
        (None, 1, "is gone, and not by our doing: back to the head of its queue (2 of 2)"),
        (SILENT, None, "fell silent, and ClearML has ended the task: back to the head of its "
         "queue (1 of 2)"),
        (DOWN, 2, None),
    ],
)  # fmt: skip
def test_a_lost_task_is_put_back_so_often(
    one: Fact | None, count: int | None, sentence: str | None
) -> None:
    before = {"t1": Requeue(count, HOUR_AGO)} if count else {}
    found = put_back(one, died(), caught("stopped", 50), requeued=before).effects
    assert [(e.reason, e.because) for e in found] == (
        [(Reason.LOST_TASK, f"task task t1 (t1) was on m1, which {sentence}")] if sentence else []
    )


@pytest.mark.parametrize(
    ("queue", "status", "found"),
    [
        (QUEUE, "stopped", True),
        (QUEUE, "in_progress", True),
        (QUEUE, "failed", False),
        ("gone", "stopped", False),
    ],
)
def test_a_lost_task_is_one_that_nobody_ended(queue: str, status: str, found: bool) -> None:
    off = replace(died(), queue=queue)
    assert bool(put_back(DOWN, off, caught(status, 50)).effects) is found


# --- what is watched


def stop(name: str, guard: Guard = Guard.IDLE) -> StopInstance:
    return StopInstance(
        instance=registered(name),
        guard=guard,
        booted_at=HOUR_AGO,
        reason=Reason.IDLE_TIMEOUT,
        because="a test",
    )


@pytest.mark.parametrize(
    ("off", "state", "world", "kept"),
    [
        (ours(899), "stopped", {}, True),
        (ours(900), "stopped", {}, False),
        (ours(900), "stopped", {"ended_tasks": None}, True),  # nobody has asked
        (ours(900), "stopped", {"complete": False}, True),
        (ours(900), "stopping", {}, True),
        (ours(900), "lost", {}, False),
        (died(900), "lost", {}, True),
        (died(900), "stopped", {}, False),
    ],
)
def test_how_long_a_power_off_is_watched(
    off: PowerOff, state: str, world: dict[str, Any], kept: bool
) -> None:
    there = fleet(fact(state=state), memory=Memory(power_offs={"m1": off}), **world)
    assert kept_power_offs(there) == ({"m1": off} if kept else {})


@pytest.mark.parametrize(
    ("guard", "at_work_at"),
    [(Guard.IDLE, None), (Guard.SILENT, None), (Guard.NONE, None), (Guard.QUARANTINE, START)],
)
def test_what_is_about_to_be_stopped_is_watched(guard: Guard, at_work_at: datetime | None) -> None:
    ended = (task("t1", "failed", "m1"), task("t2", "completed", "m1"), task("t3", "failed", "m2"))
    there = fleet(fact(), memory=Memory(power_offs={"m1": ours(10)}), ended_tasks=ended)
    there.add(stop("m1", guard))
    assert kept_power_offs(there) == {
        "m1": PowerOff(QUEUE, START, ("t1", "t2"), at_work_at=at_work_at)
    }


@pytest.mark.parametrize(("guard", "kept"), [(Guard.NONE, True), (Guard.SILENT, False)])
def test_ending_the_bill_of_one_that_died_is_no_power_off(guard: Guard, kept: bool) -> None:
    there = fleet(fact(), memory=Memory(power_offs={"m1": died(10)}))
    there.add(stop("m1", guard))
    there.add(stop("m2", Guard.NONE))
    there.put_back(task("t9"), Reason.CAUGHT_TASK, "no power-off")
    found = kept_power_offs(there)
    assert found["m1"] == (died(10) if kept else PowerOff(QUEUE, START))
    assert found["m2"] == PowerOff(QUEUE, START)
    assert set(found) == {"m1", "m2"}


@pytest.mark.parametrize(
    ("tasks", "known_ended"),
    [
        ((), ("t1", "t2")),
        ((task("t1"),), ("t2",)),  # queued again: its next end is news
        ((task("t3", "in_progress", "m1", stop_requested=True),), ("t1", "t2", "t3")),
        ((task("t3", "in_progress", "m2", stop_requested=True),), ("t1", "t2")),
        ((task("t3", "in_progress", "m1"),), ("t1", "t2")),
    ],
)
def test_which_ends_are_no_news(tasks: tuple[Task, ...], known_ended: tuple[str, ...]) -> None:
    off = replace(ours(10), known_ended=("t1", "t2"))
    there = fleet(DOWN, memory=Memory(power_offs={"m1": off}), open_tasks=tasks)
    assert kept_power_offs(there) == {"m1": replace(off, known_ended=known_ended)}
