"""Keeps a lease while something takes longer than it lasts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from gpu_autoscaler.domain.clock import Clock


@asynccontextmanager
async def renewing(
    renew: Callable[[], Awaitable[object]], every: timedelta, clock: Clock
) -> AsyncIterator[None]:
    """Call `renew` again and again while the block runs, and not any more when it is left.

    `renew` sees to its own errors.
    """

    async def again() -> None:
        while True:
            await clock.sleep(every.total_seconds())
            await renew()

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
