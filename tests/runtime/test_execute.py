"""Every effect is one call, under a deadline; how it ended is told, and nothing is decided."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

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
from gpu_autoscaler.domain.errors import (
    ApiError,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    RateLimited,
    Rejected,
    Transient,
    Unauthorized,
)
from gpu_autoscaler.domain.model import CreateOrder, Entry, Placement, Queue, Volume, Worker
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.runtime.execute import (
    AT_ONCE,
    EMPTY_SHELF,
    DryExecutor,
    LiveExecutor,
    Orders,
    is_failure,
)
from gpu_autoscaler.runtime.turns import LONGEST_TURN
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    QUEUE_ID,
    TYPE,
    ZONE,
    instance,
    minutes,
    registered,
    seconds,
    task,
)
from tests.runtime.fakes import FakeClearml, FakeScaleway, Wire
from tests.runtime.world import PlainBootstrap

T = TypeVar("T")
NOW = VIRTUAL_START
STOPPED = instance(state="stopped")
NAME = STOPPED.name
VOLUME = Volume("vol-1", ZONE, "volume", None, NOW)


def create(name: str = NAME, zone: str = ZONE) -> CreateInstance:
    order = CreateOrder(name, QUEUE, Placement(TYPE, zone), "image", 1, 5000, ())
    return CreateInstance(order=order, reason=Reason.DEMAND, because="waits")


def stop(guard: Guard = Guard.IDLE) -> StopInstance:
    return StopInstance(
        instance=registered(),
        guard=guard,
        booted_at=NOW - minutes(30),
        reason=Reason.IDLE_TIMEOUT,
        because="idles",
    )


START = StartInstance(instance=STOPPED, reason=Reason.DEMAND, because="waits")
DELETE = DeleteInstance(instance=STOPPED, reason=Reason.STOPPED_RETENTION, because="old")
TAG = SetTags(
    instance=STOPPED,
    add=frozenset({"a"}),
    remove=frozenset({"b"}),
    reason=Reason.REGISTERED,
    because="registered",
)
SWEEP = DeleteVolume(volume=VOLUME, reason=Reason.ORPHAN_VOLUME, because="orphan")
RESCUE = RescueTask(task=task("t1"), reason=Reason.CAUGHT_TASK, because="caught by a power-off")
LAST_LOOK = ["open_tasks", "queues", "workers"]

CALLS: dict[str, tuple[Effect, list[str]]] = {
    "create": (create(), [f"create {NAME}"]),
    "start": (START, [f"start {NAME}"]),
    "stop, unguarded": (stop(Guard.NONE), [f"stop {NAME}"]),
    "stop": (stop(), [*LAST_LOOK, f"stop {NAME}"]),
    "delete": (DELETE, [f"delete {NAME}"]),
    "tag": (TAG, [f"change_tags {NAME}"]),
    "delete_volume": (SWEEP, ["delete_volume vol-1"]),
    "rescue": (RESCUE, ["requeue_to_front t1"]),
}
FAILING: dict[str, tuple[Effect, str]] = {
    name: (effect, calls[-1].split(" ")[0]) for name, (effect, calls) in CALLS.items()
}


class Hands:
    """An executor with its two services; the instance's agent reports that it idles."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.wire = Wire(self.clock)
        self.clearml, self.scaleway = FakeClearml(self.wire), FakeScaleway(self.wire)
        self.clearml.agents = [Worker(NAME, NOW - minutes(20), NOW, None, (QUEUE_ID,))]
        self.woken = 0
        self.executor = LiveExecutor(self.clearml, self.scaleway, self.clock, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def submit(self, *effects: Effect, stuck: frozenset[str] = frozenset()) -> None:
        self.executor.submit(Orders(effects, {QUEUE_ID: QUEUE}, PlainBootstrap(), stuck))

    async def do(self, *effects: Effect, stuck: frozenset[str] = frozenset()) -> list[Outcome]:
        self.submit(*effects, stuck=stuck)
        await self.executor.finish(timedelta(hours=1))
        return list(self.executor.take_outcomes())


def done(run: Callable[[Hands], Awaitable[T]]) -> T:
    async def main() -> T:
        return await run(Hands())

    return run_virtual(main())


@pytest.mark.parametrize(("effect", "calls"), CALLS.values(), ids=CALLS)
def test_each_effect_is_its_call_once(effect: Effect, calls: list[str]) -> None:
    async def run(hands: Hands) -> None:
        (outcome,) = await hands.do(effect)
        assert hands.wire.calls == calls
        assert outcome == Outcome(effect, NOW)
        assert hands.woken == 0, "nothing to be sooner for"

    done(run)


def test_what_it_is_called_with() -> None:
    async def run(hands: Hands) -> None:
        await hands.do(create(), TAG, RESCUE)
        assert hands.scaleway.user_data == [PlainBootstrap().user_data(QUEUE, NAME)]
        assert hands.scaleway.tags == [({"a"}, {"b"})]
        assert hands.clearml.notes == ["caught by a power-off"]

    done(run)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OutOfStock("none"), Failure.OUT_OF_STOCK),
        (QuotaExceeded("0 left"), Failure.QUOTA),
        (RateLimited("slow down", 3.0), Failure.RATE_LIMITED),
        (Rejected("bad image"), Failure.REJECTED),
        (Unauthorized("no"), Failure.UNAUTHORIZED),
        (NotFound("gone"), Failure.NOT_FOUND),
        (Transient("502"), Failure.TRANSIENT),
        (ApiError("odd"), Failure.TRANSIENT),
    ],
)
@pytest.mark.parametrize(("effect", "call"), FAILING.values(), ids=FAILING)
def test_an_error_becomes_its_kind_and_an_empty_shelf_wakes_the_loop(
    effect: Effect, call: str, error: ApiError, failure: Failure
) -> None:
    async def run(hands: Hands) -> None:
        hands.wire.errors[call] = error
        assert await hands.do(effect) == [Outcome(effect, NOW, failure, str(error))]
        assert hands.woken == (failure is Failure.OUT_OF_STOCK)

    done(run)


@pytest.mark.parametrize(("effect", "call"), FAILING.values(), ids=FAILING)
def test_what_does_not_end_is_given_up_at_its_deadline(effect: Effect, call: str) -> None:
    async def run(hands: Hands) -> None:
        hands.wire.slow[call] = 24 * 3600
        (outcome,) = await hands.do(effect)
        assert outcome.failure is Failure.TRANSIENT
        assert outcome.at - NOW == effect.deadline
        assert "not done within" in outcome.message

    done(run)


def test_a_defect_of_ours_is_contained_and_told() -> None:
    async def run(hands: Hands) -> None:
        hands.wire.errors["start"] = ZeroDivisionError("secret of the house")
        with capture_logs() as lines:
            outcomes = await hands.do(START, TAG)
        failed = {o.effect.verb: o for o in outcomes}
        assert failed["tag"].failure is None
        assert failed["start"].failure is Failure.TRANSIENT
        assert failed["start"].message == "ZeroDivisionError inside the daemon"
        assert [line["event"] for line in lines] == ["effect crashed"]

    done(run)


# --- the last look before a power-off


def test_a_task_that_appeared_meanwhile_keeps_its_machine() -> None:
    async def run(hands: Hands) -> None:
        hands.clearml.open = [task("t1", "in_progress", NAME)]
        (outcome,) = await hands.do(stop())
        assert outcome.failure is Failure.GUARD
        assert outcome.message == "task t1 is on it"
        assert hands.wire.count("stop") == 0
        assert hands.woken == 0

    done(run)


@pytest.mark.parametrize(("stuck", "stopped"), [((), 0), (("t1",), 1)])
def test_a_popped_task_keeps_it_unless_known_to_be_nobodys(
    stuck: tuple[str, ...], stopped: int
) -> None:
    async def run(hands: Hands) -> None:
        hands.clearml.open = [task("t1")]
        await hands.do(stop(), stuck=frozenset(stuck))
        assert hands.wire.count("stop") == stopped

    done(run)


def test_a_waiting_task_does_not_keep_it() -> None:
    async def run(hands: Hands) -> None:
        hands.clearml.open = [task("t1")]
        hands.clearml.known = {QUEUE: Queue(QUEUE_ID, QUEUE, (Entry("t1", NOW),))}
        (outcome,) = await hands.do(stop())
        assert outcome.failure is None

    done(run)


@pytest.mark.parametrize("call", LAST_LOOK)
def test_without_a_last_look_there_is_no_power_off(call: str) -> None:
    async def run(hands: Hands) -> None:
        hands.wire.errors[call] = Transient("502")
        (outcome,) = await hands.do(stop())
        assert outcome.failure is Failure.TRANSIENT
        assert hands.wire.count("stop") == 0

    done(run)


def test_an_agent_that_fell_silent_meanwhile_is_not_stopped_as_idle() -> None:
    async def run(hands: Hands) -> None:
        (worker,) = hands.clearml.agents
        hands.clearml.agents = [replace(worker, last_report_at=NOW - seconds(90))]
        (outcome,) = await hands.do(stop())
        assert outcome.failure is Failure.GUARD
        assert hands.wire.count("stop") == 0

    done(run)


# --- several at once


def test_slow_effects_do_not_delay_others() -> None:
    """Each kind has its own lane, and all of one lane share its bound."""

    async def run(hands: Hands) -> None:
        hands.wire.slow["delete"] = 100
        names = [f"d{n}" for n in range(AT_ONCE + 1)]
        many = [replace(DELETE, instance=instance(name, state="stopped")) for name in names]
        outcomes = await hands.do(*many, create(), START, TAG, stop())
        ended = {o.effect.key: (o.at - NOW).total_seconds() for o in outcomes}
        assert [ended[e.key] for e in (create(), START, TAG, stop())] == [0, 0, 0, 0]
        assert sorted(ended[e.key] for e in many) == [100] * AT_ONCE + [200]

    done(run)


def test_one_failure_does_not_stop_another() -> None:
    async def run(hands: Hands) -> None:
        hands.wire.errors["create a"] = Transient("502")
        outcomes = await hands.do(create("a"), create("b"), DELETE)
        assert {o.effect.key: o.failure for o in outcomes} == {
            "create:a": Failure.TRANSIENT,
            "create:b": None,
            DELETE.key: None,
        }

    done(run)


@pytest.mark.parametrize("first", [create("a"), START])
def test_an_empty_shelf_is_met_by_one_launch_and_no_other(first: Effect) -> None:
    async def run(hands: Hands) -> None:
        hands.wire.errors[f"{first.verb} {first.subject}"] = OutOfStock("none")
        hands.wire.slow[first.verb] = 5
        there = create("c", zone=OTHER_ZONE)
        outcomes = await hands.do(first, create("b"), create("b2"), there)
        left = (Failure.GUARD, EMPTY_SHELF)
        assert {o.effect.subject: (o.failure, o.message) for o in outcomes} == {
            first.subject: (Failure.OUT_OF_STOCK, "none"),
            "b": left,
            "b2": left,
            "c": (None, ""),
        }
        assert not any(call.startswith("create b") for call in hands.wire.calls)
        assert hands.woken == 1
        assert not any(map(is_failure, (o for o in outcomes if o.effect.subject == "b")))
        again = await hands.do(create("b"))
        assert again[0].failure is None, "whether it is tried again is the policy's to say"

    done(run)


def test_launches_at_one_placement_take_turns_and_others_do_not_wait_for_them() -> None:
    async def run(hands: Hands) -> None:
        hands.wire.slow["create"] = 7
        names = ("a", "b", "c")
        many = [*map(create, names), create("d", zone=OTHER_ZONE)]
        ended = {o.effect.subject: (o.at - NOW).total_seconds() for o in await hands.do(*many)}
        assert ended == {"a": 7, "b": 14, "c": 21, "d": 7}

    done(run)


def test_one_that_hangs_holds_up_the_next_for_a_moment_alone() -> None:
    async def run(hands: Hands) -> None:
        hands.wire.slow["create a"] = 24 * 3600
        outcomes = await hands.do(create("a"), create("b"))
        ended = {o.effect.subject: o.at - NOW for o in outcomes}
        assert ended == {"a": create().deadline, "b": LONGEST_TURN}
        hands.submit(create("a"), create("c"))
        await hands.clock.sleep(1)
        await hands.executor.finish(seconds(0))
        assert hands.wire.count("create") == 3, "one that waits for its turn is not begun"

    done(run)


def test_submit_returns_before_anything_is_done() -> None:
    async def run(hands: Hands) -> None:
        hands.submit(START)
        assert hands.wire.calls == []
        assert hands.executor.take_outcomes() == ()
        await hands.clock.sleep(1)
        assert len(hands.executor.take_outcomes()) == 1
        assert hands.executor.take_outcomes() == (), "told once"

    done(run)


def test_outcomes_put_back_come_first_again() -> None:
    async def run(hands: Hands) -> None:
        taken = await hands.do(START)
        hands.submit(TAG)
        await hands.clock.sleep(1)
        hands.executor.put_back(taken)
        again = [o.effect for o in hands.executor.take_outcomes()]
        assert again == [START, TAG]

    done(run)


# --- the end


def test_finish_lets_calls_in_flight_end() -> None:
    async def run(hands: Hands) -> None:
        hands.wire.slow["create"] = 15
        hands.submit(create())
        await hands.executor.finish(seconds(20))
        assert hands.clock.now() - NOW == seconds(15)
        assert [o.failure for o in hands.executor.take_outcomes()] == [None]

    done(run)


def test_finish_cuts_off_what_takes_too_long_and_waits_for_its_clean_up() -> None:
    async def run(hands: Hands) -> None:
        cleaned: list[str] = []

        async def creating(*_: object) -> None:
            try:
                await hands.clock.sleep(3600)
            finally:
                await hands.clock.sleep(5)
                cleaned.append("up")

        hands.scaleway.create = creating  # type: ignore[method-assign,assignment]
        hands.submit(create())
        await hands.executor.finish(seconds(20))
        assert cleaned == ["up"]
        assert hands.clock.now() - NOW == seconds(25)
        assert hands.executor.take_outcomes() == (), "its intent stays in memory until it lapses"

    done(run)


def test_finish_with_nothing_in_flight_returns_at_once() -> None:
    async def run(hands: Hands) -> None:
        await hands.executor.finish(seconds(20))
        assert hands.clock.now() == NOW

    done(run)


def test_a_dry_run_sends_nothing() -> None:
    async def run(hands: Hands) -> None:
        dry = DryExecutor()
        dry.submit(Orders([create(), stop(), DELETE], {QUEUE_ID: QUEUE}, PlainBootstrap()))
        await dry.finish(seconds(20))
        dry.put_back(())
        assert dry.take_outcomes() == ()
        assert hands.wire.calls == []

    done(run)
