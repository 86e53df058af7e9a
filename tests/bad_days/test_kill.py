"""The daemon dies, at any call: the next one goes on, and nothing is doubled, lost or forgotten.

SIGKILL: no clean-up of the dying process reaches anything (see `world.Lifeline`). What remains is
the memory file, or, in half of the rows, not even that.
"""

from collections.abc import Iterable

import pytest

from tests.bad_days.world import BadDay, Moment, Story, bad_day

CHANGES = ("POST /instance", "PATCH /", "DELETE /")
"""Calls that change something at Scaleway."""

EVERY = [
    pytest.param(moment, forgets, id=f"{moment.name.lower()}-{'forgets' if forgets else 'knows'}")
    for moment in Moment
    for forgets in (False, True)
]


async def a_whole_life(world: BadDay) -> None:
    """Created, stopped, started again, stopped, deleted: every kind of call is made."""
    first = world.task(hours=0.02)
    await world.until_done(first)
    await world.until(lambda: set(world.states().values()) <= {"stopped"})
    second = world.task(hours=0.02)
    await world.ends_well(first, second, created=2, billed=1)


async def three_at_once(world: BadDay) -> None:
    """The killed one made up to three that are thrown away, the next one makes three."""
    tasks = [world.task(hours=0.02) for _ in range(3)]
    await world.ends_well(*tasks, created=6, billed=3)


def calls_of(told: Story) -> list[str]:
    """What an undisturbed daemon sends in this story."""
    calls: list[str] = []

    async def story(world: BadDay) -> None:
        await told(world)
        calls.extend(world.line.calls)

    bad_day(story, max_instances=3)
    return calls


def survives(told: Story, numbers: Iterable[int], moment: Moment, forgets: bool) -> None:
    """The story ends well though the daemon is killed while the call of this number is served."""
    for number in numbers:

        async def story(world: BadDay, number: int = number) -> None:
            world.line.cut_at, world.line.moment, world.forgets = number, moment, forgets
            try:
                await told(world)
            except AssertionError as error:
                raise AssertionError(f"killed at call {number}, {moment}") from error
            assert world.deaths == 1

        bad_day(story, max_instances=3)


@pytest.mark.parametrize(("moment", "forgets"), EVERY)
def test_killed_while_any_change_is_made(moment: Moment, forgets: bool) -> None:
    calls = calls_of(a_whole_life)
    changes = [number for number, call in enumerate(calls, 1) if call.startswith(CHANGES)]
    assert len(changes) == 12, [calls[number - 1] for number in changes]
    survives(a_whole_life, changes, moment, forgets)


@pytest.mark.parametrize("forgets", [False, True], ids=["knows", "forgets"])
def test_killed_between_changes(forgets: bool) -> None:
    """A spread of the reads."""
    survives(a_whole_life, range(2, len(calls_of(a_whole_life)), 31), Moment.AFTER, forgets)


@pytest.mark.parametrize(("moment", "forgets"), EVERY)
def test_killed_while_three_are_being_made(moment: Moment, forgets: bool) -> None:
    calls = calls_of(three_at_once)
    births = [n for n, call in enumerate(calls[:60], 1) if call.startswith(CHANGES)]
    survives(three_at_once, births[1::5], moment, forgets)


def test_killed_after_a_power_off_the_stopped_machine_is_started_again() -> None:
    async def story(world: BadDay) -> None:
        first = world.task(hours=0.1)
        await world.until_done(first)
        await world.until(lambda: "stopping" in world.states().values())
        await world.restart()
        await world.until(lambda: set(world.states().values()) == {"stopped"})
        await world.ends_well(first, world.task(hours=0.05), created=1)

    bad_day(story)
