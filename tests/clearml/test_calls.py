"""Every request is told to the observer once, with its end and its duration."""

from contextlib import suppress

import httpx
import pytest

from gpu_autoscaler.clearml.api import ClearmlApi, Credentials
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from tests.clearml.server import EXPIRED, HOST, KEY, NOBODY, SECRET, Server, Step, refusal


def told(*steps: Step) -> list[tuple[str, float]]:
    """What the observer hears while workers are asked for, of a server that answers like this."""
    server = Server()
    heard: list[tuple[str, float]] = []
    server.on("workers.get_all", *steps)

    def listen(api: str, outcome: str, seconds: float) -> None:
        assert api == "clearml"
        heard.append((outcome, round(seconds, 1)))

    async def story() -> None:
        transport = httpx.MockTransport(server.router.async_handler)
        credentials = Credentials(KEY, SECRET)
        async with ClearmlApi(
            HOST, credentials, LoopClock(), transport=transport, on_call=listen
        ) as api:
            with suppress(ApiError):
                await api.workers()

    run_virtual(story())
    return heard


async def slow(_: httpx.Request) -> httpx.Response:
    await LoopClock().sleep(3)
    return NOBODY


async def hang(_: httpx.Request) -> httpx.Response:
    await LoopClock().sleep(3600)
    return NOBODY


def test_a_login_is_a_request_too() -> None:
    assert told(slow) == [("ok", 0.0), ("ok", 3.0)]


def test_each_attempt_is_one() -> None:
    busy, broken = refusal(429, 0, "slow down"), httpx.Response(502, text="Bad Gateway")
    outcomes = [outcome for outcome, _ in told(busy, broken, NOBODY)]
    assert outcomes == ["ok", "rate_limited", "transient", "ok"]


def test_a_token_that_was_refused() -> None:
    assert [outcome for outcome, _ in told(EXPIRED, NOBODY)] == ["ok", "unauthorized", "ok", "ok"]


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (refusal(400, 12, "wrong"), "rejected"),
        (refusal(403, 0, "not yours"), "unauthorized"),
    ],
)
def test_what_is_not_tried_again(step: httpx.Response, outcome: str) -> None:
    assert told(step)[1:] == [(outcome, 0.0)]


def test_no_answer() -> None:
    assert told(httpx.ConnectError("refused"))[1:] == [("transient", 0.0)] * 3
    assert told(hang)[1:] == [("transient", 10.0)] * 3
