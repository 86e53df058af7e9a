"""The daemon dies at every call, before it and after it: the story ends the same all the same."""

import functools
from itertools import product

import pytest

from tests.simulation.crashes import Crash, End, Memory, story

CHUNKS = 24


@functools.cache
def undisturbed() -> tuple[tuple[str, ...], End]:
    """Every call of the story without a crash, and its end."""
    world, end = story(None)
    return tuple(world.calls), end


@pytest.mark.spread
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whenever_it_dies_the_end_is_the_same(chunk: int) -> None:
    calls, end = undisturbed()
    crashes = [
        Crash(number, before, memory)
        for number, before, memory in product(range(1, len(calls) + 1), (True, False), Memory)
    ]
    for crash in crashes[chunk::CHUNKS]:
        where = f"{crash}: {calls[crash.call - 1]}"
        try:
            world, reached = story(crash)
        except AssertionError as error:
            raise AssertionError(where) from error
        # a call that is refused has no moment after it took effect
        assert world.crashed or not crash.before, where
        assert (reached.statuses, reached.left) == (end.statuses, end.left), where
        assert reached.most_powered <= end.most_powered, where


def test_every_effect_is_in_the_story() -> None:
    world, end = story(None)
    assert set(world.watch.effects) == {
        *("create", "start", "stop", "delete", "tag", "delete_volume", "rescue"),
        *("remove_bootstrap", "tag_queue"),
    }
    assert {status for _, status in end.statuses} == {"completed"}
    assert len(world.calls) > 300
