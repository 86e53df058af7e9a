"""Volumes: block ones live in the block API, scratch and local ones in the instance API.

Each API answers 404 for the ids of the other, so whoever asks must know the kind.
"""

from collections.abc import Iterable

from gpu_autoscaler.domain.errors import NotFound, Rejected, Transient
from gpu_autoscaler.domain.model import FleetTags, Volume
from gpu_autoscaler.scaleway.transport import Transport
from gpu_autoscaler.scaleway.wire import (
    IOPS_AT_BIRTH,
    BlockVolume,
    block_volume_of,
    tags_of,
    volume_body,
)

DELETABLE = ("available", "error")
"""Statuses in which the block API deletes a volume; every other one passes or needs a person."""


class Volumes:
    """The volumes of one fleet; nothing here deletes a block volume without its tags."""

    def __init__(self, transport: Transport, project_id: str, fleet: FleetTags) -> None:
        self._transport = transport
        self._project_id = project_id
        self._fleet = fleet

    async def listing(self, zone: str) -> tuple[Volume, ...]:
        """All block volumes of the fleet in a zone."""
        params = {"project_id": self._project_id, "tags": [*self._fleet.membership]}
        listed = await self._transport.listing(
            _volumes(zone), "volumes", params, size_param="page_size"
        )
        # the block API lists what carries *one* of the tags
        ours = [raw for raw in listed.values() if self._fleet.owns(tags_of(raw))]
        return tuple(block_volume_of(raw, zone).volume for raw in ours)

    async def update(
        self,
        zone: str,
        volume_id: str,
        tags: Iterable[str],
        *,
        name: str | None = None,
        iops: int = IOPS_AT_BIRTH,
    ) -> None:
        """Set a block volume's tags, and where given its name and speed (IOPS)."""
        body = volume_body(tags, name=name, iops=iops)
        await self._transport.send("PATCH", _volume(zone, volume_id), json=body)

    async def adopt(self, zone: str, volume_id: str, queue: str) -> None:
        """Give the fleet's tags to a block volume that lacks them; one that is gone is no failure.

        Only for the volume that was made together with a server of the fleet.
        """
        try:
            volume = (await self._get(zone, volume_id)).volume
            if not self._fleet.owns(volume.tags):
                tags = volume.tags.union(self._fleet.of_volume(queue))
                await self.update(zone, volume_id, sorted(tags))
        except NotFound:
            return

    async def remove(self, zone: str, volume_id: str) -> bool:
        """One step towards a block volume's end: delete it if it is free; True when it is gone.

        One without the fleet's tags counts as gone: it is somebody else's. Raises Rejected when
        it is locked.
        """
        try:
            found = await self._get(zone, volume_id)
            if found.status == "deleted" or not self._fleet.owns(found.volume.tags):
                return True
            if found.status == "locked":
                raise Rejected(f"volume {volume_id} in {zone} is locked")
            if found.volume.attached_to is None and found.status in DELETABLE:
                await self._transport.send("DELETE", _volume(zone, volume_id))
        except NotFound:
            return True
        return False

    async def remove_local(self, zone: str, volume_id: str) -> bool:
        """The same for a scratch or local volume of a server that no longer exists.

        Terminate takes these along; deleting a stopped server leaves local ones behind. They
        carry no tags, and nothing else can hold them without showing as their server.
        """
        path = f"/instance/v1/zones/{zone}/volumes/{volume_id}"
        try:
            raw = (await self._transport.get(path)).get("volume")
            if not isinstance(raw, dict):
                raise Transient(f"GET {path}: an unreadable volume")
            if raw.get("server") is None:
                await self._transport.send("DELETE", path)
        except NotFound:
            return True
        return False

    async def check_free(self, zone: str, volume_id: str) -> None:
        """Raise Rejected unless this is a free volume of the fleet; NotFound when it is gone."""
        volume = (await self._get(zone, volume_id)).volume
        if not self._fleet.owns(volume.tags):
            raise Rejected(f"volume {volume_id} in {zone} lacks the fleet's tags")
        if volume.attached_to is not None:
            raise Rejected(f"volume {volume_id} in {zone} is held by {volume.attached_to}")

    async def _get(self, zone: str, volume_id: str) -> BlockVolume:
        return block_volume_of(await self._transport.get(_volume(zone, volume_id)), zone)


def _volumes(zone: str) -> str:
    return f"/block/v1/zones/{zone}/volumes"


def _volume(zone: str, volume_id: str) -> str:
    return f"{_volumes(zone)}/{volume_id}"
