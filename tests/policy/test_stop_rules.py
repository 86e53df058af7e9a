"""Scale down, rule by rule: to the second, and with the sentence that says why."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import Entry, Queue, Worker
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.stop import stop_all
from tests.policy.worlds import (
    QUEUE,
    QUEUE_ID,
    SPEC,
    START,
    config,
    fact,
    fleet,
    instance,
    known,
    minutes,
    registered,
    seconds,
    task,
)

HOUR_AGO = START - timedelta(hours=1)


def idle(name: str, idle_for: timedelta, *, queue: str = QUEUE, **changes: Any) -> Fact:
    """Its agent has reported no task several times, the last time ten seconds ago."""
    since = START - idle_for
    reports = {"first_idle_report_at": since, "last_report_at": START - seconds(10)}
    memory = {"idle_since": since, **reports, **changes.pop("memory", {})}
    return fact(name, memory=memory, instance=registered(name, queue=queue), **changes)


def agents(*facts: Fact) -> tuple[Worker, ...]:
    """Those of idle ones have just reported."""
    idle_ones = [each for each in facts if each.state.value == "idle"]
    return tuple(Worker(each.name, HOUR_AGO, START - seconds(10)) for each in idle_ones)


def decided(*facts: Fact, stuck: Collection[str] = (), **world: Any) -> Fleet:
    """What is planned and said."""
    there = fleet(*facts, **{"workers": agents(*facts), **world})
    stop_all(there, frozenset(stuck))
    return there


def said(there: Fleet) -> dict[str, tuple[str, Reason, str]]:
    """By name: `stop` or nothing, the reason and the sentence."""
    found = {there.facts[i].name: ("", *verdict) for i, verdict in there.verdicts.items()}
    return found | {e.subject: (e.verb, e.reason, e.because) for e in there.effects}


def waiting(count: int) -> dict[str, Any]:
    """So many tasks wait in the queue."""
    names = [f"w{n}" for n in range(count)]
    entries = tuple(Entry(name, START) for name in names)
    queues = {QUEUE: Queue(QUEUE_ID, QUEUE, entries)}
    return {"queues": queues, "open_tasks": tuple(task(name) for name in names)}


@pytest.mark.parametrize(
    ("one", "guard", "reason", "because"),
    [
        (
            fact(state="stopped_in_place"),
            Guard.NONE,
            Reason.STOPPED_IN_PLACE,
            "m1 is stopped in place, which is billed in full",
        ),
        (
            fact(state="quarantined", memory={"quarantined_at": HOUR_AGO}),
            Guard.QUARANTINE,
            Reason.QUARANTINED,
            "m1 is quarantined since 2026-09-07 07:00: powering it off",
        ),
        (
            fact(state="quarantined", memory={"quarantined_at": START}),  # by its tag
            Guard.QUARANTINE,
            Reason.QUARANTINED,
            "m1 is quarantined since 2026-09-07 08:00: powering it off",
        ),
        (
            fact(
                state="quarantined",
                memory={"quarantined_at": START, "fast_failures": (START,) * 3},
            ),
            Guard.QUARANTINE,
            Reason.QUARANTINED,
            "3 tasks in a row failed on m1 within 1m of their start, and no other instance of "
            "H100-1-80G has several such failures: powering it off",
        ),
        (
            fact(
                state="initializing",
                instance=instance("m1"),
                memory={"state_since": START - minutes(10)},
            ),
            Guard.NEVER_REGISTERED,
            Reason.NEVER_REGISTERED,
            "m1 runs for 10m and its agent never registered (stale_timeout 10m): removing it",
        ),
        (
            fact(state="lost", memory={"state_since": START - minutes(10)}),
            Guard.SILENT,
            Reason.LOST_WORKER,
            "m1 is silent since 07:50:00 and has no task: powering it off",
        ),
        (
            idle("m1", minutes(30)),
            Guard.IDLE,
            Reason.IDLE_TIMEOUT,
            "m1 is idle for 30m, its timeout is 30m",
        ),
        (
            idle("m1", minutes(2), queue="gone"),
            Guard.IDLE,
            Reason.ABOVE_MAX,
            "m1 is idle, and queue gone is no longer in the configuration",
        ),
    ],
)
def test_why_something_is_stopped(one: Fact, guard: Guard, reason: Reason, because: str) -> None:
    there = decided(one, memory=Memory(instances={one.instance.id: one.memory}))
    (stop,) = there.effects
    assert stop == StopInstance(
        instance=one.instance, guard=guard, booted_at=HOUR_AGO, reason=reason, because=because
    )
    assert there.verdicts == {}
    assert there.facts["id-m1"].memory.stop_decided_at == START


@pytest.mark.parametrize(
    ("one", "reason", "because"),
    [
        (
            fact(
                state="initializing",
                instance=instance("m1"),
                memory={"state_since": START - seconds(599)},
            ),
            Reason.BOOTING,
            "booting for 9m59s",
        ),
        (fact(state="initializing"), Reason.BOOTING, "booting for 1h"),  # registered before
        (
            fact(state="lost", claims=("t1", "t2")),
            Reason.LOST_WORKER,
            "silent since 07:00:00 with task t1 on it: hands off until ClearML ends the task",
        ),
        (
            fact(state="lost", memory={"state_since": START - seconds(599)}),
            Reason.LOST_WORKER,
            "silent since 07:50:01; powered off after 10m",
        ),
        (
            fact(state="lost", memory={"claimed_at": START - seconds(599)}),
            Reason.LOST_WORKER,
            "silent since 07:00:00; powered off after 10m",
        ),
        (
            idle("m1", seconds(1799)),
            Reason.WAITING,
            "idle since 07:30:01; stops in 1s",
        ),
        (
            idle("m1", minutes(2)),
            Reason.WAITING,
            "idle since 07:58:00; stops in 28m",
        ),
        (
            idle("m1", seconds(119)),
            Reason.RECENTLY_BUSY,
            "idle since 07:58:01; stops in 28m1s",
        ),
        (
            idle("m1", minutes(60), memory={"first_idle_report_at": START - seconds(10)}),
            Reason.WAITING,
            "not stopped: its agent has reported no task only once",
        ),
        (fact(), Reason.RECENTLY_BUSY, "idle since 08:00:00; stops in 30m"),
    ],
)
def test_why_something_is_not_stopped_yet(one: Fact, reason: Reason, because: str) -> None:
    assert said(decided(one)) == {"m1": ("", reason, because)}


def test_without_a_full_answer_nothing_is_stopped_and_what_is_known_better_is_said() -> None:
    there = fleet(idle("m1", minutes(60)), fact("m2", "lost"), complete=False)
    there.verdicts["id-m2"] = Reason.HANDS_OFF, "a person's"
    stop_all(there, frozenset())
    assert said(there) == {
        "m1": ("", Reason.INCOMPLETE, "ClearML gave no full answer: nothing is stopped"),
        "m2": ("", Reason.HANDS_OFF, "a person's"),
    }


GONE = {"instance": registered("m1", queue="gone")}
OF_GONE = Memory(instances={"x": known(last_seen=registered(queue="gone"))})
SLOW = config({"stale_timeout": "20m", "lost_timeout": "20m"}, orphan_timeout="5m")


@pytest.mark.parametrize("state", ["initializing", "lost"])
@pytest.mark.parametrize(
    ("queue", "since", "stopped"),
    [(QUEUE, 19.9, False), (QUEUE, 20, True), ("gone", 4.9, False), ("gone", 5, True)],
)
def test_without_a_queue_the_orphan_timeout_counts(
    state: str, queue: str, since: float, stopped: bool
) -> None:
    memory = {"state_since": START - minutes(since)}
    one = fact(state=state, memory=memory, instance=instance("m1", queue=queue))
    there = decided(one, settings=SLOW, memory=OF_GONE)
    assert [e.verb for e in there.effects] == ["stop"] * stopped


@pytest.mark.parametrize("guard", ["never registered", "silent", "idle"])
def test_a_popped_task_that_is_nobody_s_any_more_holds_nothing_up(guard: str) -> None:
    one = {
        "never registered": fact(state="initializing", instance=instance("m1")),
        "silent": fact(state="lost"),
        "idle": idle("m1", minutes(60)),
    }[guard]
    popped = (task("t1"),)
    refused = "not stopped: task t1 was just pulled from H100-1-80G, perhaps by it"
    assert said(decided(one, open_tasks=popped)) == {"m1": ("", Reason.WAITING, refused)}
    assert decided(one, open_tasks=popped, stuck=["t1"]).effects


@pytest.mark.parametrize(
    ("since", "other", "outage"),
    [
        (60, 60, True),
        (60, 60 + 119 / 60, True),
        (60, 62, False),
        (60, 60 - 119 / 60, True),
        (60, 58, False),
        (60 + 1 / 60, 60, False),  # an hour of it, and it is believed in no more
        (59, 60, True),
    ],
)
def test_who_falls_silent_together_has_a_common_cause(
    since: float, other: float, outage: bool
) -> None:
    one = fact("m1", "lost", memory={"state_since": START - minutes(since)})
    two = fact("m2", "lost", memory={"state_since": START - minutes(other)})
    found = said(decided(one, two))["m1"]
    assert (found[1] is Reason.OUTAGE) is outage
    if outage:
        when = one.memory.state_since
        text = f"silent since {when:%H:%M:%S}, and others with it: an outage, nothing is stopped"
        assert found == ("", Reason.OUTAGE, text)


def test_only_other_silent_ones_make_an_outage() -> None:
    one = fact("m1", "lost", memory={"state_since": START - minutes(30)})
    same = {"state_since": START - minutes(30)}
    there = decided(one, fact("m2", "stopped", memory=same), fact("m3", "unknown", memory=same))
    assert [e.subject for e in there.effects] == ["m1"]


def stale(**memory: Any) -> Fact:
    return fact(state="initializing", instance=instance("m1"), memory=memory)


@pytest.mark.parametrize(
    ("one", "queue", "removed", "in_vain"),
    [
        (idle("m1", minutes(60)), {}, False, False),
        (idle("m1", minutes(60)), {"idle_action": "delete"}, True, False),
        (idle("m1", minutes(60), queue="gone"), {}, True, False),
        (stale(), {}, True, True),
        (fact(state="lost"), {}, True, True),  # its agent did not come back in this boot
        (fact(state="lost", memory={"last_report_at": HOUR_AGO}), {}, False, False),
        (fact(state="stopped_in_place"), {}, False, False),
    ],
)
def test_what_is_remembered_of_a_stop(
    one: Fact, queue: Mapping[str, Any], removed: bool, in_vain: bool
) -> None:
    there = decided(one, settings=config(queue), memory=OF_GONE)
    assert there.facts["id-m1"] == replace(
        one,
        memory=replace(
            one.memory,
            stop_decided_at=START,
            delete_when_stopped=removed,
            boot_failed=in_vain,
        ),
    )
    breakers = [(b.placement, b.spec, b.failures) for b in there.breakers.kept()]
    assert breakers == ([(one.instance.placement, SPEC, 1)] if in_vain else [])


def test_one_boot_in_vain_counts_once() -> None:
    there = decided(stale(boot_failed=True))
    assert there.facts["id-m1"].memory.boot_failed
    assert there.breakers.kept() == ()


def test_what_may_not_be_touched_is_not_stopped() -> None:
    there = decided(fact(state="lost", seen=False), idle("m2", minutes(60), seen=False))
    assert there.effects == []
    assert {reason for _, reason, _ in said(there).values()} == {Reason.UNSEEN}


@pytest.mark.parametrize(
    ("first", "last", "stopped"),
    [(None, None, False), (None, 40, False), (40, 40, False), (40, 35, False), (40, 34, True)],
)
def test_idleness_is_reported_twice(first: float | None, last: float | None, stopped: bool) -> None:
    """Seconds ago; the same report may seem 5 s later by a new measure of the skew."""
    moments = [None if ago is None else START - seconds(ago) for ago in (first, last)]
    reports = dict(zip(("first_idle_report_at", "last_report_at"), moments, strict=True))
    one = idle("m1", minutes(60), memory=reports)
    assert bool(decided(one).effects) is stopped
