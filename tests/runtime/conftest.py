"""Every story in this folder is watched: its invariants are checked after each cycle."""

import pytest

from gpu_autoscaler.runtime.loop import Cycle, Loop
from tests.runtime.invariants import Invariants
from tests.runtime.world import World


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    start_daemon = World.start_daemon

    def start_watched(world: World) -> None:
        start_daemon(world)
        loop, invariants = world.loop, Invariants(world)

        async def cycle() -> Cycle:
            done = await Loop.cycle(loop)
            invariants.check(done)
            return done

        loop.cycle = cycle  # type: ignore[method-assign]

    monkeypatch.setattr(World, "start_daemon", start_watched)
