"""The birth of an instance, or nothing at all.

A server is born with `phase=provisioning` and loses it last, so whatever a crash leaves behind
is recognised by the loop. What a failure leaves behind is removed here, unless it is on: its
agent may have taken a task by then, so the loop decides about it as about any other.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError, NotFound, RateLimited, Transient
from gpu_autoscaler.domain.model import PROVISIONING_TAG, CreateOrder, FleetTags, VolumeKind
from gpu_autoscaler.scaleway.catalog import Catalog
from gpu_autoscaler.scaleway.removal import Removal
from gpu_autoscaler.scaleway.servers import Servers
from gpu_autoscaler.scaleway.transport import persist
from gpu_autoscaler.scaleway.volumes import Volumes
from gpu_autoscaler.scaleway.wire import Server

T = TypeVar("T")

STEP_ATTEMPTS = 4
STEP_PAUSE = 2.0
"""Seconds before a step of a birth is tried again, doubled each time: a new volume is `creating`,
one that changes its speed `updating` for about 5 s, and refuses changes meanwhile."""

PASSING = (Transient, RateLimited, NotFound)
"""Errors that a moment cures right after a birth; a new volume may not be found yet."""

CLOSING_PATIENCE = 6.0
"""Seconds for clean-ups when the process ends; their callers have waited for them before."""

LOOKUPS = 3
LOOKUP_PAUSE = 2.0
"""Seconds between two searches for a server whose creation got no answer."""


class Creation:
    """Makes instances; owns the clean-ups that are still running."""

    def __init__(
        self,
        servers: Servers,
        volumes: Volumes,
        catalog: Catalog,
        removal: Removal,
        fleet: FleetTags,
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._volumes = volumes
        self._catalog = catalog
        self._removal = removal
        self._fleet = fleet
        self._clock = clock
        self._cleanups: set[asyncio.Task[None]] = set()

    async def finish_cleanups(self) -> None:
        """Wait a moment for clean-ups whose callers are gone; what is left has its phase tag."""
        if self._cleanups:
            await asyncio.wait(self._cleanups, timeout=CLOSING_PATIENCE)
        for cleanup in self._cleanups:
            cleanup.cancel()

    async def create(self, order: CreateOrder, user_data: bytes) -> datetime | None:
        """Make, tag, fill and power on one instance; from when on it is billed, if known.

        On failure, also a cancellation, server and volumes are removed before the error goes
        on; when that fails too, the message says so.
        """
        image_id = await self._catalog.image_id(order.image, order.placement)
        born: Server | None = None
        try:
            born = await self._servers.create(order, image_id)
            powered_on_at = await self._equip(born, order, user_data)
        except BaseException as failure:
            if born is not None or _perhaps_born(failure):
                await self._clean_up(order, born, failure)
            raise
        await self._declare_born(born, order)
        return powered_on_at

    async def _equip(self, born: Server, order: CreateOrder, user_data: bytes) -> datetime | None:
        """Tags on the volumes first: from there on nothing of it can be lost sight of."""
        zone, server_id = order.placement.zone, born.instance.id

        async def tag_volumes() -> None:
            for ref in born.instance.volumes:
                if ref.kind is VolumeKind.BLOCK:
                    tags = self._fleet.of_volume(order.queue)
                    iops = order.volume_iops
                    await self._volumes.update(zone, ref.id, tags, name=order.name, iops=iops)

        async def set_user_data() -> None:
            await self._servers.set_user_data(zone, server_id, user_data)

        async def power_on() -> datetime | None:
            return await self._servers.power_on(zone, server_id)

        for step in (tag_volumes, set_user_data):
            await self._persist(step)
        return await self._persist(power_on)

    async def _persist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Through what passes by itself right after a birth."""
        return await persist(
            self._clock, step, attempts=STEP_ATTEMPTS, pause=STEP_PAUSE, errors=PASSING
        )

    async def _declare_born(self, born: Server, order: CreateOrder) -> None:
        """Take the phase tag away. The machine is good and starting: no failure here undoes it,
        the loop takes the tag away later."""

        async def drop_phase() -> None:
            await self._servers.change_tags(
                order.placement.zone, born.instance.id, (), (PROVISIONING_TAG,)
            )

        try:
            await self._persist(drop_phase)
        except ApiError:
            return

    async def _clean_up(
        self, order: CreateOrder, born: Server | None, failure: BaseException
    ) -> None:
        """Remove what was made, also while the caller is being cancelled (again)."""
        cleanup = asyncio.ensure_future(self._remove(order, born))
        self._cleanups.add(cleanup)
        cleanup.add_done_callback(self._forget)
        try:
            await asyncio.shield(cleanup)
        except ApiError as error:
            left = f"{order.name} or its volume may be left in {order.placement.zone}: {error}"
            if isinstance(failure, ApiError):
                raise type(failure)(f"{failure}; and cleaning up failed, {left}") from error
            failure.add_note(left)

    def _forget(self, cleanup: asyncio.Task[None]) -> None:
        self._cleanups.discard(cleanup)
        if not cleanup.cancelled():
            cleanup.exception()  # nobody else may be left to look at it

    async def _remove(self, order: CreateOrder, born: Server | None) -> None:
        zone = order.placement.zone
        if born is not None:
            await self._removal.server(zone, born.instance.id, born.instance.volumes)
            return
        for _ in range(LOOKUPS):
            for instance in await self._servers.listing(zone):
                if instance.name == order.name and PROVISIONING_TAG in instance.tags:
                    await self._removal.server(zone, instance.id, instance.volumes)
                    return
            await self._clock.sleep(LOOKUP_PAUSE)


def _perhaps_born(failure: BaseException) -> bool:
    """A clear refusal made nothing; a lost reply or a cancellation may have."""
    return isinstance(failure, Transient) or not isinstance(failure, ApiError)
