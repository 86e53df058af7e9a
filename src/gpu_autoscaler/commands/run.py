"""`run`: the daemon, or one cycle of it."""

import asyncio
import signal
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.commands.storing import open_store, read_only_store
from gpu_autoscaler.commands.wiring import Setup, build_loop, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.effects import CREATE_DEADLINE
from gpu_autoscaler.runtime.loop import Loop
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.store.bucket import StoreError
from gpu_autoscaler.web.health import health_app
from gpu_autoscaler.web.heartbeat import Heartbeat

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
        store: Store = read_only_store(setup)
        if not dry_run:
            store = kept = await stack.enter_async_context(open_store(setup, clock))
            age = await kept.age() if if_lease_older_than else None
            if age is not None and if_lease_older_than and age < if_lease_older_than:
                log.info("nothing done", because=f"a daemon was here {age.seconds} s ago")
                return 0
        services = await stack.enter_async_context(
            open_services(setup.config, setup.secrets, clock)
        )
        heartbeat = await stack.enter_async_context(Heartbeat())
        loop = build_loop(
            setup.watcher,
            setup.secrets,
            services,
            store,
            clock,
            dry_run=dry_run,
            on_cycle=heartbeat.cycled,
        )
        await loop.prepare()
        if once:
            return await run_once(loop)
        listener = bind(ALL_INTERFACES, port)
        app = health_app(loop, clock)
        heard_at = await stack.enter_async_context(served(app, listener))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, loop.stop)
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


def _refuse_forgetting(setup: Setup) -> None:
    """Single cycles work only as far as each knows what the last one began."""
    named = "state_dir" in setup.config.model_fields_set
    if setup.config.store is None and not named:
        raise StoreError(
            "--once needs a memory that outlives it, to know what the last run began and since "
            "when machines idle: set `store` (object storage), or set `state_dir` to a directory "
            "that is still there at the next run"
        )


async def run_once(loop: Loop) -> int:
    """One decision, carried out to its end. 0 when everything answered and nothing failed."""
    if not loop.leads:
        log.warning("nothing done", because="another daemon holds the lease")
        return 1
    cycle = await loop.settled_cycle()
    failed = await loop.finish(CREATE_DEADLINE + timedelta(minutes=2))
    await loop.resign()
    return 0 if cycle.acted and cycle.complete and not failed else 1
