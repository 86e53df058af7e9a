"""What each endpoint of the emulated Scaleway reads from a request and answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response

from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import parse_new_server, parse_tags
from gpu_autoscaler.emulator.scaleway_state import ScratchVolume
from gpu_autoscaler.emulator.scaleway_wire import (
    image_json,
    link_header,
    scratch_json,
    security_group_json,
    server_json,
    task_json,
    type_json,
    volume_json,
)

PAGE_SIZE = 50
LARGEST_PAGE = 100
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read."""

    path: str
    params: Mapping[str, str]
    query: QueryParams
    body: bytes

    @property
    def zone(self) -> str:
        return self.params["zone"]

    @property
    def id(self) -> str:
        return self.params["id"]

    def json(self) -> Mapping[str, Any]:
        """Raises `Validation Error` when the body is not a JSON object."""
        try:
            body = json.loads(self.body or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise errors.validation({"body": ["expected a JSON object"]})
        return body

    def page(self, size_name: str) -> tuple[int, int]:
        """Number and size of the page that is asked for."""
        page = self._number("page", 1)
        size = self._number(size_name, PAGE_SIZE)
        if page < 1 or not 1 <= size <= LARGEST_PAGE:
            raise errors.invalid_arguments(size_name, f"must be between 1 and {LARGEST_PAGE}")
        return page, size

    def _number(self, name: str, default: int) -> int:
        try:
            return int(self.query.get(name) or default)
        except ValueError:
            raise errors.invalid_arguments(name, "must be a number") from None


class ScalewayApi:
    """The handlers, one per endpoint."""

    def __init__(self, model: ScalewayModel) -> None:
        self.model = model

    # --- instance v1

    def list_servers(self, ask: Ask) -> Response:
        query = ask.query
        servers = self.model.servers(
            ask.zone,
            project=query.get("project") or "",
            name=query.get("name") or "",
            tags=[tag for tag in (query.get("tags") or "").split(",") if tag],
            state=query.get("state") or "",
            oldest_first=query.get("order") == "creation_date_asc",
        )
        part, headers = _instance_page(ask, servers)
        return JSONResponse({"servers": [server_json(server) for server in part]}, headers=headers)

    def create_server(self, ask: Ask) -> Response:
        server = self.model.create_server(ask.zone, parse_new_server(ask.json()))
        headers = {"Location": f"{ask.path}/{server.id}"}
        return JSONResponse({"server": server_json(server)}, 201, headers)

    def get_server(self, ask: Ask) -> Response:
        return JSONResponse({"server": server_json(self.model.server(ask.zone, ask.id))})

    def update_server(self, ask: Ask) -> Response:
        body = ask.json()
        server = self.model.update_server(
            ask.zone,
            ask.id,
            name=body.get("name"),
            tags=parse_tags(body.get("tags")),
            protected=body.get("protected"),
        )
        return JSONResponse({"server": server_json(server)})

    def delete_server(self, ask: Ask) -> Response:
        self.model.delete_server(ask.zone, ask.id)
        return Response(status_code=204)

    def act(self, ask: Ask) -> Response:
        server = self.model.server(ask.zone, ask.id)
        self.model.act(ask.zone, ask.id, str(ask.json().get("action")))
        return JSONResponse({"task": task_json(server, self.model.timeline.now())}, 202)

    def list_user_data(self, ask: Ask) -> Response:
        server = self.model.server(ask.zone, ask.id)
        return JSONResponse({"user_data": list(server.user_data)})

    def get_user_data(self, ask: Ask) -> Response:
        key = ask.params["key"]
        content = self.model.server(ask.zone, ask.id).user_data.get(key)
        if content is None:
            raise errors.not_found("instance_user_data", key)
        return Response(content, media_type="text/plain")

    def set_user_data(self, ask: Ask) -> Response:
        self.model.server(ask.zone, ask.id).user_data[ask.params["key"]] = ask.body
        return Response(status_code=204)

    def delete_user_data(self, ask: Ask) -> Response:
        self.model.server(ask.zone, ask.id).user_data.pop(ask.params["key"], None)
        return Response(status_code=204)

    def list_types(self, ask: Ask) -> Response:
        part, headers = _instance_page(ask, self.model.catalog.in_zone(ask.zone))
        return JSONResponse(
            {"servers": {kind.name: type_json(kind) for kind in part}}, headers=headers
        )

    def list_availability(self, ask: Ask) -> Response:
        part, headers = _instance_page(ask, list(self.model.availability(ask.zone).items()))
        levels = {name: {"availability": level} for name, level in part}
        return JSONResponse({"servers": levels}, headers=headers)

    def get_local_volume(self, ask: Ask) -> Response:
        for server in self.model.all_servers():
            for volume in server.volumes.values():
                if volume.id == ask.id and isinstance(volume, ScratchVolume):
                    return JSONResponse({"volume": scratch_json(server, volume)})
        raise errors.not_found("instance_volume", ask.id)

    def list_security_groups(self, ask: Ask) -> Response:
        groups = self.model.security_groups(ask.zone, ask.query.get("project") or "")
        part, headers = _instance_page(ask, groups)
        shown = [security_group_json(group) for group in part]
        return JSONResponse({"security_groups": shown}, headers=headers)

    def list_ips(self, ask: Ask) -> Response:
        """Reserved addresses alone; dynamic ones show on their server only."""
        _, headers = _instance_page(ask, [])
        return JSONResponse({"ips": []}, headers=headers)

    # --- block v1

    def list_volumes(self, ask: Ask) -> Response:
        query = ask.query
        volumes = self.model.block.find(
            ask.zone,
            project=query.get("project_id") or "",
            name=query.get("name") or "",
            tags=query.getlist("tags"),
            server_id=query.get("product_resource_id") or "",
        )
        part = _part(volumes, *ask.page("page_size"))
        shown = [volume_json(volume) for volume in part]
        return JSONResponse({"volumes": shown, "total_count": len(volumes)})

    def get_volume(self, ask: Ask) -> Response:
        return JSONResponse(volume_json(self.model.block.get(ask.zone, ask.id)))

    def update_volume(self, ask: Ask) -> Response:
        body = ask.json()
        volume = self.model.block.update(
            ask.zone,
            ask.id,
            name=body.get("name"),
            tags=parse_tags(body.get("tags")),
            iops=body.get("perf_iops"),
        )
        return JSONResponse(volume_json(volume))

    def delete_volume(self, ask: Ask) -> Response:
        self.model.block.delete(ask.zone, ask.id)
        return Response(status_code=204)

    # --- marketplace v2

    def list_images(self, ask: Ask) -> Response:
        query = ask.query
        wanted = {
            "label": query.get("image_label"),
            "zone": query.get("zone"),
            "kind": query.get("type"),
            "arch": query.get("arch"),
        }
        images = [
            image
            for image in self.model.catalog.images
            if all(not value or getattr(image, key) == value for key, value in wanted.items())
        ]
        part = _part(images, *ask.page("page_size"))
        shown = [image_json(image) for image in part]
        return JSONResponse({"local_images": shown, "total_count": len(images)})


def _part(items: Sequence[Item], page: int, size: int) -> Sequence[Item]:
    return items[(page - 1) * size : page * size]


def _instance_page(ask: Ask, items: Sequence[Item]) -> tuple[Sequence[Item], dict[str, str]]:
    """The page that is asked for, and the headers that say where it stands."""
    page, size = ask.page("per_page")
    query = [(k, v) for k, v in ask.query.multi_items() if k not in ("page", "per_page")]
    path = ask.path.split(ask.zone, 1)[1]
    link = link_header(path, page, size, len(items), query)
    return _part(items, page, size), {"X-Total-Count": str(len(items)), "Link": link}
