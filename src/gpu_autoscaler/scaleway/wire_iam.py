"""The same for IAM: the key and the organization's quotas, and the one field of a firewall."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scaleway.iam.v1alpha1 import marshalling as iam  # type: ignore[import-untyped]

from gpu_autoscaler.scaleway.wire import moment_of, readable


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The key that the daemon uses, as IAM knows it."""

    expires_at: datetime | None
    """None: never."""
    default_project_id: str
    """The one project whose buckets it sees."""


def key_of(raw: Any) -> ApiKey:
    """An API key from its JSON. Raises Transient when it cannot be read."""

    def read() -> ApiKey:
        key = iam.unmarshal_APIKey(raw)
        ends = None if key.expires_at is None else moment_of(key.expires_at)
        return ApiKey(ends, key.default_project_id or "")

    return readable("API key", read)


def quota_name(commercial_type: str) -> str:
    """The quota of a type, as IAM and refusals of the live API name it."""
    return f"cp_servers_type_{commercial_type.replace('-', '_')}"


def limits_of(raw: list[Any]) -> Callable[[str, str], float]:
    """By type and zone, how many servers a listing of quotas allows: infinity for any number, NaN
    where it says nothing. Raises Transient when it cannot be read."""

    def read() -> Mapping[str, Any]:
        return {quota.name: quota for quota in map(iam.unmarshal_Quotum, raw)}

    quotas = readable("quota", read)

    def limit(commercial_type: str, zone: str) -> float:
        quota = quotas.get(quota_name(commercial_type))
        if quota is None:
            return math.nan
        for each in quota.limits:
            if each.zone == zone or each.global_ or (each.region and zone.startswith(each.region)):
                return math.inf if each.unlimited else float(each.limit)
        if quota.unlimited:
            return math.inf
        return math.nan if quota.limit is None else float(quota.limit)

    return limit


def inbound_policy_of(raw: Any) -> str:
    """What a security group does with what no rule names. Raises Transient when unreadable."""
    return readable("security group", lambda: str(raw["security_group"]["inbound_default_policy"]))
