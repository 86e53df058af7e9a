"""Tells a dead man's switch service after each good cycle that somebody is at home.

Such a service raises the alarm when the calls cease: nothing inside a dead daemon could.
"""

import asyncio

import httpx
import structlog

from gpu_autoscaler.runtime.loop import Cycle

log = structlog.get_logger("gpu_autoscaler")

DEADLINE_SECONDS = 10.0


class Heartbeat:
    """Calls `heartbeat_url` in the background; open it with `async with`."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(transport=transport, timeout=DEADLINE_SECONDS)
        self._calling: asyncio.Task[None] | None = None
        self._failing = False

    async def __aenter__(self) -> "Heartbeat":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._calling is not None:
            self._calling.cancel()
        await self._client.aclose()

    def cycled(self, cycle: Cycle) -> None:
        """A cycle ended. A call that is still under way is not overtaken."""
        url = cycle.config.heartbeat_url
        busy = self._calling is not None and not self._calling.done()
        if url is not None and cycle.acted and cycle.complete and not busy:
            self._calling = asyncio.create_task(self._call(url))

    async def sent(self) -> None:
        """Wait for the call under way, if there is one; its deadline bounds it."""
        if self._calling is not None:
            await asyncio.wait([self._calling])

    async def _call(self, url: str) -> None:
        """The address is a secret, so errors are told by their kind alone."""
        error = ""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                reply = await self._client.get(url, follow_redirects=True)
            if not reply.is_success:
                error = f"answered {reply.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as failure:
            # ValueError: a host name that the network's rules do not know how to write
            error = type(failure).__name__
        if error and not self._failing:
            log.warning("failing", subject="heartbeat_url", error=error)
        elif self._failing and not error:
            log.info("recovered", subject="heartbeat_url")
        self._failing = bool(error)
