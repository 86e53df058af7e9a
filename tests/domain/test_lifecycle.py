"""The table of the life cycle: whole, connected, and true of what the stories really do.

That every change seen in a story is an edge of it is checked in each cycle of every story, by
`tests.runtime.invariants`.
"""

import pytest

from gpu_autoscaler.domain.lifecycle import BILLED, BOOTING, DEADLINES, TRANSITIONS
from gpu_autoscaler.domain.lifecycle import InstanceState as S


def reachable(start: S) -> set[S]:
    """Every state that some row of edges leads to from here."""
    found, ahead = {start}, [start]
    while ahead:
        new = TRANSITIONS[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_every_state_has_its_row_and_its_deadline() -> None:
    assert set(TRANSITIONS) == set(DEADLINES) == set(S)


def test_every_state_can_be_reached_from_the_first() -> None:
    assert reachable(S.PROVISIONING) == set(S)


@pytest.mark.parametrize("state", sorted(set(S) - {S.GONE}))
def test_no_state_is_a_trap(state: S) -> None:
    """From anywhere an instance can end up removed, so nothing is billed for ever."""
    assert S.GONE in reachable(state)


def test_nothing_comes_back_from_gone() -> None:
    assert TRANSITIONS[S.GONE] == frozenset()


@pytest.mark.parametrize("state", sorted(set(S) - {S.STOPPED, S.PROVISIONING, S.STARTING}))
def test_only_what_is_off_is_ever_deleted(state: S) -> None:
    """A delete of ours begins in `stopped`, or where a power-on or power-off came to nothing."""
    allowed = {S.DELETING, S.STOPPING, S.UNKNOWN}
    assert (S.DELETING in TRANSITIONS[state]) == (state in allowed)


def test_what_takes_tasks_is_billed() -> None:
    assert BOOTING | {S.IDLE} < BILLED


@pytest.mark.parametrize("state", [S.STOPPED, S.DELETING, S.GONE])
def test_what_is_off_is_not_billed(state: S) -> None:
    assert state not in BILLED


@pytest.mark.parametrize(
    "state",
    [S.LOST, S.RUNNING_TASK, S.QUARANTINED, S.STOPPING, S.STOPPED_IN_PLACE, S.UNKNOWN],
)
def test_what_takes_no_task_is_billed_all_the_same(state: S) -> None:
    assert state in BILLED - BOOTING
