"""How the emulated things look as JSON: keys and types as in the recordings."""

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import Any
from urllib.parse import urlencode

from gpu_autoscaler.emulator.scaleway_catalog import GIB, MIB, LocalImage, ServerType
from gpu_autoscaler.emulator.scaleway_state import (
    PROJECT,
    BlockVolume,
    PublicIp,
    ScratchVolume,
    SecurityGroup,
    Server,
)

Json = dict[str, Any]

IMAGE_OWNER = "00000000-0000-4000-8000-0000000000bb"
IMAGE_DATE = "2026-05-13T07:00:00.221012+00:00"
NO_TASK = "00000000-0000-0000-0000-000000000000"
HOURS_PER_MONTH = 730
GBIT = 10**9


def instance_time(moment: datetime) -> str:
    """As the instance API writes it."""
    return moment.isoformat(timespec="microseconds")


def block_time(moment: datetime) -> str:
    """As the block API writes it."""
    return instance_time(moment).replace("+00:00", "Z")


def server_json(server: Server) -> Json:
    return {
        "id": server.id,
        "name": server.name,
        "arch": server.image.arch,
        "commercial_type": server.commercial_type,
        "boot_type": "local",
        "organization": PROJECT,
        "project": server.project,
        "hostname": server.name,
        "image": _image_of_server_json(server.image),
        "volumes": {slot: _slot_json(server, v) for slot, v in server.volumes.items()},
        "tags": list(server.tags),
        "state": server.state,
        "protected": server.protected,
        "state_detail": server.state_detail,
        "public_ip": _ip_json(server.public_ip) if server.public_ip else None,
        "public_ips": [_ip_json(server.public_ip)] if server.public_ip else [],
        "mac_address": f"de:00:00:{server.id[:2]}:{server.id[2:4]}:{server.id[4:6]}",
        "routed_ip_enabled": True,
        "ipv6": None,
        "extra_networks": [],
        "dynamic_ip_required": server.dynamic_ip_required,
        "enable_ipv6": False,
        "private_ip": None,
        "creation_date": instance_time(server.created_at),
        "modification_date": instance_time(server.modified_at),
        "bootscript": None,
        "security_group": {"id": server.security_group.id, "name": server.security_group.name},
        "location": _location_json(server),
        "maintenances": [],
        "allowed_actions": list(server.allowed_actions),
        "placement_group": None,
        "private_nics": [],
        "zone": server.zone,
        "filesystems": [],
        "end_of_service": False,
        "dns": f"{server.id}.pub.instances.scw.cloud",
    }


def _location_json(server: Server) -> Json | None:
    if not server.has_node or server.state_detail == "allocating node":
        return None
    return {
        "zone_id": server.zone,
        "platform_id": "30",
        "cluster_id": "41",
        "hypervisor_id": "1501",
        "node_id": "7",
    }


def _image_of_server_json(image: LocalImage) -> Json:
    return {
        "id": image.id,
        "name": image.name,
        "organization": IMAGE_OWNER,
        "project": IMAGE_OWNER,
        "root_volume": {
            "volume_type": "sbs_snapshot",
            "id": image.snapshot_id,
            "size": 0,
            "name": "",
        },
        "extra_volumes": {},
        "public": True,
        "arch": image.arch,
        "creation_date": IMAGE_DATE,
        "modification_date": IMAGE_DATE,
        "default_bootscript": None,
        "from_server": "",
        "state": "available",
        "tags": [],
        "zone": image.zone,
    }


def _slot_json(server: Server, volume: BlockVolume | ScratchVolume) -> Json:
    if isinstance(volume, ScratchVolume):
        return {"boot": False, **scratch_json(server, volume)}
    return {
        "boot": volume.boot,
        "volume_type": "sbs_volume",
        "id": volume.id,
        "state": "available",
        "zone": volume.zone,
    }


def scratch_json(server: Server, volume: ScratchVolume) -> Json:
    """A local volume as the instance API shows it."""
    return {
        "id": volume.id,
        "name": volume.name,
        "volume_type": "scratch",
        "export_uri": None,
        "organization": PROJECT,
        "project": server.project,
        "server": {"id": server.id, "name": server.name},
        "size": volume.size,
        "state": "deleting" if server.terminating else "available",
        "creation_date": instance_time(volume.created_at),
        "modification_date": instance_time(server.modified_at),
        "tags": [],
        "zone": server.zone,
    }


def _ip_json(ip: PublicIp) -> Json:
    return {
        "id": ip.id,
        "address": ip.address,
        "gateway": None,
        "netmask": "32",
        "family": "inet",
        "dynamic": True,
        "provisioning_mode": "dhcp",
        "tags": [],
        "ipam_id": None,
        "state": "attached",
    }


def task_json(server: Server, now: datetime) -> Json:
    """The answer to an action: a task that cannot be asked for."""
    return {
        "id": NO_TASK,
        "description": "fake task",
        "status": "pending",
        "href_from": f"/servers/{server.id}/action",
        "href_result": f"/servers/{server.id}",
        "started_at": instance_time(now),
        "terminated_at": None,
        "progress": 0,
        "zone": server.zone,
    }


def volume_json(volume: BlockVolume) -> Json:
    reference = {
        "id": volume.reference_id,
        "product_resource_type": "instance_server",
        "product_resource_id": volume.server_id,
        "created_at": block_time(volume.created_at),
        "type": "exclusive",
        "status": "detaching" if volume.detaching else "attached",
    }
    return {
        "id": volume.id,
        "name": volume.name,
        "type": f"sbs_{volume.iops // 1000}k",
        "size": volume.size,
        "project_id": volume.project,
        "created_at": block_time(volume.created_at),
        "updated_at": block_time(volume.updated_at),
        "references": [reference] if volume.server_id else [],
        "parent_snapshot_id": volume.snapshot_id,
        "status": volume.status,
        "tags": list(volume.tags),
        "specs": {"perf_iops": volume.iops, "class": "sbs"},
        "last_detached_at": block_time(volume.detached_at) if volume.detached_at else None,
        "kms_key_id": None,
        "zone": volume.zone,
    }


def type_json(kind: ServerType) -> Json:
    internet = int(kind.internet_gbps * GBIT)
    gpu_info = {
        "gpu_manufacturer": "NVIDIA",
        "gpu_name": kind.gpu_name,
        "gpu_memory": kind.gpu_gib * GIB,
    }
    return {
        "alt_names": [],
        "arch": "x86_64",
        "ncpus": kind.cores,
        "ram": kind.ram_gib * GIB,
        "gpu": kind.gpus,
        "gpu_info": gpu_info if kind.gpus else None,
        "mig_profile": None,
        "volumes_constraint": {"min_size": 0, "max_size": 0},
        "per_volume_constraint": {"l_ssd": {"min_size": 0, "max_size": 0}},
        "scratch_storage_max_size": kind.scratch_bytes,
        "scratch_storage_max_volumes_count": 1 if kind.scratch_bytes else 0,
        "monthly_price": round(kind.eur_per_hour * HOURS_PER_MONTH, 6),
        "hourly_price": kind.eur_per_hour,
        "capabilities": {
            "boot_types": ["local", "rescue"],
            "placement_groups": True,
            "block_storage": True,
            "hot_snapshots_local_volume": False,
            "private_network": 8,
            "max_file_systems": 8,
        },
        "network": {
            "ipv6_support": True,
            "sum_internal_bandwidth": internet,
            "sum_internet_bandwidth": internet,
            "interfaces": [{"internal_bandwidth": internet, "internet_bandwidth": internet}],
        },
        "block_bandwidth": kind.block_mib_per_s * MIB,
        "end_of_service": False,
    }


def image_json(image: LocalImage) -> Json:
    """An image as the marketplace shows it."""
    return {
        "id": image.id,
        "arch": image.arch,
        "zone": image.zone,
        "compatible_commercial_types": list(image.types),
        "label": image.label,
        "type": image.kind,
    }


def security_group_json(group: SecurityGroup) -> Json:
    return {
        "id": group.id,
        "name": group.name,
        "description": "",
        "enable_default_security": True,
        "inbound_default_policy": group.inbound,
        "outbound_default_policy": "accept",
        "organization": PROJECT,
        "project": group.project,
        "tags": [],
        "organization_default": False,
        "project_default": group.name == "Default security group",
        "creation_date": IMAGE_DATE,
        "modification_date": IMAGE_DATE,
        "servers": [],
        "stateful": True,
        "state": "available",
        "zone": group.zone,
    }


def link_header(
    path: str, page: int, size: int, total: int, query: Sequence[tuple[str, str]]
) -> str:
    """The instance API's `Link`: neighbours as far as there are any, and always the last page."""
    last = max(1, ceil(total / size))
    targets = {"last": last}
    if page < last:
        targets = {"next": page + 1, **targets}
    if page > 1:
        targets = {"first": 1, "previous": page - 1, **targets}
    rest = urlencode(query)
    return ",".join(
        f'<{path}?page={target}&per_page={size}&{rest}>; rel="{name}"'
        for name, target in targets.items()
    )
