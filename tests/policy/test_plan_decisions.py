"""What a plan says of each instance, and whose doing a change was."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import InstanceDecision, Plan
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import (
    QUARANTINED_TAG,
    Instance,
)
from tests.policy.test_plan import HOUR_AGO, LAST, planned, remembered, reports
from tests.policy.worlds import (
    QUEUE,
    instance,
    known,
    registered,
    task,
)


def said(made: Plan) -> InstanceDecision:
    (one,) = made.instances
    return one


RUNS = (task("t1", "in_progress", "m1"), task("t2", "in_progress", "m1"))


@pytest.mark.parametrize(
    ("listed", "before", "world", "reason", "because"),
    [
        ("running", "running_task", {"open_tasks": RUNS}, Reason.BUSY, "runs task t1, task t2"),
        (
            "running",
            "running_task",
            {"workers": reports("m1", task_id="t9")},
            Reason.BUSY,
            "runs t9",
        ),
        ("running", "running_task", {"complete": False}, Reason.INCOMPLETE, ""),
        ("starting", "starting", {}, Reason.BOOTING, "booting"),
        ("stopping", "stopping", {}, Reason.IN_FLIGHT, "stopping"),
    ],
)
def test_what_is_said_of_one_with_which_nothing_is_done(
    listed: str, before: str, world: dict[str, Any], reason: Reason, because: str
) -> None:
    there = registered("m1", listed)
    shown = {"workers": reports("m1"), **world}
    found = said(planned(there, memory=remembered(known("m1", before, last_seen=there)), **shown))
    assert found.reason is reason
    assert found.because == because or not because
    assert (found.name, found.queue, found.state) == ("m1", QUEUE, S(before))
    assert (found.state_since, found.previous, found.effect) == (HOUR_AGO, None, None)


@pytest.mark.parametrize(
    ("there", "because"),
    [
        (registered("m1", "locked"), "hands off: Scaleway locked it"),
        (registered("m1", "running", protected=True), "hands off: it is protected at Scaleway"),
    ],
)
def test_why_nobody_touches_it_is_said(there: Instance, because: str) -> None:
    before = known("m1", "unknown" if there.state.value == "locked" else "initializing")
    found = said(planned(there, memory=remembered(before)))
    assert found.hands_off == because.removeprefix("hands off: ")
    if found.state is S.UNKNOWN:
        assert (found.reason, found.because) == (Reason.HANDS_OFF, because)


def test_an_effect_is_said_before_all_else_and_a_tag_is_none() -> None:
    found = said(planned(registered("m1", "stopped in place")))
    assert found.effect is not None
    assert (found.reason, found.because) == (found.effect.reason, found.effect.because)
    made = planned(instance("m1"), workers=reports("m1"))
    assert [e.verb for e in made.effects] == ["tag"]
    assert said(made).effect is None
    assert said(made).reason is Reason.WAITING


def test_instances_come_in_the_order_of_their_names() -> None:
    ids = {"m3": "a", "m1": "b", "m2": "c"}
    made = planned(*(registered(name, "stopped", id=ids[name]) for name in ids))
    assert [each.name for each in made.instances] == ["m1", "m2", "m3"]


def test_that_it_is_quarantined_is_said_first() -> None:
    there = registered("m1", "stopped", tags=(QUARANTINED_TAG,))
    hole = known("m1", "stopped", last_seen=there, quarantined_at=HOUR_AGO, quarantine_tagged=True)
    found = said(planned(there, memory=remembered(hole)))
    assert found.reason is Reason.QUARANTINED
    assert found.because == (
        "quarantined: removed in 23h unless its tag `quarantined` is taken off"
    )
    kept = replace(there, protected=True)
    assert said(planned(kept, memory=remembered(hole))).reason is not Reason.QUARANTINED


OURS: Mapping[str, Any] = {"stop_decided_at": LAST}


@pytest.mark.parametrize(
    ("before", "memory", "now", "from_outside"),
    [
        ("idle", {}, "stopped", True),
        ("idle", OURS, "stopped", False),
        ("idle", {}, "stopping", True),
        ("idle", OURS, "stopping", False),
        ("idle", {}, "stopped in place", True),
        ("starting", {}, "stopping", True),
        ("starting", {"start_accepted_at": HOUR_AGO}, "stopped", False),  # it fell back
        ("stopping", {}, "stopped", False),
        ("stopped", {}, "starting", False),
        ("running_task", {}, "starting", False),
        ("idle", {}, "running", False),
        ("deleting", {}, "stopped in place", True),  # no edge of the table
    ],
)
def test_whose_doing_a_change_was(
    before: str, memory: Mapping[str, Any], now: str, from_outside: bool
) -> None:
    servers = {"starting": "starting", "stopped": "stopped", "stopping": "stopping"}
    last = registered("m1", servers.get(before, "running"))
    was = known("m1", before, last_seen=last, last_report_at=LAST, **memory)
    found = said(planned(registered("m1", now), memory=remembered(was), workers=reports("m1")))
    assert found.from_outside is from_outside
    assert found.previous is (S(before) if found.state is not S(before) else None)


def test_of_one_that_is_new_nobody_knows_whose_doing_it_is() -> None:
    assert not said(planned(registered("m1", "stopped"))).from_outside
