"""The emulated ClearML server over HTTP: one route, any method, a JSON body."""

import json
import re
from http.cookies import SimpleCookie

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from gpu_autoscaler.emulator.clearml_auth import API_VERSION, COOKIE, Doorkeeper
from gpu_autoscaler.emulator.clearml_endpoints import ENDPOINTS, OPEN_TO_ALL, Ask
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_task_endpoints import TASK_ENDPOINTS
from gpu_autoscaler.emulator.clearml_wire import Json, RefusedError
from gpu_autoscaler.emulator.clearml_workers import LOOPBACK
from gpu_autoscaler.emulator.faults import Calls, FaultMiddleware, Faults, control_routes

PATH = re.compile(r"/(?:v(\d+\.\d+)/)?(\w+\.\w+)")
LOGIN, LOGOUT = "auth.login", "auth.logout"
COOKIE_SECONDS = 99_999_999_999
ALL_ENDPOINTS = {**ENDPOINTS, **TASK_ENDPOINTS}
VERSIONS = {name: since for name, (since, _) in ALL_ENDPOINTS.items()}
VERSIONS |= {LOGIN: "1.0", LOGOUT: "2.2"}
Headers = dict[str, str]

_ENCODER = json.JSONEncoder(separators=(",", ":"))


def clearml_app(
    model: ClearmlModel, faults: Faults | None = None, calls: Calls | None = None
) -> Starlette:
    """The ASGI application; `faults` and `calls` may be kept by the caller, to switch and count."""
    faults, calls = faults or Faults(), calls or Calls()
    middleware = Middleware(FaultMiddleware, faults=faults, calls=calls, clock=model.timeline.clock)
    routes = [*control_routes(faults, calls), Mount("/", app=_Api(model))]
    return Starlette(routes=routes, middleware=[middleware])


class _Api:
    """Every endpoint behind one door."""

    def __init__(self, model: ClearmlModel) -> None:
        self._model = model
        self._door = Doorkeeper(model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        headers.setdefault("x-forwarded-for", (scope.get("client") or (LOOPBACK, 0))[0])
        await self._reply(scope["path"], headers, bytes(body))(scope, receive, send)

    def _reply(self, path: str, headers: Headers, body: bytes) -> Response:
        if encoding := headers.get("content-encoding"):
            return PlainTextResponse(f"Content encoding is not supported ({encoding})", 415)
        self._model.timeline.advance()
        endpoint: Json = {"name": "", "requested_version": 1.0, "actual_version": None}
        data: Json = {}
        outcome = RefusedError(200, 0, "OK")
        try:
            name = _find(path, endpoint)
            data = self._data(name, headers, body)
        except RefusedError as refusal:
            outcome = refusal
        trx = self._model.ids.hex(32)
        meta = {
            "id": trx,
            "trx": trx,
            "endpoint": endpoint,
            "result_code": outcome.status,
            "result_subcode": outcome.subcode,
            "result_msg": outcome.message,
            "error_stack": None,
            "error_data": {},
        }
        content = _ENCODER.encode({"meta": meta, "data": data})
        reply = Response(content, outcome.status, media_type="application/json")
        if endpoint["name"] == LOGIN and data:
            reply.set_cookie(COOKIE, data["token"], max_age=COOKIE_SECONDS, httponly=True)
        return reply

    def _data(self, name: str, headers: Headers, body: bytes) -> Json:
        if name in OPEN_TO_ALL:
            user = self._model.user
        else:
            user = self._door.user_of(headers.get("authorization"), _cookie(headers))
        request = _parsed(body, headers.get("content-type", ""))
        if name == LOGIN:
            return {"token": self._door.issue(user, request.get("expiration_sec"))}
        if name == LOGOUT:
            self._door.revoke(headers.get("authorization"))
            return {}
        _, answer = ALL_ENDPOINTS[name]
        return answer(Ask(self._model, user, headers["x-forwarded-for"], request))


def _find(path: str, endpoint: Json) -> str:
    """The name of the endpoint at a path; notes what was found for the reply's envelope."""
    spelled = PATH.fullmatch(path)
    if spelled is None:
        raise RefusedError(400, 0, f"Invalid request path {path}")
    version, name = spelled[1] or API_VERSION, spelled[2]
    endpoint |= {"name": name, "requested_version": version}
    since = VERSIONS.get(name)
    if since is None or _number(version) < _number(since):
        problem = f"Unable to find endpoint for name {name} and version {version}"
        raise RefusedError(404, 0, problem)
    endpoint["actual_version"] = since
    return name


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _cookie(headers: Headers) -> str | None:
    morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    return morsel.value if morsel else None


def _parsed(body: bytes, content_type: str) -> Json:
    if not body:
        return {}
    try:
        if "json-lines" in content_type:
            return {"requests": [json.loads(line) for line in body.splitlines() if line]}
        request = json.loads(body)
    except ValueError:
        problem = "The browser (or proxy) sent a request that this server could not understand."
        raise RefusedError(400, 0, problem) from None
    if not isinstance(request, dict):
        raise RefusedError(500, 0, "Data should be a dict")
    return request
