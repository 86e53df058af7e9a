"""The emulated Scaleway over HTTP: the endpoints a fleet needs, keys, faults and the switchboard.

Instance v1, block v1 and v1alpha1, marketplace v2 (local images). An unknown path is a 404 in
JSON.
"""

from collections.abc import Awaitable, Callable, MutableMapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.faults import Calls, FaultMiddleware, Faults, control_routes
from gpu_autoscaler.emulator.scaleway_api import Ask, ScalewayApi
from gpu_autoscaler.emulator.scaleway_control import scaleway_control_routes
from gpu_autoscaler.emulator.scaleway_errors import ScalewayError
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel

FULL_ACCESS = frozenset({"instance:read", "instance:write", "block:read", "block:write"})
"""What a key may do; the marketplace asks for no key."""
RESOURCES = {"instance": "server", "block": "volume"}
"""What a refused permission is said to be about."""

Keys = MutableMapping[str, frozenset[str]]
"""Permissions by secret key; may change while the app runs."""

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Ask], Response]


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
    zone = "/instance/v1/zones/{zone}"
    server = f"{zone}/servers/{{id}}"
    table: list[tuple[str, str, Handler]] = [
        ("GET", f"{zone}/servers", api.list_servers),
        ("POST", f"{zone}/servers", api.create_server),
        ("GET", server, api.get_server),
        ("PATCH", server, api.update_server),
        ("DELETE", server, api.delete_server),
        ("POST", f"{server}/action", api.act),
        ("GET", f"{server}/user_data", api.list_user_data),
        ("GET", f"{server}/user_data/{{key}}", api.get_user_data),
        ("PATCH", f"{server}/user_data/{{key}}", api.set_user_data),
        ("DELETE", f"{server}/user_data/{{key}}", api.delete_user_data),
        ("GET", f"{zone}/products/servers", api.list_types),
        ("GET", f"{zone}/products/servers/availability", api.list_availability),
        ("GET", f"{zone}/volumes/{{id}}", api.get_local_volume),
        ("GET", f"{zone}/security_groups", api.list_security_groups),
        ("GET", f"{zone}/ips", api.list_ips),
        ("GET", "/marketplace/v2/local-images", api.list_images),
    ]
    for version in ("v1", "v1alpha1"):
        volumes = f"/block/{version}/zones/{{zone}}/volumes"
        table += [
            ("GET", volumes, api.list_volumes),
            ("GET", f"{volumes}/{{id}}", api.get_volume),
            ("PATCH", f"{volumes}/{{id}}", api.update_volume),
            ("DELETE", f"{volumes}/{{id}}", api.delete_volume),
        ]
    return [
        Route(path, _endpoint(handler, path.split("/")[1], keys), methods=[method])
        for method, path, handler in table
    ]


def _endpoint(handler: Handler, product: str, keys: Keys) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if product in RESOURCES:
            _authorize(request, product, keys)
        body = await request.body()
        return handler(Ask(request.url.path, request.path_params, request.query_params, body))

    return endpoint


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
