"""What errors show, and what they never show."""

import traceback
from collections.abc import Awaitable, Callable

import httpx
import pytest

from gpu_autoscaler.clearml.api import Credentials
from gpu_autoscaler.domain.errors import (
    Transient,
)
from tests.clearml.server import (
    KEY,
    SECRET,
    TOKEN,
    Server,
    answer,
    failure,
    refusal,
)


def test_messages_are_one_short_printable_line() -> None:
    server = Server()
    server.on("workers.get_all", httpx.Response(400, text="a\x1b[31m\r\n\tb\x00" + "z" * 5000))
    error, _ = failure(server)
    assert str(error).isprintable()
    assert "a [31m b z" in str(error)
    assert len(str(error)) < 250


def _echo(status: int, meta: bool) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
    """A debugging page that shows the request's headers and credentials."""

    async def reply(request: httpx.Request) -> httpx.Response:
        shown = f"{request.headers['Authorization']} {SECRET}"
        return refusal(status, 0, shown) if meta else httpx.Response(status, text=shown)

    return reply


@pytest.mark.parametrize("method", ["auth.login", "workers.get_all"])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
@pytest.mark.parametrize("meta", [True, False])
def test_no_error_shows_a_secret(method: str, status: int, meta: bool) -> None:
    server = Server()
    server.on(method, _echo(status, meta))
    error, _ = failure(server)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    for secret in (SECRET, TOKEN, Credentials(KEY, SECRET).basic):
        assert secret not in shown


@pytest.mark.parametrize(
    "login",
    [
        httpx.Response(200, json={"data": {"token": TOKEN}}),
        answer(token=f"{TOKEN}\r\nX-Evil: 1"),
        answer(token=[TOKEN]),
        httpx.Response(200, text=f'{{"data": {{"token": "{TOKEN}"'),
        httpx.Response(200, json={**refusal(400, 0, TOKEN).json(), "data": {"token": TOKEN}}),
    ],
)
def test_a_broken_login_does_not_show_the_token(login: httpx.Response) -> None:
    server = Server()
    server.on("auth.login", login)
    error, _ = failure(server)
    assert isinstance(error, Transient)
    assert TOKEN not in "".join(traceback.format_exception(error))


def test_an_exception_that_quotes_a_header_is_cleaned() -> None:
    server = Server()
    quote = httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}'")
    server.on("workers.get_all", quote)
    error, _ = failure(server)
    assert TOKEN not in "".join(traceback.format_exception(error))


def test_credentials_do_not_show_in_a_repr() -> None:
    shown = repr(Credentials(KEY, SECRET))
    assert SECRET not in shown
    assert KEY not in shown
