"""Scaleway as one fleet sees it: the face of this room.

Fits the `Scaleway` port of the runtime without knowing it. Every method raises a subclass of
`domain.errors.ApiError` and nothing else.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

import httpx

from gpu_autoscaler.domain.calls import OnCall, nobody
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import NotFound
from gpu_autoscaler.domain.model import (
    Availability,
    CreateOrder,
    FleetTags,
    Instance,
    Placement,
    Volume,
)
from gpu_autoscaler.scaleway.access import Access
from gpu_autoscaler.scaleway.catalog import Catalog
from gpu_autoscaler.scaleway.creation import Creation
from gpu_autoscaler.scaleway.removal import Removal
from gpu_autoscaler.scaleway.servers import Servers
from gpu_autoscaler.scaleway.transport import Transport
from gpu_autoscaler.scaleway.volumes import Volumes
from gpu_autoscaler.scaleway.wire import CommercialType

DEFAULT_API_URL = "https://api.scaleway.com"
DEFAULT_CALL_DEADLINE = 15.0
"""Seconds for one HTTP call, the repetitions of a read included."""


class ScalewayApi:
    """The servers, volumes and offers of one project, for one fleet."""

    def __init__(
        self,
        secret_key: str,
        project_id: str,
        fleet: FleetTags,
        clock: Clock,
        *,
        api_url: str = DEFAULT_API_URL,
        transport: httpx.AsyncBaseTransport | None = None,
        on_call: OnCall = nobody,
        ready: Transport | None = None,
    ) -> None:
        """`ready` goes before everything that says how to reach Scaleway."""
        self._transport = ready or Transport(
            secret_key,
            clock,
            api_url=api_url,
            transport=transport,
            call_deadline=DEFAULT_CALL_DEADLINE,
            on_call=on_call,
        )
        self._servers = Servers(self._transport, project_id, fleet)
        self._volumes = Volumes(self._transport, project_id, fleet)
        self._catalog = Catalog(self._transport, clock)
        self._fleet = fleet
        self.access = Access(self._transport, project_id, fleet)
        """For the doctor."""
        self._removal = Removal(self._servers, self._volumes, fleet, clock)
        self._creation = Creation(
            self._servers, self._volumes, self._catalog, self._removal, fleet, clock
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give running clean-ups a moment, then close the connections."""
        try:
            await self._creation.finish_cleanups()
        finally:
            await self._transport.aclose()

    @property
    def skew(self) -> timedelta | None:
        """How far Scaleway's clock is ahead of ours, give or take a second; None until known."""
        return self._transport.skew

    async def instances(self, zone: str) -> Sequence[Instance]:
        """All servers of the fleet in a zone."""
        return await self._servers.listing(zone)

    async def exists(self, zone: str, server_id: str) -> bool:
        """Whether a server still exists as the fleet's: False only on Scaleway's own 404, or when
        a person took the fleet's tags off it."""
        try:
            server = await self._servers.get(zone, server_id)
        except NotFound:
            return False
        return self._fleet.owns(server.instance.tags)

    async def boot_report(self, instance: Instance) -> str:
        """What the machine last said of its boot; empty when it said nothing, or is gone."""
        return await self._servers.boot_report(instance.zone, instance.id)

    async def volumes(self, zone: str) -> Sequence[Volume]:
        """All block volumes with the fleet's tags in a zone."""
        return await self._volumes.listing(zone)

    async def availability(self, zone: str) -> Mapping[str, Availability]:
        """Stock of every commercial type in a zone."""
        return await self._catalog.availability(zone)

    async def prices(self, zone: str) -> Mapping[str, float]:
        """Euros per hour of every commercial type in a zone that has a price, without tax."""
        types = await self._catalog.types(zone)
        return {
            name: offer.price_eur_per_hour
            for name, offer in types.items()
            if offer.price_eur_per_hour is not None
        }

    async def types(self, zone: str) -> Mapping[str, CommercialType]:
        """What can be ordered in a zone, by commercial type."""
        return await self._catalog.types(zone)

    async def image_fits(self, label: str, placement: Placement) -> None:
        """Raise Rejected, naming what would fit, when the image does not boot there."""
        await self._catalog.image_id(label, placement)

    async def create(self, order: CreateOrder, user_data: bytes) -> datetime | None:
        """Make, tag, fill and power on one instance; on failure nothing of it is left behind.
        Returns from when on it is billed, where Scaleway says so; so does `start`."""
        return await self._creation.create(order, user_data)

    async def start(self, instance: Instance) -> datetime | None:
        """Power on a stopped instance. Raises OutOfStock: its hypervisor slot was given away."""
        return await self._servers.power_on(instance.zone, instance.id)

    async def stop(self, instance: Instance) -> None:
        """Power off: not billed any more, volumes kept. One that is off or gone is no failure."""
        await self._servers.power_off(instance.zone, instance.id)

    async def delete(self, instance: Instance) -> None:
        """Remove a stopped instance with its volumes, and see that they are gone.

        Raises Rejected when it is protected, locked, has lost the fleet's tags or was powered on
        meanwhile, Transient when it is not gone in time (the next attempt goes on from there).
        """
        await self._removal.server(instance.zone, instance.id, instance.volumes)

    async def delete_volume(self, volume: Volume) -> None:
        """Remove a free volume. Raises Rejected when it is held or lacks the fleet's tags."""
        await self._removal.volume(volume.zone, volume.id)

    async def change_tags(
        self, instance: Instance, add: Collection[str], remove: Collection[str]
    ) -> None:
        """Add and take away tags; the others stay as they are by then.

        Raises Rejected when the fleet's would not be among them.
        """
        await self._servers.change_tags(instance.zone, instance.id, add, remove)

    async def remove_bootstrap(self, instance: Instance) -> None:
        """Take the user data away that the machine was made with; none is no failure."""
        await self._servers.remove_user_data(instance.zone, instance.id)
