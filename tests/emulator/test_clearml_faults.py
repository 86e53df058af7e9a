"""Faults on request, and the log of calls, as both emulators have them."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.faults import Calls, FaultKind, Faults
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import LoopClock, RandomIds, run_virtual

KEYS = (EMULATED_USER.access_key, EMULATED_USER.secret_key)


class Rig:
    """An emulator whose faults and calls are in the test's hands."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.model = ClearmlModel(Timeline(self.clock), RandomIds())
        self.faults, self.calls = Faults(), Calls()
        transport = httpx.ASGITransport(app=clearml_app(self.model, self.faults, self.calls))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://clearml", auth=KEYS)

    async def queues(self) -> httpx.Response:
        return await self.client.post("/queues.get_all", json={})


def with_rig(test: Callable[[Rig], Awaitable[None]]) -> None:
    """Run a coroutine against a fresh rig, in virtual time."""

    async def main() -> None:
        rig = Rig()
        async with rig.client:
            await test(rig)

    run_virtual(main())


@pytest.mark.parametrize(
    ("kind", "status", "answer", "content_type"),
    [
        (FaultKind.ERROR, 500, 500, "text/plain"),
        (FaultKind.ERROR, 502, 502, "text/html"),
        (FaultKind.ERROR, 503, 503, "text/html"),
        (FaultKind.RATE_LIMITED, 0, 429, ""),
    ],
)
def test_errors_have_no_effect(
    kind: FaultKind, status: int, answer: int, content_type: str
) -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(kind, "queues", status=status)
        reply = await rig.client.post("/queues.create", json={"name": "gpu"})
        assert reply.status_code == answer
        assert reply.headers.get("content-type", "").split(";")[0] == content_type
        assert rig.model.queues.named("gpu") is None

    with_rig(test)


def test_a_lost_reply_took_effect() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.LOST_REPLY, "queues.create")
        reply = await rig.client.post("/queues.create", json={"name": "gpu"})
        assert (reply.status_code, reply.text[:6]) == (502, "<html>")
        assert rig.model.queues.named("gpu") is not None

    with_rig(test)


def test_a_timeout_never_answers_and_has_no_effect() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.TIMEOUT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await rig.client.post("/queues.create", json={"name": "gpu"})
        assert rig.model.queues.named("gpu") is None

    with_rig(test)


def test_a_slow_answer_is_right_but_late() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.SLOW, seconds=20)
        before = rig.clock.now()
        assert len((await rig.queues()).json()["data"]["queues"]) == 1
        assert (rig.clock.now() - before).total_seconds() == 20

    with_rig(test)


def test_a_truncated_answer_is_half_of_the_right_one() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.TRUNCATED, count=1)
        cut = await rig.queues()
        whole = await rig.queues()
        assert cut.status_code == 200
        assert len(cut.content) == len(whole.content) // 2
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            cut.json()

    with_rig(test)


def test_an_empty_listing_is_well_formed() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.EMPTY)
        assert (await rig.queues()).json()["data"] == {"queues": []}

    with_rig(test)


def test_rules_match_count_and_wear_off() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.ERROR, "^POST /queues", count=2)
        assert (await rig.client.get("/debug.ping")).status_code == 200
        assert [(await rig.queues()).status_code for _ in range(3)] == [500, 500, 200]
        lasting = rig.faults.add(FaultKind.ERROR, "queues", status=503)
        assert [(await rig.queues()).status_code for _ in range(3)] == [503, 503, 503]
        rig.faults.remove(lasting)
        assert (await rig.queues()).status_code == 200

    with_rig(test)


def test_every_call_is_logged_also_the_failing_ones() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.ERROR, "queues", count=1)
        await rig.queues()
        await rig.clock.sleep(30)
        await rig.queues()
        await rig.client.get("/debug.ping")
        assert [(call.method, call.path) for call in rig.calls] == [
            ("POST", "/queues.get_all"),
            ("POST", "/queues.get_all"),
            ("GET", "/debug.ping"),
        ]
        first, second, _ = rig.calls
        assert (second.at - first.at).total_seconds() == 30
        assert (rig.calls.count("queues"), rig.calls.count()) == (2, 3)

    with_rig(test)


def test_the_switchboard_over_http() -> None:
    async def test(rig: Rig) -> None:
        rig.faults.add(FaultKind.ERROR)
        await rig.queues()
        shown = (await rig.client.get("/_emulator/calls")).json()
        assert shown["counts"] == {"POST /queues.get_all": 1}
        rule = {"kind": "rate_limited", "match": "workers", "count": 3}
        await rig.client.delete("/_emulator/faults")
        reply = await rig.client.post("/_emulator/faults", json=rule)
        assert reply.json()["faults"][0].items() >= rule.items()
        assert (await rig.client.post("/workers.get_all")).status_code == 429
        assert (await rig.client.get("/_emulator/faults")).json()["faults"][0]["count"] == 2
        for wrong in (
            {"kind": "nonsense"},
            {"kind": "slow", "sconds": 1},
            {},
            {"kind": "slow", "match": "["},
        ):
            assert (await rig.client.post("/_emulator/faults", json=wrong)).status_code == 400
        assert rig.calls.count("_emulator") == 0

    with_rig(test)
