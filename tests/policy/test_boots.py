"""What machines say of their boots, and what becomes of the script they booted with."""

from dataclasses import replace
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Failure, Guard, Reason, RemoveBootstrap, StopInstance
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import Instance, ServerState
from gpu_autoscaler.policy.cleanup import remove_bootstraps
from gpu_autoscaler.policy.explain import Explainer
from gpu_autoscaler.policy.questions import silent_boots
from tests.policy.worlds import (
    START,
    Story,
    config,
    fact,
    fleet,
    instance,
    known,
    minutes,
    registered,
    seconds,
    verbs,
)

FAILED = "failed: 1 GPU, expected 2"


def booting(says: str, there: Instance | None = None) -> Story:
    """A machine that runs for two minutes; its agent has not come."""
    story = Story(config({"max_instances": 5}))
    story.has(there or instance("m1"))
    for _ in range(4):
        story.cycle()
    story.boot_reports["m1"] = says
    return story


def why(story: Story) -> str:
    assert story.last is not None
    return next(one.because for one in story.last.instances if one.name == "m1")


def test_how_far_a_boot_is_stands_in_its_decision() -> None:
    story = booting("installing: install_agent")
    story.cycle()
    assert why(story) == "booting for 2m; it says: installing: install_agent"
    assert verbs(story.cycle()) == []


def test_what_cannot_be_read_any_more_was_said_all_the_same() -> None:
    story = booting("installing: install_agent")
    story.cycle()
    story.boot_reports = {}
    story.cycle()
    assert why(story).endswith("it says: installing: install_agent")


@pytest.mark.parametrize("there", [instance("m1"), registered("m1")])
def test_a_boot_that_says_it_failed_is_removed_at_once(there: Instance) -> None:
    """Also one that has worked before: its preflight runs at every boot."""
    story = booting(FAILED, there)
    (effect,) = story.cycle().effects
    assert isinstance(effect, StopInstance)
    assert (effect.reason, effect.guard) == (Reason.BOOT_FAILED, Guard.NEVER_REGISTERED)
    assert effect.because == f"m1 cannot become a worker ({FAILED}): removing it"
    story.done(effect)
    story.has(replace(there, state=ServerState.STOPPED))
    assert verbs(story.wait(minutes(2))) == ["delete"]


def test_a_failure_that_its_agent_belies_removes_nothing() -> None:
    story = booting(FAILED)
    story.report("m1")
    assert verbs(story.cycle()) == ["tag"]


def test_nobody_s_task_is_lost_with_a_failed_boot() -> None:
    story = booting(FAILED, registered("m1"))
    story.enqueue("t1")
    story.run("m1", "t1")
    story.workers = {}
    assert verbs(story.cycle()) == []
    assert "task t1 is on it" in why(story)


def test_a_failed_boot_counts_as_one_in_vain_and_says_why() -> None:
    story = booting(FAILED)
    story.cycle()
    (breaker,) = story.memory.breakers
    assert (breaker.failures, breaker.last_report) == (1, FAILED)
    (episode,) = story.memory.episodes
    assert f"(the last one said: {FAILED})" in episode.text


def test_one_that_never_registers_is_removed_with_its_last_words() -> None:
    story = booting("ready")
    (effect,) = story.wait(minutes(15)).effects
    assert effect.reason is Reason.NEVER_REGISTERED
    assert effect.because.endswith("(stale_timeout 10m; it says: ready): removing it")


def test_the_next_boot_begins_without_words() -> None:
    story = booting("ready", registered("m1"))
    story.cycle()
    story.boot_reports = {}
    story.has(registered("m1", "stopped"))
    story.cycle()
    assert story.memory.instances["id-m1"].boot_report == ""


def test_a_task_that_waits_for_it_is_told_too() -> None:
    story = booting("installing: pull_image")
    story.enqueue("t1")
    story.cycle()
    assert story.last is not None
    told = Explainer(story.world(), story.last, story.config, story.now).explain("t1")
    assert "It says: installing: pull_image." in " ".join(told.sentences)


@pytest.mark.parametrize(
    ("there", "remembered", "asked"),
    [
        (instance("m1"), None, True),
        (registered("m1"), None, False),  # or all were asked when memory was lost
        (instance("m1", "starting"), None, False),
        (instance("m1"), known("m1", "initializing"), True),
        (registered("m1"), known("m1", "initializing"), True),
        (registered("m1"), known("m1", "idle", last_report_at=START), False),
    ],
)
def test_only_machines_whose_agent_has_not_come_are_asked(
    there: Instance, remembered: object, asked: bool
) -> None:
    memory = Memory(instances={there.id: remembered} if remembered else {})  # type: ignore[dict-item]
    assert silent_boots(memory, [there]) == ([there] if asked else [])


# --- the script, with its secrets


def working(there: Instance | None = None) -> Story:
    story = Story(config({"max_instances": 5}), removes_bootstraps=False)
    story.has(there or registered("m1"))
    story.report("m1")
    return story


def test_a_machine_that_works_loses_its_user_data_once() -> None:
    story = working()
    (effect,) = story.cycle().effects
    assert isinstance(effect, RemoveBootstrap)
    assert effect.because == "m1 has registered: its user data, with the secrets, is not needed"
    assert verbs(story.cycle()) == [], "it is under way"
    story.done(effect)
    story.cycle()
    assert story.memory.instances["id-m1"].bootstrap_removed
    assert verbs(story.cycle(minutes(10))) == []


def test_a_removal_that_failed_is_tried_again_and_is_no_news_of_the_machine() -> None:
    story = working()
    (effect,) = story.cycle().effects
    story.done(effect, failure=Failure.TRANSIENT, message="502")
    assert verbs(story.cycle()) == []
    assert why(story).startswith("idle since")
    assert verbs(story.wait(minutes(10))) == ["remove_bootstrap"]


def test_one_that_is_not_known_to_have_worked_keeps_it() -> None:
    """Its next boot would need it; the tag survives a loss of memory."""
    story = working(instance("m1"))
    assert verbs(story.cycle()) == ["tag"]
    assert verbs(story.cycle()) == []


def test_hands_off_is_hands_off() -> None:
    assert verbs(working(registered("m1", protected=True)).cycle()) == []


@pytest.mark.parametrize(
    ("state", "memory", "removed"),
    [
        ("idle", {}, True),
        ("running_task", {}, True),
        ("idle", {"bootstrap_removed": True}, False),
        ("idle", {"last_report_at": None}, False),
        ("lost", {}, False),
        ("stopping", {}, False),
    ],
)
def test_who_works_loses_it_whatever_the_others_do(
    state: str, memory: dict[str, Any], removed: bool
) -> None:
    reported = {"last_report_at": START - seconds(20)}
    one, other = fact("m1", state, memory=reported | memory), fact("m2", memory=reported)
    there = fleet(one, other)
    remove_bootstraps(there)
    assert [each.subject for each in there.effects] == (["m1", "m2"] if removed else ["m2"])


def test_nothing_is_said_of_what_is_forgotten_meanwhile() -> None:
    story = working()
    (effect,) = story.cycle().effects
    story.memory = replace(story.memory, instances={})
    story.done(effect)
    story.cycle(seconds(30))
    assert not story.memory.instances["id-m1"].bootstrap_removed
