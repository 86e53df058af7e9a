"""The daemon's HTTP surface: health, metrics, the API, and the status page.

Replies are made once per cycle and kept as bytes, so that many who ask cost the loop nothing.
"""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from importlib.resources import files
from typing import Any, Protocol

from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.requests import Answer, Request, RequestKind
from gpu_autoscaler.policy.explain import Explainer, Explanation
from gpu_autoscaler.reports.report import By
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.guard import Guard
from gpu_autoscaler.web.health import health_routes
from gpu_autoscaler.web.openapi import document
from gpu_autoscaler.web.status import STATUS, status

EXPLANATION = TypeAdapter(Explanation)

ASSET_TYPES = {"css": "text/css", "js": "text/javascript"}
"""Of the page's files beside `index.html`; all of them are packaged."""

PATIENCE = timedelta(seconds=45)
"""For the cycle that answers a request: one that reads slow services takes so long."""

NO_CYCLE_YET = "the daemon has only just started: ask again in some seconds"


class Daemon(Protocol):
    """What the surface needs of the loop."""

    @property
    def leads(self) -> bool: ...

    @property
    def interval(self) -> timedelta: ...

    @property
    def last(self) -> Cycle | None: ...

    def wake(self) -> None: ...

    async def ask(self, request: Request, within: timedelta) -> Answer | None: ...


class Costs(Protocol):
    """What has it cost? `web.costs.Costs`."""

    async def of(self, since: str, by: By) -> dict[str, Any]: ...


class Surface:
    """The handlers, over one daemon."""

    def __init__(
        self,
        daemon: Daemon,
        clock: Clock,
        exposition: Callable[[], tuple[bytes, str]],
        *,
        dry_run: bool = False,
        costs: Costs | None = None,
    ) -> None:
        self._costs = costs
        self._daemon, self._clock, self._exposition = daemon, clock, exposition
        self._dry_run = dry_run
        self._shown: tuple[Cycle, bytes, str] | None = None
        page = files("gpu_autoscaler.web") / "page"
        there = page.iterdir() if page.is_dir() else ()
        self._files = {each.name: each.read_bytes() for each in there if each.is_file()}

    def routes(self) -> list[BaseRoute]:
        """Every path but the health ones."""
        return [
            Route("/", self.page),
            Route("/costs", self.costs_page),
            Route("/page/{name}", self.asset),
            Route("/metrics", self.metrics),
            Route("/api/v1/openapi.json", self.openapi),
            Route("/api/v1/status", self.status),
            Route("/api/v1/explain/{name:path}", self.explain),
            Route("/api/v1/costs", self.costs),
            Route("/api/v1/reconcile", self.reconcile, methods=["POST"]),
            *self._request_routes("queues", RequestKind.PAUSE, RequestKind.RESUME),
            *self._request_routes(
                "instances", RequestKind.KEEP, RequestKind.RELEASE, RequestKind.STOP
            ),
        ]

    def _request_routes(self, noun: str, *kinds: RequestKind) -> list[BaseRoute]:
        return [
            Route(f"/api/v1/{noun}/{{name:path}}/{kind}", self._request(kind), methods=["POST"])
            for kind in kinds
        ]

    async def page(self, request: HttpRequest) -> Response:
        """`/`."""
        return Response(self._files["index.html"], media_type="text/html")

    async def costs_page(self, request: HttpRequest) -> Response:
        """`/costs`."""
        return Response(self._files["costs.html"], media_type="text/html")

    async def costs(self, request: HttpRequest) -> Response:
        """What a period has cost, and by what."""
        if self._costs is None:
            return _refused(503, "this daemon keeps no ledger")
        since = request.query_params.get("since", "month")
        by = request.query_params.get("by", By.DAY)
        if by not in list(By):
            return _refused(400, f"by: write {', '.join(By)}")
        try:
            return JSONResponse(await self._costs.of(since, By(by)))
        except ValueError as error:
            return _refused(400, f"since: {error}")
        except OSError as error:
            return _refused(503, str(error))

    async def asset(self, request: HttpRequest) -> Response:
        """What the page is made of."""
        name = request.path_params["name"]
        kind = ASSET_TYPES.get(name.rpartition(".")[2])
        if name not in self._files or kind is None:
            return _refused(404, "there is no such file")
        return Response(self._files[name], media_type=kind)

    async def metrics(self, request: HttpRequest) -> Response:
        """For Prometheus."""
        body, content_type = self._exposition()
        return Response(body, headers={"Content-Type": content_type})

    async def openapi(self, request: HttpRequest) -> Response:
        """What this API is."""
        return JSONResponse(document())

    async def status(self, request: HttpRequest) -> Response:
        """The last cycle."""
        cycle = self._daemon.last
        if cycle is None:
            return _refused(503, NO_CYCLE_YET)
        if self._shown is None or self._shown[0] is not cycle:
            body = STATUS.dump_json(status(cycle, dry_run=self._dry_run))
            self._shown = cycle, body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        _, body, tag = self._shown
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, media_type="application/json", headers={"ETag": tag})

    async def explain(self, request: HttpRequest) -> Response:
        """Why is it so?"""
        cycle = self._daemon.last
        if cycle is None:
            return _refused(503, NO_CYCLE_YET)
        explainer = Explainer(cycle.world, cycle.plan, cycle.config, self._clock.now())
        found = explainer.explain(request.path_params["name"])
        code = 404 if found.kind == "unknown" else 200
        return Response(EXPLANATION.dump_json(found), code, media_type="application/json")

    async def reconcile(self, request: HttpRequest) -> Response:
        """Begin the next cycle now."""
        self._daemon.wake()
        return _done("the next cycle begins now")

    def _request(self, kind: RequestKind) -> Callable[[HttpRequest], object]:
        async def handle(request: HttpRequest) -> Response:
            if self._dry_run:
                return _refused(409, "a dry run changes nothing: ask the daemon that acts")
            asked = Request(kind, request.path_params["name"])
            answer = await self._daemon.ask(asked, PATIENCE)
            if answer is None:
                return _refused(504, "no cycle has answered yet; what was asked is not forgotten")
            return _done(answer.sentence) if answer.obeyed else _refused(409, answer.sentence)

        return handle


def surface_app(
    daemon: Daemon,
    clock: Clock,
    token: str | None,
    exposition: Callable[[], tuple[bytes, str]],
    *,
    dry_run: bool = False,
    costs: Costs | None = None,
) -> Guard:
    """The whole surface behind its guard; without a token only this machine may ask."""
    surface = Surface(daemon, clock, exposition, dry_run=dry_run, costs=costs)
    handlers = {404: _not_found, 405: _wrong_method, 500: _broken}
    routes = [*health_routes(daemon, clock), *surface.routes()]
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token)


def _done(sentence: str) -> Response:
    return JSONResponse({"done": sentence})


def _refused(code: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status_code=code)


async def _not_found(request: HttpRequest, error: Exception) -> Response:
    return _refused(404, "there is nothing at this path; see /api/v1/openapi.json")


async def _wrong_method(request: HttpRequest, error: Exception) -> Response:
    return _refused(405, f"{request.method} is not for this path; see /api/v1/openapi.json")


async def _broken(request: HttpRequest, error: Exception) -> Response:
    return _refused(500, "a defect of the daemon: its log has the details")
