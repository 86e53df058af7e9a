"""The switchboard of the emulated Scaleway: what the world does to it, over HTTP.

GET  /_emulator/bill
GET  /_emulator/servers                        name, state and placement of every server
POST /_emulator/servers/{id or name}/{what}    crash, standby, lock, stop, start, delete
POST /_emulator/stock        {"type", "zone", "stock": 0 | 3 | "shortage", "mode"?, "told"?}
POST /_emulator/quota        {"type", "limit": 2 | null, "figures"?}
POST /_emulator/listing_lag  {"seconds"}
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.emulator.faults import CONTROL_PREFIX
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_stock import StockMode

Setter = Callable[[ScalewayModel, Mapping[str, Any]], None]


def scaleway_control_routes(model: ScalewayModel) -> list[Route]:
    """The routes above, for one model."""
    events: dict[str, Callable[[str], None]] = {
        "crash": model.crash,
        "standby": model.standby,
        "lock": model.lock,
        "stop": model.person_stops,
        "start": model.person_starts,
        "delete": model.person_deletes,
    }

    async def show_bill(_: Request) -> Response:
        return JSONResponse(asdict(model.bill()))

    async def show_servers(_: Request) -> Response:
        rows = [
            {"id": s.id, "name": s.name, "state": s.state, "placement": str(s.placement)}
            for s in model.all_servers()
        ]
        return JSONResponse({"servers": rows})

    async def happen(request: Request) -> Response:
        which, event = request.path_params["which"], events.get(request.path_params["event"])
        if event is None:
            return JSONResponse({"error": f"one of {sorted(events)}"}, 400)
        named = [server.id for server in model.all_servers() if server.name == which]
        event(named[0] if named else which)
        return JSONResponse({})

    setters = {"stock": _set_stock, "quota": _set_quota, "listing_lag": _set_listing_lag}
    return [
        Route(f"{CONTROL_PREFIX}bill", show_bill, methods=["GET"]),
        Route(f"{CONTROL_PREFIX}servers", show_servers, methods=["GET"]),
        Route(f"{CONTROL_PREFIX}servers/{{which}}/{{event}}", happen, methods=["POST"]),
        *(
            Route(f"{CONTROL_PREFIX}{name}", _setting(model, setter), methods=["POST"])
            for name, setter in setters.items()
        ),
    ]


def _setting(model: ScalewayModel, setter: Setter) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            setter(model, json.loads(await request.body()))
        except (KeyError, TypeError, ValueError) as problem:
            return JSONResponse({"error": repr(problem)}, 400)
        return JSONResponse({})

    return endpoint


def _set_stock(model: ScalewayModel, body: Mapping[str, Any]) -> None:
    stock, told = body["stock"], body.get("told")
    model.set_stock(
        Placement(body["type"], body["zone"]),
        stock if isinstance(stock, int) else Availability(stock),
        StockMode(body.get("mode", StockMode.AT_POWERON)),
        told=Availability(told) if told else None,
    )


def _set_quota(model: ScalewayModel, body: Mapping[str, Any]) -> None:
    model.set_quota(body["type"], body["limit"], figures=body.get("figures", True))


def _set_listing_lag(model: ScalewayModel, body: Mapping[str, Any]) -> None:
    model.set_listing_lag(float(body["seconds"]))
