"""What state an instance is in, and what is remembered of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Memory, Pending
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    QUARANTINED_TAG,
    REGISTERED_TAG,
    ClearmlView,
    Instance,
    Queue,
    ServerState,
    Task,
    TaskStatus,
    Worker,
    ZoneView,
)
from gpu_autoscaler.policy.state import Fact, Join, kept_until
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    QUEUE_ID,
    START,
    ZONE,
    config,
    fact,
    instance,
    known,
    minutes,
    registered,
    seconds,
    task,
)

HOUR_AGO = START - timedelta(hours=1)
LAST = START - seconds(30)
STALE = config({"stale_timeout": "10m"}, orphan_timeout="20m")


def worker(ago: float, name: str = "m1", **changes: Any) -> Worker:
    """Its last report came so many seconds ago."""
    plain = Worker(name, HOUR_AGO, START - seconds(ago), queue_ids=(QUEUE_ID,))
    return replace(plain, **changes)


def joined(
    there: Instance,
    before: InstanceMemory | None = None,
    *,
    workers: Sequence[Worker] = (),
    tasks: Sequence[Task] = (),
    ended: Sequence[Task] | None = (),
    pending: Sequence[Pending] = (),
    complete: bool = True,
    queues: Sequence[Queue] = (Queue(QUEUE_ID, QUEUE),),
    **memory: Any,
) -> Fact:
    """What a cycle at START makes of one listed instance; `memory` is of the daemon."""
    clearml = ClearmlView(
        complete,
        START,
        {queue.name: queue for queue in queues},
        tuple(workers),
        tuple(tasks),
        None if ended is None else tuple(ended),
    )
    zone = ZoneView(ZONE, complete=True, observed_at=START, instances=(there,))
    remembered = Memory(
        instances={there.id: before} if before is not None else {},
        pending={each.key: each for each in pending},
        **{"planned_at": LAST, "clearml_since": HOUR_AGO, **memory},
    )
    found = Join(World(clearml, {ZONE: zone}, {}), remembered, STALE, START).facts()
    return found[there.id]


def pending(key: str, **changes: Any) -> Pending:
    return replace(Pending(key, "m1", LAST, START + minutes(1)), **changes)


def was(server: str, state: str = "idle", **changes: Any) -> InstanceMemory:
    """Last listed so."""
    return known(state=state, last_seen=registered("m1", server), **changes)


HALF_MADE = instance("m1", "stopped", tags=(PROVISIONING_TAG,))
FINISHED = instance("m1", "stopped", tags=(PROVISIONING_TAG, REGISTERED_TAG))


@pytest.mark.parametrize(
    ("server", "state"),
    [
        ("locked", S.UNKNOWN),
        ("unknown", S.UNKNOWN),
        ("stopped in place", S.STOPPED_IN_PLACE),
        ("stopping", S.STOPPING),
        ("starting", S.STARTING),
        ("stopped", S.STOPPED),
        ("running", S.IDLE),
    ],
)
def test_the_server_s_state_comes_first(server: str, state: S) -> None:
    there = registered("m1", server)
    assert joined(there, was(server), workers=[worker(10)]).state is state


@pytest.mark.parametrize(
    ("there", "under_way", "accepted", "before", "state"),
    [
        (registered("m1", "stopped"), "delete:id-m1", None, "stopped", S.DELETING),
        (HALF_MADE, "delete:id-m1", None, "stopped", S.DELETING),
        (HALF_MADE, "", None, "stopped", S.PROVISIONING),
        (HALF_MADE, "create:m1", None, "stopped", S.PROVISIONING),
        (FINISHED, "", None, "stopped", S.STOPPED),
        (registered("m1", "stopped"), "start:id-m1", None, "stopped", S.STARTING),
        (registered("m1", "stopped"), "create:m1", None, "stopped", S.STARTING),
        (registered("m1", "stopped"), "start:id-m2", None, "stopped", S.STOPPED),
        (registered("m1", "stopped"), "", START - seconds(59), "stopped", S.STARTING),
        (registered("m1", "stopped"), "", START - seconds(60), "stopped", S.STOPPED),
        (registered("m1", "stopped"), "", START - seconds(10), "starting", S.STOPPED),
    ],
)
def test_what_a_server_that_is_off_may_be(
    there: Instance, under_way: str, accepted: datetime | None, before: str, state: S
) -> None:
    memory = was(before, "starting", start_accepted_at=accepted)
    found = joined(there, memory, pending=[pending(under_way)] if under_way else [])
    assert found.state is state
    assert found.fell_back is (state is S.STOPPED and accepted is not None)


@pytest.mark.parametrize("key", ["delete:id-m1", "start:id-m1"])
def test_what_failed_is_not_under_way(key: str) -> None:
    there = registered("m1", "stopped")
    assert joined(there, was("stopped"), pending=[pending(key, failed=True)]).state is S.STOPPED


@pytest.mark.parametrize(
    ("before", "ago", "claims", "memory", "state"),
    [
        ("idle", 10, False, {}, S.IDLE),
        ("idle", 10, True, {}, S.RUNNING_TASK),
        ("lost", 10, False, {}, S.IDLE),
        ("lost", 89, True, {}, S.RUNNING_TASK),
        ("lost", 90, True, {}, S.LOST),
        ("idle", 90, False, {}, S.IDLE),
        ("idle", 90, True, {}, S.RUNNING_TASK),
        ("idle", 120, False, {}, S.IDLE),
        ("running_task", 120, True, {}, S.RUNNING_TASK),
        ("idle", 121, False, {}, S.LOST),
        ("running_task", 121, True, {}, S.LOST),
        # after an outage nobody has had the time to report yet
        ("idle", 500, False, {"clearml_since": START - seconds(120)}, S.IDLE),
        ("idle", 500, False, {"clearml_since": START - seconds(121)}, S.LOST),
        ("idle", 500, False, {"clearml_since": None}, S.IDLE),
    ],
)
def test_how_long_an_agent_may_be_silent(
    before: str, ago: float, claims: bool, memory: dict[str, Any], state: S
) -> None:
    one = worker(ago, task_id="t1" if claims else None)
    found = joined(registered("m1"), known(state=before), workers=[one], **memory)
    assert found.state is state


@pytest.mark.parametrize(
    ("before", "tagged", "since", "state"),
    [
        ("initializing", True, minutes(10), S.INITIALIZING),
        ("initializing", True, seconds(601), S.LOST),
        ("initializing", False, seconds(601), S.INITIALIZING),
        ("lost", True, minutes(1), S.LOST),
        ("lost", False, minutes(60), S.INITIALIZING),
        ("stopping", True, minutes(60), S.INITIALIZING),
    ],
)
def test_one_that_has_not_reported_in_this_boot(
    before: str, tagged: bool, since: timedelta, state: S
) -> None:
    there = registered("m1") if tagged else instance("m1")
    memory = known(state=before, state_since=START - since)
    assert joined(there, memory).state is state


@pytest.mark.parametrize(("since", "state"), [(1200, S.INITIALIZING), (1201, S.LOST)])
def test_without_its_queue_the_orphan_timeout_counts(since: float, state: S) -> None:
    there = registered("m1", queue="gone")
    memory = known(state="initializing", state_since=START - seconds(since))
    assert joined(there, memory).state is state


@pytest.mark.parametrize(
    ("under_way", "state"),
    [
        (pending("stop:id-m1", done=True), S.STOPPING),
        (pending("stop:id-m1"), S.IDLE),
        (pending("stop:id-m2", done=True), S.IDLE),
    ],
)
def test_an_accepted_power_off_is_believed(under_way: Pending, state: S) -> None:
    found = joined(registered("m1"), known(), workers=[worker(10)], pending=[under_way])
    assert found.state is state


@pytest.mark.parametrize(
    ("before", "state"),
    [
        ("initializing", S.INITIALIZING),
        ("idle", S.IDLE),
        ("running_task", S.RUNNING_TASK),
        ("lost", S.LOST),
        ("starting", S.INITIALIZING),
        ("stopping", S.INITIALIZING),
    ],
)
def test_while_clearml_is_silent_nothing_changes(before: str, state: S) -> None:
    assert joined(registered("m1"), known(state=before), complete=False).state is state


def test_a_black_hole_is_one_before_anything_else() -> None:
    hole = known(quarantined_at=HOUR_AGO)
    assert joined(registered("m1"), hole, workers=[worker(10)]).state is S.QUARANTINED
    assert joined(registered("m1"), hole, complete=False).state is S.QUARANTINED


# --- the boot


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


# --- first sight


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


# --- what is remembered


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
    [([3600], 0), ([3599], 3599), ([900, 1200], 1200), ([7200, 900], 900), ([-60], 0)],
)
def test_its_agent_came_in_this_boot(came: list[float], idle_for: float) -> None:
    agents = [worker(10, registered_at=START - seconds(ago)) for ago in came]
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


# --- people's tags


@pytest.mark.parametrize(
    ("tags", "memory", "tagged", "since"),
    [
        ((), {}, False, None),
        ((QUARANTINED_TAG,), {}, True, START),
        ((QUARANTINED_TAG,), {"quarantined_at": HOUR_AGO}, True, HOUR_AGO),
        (
            (QUARANTINED_TAG,),
            {"quarantined_at": HOUR_AGO, "quarantine_tagged": True},
            True,
            HOUR_AGO,
        ),
        ((), {"quarantined_at": HOUR_AGO}, False, HOUR_AGO),  # not tagged yet
        ((), {"quarantined_at": HOUR_AGO, "quarantine_tagged": True}, False, None),
    ],
)
def test_the_tag_quarantines_and_releases(
    tags: tuple[str, ...], memory: dict[str, Any], tagged: bool, since: datetime | None
) -> None:
    found = joined(registered("m1", "stopped", tags=tags), was("stopped", "stopped", **memory))
    assert found.memory.quarantine_tagged is tagged
    assert found.memory.quarantined_at == since
    assert found.memory.state_since == HOUR_AGO or since is None


def test_a_release_is_a_new_beginning() -> None:
    hole = was(
        "stopped",
        "stopped",
        quarantined_at=HOUR_AGO,
        quarantine_tagged=True,
        fast_failures=(HOUR_AGO,) * 3,
        failures_from=HOUR_AGO,
        delete_when_stopped=True,
    )
    found = joined(registered("m1", "stopped"), hole).memory
    fresh = {"fast_failures": (), "failures_from": START, "delete_when_stopped": False}
    assert {key: getattr(found, key) for key in fresh} == fresh
    assert found.state_since == START


@pytest.mark.parametrize(
    ("tag", "seen_at", "until"),
    [
        ("keep", None, START + timedelta(hours=24)),
        ("keep", HOUR_AGO, HOUR_AGO + timedelta(hours=24)),
        ("keep=soon", None, START + timedelta(hours=24)),
        ("keep=2026-09-07T12:00:00", None, datetime(2026, 9, 7, 12, tzinfo=UTC)),
        ("keeper", None, None),
        ("", HOUR_AGO, None),
    ],
)
def test_until_when_it_is_kept(tag: str, seen_at: datetime | None, until: datetime | None) -> None:
    there = registered("m1", tags=(tag,) if tag else ())
    found = joined(there, known(keep_seen_at=seen_at))
    assert found.memory.keep_seen_at == (None if until is None else seen_at or START)
    assert kept_until(found.memory, config()) == until
    sentence = "" if until is None else f"it is kept until {until:%Y-%m-%d %H:%M} UTC"
    assert found.hands_off == sentence


def test_a_time_zone_of_its_own_is_understood() -> None:
    there = registered("m1", tags=("keep=2026-09-07T12:00:00+02:00",))
    kept = kept_until(joined(there, known()).memory, config())
    assert kept == datetime(2026, 9, 7, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (registered("m1", protected=True, tags=("keep",)), "it is protected at Scaleway"),
        (registered("m1", "locked"), "Scaleway locked it"),
        (
            registered("m1", "unknown", state_detail="resting"),
            "its state is unknown to this version (resting)",
        ),
        (registered("m1", tags=("keep=2026-09-07T08:00:00",)), ""),  # it ends now
        (
            registered("m1", tags=("keep=2026-09-07T08:00:01",)),
            "it is kept until 2026-09-07 08:00 UTC",
        ),
    ],
)
def test_why_it_is_left_alone(there: Instance, sentence: str) -> None:
    assert joined(there, known()).hands_off == sentence


# --- which instances there are


def test_only_a_404_makes_one_gone() -> None:
    listed = {name: registered(name) for name in ("m1", "m2")}
    memory = Memory(instances={f"id-{n}": known(n) for n in ("m2", "m3", "m4", "m5")})
    zones = {
        ZONE: ZoneView(
            ZONE,
            complete=True,
            observed_at=START,
            instances=(*listed.values(), registered("m6")),
            gone=frozenset({"id-m3", "id-m6"}),
        ),
        OTHER_ZONE: ZoneView(
            OTHER_ZONE, complete=False, observed_at=START, instances=(registered("m4"),)
        ),
    }
    clearml = ClearmlView(
        complete=True, observed_at=START, workers=(worker(10, "m5", task_id="t1"),)
    )
    found = Join(World(clearml, zones, {}), memory, config(), START).facts()
    assert {key: each.seen for key, each in found.items()} == {
        "id-m1": True,
        "id-m2": True,
        "id-m4": False,
        "id-m5": False,
    }
    assert found["id-m5"].claims == ("t1",), "what ClearML says of it counts all the same"
    assert found["id-m2"].previous is S.IDLE


def test_one_that_is_not_seen_has_not_fallen_back() -> None:
    before = was("stopped", "starting", start_accepted_at=HOUR_AGO)
    zone = ZoneView(ZONE, complete=False, observed_at=START)
    clearml = ClearmlView(complete=True, observed_at=START)
    memory = Memory(instances={"id-m1": before})
    found = Join(World(clearml, {ZONE: zone}, {}), memory, config(), START).facts()["id-m1"]
    assert (found.state, found.fell_back) == (S.STOPPED, False)


@pytest.mark.parametrize(
    ("age", "under_way", "server", "abandoned"),
    [
        (210, "", "stopped", True),  # a creation's deadline, and the listing's lag
        (209, "", "stopped", False),
        (900, "create:m1", "stopped", False),
        (900, "create:m2", "stopped", True),
        (900, "", "starting", False),
    ],
)
def test_when_nobody_makes_it_any_more(
    age: float, under_way: str, server: str, abandoned: bool
) -> None:
    made_at = START - seconds(age)
    there = replace(HALF_MADE, state=ServerState(server), created_at=made_at)
    found = joined(there, pending=[pending(under_way)] if under_way else [])
    assert found.abandoned is abandoned


# --- what is read of it


@pytest.mark.parametrize(
    ("one", "billed", "capacity"),
    [
        (fact(state="idle"), True, True),
        (fact(state="idle", serves=False), True, False),
        (fact(state="running_task"), True, False),
        (fact(state="lost"), True, False),
        (fact(state="stopped"), False, False),
        (fact(state="deleting"), False, False),
        (fact(state="stopping"), True, False),
        (fact(state="initializing", serves=False), True, True),
        (fact(state="starting"), True, True),
        (fact(state="provisioning"), True, True),
        (fact(state="provisioning", abandoned=True), False, False),
        (fact(state="starting", memory={"quarantined_at": START}), True, False),
    ],
)
def test_what_is_paid_for_and_what_takes_a_task(one: Fact, billed: bool, capacity: bool) -> None:
    assert (one.billed, one.capacity) == (billed, capacity)


@pytest.mark.parametrize(
    ("one", "came"),
    [
        (fact(), True),
        (fact(instance=instance("m1")), False),
        (fact(instance=instance("m1"), memory={"last_report_at": START}), True),
    ],
)
def test_whether_its_agent_ever_came(one: Fact, came: bool) -> None:
    assert one.registered is came
