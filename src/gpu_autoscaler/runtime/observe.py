"""Reads both worlds, in an order that makes them comparable: ClearML first, instances after.

Three reads of ClearML and one listing per zone, constant in the number of queues and tasks; the
rest is asked only while it matters to a decision. Whatever fails or does not answer in time makes
its own part of the world incomplete, and nothing else.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Outcome
from gpu_autoscaler.domain.errors import ApiError, Transient, Unauthorized
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView, Entry, Instance, Queue, Task, Worker, ZoneView
from gpu_autoscaler.policy import questions
from gpu_autoscaler.runtime.ports import Bootstrap, Clearml, Scaleway

T = TypeVar("T")

READ_DEADLINE = timedelta(seconds=25)
"""For all reads of one service in a cycle: under the poll interval, retries included."""

BOOT_REPORT_DEADLINE = timedelta(seconds=5)
"""After the listings: it must not make a cycle late, and the next one asks again."""

PRICES_KEPT = timedelta(hours=24)
PRICES_RETRIED = timedelta(minutes=1)

_SKEW_IGNORED = timedelta(seconds=2)
"""The `Date` header counts whole seconds."""


class Observer:
    """Builds the world of each cycle."""

    def __init__(self, clearml: Clearml, scaleway: Scaleway, clock: Clock) -> None:
        self._clearml, self._scaleway, self._clock = clearml, scaleway, clock
        self._prices: dict[str, float] = {}
        self._prices_due: dict[str, datetime] = {}
        self._prices_read_at: dict[str, datetime] = {}
        """By zone."""

    async def observe(
        self,
        memory: Memory,
        config: Config,
        bootstrap: Bootstrap,
        outcomes: tuple[Outcome, ...],
        *,
        lost_memory: bool,
        in_flight: frozenset[str] = frozenset(),
    ) -> World:
        """One look at everything. Never raises for what a service did or did not answer."""
        clearml = await self._look_at_clearml(memory, config)
        names = questions.zones(memory, config)
        stock_matters = questions.availability_zones(memory, config, list(clearml.queues.values()))
        volumes = questions.volumes_wanted(memory, config, self._clock.now())
        looks = (
            self._look_at_zone(name, memory, volumes=volumes, stock=name in stock_matters)
            for name in names
        )
        clearml, prices, views = await asyncio.gather(
            self._with_ended_tasks(clearml, memory, config, lost_memory=lost_memory),
            self._prices_of(config),
            asyncio.gather(*looks),
        )
        return World(
            clearml=clearml,
            zones={view.zone: view for view in views},
            specs={name: bootstrap.spec(name) for name in config.queues},
            own_specs={
                (name, offer.place): bootstrap.spec(name, offer.place)
                for name, queue in config.queues.items()
                for offer in queue.offers
                if offer.another_machine
            },
            prices=prices,
            prices_read_at=min(self._prices_read_at.values(), default=None),
            outcomes=outcomes,
            in_flight=in_flight,
            lost_memory=lost_memory,
        )

    async def _look_at_clearml(self, memory: Memory, config: Config) -> ClearmlView:
        names = questions.queue_names(memory, config)
        try:
            return await _by_deadline(
                look_at_clearml(self._clearml, names, memory.queue_ids, self._clock)
            )
        except ApiError as error:
            return ClearmlView(
                complete=False,
                observed_at=self._clock.now(),
                skew=_applied(self._clearml.skew),
                error=str(error),
                refused=isinstance(error, Unauthorized),
            )

    async def _with_ended_tasks(
        self, view: ClearmlView, memory: Memory, config: Config, *, lost_memory: bool
    ) -> ClearmlView:
        """The same view with the tasks that ended lately, if they matter and ClearML says."""
        if not view.complete:
            return view
        now = self._clock.now()
        since = questions.ended_tasks_since(
            memory,
            config,
            view.workers,
            view.open_tasks,
            now,
            lost_memory=lost_memory,
            skew=view.skew,
        )
        if since is None:
            return view
        skew = view.skew
        ids = _ids(view.queues, memory.queue_ids)
        ended, error = await _or_error(self._clearml.ended_tasks(ids, since + skew))
        if ended is None:  # not asked, as far as the policy can tell: the next cycle asks again
            return replace(view, ended_error=error)
        return replace(view, ended_tasks=tuple(_task_in_our_time(task, skew) for task in ended))

    async def _look_at_zone(
        self, zone: str, memory: Memory, *, volumes: bool, stock: bool
    ) -> ZoneView:
        cloud = self._scaleway
        try:
            (instances, gone, reports), (listed, error), (availability, _) = await asyncio.gather(
                self._instances(zone, memory),
                _or_error(cloud.volumes(zone)) if volumes else _nothing(),
                _or_error(cloud.availability(zone)) if stock else _nothing(),
            )
        except ApiError as refusal:
            return ZoneView(
                zone=zone,
                complete=False,
                observed_at=self._clock.now(),
                error=str(refusal),
                refused=isinstance(refusal, Unauthorized),
            )
        return ZoneView(
            zone=zone,
            complete=True,
            observed_at=self._clock.now(),
            instances=tuple(instances),
            boot_reports=reports,
            gone=gone,
            volumes=None if listed is None else tuple(listed),
            availability=availability,
            volumes_error=error,
        )

    async def _instances(
        self, zone: str, memory: Memory
    ) -> tuple[Sequence[Instance], frozenset[str], dict[str, str]]:
        instances, gone = await _by_deadline(self._listed(zone, memory))
        return instances, gone, await self._boot_reports(memory, instances)

    async def _listed(self, zone: str, memory: Memory) -> tuple[Sequence[Instance], frozenset[str]]:
        instances = await self._scaleway.instances(zone)
        return instances, await self._gone(zone, instances, memory)

    async def _boot_reports(self, memory: Memory, instances: Sequence[Instance]) -> dict[str, str]:
        """By server id; without those that cannot be read now."""
        booting = questions.silent_boots(memory, instances)
        reports = await asyncio.gather(
            *(
                _or_error(self._scaleway.boot_report(each), within=BOOT_REPORT_DEADLINE)
                for each in booting
            )
        )
        pairs = zip(booting, reports, strict=True)
        return {each.id: report for each, (report, _) in pairs if report is not None}

    async def _gone(
        self, zone: str, instances: Sequence[Instance], memory: Memory
    ) -> frozenset[str]:
        """Known instances that the listing lacks, and that really are no more."""
        listed = {instance.id for instance in instances}
        missing = [
            server_id
            for server_id, known in memory.instances.items()
            if known.last_seen.zone == zone and server_id not in listed
        ]
        there = await asyncio.gather(*(self._scaleway.exists(zone, each) for each in missing))
        return frozenset(each for each, exists in zip(missing, there, strict=True) if not exists)

    async def _prices_of(self, config: Config) -> dict[str, float]:
        """Prices change rarely: read once a day, and not at once again where they are refused."""
        now = self._clock.now()
        due = [zone for zone in config.zones if now >= self._prices_due.get(zone, now)]
        found = await asyncio.gather(*(_or_error(self._scaleway.prices(zone)) for zone in due))
        for zone, (prices, _) in zip(due, found, strict=True):
            self._prices_due[zone] = now + (PRICES_RETRIED if prices is None else PRICES_KEPT)
            if prices is not None:
                self._prices |= prices
                self._prices_read_at[zone] = now
        return self._prices


async def look_at_clearml(
    clearml: Clearml, names: Sequence[str], known_ids: Collection[str], clock: Clock
) -> ClearmlView:
    """The three reads of ClearML, in this order: a task on its way shows at least once.

    `known_ids` are queue ids from before: a queue that was deleted or renamed meanwhile
    still has tasks that run. Raises ApiError when any read fails.
    """
    begun_at = clock.now()
    queues = await clearml.queues(names)
    workers = await clearml.workers()
    tasks = await clearml.open_tasks(_ids(queues, known_ids))
    return _view(clearml.skew, queues, workers, tasks, begun_at, clock.now())


async def last_look(
    clearml: Clearml, names: Sequence[str], queue_ids: Collection[str], clock: Clock
) -> ClearmlView:
    """The same reads right before a power-off, with tasks before queues (see `policy.guard`).

    Raises ApiError when any of them fails.
    """
    begun_at = clock.now()
    tasks = await clearml.open_tasks(queue_ids)
    queues = await clearml.queues(names)
    workers = await clearml.workers()
    return _view(clearml.skew, queues, workers, tasks, begun_at, clock.now())


def _ids(queues: Mapping[str, Queue], known_ids: Collection[str]) -> list[str]:
    return sorted({queue.id for queue in queues.values()} | set(known_ids))


def _view(
    measured: timedelta,
    queues: Mapping[str, Queue],
    workers: Sequence[Worker],
    tasks: Sequence[Task],
    begun_at: datetime,
    ended_at: datetime,
) -> ClearmlView:
    skew = _applied(measured)
    return ClearmlView(
        complete=True,
        begun_at=begun_at,
        observed_at=ended_at,
        skew=skew,
        queues={name: _queue_in_our_time(queue, skew) for name, queue in queues.items()},
        workers=tuple(_worker_in_our_time(worker, skew) for worker in workers),
        open_tasks=tuple(_task_in_our_time(task, skew) for task in tasks),
    )


def _applied(measured: timedelta) -> timedelta:
    return timedelta(0) if abs(measured) <= _SKEW_IGNORED else measured


def _queue_in_our_time(queue: Queue, skew: timedelta) -> Queue:
    if not skew:
        return queue
    entries = tuple(Entry(e.task_id, e.added_at - skew) for e in queue.entries)
    return replace(queue, entries=entries)


def _worker_in_our_time(worker: Worker, skew: timedelta) -> Worker:
    if not skew:
        return worker
    return replace(
        worker,
        registered_at=worker.registered_at - skew,
        last_report_at=worker.last_report_at - skew,
    )


def _task_in_our_time(task: Task, skew: timedelta) -> Task:
    if not skew:
        return task
    began = None if task.started_at is None else task.started_at - skew
    return replace(task, status_changed_at=task.status_changed_at - skew, started_at=began)


async def _by_deadline(read: Coroutine[Any, Any, T], within: timedelta = READ_DEADLINE) -> T:
    seconds = within.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            return await read
    except TimeoutError as error:
        raise Transient(f"no full answer within {seconds:.0f} s") from error


async def _or_error(
    read: Coroutine[Any, Any, T], within: timedelta = READ_DEADLINE
) -> tuple[T | None, str]:
    """What is good to know, but not needed: without it the rest still counts."""
    try:
        return await _by_deadline(read, within), ""
    except ApiError as error:
        return None, str(error)


async def _nothing() -> tuple[None, str]:
    """Not asked."""
    return None, ""
