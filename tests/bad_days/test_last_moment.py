"""Something happens at the very moment in which an idle machine is stopped."""

import httpx
import pytest

from tests.bad_days.world import BadDay, bad_day, nothing
from tests.policy.worlds import QUEUE, minutes

PULL_SECONDS = 7.0
"""An agent asks for a task every 5 s."""

MOMENTS = [
    pytest.param("tasks.get_all", id="before-the-last-look"),
    pytest.param("queues.get_all", id="after-its-tasks"),
    pytest.param("workers.get_all", id="after-its-queues"),
    pytest.param("/action", id="after-its-workers"),
]
"""The calls of a power-off, in their order: each is held up while something happens."""


def at_the_stop(world: BadDay, call: str, seconds: float, caught: list[str]) -> None:
    """When the daemon has decided to stop and sends this call, somebody enqueues a task."""

    async def meanwhile(request: httpx.Request) -> None:
        if not caught and world.said("stop") and call in request.url.path:
            caught.append(world.task(hours=0.1, name="caught"))
            await world.clock.sleep(seconds)

    world.meanwhile = meanwhile


@pytest.mark.parametrize("seconds", [0.0, PULL_SECONDS], ids=["unseen", "pulled"])
@pytest.mark.parametrize("call", MOMENTS)
def test_a_task_enqueued_at_that_moment_completes(call: str, seconds: float) -> None:
    async def story(world: BadDay) -> None:
        caught: list[str] = []
        at_the_stop(world, call, seconds, caught)
        await world.until_done(world.task(hours=0.1))
        await world.until(lambda: bool(caught))
        await world.until_done(*caught)
        rescued = world.said("rescue", reason="caught_task", subject=caught[0])
        assert world.machines.interrupted == len(rescued) <= 1
        assert len(world.said("left undone", effect="stop")) + len(rescued) <= 1
        await world.until_nothing_is_left()
        assert world.created() <= 2
        assert world.clearml_calls.count("tasks.enqueue") == len(rescued)

    bad_day(story)


def test_a_task_popped_but_not_started_at_the_last_look_keeps_the_machine() -> None:
    async def story(world: BadDay) -> None:
        caught: list[str] = []

        async def meanwhile(request: httpx.Request) -> None:
            if not caught and world.said("stop") and "tasks.get_all" in request.url.path:
                caught.append(world.task(hours=0.1))
                world.clearml.next_task(world.clearml.user, world.queue_ids[QUEUE])

        world.meanwhile = meanwhile
        await world.until_done(world.task(hours=0.1))
        await world.until(lambda: bool(caught))
        await world.cycles(minutes(1))
        assert "was just pulled" in world.said("left undone", effect="stop")[0]["because"]
        assert set(world.states().values()) == {"running"}
        await world.ends_well(*caught, created=2)

    bad_day(story)


def test_a_task_put_back_keeps_the_idle_machine_for_it() -> None:
    async def story(world: BadDay) -> None:
        await world.until_done(world.task(hours=0.1))
        lost = world.task(hours=0.1)
        world.clearml.next_task(world.clearml.user, world.queue_ids[QUEUE])
        await world.until(lambda: bool(world.said("rescue", reason="popped_task")))
        await world.ends_well(lost, created=1)

    bad_day(story)


@pytest.mark.parametrize("patience", [0.5, PULL_SECONDS], ids=["not-yet-obeyed", "obeyed"])
def test_a_task_that_a_person_aborts_at_that_moment_stays_aborted(patience: float) -> None:
    async def story(world: BadDay) -> None:
        regretted: list[str] = []

        async def meanwhile(request: httpx.Request) -> None:
            if not regretted and world.said("stop") and "/action" in request.url.path:
                regretted.append(world.task(hours=1))
                await world.clock.sleep(PULL_SECONDS)
                world.clearml.abort(regretted[0])
                await world.clock.sleep(patience)

        world.meanwhile = meanwhile
        await world.until_done(world.task(hours=0.1))
        await world.until(lambda: bool(regretted))
        await world.until_nothing_is_left()
        assert world.status(regretted[0]) == "stopped"
        assert world.said("rescue") == []
        assert world.created() == 1

    bad_day(story)


@pytest.mark.parametrize("forgets", [False, True], ids=["knows", "forgets"])
def test_killed_right_after_the_power_off_that_caught_a_task(forgets: bool) -> None:
    """What we are about to stop is stored before we stop it: the next daemon rescues. One that
    finds no memory takes for ours what went off right before it came."""

    async def story(world: BadDay) -> None:
        caught: list[str] = []
        at_the_stop(world, "/action", PULL_SECONDS, caught)
        await world.until_done(world.task(hours=0.1))
        await world.until(lambda: bool(caught))
        world.meanwhile = nothing
        await world.restart(without_memory=forgets)
        await world.until_done(*caught)
        await world.until_nothing_is_left()
        assert world.created() <= 2

    bad_day(story)
