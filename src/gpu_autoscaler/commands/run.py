"""`run`: the daemon, or one cycle of it."""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import structlog

from gpu_autoscaler.commands.cost import Found, read, sources_of
from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.commands.storing import ledger_of, open_store, read_only_store
from gpu_autoscaler.commands.wiring import Setup, build_loop, open_services
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.effects import CREATE_DEADLINE
from gpu_autoscaler.domain.errors import StateInUse, StoreError
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.runtime.loop import Cycle, Loop
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.web.app import surface_app
from gpu_autoscaler.web.costs import Costs
from gpu_autoscaler.web.heartbeat import Heartbeat
from gpu_autoscaler.web.metrics import Metrics
from gpu_autoscaler.web.notify import Notifier
from gpu_autoscaler.web.watchdog import Watchdog

log = structlog.get_logger("gpu_autoscaler")

ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - the serverless platform asks for it


async def run(
    setup: Setup,
    clock: Clock,
    *,
    dry_run: bool,
    once: bool,
    port: int,
    if_lease_older_than: timedelta | None = None,
) -> int:
    """Returns the exit code. Raises OSError when the store or the port is not to be had."""
    if once and not dry_run:
        _refuse_forgetting(setup)
    async with AsyncExitStack() as stack:
        store: Store
        if dry_run:
            store = read_only_store(setup.config, setup.secrets)
        else:
            try:
                store = kept = await stack.enter_async_context(open_store(setup, clock))
            except StateInUse as error:
                if if_lease_older_than is None:
                    raise
                return _nothing_done(str(error))
            age = None if if_lease_older_than is None else await kept.age()
            if age is not None and if_lease_older_than is not None and age < if_lease_older_than:
                return _nothing_done(f"a daemon was here {format_duration(age)} ago")
        metrics = Metrics()
        services = await stack.enter_async_context(
            open_services(setup.config, setup.secrets, clock, on_call=metrics.called)
        )
        costs = costs_of(setup, clock)
        # a dry run does nothing, and who covers for a daemon must not look like one
        tells = not dry_run and if_lease_older_than is None
        followers = await _followers(setup, clock, stack, costs) if tells else _Followers()

        def told(cycle: Cycle) -> None:
            metrics.cycled(cycle)
            followers.cycled(cycle)

        loop = build_loop(
            setup.watcher,
            setup.secrets,
            services,
            store,
            clock,
            dry_run=dry_run,
            on_cycle=told,
            ledger=None if dry_run else ledger_of(setup.config, setup.secrets),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, loop.stop)
        if once:
            code = await _run_once(loop)
            await followers.sent()
            return code
        # before the lease is taken, which a port that is taken would keep from others
        listener = stack.enter_context(bind(ALL_INTERFACES, port))
        surface = surface_app(
            loop, clock, setup.secrets.api_token, metrics.exposition, dry_run=dry_run, costs=costs
        )
        heard_at = await stack.enter_async_context(served(surface, listener))
        events = asyncio.get_running_loop()

        def warn(text: str) -> None:
            events.call_soon_threadsafe(followers.stalled, text)

        stack.enter_context(Watchdog(loop, SystemClock(), warn=warn))
        await loop.prepare()
        log.info(
            "started",
            fleet=setup.config.fleet,
            queues=list(setup.config.queues),
            dry_run=dry_run,
            port=heard_at,
        )
        await loop.run()
        log.info("stopped", instances="left as they are")
        return 0


class _Followers:
    """Who is told of each cycle besides the metrics; nobody, unless somebody is given."""

    def __init__(
        self, heartbeat: Heartbeat | None = None, notifier: Notifier | None = None
    ) -> None:
        self._all = [each for each in (heartbeat, notifier) if each is not None]
        self._notifier = notifier

    def cycled(self, cycle: Cycle) -> None:
        """A cycle ended."""
        for each in self._all:
            each.cycled(cycle)

    def stalled(self, text: str) -> None:
        """None has ended for long."""
        if self._notifier is not None:
            self._notifier.stalled(text)

    async def sent(self) -> None:
        """Wait until they have called whom they call; their deadlines bound it."""
        await asyncio.gather(*(each.sent() for each in self._all))


def costs_of(setup: Setup, clock: Clock) -> Costs:
    """From the store and the ledger of this configuration."""
    config, secrets = setup.config, setup.secrets

    def reading(period: Period, now: datetime) -> Coroutine[Any, Any, Found]:
        # made anew: what is made for one event loop is not for another
        return read(sources_of(config, secrets), period, now)

    return Costs(config.fleet, reading, clock)


async def _followers(setup: Setup, clock: Clock, stack: AsyncExitStack, costs: Costs) -> _Followers:
    return _Followers(
        await stack.enter_async_context(Heartbeat()),
        await stack.enter_async_context(Notifier(setup.config, clock, weekly=costs.weekly)),
    )


def _refuse_forgetting(setup: Setup) -> None:
    """Single cycles work only as far as each knows what the last one began."""
    named = "state_dir" in setup.config.model_fields_set
    if setup.config.store is None and not named:
        raise StoreError(
            "--once needs a memory that outlives it, to know what the last run began and since "
            "when machines idle: set `store` (object storage), or set `state_dir` to a directory "
            "that is still there at the next run"
        )


def _nothing_done(because: str) -> int:
    log.info("nothing done", because=because)
    return 0


async def _run_once(loop: Loop) -> int:
    """One decision, carried out to its end. 0 when everything answered and nothing failed."""
    await loop.prepare(patient=False)
    if not loop.leads:
        log.warning("nothing done", because="another daemon holds the lease")
        return 1
    return 0 if await loop.once(CREATE_DEADLINE + timedelta(minutes=2)) else 1
