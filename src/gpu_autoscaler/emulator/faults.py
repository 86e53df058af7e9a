"""What can go wrong between a client and an emulated service, on request, and a log of the calls.

One ASGI middleware for both emulators. Everything under `/_emulator/` is the switchboard: never
logged, never failing.
"""

import asyncio
import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_autoscaler.domain.clock import Clock

CONTROL_PREFIX = "/_emulator/"
LONGEST_LOG = 200_000
"""Calls kept one by one: a day of a busy daemon; the counters go on beyond it."""
FOREVER_SECONDS = 86_400.0
"""Longer than any client waits."""
FROM_A_PROXY = (502, 503, 504)
"""These come from what stands before the service, and speak HTML."""


class FaultKind(StrEnum):
    """How a call goes wrong."""

    ERROR = "error"
    """`status`, as plain text (the service) or HTML (a proxy); the call has no effect."""
    RATE_LIMITED = "rate_limited"
    """429 with an empty body; the call has no effect."""
    TIMEOUT = "timeout"
    """No answer ever; the call has no effect."""
    SLOW = "slow"
    """The answer comes `seconds` late."""
    TRUNCATED = "truncated"
    """The right answer, cut in half."""
    EMPTY = "empty"
    """A listing comes back without its items."""
    LOST_REPLY = "lost_reply"
    """The call takes effect, but the client gets a proxy's 502."""


@dataclass(slots=True)
class Fault:
    """One rule: how the calls it matches go wrong."""

    kind: FaultKind
    match: str = ""
    """A regular expression searched in "METHOD /path?query"; empty matches every call."""
    count: int | None = None
    """How many calls are still to go wrong; None: all until the rule is removed."""
    status: int = 500
    seconds: float = 5.0

    def __post_init__(self) -> None:
        self.kind = FaultKind(self.kind)
        re.compile(self.match)


@dataclass(slots=True)
class Faults:
    """The rules in force; the first that matches a call applies, and only that one."""

    rules: list[Fault] = field(default_factory=list)

    def add(self, kind: FaultKind | str, match: str = "", **options: Any) -> Fault:
        """Put a rule in force; `options` are the other fields of `Fault`."""
        fault = Fault(FaultKind(kind), match, **options)
        self.rules.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Take a rule out of force; nothing happens when it has worn off by itself."""
        self.rules = [rule for rule in self.rules if rule is not fault]

    def clear(self) -> None:
        """All is well again."""
        self.rules.clear()

    def draw(self, call: str) -> Fault | None:
        """The fault that hits this call, if any; uses up one of its `count`."""
        for fault in self.rules:
            if re.search(fault.match, call):
                if fault.count is not None:
                    fault.count -= 1
                    if fault.count <= 0:
                        self.remove(fault)
                return fault
        return None


@dataclass(frozen=True, slots=True)
class Call:
    """One request that reached the emulator, whatever became of it."""

    at: datetime
    method: str
    path: str


class Calls:
    """Log and count of the requests, the faulty ones included."""

    def __init__(self) -> None:
        self.log: deque[Call] = deque(maxlen=LONGEST_LOG)
        self.counts: Counter[str] = Counter()
        """By "METHOD /path", without the query."""

    def __iter__(self) -> Iterator[Call]:
        return iter(self.log)

    def add(self, call: Call) -> None:
        """Note one request."""
        self.log.append(call)
        self.counts[f"{call.method} {call.path}"] += 1

    def count(self, match: str = "") -> int:
        """How many requests had `match` (a regular expression) in "METHOD /path"."""
        return sum(n for call, n in self.counts.items() if re.search(match, call))

    def clear(self) -> None:
        """Forget them."""
        self.log.clear()
        self.counts.clear()


class FaultMiddleware:
    """Logs every call to the app behind it, and lets it go wrong as the rules say."""

    def __init__(self, app: ASGIApp, faults: Faults, calls: Calls, clock: Clock) -> None:
        self.app = app
        self.faults = faults
        self.calls = calls
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX):
            await self.app(scope, receive, send)
            return
        call = Call(self.clock.now(), scope["method"], scope["path"])
        self.calls.add(call)
        if not self.faults.rules:
            await self.app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        fault = self.faults.draw(f"{call.method} {call.path}{'?' if query else ''}{query}")
        if fault is None:
            await self.app(scope, receive, send)
        else:
            await self._go_wrong(fault, scope, receive, send)

    async def _go_wrong(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        reply: Response
        match fault.kind:
            case FaultKind.ERROR:
                reply = _error(fault.status)
            case FaultKind.RATE_LIMITED:
                reply = Response(status_code=429)
            case FaultKind.TIMEOUT:
                await self._wait_until_client_leaves(receive)
                reply = _error(504)
            case FaultKind.SLOW:
                await self.clock.sleep(fault.seconds)
                await self.app(scope, receive, send)
                return
            case FaultKind.LOST_REPLY:
                await _answer_of(self.app, scope, receive)
                reply = _error(502)
            case FaultKind.TRUNCATED | FaultKind.EMPTY:
                reply = await _answer_of(self.app, scope, receive)
                body = bytes(reply.body)
                emptied = fault.kind is FaultKind.EMPTY
                reply.body = _without_items(body) if emptied else body[: len(body) // 2]
                if emptied and "x-total-count" in reply.headers:
                    reply.headers["x-total-count"] = "0"
                reply.headers["content-length"] = str(len(reply.body))
        await reply(scope, receive, send)

    async def _wait_until_client_leaves(self, receive: Receive) -> None:
        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        waits = [
            asyncio.ensure_future(leave()),
            asyncio.ensure_future(self.clock.sleep(FOREVER_SECONDS)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _error(status: int) -> Response:
    if status in FROM_A_PROXY:
        return HTMLResponse(f"<html><body><h1>{status}</h1></body></html>", status)
    return PlainTextResponse("Failed processing request", status)


async def _answer_of(app: ASGIApp, scope: Scope, receive: Receive) -> Response:
    """Let the app answer, but keep the answer here."""
    start: Message = {"status": 500, "headers": []}
    body = bytearray()

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, keep)
    reply = Response(bytes(body), start["status"])
    reply.raw_headers = list(start["headers"])
    return reply


def _without_items(body: bytes) -> bytes:
    """A JSON listing with its lists emptied, also one level down (ClearML's `data`)."""
    listing = json.loads(body)
    for part in (listing, listing.get("data") or {}):
        for key, value in part.items():
            if isinstance(value, list):
                part[key] = []
            elif key == "total_count":
                part[key] = 0
    return json.dumps(listing).encode()


def control_routes(faults: Faults, calls: Calls) -> list[Route]:
    """The switchboard over HTTP: `GET calls`; `GET`, `POST` (add one), `DELETE` (all) `faults`."""

    async def show_calls(_: Request) -> Response:
        log = [[call.at.isoformat(), call.method, call.path] for call in calls]
        return JSONResponse({"counts": calls.counts, "log": log})

    async def change_faults(request: Request) -> Response:
        if request.method == "DELETE":
            faults.clear()
        elif request.method == "POST":
            try:
                faults.add(**json.loads(await request.body()))
            except (TypeError, ValueError, re.error) as problem:
                return JSONResponse({"error": str(problem)}, 400)
        return JSONResponse({"faults": [asdict(fault) for fault in faults.rules]})

    return [
        Route(f"{CONTROL_PREFIX}calls", show_calls, methods=["GET"]),
        Route(f"{CONTROL_PREFIX}faults", change_faults, methods=["GET", "POST", "DELETE"]),
    ]
