"""An emulated Scaleway: one project's servers, volumes and stock, with the API's quirks.

Used in-process by simulations; `scaleway_http` puts the HTTP API before it. Everything that
happens later (a start, a detachment) stands on the timeline, which is advanced before any answer.
Local root volumes, flexible IPs, private networks and snapshots are not emulated.
"""

import uuid
from collections.abc import Collection
from datetime import datetime

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.domain.model import Availability, Placement, ServerState, VolumeKind
from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.scaleway_bill import PER_MINUTE_SECONDS, Bill, BillingLog
from gpu_autoscaler.emulator.scaleway_block import BlockVolumes
from gpu_autoscaler.emulator.scaleway_catalog import (
    ROOT_SNAPSHOT_BYTES,
    Catalog,
    default_catalog,
)
from gpu_autoscaler.emulator.scaleway_order import NewServer, NewVolume, resolve
from gpu_autoscaler.emulator.scaleway_power import Machines, Power, Timings
from gpu_autoscaler.emulator.scaleway_state import (
    PROJECT,
    BlockVolume,
    ScratchVolume,
    SecurityGroup,
    Server,
    Servers,
    new_id,
)
from gpu_autoscaler.emulator.scaleway_stock import Stock, StockMode
from gpu_autoscaler.emulator.timeline import Timeline

DEFAULT_ROOT = NewVolume()


class ScalewayModel:
    """See the module. Methods raise `ScalewayError` where the API answers other than 2xx."""

    def __init__(
        self,
        timeline: Timeline,
        ids: Ids,
        *,
        machines: Machines | None = None,
        catalog: Catalog | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.timeline = timeline
        self.catalog = catalog or default_catalog()
        self.timings = timings or Timings()
        self.stock = Stock()
        self.key_expires_at: datetime | None = None
        """End of the one API key that everybody has."""
        self.log = BillingLog()
        self.block = BlockVolumes(timeline, ids, self.log)
        self._ids = ids
        self._servers = Servers(self.log)
        self._groups: dict[str, SecurityGroup] = {}
        self._power = Power(
            timeline, ids, self.timings, machines, self._servers, self.stock, self.block
        )

    # --- what the API offers

    def create_server(self, zone: str, order: NewServer) -> Server:
        """A server comes stopped; only its volumes cost anything."""
        self.timeline.advance()
        kind, image = resolve(order, zone, self.catalog)
        project = order.project or PROJECT
        group = self._group(order.security_group, zone, project)
        placement = Placement(kind.name, zone)
        same_type = sum(s.commercial_type == kind.name for s in self._servers.now.values())
        self.stock.allow_creation(placement, same_type)
        now = self.timeline.now()
        server_id = new_id(self._ids)
        server = Server(
            id=server_id,
            name=order.name or f"srv-{server_id[:8]}",
            zone=zone,
            commercial_type=kind.name,
            project=project,
            image=image,
            created_at=now,
            modified_at=now,
            security_group=group,
            tags=order.tags,
            dynamic_ip_required=order.dynamic_ip_required,
            protected=order.protected,
        )
        for slot, volume in {"0": DEFAULT_ROOT, **order.volumes}.items():
            server.volumes[slot] = self._new_volume(server, slot, volume)
        self._servers.changed(server, now)
        return server

    def server(self, zone: str, server_id: str) -> Server:
        """Raises `not_found`."""
        self.timeline.advance()
        server = self._servers.now.get(server_id)
        if server is None or server.zone != zone:
            raise errors.not_found("instance_server", server_id)
        return server

    def servers(
        self,
        zone: str,
        *,
        project: str = "",
        name: str = "",
        tags: Collection[str] = (),
        state: str = "",
        oldest_first: bool = False,
    ) -> list[Server]:
        """Newest first. A server must have *all* of `tags`, unlike volumes."""
        self.timeline.advance()
        wanted = set(tags)
        found = [
            server
            for server in self._servers.listed(self.timeline.now())
            if server.zone == zone
            and (not project or server.project == project)
            and name in server.name
            and (not state or server.state == state)
            and wanted.issubset(server.tags)
        ]
        return found if oldest_first else found[::-1]

    def all_servers(self) -> list[Server]:
        """Those of every zone and project as they really are now, oldest first."""
        self.timeline.advance()
        return list(self._servers.now.values())

    def update_server(
        self,
        zone: str,
        server_id: str,
        *,
        name: str | None = None,
        tags: Collection[str] | None = None,
        protected: bool | None = None,
    ) -> Server:
        """Change what is given."""
        server = self.server(zone, server_id)
        server.name = server.name if name is None else name
        server.tags = server.tags if tags is None else tuple(tags)
        server.protected = server.protected if protected is None else protected
        self._servers.changed(server, self.timeline.now())
        return server

    def delete_server(self, zone: str, server_id: str) -> None:
        """Only a stopped one, and its block volumes stay."""
        server = self.server(zone, server_id)
        if server.protected:
            raise errors.precondition("instance", "protected_resource", "instance is protected")
        if server.state is not ServerState.STOPPED:
            help_message = "instance should be powered off"
            raise errors.precondition("instance", "resource_still_in_use", help_message)
        self._power.remove(server, self.timings.detach_on_delete)

    def act(self, zone: str, server_id: str, action: str) -> None:
        """Begin a server action: poweron, poweroff, terminate, reboot, stop_in_place, backup."""
        server = self.server(zone, server_id)
        has_gpu = self.catalog.types[server.commercial_type].gpus > 0
        self._power.act(server, action, has_gpu=has_gpu)

    def availability(self, zone: str) -> dict[str, Availability]:
        """What the zone says of its stock; it may be wrong (`set_stock(told=…)`)."""
        self.timeline.advance()
        return self.stock.told(zone, (kind.name for kind in self.catalog.in_zone(zone)))

    def security_groups(self, zone: str, project: str = "") -> list[SecurityGroup]:
        """A project's default one appears with its first server."""
        return [
            group
            for group in self._groups.values()
            if group.zone == zone and (not project or group.project == project)
        ]

    def security_group(self, zone: str, group_id: str) -> SecurityGroup:
        """Raises `not_found`, as also for a group of another zone."""
        group = self._groups.get(group_id)
        if group is None or group.zone != zone:
            raise errors.not_found("instance_security_group", group_id)
        return group

    # --- what happens to it from outside

    def add_security_group(self, zone: str, name: str, *, inbound: str = "drop") -> str:
        """Somebody makes one; its id."""
        group = SecurityGroup(new_id(self._ids), name, zone, PROJECT, inbound)
        self._groups[group.id] = group
        return group.id

    def set_stock(
        self,
        placement: Placement,
        stock: int | Availability,
        mode: StockMode = StockMode.AT_POWERON,
        *,
        told: Availability | None = None,
    ) -> None:
        """See `Stock.put`."""
        self.timeline.advance()
        self.stock.put(placement, stock, mode, told)

    def set_quota(self, commercial_type: str, limit: int | None, *, figures: bool = True) -> None:
        """See `Stock.set_quota`."""
        self.stock.set_quota(commercial_type, limit, figures=figures)

    def set_listing_lag(self, seconds: float) -> None:
        """Let server listings (not a GET of one) show the past."""
        self.timeline.advance()
        self._servers.set_lag(seconds, self.timeline.now())

    def crash(self, server_id: str) -> None:
        """Its hypervisor dies: the server is `stopped`, without a warning to the guest."""
        self._power.stopped(self._anywhere(server_id))

    def standby(self, server_id: str) -> None:
        """The guest powered itself down: the server ends up stopped in place, and billed."""
        server = self._anywhere(server_id)
        if server.state is ServerState.RUNNING:
            self._power.stand_by(server)

    def lock(self, server_id: str) -> None:
        """Scaleway locks it."""
        self._power.lock(self._anywhere(server_id))

    def person_stops(self, server_id: str) -> None:
        """Somebody powers it off in the console."""
        self.act(self._anywhere(server_id).zone, server_id, "poweroff")

    def person_starts(self, server_id: str) -> None:
        """Somebody powers it on in the console."""
        self.act(self._anywhere(server_id).zone, server_id, "poweron")

    def person_deletes(self, server_id: str, *, with_volumes: bool = True) -> None:
        """Somebody deletes it in the console, which offers to delete its volumes too."""
        server = self._anywhere(server_id)
        if server.state is ServerState.STOPPED:
            self.delete_server(server.zone, server_id)
        else:
            self.act(server.zone, server_id, "terminate")
        for volume in server.volumes.values():
            if isinstance(volume, BlockVolume):
                volume.delete_when_free = with_volumes

    def bill(self, granularity_seconds: float = PER_MINUTE_SECONDS) -> Bill:
        """Everything used up to now; see `scaleway_bill`."""
        self.timeline.advance()
        return self.log.bill(self.timeline.now(), self.catalog, granularity_seconds)

    def _anywhere(self, server_id: str) -> Server:
        self.timeline.advance()
        server = self._servers.now.get(server_id)
        if server is None:
            raise errors.not_found("instance_server", server_id)
        return server

    def _group(self, group_id: str, zone: str, project: str) -> SecurityGroup:
        if group_id:
            return self.security_group(zone, group_id)
        default_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"security-group/{zone}/{project}"))
        default = SecurityGroup(default_id, "Default security group", zone, project)
        return self._groups.setdefault(default_id, default)

    def _new_volume(
        self, server: Server, slot: str, volume: NewVolume
    ) -> BlockVolume | ScratchVolume:
        if volume.kind is VolumeKind.SCRATCH:
            name = volume.name or f"{server.name}-scratch"
            size = volume.size or 0
            return ScratchVolume(new_id(self._ids), name, size, self.timeline.now())
        size = ROOT_SNAPSHOT_BYTES if volume.size is None else volume.size
        made = self.block.create_for(
            server.id, server.zone, server.project, size, server.image, slot
        )
        made.boot = volume.boot
        return made
