"""`/healthz` tells whether the loop turns, by the last finished cycle alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
import pytest
from starlette.applications import Starlette

from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.web.health import health_routes

INTERVAL = timedelta(seconds=30)


@dataclass
class Finished:
    """A cycle, as far as health looks at it."""

    finished_at: datetime


class Probe:
    """A client of the health app, and the loop it asks about."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.finished_at: datetime | None = None
        self.interval = INTERVAL
        self.leads = True
        app = Starlette(routes=health_routes(self, self.clock))
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://daemon"
        )

    @property
    def last(self) -> Finished | None:
        return Finished(self.finished_at) if self.finished_at else None

    async def get(self, path: str = "/healthz", method: str = "GET") -> httpx.Response:
        return await self._client.request(method, path)


def test_before_the_first_cycle_it_has_three_intervals_of_patience() -> None:
    async def run() -> None:
        probe = Probe()
        first = await probe.get()
        assert first.status_code == 200
        assert first.json() == {
            "status": "ok",
            "leads": True,
            "last_cycle": None,
            "seconds_ago": 0.0,
        }
        await probe.clock.sleep(90)
        assert (await probe.get()).status_code == 200
        await probe.clock.sleep(1)
        assert (await probe.get()).status_code == 503

    run_virtual(run())


def test_stuck_after_three_intervals_and_well_again_after_a_cycle() -> None:
    async def run() -> None:
        probe = Probe()
        probe.finished_at = probe.clock.now()
        await probe.clock.sleep(90)
        assert (await probe.get()).status_code == 200
        await probe.clock.sleep(1)
        stuck = await probe.get()
        assert stuck.status_code == 503
        assert stuck.json()["status"] == "stuck"
        assert stuck.json()["seconds_ago"] == 91.0
        assert datetime.fromisoformat(stuck.json()["last_cycle"]) == probe.finished_at
        probe.finished_at = probe.clock.now()
        assert (await probe.get()).status_code == 200

    run_virtual(run())


def test_it_follows_an_interval_that_was_edited() -> None:
    async def run() -> None:
        probe = Probe()
        probe.finished_at = probe.clock.now()
        await probe.clock.sleep(200)
        assert (await probe.get()).status_code == 503
        probe.interval = timedelta(minutes=2)
        assert (await probe.get()).status_code == 200

    run_virtual(run())


def test_nobody_on_the_way_may_keep_the_answer() -> None:
    async def run() -> None:
        assert (await Probe().get()).headers["cache-control"] == "no-store"

    run_virtual(run())


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/healthz", 405)]
)
def test_there_is_nothing_else_to_ask(method: str, path: str, status: int) -> None:
    async def run() -> None:
        assert (await Probe().get(path, method)).status_code == status

    run_virtual(run())


@pytest.mark.parametrize("leads", [True, False])
def test_ready_after_the_first_cycle_also_without_the_lease(leads: bool) -> None:
    async def run() -> None:
        probe = Probe()
        probe.leads = leads
        assert (await probe.get("/readyz")).status_code == 503
        probe.finished_at = probe.clock.now()
        ready = await probe.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {"status": "ready", "leads": leads}

    run_virtual(run())
