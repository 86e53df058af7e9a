"""The emulated replies have the keys and the JSON types of the real ones."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpu_autoscaler.domain.model import VolumeKind
from gpu_autoscaler.emulator.scaleway_order import NewVolume
from tests.emulator.scaleway_rig import GB, LONG, TYPE, ZONE, root_of
from tests.emulator.test_scaleway_http import BLOCK, INSTANCE, Site

RECORDED = Path(__file__).parents[2] / ".." / "shared" / "examples" / "scaleway"
MAYBE_STR = str | None

REF = {"id": str, "name": str}
IMAGE = {
    **dict.fromkeys(("id", "name", "organization", "project", "arch", "state", "zone"), str),
    **dict.fromkeys(("creation_date", "modification_date", "from_server"), str),
    "root_volume": {"volume_type": str, "id": str, "size": int, "name": str},
    "extra_volumes": {},
    "public": bool,
    "default_bootscript": type(None),
    "tags": [str],
}
SERVER = {
    **dict.fromkeys(("id", "name", "arch", "commercial_type", "boot_type", "hostname"), str),
    **dict.fromkeys(("organization", "project", "state", "state_detail", "zone", "dns"), str),
    **dict.fromkeys(("mac_address", "creation_date", "modification_date"), str),
    **{key: type(None) for key in ("ipv6", "private_ip", "bootscript", "placement_group")},
    **dict.fromkeys(("protected", "routed_ip_enabled", "dynamic_ip_required"), bool),
    **dict.fromkeys(("enable_ipv6", "end_of_service"), bool),
    **{key: [] for key in ("extra_networks", "maintenances", "private_nics", "filesystems")},
    "image": IMAGE,
    "volumes": {
        "0": {"boot": bool, "volume_type": str, "id": str, "state": str, "zone": str},
        "1": {
            **dict.fromkeys(("id", "name", "volume_type", "organization", "project"), str),
            **dict.fromkeys(("state", "creation_date", "modification_date", "zone"), str),
            "boot": bool,
            "export_uri": type(None),
            "server": REF,
            "size": int,
            "tags": [str],
        },
    },
    "tags": [str],
    "public_ip": dict,
    "public_ips": [dict],
    "security_group": REF,
    "location": dict.fromkeys(
        ("zone_id", "platform_id", "cluster_id", "hypervisor_id", "node_id"), str
    ),
    "allowed_actions": [str],
}
TASK = {
    **dict.fromkeys(("id", "description", "status", "href_from", "href_result"), str),
    **dict.fromkeys(("started_at", "zone"), str),
    "terminated_at": type(None),
    "progress": int,
}
VOLUME = {
    **dict.fromkeys(("id", "name", "type", "project_id", "created_at", "updated_at"), str),
    **dict.fromkeys(("status", "zone"), str),
    "size": int,
    "references": [
        {
            **dict.fromkeys(("id", "product_resource_type", "product_resource_id"), str),
            **dict.fromkeys(("created_at", "type", "status"), str),
        }
    ],
    "parent_snapshot_id": MAYBE_STR,
    "tags": [str],
    "specs": {"perf_iops": int, "class": str},
    "last_detached_at": MAYBE_STR,
    "kms_key_id": type(None),
}
SIZES = {"min_size": int, "max_size": int}
TYPE_SHAPE = {
    **dict.fromkeys(("ncpus", "ram", "gpu", "block_bandwidth"), int),
    **dict.fromkeys(("scratch_storage_max_size", "scratch_storage_max_volumes_count"), int),
    "alt_names": [],
    "arch": str,
    "gpu_info": {"gpu_manufacturer": str, "gpu_name": str, "gpu_memory": int},
    "mig_profile": type(None),
    "volumes_constraint": SIZES,
    "per_volume_constraint": {"l_ssd": SIZES},
    "monthly_price": float,
    "hourly_price": float,
    "capabilities": {
        "boot_types": [str],
        **dict.fromkeys(("placement_groups", "block_storage"), bool),
        "hot_snapshots_local_volume": bool,
        **dict.fromkeys(("private_network", "max_file_systems"), int),
    },
    "network": {
        "ipv6_support": bool,
        "sum_internal_bandwidth": int,
        "sum_internet_bandwidth": int,
        "interfaces": [{"internal_bandwidth": int, "internet_bandwidth": int}],
    },
    "end_of_service": bool,
}
LOCAL_IMAGE = {
    **dict.fromkeys(("id", "arch", "zone", "label", "type"), str),
    "compatible_commercial_types": [str],
}


def fits(shape: Any, value: Any, path: str = "") -> list[str]:
    """Where a JSON value differs from a shape: keys too many or few, other types."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{path}: not an object"]
        odd = [f"{path}.{key}: only on one side" for key in sorted(shape.keys() ^ value.keys())]
        common = shape.keys() & value.keys()
        return odd + [w for key in common for w in fits(shape[key], value[key], f"{path}.{key}")]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        return [w for item in value if shape for w in fits(shape[0], item, f"{path}[]")]
    good = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
    return [] if good else [f"{path}: {value!r} is not {shape}"]


def shape_of(value: Any) -> Any:
    """The shape of a recorded value; what was null may be anything."""
    if isinstance(value, dict):
        return {key: shape_of(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return object if value is None else type(value)


@cache
def replies() -> dict[str, Any]:
    """One reply of each kind, from a running server with scratch and one being terminated."""
    site = Site()
    volumes = {"0": NewVolume(size=125 * GB), "1": NewVolume(VolumeKind.SCRATCH, 100 * GB)}
    server = site.running(volumes=volumes, tags=("a",))
    path = f"{INSTANCE}/servers/{server.id}"
    volume = f"{BLOCK}/volumes/{root_of(server).id}"
    images = {"image_label": "ubuntu_jammy_gpu_os_12", "zone": ZONE}
    found = {
        "server": site.ask("GET", path).json()["server"],
        "listed server": site.ask("GET", f"{INSTANCE}/servers").json()["servers"][0],
        "volume in use": site.ask("GET", volume).json(),
        "listed volume": site.ask("GET", f"{BLOCK}/volumes").json()["volumes"][0],
        "type": site.ask("GET", f"{INSTANCE}/products/servers").json()["servers"][TYPE],
        "image": site.ask("GET", "/marketplace/v2/local-images", params=images).json()[
            "local_images"
        ][0],
        "task": site.ask("POST", f"{path}/action", json={"action": "terminate"}).json()["task"],
    }
    site.turn(LONG)
    return found | {
        "free volume": site.ask("GET", volume).json(),
        "server not found": site.ask("GET", path).json(),
        "volume not found": site.ask("GET", f"{BLOCK}/volumes/{server.id}").json(),
    }


@pytest.mark.parametrize(
    ("reply", "shape"),
    [
        ("server", SERVER),
        ("listed server", SERVER),
        ("volume in use", VOLUME),
        ("listed volume", VOLUME),
        ("free volume", VOLUME),
        ("task", TASK),
        ("type", TYPE_SHAPE),
        ("image", LOCAL_IMAGE),
    ],
)
def test_shape(reply: str, shape: Any) -> None:
    assert fits(shape, replies()[reply]) == []


@pytest.mark.parametrize(
    ("reply", "resource"),
    [("server not found", "instance_server"), ("volume not found", "volume")],
)
def test_a_404_says_what_is_missing(reply: str, resource: str) -> None:
    body = replies()[reply]
    missing = {"type": "not_found", "message": "resource is not found", "resource": resource}
    assert body == {**missing, "resource_id": body["resource_id"]}


def recorded(name: str, *keys: str | int) -> Any:
    """One part of a recorded exchange."""
    part = json.loads((RECORDED / name).read_text())
    for key in keys:
        part = part[key]
    return part


LIFE = "02_gpu_lifecycle_states.json"
TYPES = "06_gpu_server_types_and_availability_2026-07-30.json"


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")
@pytest.mark.parametrize(
    ("reply", "where"),
    [
        ("server", (LIFE, "exchanges", 3, "response", "body", "server")),
        ("task", (LIFE, "exchanges", 0, "response", "body", "task")),
        ("free volume", (LIFE, "exchanges", 8, "response", "body")),
        ("server not found", (LIFE, "exchanges", 6, "response", "body")),
        ("type", (TYPES, "gpu_types_by_zone", ZONE, TYPE)),
    ],
)
def test_shape_of_the_recording(reply: str, where: tuple[str | int, ...]) -> None:
    name, *keys = where
    shape = shape_of(recorded(str(name), *keys))
    shape.pop("_availability", None)  # joined to the recording of the types by its author
    assert fits(shape, replies()[reply]) == []


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not here")
def test_prices_and_constraints_of_the_recording() -> None:
    site = Site()
    for zone, kinds in recorded(TYPES, "gpu_types_by_zone").items():
        emulated: dict[str, Any] = {}
        for page in ("1", "2", "3"):
            path = f"/instance/v1/zones/{zone}/products/servers"
            emulated |= site.ask("GET", path, params={"page": page}).json()["servers"]
        assert kinds.keys() == {name for name, kind in emulated.items() if kind["gpu"]}
        for name, kind in kinds.items():
            odd = {
                key
                for key, value in emulated[name].items()
                if kind[key] != (pytest.approx(value) if isinstance(value, float) else value)
            }
            allowed = {"capabilities"}
            if name == "RENDER-S":  # boots on local disks too, which are not emulated
                allowed |= {"volumes_constraint", "per_volume_constraint"}
            assert odd <= allowed, name
