"""SIGKILL while instances are being made; then the daemon is started again."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator.scaleway_bill import FREE_STATES, ServerEvent
from gpu_autoscaler.emulator.scaleway_state import BlockVolume, Server
from gpu_autoscaler.runtime.clock import ScaledClock
from tests.e2e import fast_cli
from tests.e2e.support import Emulated, daemon_environment, emulated, in_real_time, running, until

pytestmark = pytest.mark.e2e

SPEED = 60.0
QUEUES = ("H100-1-80G", "H100-2-80G", "H100-SXM-4-80G")
"""Each with a placement of its own: at one of them launches take turns."""
WANTED = len(QUEUES)
STEPS = {
    "its volume is tagged": r"PATCH /block/.*/volumes/",
    "it gets its user data": r"PATCH .*/user_data/",
    "it loses its phase tag": r"PATCH .*/servers/[^/]+$",
}
"""What is done to a born server, and where a call can hang before it takes effect."""
HANGS_SECONDS = 300.0
"""A call that hung takes effect after all when the daemon has long given up on the server."""


def most_at_once(events: Iterable[ServerEvent]) -> int:
    """How many servers were billed at the same time, at most."""
    billed: set[str] = set()
    most = 0
    for event in events:
        if event.state is None or event.state in FREE_STATES:
            billed.discard(event.server_id)
        else:
            billed.add(event.server_id)
        most = max(most, len(billed))
    return most


def volumes(servers: Iterable[Server]) -> list[BlockVolume]:
    return [v for s in servers for v in s.volumes.values() if isinstance(v, BlockVolume)]


@pytest.mark.parametrize(
    ("hanging", "forget"),
    [
        (["it gets its user data"] * WANTED, False),
        (list(STEPS), False),
        (list(STEPS), True),
    ],
    ids=["before their user data", "each at another step", "and the memory is lost"],
)
@in_real_time
async def test_killed_while_three_are_being_made(
    tmp_path: Path, hanging: list[str], forget: bool
) -> None:
    clock = ScaledClock(SPEED)
    async with emulated(clock) as world:
        tasks = [world.task(seconds=1e6, queue=name) for name in QUEUES]
        for step in hanging:
            world.scaleway_faults.add("slow", STEPS[step], count=1, seconds=HANGS_SECONDS)
        queues = {name: {"placements": [{"type": name, "zone": "fr-par-2"}]} for name in QUEUES}
        config = world.config(tmp_path, change={"poll_interval": "30s", "queues": queues})
        words = fast_cli.command(clock, "run", "--config", str(config))
        environment = daemon_environment(tmp_path)

        async with running(*words, environment=environment) as daemon:
            await until(lambda: not world.scaleway_faults.rules, "all three creations hang")
            daemon.child.kill()
        half_made = [s for s in world.servers() if s.state is ServerState.STOPPED]
        assert len(world.servers()) == WANTED
        assert len(half_made) == sum(step != "it loses its phase tag" for step in hanging)
        if forget:
            shutil.rmtree(tmp_path / "state")

        async with running(*words, environment=environment) as daemon:
            await until(lambda: all(t.status == "in_progress" for t in tasks), "all tasks run")
            await until(lambda: world.left() == (WANTED, WANTED), "what was half-made is gone")
            assert await daemon.end() == 0
        _check(world, half_made)


def _check(world: Emulated, half_made: list[Server]) -> None:
    servers = world.servers()
    assert {server.state for server in servers} == {ServerState.RUNNING}
    assert not any("phase=provisioning" in server.tags for server in servers)
    halves = {server.id for server in half_made}
    assert not halves & {server.id for server in servers}
    started = {e.server_id for e in world.scaleway.log.servers if e.state is ServerState.STARTING}
    assert not halves & started
    assert most_at_once(world.scaleway.log.servers) == WANTED
    assert world.scaleway.bill().servers_created == WANTED + len(half_made)
    left = [volume.id for volume in world.scaleway.block.find("fr-par-2")]
    assert sorted(left) == sorted(volume.id for volume in volumes(servers))
