"""Block volumes (SBS): what the block API shows and does, and how they come off a server."""

from collections.abc import Collection

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.scaleway_bill import BillingLog, VolumeEvent
from gpu_autoscaler.emulator.scaleway_catalog import LocalImage
from gpu_autoscaler.emulator.scaleway_state import BlockVolume, new_id
from gpu_autoscaler.emulator.timeline import Timeline

IOPS_CLASSES = (5000, 15000)
UPDATE_SECONDS = 2.0
"""A change of IOPS was seen done between 0 and 5 s after it was asked for."""


class BlockVolumes:
    """The volumes of all zones."""

    def __init__(self, timeline: Timeline, ids: Ids, log: BillingLog) -> None:
        self._timeline = timeline
        self._ids = ids
        self._log = log
        self.by_id: dict[str, BlockVolume] = {}

    def get(self, zone: str, volume_id: str) -> BlockVolume:
        """Raises `not_found`."""
        self._timeline.advance()
        volume = self.by_id.get(volume_id)
        if volume is None or volume.zone != zone:
            raise errors.not_found("volume", volume_id)
        return volume

    def find(
        self,
        zone: str,
        *,
        project: str = "",
        name: str = "",
        tags: Collection[str] = (),
        server_id: str = "",
    ) -> list[BlockVolume]:
        """Newest first. A volume that has *one* of `tags` matches, unlike with servers."""
        self._timeline.advance()
        return [
            volume
            for volume in reversed(self.by_id.values())
            if volume.zone == zone
            and (not project or volume.project == project)
            and name in volume.name
            and (not tags or not set(tags).isdisjoint(volume.tags))
            and (not server_id or volume.server_id == server_id)
        ]

    def update(
        self,
        zone: str,
        volume_id: str,
        *,
        name: str | None = None,
        tags: Collection[str] | None = None,
        iops: int | None = None,
    ) -> BlockVolume:
        """Change what is given; new IOPS take a moment in `updating`.

        Raises `not_found`, `invalid_arguments`, and `transient_state` for a second change of IOPS
        while the first goes on.
        """
        volume = self.get(zone, volume_id)
        if iops is not None and iops not in IOPS_CLASSES:
            raise errors.invalid_arguments("perf_iops", f"must be one of {IOPS_CLASSES}")
        if iops is not None and volume.status == "updating":
            raise errors.transient_state("volume", volume_id, volume.status)
        volume.name = volume.name if name is None else name
        volume.tags = volume.tags if tags is None else tuple(tags)
        volume.updated_at = self._timeline.now()
        if iops is not None:
            volume.status = "updating"
            self._timeline.after(UPDATE_SECONDS, lambda: self._updated(volume, iops))
        return volume

    def delete(self, zone: str, volume_id: str) -> None:
        """Raises `not_found`, and `precondition_failed` unless it is `available`."""
        volume = self.get(zone, volume_id)
        if volume.status != "available":
            help_message = f"volume is {volume.status}"
            raise errors.precondition("block", "resource_still_in_use", help_message)
        self._remove(volume)

    def create_for(
        self, server_id: str, zone: str, project: str, size: int, image: LocalImage, slot: str
    ) -> BlockVolume:
        """A volume born with its server: untagged and slow, whatever the server's tags are."""
        now = self._timeline.now()
        volume = BlockVolume(
            id=new_id(self._ids),
            name=f"{image.name}_sbs_volume_{slot}",
            zone=zone,
            project=project,
            size=size,
            created_at=now,
            updated_at=now,
            snapshot_id=image.snapshot_id if slot == "0" else None,
            reference_id=new_id(self._ids),
            server_id=server_id,
        )
        self.by_id[volume.id] = volume
        self._log.volumes.append(VolumeEvent(now, volume.id, size))
        return volume

    def detach(self, volume: BlockVolume, seconds: float) -> None:
        """Free it from its server in a while; until then it is `in_use`."""
        volume.detaching = True
        self._timeline.after(seconds, lambda: self._detached(volume))

    def _detached(self, volume: BlockVolume) -> None:
        now = self._timeline.now()
        volume.server_id, volume.detaching = None, False
        volume.updated_at = volume.detached_at = now
        if volume.status == "in_use":
            volume.status = "available"
        if volume.delete_when_free:
            self._remove(volume)

    def _updated(self, volume: BlockVolume, iops: int) -> None:
        volume.iops = iops
        volume.status = "in_use" if volume.server_id else "available"
        volume.updated_at = self._timeline.now()

    def _remove(self, volume: BlockVolume) -> None:
        del self.by_id[volume.id]
        self._log.volumes.append(VolumeEvent(self._timeline.now(), volume.id, 0))
