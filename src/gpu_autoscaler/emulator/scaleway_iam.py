"""What the emulated Scaleway tells of keys, quotas and projects: IAM and account, reads alone.

The key's fields are those of a recorded reply; a quota's name and its limit per zone those of
public callers of the live API.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.emulator.scaleway_wire import IMAGE_DATE, block_time

UNLIMITED_HERE = 20
"""Limit of a type for which the model has no quota."""


def quota_name(commercial_type: str) -> str:
    """As IAM names the quota of a type."""
    return f"cp_servers_type_{commercial_type.replace('-', '_')}"


def quota_rows(model: ScalewayModel) -> Iterator[dict[str, Any]]:
    """The quota of every type that is sold, by name."""
    for kind in model.catalog.types.values():
        quota = model.stock.quota(kind.name)
        limit = UNLIMITED_HERE if quota is None else quota
        yield {
            "name": quota_name(kind.name),
            "pretty_name": f"Instances {kind.name}",
            "unit": "",
            "description": "",
            "locality_type": "zone",
            "limits": [{"zone": zone, "limit": limit} for zone in kind.zones],
        }


def key_json(access_key: str, expires_at: datetime | None) -> dict[str, Any]:
    return {
        "access_key": access_key,
        "secret_key": None,
        "description": "",
        "created_at": IMAGE_DATE,
        "updated_at": IMAGE_DATE,
        "expires_at": block_time(expires_at) if expires_at else None,
        "default_project_id": PROJECT,
        "editable": True,
        "deletable": True,
        "managed": False,
        "creation_ip": "127.0.0.1",
        "application_id": "00000000-0000-4000-8000-0000000000cc",
    }


def project_json(project_id: str) -> dict[str, Any]:
    return {
        "id": project_id,
        "name": "default",
        "organization_id": PROJECT,
        "description": "",
        "created_at": IMAGE_DATE,
        "updated_at": IMAGE_DATE,
    }
