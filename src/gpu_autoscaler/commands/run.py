"""`run`: the daemon, or one cycle of it."""

import asyncio
import signal
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import structlog

from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.commands.wiring import Setup, build_loop, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.effects import CREATE_DEADLINE
from gpu_autoscaler.runtime.loop import Cycle, Loop
from gpu_autoscaler.store.directory import DirectoryStore, ReadOnlyStore
from gpu_autoscaler.web.health import health_app

log = structlog.get_logger("gpu_autoscaler")

ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - the serverless platform asks for it


async def run(setup: Setup, clock: Clock, *, dry_run: bool, once: bool, port: int) -> int:
    """Returns the exit code. Raises OSError when state directory or port are not to be had."""
    directory = Path(setup.config.state_dir)
    async with AsyncExitStack() as stack:
        store = (
            ReadOnlyStore(directory) if dry_run else stack.enter_context(DirectoryStore(directory))
        )
        services = await stack.enter_async_context(
            open_services(setup.config, setup.secrets, clock)
        )
        loop = build_loop(setup.watcher, setup.secrets, services, store, clock, dry_run=dry_run)
        await loop.prepare()
        if once:
            return await run_once(loop)
        listener = bind(ALL_INTERFACES, port)
        app = health_app(loop.last_finished_at, lambda: loop.interval, clock)
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


async def run_once(loop: Loop) -> int:
    """One decision, carried out to its end. 0 when everything answered and nothing failed."""
    cycle = await loop.settled_cycle()
    failed = await loop.finish(CREATE_DEADLINE + timedelta(minutes=2))
    return 0 if cycle.kept and complete(cycle) and not failed else 1


def complete(cycle: Cycle) -> bool:
    """Whether everything that was asked answered."""
    zones = cycle.world.zones.values()
    return cycle.world.clearml.complete and all(zone.complete for zone in zones)
