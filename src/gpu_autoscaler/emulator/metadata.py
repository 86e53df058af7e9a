"""The metadata service of the emulated Scaleway: what a server is told at 169.254.42.42.

Whom it answers is known by the address it is asked from, as with the real one. Its configuration
anybody on the server may read; user data, where secrets stand, only root: it is read and written
from ports below 1024.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gpu_autoscaler.emulator.scaleway_state import Server

FIRST_UNPRIVILEGED_PORT = 1024

Endpoint = Callable[[Request, Server], Awaitable[Response]]


def metadata_app(server_at: Callable[[str], Server | None]) -> ASGIApp:
    """The service for the servers that `server_at` finds by their address."""

    def asked(path: str, endpoint: Endpoint, *methods: str, root: bool = True) -> Route:
        async def answer(request: Request) -> Response:
            host, port = request.client or ("", FIRST_UNPRIVILEGED_PORT)
            server = server_at(host)
            if server is None:
                return Response(status_code=404)
            if root and port >= FIRST_UNPRIVILEGED_PORT:
                return Response("forbidden: ask from a port below 1024\n", 403)
            return await endpoint(request, server)

        return Route(path, answer, methods=list(methods))

    return Starlette(
        routes=[
            asked("/conf", _configuration, "GET", root=False),
            asked("/user_data", _keys, "GET"),
            asked("/user_data/{key}", _value, "GET", "PATCH", "DELETE"),
        ]
    )


async def _configuration(request: Request, server: Server) -> Response:
    if request.query_params.get("format") != "json":
        return Response("only format=json is emulated\n", 400)
    return JSONResponse(configuration(server))


async def _keys(_: Request, server: Server) -> Response:
    return JSONResponse({"user_data": list(server.user_data)})


async def _value(request: Request, server: Server) -> Response:
    key = request.path_params["key"]
    if request.method == "PATCH":
        server.user_data[key] = await request.body()
        return Response(status_code=204)
    if key not in server.user_data:
        return Response(status_code=404)
    if request.method == "DELETE":
        del server.user_data[key]
        return Response(status_code=204)
    return Response(server.user_data[key], media_type="text/plain")


def configuration(server: Server) -> dict[str, Any]:
    """What /conf says: no secret, but all that cloud-init's data source asks for."""
    volumes = {
        slot: {"id": volume.id, "name": volume.name, "volume_type": volume.kind.value}
        for slot, volume in server.volumes.items()
    }
    return {
        "id": server.id,
        "name": server.name,
        "hostname": server.name,
        "commercial_type": server.commercial_type,
        "organization": server.project,
        "project": server.project,
        "tags": list(server.tags),
        "state_detail": server.state_detail,
        "public_ip": {"address": server.public_ip.address} if server.public_ip else None,
        "ipv6": None,
        "ssh_public_keys": [],
        "volumes": volumes,
    }
