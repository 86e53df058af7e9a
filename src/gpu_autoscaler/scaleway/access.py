"""What the key may do, how long it lasts and how much of it there may be: for the doctor alone.

Permissions are tried on things that do not exist, so nothing can come of it. Recorded are the
404 `not_found` for an unknown server or volume, and the 403 `permissions_denied` of a key that may
not. That the permission is looked at before the thing is an inference: no recording holds both at
once. One other API of Scaleway's (apple-silicon) is recorded to answer 403 where a thing was just
deleted, so a mere read of nothing is tried first: where that is refused, a refusal tells nothing.
The lack of a refusal is as good as it gets without a change, and `check --boot` proves the rest.
"""

import math
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_autoscaler.domain.errors import (
    ApiError,
    Forbidden,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    Rejected,
    Transient,
)
from gpu_autoscaler.domain.model import CreateOrder, FleetTags, Placement
from gpu_autoscaler.scaleway.transport import Transport
from gpu_autoscaler.scaleway.wire import create_body, volume_body
from gpu_autoscaler.scaleway.wire_iam import (
    ApiKey,
    inbound_policy_of,
    key_of,
    limits_of,
    quota_name,
)

NOTHING = "5a1c3c52-8b1e-4b0e-9f7d-7e3d0f6a2c11"
"""An id that nothing has; Scaleway draws its own."""

INSTANCES = "InstancesFullAccess"
BLOCK = "BlockStorageFullAccess"

CREATE = "create servers"

PERMITTED = (NotFound, Rejected, QuotaExceeded, OutOfStock)
"""Answers that only somebody gets who may."""

SMALLEST_VOLUME = 20 * 10**9

Attempt = Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True, slots=True)
class Right:
    """Something the daemon does, and the permission set that lets it."""

    doing: str
    needs: str


class Access:
    """Questions about the key, its project and its organization."""

    def __init__(self, transport: Transport, project_id: str, fleet: FleetTags) -> None:
        self._transport = transport
        self._project_id = project_id
        self._fleet = fleet

    async def refused(self, placement: Placement) -> Mapping[Right, bool | None]:
        """Every change that the daemon makes, and whether the key may not make it; None where that
        cannot be told. Raises another ApiError than Forbidden when Scaleway does not answer."""
        zone, found = placement.zone, dict[Right, bool | None]()
        server, volume = _server(zone), _volume(zone)
        blind = {
            needs: await self._is_refused_to_look(path)
            for needs, path in ((INSTANCES, server), (BLOCK, volume))
        }
        for right, attempt in self._attempts(placement).items():
            is_refused = await _is_refused(attempt)
            untold = is_refused and blind[right.needs] and right.doing != CREATE
            found[right] = None if untold else is_refused
        return found

    async def _is_refused_to_look(self, path: str) -> bool:
        try:
            await self._transport.get(path)
        except Forbidden:
            return True
        except ApiError:
            return False
        return False

    def _attempts(self, placement: Placement) -> Mapping[Right, Attempt]:
        zone, send = placement.zone, self._transport.send
        server, volume = _server(zone), _volume(zone)
        tags = [*self._fleet.membership]
        # complete but for its image, so that it is refused for that alone; names its project
        order = CreateOrder(
            "gpu-autoscaler-check", "", placement, "", SMALLEST_VOLUME, 5000, tuple(tags)
        )
        body = create_body(order, NOTHING, self._project_id)
        user_data = f"{server}/user_data/cloud-init"
        return {
            Right(CREATE, INSTANCES): lambda: send(
                "POST", server.removesuffix(f"/{NOTHING}"), json=body
            ),
            Right("power them on and off", INSTANCES): lambda: send(
                "POST", f"{server}/action", json={"action": "poweroff"}
            ),
            Right("change their tags", INSTANCES): lambda: send(
                "PATCH", server, json={"tags": tags}
            ),
            Right("write their user data", INSTANCES): lambda: send(
                "PATCH", user_data, content=b"#"
            ),
            Right("remove their user data", INSTANCES): lambda: send("DELETE", user_data),
            Right("delete them", INSTANCES): lambda: send("DELETE", server),
            Right("delete their local volumes", INSTANCES): lambda: send(
                "DELETE", f"/instance/v1/zones/{zone}/volumes/{NOTHING}"
            ),
            Right("change block volumes", BLOCK): lambda: send(
                "PATCH", volume, json=volume_body(tags)
            ),
            Right("delete them", BLOCK): lambda: send("DELETE", volume),
        }

    async def key(self, access_key: str) -> ApiKey:
        """The key itself. Raises Forbidden without IAMReadOnly, NotFound for one nobody has."""
        return key_of(await self._transport.get(f"/iam/v1alpha1/api-keys/{access_key}"))

    async def limits(self, placements: Collection[Placement]) -> Mapping[Placement, float]:
        """How many servers the organization may have in each placement: infinity for any number;
        what IAM does not name is left out. Raises Forbidden without OrganizationReadOnly."""
        organization = await self._organization(sorted({p.zone for p in placements}))
        names = {quota_name(p.commercial_type) for p in placements}
        params = {"organization_id": organization, "quotum_names": sorted(names)}
        path = "/iam/v1alpha1/quota"
        first: dict[str, Any] = {**params, "page_size": 100, "page": 1}
        listed = (await self._transport.get(path, first)).get("quota")
        if not isinstance(listed, list):
            raise Transient(f"GET {path}: an unreadable listing")
        limits = limits_of(listed)
        found = {p: limits(p.commercial_type, p.zone) for p in placements}
        return {place: limit for place, limit in found.items() if not math.isnan(limit)}

    async def inbound_policy(self, zone: str, group_id: str) -> str:
        """What a security group does with what no rule names (`accept`, `drop`).

        Raises NotFound, also for a group of another zone.
        """
        path = f"/instance/v1/zones/{zone}/security_groups/{group_id}"
        return inbound_policy_of(await self._transport.get(path))

    async def _organization(self, zones: Sequence[str]) -> str:
        """From what the fleet's own permissions can read, or else from the project itself."""
        params = {"project": self._project_id}
        for zone in zones:
            path = f"/instance/v1/zones/{zone}/security_groups"
            for raw in (await self._transport.listing(path, "security_groups", params)).values():
                if organization := raw.get("organization"):
                    return str(organization)
        project = await self._transport.get(f"/account/v3/projects/{self._project_id}")
        return str(project.get("organization_id") or self._project_id)


def _server(zone: str) -> str:
    return f"/instance/v1/zones/{zone}/servers/{NOTHING}"


def _volume(zone: str) -> str:
    return f"/block/v1/zones/{zone}/volumes/{NOTHING}"


async def _is_refused(attempt: Attempt) -> bool:
    try:
        await attempt()
    except Forbidden:
        return True
    except PERMITTED:
        return False
    return False
