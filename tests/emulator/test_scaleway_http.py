"""The emulated Scaleway's HTTP face: listings, keys, user data, the switchboard."""

from typing import Any

import httpx
import pytest

from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, scaleway_app
from gpu_autoscaler.runtime.clock import run_virtual
from tests.emulator.scaleway_rig import LONG, TYPE, ZONE, Rig, root_of

KEY = "11111111-2222-4333-8444-555555555555"
INSTANCE = f"/instance/v1/zones/{ZONE}"
BLOCK = f"/block/v1/zones/{ZONE}"


class Site(Rig):
    """A rig with its HTTP face, and a client."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = {KEY: FULL_ACCESS}
        self.faults = Faults()
        self.app = scaleway_app(self.model, self.faults, Calls(), self.keys)

    def ask(self, method: str, path: str, key: str = KEY, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            headers = {"X-Auth-Token": key}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://scaleway", headers=headers
            ) as client:
                return await client.request(method, path, **options)

        return run_virtual(send())


def test_a_server_listing_is_paged_with_its_filters() -> None:
    site = Site()
    for _ in range(60):
        site.create(tags=("fleet=a", "queue=x"))
    site.create(tags=("fleet=b",))
    query = {"tags": "fleet=a,queue=x", "order": "creation_date_desc"}
    first = site.ask("GET", f"{INSTANCE}/servers", params=query)
    second = site.ask("GET", f"{INSTANCE}/servers", params={**query, "page": "2"})
    assert first.headers["x-total-count"] == "60"
    assert [len(reply.json()["servers"]) for reply in (first, second)] == [50, 10]
    rest = "tags=fleet%3Da%2Cqueue%3Dx&order=creation_date_desc"
    assert first.headers["link"] == ",".join(
        f'</servers?page=2&per_page=50&{rest}>; rel="{name}"' for name in ("next", "last")
    )
    everything = site.ask("GET", f"{INSTANCE}/servers", params={"per_page": "100"})
    assert len(everything.json()["servers"]) == 61
    assert site.ask("GET", f"{INSTANCE}/servers", params={"per_page": "101"}).status_code == 400


def test_types_and_availability_come_in_three_pages() -> None:
    site = Site()
    for what in ("servers", "servers/availability"):
        pages = [
            site.ask("GET", f"{INSTANCE}/products/{what}", params={"page": str(page)})
            for page in (1, 2, 3)
        ]
        assert [len(page.json()["servers"]) for page in pages] == [50, 50, 35]
        assert "H100-SXM-4-80G" in pages[1].json()["servers"]
        assert pages[1].headers["link"] == ",".join(
            f'</products/{what}?page={page}&per_page=50&>; rel="{name}"'
            for page, name in ((1, "first"), (1, "previous"), (3, "next"), (3, "last"))
        )


def test_block_listing_answers_every_server_and_any_tag() -> None:
    site = Site()
    volumes = [root_of(site.create()) for _ in range(3)]
    for volume, tags in zip(volumes, (["a", "b"], ["b"], []), strict=True):
        site.ask("PATCH", f"{BLOCK}/volumes/{volume.id}", json={"tags": tags})
    found = site.ask("GET", f"{BLOCK}/volumes", params={"tags": ["a", "b"], "page_size": "1"})
    assert (len(found.json()["volumes"]), found.json()["total_count"]) == (1, 2)
    held = {"product_resource_id": str(volumes[2].server_id)}
    found = site.ask("GET", f"{BLOCK}/volumes", params=held)
    assert [volume["id"] for volume in found.json()["volumes"]] == [volumes[2].id]


def test_user_data_is_kept_as_bytes() -> None:
    site = Site()
    server = site.create()
    path = f"{INSTANCE}/servers/{server.id}/user_data"
    assert site.ask("GET", path).json() == {"user_data": []}
    script = b"#!/bin/sh\necho '\xc3\xa9'\n"
    reply = site.ask("PATCH", f"{path}/cloud-init", content=script)
    assert (reply.status_code, server.user_data) == (204, {"cloud-init": script})
    reply = site.ask("GET", f"{path}/cloud-init")
    assert (reply.content, reply.headers["content-type"][:10]) == (script, "text/plain")
    assert site.ask("DELETE", f"{path}/cloud-init").status_code == 204
    assert site.ask("GET", f"{path}/cloud-init").status_code == 404


def test_a_block_volume_is_unknown_to_the_instance_api() -> None:
    site = Site()
    reply = site.ask("GET", f"{INSTANCE}/volumes/{root_of(site.create()).id}")
    assert (reply.status_code, reply.json()["resource"]) == (404, "instance_volume")


@pytest.mark.parametrize(
    ("permissions", "method", "path", "status"),
    [
        (None, "GET", f"{INSTANCE}/servers", 401),
        (None, "GET", "/marketplace/v2/local-images", 200),
        ({"instance:read"}, "GET", f"{INSTANCE}/servers", 200),
        ({"instance:read"}, "POST", f"{INSTANCE}/servers", 403),
        ({"instance:read", "instance:write"}, "GET", f"{BLOCK}/volumes", 403),
    ],
)
def test_keys(permissions: set[str] | None, method: str, path: str, status: int) -> None:
    site = Site()
    site.keys.clear()
    if permissions is not None:
        site.keys[KEY] = frozenset(permissions)
    reply = site.ask(method, path)
    kinds = {200: None, 401: "denied_authentication", 403: "permissions_denied"}
    assert (reply.status_code, reply.json().get("type")) == (status, kinds[status])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"image": "x"}, "commercial_type"),
        ({"image": 1, "commercial_type": TYPE}, "image"),
        ({"image": "x", "commercial_type": TYPE, "tags": "a,b"}, "tags"),
        ({"image": "x", "commercial_type": TYPE, "volumes": []}, None),
        ([], "body"),
    ],
)
def test_a_malformed_order_names_the_field(body: object, problem: str | None) -> None:
    reply = Site().ask("POST", f"{INSTANCE}/servers", json=body)
    if problem is None:
        assert reply.json()["type"] == "not_found"
    else:
        assert (reply.status_code, list(reply.json()["fields"])) == (400, [problem])


def test_an_unknown_path_answers_in_json() -> None:
    reply = Site().ask("GET", "/iam/v1alpha1/policies")
    assert (reply.status_code, reply.json()["type"]) == (404, "not_found")


def test_a_rate_limited_call_has_no_body() -> None:
    site = Site()
    site.faults.add("rate_limited", "/servers")
    reply = site.ask("GET", f"{INSTANCE}/servers")
    assert (reply.status_code, reply.content) == (429, b"")


def test_the_switchboard() -> None:
    site = Site()
    server = site.running()
    stock = {"type": TYPE, "zone": ZONE, "stock": 0, "mode": "at_create"}
    assert site.ask("POST", "/_emulator/stock", json=stock).status_code == 200
    order = {"commercial_type": TYPE, "image": "ubuntu_jammy_gpu_os_12"}
    assert site.ask("POST", f"{INSTANCE}/servers", json=order).json()["type"] == "out_of_stock"
    quota = {"type": TYPE, "limit": 1}
    assert site.ask("POST", "/_emulator/quota", json=quota).status_code == 200
    assert site.ask("POST", f"{INSTANCE}/servers", json=order).json()["type"] == "quotas_exceeded"
    assert site.ask("POST", "/_emulator/stock", json={"type": TYPE}).status_code == 400
    assert site.ask("POST", f"/_emulator/servers/{server.name}/stop").status_code == 200
    assert server.state_detail == "stopping"
    assert site.ask("POST", f"/_emulator/servers/{server.id}/explode").status_code == 400
    site.turn(LONG)
    assert site.ask("GET", "/_emulator/bill").json()["servers_left"] == 1
    shown = site.ask("GET", "/_emulator/servers").json()["servers"]
    assert [(row["name"], row["state"]) for row in shown] == [(server.name, "stopped")]
