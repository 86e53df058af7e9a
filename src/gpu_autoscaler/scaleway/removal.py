"""The end of a server and of everything that is billed with it."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import NotFound, RateLimited, Rejected, Transient
from gpu_autoscaler.domain.model import (
    KEEP_TAG,
    FleetTags,
    Instance,
    ServerState,
    VolumeKind,
    VolumeRef,
)
from gpu_autoscaler.scaleway.servers import Servers
from gpu_autoscaler.scaleway.volumes import Volumes
from gpu_autoscaler.scaleway.wire import Server

REMOVAL_DEADLINE = 300.0
"""Seconds for a server and its volumes to go. Recorded: power off 46 s, a volume free 5 s after
its server was deleted."""

ON = (ServerState.RUNNING, ServerState.STARTING, ServerState.STOPPED_IN_PLACE)
"""States that a stopped server is in only after somebody powered it on."""

POLL_INTERVAL = 3.0
"""Seconds between two looks at something on its way out."""


class Removal:
    """Removes servers and volumes, and sees that they are gone."""

    def __init__(self, servers: Servers, volumes: Volumes, fleet: FleetTags, clock: Clock) -> None:
        self._servers = servers
        self._volumes = volumes
        self._fleet = fleet
        self._clock = clock

    async def server(
        self,
        zone: str,
        server_id: str,
        known: Iterable[VolumeRef] = (),
    ) -> None:
        """Remove a stopped server of the fleet, then its volumes.

        `known` are its volumes as last listed, for the case that the server is gone already.
        One that is on is left alone: whoever powered it on, a task may run there by now.
        Raises Rejected for that, and for one that is protected, locked or not the fleet's,
        Transient when it is not gone in time.
        """
        deadline = self._clock.now() + timedelta(seconds=REMOVAL_DEADLINE)
        way_out = _WayOut(self._servers, self._volumes, self._fleet, zone, server_id, known)
        await self._until(way_out.step, deadline, f"server {server_id} in {zone}")
        for ref in way_out.left_behind:
            await self._until(self._volume_step(zone, ref), deadline, f"volume {ref.id} in {zone}")

    async def volume(self, zone: str, volume_id: str) -> None:
        """Remove a free block volume of the fleet. Raises Rejected when it is held or not ours."""
        try:
            await self._volumes.check_free(zone, volume_id)
        except NotFound:
            return
        deadline = self._clock.now() + timedelta(seconds=REMOVAL_DEADLINE)
        step = self._volume_step(zone, VolumeRef(volume_id, VolumeKind.BLOCK))
        await self._until(step, deadline, f"volume {volume_id} in {zone}")

    def _volume_step(self, zone: str, ref: VolumeRef) -> Callable[[], Awaitable[bool]]:
        async def step() -> bool:
            if ref.kind is VolumeKind.BLOCK:
                return await self._volumes.remove(zone, ref.id)
            return await self._volumes.remove_local(zone, ref.id)

        return step

    async def _until(
        self, step: Callable[[], Awaitable[bool]], deadline: datetime, what: str
    ) -> None:
        """Repeat a step until it reports the end; refusals that pass are waited out."""
        while True:
            reason = "still there"
            try:
                if await step():
                    return
            except (Transient, RateLimited) as error:
                reason = str(error)
            if self._clock.now() >= deadline:
                raise Transient(f"{what} is not gone after {REMOVAL_DEADLINE:.0f} s: {reason}")
            await self._clock.sleep(POLL_INTERVAL)


class _WayOut:
    """One server's way out, looked at afresh in each step."""

    def __init__(
        self,
        servers: Servers,
        volumes: Volumes,
        fleet: FleetTags,
        zone: str,
        server_id: str,
        known: Iterable[VolumeRef],
    ) -> None:
        self.left_behind = tuple(known)
        self._servers = servers
        self._volumes = volumes
        self._fleet = fleet
        self._zone = zone
        self._id = server_id
        self._tagged = False
        self._asked_in: ServerState | None = None

    async def step(self) -> bool:
        try:
            server = await self._servers.get(self._zone, self._id)
            self._check(server.instance)
            await self._tag(server)
            if server.instance.state is not self._asked_in:
                await self._ask(server.instance.state)
        except NotFound:
            return True
        return False

    def _check(self, instance: Instance) -> None:
        what = f"server {instance.name} in {self._zone}"
        if not self._fleet.owns(instance.tags):
            raise Rejected(f"{what} does not carry the fleet's tags")
        if instance.kept:
            raise Rejected(f"{what} is kept: it has the tag {KEEP_TAG}")
        if instance.protected:
            raise Rejected(f"{what} is protected")
        if instance.state is ServerState.LOCKED:
            raise Rejected(f"{what} is locked: a person has to look")
        if instance.state in ON:
            raise Rejected(f"{what} was powered on meanwhile: it is {instance.state}")

    async def _tag(self, server: Server) -> None:
        """After the server is gone only tags tell whose a volume is.

        A volume that a person attached later is not adopted: it is let go unharmed.
        """
        if self._tagged:
            return
        instance = server.instance
        self.left_behind = tuple(dict.fromkeys((*self.left_behind, *instance.volumes)))
        for ref in instance.volumes:
            if ref.id == server.boot_volume and ref.kind is VolumeKind.BLOCK:
                await self._volumes.adopt(self._zone, ref.id, instance.queue)
        self._tagged = True

    async def _ask(self, state: ServerState) -> None:
        """DELETE a stopped one; in any other state only waiting helps."""
        if state is not ServerState.STOPPED:
            return
        try:
            await self._servers.delete(self._zone, self._id)
        except Rejected:
            # older services refuse so when the state changed under our hands
            if (await self._servers.get(self._zone, self._id)).instance.state is state:
                raise
            return
        self._asked_in = state
