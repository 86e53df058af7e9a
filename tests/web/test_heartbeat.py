"""The dead man's switch is called after good cycles alone, and its address is never told."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gpu_autoscaler.domain.decisions import Plan, World
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView, ZoneView
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.heartbeat import DEADLINE_SECONDS, Heartbeat
from tests.policy.worlds import ZONE, config

URL = "https://ping.example/secret-token"
ZONE_VIEW = ZoneView(ZONE, complete=True, observed_at=VIRTUAL_START)
GOOD = Cycle(
    VIRTUAL_START,
    World(ClearmlView(complete=True, observed_at=VIRTUAL_START), {ZONE: ZONE_VIEW}, {}),
    Plan((), Memory(), (), ()),
    config(heartbeat_url=URL),
)
DARK = {ZONE: replace(ZONE_VIEW, complete=False)}


class Service:
    """What is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answer: Any = httpx.Response(200)
        self.seconds = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(str(request.url))
        await LoopClock().sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return httpx.Response(self.answer.status_code)


async def beat(service: Service, *cycles: Cycle) -> None:
    async with Heartbeat(httpx.MockTransport(service)) as heartbeat:
        for cycle in cycles:
            heartbeat.cycled(cycle)
            await LoopClock().sleep(1)


@pytest.mark.parametrize(
    ("cycle", "calls"),
    [
        (GOOD, 1),
        (replace(GOOD, acted=False), 0),
        (replace(GOOD, world=replace(GOOD.world, zones=DARK)), 0),
        (replace(GOOD, config=config()), 0),
    ],
    ids=["good", "not leading", "a dark zone", "no url"],
)
def test_called_after_each_good_cycle(cycle: Cycle, calls: int) -> None:
    service = Service()
    run_virtual(beat(service, cycle))
    assert service.calls == [URL] * calls


@pytest.mark.parametrize("trouble", [httpx.Response(500), httpx.ConnectError(URL)])
def test_failures_are_said_when_they_begin_and_end_without_the_address(trouble: Any) -> None:
    service = Service()

    async def run() -> None:
        async with Heartbeat(httpx.MockTransport(service)) as heartbeat:
            for service.answer in (trouble, trouble, httpx.Response(200)):
                heartbeat.cycled(GOOD)
                await LoopClock().sleep(1)

    with capture_logs() as lines:
        run_virtual(run())
    assert [line["event"] for line in lines] == ["failing", "recovered"]
    assert "secret-token" not in str(lines)
    assert len(service.calls) == 3


@pytest.mark.parametrize("host", ["xn--a", "a..b", "a" * 70])
def test_a_host_that_cannot_be_written_is_a_failure_like_others(host: str) -> None:
    odd = replace(GOOD, config=config(heartbeat_url=f"http://{host}.invalid/secret-token"))

    async def run() -> None:
        async with Heartbeat() as heartbeat:
            heartbeat.cycled(odd)
            await heartbeat.sent()
            assert heartbeat._calling is not None
            assert heartbeat._calling.exception() is None

    with capture_logs() as lines:
        asyncio.run(run())
    assert [line["event"] for line in lines] == ["failing"]
    assert "secret-token" not in str(lines)


def test_who_leaves_waits_for_the_call_under_way_and_no_longer_than_its_deadline() -> None:
    service = Service()

    async def run(seconds: float) -> float:
        service.seconds = seconds
        async with Heartbeat(httpx.MockTransport(service)) as heartbeat:
            await heartbeat.sent()
            heartbeat.cycled(GOOD)
            begun = LoopClock().monotonic()
            await heartbeat.sent()
            return LoopClock().monotonic() - begun

    assert run_virtual(run(3)) == 3
    assert run_virtual(run(100)) == DEADLINE_SECONDS


def test_a_service_that_hangs_delays_nothing_and_is_given_up() -> None:
    service = Service()
    service.seconds = DEADLINE_SECONDS * 3

    async def run() -> None:
        async with Heartbeat(httpx.MockTransport(service)) as heartbeat:
            heartbeat.cycled(GOOD)
            heartbeat.cycled(GOOD)
            await LoopClock().sleep(DEADLINE_SECONDS + 1)
            heartbeat.cycled(GOOD)
            await asyncio.wait_for(LoopClock().sleep(1), 2)

    with capture_logs() as lines:
        run_virtual(run())
    assert len(service.calls) == 2
    assert [line["error"] for line in lines] == ["TimeoutError"]
