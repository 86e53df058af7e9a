"""What the emulated cloud will charge, from its own log of what happened.

It shares nothing with what the daemon reckons, so that the two can be compared.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator.scaleway_catalog import Catalog

SBS_EUR_PER_GB_HOUR = 0.000118
"""An assumption of ours (about 8.6 cents per GB and month): no list price was at hand."""
BYTES_PER_GB = 10**9
SECONDS_PER_HOUR = 3600.0
PER_MINUTE_SECONDS = 60
"""GPU instances are said to be billed by the begun minute."""
FREE_STATES = (ServerState.STOPPED,)
"""In every other one the machine is paid for: starting, standby and stopping too."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A server entered a state, or (None) is gone."""

    at: datetime
    server_id: str
    commercial_type: str
    state: ServerState | None


@dataclass(frozen=True, slots=True)
class VolumeEvent:
    """A block volume has this size from now on; 0: it is gone."""

    at: datetime
    volume_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bill:
    """What has been used up to one moment, without tax and without addresses."""

    eur: float
    servers_eur: float
    volumes_eur: float
    billed_hours_by_type: Mapping[str, float]
    billed_seconds_by_server: Mapping[str, float]
    volume_gb_hours: float
    servers_created: int
    volumes_created: int
    servers_left: int
    volumes_left: int


class BillingLog:
    """The events, and the sums over them."""

    def __init__(self) -> None:
        self.servers: list[ServerEvent] = []
        self.volumes: list[VolumeEvent] = []

    def bill(
        self, now: datetime, catalog: Catalog, granularity_seconds: float = PER_MINUTE_SECONDS
    ) -> Bill:
        """The bill as of `now`; every billed span is rounded up to `granularity_seconds`."""
        billed, types = self._billed_seconds(now, granularity_seconds)
        hours: dict[str, float] = defaultdict(float)
        for server_id, seconds in billed.items():
            hours[types[server_id]] += seconds / SECONDS_PER_HOUR
        servers_eur = sum(
            used * catalog.types[commercial_type].eur_per_hour
            for commercial_type, used in hours.items()
        )
        gb_hours = self._gb_hours(now)
        servers_gone = sum(event.state is None for event in self.servers)
        volume_ids = {event.volume_id for event in self.volumes}
        volumes_gone = sum(event.size_bytes == 0 for event in self.volumes)
        return Bill(
            eur=servers_eur + gb_hours * SBS_EUR_PER_GB_HOUR,
            servers_eur=servers_eur,
            volumes_eur=gb_hours * SBS_EUR_PER_GB_HOUR,
            billed_hours_by_type=dict(hours),
            billed_seconds_by_server=billed,
            volume_gb_hours=gb_hours,
            servers_created=len(types),
            volumes_created=len(volume_ids),
            servers_left=len(types) - servers_gone,
            volumes_left=len(volume_ids) - volumes_gone,
        )

    def _billed_seconds(
        self, now: datetime, granularity: float
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Billed seconds and commercial type by server id, also of those that are gone."""
        billed: dict[str, float] = {}
        types: dict[str, str] = {}
        since: dict[str, datetime] = {}

        def end_span(server_id: str, at: datetime) -> None:
            seconds = (at - since.pop(server_id)).total_seconds()
            billed[server_id] += math.ceil(seconds / granularity) * granularity

        for event in self.servers:
            types[event.server_id] = event.commercial_type
            billed.setdefault(event.server_id, 0.0)
            free = event.state is None or event.state in FREE_STATES
            if free and event.server_id in since:
                end_span(event.server_id, event.at)
            elif not free:
                since.setdefault(event.server_id, event.at)
        for server_id in list(since):
            end_span(server_id, now)
        return billed, types

    def _gb_hours(self, now: datetime) -> float:
        total = 0.0
        held: dict[str, VolumeEvent] = {}

        def add(event: VolumeEvent, until: datetime) -> None:
            nonlocal total
            hours = (until - event.at).total_seconds() / SECONDS_PER_HOUR
            total += hours * event.size_bytes / BYTES_PER_GB

        for event in self.volumes:
            if event.volume_id in held:
                add(held.pop(event.volume_id), event.at)
            if event.size_bytes:
                held[event.volume_id] = event
        for event in held.values():
            add(event, now)
        return total
