"""What happens to a server over time: powering on and off, standby, reboot, termination.

stopped --poweron--> starting --> running --stop_in_place--> stopping --> stopped in place
   ^                    |           |  ^                                     |  |  |
   |  (silently out     |           |  +------------- poweron ---------------+  |  |
   +-- of stock) -------+           |                                           |  |
   +------------- stopping <--------+--------------- poweroff ------------------+  |
                  stopping (terminating) <--terminate--+---------------------------+
                     +--> gone; its block volumes stay
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.scaleway_block import BlockVolumes
from gpu_autoscaler.emulator.scaleway_state import (
    ALLOWED_ACTIONS,
    BlockVolume,
    PublicIp,
    Server,
    Servers,
    new_id,
)
from gpu_autoscaler.emulator.scaleway_stock import Stock
from gpu_autoscaler.emulator.timeline import Timeline

ACTIONS = frozenset(action for allowed in ALLOWED_ACTIONS.values() for action in allowed)
FORBIDDEN_WHEN_PROTECTED = frozenset({"poweroff", "terminate", "reboot", "stop_in_place"})


class Machines(Protocol):
    """What lives inside the servers: boots, works, shuts down."""

    def powered_on(self, server: Server) -> None:
        """The VM was started: the server has just become `running`."""

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        """The power is about to go: announced to the guest (`graceful`), or all at once."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds each step takes; the defaults are those of the recordings where there is one."""

    allocating: float = 5.0
    """First part of a GPU type's start, in the sum 18 to 21 s."""
    provisioning: float = 14.0
    cpu_start: float = 6.0
    """The whole start of a type without GPU."""
    kernel: float = 15.0
    """`running` says `booting kernel` for so long, then `booted` (not recorded)."""
    poweroff: float = 45.0
    stop_in_place: float = 46.0
    resume: float = 5.0
    """Power-on of a server stopped in place, which kept its machine (not recorded)."""
    reboot: float = 30.0
    """Not recorded."""
    terminate: float = 15.0
    detach_on_terminate: float = 12.0
    detach_on_delete: float = 5.0
    silent_failure: float = 60.0
    """How long a start without stock pretends to go on (not recorded)."""


class Power:
    """Takes servers from state to state."""

    def __init__(
        self,
        timeline: Timeline,
        ids: Ids,
        timings: Timings,
        machines: Machines | None,
        servers: Servers,
        stock: Stock,
        block: BlockVolumes,
    ) -> None:
        self._timeline = timeline
        self._ids = ids
        self._timings = timings
        self._machines = machines
        self._servers = servers
        self._stock = stock
        self._block = block
        self._addresses = 0

    def act(self, server: Server, action: str, *, has_gpu: bool) -> None:
        """Begin an action.

        Raises `invalid_request_error` or `precondition_failed` when the state or the protection
        forbids it, and `out_of_stock`.
        """
        self._refuse(server, action)
        match action:
            case "poweron" if server.state is ServerState.STOPPED:
                self._start(server, has_gpu=has_gpu)
            case "poweron":
                self._begin(server, ServerState.STARTING, "starting")
                self._later(server, self._timings.resume, self._run)
            case "poweroff":
                self._cut(server, graceful=True)
                self._begin(server, ServerState.STOPPING, "stopping")
                self._later(server, self._timings.poweroff, self.stopped)
            case "reboot":
                self._cut(server, graceful=True)
                self._begin(server, ServerState.STARTING, "rebooting")
                self._later(server, self._timings.reboot, self._run)
            case "terminate":
                self._terminate(server)
            case "stop_in_place" if server.state is not ServerState.STOPPING:
                self.stand_by(server)

    def stand_by(self, server: Server) -> None:
        """Standby: the guest is off, the machine is kept and billed."""
        self._cut(server, graceful=True)
        self._begin(server, ServerState.STOPPING, "stopping in place")
        self._later(server, self._timings.stop_in_place, self._standing_by)

    def stopped(self, server: Server) -> None:
        """Off, with everything it held given back; also what a dead hypervisor leaves."""
        self._cut(server, graceful=False)
        self._release(server)
        self._begin(server, ServerState.STOPPED, "")

    def lock(self, server: Server) -> None:
        """Scaleway's own hand on it: the machine is cut off, nothing may be done."""
        self._cut(server, graceful=False)
        self._begin(server, ServerState.LOCKED, "locked")

    def enter(self, server: Server, state: ServerState, detail: str) -> None:
        """Change the visible state."""
        server.state, server.state_detail = state, detail
        self._servers.changed(server, self._timeline.now())

    def remove(self, server: Server, detach_seconds: float) -> None:
        """Delete the server; its block volumes come free."""
        for volume in server.volumes.values():
            if isinstance(volume, BlockVolume) and not volume.detaching:
                self._block.detach(volume, detach_seconds)
        self._gone(server)

    def _refuse(self, server: Server, action: str) -> None:
        if action not in ACTIONS:
            raise errors.validation({"action": [f"{action!r} is not one of {sorted(ACTIONS)}"]})
        if server.protected and action in FORBIDDEN_WHEN_PROTECTED:
            raise errors.precondition("instance", "protected_resource", "instance is protected")
        if action in server.allowed_actions:
            return
        if server.state is ServerState.STOPPED:
            raise errors.wrong_state("server should be running")
        if server.state is ServerState.RUNNING:
            raise errors.wrong_state("server should be stopped")
        help_message = f"instance is {server.state}"
        raise errors.precondition("instance", "resource_still_in_use", help_message)

    def _start(self, server: Server, *, has_gpu: bool) -> None:
        server.has_node = self._stock.take(server.placement)
        self._begin(server, ServerState.STARTING, "allocating node")
        if not server.has_node:
            self._later(server, self._timings.silent_failure, self.stopped)
            return
        if server.dynamic_ip_required:
            self._addresses += 1
            high, low = divmod(self._addresses, 256)
            server.public_ip = PublicIp(new_id(self._ids), f"198.18.{high % 256}.{low}")
        if has_gpu:
            allocating, provisioning = self._timings.allocating, self._timings.provisioning
        else:
            allocating = provisioning = self._timings.cpu_start / 2
        self._later(server, allocating, lambda it: self._provision(it, provisioning))

    def _provision(self, server: Server, seconds: float) -> None:
        self.enter(server, ServerState.STARTING, "provisioning node")
        self._later(server, seconds, self._run)

    def _run(self, server: Server) -> None:
        self.enter(server, ServerState.RUNNING, "booting kernel")
        self._later(
            server, self._timings.kernel, lambda it: self.enter(it, ServerState.RUNNING, "booted")
        )
        server.powered = True
        if self._machines is not None:
            self._machines.powered_on(server)

    def _standing_by(self, server: Server) -> None:
        self.enter(server, ServerState.STOPPED_IN_PLACE, "stopped in place")

    def _terminate(self, server: Server) -> None:
        self._cut(server, graceful=False)
        self._begin(server, ServerState.STOPPING, "terminating")
        for volume in server.volumes.values():
            if isinstance(volume, BlockVolume):
                self._block.detach(volume, self._timings.detach_on_terminate)
        self._later(server, self._timings.terminate, self._gone)

    def _gone(self, server: Server) -> None:
        self._release(server)
        server.operation += 1
        self._servers.removed(server, self._timeline.now())

    def _release(self, server: Server) -> None:
        server.public_ip = None
        if server.has_node:
            server.has_node = False
            self._stock.give_back(server.placement)

    def _cut(self, server: Server, *, graceful: bool) -> None:
        if server.powered:
            server.powered = False
            if self._machines is not None:
                self._machines.powered_off(server, graceful=graceful)

    def _begin(self, server: Server, state: ServerState, detail: str) -> None:
        server.operation += 1
        self.enter(server, state, detail)

    def _later(self, server: Server, seconds: float, step: Callable[[Server], None]) -> None:
        operation = server.operation

        def run() -> None:
            if server.operation == operation:
                step(server)

        self._timeline.after(seconds, run)
