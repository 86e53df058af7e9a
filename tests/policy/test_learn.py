"""What memory learns from effects that ended."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    DeleteVolume,
    Effect,
    Failure,
    Guard,
    Outcome,
    Reason,
    RescueTask,
    SetTags,
    StartInstance,
    StopInstance,
)
from gpu_autoscaler.domain.memory import Memory, Pending, PowerOff, Requeue
from gpu_autoscaler.domain.model import (
    ClearmlView,
    CreateOrder,
    Instance,
    Placement,
    Volume,
    ZoneView,
)
from gpu_autoscaler.policy.learn import Learned, learn
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    SPEC,
    START,
    TYPE,
    ZONE,
    instance,
    known,
    minutes,
    registered,
    seconds,
    task,
)

HERE = Placement(TYPE, ZONE)
ENDED_AT = START - seconds(10)
WHY: Mapping[str, Any] = {"reason": Reason.DEMAND, "because": "a test"}
M1 = registered("m1")
ORDER = CreateOrder("m9", QUEUE, HERE, "image", 1, 1, (f"queue={QUEUE}", f"spec={SPEC}"))
CREATE = CreateInstance(order=ORDER, **WHY)
START_M1 = StartInstance(instance=M1, **WHY)
STOP_M1 = StopInstance(instance=M1, guard=Guard.IDLE, booted_at=START, **WHY)
DELETE_M1 = DeleteInstance(instance=M1, **WHY)
TAG_M1 = SetTags(instance=M1, **WHY)
SWEEP = DeleteVolume(volume=Volume("v1", ZONE, "v1", None, START), **WHY)
CAUGHT = RescueTask(task=task("t1"), reason=Reason.CAUGHT_TASK, because="a test")
LOST = replace(CAUGHT, reason=Reason.LOST_TASK)
POPPED = replace(CAUGHT, reason=Reason.POPPED_TASK)


def pending(effect: Effect | str, **changes: Any) -> Pending:
    """Begun a minute ago, with two minutes left."""
    key = effect if isinstance(effect, str) else effect.key
    name = "m9" if isinstance(effect, str) else effect.subject
    plain = Pending(key, name, START - minutes(1), START + minutes(2), QUEUE, HERE)
    return replace(plain, **changes)


def world(
    *outcomes: Outcome,
    complete: bool = True,
    listed: tuple[Instance, ...] = (),
    in_flight: frozenset[str] = frozenset(),
) -> World:
    return World(
        clearml=ClearmlView(complete=True, observed_at=START),
        zones={ZONE: ZoneView(ZONE, complete, START, listed)},
        specs={QUEUE: SPEC},
        outcomes=outcomes,
        in_flight=in_flight,
    )


def learned(
    effect: Effect, failure: Failure | None = None, *, message: str = "", **memory: Any
) -> Learned:
    """After this effect, which was under way, has ended."""
    under_way = {effect.key: pending(effect), "stop:id-m7": pending("stop:id-m7")}
    outcome = Outcome(effect, ENDED_AT, failure, message)
    return learn(world(outcome), Memory(pending=under_way, **memory), START)


@pytest.mark.parametrize("effect", [CREATE, START_M1, STOP_M1, DELETE_M1, TAG_M1])
def test_what_was_accepted_is_awaited_for_a_minute(effect: Effect) -> None:
    found = learned(effect).memory.pending
    settled = pending(effect, done=True, expires_at=ENDED_AT + seconds(60), effective_at=ENDED_AT)
    assert found == {effect.key: settled, "stop:id-m7": pending("stop:id-m7")}


@pytest.mark.parametrize("effect", [SWEEP, CAUGHT, POPPED])
def test_what_no_listing_shows_is_over_at_once(effect: Effect) -> None:
    assert set(learned(effect).memory.pending) == {"stop:id-m7"}


PAUSES = {
    Failure.TRANSIENT: 1,
    Failure.RATE_LIMITED: 1,
    Failure.UNAUTHORIZED: 2,
    Failure.REJECTED: 10,
}


@pytest.mark.parametrize("effect", [STOP_M1, DELETE_M1, TAG_M1, SWEEP, CAUGHT])
@pytest.mark.parametrize("failure", Failure)
def test_what_failed_is_not_tried_again_for_a_while(effect: Effect, failure: Failure) -> None:
    found = learned(effect, failure).memory.pending.get(effect.key)
    pause = PAUSES.get(failure)
    left = pause and pending(effect, failed=True, expires_at=ENDED_AT + minutes(pause))
    assert found == left


@pytest.mark.parametrize(
    ("effect", "failure", "pause", "backs_off"),
    [
        (CREATE, Failure.OUT_OF_STOCK, None, True),
        (CREATE, Failure.TRANSIENT, None, True),
        (CREATE, Failure.REJECTED, None, True),
        (CREATE, Failure.NOT_FOUND, None, True),
        (START_M1, Failure.OUT_OF_STOCK, None, True),
        (START_M1, Failure.RATE_LIMITED, None, True),
        # one machine that cannot be started is no fault of its placement
        (START_M1, Failure.TRANSIENT, None, False),
        (START_M1, Failure.REJECTED, 10, False),
        (START_M1, Failure.NOT_FOUND, None, False),
    ],
)
def test_a_failed_launch_rests_its_placement_or_the_machine(
    effect: Effect, failure: Failure, pause: int | None, backs_off: bool
) -> None:
    found = learned(effect, failure, message="said so")
    left = found.memory.pending.get(effect.key)
    if failure is Failure.TRANSIENT:  # it may have been heard: counted until a listing shows it
        assert left == pending(effect, doubtful=True, expires_at=ENDED_AT + minutes(1))
    else:
        rest = pause and pending(effect, failed=True, expires_at=ENDED_AT + minutes(pause))
        assert left == rest
    spec = SPEC if failure is Failure.REJECTED else ""
    backoffs = [(b.placement, b.failure, b.message, b.spec) for b in found.backoffs.kept()]
    assert backoffs == ([(HERE, failure, "said so", spec)] if backs_off else [])


def test_an_outcome_of_what_is_no_longer_under_way_is_learnt_from_all_the_same() -> None:
    outcome = Outcome(CREATE, ENDED_AT, Failure.REJECTED, "said so")
    found = learn(world(outcome), Memory(), START)
    assert found.memory.pending == {}
    assert [(b.placement, b.spec) for b in found.backoffs.kept()] == [(HERE, SPEC)]


@pytest.mark.parametrize("specs", [{}, {QUEUE: "def456def456"}])
def test_a_rejection_is_of_what_was_ordered_not_of_what_is_configured_by_then(
    specs: dict[str, str],
) -> None:
    outcome = Outcome(CREATE, ENDED_AT, Failure.REJECTED, "said so")
    view = replace(world(outcome), specs=specs)
    found = learn(view, Memory(pending={CREATE.key: pending(CREATE)}), START)
    assert [b.spec for b in found.backoffs.kept()] == [SPEC]


def test_a_rejection_of_an_order_without_a_spec_is_the_placement_s_own() -> None:
    effect = replace(CREATE, order=replace(ORDER, tags=()))
    found = learned(effect, Failure.REJECTED).backoffs.kept()
    assert [b.spec for b in found] == [""]


STOPPING = known("m1", "stopped", stop_decided_at=START, delete_when_stopped=True)
OFF = {"m1": PowerOff(QUEUE, START), "m2": PowerOff(QUEUE, START)}


@pytest.mark.parametrize(
    ("effect", "failure", "started", "watched"),
    [
        (START_M1, None, ENDED_AT, False),
        (START_M1, Failure.TRANSIENT, None, True),
        (STOP_M1, Failure.GUARD, None, False),
    ],
)
def test_a_start_and_a_refused_stop_end_the_power_off(
    effect: Effect, failure: Failure | None, started: datetime | None, watched: bool
) -> None:
    there = {"id-m1": STOPPING, "id-m2": known("m2")}
    memory = learned(effect, failure, instances=there, power_offs=OFF).memory
    voided: dict[str, Any] = {"stop_decided_at": None, "delete_when_stopped": False}
    ended = STOPPING if watched else replace(STOPPING, start_accepted_at=started, **voided)
    assert memory.instances == {**there, "id-m1": ended}
    assert set(memory.power_offs) == ({"m1", "m2"} if watched else {"m2"})


@pytest.mark.parametrize("failure", [None, Failure.TRANSIENT])
def test_a_stop_that_ended_otherwise_stays_decided(failure: Failure | None) -> None:
    there = {"id-m1": STOPPING}
    memory = learned(STOP_M1, failure, instances=there, power_offs=OFF).memory
    offs = OFF if failure else {**OFF, "m1": replace(OFF["m1"], accepted=True)}
    assert (memory.instances, memory.power_offs) == (there, offs)


@pytest.mark.parametrize("failure", [None, Failure.TRANSIENT])
def test_an_accepted_creation_is_known_by_its_name(failure: Failure | None) -> None:
    there = {"id-m9": known("m9", "provisioning"), "id-m2": known("m2", "provisioning")}
    memory = learned(CREATE, failure, instances=there).memory
    assert memory.instances["id-m9"].start_accepted_at == (None if failure else ENDED_AT)
    assert memory.instances["id-m2"] == there["id-m2"]


def test_what_became_of_an_instance_that_is_gone_changes_nothing() -> None:
    assert learned(START_M1).memory.instances == {}
    assert learned(STOP_M1, Failure.GUARD).memory.instances == {}


@pytest.mark.parametrize(
    ("effect", "failure", "kept_in"),
    [
        (CAUGHT, None, "rescued"),
        (CAUGHT, Failure.TRANSIENT, ""),
        (POPPED, None, "popped_back"),
        (POPPED, Failure.TRANSIENT, ""),
        (LOST, None, "requeued"),
        (LOST, Failure.TRANSIENT, ""),
    ],
)
def test_a_task_that_was_put_back_is_remembered(
    effect: Effect, failure: Failure | None, kept_in: str
) -> None:
    memory = learned(effect, failure).memory
    once = {"t1": Requeue(1, ENDED_AT)}
    assert memory.rescued == ({"t1": ENDED_AT} if kept_in == "rescued" else {})
    assert memory.requeued == (once if kept_in == "requeued" else {})
    assert memory.popped_back == (once if kept_in == "popped_back" else {})


def test_how_often_it_was_put_back_is_counted() -> None:
    before = {"t1": Requeue(2, START - minutes(90))}
    after = {"t1": Requeue(3, ENDED_AT)}
    assert learned(LOST, requeued=before).memory.requeued == after
    assert learned(POPPED, popped_back=before).memory.popped_back == after


SINCE = START - minutes(1)
DENIED = Outcome(STOP_M1, ENDED_AT, Failure.UNAUTHORIZED)
ALLOWED = Outcome(STOP_M1, ENDED_AT)


@pytest.mark.parametrize(
    ("outcomes", "before", "since"),
    [
        ([DENIED], None, START),
        ([DENIED], SINCE, SINCE),
        ([ALLOWED], SINCE, None),
        ([ALLOWED, DENIED], SINCE, START),
        ([DENIED, ALLOWED], SINCE, None),
        ([], SINCE, SINCE),
        ([Outcome(STOP_M1, ENDED_AT, Failure.TRANSIENT)], SINCE, SINCE),
        ([Outcome(CAUGHT, ENDED_AT)], SINCE, SINCE),  # ClearML's permission, not Scaleway's
    ],
)
def test_since_when_permission_is_refused(
    outcomes: list[Outcome], before: datetime | None, since: datetime | None
) -> None:
    memory = learn(world(*outcomes), Memory(unauthorized_since=before), START).memory
    assert memory.unauthorized_since == since


@pytest.mark.parametrize(("refused_for", "backs_off"), [(119, False), (120, True)])
def test_refused_permission_rests_a_placement_after_two_minutes(
    refused_for: float, backs_off: bool
) -> None:
    since = START - seconds(refused_for)
    found = learned(CREATE, Failure.UNAUTHORIZED, unauthorized_since=since)
    assert len(found.backoffs.kept()) == backs_off


OVER = START  # to the second
LEFT = START + seconds(1)


@pytest.mark.parametrize(
    ("key", "changes", "view", "left"),
    [
        ("stop:id-m1", {"expires_at": LEFT}, world(), True),
        ("stop:id-m1", {"expires_at": OVER}, world(), False),
        ("stop:id-m1", {}, world(in_flight=frozenset({"stop:id-m1"})), True),
        ("stop:id-m1", {}, world(in_flight=frozenset({"stop:id-m2"})), False),
        # a launch may have taken effect where nobody can look now
        ("start:id-m1", {}, world(complete=False), True),
        ("create:m9", {}, world(complete=False), True),
        ("stop:id-m1", {}, world(complete=False), False),
        ("start:id-m1", {"name": "m1"}, world(listed=(M1,)), False),
        ("start:id-m1", {"failed": True}, world(complete=False), False),
        ("start:id-m1", {"placement": None, "missed": True}, world(complete=False), False),
        ("start:id-m1", {"placement": Placement(TYPE, OTHER_ZONE)}, world(), True),
    ],
)
def test_how_long_something_is_under_way(
    key: str, changes: dict[str, Any], view: World, left: bool
) -> None:
    one = pending(key, **{"expires_at": OVER, **changes})
    found = learn(view, Memory(pending={key: one}), START).memory.pending
    assert found == ({key: one} if left else {})


@pytest.mark.parametrize(
    ("key", "changes", "known_by", "awaited"),
    [
        ("create:m9", {}, "", True),
        ("create:m9", {}, "memory", False),
        ("create:m9", {}, "a listing", False),
        ("create:m9", {}, "a listing of a part", True),
        ("create:m9", {"missed": True}, "", False),
        ("create:m9", {"failed": True}, "", False),
        ("start:id-m9", {}, "", True),
        ("start:id-m9", {}, "memory", True),  # it may be on, and nobody has seen it
        ("start:id-m9", {}, "a listing", False),
        ("start:id-m9", {}, "a listing of a part", True),
        ("start:id-m9", {}, "a 404", False),
        ("start:id-m9", {"missed": True}, "memory", False),
        ("start:id-m9", {"failed": True}, "memory", False),
        ("stop:id-m9", {}, "", False),
    ],
)
def test_a_launch_is_missed_in_one_listing_before_it_is_given_up(
    key: str, changes: dict[str, Any], known_by: str, awaited: bool
) -> None:
    one = pending(key, expires_at=OVER, name="m9", placement=Placement(TYPE, OTHER_ZONE), **changes)
    others = ZoneView(OTHER_ZONE, complete=True, observed_at=START)
    view = world(complete=known_by != "a listing of a part")
    here = replace(
        view.zones[ZONE],
        instances=(instance("m9" if known_by.startswith("a listing") else "m8"),),
        gone=frozenset({"id-m9"} if known_by == "a 404" else ()),
    )
    view = replace(view, zones={ZONE: here, OTHER_ZONE: others})
    there = {"id-m9": known("m9")} if known_by == "memory" else {"id-m8": known("m8")}
    found = learn(view, Memory(pending={key: one}, instances=there), START).memory.pending
    assert found == ({key: replace(one, missed=True)} if awaited else {})


@pytest.mark.parametrize(
    ("key", "listed", "left"),
    [
        ("start:id-m9", True, {"failed": True, "expires_at": START + minutes(1)}),  # it rests
        ("start:id-m9", False, {"doubtful": True, "missed": True}),
        ("create:m9", False, {"doubtful": True, "missed": True}),
        ("create:m9", True, None),
    ],
)
def test_after_no_clear_answer_the_listing_says_what_a_launch_did(
    key: str, listed: bool, left: dict[str, Any] | None
) -> None:
    one = pending(key, expires_at=OVER, name="m9")
    view = world(listed=(registered("m9", "stopped"),) if listed else ())
    memory = Memory(pending={key: replace(one, doubtful=True)})
    found = learn(view, memory, START).memory.pending
    assert found == ({key: replace(one, **left)} if left else {})


def test_the_memory_that_was_given_is_left_alone() -> None:
    memory = Memory(pending={CREATE.key: pending(CREATE)})
    learn(world(Outcome(CREATE, ENDED_AT)), memory, START)
    assert memory.pending == {CREATE.key: pending(CREATE)}


@pytest.mark.parametrize(
    ("told", "counts_from"),
    [
        (START + minutes(6), START),  # our clock was set back since
        (START - minutes(6), START - seconds(30)),  # or forward: it ended after the last cycle
        (START - seconds(20), START - seconds(20)),
    ],
)
def test_a_clock_that_was_set_neither_lengthens_nor_shortens_a_pause(
    told: datetime, counts_from: datetime
) -> None:
    under_way = {STOP_M1.key: pending(STOP_M1)}
    memory = Memory(pending=under_way, planned_at=START - seconds(30))
    refused = Outcome(STOP_M1, told, Failure.UNAUTHORIZED, "403")
    found = learn(world(refused), memory, START).memory.pending[STOP_M1.key]
    assert found.expires_at == counts_from + minutes(2)


def test_where_scaleway_says_since_when_it_is_billed_that_counts() -> None:
    on_at = ENDED_AT - seconds(3)
    under_way = {CREATE.key: pending(CREATE)}
    outcome = Outcome(CREATE, ENDED_AT, powered_on_at=on_at)
    found = learn(world(outcome), Memory(pending=under_way), START).memory.pending[CREATE.key]
    assert found.effective_at == on_at


def test_old_outcomes_do_not_lengthen_what_is_under_way() -> None:
    late = START + timedelta(minutes=10)
    under_way = {STOP_M1.key: pending(STOP_M1)}
    found = learn(world(Outcome(STOP_M1, ENDED_AT)), Memory(pending=under_way), late)
    assert found.memory.pending == {}
