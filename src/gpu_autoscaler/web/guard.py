"""Who may ask: everything but the two health paths wants the token; and what every reply carries.

A plain ASGI layer, so that nothing behind it can be reached by another way.
"""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Asked by platforms, which have no token; they tell nothing but that the loop turns."""

MAX_BODY_BYTES = 4096
"""No request needs a body."""

CSRF_HEADER = "x-requested-with"
"""A browser sends the password of HTTP basic along with what other sites make it send, but lets
no other site set this header."""

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

ASK_FOR_PASSWORD = {"WWW-Authenticate": 'Basic realm="gpu-autoscaler", charset="UTF-8"'}


class Guard:
    """Wraps an ASGI app. Without a token only this machine may ask."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # there are no web sockets here, and no life span to speak of
        reply = self._refusal(scope)
        if reply is not None:
            await reply(scope, receive, _with_headers(send))
            return
        await self._app(scope, _bounded(receive), _with_headers(send))

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return _error(413, f"a request may have {MAX_BODY_BYTES} bytes")
        if scope["path"] in OPEN_PATHS:
            return None
        if self._token is None:
            if not _local(scope, headers):
                return _error(403, "set GPU_AUTOSCALER_API_TOKEN to ask from another machine")
            bearer = False
        else:
            given, bearer = _given(headers.get("authorization", ""))
            if not hmac.compare_digest(given, self._token.encode()):
                return _error(401, "the token is missing or wrong", ASK_FOR_PASSWORD)
        if scope["method"] == "POST" and not bearer and CSRF_HEADER not in headers:
            return _error(403, "send the header X-Requested-With, or the token as bearer")
        return None


def _given(authorization: str) -> tuple[bytes, bool]:
    """The token as it was given, and whether as bearer (else as the password of HTTP basic)."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode(), True
    if scheme.lower() != "basic":
        return b"", False
    try:
        _, _, password = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b"", False
    return password, False


def _local(scope: Scope, headers: Headers) -> bool:
    """Whether a program on this machine asks: not through a proxy, nor a browser that another
    site made believe that its name is this machine."""
    client = scope.get("client")
    try:
        loopback = client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        loopback = False
    host = headers.get("host", "").rsplit(":", 1)[0] if "host" in headers else "localhost"
    return loopback and host in LOCAL_HOSTS and "x-forwarded-for" not in headers


def _error(
    status: int, sentence: str, headers: MutableMapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)


def _bounded(receive: Receive) -> Receive:
    """A body without a length is cut off at the same bound."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            return {"type": "http.disconnect"}
        return message

    return limited


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
