"""Logging in and keeping a valid token, seen through `workers`."""

import asyncio
import base64
from datetime import timedelta

import httpx
import pytest

from gpu_autoscaler.clearml.api import ClearmlApi, Credentials
from gpu_autoscaler.domain.errors import (
    Unauthorized,
)
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from tests.clearml.server import (
    EXPIRED,
    HOST,
    KEY,
    NOBODY,
    SECRET,
    TOKEN,
    Server,
    answer,
    failure,
    jwt,
    play,
    refusal,
    workers,
)


def bearers(server: Server) -> list[str]:
    return [request.headers["Authorization"] for request in server.requests("workers.get_all")]


def test_logs_in_with_basic_once_and_uses_the_token_then() -> None:
    server = Server()
    server.on("workers.get_all", NOBODY)

    async def story(api: ClearmlApi, clock: LoopClock) -> None:
        await api.workers()
        await clock.sleep(3600)
        await api.workers()

    play(server, story)
    assert server.asked == ["auth.login", "workers.get_all", "workers.get_all"]
    login = server.requests("auth.login")[0]
    assert login.headers["Authorization"] == (
        "Basic " + base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
    )
    assert bearers(server) == [f"Bearer {TOKEN}"] * 2


def test_calls_at_the_same_time_log_in_once() -> None:
    server = Server()

    async def slow_login(_: httpx.Request) -> httpx.Response:
        await LoopClock().sleep(2)
        return answer(token=TOKEN)

    server.on("auth.login", slow_login)
    server.on("workers.get_all", NOBODY)

    async def story(api: ClearmlApi, _: LoopClock) -> None:
        await asyncio.gather(*(api.workers() for _ in range(5)))

    play(server, story)
    assert server.asked.count("auth.login") == 1


def test_calls_refused_at_the_same_time_log_in_once_more_together() -> None:
    server = Server()
    server.on("auth.login", answer(token="old"), answer(token="new"))

    async def accepts_new(request: httpx.Request) -> httpx.Response:
        await LoopClock().sleep(1)
        return NOBODY if request.headers["Authorization"] == "Bearer new" else EXPIRED

    server.on("workers.get_all", accepts_new)

    async def story(api: ClearmlApi, _: LoopClock) -> None:
        await asyncio.gather(*(api.workers() for _ in range(5)))

    play(server, story)
    assert server.asked.count("auth.login") == 2


@pytest.mark.parametrize(
    ("age_of_token", "logins"),
    [(0, 1), (3600 - 361, 1), (3600 - 359, 2)],
)
@pytest.mark.parametrize("skew", [0, -90 * 86400, 90 * 86400])
def test_a_token_is_renewed_before_it_ends_whatever_the_servers_clock_says(
    age_of_token: float, logins: int, skew: float
) -> None:
    server = Server()
    server.on("workers.get_all", NOBODY)

    async def story(api: ClearmlApi, clock: LoopClock) -> None:
        issued = (clock.now() + timedelta(seconds=skew)).timestamp()
        server.on("auth.login", answer(token=jwt(iat=issued, exp=issued + 3600)))
        await api.workers()
        await clock.sleep(age_of_token)
        await api.workers()

    play(server, story)
    assert server.asked.count("auth.login") == logins


def test_a_token_without_a_time_of_issue_ends_by_our_clock() -> None:
    server = Server()
    server.on("workers.get_all", NOBODY)

    async def story(api: ClearmlApi, clock: LoopClock) -> None:
        server.on("auth.login", answer(token=jwt(exp=clock.now().timestamp() + 3600)))
        await api.workers()
        await clock.sleep(3599)
        await api.workers()

    play(server, story)
    assert server.asked.count("auth.login") == 2


def test_a_token_that_lives_a_minute_is_not_renewed_at_every_call() -> None:
    server = Server()
    server.on("auth.login", answer(token=jwt(iat=0, exp=60)))
    server.on("workers.get_all", NOBODY)

    async def story(api: ClearmlApi, clock: LoopClock) -> None:
        for _ in range(3):
            await api.workers()
            await clock.sleep(5)

    play(server, story)
    assert server.asked.count("auth.login") == 1


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "a.b.c",
        "a.bm90IGpzb24.c",
        "a.é.c".encode().hex(),
        jwt(exp="soon"),
        jwt(sub="me"),
        jwt(exp=1e300),
        jwt(exp=1e400),
        jwt(exp=float("nan")),
        jwt(exp=-1e300, iat=1e300),
    ],
)
def test_any_token_will_do(token: str) -> None:
    server = Server()
    server.on("auth.login", answer(token=token))
    server.on("workers.get_all", NOBODY)
    play(server, workers)
    assert bearers(server) == [f"Bearer {token}"]


def test_a_refused_token_is_replaced_once() -> None:
    server = Server()
    server.on("auth.login", answer(token="old"), answer(token="new"))
    server.on("workers.get_all", EXPIRED, NOBODY)
    play(server, workers)
    assert bearers(server) == ["Bearer old", "Bearer new"]


def test_a_server_that_refuses_every_token_is_not_asked_for_ever() -> None:
    server = Server()
    server.on("workers.get_all", EXPIRED)
    error, took = failure(server)
    assert isinstance(error, Unauthorized)
    assert "Signature has expired" in str(error)
    assert server.asked == ["auth.login", "workers.get_all"] * 2
    assert took == 0


def test_no_cookie_is_kept() -> None:
    server = Server()
    login = answer(token=TOKEN)
    login.headers["Set-Cookie"] = "clearml_token_basic=abc; Path=/; HttpOnly"
    server.on("auth.login", login)
    server.on("workers.get_all", NOBODY)
    play(server, workers)
    assert "Cookie" not in server.requests("workers.get_all")[0].headers


def test_a_wrong_key_tells_which_variables_to_check() -> None:
    server = Server()
    server.on("auth.login", refusal(401, 22, "Unauthorized (invalid credentials)"))
    error, _ = failure(server)
    assert isinstance(error, Unauthorized)
    for part in (
        "auth.login at clearml.test",
        "401",
        "invalid credentials",
        "GPU_AUTOSCALER_CLEARML_ACCESS_KEY",
        "GPU_AUTOSCALER_CLEARML_SECRET_KEY",
    ):
        assert part in str(error)
    assert server.asked == ["auth.login"]


def test_the_host_may_have_a_path_and_a_trailing_slash() -> None:
    seen: list[str] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return answer(token=TOKEN, user={"id": "u1", "name": "Ada"})

    async def story() -> str:
        api = ClearmlApi(
            f"{HOST}:8008/api/",
            Credentials(KEY, SECRET),
            LoopClock(),
            transport=httpx.MockTransport(handle),
        )
        async with api:
            return (await api.checks.identity()).name

    assert run_virtual(story()) == "Ada"
    assert seen == [
        f"{HOST}:8008/api/auth.login",
        f"{HOST}:8008/api/users.get_current_user",
    ]
