"""Two daemons share one object: one acts, and when it is killed the other goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.runtime.clock import ScaledClock
from tests.e2e import fast_cli
from tests.e2e.support import (
    Emulated,
    Running,
    daemon_environment,
    emulated,
    in_real_time,
    logged,
    running,
    until,
)
from tests.store.server import BUCKET, REGION, bucket_server, make_bucket

pytestmark = pytest.mark.e2e

SPEED = 20.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A local S3-compatible server with conditional writes."""
    with bucket_server() as url:
        make_bucket(url)
        yield url


def _words(world: Emulated, clock: ScaledClock, home: Path, endpoint: str) -> tuple[str, ...]:
    home.mkdir()
    store = {"bucket": BUCKET, "region": REGION, "endpoint": endpoint, "key": f"{home.parent.name}"}
    change: dict[str, Any] = {"poll_interval": "30s", "store": store}
    config = world.config(home, change=change, max_instances=3)
    return fast_cli.command(clock, "run", "--config", str(config))


def _leads(daemon: Running) -> bool:
    """Whether it said last that it leads."""
    said = [e["event"] for e in logged(daemon.lines) if e["event"] in ("leading", "standing by")]
    return said[-1:] == ["leading"]


@in_real_time
async def test_one_acts_and_when_it_is_killed_the_other_goes_on(
    tmp_path: Path, endpoint: str
) -> None:
    clock = ScaledClock(SPEED)
    async with emulated(clock) as world:
        words = [_words(world, clock, tmp_path / name, endpoint) for name in ("a", "b")]
        environment = daemon_environment(tmp_path)
        async with (
            running(*words[0], environment=environment) as one,
            running(*words[1], environment=environment) as other,
        ):
            await until(lambda: _leads(one) or _leads(other), "one of them leads")
            first, second = (one, other) if _leads(one) else (other, one)
            await second.said("standing by")
            tasks = [world.task(seconds=1e6) for _ in range(2)]
            await until(lambda: all(t.status == "in_progress" for t in tasks), "both tasks run")
            assert not second.events("create")

            first.child.kill()
            third = world.task(seconds=1e6)
            await until(lambda: third.status == "in_progress", "the third task runs")
            assert await second.end() == 0
        assert {server.state for server in world.servers()} == {ServerState.RUNNING}
        assert world.scaleway.bill().servers_created == 3


@in_real_time
async def test_a_redeploy_hands_the_lease_over_at_once(tmp_path: Path, endpoint: str) -> None:
    clock = ScaledClock(SPEED)
    async with emulated(clock) as world:
        words = [_words(world, clock, tmp_path / name, endpoint) for name in ("a", "b")]
        environment = daemon_environment(tmp_path)
        async with running(*words[0], environment=environment) as old:
            await until(lambda: _leads(old), "the first leads")
            task = world.task(seconds=1e6)
            async with running(*words[1], environment=environment) as new:
                await new.said("standing by")
                assert await old.end() == 0
                await until(lambda: _leads(new), "the new one leads")
                await until(lambda: task.status == "in_progress", "the task runs")
                assert await new.end() == 0
        assert world.scaleway.bill().servers_created == 1
