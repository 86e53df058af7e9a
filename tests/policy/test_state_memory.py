"""What is remembered of an instance: its boot, its reports, its idleness."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, PowerOff
from gpu_autoscaler.domain.model import (
    Instance,
    Queue,
    Task,
    TaskStatus,
    Worker,
)
from tests.policy.test_state import (
    FINISHED,
    HALF_MADE,
    HOUR_AGO,
    LAST,
    joined,
    pending,
    was,
    worker,
)
from tests.policy.worlds import (
    QUEUE,
    QUEUE_ID,
    START,
    instance,
    known,
    minutes,
    registered,
    seconds,
    task,
)


@pytest.mark.parametrize(
    ("before", "now", "began"),
    [
        ("stopped", "stopped", START),
        ("running", "stopped", START),
        ("running", "stopped in place", START),
        ("running", "starting", LAST),  # restarted by somebody
        ("stopping", "starting", LAST),
        ("stopped", "starting", None),
        ("starting", "starting", None),
        ("stopping", "running", LAST),
        ("running", "running", None),
        ("starting", "running", None),
        ("running", "stopping", None),
    ],
)
def test_when_a_boot_began(before: str, now: str, began: datetime | None) -> None:
    report = START - minutes(5)
    of_boot: dict[str, Any] = {
        "last_report_at": report,
        "idle_since": report,
        "first_idle_report_at": report,
        "boot_failed": True,
    }
    found = joined(registered("m1", now), was(before, "unknown", **of_boot)).memory
    assert found.booted_at == (began or HOUR_AGO)
    assert found.last_report_at == (None if began else report)
    assert found.boot_failed is False, "its agent came, or it is another boot"
    silent = joined(registered("m1", now), was(before, "idle", **of_boot), complete=False).memory
    assert (silent.idle_since == report) is (began is None)
    assert (silent.first_idle_report_at == report) is (began is None)


@pytest.mark.parametrize(
    ("changed", "began"),
    [
        (LAST - seconds(1), LAST),  # of the time before
        (LAST + seconds(1), LAST + seconds(1)),
        (START + seconds(1), START),  # their clock is ahead of ours
    ],
)
def test_between_two_looks_far_apart_scaleway_s_date_says_when_it_was_restarted(
    changed: datetime, began: datetime
) -> None:
    """A daemon whose store did not answer for minutes knew a report from before the restart, and
    took the booting machine for lost."""
    there = registered("m1", "starting", modified_at=changed)
    found = joined(there, was("running", "running_task", last_report_at=START - minutes(5)))
    assert found.memory.booted_at == began


@pytest.mark.parametrize("now", ["starting", "running"])
def test_without_a_last_plan_a_restart_began_now(now: str) -> None:
    assert joined(registered("m1", now), was("stopping"), planned_at=None).memory.booted_at == START


@pytest.mark.parametrize(
    ("reports", "before", "newest"),
    [
        ([10], None, 10),
        ([500, 10, 300], None, 10),
        ([20], 10, 10),
        ([10], 20, 10),
        ([3600], None, None),  # of an earlier boot
        ([3599], None, 3599),
        ([], 50, 50),
    ],
)
def test_the_newest_report_of_this_boot(
    reports: list[float], before: float | None, newest: float | None
) -> None:
    memory = known(last_report_at=None if before is None else START - seconds(before))
    found = joined(registered("m1"), memory, workers=[worker(ago) for ago in reports]).memory
    assert found.last_report_at == (None if newest is None else START - seconds(newest))


def test_a_boot_that_was_given_up_stays_so_until_its_agent_comes() -> None:
    gave_up = known(state="initializing", boot_failed=True)
    assert joined(instance("m1"), gave_up).memory.boot_failed
    assert not joined(instance("m1"), gave_up, workers=[worker(10)]).memory.boot_failed


@pytest.mark.parametrize(
    ("there", "state", "since", "booted_at"),
    [
        (registered("m1", "stopped", modified_at=HOUR_AGO), S.STOPPED, HOUR_AGO, START),
        (registered("m1", "stopped", modified_at=START + minutes(1)), S.STOPPED, START, START),
        (replace(FINISHED, modified_at=HOUR_AGO), S.STOPPED, HOUR_AGO, START),
        (replace(HALF_MADE, modified_at=HOUR_AGO), S.PROVISIONING, START, START),
        (registered("m1", created_at=LAST), S.INITIALIZING, START, LAST),
    ],
)
def test_what_is_assumed_at_first_sight(
    there: Instance, state: S, since: datetime, booted_at: datetime
) -> None:
    found = joined(there)
    assert (found.state, found.previous) == (state, None)
    assert found.memory == InstanceMemory(
        last_seen=there,
        state=state,
        state_since=since,
        booted_at=booted_at,
        failures_from=START,
    )


def test_a_creation_of_ours_is_known_at_first_sight() -> None:
    there = instance("m1", "starting")
    found = joined(there, pending=[pending("create:m1", decided_at=LAST)])
    assert found.memory.start_accepted_at == LAST


@pytest.mark.parametrize(
    ("there", "memory", "workers", "since"),
    [
        (registered("m1"), known(state="idle"), [worker(10)], HOUR_AGO),
        (registered("m1"), known(state="lost"), [worker(10)], START),
        (registered("m1", "stopped"), was("stopped", "deleting"), [], HOUR_AGO),
        (registered("m1", "stopped"), was("running", "stopping"), [], START),
        (instance("m1"), known(state="initializing"), [], HOUR_AGO),
    ],
)
def test_since_when_it_is_so(
    there: Instance, memory: InstanceMemory, workers: list[Worker], since: datetime
) -> None:
    assert joined(there, memory, workers=workers).memory.state_since == since


def test_a_removal_under_way_keeps_the_retention_clock() -> None:
    removing = [pending("delete:id-m1")]
    there = registered("m1", "stopped")
    found = joined(there, was("stopped", "stopped"), pending=removing)
    assert (found.state, found.memory.state_since) == (S.DELETING, HOUR_AGO)


@pytest.mark.parametrize(("state", "since"), [("initializing", START), ("idle", HOUR_AGO)])
def test_while_clearml_is_silent_the_stale_clock_starts_anew(state: str, since: datetime) -> None:
    found = joined(registered("m1"), known(state=state), clearml_since=None, complete=False)
    assert found.memory.state_since == since


DECIDED: dict[str, Any] = {
    "start_accepted_at": LAST,
    "stop_decided_at": LAST,
    "delete_when_stopped": True,
}


@pytest.mark.parametrize(
    ("server", "workers", "state", "accepted", "decided"),
    [
        ("running", [worker(10, task_id="t1")], S.RUNNING_TASK, None, False),
        ("running", [worker(10)], S.IDLE, None, True),
        ("running", [], S.INITIALIZING, None, True),
        ("starting", [], S.STARTING, LAST, True),
        ("stopping", [], S.STOPPING, LAST, True),
    ],
)
def test_what_was_decided_is_void_once_it_is_at_work(
    server: str, workers: list[Worker], state: S, accepted: datetime | None, decided: bool
) -> None:
    found = joined(registered("m1", server), known(state="unknown", **DECIDED), workers=workers)
    assert found.state is state
    assert found.memory.start_accepted_at == accepted
    assert found.memory.delete_when_stopped is decided
    assert found.memory.stop_decided_at == (LAST if decided else None)


@pytest.mark.parametrize(
    ("server", "ago", "claims", "complete", "kept"),
    [
        ("running", 10, False, True, True),
        ("running", 10, True, True, False),
        ("running", 10, True, False, True),  # nothing that ClearML says is believed in part
        ("running", 500, False, True, True),  # silent: it may be idle all the same
        ("stopping", 10, False, True, True),
        ("unknown", 10, False, True, False),
    ],
)
def test_how_long_the_idle_clock_runs(
    server: str, ago: float, claims: bool, complete: bool, kept: bool
) -> None:
    since = START - minutes(9)
    memory = known(idle_since=since, first_idle_report_at=since, last_report_at=since)
    one = worker(ago, task_id="t1" if claims else None)
    before = replace(memory, state=S.RUNNING_TASK if not complete else memory.state)
    found = joined(registered("m1", server), before, workers=[one], complete=complete).memory
    wanted = (since, since) if kept else (None, None)
    assert (found.idle_since, found.first_idle_report_at) == wanted


def ended(ago: float, status: str = "completed", **changes: Any) -> Task:
    at = START - seconds(ago)
    return task(f"t{ago}", status, "m1", status_changed_at=at, **changes)


@pytest.mark.parametrize(
    ("since", "tasks", "before", "idle_for", "status"),
    [
        # the end of its last task, as ClearML knows it
        (None, [ended(300)], "running_task", 300, "completed"),
        (900, [ended(300, "failed"), ended(600)], "idle", 300, "failed"),
        (100, [ended(300)], "idle", 100, "completed"),
        (900, [ended(-5)], "idle", 900, None),  # of a clock that is ahead
        (900, [ended(0)], "idle", 0, "completed"),
        (None, [ended(3600)], "running_task", 0, None),  # of an earlier boot
        (None, [ended(3599)], "running_task", 3599, "completed"),
        (900, [], "idle", 900, None),
        # none: idle since its agent came
        (None, [], "initializing", 1800, None),
        (None, [], "running_task", 0, None),  # its task has ended, ClearML says so later
        (None, None, "initializing", 0, None),  # nobody asked
    ],
)
def test_since_when_it_idles(
    since: float | None,
    tasks: list[Task] | None,
    before: str,
    idle_for: float,
    status: str | None,
) -> None:
    memory = known(state=before, idle_since=None if since is None else START - seconds(since))
    one = worker(10, registered_at=START - seconds(1800))
    found = joined(registered("m1"), memory, workers=[one], ended=tasks).memory
    assert found.idle_since == START - seconds(idle_for)
    assert found.last_task_status == (TaskStatus(status) if status else None)


@pytest.mark.parametrize(
    ("came", "idle_for"),
    [
        ([(3599, 10)], 3599),
        ([(900, 10), (1200, 10)], 1200),
        ([(7200, 3600), (900, 10)], 900),  # an entry of an earlier boot
        ([(7200, 10)], 7200),  # what looked like a boot was none: somebody changed a tag
        ([(-60, 10)], 0),
    ],
)
def test_its_agent_came_in_this_boot(came: list[tuple[float, float]], idle_for: float) -> None:
    agents = [worker(report, registered_at=START - seconds(ago)) for ago, report in came]
    found = joined(registered("m1"), known(state="initializing"), workers=agents).memory
    assert found.idle_since == START - seconds(idle_for)


def test_at_first_sight_nobody_knows_of_a_task() -> None:
    one = worker(10, registered_at=START - minutes(30))
    there = registered("m1", created_at=HOUR_AGO)
    assert joined(there, workers=[one]).memory.idle_since == START - minutes(30)


def test_the_first_report_without_a_task_is_kept() -> None:
    first = START - minutes(9)
    memory = known(idle_since=first, first_idle_report_at=first)
    assert joined(registered("m1"), memory, workers=[worker(10)]).memory.first_idle_report_at == (
        first
    )
    fresh = joined(registered("m1"), known(), workers=[worker(10)]).memory
    assert fresh.first_idle_report_at == START - seconds(10)


@pytest.mark.parametrize(
    ("workers", "tasks", "claims"),
    [
        ([worker(10, task_id="t1")], [task("t2", "in_progress", "m1")], ("t1", "t2")),
        ([worker(10, "m2", task_id="t1")], [task("t2", "in_progress", "m2")], ()),
        ([worker(10, "m1:gpu0", task_id="t1")], [task("t2", "in_progress")], ("t1",)),
    ],
)
def test_what_is_placed_on_it(
    workers: list[Worker], tasks: list[Task], claims: tuple[str, ...]
) -> None:
    found = joined(registered("m1"), known(), workers=workers, tasks=tasks)
    assert found.claims == claims
    assert found.memory.claimed_at == (START if claims else None)


@pytest.mark.parametrize(
    ("asked", "queues", "serves"),
    [
        ([(QUEUE_ID,)], [Queue(QUEUE_ID, QUEUE)], True),
        ([("old",)], [Queue(QUEUE_ID, QUEUE)], False),
        ([("old",), (QUEUE_ID,)], [Queue(QUEUE_ID, QUEUE)], True),
        ([()], [Queue(QUEUE_ID, QUEUE)], True),
        ([], [Queue(QUEUE_ID, QUEUE)], True),
        ([("old",)], [], True),
        ([("old",)], [Queue("q-9", "another")], True),
    ],
)
def test_whether_it_asks_its_queue(
    asked: list[tuple[str, ...]], queues: list[Queue], serves: bool
) -> None:
    agents = [worker(10, queue_ids=ids) for ids in asked]
    assert joined(registered("m1"), known(), workers=agents, queues=queues).serves is serves


def test_a_start_that_found_no_stock_leaves_it_as_stopped_as_it_was() -> None:
    idled, stopped, started = (START - minutes(n) for n in (90, 60, 1))
    lived = ((S.INITIALIZING, HOUR_AGO - minutes(60)), (S.IDLE, idled))
    off = known(state="starting", state_since=started, past=(*lived, (S.STOPPED, stopped)))
    found = joined(registered("m1", "stopped"), off).memory
    assert (found.state_since, found.past) == (stopped, lived)
    adopted = known(state="starting", state_since=started)
    found = joined(registered("m1", "stopped"), adopted).memory
    assert (found.state_since, found.past) == (START, ((S.STARTING, started),))


@pytest.mark.parametrize(
    ("came", "reported", "decided", "whose", "off"),
    [
        (3600, 10, 300, {}, False),  # its agent reports on: somebody changed a tag
        (3600, 90, 300, {}, True),  # not since then
        (3600, 60, 300, {}, True),
        (30, 10, 300, {}, True),  # another boot's
        (60, 10, 300, {}, True),
        (3600, 90, 60, {}, False),  # it was not changed since
        (3600, 90, 61, {}, True),
        (3600, 90, 300, {"accepted": True}, False),  # its end is known
        (3600, 90, 300, {"ours": False}, False),
    ],
)
def test_a_power_off_that_nobody_heard_of_is_told_from_a_tag(
    came: float, reported: float, decided: float, whose: dict[str, Any], off: bool
) -> None:
    changed_at = START - seconds(60)
    there = registered("m1", modified_at=changed_at)
    stopping = PowerOff(QUEUE, START - seconds(decided), **whose)
    agent = worker(reported, registered_at=START - seconds(came))
    memory = known(last_seen=there, last_report_at=START - minutes(6))
    found = joined(there, memory, workers=[agent], power_offs={"m1": stopping}).memory
    assert (found.booted_at != memory.booted_at) is off
