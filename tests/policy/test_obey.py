"""What operators ask for goes into the plan, or the answer says why not."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.effects import Failure, SetTags, TagQueue
from gpu_autoscaler.domain.model import PAUSE_TAG
from gpu_autoscaler.domain.requests import Answer, Request, RequestKind
from gpu_autoscaler.policy.obey import ENDED, NOT_NOW
from tests.policy.worlds import (
    QUEUE,
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

K = RequestKind


def asked(story: Story, kind: RequestKind, subject: str = "m1") -> Answer:
    """The answer of the next cycle."""
    request = Request(kind, subject)
    story.requests = [request]
    (answer,) = story.cycle().answers
    assert answer.request == request
    return answer


def said(story: Story, kind: RequestKind, subject: str = "m1") -> tuple[bool, str]:
    """Whether the next cycle obeys, and what it answers."""
    answer = asked(story, kind, subject)
    assert isinstance(answer.obeyed, bool)
    return answer.obeyed, answer.sentence


def planned(story: Story) -> list[tuple[str, str, str]]:
    """What the last cycle does about it, for which reason, and why."""
    assert story.last is not None
    return [(e.verb, e.reason.value, e.because) for e in story.last.effects]


def idle() -> Story:
    story = Story()
    story.has(registered("m1"))
    story.report("m1")
    for _ in range(8):
        story.cycle()
    return story


# --- queues


def paused() -> Story:
    """And the tag is set."""
    story = Story()
    story.enqueue("t1")
    assert asked(story, K.PAUSE, QUEUE).obeyed
    assert story.last is not None
    (effect,) = story.last.effects
    assert isinstance(effect, TagQueue)
    assert effect.tags == {PAUSE_TAG}
    story.done(effect)
    story.queue_tags = ("people's", PAUSE_TAG)
    return story


def test_a_paused_queue_launches_nothing_and_says_so() -> None:
    story = paused()
    made = story.wait(minutes(30))
    assert made.effects == ()
    assert made.queues[0].reason.value == "paused"
    assert "paused since 2026-09-07 08:00" in made.queues[0].because


def test_resumed_it_loses_the_tag_and_launches_again() -> None:
    story = paused()
    story.cycle()
    assert said(story, K.RESUME, QUEUE) == (True, f"{QUEUE} is resumed")
    assert story.last is not None
    assert verbs(story.last) == ["create", "tag_queue"]
    assert isinstance(story.last.effects[1], TagQueue)
    assert not story.last.effects[1].tags
    assert story.last.effects[1].reason.value == "operator"
    story.done(*story.last.effects)
    story.queue_tags = ("people's",)
    story.cycle()
    assert story.memory.pauses == {}


def test_a_tag_that_cannot_be_set_is_tried_again() -> None:
    story = Story()
    asked(story, K.PAUSE, QUEUE)
    assert story.last is not None
    story.done(*story.last.effects, failure=Failure.TRANSIENT)
    assert verbs(story.cycle()) == []
    assert verbs(story.wait(minutes(2))) == ["tag_queue"]


def test_a_queue_found_with_the_tag_is_paused_whoever_set_it() -> None:
    story = Story(queue_tags=(PAUSE_TAG,))
    story.enqueue("t1")
    assert story.wait(minutes(5)).effects == ()
    story.queue_tags = ()  # and somebody takes it off at ClearML
    assert verbs(story.cycle()) == ["create"]


def test_what_idles_in_a_paused_queue_goes_after_its_timeout_whatever_waits() -> None:
    story = Story(config({"min_instances": 1}), queue_tags=(PAUSE_TAG,))
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.enqueue("t1")
    assert reasons(story.wait(minutes(40))) == ["idle_timeout"]


def test_without_clearml_a_pause_is_promised() -> None:
    story = Story(clearml_down=True)
    assert "once ClearML answers" in asked(story, K.PAUSE, QUEUE).sentence
    story.clearml_down = False
    assert verbs(story.cycle()) == ["tag_queue"]


@pytest.mark.parametrize("kind", [K.PAUSE, K.RESUME])
def test_another_queue_is_refused_with_those_there_are(kind: RequestKind) -> None:
    expected = (False, f"no queue typo is configured (there is {QUEUE})")
    assert said(Story(), kind, "typo") == expected
    place = {"placements": [{"type": "H100-1-80G", "zone": "fr-par-2"}]}
    both = config(queues={name: {"name": name, **place} for name in ("one", "two")})
    assert "(there is one, two)" in said(Story(both), kind, "typo")[1]


def test_what_is_not_paused_is_not_resumed() -> None:
    assert said(Story(), K.RESUME, QUEUE) == (True, f"{QUEUE} was not paused")


# --- instances


def test_an_idle_instance_is_stopped_before_its_timeout() -> None:
    story = idle()
    assert said(story, K.STOP) == (True, "m1 is powered off after a last look at its tasks")
    because = "m1 is idle, and somebody asked to stop it"
    assert planned(story) == [("stop", "operator", because)]


def test_a_working_one_is_not() -> None:
    story = idle()
    story.enqueue("t1")
    story.run("m1", "t1")
    sentence = "m1 is running task: only an idle instance is stopped"
    assert said(story, K.STOP) == (False, sentence)
    assert planned(story) == []


def test_a_booting_one_is_not() -> None:
    story = Story()
    story.has(instance("m1", "starting"))
    assert "only an idle instance" in asked(story, K.STOP).sentence


def test_one_that_reported_only_once_is_not_stopped_yet() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1")
    assert not asked(story, K.STOP).obeyed


def test_one_that_perhaps_pulled_a_task_is_stopped_once_that_is_nobody_s() -> None:
    story = idle()
    story.tasks["t1"] = task("t1")  # in no queue any more, and not started
    assert "task t1 was just pulled" in said(story, K.STOP)[1]
    story.memory = replace(story.memory, popped={"t1": story.now - minutes(3)})
    assert said(story, K.STOP)[0]


def test_one_is_kept_and_then_released() -> None:
    story = idle()
    assert said(story, K.KEEP) == (True, "m1 is kept for 1d: hands off")
    assert story.last is not None
    (effect,) = story.last.effects
    assert isinstance(effect, SetTags)
    assert effect.add == {"keep"}
    assert planned(story) == [("tag", "operator", "m1 is kept, as asked")]
    story.done(effect)
    there = story.instances["m1"]
    story.has(replace(there, tags=there.tags | {"keep", "quarantined"}))
    story.now += seconds(60)
    obeyed, sentence = said(story, K.KEEP)
    assert (obeyed, "it is kept until" in sentence) == (True, True)
    assert said(story, K.RELEASE) == (True, "m1 is released: the rules apply to it again")
    (effect,) = story.last.effects
    assert isinstance(effect, SetTags)
    assert effect.remove == {"keep", "quarantined"}
    assert planned(story) == [("tag", "operator", "m1 is released, as asked")]


def test_one_is_kept_also_right_after_its_tags_were_changed() -> None:
    story = Story()
    story.has(instance("m1"))
    story.report("m1")
    made = story.cycle()
    assert reasons(made) == ["registered"]
    not_now = f"m1: {NOT_NOW}"
    assert said(story, K.KEEP) == (False, not_now)
    story.done(*made.effects)
    assert asked(story, K.KEEP).obeyed


def test_one_whose_zone_is_dark_is_not_released_yet() -> None:
    story = Story()
    story.has(registered("m1", tags=("keep",)))
    story.cycle()
    story.dark_zones.add(story.instances["m1"].zone)
    assert said(story, K.RELEASE) == (False, f"m1: {NOT_NOW}")
    assert planned(story) == []


def test_one_that_is_kept_and_not_seen_so_yet_is_kept_already() -> None:
    story = idle()
    there = story.instances["m1"]
    story.has(replace(there, tags=there.tags | {"keep"}))
    obeyed, sentence = said(story, K.KEEP)
    assert (obeyed, sentence) == (True, "m1: it is kept until 2026-09-08 08:04 UTC")
    assert planned(story) == []


def test_one_whose_time_is_just_over_is_not_said_to_be_kept() -> None:
    story = idle()
    story.has(registered("m1", tags=("keep",)))
    story.cycle()
    story.now += timedelta(days=1)
    assert said(story, K.KEEP) == (False, f"m1: {ENDED}")
    assert [verb for verb, _, _ in planned(story)] == ["stop"]


def test_one_that_is_not_held_is_not_released() -> None:
    assert said(idle(), K.RELEASE) == (True, "m1 was neither kept nor quarantined")


def test_without_any_there_is_none_to_act_on() -> None:
    expected = (False, "no instance is named m1 (there is none at all)")
    assert said(Story(), K.STOP) == expected


def test_a_protected_one_is_left_alone() -> None:
    story = idle()
    story.has(registered("m1", protected=True))
    obeyed, sentence = said(story, K.STOP)
    assert (obeyed, "protected" in sentence) == (False, True)
    obeyed, sentence = said(story, K.KEEP)
    assert (obeyed, sentence.startswith("m1: hands off: ")) == (False, True)
    assert "protected" in sentence
    assert planned(story) == []


@pytest.mark.parametrize("kind", [K.KEEP, K.RELEASE, K.STOP])
def test_an_unknown_one_is_refused_with_those_there_are(kind: RequestKind) -> None:
    story = idle()
    story.has(registered("m3"))
    assert said(story, kind, "m2") == (False, "no instance is named m2 (there is m1, m3)")
