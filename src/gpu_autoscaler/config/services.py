"""Settings of what the daemon speaks to: ClearML, Scaleway, the store, and people."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from gpu_autoscaler.config.base import Settings
from gpu_autoscaler.config.fields import ChannelUrl, Duration, Url, Uuid, matching
from gpu_autoscaler.config.hours import TimeZone
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.episodes import Severity

MIN_LEASE = timedelta(seconds=90)
"""Its holder trusts two thirds of it: a shorter last third is over before Scaleway's listings show
what it did last (30 s)."""
MAX_LEASE = timedelta(hours=1)
"""So long does nobody act after a crash; anything longer is a slip."""

KEY = r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
"""Of an object: what no client and no service spells differently."""

Zone = Annotated[str, matching(r"[a-z]{2}-[a-z]{3}-[1-9]", "a zone looks like fr-par-2")]


class ClearmlConfig(Settings):
    """Where ClearML is."""

    api_host: Url = "https://api.clear.ml"
    web_host: Url | None = None
    """For links; derived from `api_host`, None when that gives no hint."""
    files_host: Url | None = None
    """Given to the agents; derived like `web_host`."""

    @field_validator("api_host")
    @classmethod
    def _not_the_web_page(cls, host: str) -> str:
        if urlsplit(host).hostname == "app.clear.ml":
            raise ValueError("that is the web page; the API is at https://api.clear.ml")
        return host

    @field_validator("web_host", "files_host")
    @classmethod
    def _derive(cls, host: str | None, info: ValidationInfo) -> str | None:
        if host is not None or "api_host" not in info.data:
            return host
        prefix, port = ("app", 8080) if info.field_name == "web_host" else ("files", 8081)
        api = urlsplit(info.data["api_host"])
        if api.port == 8008:
            return f"{api.scheme}://{api.netloc.removesuffix(':8008')}:{port}"
        if api.netloc.startswith("api."):
            return f"{api.scheme}://{prefix}.{api.netloc.removeprefix('api.')}"
        return None


class ScalewayConfig(Settings):
    """Which Scaleway project the instances live in."""

    project_id: Uuid
    api_url: Url = "https://api.scaleway.com"
    security_group_ids: Mapping[Zone, Uuid] = {}
    """Of new instances, by zone: a security group belongs to one. Without any, new instances get
    the project's default group of their zone."""


class StoreConfig(Settings):
    """Object storage for the memory and the lease."""

    bucket: Annotated[
        str, matching(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name looks like my-bucket")
    ]
    key: Annotated[str, matching(KEY, "a key looks like gpu-autoscaler/research.json")] | None = (
        None
    )
    """Of the object; never None in a Config, where it follows from the fleet."""
    region: Annotated[str, matching(r"[a-z]{2}(-[a-z]+)+(-\d+)?", "a region looks like fr-par")] = (
        "fr-par"
    )
    endpoint: Url | None = None
    """Never None: Scaleway's in the region."""
    lease: Duration = timedelta(minutes=3)
    """How long a daemon that falls silent keeps others from acting."""

    @field_validator("lease")
    @classmethod
    def _neither_too_short_nor_too_long(cls, lease: timedelta) -> timedelta:
        if not MIN_LEASE <= lease <= MAX_LEASE:
            bounds = map(format_duration, (MIN_LEASE, MAX_LEASE))
            raise ValueError(" to ".join(bounds) + " is allowed")
        return lease

    @field_validator("endpoint")
    @classmethod
    def _of_the_region(cls, endpoint: str | None, info: ValidationInfo) -> str | None:
        if endpoint is None and "region" in info.data:
            return f"https://s3.{info.data['region']}.scw.cloud"
        return endpoint


class ChannelConfig(Settings):
    """Where people are told what is wrong."""

    url: ChannelUrl = Field(repr=False)
    """As apprise writes it. Whoever knows it can write there, so it is a secret."""
    min_severity: Severity = Severity.INFO
    """What matters less is not told there."""


class WeeklyReportConfig(Settings):
    """When the channels are told what the last seven days cost."""

    day: Literal[
        "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "never"
    ] = "monday"
    hour: Annotated[int, Field(ge=0, le=23)] = 8
    timezone: TimeZone = "UTC"
    """Of the day and the hour, as the tz database calls it."""
