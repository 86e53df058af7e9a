"""The records of the emulated Scaleway, and the listing of servers with its lag."""

import copy
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.domain.model import Placement, ServerState, VolumeKind
from gpu_autoscaler.emulator.scaleway_bill import BillingLog, ServerEvent
from gpu_autoscaler.emulator.scaleway_catalog import LocalImage

ALLOWED_ACTIONS: dict[ServerState, tuple[str, ...]] = {
    ServerState.STOPPED: ("poweron", "backup"),
    ServerState.STARTING: ("stop_in_place", "backup"),
    ServerState.RUNNING: ("poweroff", "terminate", "reboot", "stop_in_place", "backup"),
    ServerState.STOPPING: ("stop_in_place", "backup"),
    ServerState.STOPPED_IN_PLACE: ("poweron", "poweroff", "terminate", "reboot", "backup"),
    ServerState.LOCKED: (),
}
"""As recorded."""


PROJECT = "00000000-0000-4000-8000-0000000000aa"
"""Project of whatever is created without saying where; also the organization's id."""


def new_id(ids: Ids) -> str:
    """A fresh id, spelt as a UUID."""
    digits = ids.hex(32)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A firewall; emulated servers only point at one."""

    id: str
    name: str
    zone: str
    project: str
    inbound: str = "accept"
    """What becomes of what no rule names: `accept` or `drop`."""


@dataclass(frozen=True, slots=True)
class PublicIp:
    """A dynamic address: born with a power-on, gone with the power-off."""

    id: str
    address: str


@dataclass(slots=True)
class BlockVolume:
    """An SBS volume: known to the block API alone, outlives its server, billed until deleted."""

    id: str
    name: str
    zone: str
    project: str
    size: int
    created_at: datetime
    updated_at: datetime
    snapshot_id: str | None
    reference_id: str
    server_id: str | None
    """The server that holds it, also while detaching."""
    boot: bool = False
    tags: tuple[str, ...] = ()
    iops: int = 5000
    status: str = "in_use"
    detaching: bool = False
    detached_at: datetime | None = None
    delete_when_free: bool = False
    """A person deleted the server together with its volumes."""

    kind = VolumeKind.BLOCK


@dataclass(slots=True)
class ScratchVolume:
    """A local disk: known to the instance API alone, dies with its server."""

    id: str
    name: str
    size: int
    created_at: datetime

    kind = VolumeKind.SCRATCH


@dataclass(slots=True)
class Server:
    """A server as it stands now."""

    id: str
    name: str
    zone: str
    commercial_type: str
    project: str
    image: LocalImage
    created_at: datetime
    modified_at: datetime
    security_group: SecurityGroup
    tags: tuple[str, ...] = ()
    volumes: dict[str, BlockVolume | ScratchVolume] = field(default_factory=dict)
    """By slot; "0" is the root volume."""
    user_data: dict[str, bytes] = field(default_factory=dict)
    dynamic_ip_required: bool = True
    protected: bool = False
    state: ServerState = ServerState.STOPPED
    state_detail: str = ""
    public_ip: PublicIp | None = None
    has_node: bool = False
    """It occupies a machine: a piece of the stock."""
    powered: bool = False
    """The VM runs (set and cleared together with the calls to `Machines`)."""
    operation: int = 0
    """Counts what was asked of it, so that an older operation's late steps do not apply."""

    @property
    def placement(self) -> Placement:
        """What it takes its stock from."""
        return Placement(self.commercial_type, self.zone)

    @property
    def terminating(self) -> bool:
        """Whether it will be gone at the end of what it does."""
        return self.state_detail == "terminating"

    @property
    def allowed_actions(self) -> tuple[str, ...]:
        """None while local volumes are being deleted with it, whatever its type."""
        if self.terminating and any(v.kind is VolumeKind.SCRATCH for v in self.volumes.values()):
            return ()
        return ALLOWED_ACTIONS[self.state]


class Servers:
    """All servers by id, oldest first, and the listing of them as it was `lag_seconds` ago."""

    def __init__(self, log: BillingLog) -> None:
        self._log = log
        self.now: dict[str, Server] = {}
        self.lag_seconds = 0.0
        self._past: dict[str, list[tuple[datetime, Server | None]]] = {}

    def set_lag(self, seconds: float, now: datetime) -> None:
        """Let listings show the servers as they were this long ago, beginning with the present."""
        self.lag_seconds = seconds
        then = now - timedelta(seconds=seconds)
        self._past = {id_: [(then, copy.copy(server))] for id_, server in self.now.items()}

    def changed(self, server: Server, now: datetime) -> None:
        """Note a new server, or that one changed."""
        server.modified_at = now
        self.now[server.id] = server
        self._note(server, server.state, now)

    def removed(self, server: Server, now: datetime) -> None:
        """Note that one is gone."""
        del self.now[server.id]
        self._note(server, None, now)

    def listed(self, now: datetime) -> Collection[Server]:
        """What a listing shows."""
        if not self.lag_seconds:
            return self.now.values()
        then = now - timedelta(seconds=self.lag_seconds)
        seen = []
        for id_, versions in list(self._past.items()):
            while len(versions) > 1 and versions[1][0] <= then:
                versions.pop(0)
            at, server = versions[0]
            if at <= then and server is not None:
                seen.append(server)
            elif at <= then and len(versions) == 1:
                del self._past[id_]
        return seen

    def _note(self, server: Server, state: ServerState | None, now: datetime) -> None:
        self._log.servers.append(ServerEvent(now, server.id, server.commercial_type, state))
        if self.lag_seconds:
            version = copy.copy(server) if state else None
            self._past.setdefault(server.id, []).append((now, version))
