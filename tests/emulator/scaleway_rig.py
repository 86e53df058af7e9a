"""An emulated Scaleway for tests, whose clock is turned by hand."""

from datetime import datetime, timedelta

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer, NewVolume
from gpu_autoscaler.emulator.scaleway_state import BlockVolume, Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START

ZONE = "fr-par-2"
TYPE = "H100-1-80G"
IMAGE = "ubuntu_jammy_gpu_os_12"
GB = 10**9
LONG = 600.0
"""Longer than anything that goes on by itself."""


class ManualClock:
    """Stands still until somebody turns it."""

    def __init__(self) -> None:
        self.moment = VIRTUAL_START

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.turn(seconds)

    def turn(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class CountingIds:
    """0001, 0002, …"""

    def __init__(self) -> None:
        self.count = 0

    def hex(self, digits: int) -> str:
        self.count += 1
        return f"{self.count:0{digits}x}"


class PowerLog:
    """Machines that only note what happens to them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def powered_on(self, server: Server) -> None:
        self.seen.append(f"on {server.state}")

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        self.seen.append("off, announced" if graceful else "off, at once")


class Rig:
    """A model with its clock and its machines."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.machines = PowerLog()
        self.model = ScalewayModel(Timeline(self.clock), CountingIds(), machines=self.machines)

    def create(self, **changes: object) -> Server:
        """A stopped server (`changes` to `NewServer`), 125 GB unless they say otherwise."""
        order: dict[str, object] = {
            "commercial_type": TYPE,
            "image": IMAGE,
            "name": "h100-000001",
            "volumes": {"0": NewVolume(size=125 * GB)},
        }
        return self.model.create_server(ZONE, NewServer(**{**order, **changes}))  # type: ignore[arg-type]

    def act(self, server: Server, action: str) -> None:
        """Begin a server action, or `delete` the server."""
        if action == "delete":
            self.model.delete_server(ZONE, server.id)
        else:
            self.model.act(ZONE, server.id, action)

    def turn(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        self.clock.turn(seconds)
        self.model.timeline.advance()

    def running(self, **changes: object) -> Server:
        """A server that has booted."""
        server = self.create(**changes)
        self.act(server, "poweron")
        self.turn(LONG)
        return server

    def bring_to(self, state: ServerState) -> Server:
        """A server in this state."""
        if state is ServerState.STOPPED:
            return self.create()
        if state is ServerState.STARTING:
            server = self.create()
            self.act(server, "poweron")
            return server
        server = self.running()
        match state:
            case ServerState.STOPPING:
                self.act(server, "poweroff")
            case ServerState.STOPPED_IN_PLACE:
                self.act(server, "stop_in_place")
                self.turn(LONG)
            case ServerState.LOCKED:
                self.model.lock(server.id)
        return server


def root_of(server: Server) -> BlockVolume:
    """The server's boot volume."""
    volume = server.volumes["0"]
    assert isinstance(volume, BlockVolume)
    return volume
