"""What state an instance is in, and what is remembered of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Memory, Pending
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
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
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.state import Join
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


def test_one_that_took_a_task_and_fell_silent_unseen_is_lost() -> None:
    # agent and task came and died while ClearML did not answer us
    task = Task("t1", "train", TaskStatus.IN_PROGRESS, QUEUE_ID, HOUR_AGO, last_worker="m1")
    memory = known(state="initializing", state_since=START - seconds(601))
    assert joined(instance("m1"), memory, tasks=[task]).state is S.LOST


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
