"""The watch over every story sees what it is there for."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gpu_autoscaler.domain import lifecycle
from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.simulation import invariants
from tests.policy.worlds import minutes
from tests.runtime.invariants import Invariants
from tests.runtime.world import World


def story(run: Callable[[World], Awaitable[None]], **queue: Any) -> None:
    async def main() -> None:
        await run(World(**queue))

    run_virtual(main())


async def a_working_day(world: World) -> None:
    """Boot, work, idle, work again, idle, stop, start, work, go."""
    first = world.task(hours=1)
    await world.until(lambda: world.status(first) == "completed")
    await world.cycles(minutes(5))
    second = world.task(hours=1)
    await world.until(lambda: world.status(second) == "completed")
    await world.cycles(minutes(40))
    third = world.task(hours=1)
    await world.until(lambda: world.status(third) == "completed")
    await world.cycles(minutes(26 * 60))


@pytest.mark.parametrize(
    "edge",
    [
        (S.INITIALIZING, S.RUNNING_TASK),
        (S.RUNNING_TASK, S.IDLE),
        (S.IDLE, S.RUNNING_TASK),
        (S.IDLE, S.STOPPING),
        (S.STOPPING, S.STOPPED),
        (S.STOPPED, S.INITIALIZING),
    ],
)
def test_the_edges_of_a_working_day_are_walked_and_watched(
    edge: tuple[S, S], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = edge
    rows = dict(lifecycle.TRANSITIONS)
    rows[before] -= {after}
    monkeypatch.setattr(invariants, "TRANSITIONS", rows)
    with pytest.raises(AssertionError, match=f"{before} -> {after} is not in TRANSITIONS"):
        story(a_working_day)


async def at_work(world: World) -> Cycle:
    """One machine runs a task; the last cycle."""
    task = world.task(hours=9)
    await world.until(lambda: world.status(task) == "in_progress")
    return await world.loop.cycle()


def test_a_power_off_of_a_working_machine_is_seen() -> None:
    async def run(world: World) -> None:
        cycle = await at_work(world)
        (there,) = cycle.world.zones["fr-par-2"].instances
        rogue = StopInstance(
            instance=there,
            guard=Guard.NONE,
            booted_at=there.created_at,
            reason=Reason.IDLE_TIMEOUT,
            because="rogue",
        )
        memory = replace(cycle.plan.memory)
        cycle.plan = replace(cycle.plan, effects=(rogue,), memory=memory)
        with pytest.raises(AssertionError, match="while it runs a task"):
            Invariants(world).check(cycle)

    story(run)


def test_one_too_many_is_seen() -> None:
    async def run(world: World) -> None:
        cycle = await at_work(world)
        world.configure(max_instances=0)
        cycle.config = world.source.value
        with pytest.raises(AssertionError, match="1 are billed, allowed are 0"):
            Invariants(world).check(cycle)

    story(run)


def test_a_machine_without_a_decision_is_seen() -> None:
    async def run(world: World) -> None:
        cycle = await at_work(world)
        cycle.plan = replace(cycle.plan, instances=())
        with pytest.raises(AssertionError, match="not one decision per instance"):
            Invariants(world).check(cycle)

    story(run)
