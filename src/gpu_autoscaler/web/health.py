"""`/healthz`: whether the loop turns. Honest: it looks at the last finished cycle, nothing else."""

from datetime import datetime, timedelta
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from gpu_autoscaler.domain.clock import Clock

MISSED_INTERVALS = 3
"""Older than so many intervals, the last cycle says that the loop is stuck."""

SLOWEST_CYCLE = timedelta(seconds=60)
"""Services that hang until every deadline make a cycle this long; the loop turns all the same."""


class Finished(Protocol):
    """What is looked at of a cycle."""

    @property
    def finished_at(self) -> datetime: ...


class Turning(Protocol):
    """What is looked at; the loop."""

    @property
    def leads(self) -> bool: ...

    @property
    def interval(self) -> timedelta: ...

    @property
    def last(self) -> Finished | None: ...


def health_routes(loop: Turning, clock: Clock) -> list[BaseRoute]:
    """`/healthz`: 200 while the loop turns, also when an observation failed; 503 when it does not.
    `/readyz`: 200 after the first cycle, also without the lease: it could act.
    """
    started_at = clock.now()

    async def healthz(request: Request) -> JSONResponse:
        finished_at = loop.last.finished_at if loop.last else None
        age = clock.now() - (finished_at or started_at)
        turns = age <= max(loop.interval * MISSED_INTERVALS, loop.interval + SLOWEST_CYCLE)
        return JSONResponse(
            {
                "status": "ok" if turns else "stuck",
                "leads": loop.leads,
                "last_cycle": finished_at.isoformat() if finished_at else None,
                "seconds_ago": round(age.total_seconds(), 1),
            },
            status_code=200 if turns else 503,
            headers={"Cache-Control": "no-store"},
        )

    async def readyz(request: Request) -> JSONResponse:
        ready = loop.last is not None
        return JSONResponse(
            {"status": "ready" if ready else "starting", "leads": loop.leads},
            status_code=200 if ready else 503,
            headers={"Cache-Control": "no-store"},
        )

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
