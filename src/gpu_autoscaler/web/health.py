"""`/healthz`: whether the loop turns. Honest: it looks at the last finished cycle, nothing else."""

from collections.abc import Callable
from datetime import datetime, timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gpu_autoscaler.domain.clock import Clock

MISSED_INTERVALS = 3
"""Older than so many intervals, the last cycle says that the loop is stuck."""

SLOWEST_CYCLE = timedelta(seconds=60)
"""Services that hang until every deadline make a cycle this long; the loop turns all the same."""


def health_app(
    last_cycle: Callable[[], datetime | None], interval: Callable[[], timedelta], clock: Clock
) -> Starlette:
    """200 while the loop turns, also when an observation failed; 503 when it does not."""
    started_at = clock.now()

    async def healthz(request: Request) -> JSONResponse:
        finished_at = last_cycle()
        age = clock.now() - (finished_at or started_at)
        turns = age <= max(interval() * MISSED_INTERVALS, interval() + SLOWEST_CYCLE)
        return JSONResponse(
            {
                "status": "ok" if turns else "stuck",
                "last_cycle": finished_at.isoformat() if finished_at else None,
                "seconds_ago": round(age.total_seconds(), 1),
            },
            status_code=200 if turns else 503,
            headers={"Cache-Control": "no-store"},
        )

    return Starlette(routes=[Route("/healthz", healthz, methods=["GET"])])
