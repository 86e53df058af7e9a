"""The emulated Scaleway over HTTP: the endpoints a fleet needs, keys, faults and the switchboard.

Instance v1, block v1 and v1alpha1, marketplace v2 (local images), a little of IAM and account. An
unknown path is a 404 in JSON.
"""

from collections.abc import Awaitable, Callable, MutableMapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.faults import Calls, FaultMiddleware, Faults, control_routes
from gpu_autoscaler.emulator.scaleway_api import Ask, Handler, Reply, ScalewayApi
from gpu_autoscaler.emulator.scaleway_control import scaleway_control_routes
from gpu_autoscaler.emulator.scaleway_errors import ScalewayError
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel

FLEET_ACCESS = frozenset({"instance:read", "instance:write", "block:read", "block:write"})
"""What InstancesFullAccess and BlockStorageFullAccess on the project allow."""
FULL_ACCESS = FLEET_ACCESS | {"iam:read", "account:read"}
"""What a key may do; the marketplace asks for no key."""
RESOURCES = {"instance": "server", "block": "volume", "iam": "organization", "account": "project"}
"""What a refused permission is said to be about."""

Keys = MutableMapping[str, frozenset[str]]
"""Permissions by secret key; may change while the app runs."""

Endpoint = Callable[[Request], Awaitable[Response]]


def scaleway_app(model: ScalewayModel, faults: Faults, calls: Calls, keys: Keys) -> ASGIApp:
    """The API of `model`, for the secret keys in `keys`, going wrong as `faults` say."""
    routes = [
        *_api_routes(ScalewayApi(model), keys),
        *scaleway_control_routes(model),
        *control_routes(faults, calls),
    ]
    handlers = {ScalewayError: _refusal, 404: _unknown_path}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return FaultMiddleware(app, faults, calls, model.timeline.clock)


def _api_routes(api: ScalewayApi, keys: Keys) -> list[Route]:
    return [
        Route(path, _endpoint(handler, path.split("/")[1], keys), methods=[method])
        for method, path, handler in api.endpoints()
    ]


def _endpoint(handler: Handler, product: str, keys: Keys) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if product in RESOURCES:
            _authorize(request, product, keys)
        body = await request.body()
        ask = Ask(request.url.path, request.path_params, request.query_params, body)
        return _written(handler(ask))

    return endpoint


def _written(reply: Reply) -> Response:
    if reply.content is None:
        return Response(status_code=reply.status)
    if isinstance(reply.content, bytes):
        return Response(reply.content, reply.status, media_type="text/plain")
    return JSONResponse(reply.content, reply.status, reply.headers)


def _authorize(request: Request, product: str, keys: Keys) -> None:
    permissions = keys.get(request.headers.get("x-auth-token", ""))
    if permissions is None:
        raise errors.denied_authentication()
    action = "read" if request.method in ("GET", "HEAD") else "write"
    if f"{product}:{action}" not in permissions:
        raise errors.permissions_denied(action, RESOURCES[product])


async def _refusal(_: Request, error: Exception) -> Response:
    if not isinstance(error, ScalewayError):
        raise error
    return JSONResponse(error.body, error.status)


async def _unknown_path(request: Request, _: Exception) -> Response:
    return JSONResponse(errors.not_found("path", request.url.path).body, 404)
