"""The servers of one fleet, through the instance API."""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime

from gpu_autoscaler.domain.errors import ApiError, NotFound, Rejected, Transient
from gpu_autoscaler.domain.model import (
    BOOT_REPORT_KEY,
    CreateOrder,
    FleetTags,
    Instance,
    ServerState,
)
from gpu_autoscaler.scaleway.transport import Transport
from gpu_autoscaler.scaleway.wire import (
    Server,
    begun_at,
    create_body,
    one_line,
    server_of,
    tags_of,
)

STOPPING_IN_PLACE = "stopping in place"
"""The state detail of a machine on its way to standby, where it is billed in full."""


class Servers:
    """Reads and single changes; the sequences made of them stand in `creation` and `removal`."""

    def __init__(self, transport: Transport, project_id: str, fleet: FleetTags) -> None:
        self._transport = transport
        self._project_id = project_id
        self._fleet = fleet

    async def listing(self, zone: str) -> tuple[Instance, ...]:
        """All servers of the fleet in a zone; one unreadable entry fails the whole listing."""
        params = {"project": self._project_id, "tags": ",".join(self._fleet.membership)}
        listed = await self._transport.listing(_servers(zone), "servers", params)
        ours = [raw for raw in listed.values() if self._fleet.owns(tags_of(raw))]
        return tuple(server_of(raw, zone).instance for raw in ours)

    async def get(self, zone: str, server_id: str) -> Server:
        """One server as it is now. Raises NotFound."""
        reply = await self._transport.get(_server(zone, server_id))
        return server_of(reply.get("server"), zone)

    async def create(self, order: CreateOrder, image_id: str) -> Server:
        """Make a stopped server with `phase=provisioning`; it exists perhaps even on Transient."""
        self._check(order.tags)
        zone = order.placement.zone
        body = create_body(order, image_id, self._project_id)
        reply = await self._transport.post(_servers(zone), body)
        return server_of(reply.get("server"), zone)

    async def set_user_data(self, zone: str, server_id: str, user_data: bytes) -> None:
        """Hand over the cloud-init script, byte for byte."""
        path = f"{_server(zone, server_id)}/user_data/cloud-init"
        await self._transport.send("PATCH", path, content=user_data)

    async def remove_user_data(self, zone: str, server_id: str) -> None:
        """Take the cloud-init script away. One that is not there is no failure."""
        with suppress(NotFound):
            await self._transport.send("DELETE", f"{_server(zone, server_id)}/user_data/cloud-init")

    async def boot_report(self, zone: str, server_id: str) -> str:
        """The line that the machine itself keeps in its user data; empty when there is none."""
        path = f"{_server(zone, server_id)}/user_data/{BOOT_REPORT_KEY}"
        try:
            return one_line(await self._transport.text(path))
        except NotFound:
            return ""

    async def change_tags(
        self, zone: str, server_id: str, add: Collection[str], remove: Collection[str]
    ) -> None:
        """Add and take away tags, and nothing else: people may have set others meanwhile, and the
        SDK's update would also reset protection, networks and the dynamic IP to its defaults."""
        present = (await self.get(zone, server_id)).instance.tags
        tags = sorted((present | set(add)) - set(remove))
        self._check(tags)
        await self._transport.send("PATCH", _server(zone, server_id), json={"tags": tags})

    async def act(self, zone: str, server_id: str, action: str) -> datetime | None:
        """Ask for `poweron` or `poweroff`; the answer is only that it was heard, and when."""
        path = f"{_server(zone, server_id)}/action"
        return begun_at(await self._transport.post(path, {"action": action}))

    async def delete(self, zone: str, server_id: str) -> None:
        """Delete a stopped server; its block volumes stay."""
        await self._transport.send("DELETE", _server(zone, server_id))

    async def power_on(self, zone: str, server_id: str) -> datetime | None:
        """Power on; a refusal or a lost reply is no failure when the server starts all the same.

        Returns from when on it is billed, as far as Scaleway says so.
        """
        try:
            return await self.act(zone, server_id, "poweron")
        except (Transient, Rejected) as refusal:
            try:
                fresh = (await self.get(zone, server_id)).instance
            except NotFound:
                raise
            except ApiError as blind:
                if isinstance(refusal, Rejected):
                    raise refusal from None
                # whatever kept us from looking, the power-on may have been heard
                raise Transient(f"{refusal}; and it cannot be looked at: {blind}") from None
            if fresh.state not in (ServerState.STARTING, ServerState.RUNNING):
                raise _in_passing(refusal, fresh) from None
            return fresh.modified_at

    async def power_off(self, zone: str, server_id: str) -> None:
        """Power off; one that is off, on its way there, or gone is no failure."""
        try:
            await self.act(zone, server_id, "poweroff")
        except NotFound:
            return
        except (Transient, Rejected) as refusal:
            try:
                fresh = (await self.get(zone, server_id)).instance
            except NotFound:
                return
            if not _is_off(fresh):
                raise _in_passing(refusal, fresh) from None

    def _check(self, tags: Collection[str]) -> None:
        """A server without the fleet's tags would be billed and never seen again."""
        if not self._fleet.owns(frozenset(tags)):
            raise Rejected(f"tags without those of fleet {self._fleet.fleet!r}: {sorted(tags)}")


def _is_off(instance: Instance) -> bool:
    if instance.state is ServerState.STOPPING:
        return instance.state_detail != STOPPING_IN_PLACE
    return instance.state is ServerState.STOPPED


def _in_passing(refusal: ApiError, instance: Instance) -> ApiError:
    """What an older service calls a wrong request is only too early while the state changes."""
    if instance.state in (ServerState.STARTING, ServerState.STOPPING):
        return Transient(f"{refusal}; it is {instance.state}")
    return refusal


def _servers(zone: str) -> str:
    return f"/instance/v1/zones/{zone}/servers"


def _server(zone: str, server_id: str) -> str:
    return f"{_servers(zone)}/{server_id}"
