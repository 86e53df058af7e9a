"""What IAM and the firewall's listing say, and what a refusal means for a permission."""

import math
from typing import Any

import httpx
import pytest

from gpu_autoscaler.domain.errors import ApiError, Forbidden, Transient
from gpu_autoscaler.domain.model import FleetTags, Placement
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.scaleway.access import NOTHING
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.wire_iam import limits_of

PROJECT, ORGANIZATION = "11111111-2222-4333-8444-555555555555", "an-organization"
WHERE = Placement("H100-1-80G", "fr-par-2")
QUOTA = "cp_servers_type_H100_1_80G"
DENIED = {"type": "permissions_denied", "message": "insufficient permissions", "details": []}
NOT_FOUND = {"type": "not_found", "message": "resource is not found", "resource": "x"}


@pytest.mark.parametrize(
    ("quota", "limit"),
    [
        ({"limits": [{"zone": "fr-par-1", "limit": 1}, {"zone": "fr-par-2", "limit": 3}]}, 3),
        ({"limits": [{"zone": "fr-par-2", "unlimited": True}]}, math.inf),
        ({"limits": [{"region": "fr-par", "limit": 4}]}, 4),
        ({"limits": [{"region": "pl-waw", "limit": 4}]}, None),
        ({"limits": [{"global": True, "limit": 0}]}, 0),
        ({"limits": [], "limit": 7}, 7),
        ({"limits": [], "unlimited": True}, math.inf),
        ({"limits": [{"zone": "pl-waw-2", "limit": 1}]}, None),
    ],
)
def test_the_limit_of_a_type_in_a_zone(quota: dict[str, Any], limit: float | None) -> None:
    found = limits_of([{"name": QUOTA, **quota}])(WHERE.commercial_type, WHERE.zone)
    assert math.isnan(found) if limit is None else found == limit


@pytest.mark.parametrize("raw", [["no object"], [{"name": QUOTA, "limits": [7]}]])
def test_quotas_that_cannot_be_read_are_no_quotas_of_zero(raw: list[Any]) -> None:
    with pytest.raises(Transient, match="unreadable quota"):
        limits_of(raw)


def ask(question: Any, answer: Any) -> tuple[Any, list[httpx.Request]]:
    """What an `Access` finds when Scaleway answers so."""
    seen: list[httpx.Request] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        status, body = answer(request)
        return httpx.Response(status, json=body) if status != 204 else httpx.Response(204)

    async def main() -> Any:
        transport = httpx.MockTransport(handle)
        fleet = FleetTags("test")
        async with ScalewayApi("key", PROJECT, fleet, LoopClock(), transport=transport) as api:
            return await question(api.access)

    return run_virtual(main()), seen


def test_every_change_is_tried_on_nothing() -> None:
    found, seen = ask(lambda access: access.refused(WHERE), lambda _: (404, NOT_FOUND))
    assert set(found.values()) == {False}
    assert (len(found), len(seen)) == (9, 11)
    for request in seen:
        aim = request.url.path if request.url.path.count(NOTHING) else request.content.decode()
        assert NOTHING in aim, "nothing that exists is named"


def test_a_refusal_is_told_by_its_change() -> None:
    def deletions_alone(request: httpx.Request) -> tuple[int, Any]:
        return (403, DENIED) if request.method == "DELETE" else (404, NOT_FOUND)

    found, _ = ask(lambda access: access.refused(WHERE), deletions_alone)
    refused = {(right.doing, right.needs) for right, is_refused in found.items() if is_refused}
    assert refused == {
        ("remove their user data", "InstancesFullAccess"),
        ("delete them", "InstancesFullAccess"),
        ("delete their local volumes", "InstancesFullAccess"),
        ("delete them", "BlockStorageFullAccess"),
    }


def test_where_reading_nothing_is_refused_a_refusal_tells_nothing() -> None:
    def all_but_creation(request: httpx.Request) -> tuple[int, Any]:
        creates = request.url.path.endswith("/servers")
        return (404, NOT_FOUND) if creates else (403, DENIED)

    found, _ = ask(lambda access: access.refused(WHERE), all_but_creation)
    told = {right.doing: refused for right, refused in found.items() if refused is not None}
    assert told == {"create servers": False}


def test_a_creation_names_its_project_so_its_refusal_tells() -> None:
    found, _ = ask(lambda access: access.refused(WHERE), lambda _: (403, DENIED))
    assert {right.doing for right, refused in found.items() if refused} == {"create servers"}


@pytest.mark.parametrize("status", [500, 429])
def test_no_answer_is_no_permission(status: int) -> None:
    with pytest.raises(ApiError):
        ask(lambda access: access.refused(WHERE), lambda _: (status, {}))


def test_the_organization_is_read_from_what_the_fleet_may_read() -> None:
    def answer(request: httpx.Request) -> tuple[int, Any]:
        if "security_groups" in request.url.path:
            return 200, {"security_groups": [{"id": "g", "organization": ORGANIZATION}]}
        assert request.url.params["organization_id"] == ORGANIZATION
        assert request.url.params["quotum_names"] == QUOTA
        return 200, {"quota": [{"name": QUOTA, "limits": [{"zone": WHERE.zone, "limit": 2}]}]}

    found, seen = ask(lambda access: access.limits([WHERE]), answer)
    assert found == {WHERE: 2}
    assert len(seen) == 2


def test_or_else_from_the_project() -> None:
    def answer(request: httpx.Request) -> tuple[int, Any]:
        if "security_groups" in request.url.path:
            return 200, {"security_groups": []}
        if "account" in request.url.path:
            return 200, {"id": PROJECT, "organization_id": ORGANIZATION}
        assert request.url.params["organization_id"] == ORGANIZATION
        return 200, {"quota": []}

    assert ask(lambda access: access.limits([WHERE]), answer)[0] == {}


def test_what_may_not_be_read_is_told_apart() -> None:
    with pytest.raises(Forbidden):
        ask(lambda access: access.key("SCWX"), lambda _: (403, DENIED))


def test_a_key_as_iam_shows_it() -> None:
    shown = {"access_key": "SCWX", "expires_at": "2026-12-01T10:00:00Z", "default_project_id": "p"}
    found, seen = ask(lambda access: access.key("SCWX"), lambda _: (200, shown))
    assert seen[0].url.path == "/iam/v1alpha1/api-keys/SCWX"
    assert (found.expires_at.isoformat(), found.default_project_id) == (
        "2026-12-01T10:00:00+00:00",
        "p",
    )


def test_a_firewall_without_a_policy_is_unreadable() -> None:
    question = lambda access: access.inbound_policy("fr-par-2", "g")  # noqa: E731
    with pytest.raises(Transient, match="unreadable security group"):
        ask(question, lambda _: (200, {"security_group": {}}))
