"""A budget in the real loop: 40 euros of work, 20 euros a day."""

from datetime import datetime, timedelta

from gpu_autoscaler.domain.model import PAUSE_TAG
from gpu_autoscaler.runtime.clock import run_virtual
from tests.policy.worlds import QUEUE, config
from tests.runtime.world import World

TASKS = 7
HOURS = 2.0
"""Seven tasks of two hours on a machine of 2.87 EUR an hour."""
CAP = 20.0


def tagged(world: World) -> bool:
    """Whether agents are kept from pulling."""
    return PAUSE_TAG in world.clearml.queues.all[world.queue_ids[QUEUE]].tags


def test_work_stops_at_the_cap_and_goes_on_the_next_day() -> None:
    async def scene() -> None:
        queue = {"max_instances": 3, "idle_timeout": "5m", "stopped_retention": "10m"}
        world = World(config(queue, budgets=[{"eur": CAP, "per": "day"}]))
        await world.loop.prepare()
        tasks = [world.task(HOURS) for _ in range(TASKS)]
        started: dict[str, datetime] = {}
        held_at: datetime | None = None
        running_then = 0

        def watch() -> None:
            nonlocal held_at, running_then
            for task in tasks:
                if "started" in world.clearml.task(task).fields:
                    started.setdefault(task, world.clearml.task(task).fields["started"])
            if held_at is None and tagged(world):
                held_at = world.clock.now()
                running_then = sum(world.status(task) == "in_progress" for task in tasks)

        midnight = (world.clock.now() + timedelta(days=1)).replace(hour=0, minute=0, second=0)
        await world.cycles(midnight - world.clock.now(), each=watch)
        assert held_at is not None
        spent = world.scaleway.bill().eur
        assert all(at <= held_at for at in started.values())
        assert 0 < len(started) < TASKS
        at_most = CAP + running_then * HOURS * 2.8665 + 0.5  # and their idling
        assert CAP <= spent <= at_most
        assert all(world.status(task) == "completed" for task in started)
        assert not world.scaleway.bill().servers_left

        await world.until(
            lambda: all(world.status(task) == "completed" for task in tasks), timedelta(hours=12)
        )
        assert not tagged(world)

    run_virtual(scene())


def test_a_raised_budget_opens_at_once() -> None:
    async def scene() -> None:
        world = World(config({"max_instances": 1}, budgets=[{"eur": 0.3, "per": "month"}]))
        await world.loop.prepare()
        first, second = world.task(0.2), world.task(0.2)
        await world.until(lambda: world.status(first) == "completed")
        await world.cycles(timedelta(hours=1))
        assert world.status(second) == "queued"
        world.source.value = config({"max_instances": 1}, budgets=[{"eur": 50, "per": "month"}])
        await world.until(lambda: world.status(second) == "completed")

    run_virtual(scene())
