"""What each endpoint of the emulated Scaleway reads from a request and answers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.scaleway_iam import key_json, project_json, quota_rows
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
    body: bytes = b""
    document: Mapping[str, Any] | None = None
    """The body's JSON object, from a caller who never wrote it down."""

    @property
    def zone(self) -> str:
        return self.params["zone"]

    @property
    def id(self) -> str:
        return self.params["id"]

    def json(self) -> Mapping[str, Any]:
        """Raises `Validation Error` when the body is not a JSON object."""
        if self.document is not None:
            return self.document
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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that nobody has written down yet."""

    content: Mapping[str, Any] | bytes | None = None
    """A JSON object, plain text, or nothing."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


DONE = Reply(status=204)
Handler = Callable[[Ask], Reply]


class ScalewayApi:
    """The handlers, one per endpoint."""

    def __init__(self, model: ScalewayModel) -> None:
        self.model = model

    def endpoints(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each."""
        zone = "/instance/v1/zones/{zone}"
        server = f"{zone}/servers/{{id}}"
        table: list[tuple[str, str, Handler]] = [
            ("GET", f"{zone}/servers", self.list_servers),
            ("POST", f"{zone}/servers", self.create_server),
            ("GET", server, self.get_server),
            ("PATCH", server, self.update_server),
            ("DELETE", server, self.delete_server),
            ("POST", f"{server}/action", self.act),
            ("GET", f"{server}/user_data", self.list_user_data),
            ("GET", f"{server}/user_data/{{key}}", self.get_user_data),
            ("PATCH", f"{server}/user_data/{{key}}", self.set_user_data),
            ("DELETE", f"{server}/user_data/{{key}}", self.delete_user_data),
            ("GET", f"{zone}/products/servers", self.list_types),
            ("GET", f"{zone}/products/servers/availability", self.list_availability),
            ("GET", f"{zone}/volumes/{{id}}", self.get_local_volume),
            ("GET", f"{zone}/security_groups", self.list_security_groups),
            ("GET", f"{zone}/security_groups/{{id}}", self.get_security_group),
            ("GET", f"{zone}/ips", self.list_ips),
            ("DELETE", f"{zone}/volumes/{{id}}", self.delete_local_volume),
            ("GET", "/marketplace/v2/local-images", self.list_images),
            ("GET", "/iam/v1alpha1/api-keys/{id}", self.get_key),
            ("GET", "/iam/v1alpha1/quota", self.list_quota),
            ("GET", "/account/v3/projects/{id}", self.get_project),
        ]
        for version in ("v1", "v1alpha1"):
            volumes = f"/block/{version}/zones/{{zone}}/volumes"
            table += [
                ("GET", volumes, self.list_volumes),
                ("GET", f"{volumes}/{{id}}", self.get_volume),
                ("PATCH", f"{volumes}/{{id}}", self.update_volume),
                ("DELETE", f"{volumes}/{{id}}", self.delete_volume),
            ]
        return table

    # --- instance v1

    def list_servers(self, ask: Ask) -> Reply:
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
        return Reply({"servers": [server_json(server) for server in part]}, headers=headers)

    def create_server(self, ask: Ask) -> Reply:
        server = self.model.create_server(ask.zone, parse_new_server(ask.json()))
        headers = {"Location": f"{ask.path}/{server.id}"}
        return Reply({"server": server_json(server)}, 201, headers)

    def get_server(self, ask: Ask) -> Reply:
        return Reply({"server": server_json(self.model.server(ask.zone, ask.id))})

    def update_server(self, ask: Ask) -> Reply:
        body = ask.json()
        server = self.model.update_server(
            ask.zone,
            ask.id,
            name=body.get("name"),
            tags=parse_tags(body.get("tags")),
            protected=body.get("protected"),
        )
        return Reply({"server": server_json(server)})

    def delete_server(self, ask: Ask) -> Reply:
        self.model.delete_server(ask.zone, ask.id)
        return DONE

    def act(self, ask: Ask) -> Reply:
        server = self.model.server(ask.zone, ask.id)
        self.model.act(ask.zone, ask.id, str(ask.json().get("action")))
        return Reply({"task": task_json(server, self.model.timeline.now())}, 202)

    def list_user_data(self, ask: Ask) -> Reply:
        server = self.model.server(ask.zone, ask.id)
        return Reply({"user_data": list(server.user_data)})

    def get_user_data(self, ask: Ask) -> Reply:
        key = ask.params["key"]
        content = self.model.server(ask.zone, ask.id).user_data.get(key)
        if content is None:
            raise errors.not_found("instance_user_data", key)
        return Reply(content)

    def set_user_data(self, ask: Ask) -> Reply:
        self.model.server(ask.zone, ask.id).user_data[ask.params["key"]] = ask.body
        return DONE

    def delete_user_data(self, ask: Ask) -> Reply:
        self.model.server(ask.zone, ask.id).user_data.pop(ask.params["key"], None)
        return DONE

    def list_types(self, ask: Ask) -> Reply:
        part, headers = _instance_page(ask, self.model.catalog.in_zone(ask.zone))
        return Reply({"servers": {kind.name: type_json(kind) for kind in part}}, headers=headers)

    def list_availability(self, ask: Ask) -> Reply:
        part, headers = _instance_page(ask, list(self.model.availability(ask.zone).items()))
        levels = {name: {"availability": level} for name, level in part}
        return Reply({"servers": levels}, headers=headers)

    def get_local_volume(self, ask: Ask) -> Reply:
        for server in self.model.all_servers():
            for volume in server.volumes.values():
                if volume.id == ask.id and isinstance(volume, ScratchVolume):
                    return Reply({"volume": scratch_json(server, volume)})
        raise errors.not_found("instance_volume", ask.id)

    def delete_local_volume(self, ask: Ask) -> Reply:
        """Scratch goes with its server, and none is ever left: every one there is, is held."""
        self.get_local_volume(ask)
        raise errors.precondition("instance", "resource_still_in_use", "it is attached")

    def list_security_groups(self, ask: Ask) -> Reply:
        groups = self.model.security_groups(ask.zone, ask.query.get("project") or "")
        part, headers = _instance_page(ask, groups)
        shown = [security_group_json(group) for group in part]
        return Reply({"security_groups": shown}, headers=headers)

    def get_security_group(self, ask: Ask) -> Reply:
        group = self.model.security_group(ask.zone, ask.id)
        return Reply({"security_group": security_group_json(group)})

    def list_ips(self, ask: Ask) -> Reply:
        """Reserved addresses alone; dynamic ones show on their server only."""
        _, headers = _instance_page(ask, [])
        return Reply({"ips": []}, headers=headers)

    # --- block v1

    def list_volumes(self, ask: Ask) -> Reply:
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
        return Reply({"volumes": shown, "total_count": len(volumes)})

    def get_volume(self, ask: Ask) -> Reply:
        return Reply(volume_json(self.model.block.get(ask.zone, ask.id)))

    def update_volume(self, ask: Ask) -> Reply:
        body = ask.json()
        volume = self.model.block.update(
            ask.zone,
            ask.id,
            name=body.get("name"),
            tags=parse_tags(body.get("tags")),
            iops=body.get("perf_iops"),
        )
        return Reply(volume_json(volume))

    def delete_volume(self, ask: Ask) -> Reply:
        self.model.block.delete(ask.zone, ask.id)
        return DONE

    # --- IAM and account

    def get_key(self, ask: Ask) -> Reply:
        return Reply(key_json(ask.id, self.model.key_expires_at))

    def list_quota(self, ask: Ask) -> Reply:
        wanted = ask.query.getlist("quotum_names")
        rows = [row for row in quota_rows(self.model) if not wanted or row["name"] in wanted]
        part = _part(rows, *ask.page("page_size"))
        return Reply({"quota": part, "total_count": len(rows)})

    def get_project(self, ask: Ask) -> Reply:
        return Reply(project_json(ask.id))

    # --- marketplace v2

    def list_images(self, ask: Ask) -> Reply:
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
        return Reply({"local_images": shown, "total_count": len(images)})


def _part(items: Sequence[Item], page: int, size: int) -> Sequence[Item]:
    return items[(page - 1) * size : page * size]


def _instance_page(ask: Ask, items: Sequence[Item]) -> tuple[Sequence[Item], dict[str, str]]:
    """The page that is asked for, and the headers that say where it stands."""
    page, size = ask.page("per_page")
    query = [(k, v) for k, v in ask.query.multi_items() if k not in ("page", "per_page")]
    path = ask.path.split(ask.zone, 1)[1]
    link = link_header(path, page, size, len(items), query)
    return _part(items, page, size), {"X-Total-Count": str(len(items)), "Link": link}
