"""What is removed with its volumes, and what is only mended."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.effects import Failure, Reason, SetTags
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import PROVISIONING_TAG, Volume
from tests.policy.worlds import (
    START,
    ZONE,
    Story,
    config,
    instance,
    minutes,
    reasons,
    registered,
    seconds,
    task,
    verbs,
)


def volume(name: str = "v1", attached_to: str | None = None) -> Volume:
    return Volume(name, ZONE, f"{name}-root", attached_to, START)


def test_a_stopped_instance_is_removed_after_its_retention() -> None:
    story = Story(config({"stopped_retention": "2h"}))
    story.has(registered("m1", "stopped", modified_at=START))
    assert reasons(story.wait(timedelta(hours=3))) == ["stopped_retention"]
    assert timedelta(hours=2) <= story.now - START <= timedelta(hours=2, minutes=1)


def test_an_outdated_stopped_instance_is_removed_at_once() -> None:
    story = Story()
    story.has(registered("m1", "stopped", spec="old", modified_at=START))
    assert reasons(story.cycle()) == ["spec_changed"]


def test_a_half_made_server_is_removed_once_nobody_can_be_making_it() -> None:
    story = Story()
    story.has(instance("m1", "stopped", tags=(PROVISIONING_TAG,), created_at=START))
    made = story.wait(minutes(10))
    assert reasons(made) == ["half_made"]
    assert minutes(3.5) <= story.now - START <= minutes(4.5)


def test_a_server_with_its_phase_tag_is_adopted_when_its_agent_registers() -> None:
    story = Story()
    story.has(instance("m1", "running", tags=(PROVISIONING_TAG,)))
    assert not story.cycle().effects  # a person may have powered on a half-made one
    story.report("m1")
    (effect,) = story.cycle().effects
    assert isinstance(effect, SetTags)
    assert effect.reason is Reason.ADOPTED
    assert effect.remove == {PROVISIONING_TAG}


def test_one_that_has_worked_is_no_half_made_one() -> None:
    story = Story()
    story.has(registered("m1", "stopped", tags=(PROVISIONING_TAG,), modified_at=START))
    assert [e.verb for e in story.cycle().effects] == ["tag"]
    assert "delete" not in [e.verb for e in story.wait(minutes(10)).effects]


def test_the_first_report_leaves_a_tag() -> None:
    story = Story()
    story.has(instance("m1"))
    story.report("m1")
    (effect,) = story.cycle().effects
    assert isinstance(effect, SetTags)
    assert effect.add == {"registered"}


def test_a_failed_removal_is_tried_again() -> None:
    story = Story()
    story.has(registered("m1", "stopped", spec="old"))
    made = story.cycle()
    assert not story.cycle().effects  # under way
    story.done(*made.effects, failure=Failure.TRANSIENT)
    assert not story.cycle().effects  # nobody is hammered
    assert verbs(story.wait(minutes(2))) == ["delete"]


def test_missing_in_a_listing_is_not_gone_until_a_404_says_so() -> None:
    story = Story()
    story.has(registered("m1"))
    story.run("m1", "t0")
    story.cycle()
    del story.instances["m1"]
    story.enqueue("t1", "t2")
    made = story.cycle()
    assert len(made.effects) == 1  # of max 2 one is still counted
    story.gone = {"id-m1"}
    made = story.cycle()
    assert "id-m1" not in made.memory.instances
    assert "m1" in made.memory.retired


@pytest.mark.parametrize("state", ["protected", "kept", "dark", "no clearml"])
def test_nothing_is_removed_that_may_not_be_touched(state: str) -> None:
    story = Story()
    old = registered("m1", "stopped", spec="old")
    match state:
        case "protected":
            story.has(replace(old, protected=True))
        case "kept":
            story.has(replace(old, tags=old.tags | {"keep"}))
        case "dark":
            story.has(old)
            story.dark_zones = {ZONE}
        case _:
            story.has(old)
            story.clearml_down = True
    assert not story.wait(timedelta(hours=5)).effects


def test_a_free_volume_is_removed_within_the_orphan_timeout() -> None:
    story = Story(volumes=[volume()])
    made = story.wait(minutes(20))
    assert reasons(made) == ["orphan_volume"]
    assert minutes(5) <= story.now - START <= minutes(10)


def test_a_volume_that_is_held_is_left_alone() -> None:
    story = Story(volumes=[volume("held", "id-m1"), volume("vol-m1")])
    story.has(registered("m1"))
    story.run("m1", "t0")
    assert not story.wait(timedelta(hours=1)).effects


def test_a_volume_free_for_a_moment_starts_anew() -> None:
    story = Story(volumes=[volume()])
    story.cycle()
    story.volumes = [volume("v1", "id-m1")]
    story.cycle(minutes(4))
    story.volumes = [volume()]
    story.cycle(minutes(4))
    assert not story.cycle(seconds(30)).effects


def test_stopped_by_hand_is_recorded_not_fought() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.has(registered("m1", "stopped"))
    made = story.cycle()
    assert not made.effects
    (decision,) = made.instances
    assert (decision.previous, decision.state) == (S.IDLE, S.STOPPED)


def test_a_stopped_instance_keeps_its_disk_while_a_task_is_placed_on_it() -> None:
    story = Story()
    story.has(registered("m1"))
    story.run("m1", "t0")
    story.cycle()
    story.has(registered("m1", "stopped", spec="old"))
    story.workers.clear()
    assert not story.wait(timedelta(hours=1)).effects
    story.tasks.clear()
    assert verbs(story.wait(minutes(2))) == ["delete"]


def test_a_removal_that_fails_slowly_does_not_start_the_retention_anew() -> None:
    story = Story(config({"stopped_retention": "2h"}))
    story.has(registered("m1", "stopped", modified_at=START))
    made = story.wait(timedelta(hours=3))
    for _ in range(10):  # the removal is under way for five minutes
        story.cycle()
    story.done(*made.effects, failure=Failure.TRANSIENT)
    assert verbs(story.wait(minutes(5))) == ["delete"]


def test_a_half_made_one_is_kept_while_a_task_is_on_it() -> None:
    story = Story()
    story.has(instance("m1", "stopped", tags=("phase=provisioning",)))
    story.tasks["t1"] = task("t1", "in_progress", "m1")
    assert not story.wait(minutes(30)).effects
    assert story.last is not None
    assert story.last.instances[0].because == (
        "never finished; kept while ClearML places task t1 on it"
    )
    del story.tasks["t1"]
    assert reasons(story.cycle()) == ["half_made"]


def test_one_that_worked_in_an_earlier_boot_and_never_comes_back_is_lost() -> None:
    story = Story()
    story.has(instance("m1", tags=("phase=provisioning",)))
    story.report("m1")
    story.cycle()
    story.workers.clear()
    for state in ("stopped", "running"):
        story.has(instance("m1", state, tags=("phase=provisioning",)))
        story.cycle()
    assert reasons(story.wait(timedelta(hours=2))) == ["lost_worker"]
