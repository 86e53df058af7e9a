"""What is due next for an instance by the clock alone, and how long a boot takes."""

from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import InstanceDecision
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import TaskStatus
from gpu_autoscaler.policy.outlook import USUAL_BOOT_SECONDS, Step, next_step, typical_boot
from tests.policy.worlds import QUEUE, START, config, known, minutes, registered

SETTINGS = {
    "idle_timeout": "31m",
    "idle_timeout_after_success": "5m",
    "stale_timeout": "12m",
    "lost_timeout": "13m",
    "stopped_retention": "14h",
    "quarantine_retention": "15h",
}
SINCE = known().state_since


def due(
    state: str,
    reason: Reason = Reason.WAITING,
    *,
    queue: str = QUEUE,
    hands_off: str = "",
    **memory: Any,
) -> tuple[str, float] | None:
    """What is due, and how many minutes after the state began."""
    now = InstanceState(state)
    one = InstanceDecision("m1", queue, now, SINCE, reason, "because", hands_off=hands_off)
    step = next_step(one, known("m1", state, **memory), config(SETTINGS))
    return (step.what, (step.at - SINCE).total_seconds() / 60) if step is not None else None


IDLE = {"idle_since": SINCE + minutes(2)}


@pytest.mark.parametrize(
    ("state", "more", "step"),
    [
        ("idle", IDLE, ("powered off", 33)),
        ("idle", {**IDLE, "reason": Reason.RECENTLY_BUSY}, ("powered off", 33)),
        ("idle", {**IDLE, "last_task_status": TaskStatus.COMPLETED}, ("powered off", 7)),
        ("idle", {**IDLE, "reason": Reason.MIN_INSTANCES}, None),
        ("idle", {}, None),
        ("idle", {**IDLE, "queue": "removed"}, None),
        ("idle", {**IDLE, "hands_off": "protected"}, None),
        ("initializing", {}, ("removed, unless its agent registers", 12)),
        ("initializing", {"has_registered": True}, None),
        ("lost", {}, ("powered off, unless its agent reports", 13)),
        (
            "lost",
            {"claimed_at": SINCE - minutes(1)},
            ("powered off, unless its agent reports", 13),
        ),
        ("lost", {"claimed_at": SINCE}, None),
        ("stopped", {}, ("removed with its volumes", 14 * 60)),
        ("stopped", {"quarantined_at": SINCE}, ("removed with its volumes", 15 * 60)),
        ("stopped", {"delete_when_stopped": True}, None),
        ("running_task", {}, None),
        ("starting", {}, None),
    ],
)
def test_the_next_step(state: str, more: dict[str, Any], step: tuple[str, float] | None) -> None:
    assert due(state, **more) == step


def test_one_that_is_kept_is_due_when_that_ends() -> None:
    there = registered("m1", tags=("keep",))
    kept = known("m1", last_seen=there, keep_seen_at=START)
    one = InstanceDecision(
        "m1", QUEUE, InstanceState.IDLE, SINCE, Reason.WAITING, "kept", hands_off="it is kept"
    )
    settings = config(SETTINGS, keep="3h")
    assert next_step(one, kept, settings) == Step("no longer kept", START + minutes(180))


def test_a_boot_takes_as_long_as_those_there_or_those_elsewhere_or_as_usual() -> None:
    memory = Memory(boots={"here": (100, 300, 200), "there": (500,), "nowhere": ()})
    assert typical_boot(memory, "here") == (200, True)
    for place in ("nowhere", "new"):
        assert typical_boot(memory, place) == (250, False)
    assert typical_boot(Memory(), "here") == (USUAL_BOOT_SECONDS, False)
