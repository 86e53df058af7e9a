"""A small API of the status page's contract, for its tests: what a browser talks to."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import gpu_autoscaler.web
from gpu_autoscaler.commands.serving import bind, served

PAGE = Path(gpu_autoscaler.web.__file__).parent / "page"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

NOW = datetime(2026, 11, 28, 14, 10, tzinfo=UTC)
"""What the browser's clock shows when a test begins."""

Json = dict[str, Any]


def ago(**age: float) -> str:
    """ISO 8601, so long before NOW."""
    return (NOW - timedelta(**age)).isoformat().replace("+00:00", "Z")


def queue(name: str, **values: Any) -> Json:
    return {
        "name": name,
        "reason": "no_demand",
        "because": "no task waits",
        "waiting": 0,
        "oldest_since": None,
        "busy": 0,
        "capacity": 0,
        "billed": 0,
        "max_instances": 3,
        "paused_since": None,
        "tasks": [],
    } | values


def task(key: str, name: str, **values: Any) -> Json:
    return {
        "id": key,
        "name": name,
        "url": f"https://app.clear.ml/projects/*/experiments/{key}",
        "since": ago(minutes=12),
    } | values


def instance(name: str, state: str = "idle", **values: Any) -> Json:
    since = values.get("since", ago(minutes=18))
    return {
        "name": name,
        "queue": "H100-1-80G",
        "type": "H100-1-80G",
        "zone": "fr-par-2",
        "state": state,
        "since": since,
        "reason": "idle_timeout",
        "because": "idle, and may be for 30 min",
        "task": None,
        "next": None,
        "eur_per_hour": 2.73,
        "hands_off": "",
        "actions": ["keep", "stop"],
        "timeline": [{"state": state, "since": since}],
    } | values


def nothing() -> Json:
    """The state of a fleet that sleeps."""
    return {
        "fleet": "research",
        "version": "0.1.0",
        "at": ago(seconds=8),
        "poll_interval_seconds": 30,
        "leads": True,
        "dry_run": False,
        "problems": [],
        "money": {"eur_per_hour": 0.0, "month": "2026-11", "spent_eur": 312.5, "saved_eur": 900.1},
        "queues": [queue("H100-1-80G")],
        "instances": [],
        "decisions": [],
    }


@dataclass
class Api:
    """What it answers, and what it was asked. Written by the test, read by the server's thread."""

    status: Json = field(default_factory=nothing)
    explanations: dict[str, Json] = field(default_factory=dict)
    refusal: str = ""
    """When set, deeds are refused with it."""
    costs: Callable[[str], Json] = lambda by: {}
    """By what the rows are; an empty one refuses."""
    posts: list[str] = field(default_factory=list)
    not_modified: int = 0

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        text = (PAGE / name).read_text()
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(text, media_type=KINDS[Path(name).suffix], headers=headers)

    async def costs_page(self, request: Request) -> Response:
        request.path_params["name"] = "costs.html"
        return await self.page(request)

    async def get_costs(self, request: Request) -> Response:
        found = self.costs(request.query_params["by"])
        if not found:
            return JSONResponse({"error": "since: write today"}, status_code=400)
        return JSONResponse(found)

    async def get_status(self, request: Request) -> Response:
        body = json.dumps(self.status)
        etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            self.not_modified += 1
            return Response(status_code=304, headers={"ETag": etag})
        return Response(body, media_type="application/json", headers={"ETag": etag})

    async def explain(self, request: Request) -> Response:
        name = subject(request, "/api/v1/explain/")
        found = self.explanations.get(name)
        if found is None:
            return JSONResponse({"error": f"nothing is called {name}"}, status_code=404)
        return JSONResponse(found)

    async def post(self, request: Request) -> Response:
        if request.headers.get("x-requested-with") != "gpu-autoscaler":
            return JSONResponse({"error": "not from the page"}, status_code=403)
        raw = request.scope["raw_path"].decode().removeprefix("/api/v1/")
        self.posts.append(raw)
        if self.refusal:
            return JSONResponse({"error": self.refusal}, status_code=409)
        return JSONResponse({"done": f"did {unquote(raw)}"})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/costs", self.costs_page),
                Route("/api/v1/costs", self.get_costs),
                Route("/page/{name}", self.page),
                Route("/api/v1/status", self.get_status),
                Route("/api/v1/explain/{name:path}", self.explain),
                Route("/api/v1/{deed:path}", self.post, methods=["POST"]),
            ]
        )


def subject(request: Request, prefix: str) -> str:
    """The name in the path as the browser encoded it, slashes included."""
    raw: bytes = request.scope["raw_path"]
    return unquote(raw.decode().removeprefix(prefix))


class Served:
    """The API on a free port, in a thread of its own, while the block runs or until `stop`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        async with served(self._api.app(), bind("127.0.0.1", 0)) as port:
            self.url = f"http://127.0.0.1:{port}/"
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
