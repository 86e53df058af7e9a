"""A Scaleway small enough to read: enough of three APIs for the adapter's tests.

It answers through respx, keeps servers and volumes, lets time pass as recorded (21 s to start,
16 s to terminate), and can be told to fail a call, before or after doing what was asked.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import httpx
import respx

from gpu_autoscaler.domain.model import CreateOrder, FleetTags, Placement
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.scaleway.api import ScalewayApi

API = "https://api.scaleway.com"
ZONE = "fr-par-2"
PROJECT = "7c499ed1-0331-4425-83aa-29b5824753e4"
SECRET = "5e9ce7a0-1111-4222-8333-444455556666"
FLEET = FleetTags("research")
QUEUE = "H100-1-80G"
TAGS = FLEET.of_instance(QUEUE, "abc123")
SECONDS_TO_START, SECONDS_TO_STOP, SECONDS_TO_DETACH = 21, 16, 5

ORDER = CreateOrder(
    name="h100-1-80g-0a1b2c",
    queue=QUEUE,
    placement=Placement(QUEUE, ZONE),
    image="ubuntu_jammy_gpu_os_12",
    volume_bytes=200_000_000_000,
    volume_iops=15000,
    tags=TAGS,
)

NOT_FOUND = {"type": "not_found", "message": "resource is not found", "resource": "x"}
OUT_OF_STOCK = {"type": "out_of_stock", "message": "resource is out of stock", "resource": "x"}
TRANSIENT = {
    "type": "transient_state",
    "message": "resource is in a transient state",
    "current_state": "updating",
}
STILL_IN_USE = {
    "type": "precondition_failed",
    "message": "precondition is not respected",
    "precondition": "resource_still_in_use",
}


def refuse(status: int, body: Any = None) -> httpx.Response:
    return httpx.Response(status, text="" if body is None else json.dumps(body))


def server_json(server_id: str = "s1", **changes: Any) -> dict[str, Any]:
    """A server with all keys of a recorded one."""
    return {
        "id": server_id,
        "name": ORDER.name,
        "arch": "x86_64",
        "commercial_type": QUEUE,
        "boot_type": "local",
        "organization": PROJECT,
        "project": PROJECT,
        "hostname": ORDER.name,
        "image": None,
        "volumes": {"0": slot_json("v1")},
        "tags": list(TAGS),
        "state": "stopped",
        "protected": False,
        "state_detail": "",
        "public_ip": None,
        "public_ips": [],
        "mac_address": "de:00:00:00:00:01",
        "routed_ip_enabled": True,
        "ipv6": None,
        "extra_networks": [],
        "dynamic_ip_required": True,
        "enable_ipv6": False,
        "private_ip": None,
        "creation_date": "2026-09-07T08:00:00.221012+00:00",
        "modification_date": "2026-09-07T08:00:05.221012+00:00",
        "bootscript": None,
        "security_group": {"id": "sg", "name": "Default security group"},
        "location": None,
        "maintenances": [],
        "allowed_actions": ["poweron", "backup"],
        "placement_group": None,
        "private_nics": [],
        "zone": ZONE,
        "filesystems": [],
        "end_of_service": False,
        "dns": f"{server_id}.pub.instances.scw.cloud",
    } | changes


def slot_json(volume_id: str, kind: str = "sbs_volume") -> dict[str, Any]:
    return {
        "boot": False,
        "volume_type": kind,
        "id": volume_id,
        "state": "available",
        "zone": ZONE,
    }


def volume_json(volume_id: str = "v1", held_by: str | None = "s1", **changes: Any) -> Any:
    """A block volume with all keys of a recorded one."""
    reference = {
        "id": "r1",
        "product_resource_type": "instance_server",
        "product_resource_id": held_by,
        "created_at": "2026-09-07T08:00:00.221012Z",
        "type": "exclusive",
        "status": "attached",
    }
    return {
        "id": volume_id,
        "name": "Ubuntu Jammy GPU OS 12 passthrough_sbs_volume_0",
        "type": "sbs_5k",
        "size": 200_000_000_000,
        "project_id": PROJECT,
        "created_at": "2026-09-07T08:00:00.221012Z",
        "updated_at": "2026-09-07T08:00:00.221012Z",
        "references": [reference] if held_by else [],
        "parent_snapshot_id": "p1",
        "status": "in_use" if held_by else "available",
        "tags": list(FLEET.of_volume(QUEUE)),
        "specs": {"perf_iops": 5000, "class": "sbs"},
        "last_detached_at": None,
        "kms_key_id": None,
        "zone": ZONE,
    } | changes


def image_json(**changes: Any) -> dict[str, Any]:
    return {
        "id": "image-1",
        "arch": "x86_64",
        "zone": ZONE,
        "compatible_commercial_types": ["L40S-1-48G", QUEUE],
        "label": "ubuntu_jammy_gpu_os_12",
        "type": "instance_sbs",
    } | changes


@dataclass
class Fault:
    """What a call meets instead of its normal answer."""

    answer: httpx.Response | Exception | None = None
    done: bool = False
    """True: what was asked happens, only the answer is lost or wrong."""
    delay: float = 0
    """Seconds until the answer, with `done` after the deed."""


@dataclass
class Cloud:
    servers: dict[str, Any] = field(default_factory=dict)
    volumes: dict[str, Any] = field(default_factory=dict)
    local_volumes: dict[str, Any] = field(default_factory=dict)
    user_data: dict[str, bytes] = field(default_factory=dict)
    """Of any server: no test has two with some."""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By step ("POST servers"), used up in order."""
    task: dict[str, Any] = field(default_factory=dict)
    """What is said of an action that began."""
    steps: list[str] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    _later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fail(self, step: str, *answers: httpx.Response | Exception, done: bool = False) -> None:
        self.faults.setdefault(step, []).extend(Fault(answer, done) for answer in answers)

    def changes(self) -> list[str]:
        """The steps that were not reads."""
        return [step for step in self.steps if not step.startswith("GET")]

    def body(self, step: str) -> Any:
        """The JSON that the first request of this step carried."""
        return json.loads(self.requests[self.steps.index(step)].content)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self._advance()
        path = request.url.path.strip("/").split("/")
        step = _step(request, path)
        self.steps.append(step)
        self.requests.append(request)
        fault = self.faults[step].pop(0) if self.faults.get(step) else Fault(done=True)
        answer = self._answer(request, path) if fault.done else None
        await LoopClock().sleep(fault.delay)
        if isinstance(fault.answer, Exception):
            raise fault.answer
        chosen = fault.answer or answer
        assert chosen is not None
        return chosen

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [event for when, event in self._later if when <= now]
        self._later = [(when, event) for when, event in self._later if when > now]
        for event in due:
            event()

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        self._later.append((asyncio.get_running_loop().time() + seconds, event))

    def _answer(self, request: httpx.Request, path: list[str]) -> httpx.Response:
        api, method = path[0], request.method
        if api == "marketplace":
            return httpx.Response(200, json={"local_images": [image_json()], "total_count": 1})
        shelf = self.volumes if api == "block" else self.local_volumes
        shelf = self.servers if path[4] == "servers" else shelf
        if len(path) == 5:
            return self._create(request) if method == "POST" else self._list(request, path[4])
        thing = shelf.get(path[5])
        if thing is None:
            return refuse(404, NOT_FOUND)
        if len(path) > 6:
            if path[6] == "action":
                return self._act(request, thing)
            return self._user_data(method, path[7], request.content)
        if method == "DELETE":
            return self._delete(shelf, thing)
        if method == "PATCH":
            thing |= json.loads(request.content)
        name = {"servers": "server", "volumes": "volume"}[path[4]]
        return httpx.Response(200, json=thing if api == "block" else {name: thing})

    def _user_data(self, method: str, key: str, content: bytes) -> httpx.Response:
        if method == "PATCH":
            self.user_data[key] = content
        elif key not in self.user_data:
            return refuse(404, NOT_FOUND)
        elif method == "DELETE":
            del self.user_data[key]
        else:
            return httpx.Response(200, content=self.user_data[key])
        return httpx.Response(204)

    def _list(self, request: httpx.Request, key: str) -> httpx.Response:
        query = parse_qs(request.url.query.decode())
        if key == "servers":
            tags = set(query["tags"][0].split(","))
            found = [raw for raw in self.servers.values() if tags <= set(raw["tags"])]
            headers = {"X-Total-Count": str(len(found))}
            return httpx.Response(200, json={key: found}, headers=headers)
        tags = set(query["tags"])
        found = [raw for raw in self.volumes.values() if tags & set(raw["tags"])]
        return httpx.Response(200, json={key: found, "total_count": len(found)})

    def _create(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        number = next(self._ids)
        server_id, volume_id = f"s{number}", f"v{number}"
        self.volumes[volume_id] = volume_json(volume_id, server_id, tags=[])
        self.servers[server_id] = server_json(
            server_id,
            name=asked["name"],
            tags=asked["tags"],
            volumes={"0": slot_json(volume_id)},
        )
        return httpx.Response(201, json={"server": self.servers[server_id]})

    def _act(self, request: httpx.Request, server: Any) -> httpx.Response:
        action, state = json.loads(request.content)["action"], server["state"]
        allowed = {
            "poweron": ("stopped", "stopped in place"),
            "poweroff": ("running", "stopped in place"),
            "terminate": ("running", "stopped in place"),
        }[action]
        if state not in allowed:
            text = "server should be stopped" if action == "poweron" else "server should be running"
            return refuse(400, {"type": "invalid_request_error", "message": text})
        if action == "poweron":
            server |= {"state": "starting", "state_detail": "allocating node"}
            self._after(SECONDS_TO_START, lambda: server.update(state="running"))
        elif action == "poweroff":
            server |= {"state": "stopping", "state_detail": "stopping"}
            self._after(SECONDS_TO_STOP, lambda: server.update(state="stopped"))
        else:
            server |= {"state": "stopping", "state_detail": "terminating"}
            self._after(SECONDS_TO_STOP, lambda: self._vanish(server))
        return httpx.Response(202, json={"task": {"description": "fake task", **self.task}})

    def _delete(self, shelf: dict[str, Any], thing: Any) -> httpx.Response:
        if shelf is self.servers:
            if thing["state"] != "stopped":
                return refuse(400, STILL_IN_USE)
            self._vanish(thing)
            return httpx.Response(204)
        if thing.get("references"):
            return refuse(412, STILL_IN_USE)
        del shelf[thing["id"]]
        return httpx.Response(204)

    def _vanish(self, server: Any) -> None:
        del self.servers[server["id"]]
        for slot in server["volumes"].values():
            volume = self.volumes.get(slot["id"])
            if volume:
                volume["references"] = [{**volume["references"][0], "status": "detaching"}]
                free = partial(volume.update, references=[], status="available")
                self._after(SECONDS_TO_DETACH, free)


def _step(request: httpx.Request, path: list[str]) -> str:
    """ "GET server", "POST servers", "POST poweron", "PATCH user_data", "DELETE volume", …"""
    if path[-1] == "action":
        return f"POST {json.loads(request.content)['action']}"
    if "user_data" in path:
        return f"{request.method} user_data"
    if path[0] == "marketplace":
        return "GET images"
    local = "local " if path[0] == "instance" and path[4] == "volumes" else ""
    return f"{request.method} {local}{path[4] if len(path) == 5 else path[4][:-1]}"


@contextmanager
def _routed(cloud: Cloud) -> Iterator[None]:
    with respx.mock(assert_all_called=False) as router:
        router.route(url__startswith=API).mock(side_effect=cloud.handle)
        yield


def play(cloud: Cloud, scene: Callable[[ScalewayApi], Coroutine[Any, Any, Any]]) -> Any:
    """Run a scene against the cloud in virtual time; its result."""

    async def main() -> Any:
        async with ScalewayApi(SECRET, PROJECT, FLEET, LoopClock()) as api:
            return await scene(api)

    with _routed(cloud):
        return run_virtual(main())
