"""HTTP without a network: an httpx transport that asks an emulator in this process."""

import asyncio

import httpx
from starlette.types import ASGIApp, Message, Scope


class InMemoryTransport(httpx.AsyncBaseTransport):
    """Like `httpx.ASGITransport`, for whoever makes ten thousand requests.

    That one looks for a library of another event loop on the whole import path at every request,
    which takes longer than the emulator's answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        unread: list[Message] = [{"type": "http.request", "body": await request.aread()}]
        start: Message = {}
        body = bytearray()

        async def receive() -> Message:
            if not unread:
                await asyncio.Event().wait()  # the client leaves by being cancelled, with us
            return unread.pop()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._app(_scope(request), receive, send)
        return httpx.Response(start["status"], headers=start["headers"], content=bytes(body))


def _scope(request: httpx.Request) -> Scope:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "server": (url.host, url.port),
        "client": ("127.0.0.1", 0),
        "root_path": "",
    }
