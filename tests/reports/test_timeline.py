"""Each moment once, and tasks as ClearML timed them."""

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.reports.timeline import by_run, newest, sharpen, untangled
from tests.reports.books import MOMENTS, at, cost_of, ledgers, ran, stretch

T1, T2 = {"t1": "one"}, {"t2": "two"}


def sharp(stretches: list[Stretch], *tasks: TaskRecord) -> list[tuple[datetime, datetime]]:
    return [(each.since, each.until) for each in sharpen(stretches, by_run(tasks))]


def a_task(seconds: float = 3600) -> list[Stretch]:
    end = at(1, seconds)
    return [
        stretch(S.STARTING, at(0), at(1)),
        stretch(S.RUNNING_TASK, at(1), end, tasks=T1),
        stretch(S.IDLE, end, at(3)),
    ]


def test_a_task_begins_and_ends_when_clearml_says() -> None:
    found = sharp(a_task(), ran("t1", at(1, -20), at(2, -7.5)))
    assert found == [
        (at(0), at(1, -20)),
        (at(1, -20), at(2, -7.5)),
        (at(2, -7.5), at(3)),
    ]


def test_a_time_that_the_cycle_does_not_bear_out_moves_nothing() -> None:
    assert sharp(a_task(), ran("t1", at(1, -121), at(2, 121))) == sharp(a_task())
    assert sharp(a_task(), ran("t1", None, at(9))) == sharp(a_task())
    assert sharp(a_task(), ran("t1", at(1, -9), at(2, 9), server="s2")) == sharp(a_task())
    assert sharp(a_task(), ran("t2", at(1, -9), at(2, 9))) == sharp(a_task())


def test_two_minutes_are_near_enough() -> None:
    assert sharp(a_task(), ran("t1", at(1, -120), at(2, 120)))[1] == (at(1, -120), at(2, 120))


def test_between_two_tasks_the_second_one_s_beginning_counts() -> None:
    both = [
        stretch(S.RUNNING_TASK, at(0), at(1), tasks=T1),
        stretch(S.RUNNING_TASK, at(1), at(2), tasks=T2),
    ]
    first, second = ran("t1", at(0), at(1, -25)), ran("t2", at(1, -10), at(2))
    assert sharp(both, first, second)[0] == (at(0), at(1, -10))
    assert sharp(both, first)[0] == (at(0), at(1, -25))


def test_a_task_that_goes_on_over_midnight_is_not_cut_elsewhere() -> None:
    both = [
        stretch(S.RUNNING_TASK, at(23), at(24), tasks=T1),
        stretch(S.RUNNING_TASK, at(24), at(24, 30), tasks=T1),
        stretch(S.IDLE, at(24, 30), at(25)),
    ]
    found = sharp(both, ran("t1", at(23), at(24, 10)))
    assert found == [(at(23), at(24)), (at(24), at(24, 10)), (at(24, 10), at(25))]


@pytest.mark.parametrize(
    "change",
    [
        {"powered_on_at": at(2)},  # another power-on
        {"powered_on_at": None},  # off
        {"server_id": "s2"},
        {"eur_per_hour": 4.0},
        {"storage_eur_per_hour": 4.0},
        {"since": at(2, 5)},  # nobody looked meanwhile
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_what_would_cost_the_same_changes_hands(change: dict[str, object]) -> None:
    stretches = a_task()
    stretches[2] = replace(stretches[2], **change)  # type: ignore[arg-type]
    assert sharp(stretches, ran("t1", at(1), at(2, 20))) == sharp(stretches)


def test_no_stretch_is_eaten_up_beyond_its_end() -> None:
    stretches = a_task(seconds=30)
    found = sharp(stretches, ran("t1", at(1, 60), at(1, 20)))
    assert found == [(at(0), at(1, 30)), (at(1, 30), at(1, 30)), (at(1, 30), at(3))]


@settings(max_examples=60)
@given(ledgers())
def test_sharpening_changes_no_server_s_total_and_no_order(told: Page) -> None:
    before = untangled(told.stretches)
    after = sharpen(before, by_run(newest(told.tasks)))
    assert len(after) == len(before)
    cost, length = defaultdict[str, int](int), defaultdict[str, timedelta](timedelta)
    for sign, stretches in ((1, before), (-1, after)):
        for each in stretches:
            assert each.since <= each.until
            cost[each.server_id] += sign * cost_of(each)
            length[each.server_id] += sign * (each.until - each.since)
    assert not any(cost.values())
    assert not any(length.values())
    for (old, new), (old_next, new_next) in pairwise(zip(before, after, strict=True)):
        if old.server_id == old_next.server_id:
            assert new.until <= new_next.since
            assert (new.until == new_next.since) == (old.until == old_next.since)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), MOMENTS, MOMENTS), max_size=12))
def test_no_moment_of_a_server_counts_twice_and_none_is_lost(
    told: list[tuple[str, datetime, datetime]],
) -> None:
    stretches = [
        stretch(S.IDLE, min(first, last), max(first, last), server=server)
        for server, first, last in told
    ]
    found = untangled(stretches)
    for one, other in pairwise(found):
        assert one.server_id < other.server_id or one.until <= other.since
    step = timedelta(seconds=30)
    for server in "ab":
        theirs = [each for each in stretches if each.server_id == server]
        moments = {
            each.since + n * step
            for each in theirs
            for n in range((each.until - each.since) // step)
        }
        lasted = sum(
            ((each.until - each.since) for each in found if each.server_id == server), timedelta()
        )
        assert lasted == len(moments) * step


def test_told_twice_is_told_once_the_longer_one() -> None:
    short, long = stretch(S.IDLE, at(0), at(1)), stretch(S.IDLE, at(0), at(2))
    assert untangled([short, long]) == untangled([long, short]) == [long]
    ended = replace(long, rounding_seconds=12)
    assert untangled([ended, long]) == [ended]
    named = replace(long, tasks=T1)
    assert untangled([long, named]) == [named]


def test_after_lost_memory_the_second_story_begins_where_the_first_ends() -> None:
    first = stretch(S.RUNNING_TASK, at(0), at(2), tasks=T1)
    second, third = stretch(S.IDLE, at(1), at(3)), stretch(S.IDLE, at(1, 1), at(1.5))
    assert untangled([third, second, first]) == [first, replace(second, since=at(2))]


def test_an_end_told_twice_is_one_and_two_ends_are_two() -> None:
    one, again = ran("t1", at(0), at(1)), ran("t1", at(0), at(1), user="Bo")
    assert newest([one, again, ran("t1", at(2), at(3))]) == [again, ran("t1", at(2), at(3))]
