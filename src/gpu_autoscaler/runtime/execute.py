"""Carries out effects. Nothing in here decides: what may not happen any more is told to it.

Effects run concurrently, each under its own deadline, so a slow creation delays neither the next
cycle nor another queue. How each one ended waits here for the next plan.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

import structlog

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    DeleteVolume,
    Effect,
    Failure,
    Guard,
    OnInstance,
    Outcome,
    RemoveBootstrap,
    RescueTask,
    SetTags,
    StartInstance,
    StopInstance,
    TagQueue,
    placement_of,
)
from gpu_autoscaler.domain.errors import (
    ApiError,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    RateLimited,
    Rejected,
    Unauthorized,
)
from gpu_autoscaler.policy import guard
from gpu_autoscaler.runtime.observe import last_look
from gpu_autoscaler.runtime.ports import Bootstrap, Clearml, Scaleway
from gpu_autoscaler.runtime.turns import Turn, Turns

log = structlog.get_logger(__name__)

AT_ONCE = 32
"""Effects of one kind in flight: slow deletions never keep a creation waiting."""

CLEAN_UP_WITHIN = timedelta(seconds=8)
"""A server that was never powered on is gone with its volume after some 6 s. Together with the
time for calls in flight under the 30 s after which platforms kill."""

_Result: TypeAlias = str | datetime

WITHOUT_LEASE = "another daemon may hold the lease by now"
EMPTY_SHELF = "not tried: the launch right before it there met an empty shelf"
NOT_STORED = "the store does not answer: it could be forgotten that this was powered off"

_FAILURES: tuple[tuple[type[ApiError], Failure], ...] = (
    (OutOfStock, Failure.OUT_OF_STOCK),
    (QuotaExceeded, Failure.QUOTA),
    (RateLimited, Failure.RATE_LIMITED),
    (Rejected, Failure.REJECTED),
    (Unauthorized, Failure.UNAUTHORIZED),
    (NotFound, Failure.NOT_FOUND),
)


@dataclass(frozen=True, slots=True)
class Orders:
    """What one cycle wants done, with what the executor needs to do it."""

    effects: Sequence[Effect]
    queue_ids: dict[str, str]
    """Names of the fleet's queues by ClearML's ids (see `Memory.queue_ids`)."""
    bootstrap: Bootstrap | None = None
    """Needed for creations alone."""
    stuck: frozenset[str] = frozenset()
    """Popped tasks known to be nobody's (see `policy.guard`)."""
    stored: bool = True
    """The memory of this plan is kept; without that nothing is powered off, since a task that
    the power-off catches could be forgotten."""


class Executor(Protocol):
    """Does what a plan says, or only says so."""

    def submit(self, orders: Orders) -> None:
        """Begin; returns at once."""

    def take_outcomes(self) -> tuple[Outcome, ...]:
        """What ended since the last call."""

    def put_back(self, outcomes: Sequence[Outcome]) -> None:
        """The plan that should have learned from these was not kept."""

    def in_flight(self) -> frozenset[str]:
        """Keys of the effects that have not ended."""

    def lease_changed(self) -> None:
        """What is in flight may go on for longer, or no more."""

    async def finish(self, within: timedelta) -> None:
        """Let what is in flight end; after `within`, cut it off."""


class LiveExecutor:
    """Acts on the real (or emulated) services, while the lease is held.

    It is looked at before every effect, and no effect outlives it: another daemon may begin to
    act then.
    """

    def __init__(
        self,
        clearml: Clearml,
        scaleway: Scaleway,
        clock: Clock,
        on_empty_shelf: Callable[[], None],
        lease_left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._clearml, self._scaleway, self._clock = clearml, scaleway, clock
        self._on_empty_shelf, self._lease_left = on_empty_shelf, lease_left
        self._limits: dict[asyncio.Timeout, float] = {}
        """Of what is in flight, with the moment of each effect's own deadline (loop time)."""
        self._lanes: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self._turns = Turns()
        self._running: set[asyncio.Task[None]] = set()
        self._outcomes: list[Outcome] = []

    def submit(self, orders: Orders) -> None:
        self._turns.forget_ended()
        for effect in orders.effects:
            turn = self._turns.take(placement_of(effect))
            task = asyncio.create_task(self._run(effect, orders, turn), name=effect.key)
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def take_outcomes(self) -> tuple[Outcome, ...]:
        taken, self._outcomes = tuple(self._outcomes), []
        return taken

    def put_back(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes[:0] = outcomes

    def in_flight(self) -> frozenset[str]:
        return frozenset(task.get_name() for task in self._running)

    def lease_changed(self) -> None:
        for limit, deadline in self._limits.items():
            if not limit.expired():
                limit.reschedule(self._within_lease(deadline))

    def _within_lease(self, deadline: float) -> float:
        return min(deadline, asyncio.get_running_loop().time() + self._lease_left())

    async def finish(self, within: timedelta) -> None:
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=within.total_seconds())
        for task in sorted(late, key=lambda each: each.get_name()):  # the same order in each run
            task.cancel()
        if late:
            # a cancelled creation still removes what it made; what it cannot finish in time the
            # next start recognises by its tags
            await asyncio.wait(late, timeout=CLEAN_UP_WITHIN.total_seconds())

    async def _run(self, effect: Effect, orders: Orders, turn: Turn) -> None:
        async with turn:
            if turn.empty:
                outcome = Outcome(effect, self._clock.now(), Failure.GUARD, EMPTY_SHELF)
            else:
                outcome = await self._ended(effect, orders)
            turn.empty = turn.empty or outcome.failure is Failure.OUT_OF_STOCK
        self._outcomes.append(outcome)
        if outcome.failure is Failure.OUT_OF_STOCK:
            self._on_empty_shelf()  # the next placement is tried at once

    async def _ended(self, effect: Effect, orders: Orders) -> Outcome:
        """Carry it out; how that ended."""
        seconds = effect.deadline.total_seconds()
        deadline = asyncio.get_running_loop().time() + seconds
        failure, message = None, ""
        result: _Result = ""
        try:
            async with asyncio.timeout_at(self._within_lease(deadline)) as limit:
                self._limits[limit] = deadline
                try:
                    async with self._lanes[effect.verb]:
                        result = await self._do(effect, orders)
                finally:
                    del self._limits[limit]
            message = result if isinstance(result, str) else ""
            failure = Failure.GUARD if message else None
        except TimeoutError:
            late = asyncio.get_running_loop().time() >= deadline
            why = f"not done within {seconds:.0f} s" if late else "cut off: the lease ran out"
            failure, message = Failure.TRANSIENT, why
        except ApiError as error:
            failure, message = classify(error), str(error)
        except Exception as error:  # a defect of ours must not end the daemon
            log.exception("effect crashed", effect=effect.key)
            failure, message = Failure.TRANSIENT, f"{type(error).__name__} inside the daemon"
        powered_on_at = result if isinstance(result, datetime) else None
        return Outcome(effect, self._clock.now(), failure, message, powered_on_at)

    async def _do(self, effect: Effect, orders: Orders) -> _Result:
        """Do it; a returned sentence says why it was left undone, a moment when billing began."""
        if self._lease_left() <= 0:
            return WITHOUT_LEASE
        match effect:
            case CreateInstance(order=order) if orders.bootstrap is not None:
                user_data = orders.bootstrap.user_data(order.queue, order.name, order.placement)
                return await self._scaleway.create(order, user_data) or ""
            case StartInstance(instance=instance):
                return await self._scaleway.start(instance) or ""
            case StopInstance():
                return await self._stop(effect, orders)
            case OnInstance():
                await self._change(effect)
            case DeleteVolume(volume=volume):
                await self._scaleway.delete_volume(volume)
            case RescueTask(task=task, because=because):
                await self._clearml.requeue_to_front(task, because)
            case TagQueue(queue=queue, tags=tags):
                await self._clearml.tag_queue(queue, tags)
            case _:
                raise NotImplementedError(effect.key)
        return ""

    async def _change(self, effect: OnInstance) -> None:
        match effect:
            case DeleteInstance(instance=instance):
                await self._scaleway.delete(instance)
            case SetTags(instance=instance, add=add, remove=remove):
                await self._scaleway.change_tags(instance, add, remove)
            case RemoveBootstrap(instance=instance):
                await self._scaleway.remove_bootstrap(instance)
            case _:
                raise NotImplementedError(effect.key)

    async def _stop(self, effect: StopInstance, orders: Orders) -> str:
        if not orders.stored:
            return NOT_STORED
        if effect.guard is not Guard.NONE:
            view = await last_look(
                self._clearml,
                sorted(set(orders.queue_ids.values())),
                list(orders.queue_ids),
                self._clock,
            )
            refused = guard.refusal(
                effect.guard,
                effect.instance,
                effect.booted_at,
                view,
                orders.stuck,
                self._clock.now(),
            )
            if refused:
                return refused
            if self._lease_left() <= 0:
                return WITHOUT_LEASE
        await self._scaleway.stop(effect.instance)
        return ""


class DryExecutor:
    """Does nothing, by the same way: the plan it is given has been logged as what would be."""

    def submit(self, orders: Orders) -> None:
        """Nothing is sent."""

    def take_outcomes(self) -> tuple[Outcome, ...]:
        return ()

    def put_back(self, outcomes: Sequence[Outcome]) -> None:
        """There are none."""

    def in_flight(self) -> frozenset[str]:
        return frozenset()

    def lease_changed(self) -> None:
        """Nothing is in flight."""

    async def finish(self, within: timedelta) -> None:
        """Nothing is in flight."""


def is_failure(outcome: Outcome) -> bool:
    """Left undone because the world changed is none; for want of a lease or of memory is one."""
    if outcome.failure is Failure.GUARD:
        return outcome.message in (WITHOUT_LEASE, NOT_STORED)
    return outcome.failure is not None


def classify(error: ApiError) -> Failure:
    """The value that memory keeps of an error."""
    return next((f for kind, f in _FAILURES if isinstance(error, kind)), Failure.TRANSIENT)
