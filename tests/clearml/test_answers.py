"""What becomes of answers that are wrong, late, endless or refusals, seen through `workers`."""

import asyncio
import gzip
from typing import Any

import httpx
import pytest

from gpu_autoscaler.clearml import transport
from gpu_autoscaler.clearml.api import ClearmlApi
from gpu_autoscaler.domain.errors import (
    ApiError,
    Forbidden,
    NotFound,
    RateLimited,
    Rejected,
    Transient,
)
from gpu_autoscaler.runtime.clock import LoopClock
from tests.clearml.server import NOBODY, TOKEN, Server, answer, failure, play, refusal, workers

TRUNCATED = NOBODY.content[:-20]
BROKEN = [
    pytest.param(httpx.Response(500, text="Failed processing request"), "500", id="plain 500"),
    pytest.param(refusal(500, 0, "Data should be a dict"), "Data should be a dict", id="500"),
    pytest.param(httpx.Response(502, html="<h1>Bad gateway</h1>"), "Bad gateway", id="html 502"),
    pytest.param(httpx.Response(503), "503: nothing", id="empty 503"),
    pytest.param(httpx.Response(200, html="<h1>Log in</h1>"), "Log in", id="html 200"),
    pytest.param(httpx.Response(404, html="<h1>No route</h1>"), "No route", id="html 404"),
    pytest.param(httpx.Response(204), "204", id="no content"),
    pytest.param(httpx.Response(302, headers={"Location": "/login"}), "302", id="redirect"),
    pytest.param(httpx.Response(200, content=TRUNCATED), "Invalid JSON", id="truncated"),
    pytest.param(httpx.Response(200, content=b""), "Invalid JSON", id="empty"),
    pytest.param(httpx.Response(200, content=b"[" * 100_000), "Invalid JSON", id="deep"),
    pytest.param(httpx.Response(200, content=b'"\xff\xfe"'), "Invalid JSON", id="not utf-8"),
    pytest.param(httpx.Response(200, json=[]), "the whole of it", id="a list"),
    pytest.param(httpx.Response(200, json={"data": {"workers": []}}), "meta", id="no meta"),
    pytest.param(answer(), "data.workers: Field required", id="no listing"),
    pytest.param(answer(workers=None), "data.workers", id="null listing"),
    pytest.param(answer(workers={}), "data.workers", id="wrong type"),
    pytest.param(httpx.ConnectError("no route to host"), "no route to host", id="connect"),
    pytest.param(httpx.ReadTimeout(""), "ReadTimeout", id="timeout"),
    pytest.param(httpx.RemoteProtocolError("hung up"), "hung up", id="hung up"),
    pytest.param(OSError("too many open files"), "too many open files", id="os"),
    pytest.param(
        httpx.Response(200, content=b"not gzip", headers={"Content-Length": "8"}),
        "Invalid JSON",
        id="length",
    ),
]


@pytest.mark.parametrize(("step", "says"), BROKEN)
def test_broken_answers_are_transient_and_tried_three_times(
    step: httpx.Response | Exception, says: str
) -> None:
    server = Server()
    server.on("workers.get_all", step)
    error, took = failure(server)
    assert isinstance(error, Transient)
    assert says in str(error)
    assert "workers.get_all at clearml.test" in str(error)
    assert len(server.requests("workers.get_all")) == 3
    assert took == 1 + 2


def test_the_right_answer_is_read_whatever_its_content_type() -> None:
    server = Server()
    odd = httpx.Response(200, content=NOBODY.content, headers={"Content-Type": "text/plain"})
    server.on("workers.get_all", odd)
    assert play(server, workers)[0] == ()


def test_a_200_that_speaks_of_an_error_is_transient() -> None:
    server = Server()
    body = refusal(400, 12, "validation").json() | {"data": {"workers": []}}
    server.on("workers.get_all", httpx.Response(200, json=body))
    error, _ = failure(server)
    assert isinstance(error, Transient)


def test_a_fault_that_passes_is_not_seen() -> None:
    server = Server()
    server.on("workers.get_all", httpx.Response(502), httpx.ConnectError("gone"), NOBODY)
    assert play(server, workers) == ((), 3.0)


def test_a_failing_login_is_tried_again_too() -> None:
    server = Server()
    server.on("auth.login", httpx.Response(502), answer(token=TOKEN))
    server.on("workers.get_all", NOBODY)
    assert play(server, workers) == ((), 1.0)


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (refusal(403, 20, "Forbidden (not allowed for role)"), Forbidden),
        (httpx.Response(403, html="<h1>Blocked</h1>"), Forbidden),
        (refusal(400, 12, "Validation error"), Rejected),
        (refusal(400, 701, "Invalid queue id"), Rejected),
        (refusal(400, 101, "Invalid task id"), NotFound),
        (refusal(404, 0, "Unable to find endpoint"), Rejected),
    ],
)
def test_refusals_are_classified_and_not_tried_again(
    step: httpx.Response, kind: type[ApiError]
) -> None:
    server = Server()
    server.on("workers.get_all", step)
    error, _ = failure(server)
    assert isinstance(error, kind)
    assert len(server.requests("workers.get_all")) == 1
    if step.headers["Content-Type"] == "application/json":
        assert step.json()["meta"]["result_msg"] in str(error)


@pytest.mark.parametrize(
    ("retry_after", "waits", "told"),
    [
        (None, 1 + 2, None),
        ("7", 7 + 7, 7.0),
        ("0", 0, 0.0),
        ("3600", 10 + 10, 3600.0),
        ("Mon, 07 Sep 2026 08:00:08 GMT", 8 + 0, 0.0),
        ("Mon, 07 Sep 2020 08:00:20 GMT", 0, 0.0),
        ("Mon, 07 Sep 2026 08:00:08 -0000", 8 + 0, 0.0),
        ("whenever", 1 + 2, None),
        ("-5", 1 + 2, None),
    ],
)
def test_rate_limits_are_waited_for(
    retry_after: str | None, waits: float, told: float | None
) -> None:
    server = Server()
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    server.on("workers.get_all", httpx.Response(429, headers=headers))
    error, took = failure(server)
    assert isinstance(error, RateLimited)
    assert took == pytest.approx(waits)
    assert error.retry_after == told


async def _hang(_: httpx.Request) -> httpx.Response:
    await LoopClock().sleep(86400)
    return NOBODY


@pytest.mark.parametrize("method", ["auth.login", "workers.get_all"])
def test_a_server_that_hangs_is_given_up_at_the_deadline(method: str) -> None:
    server = Server()
    server.on(method, _hang)
    error, took = failure(server)
    assert isinstance(error, Transient)
    assert "did not answer within 10 s" in str(error)
    assert took == 10 + 1 + 10 + 2 + 10


def test_calls_that_wait_for_a_hanging_login_do_not_wait_in_turn() -> None:
    server = Server()
    server.on("auth.login", _hang)

    async def story(api: ClearmlApi, _: LoopClock) -> None:
        ends = await asyncio.gather(*(api.workers() for _ in range(4)), return_exceptions=True)
        assert [type(end) for end in ends] == [Transient] * 4

    assert play(server, story)[1] == 10 + 1 + 10 + 2 + 10


def test_an_answer_that_drips_is_given_up_at_the_deadline() -> None:
    async def drip() -> Any:
        while True:
            yield b" "
            await LoopClock().sleep(4)

    async def dripping(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drip())

    server = Server()
    server.on("workers.get_all", dripping)
    error, took = failure(server)
    assert isinstance(error, Transient)
    assert took == 33


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 1000)
    zipped = httpx.Response(
        200, content=gzip.compress(b" " * 5000), headers={"Content-Encoding": "gzip"}
    )

    async def bomb(_: httpx.Request) -> httpx.Response:
        return zipped

    server = Server()
    server.on("workers.get_all", bomb)
    error, _ = failure(server)
    assert isinstance(error, Transient)
    assert "more than 1000 bytes" in str(error)
