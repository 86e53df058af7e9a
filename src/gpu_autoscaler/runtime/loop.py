"""The one loop: observe, decide, act, record; every poll interval, or at once when woken."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.decisions import Plan, World
from gpu_autoscaler.domain.effects import LISTING_LAG
from gpu_autoscaler.domain.episodes import Episode
from gpu_autoscaler.domain.errors import LeaseLost, StateRefused
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.requests import Answer, Request
from gpu_autoscaler.policy.hours import in_force
from gpu_autoscaler.policy.learn import learn
from gpu_autoscaler.policy.plan import plan
from gpu_autoscaler.policy.rescue import stuck_tasks
from gpu_autoscaler.runtime.books import Books
from gpu_autoscaler.runtime.execute import Executor, Orders, is_failure
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.ports import Bootstrap, Store
from gpu_autoscaler.runtime.record import Recorder
from gpu_autoscaler.runtime.renew import renewing

T = TypeVar("T")

log = structlog.get_logger("gpu_autoscaler")

CONFIRM_AFTER = LISTING_LAG + timedelta(seconds=1)
"""Without memory, the second observation follows the first so soon."""

SHORTEST_PAUSE = timedelta(seconds=2)
"""Between two cycles, however often it is woken: failing fast must not mean asking fast."""

FINISH_WITHIN = timedelta(seconds=14)
"""For calls in flight at the end of the process; with the clean-up of those that are cut off it
stays under the 30 s after which platforms kill."""


class ConfigSource(Protocol):
    """Where the configuration comes from."""

    def current(self) -> Config:
        """The last one that was good."""

    async def refresh(self) -> Reload | None:
        """Look again; None when there is nothing to tell."""


@dataclass(slots=True)
class Cycle:
    """What the last finished cycle saw and decided, for whoever wants to look."""

    finished_at: datetime
    world: World
    plan: Plan
    config: Config
    acted: bool = True
    """Its effects were begun: this daemon holds the lease."""
    began: float = 0.0
    ended: float = 0.0
    """Seconds of the clock that nobody sets (`Clock.monotonic`)."""
    stood_before: tuple[Episode, ...] = ()
    """The episodes in the memory that it began with."""

    @property
    def complete(self) -> bool:
        """Whether everything that was asked answered."""
        zones = self.world.zones.values()
        return self.world.clearml.complete and all(zone.complete for zone in zones)


class Loop:
    """Runs cycles until it is told to stop."""

    def __init__(
        self,
        source: ConfigSource,
        observer: Observer,
        executor: Executor,
        store: Store,
        bootstrap_of: Callable[[Config], Bootstrap],
        clock: Clock,
        recorder: Recorder,
        on_cycle: Callable[[Cycle], None] = lambda _: None,
        books: Books | None = None,
    ) -> None:
        """Without `books`, as in a dry run, nobody keeps a ledger."""
        self._source, self._observer, self._executor = source, observer, executor
        self._store, self._bootstrap_of, self._clock = store, bootstrap_of, clock
        self._recorder, self._on_cycle, self._books = recorder, on_cycle, books
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._memory: Memory | None = None
        self._lost_memory = True
        """What there is of it comes from the ledger alone."""
        self._leads = False
        """The lease was ours when the store last said so; by now it may have run out."""
        self._force: tuple[Config, Bootstrap] | None = None
        self._asked: list[tuple[Request, asyncio.Future[Answer]]] = []
        """What operators want, and the answers that they wait for."""
        self.last: Cycle | None = None

    def wake(self) -> None:
        """Start the next cycle as soon as possible."""
        self._wake.set()

    async def ask(self, request: Request, within: timedelta) -> Answer | None:
        """Let the next cycle, which begins at once, obey this request; what it says to it, or None
        when it said nothing in time."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.append((request, answer))
        self.wake()
        await asyncio.wait([answer], timeout=within.total_seconds())
        return answer.result() if answer.done() else None

    def stop(self) -> None:
        """Decide nothing more: the cycle under way is the last one."""
        self._stopping.set()
        self._wake.set()

    @property
    def leads(self) -> bool:
        """Whether this daemon may act; otherwise it observes, and waits for the lease."""
        return self._leads and self._store.lease_left() > 0

    @property
    def memory(self) -> Memory | None:
        """The newest one; None when there is none yet."""
        return self._memory

    @property
    def interval(self) -> timedelta:
        """Between two cycles."""
        return self._in_force()[0].poll_interval

    async def prepare(self, *, patient: bool = True) -> None:
        """Load the memory. Raises StateRefused when it is there and may not be used; a store that
        does not answer is asked again in each cycle, or, if not `patient`, its OSError raised."""
        self._in_force()
        try:
            await self._look_for_lease()
        except OSError as error:
            if isinstance(error, StateRefused) or not patient:
                raise
            self._recorder.failing("store", error, self._clock.now())

    async def run(self) -> None:
        """Cycle until `stop`; then let calls in flight end. Instances are left as they are."""
        while not self._stopping.is_set():
            young = False
            try:
                young = (await self.cycle()).world.lost_memory
            except asyncio.CancelledError:
                if not self._stopping.is_set():
                    raise
                break
            except Exception:  # a defect of ours: the next cycle may be better, health says it
                log.exception("cycle failed")
            await self._pause(CONFIRM_AFTER if young else self.interval)
        await self.finish(FINISH_WITHIN)

    async def once(self, within: timedelta) -> bool:
        """One decision, carried out to its end: whether all of it was. `stop` ends it early."""
        good = False
        try:
            cycle = await self.settled_cycle()
            good = cycle.acted and cycle.complete
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        finally:
            done = await self.finish(within)
        return good and done

    async def settled_cycle(self) -> Cycle:
        """One cycle whose launches count: without memory, the second of two that agree."""
        cycle = await self.cycle()
        if cycle.world.lost_memory:
            await self._pause(CONFIRM_AFTER)
            cycle = await self.cycle()
        return cycle

    async def finish(self, within: timedelta) -> bool:
        """Let what is in flight end, for so long or, from `stop` on, for FINISH_WITHIN, and
        remember how; whether all of it was done. The lease is renewed meanwhile."""
        cut_off = self._executor.in_flight()
        async with renewing(self._renew, self.interval, self._clock):
            working = asyncio.ensure_future(self._executor.finish(within))
            await _first_of(working, asyncio.ensure_future(self._stopping.wait()))
            await self._executor.finish(min(within, FINISH_WITHIN))
        outcomes = self._executor.take_outcomes()
        if self._leads and self._memory is not None and outcomes and self.last is not None:
            world = replace(self.last.world, outcomes=outcomes)
            learned = learn(world, self._memory, self._clock.now())
            await self._kept(replace(learned.memory, backoffs=learned.backoffs.kept()))
            self._recorder.ended(outcomes)
        cut_off -= {outcome.effect.key for outcome in outcomes}
        return not cut_off and not any(is_failure(outcome) for outcome in outcomes)

    async def look(self, memory: Memory | None) -> Cycle:
        """Observe and decide, from this memory; nothing is kept, said or begun."""
        config, bootstrap = self._in_force()
        config = in_force(config, self._clock.now())
        world = await self._observer.observe(
            memory or Memory(), config, bootstrap, (), lost_memory=memory is None
        )
        now = self._clock.now()
        return Cycle(now, world, plan(world, memory or Memory(), config, now), config)

    async def cycle(self) -> Cycle:
        """One round: observe, decide, act, record.

        Raises asyncio.CancelledError when it is told to stop while it observes.
        """
        began = self._clock.monotonic()
        await self._refresh()
        config, bootstrap = self._in_force()
        config = in_force(config, self._clock.now())
        self._executor.lease_changed()  # after a suspend of the machine it is shorter than it was
        if not self._leads:
            await self._look_for_lease_again()
        memory = self._memory or Memory()
        outcomes = self._executor.take_outcomes() if self._leads else ()
        try:
            world = await self._unless_stopping(
                self._observer.observe(
                    memory,
                    config,
                    bootstrap,
                    outcomes,
                    lost_memory=self._lost_memory,
                    in_flight=self._executor.in_flight(),
                )
            )
            asked = tuple(self._asked) if self.leads else ()
            world = replace(world, requests=tuple(request for request, _ in asked))
            now = self._clock.now()
            made = plan(world, memory, config, now)
            stored = self._leads and await self._kept(made.memory)
        except BaseException:
            self._executor.put_back(outcomes)
            raise
        acts = self.leads
        if self._leads:
            self._recorder.lease(held=acts, holder="nobody knows: the store does not answer")
        self._recorder.record(world, made, now, acts=acts)
        if acts:
            self._memory, self._lost_memory = made.memory, False
            stuck = stuck_tasks(made.memory.popped, now)
            self._executor.submit(
                Orders(made.effects, made.memory.queue_ids, bootstrap, stuck, stored)
            )
        else:
            # without a lease nothing is begun, nor what could not be remembered on a disk: a
            # crash would double or leak it
            self._executor.put_back(outcomes)
        self._answer(asked, made.answers, acts=acts)
        ended = self._clock.monotonic()
        now = self._clock.now()
        self.last = Cycle(
            now, world, made, config, acts, began, ended, stood_before=memory.episodes
        )
        self._on_cycle(self.last)
        if acts and stored and self._books is not None:
            self._memory = await self._books.keep(made.memory, world.clearml)
        return self.last

    def _answer(
        self,
        asked: Sequence[tuple[Request, asyncio.Future[Answer]]],
        answers: Sequence[Answer],
        *,
        acts: bool,
    ) -> None:
        """Tell who asked; who does not lead can only say so."""
        if not acts:
            nobody = "this daemon does not lead, and may not act: ask again in a minute"
            asked, answers = self._asked, [Answer(r, False, nobody) for r, _ in self._asked]
        for (_, waiting), answer in zip(asked, answers, strict=True):
            if not waiting.done():  # else nobody waits any more
                waiting.set_result(answer)
        self._asked = self._asked[len(asked) :]

    async def _unless_stopping(self, observing: Coroutine[Any, Any, T]) -> T:
        """Nobody waits for services that hang when the process is told to end."""
        looking = asyncio.ensure_future(observing)
        await _first_of(looking, asyncio.ensure_future(self._stopping.wait()))
        if self._stopping.is_set():
            raise asyncio.CancelledError
        return looking.result()

    async def _pause(self, interval: timedelta) -> None:
        await self._clock.sleep(min(SHORTEST_PAUSE, interval).total_seconds())
        rest = (interval - SHORTEST_PAUSE).total_seconds()
        if rest > 0 and not self._wake.is_set():
            sleeping = asyncio.ensure_future(self._clock.sleep(rest))
            await _first_of(sleeping, asyncio.ensure_future(self._wake.wait()))
        self._wake.clear()

    async def _refresh(self) -> None:
        """Take a changed configuration, if instances can be made from it."""
        news = await self._unless_stopping(self._source.refresh())
        if news is None:
            return
        error: Exception | None = news.error
        if error is None:
            try:
                self._force = news.config, self._bootstrap_of(news.config)
            except ValueError as refusal:
                error = refusal
        if error is not None:
            log.error("configuration not used", error=str(error), in_force="the last good one")
        else:
            log.info("configuration loaded", queues=list(news.config.queues), mended=news.mended)

    def _in_force(self) -> tuple[Config, Bootstrap]:
        if self._force is None:
            config = self._source.current()
            self._force = config, self._bootstrap_of(config)
        return self._force

    async def _look_for_lease(self) -> None:
        """Take the newest memory, and the lead where it is free. Raises OSError."""
        kept = await self._store.load()
        memory = kept.memory
        if kept.ours and memory is None and self._books is not None:
            memory = await self._books.recall()
        self._memory, self._leads = memory, kept.ours
        self._lost_memory = kept.memory is None
        if kept.ours:
            self._executor.take_outcomes()  # of an earlier lease: others have acted since
        self._recorder.lease(held=kept.ours, holder=kept.holder)

    async def _look_for_lease_again(self) -> None:
        try:
            await self._look_for_lease()
        except OSError as error:
            self._recorder.failing("store", error, self._clock.now())
        else:
            self._recorder.failing("store", None, self._clock.now())

    async def _renew(self) -> None:
        if self._leads and self._memory is not None:
            await self._kept(self._memory)

    async def _kept(self, memory: Memory) -> bool:
        """Whether it is stored; the lease is renewed with it, or found to be another's."""
        try:
            await self._store.save(memory)
        except LeaseLost as error:
            self._leads = False
            self._executor.lease_changed()
            self._recorder.lease(held=False, holder=str(error))
        except OSError as error:
            self._recorder.failing("store", error, self._clock.now())
        else:
            self._recorder.failing("store", None, self._clock.now())
            self._executor.lease_changed()
            return True
        return False


async def _first_of(*waiting: asyncio.Future[Any]) -> None:
    """Until one of them ends; the others are cancelled, also when the caller is."""
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
