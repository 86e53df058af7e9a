"""A task whose instance died by itself: left as it is, or put back, as its queue says."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.effects import Failure, Reason, RescueTask
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ServerState, TaskStatus
from gpu_autoscaler.policy.plan import plan
from tests.policy.test_stop import verdict
from tests.policy.worlds import (
    START,
    Story,
    config,
    instance,
    minutes,
    reasons,
    registered,
    seconds,
    verbs,
)

WATCHED = minutes(20)


def busy(on_lost: str = "requeue", **queue: object) -> Story:
    """m1 has run t1 for an hour."""
    settings = {"on_lost": on_lost, "stopped_retention": "30d", "max_instances": 5, **queue}
    story = Story(config(settings), honest=True)
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.run("m1", "t1")
    story.cycle()
    story.cycle(minutes(60))
    return story


def go(story: Story, state: str) -> None:
    """m1's server is in this state, without our doing; the agent was not asked."""
    if state == "gone":
        story.gone.add(story.instances.pop("m1").id)
    else:
        story.has(replace(story.instances["m1"], state=ServerState(state)))


def outcome(story: Story, duration: timedelta = WATCHED) -> list[RescueTask]:
    """What is put back within this time; everything planned takes place."""
    found: list[RescueTask] = []
    end = story.now + duration
    while story.now < end:
        made = story.cycle(reports=False)
        for effect in made.effects:
            if isinstance(effect, RescueTask):
                found.append(effect)
                back = replace(effect.task, status=TaskStatus.QUEUED, status_changed_at=story.now)
                story.tasks[effect.task.id] = back
                story.ended = [t for t in story.ended or [] if t.id != effect.task.id]
                story.entries.insert(0, effect.task.id)
        story.done(*made.effects)
    return found


def ended(story: Story, status: str, *, by_person: bool = False) -> None:
    """t1 ends so, without a word of its agent."""
    there = story.tasks.pop("t1")
    done = replace(
        there,
        status=TaskStatus(status),
        status_changed_at=story.now,
        stop_requested=by_person,
    )
    story.ended = [*(story.ended or []), done]


@pytest.mark.parametrize("state", ["stopped", "stopping", "stopped in place", "gone"])
@pytest.mark.parametrize(("on_lost", "times"), [("requeue", 1), ("leave", 0)])
def test_a_task_that_hangs_on_a_dead_instance(state: str, on_lost: str, times: int) -> None:
    story = busy(on_lost)
    go(story, state)
    story.cycle(reports=False)
    if state == "stopping":
        go(story, "stopped")
    found = outcome(story)
    assert [(e.subject, e.reason) for e in found] == [("t1", Reason.LOST_TASK)] * times


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("stopped", "went off by itself"),
        ("gone", "is gone, and not by our doing"),
    ],
)
def test_the_sentence_names_the_machine_and_why(state: str, sentence: str) -> None:
    story = busy(max_requeues=2)
    go(story, state)
    (found,) = outcome(story)
    assert found.because == (
        f"task task t1 (t1) was on m1, which {sentence}: back to the head of its queue (1 of 2)"
    )


@pytest.mark.parametrize(
    ("status", "by_person", "times"),
    [
        ("stopped", False, 1),  # its agent got SIGTERM
        ("stopped", True, 0),
        ("completed", False, 0),
        ("failed", False, 0),
    ],
)
@pytest.mark.parametrize("looked_between", [False, True])
def test_a_task_that_ended_on_the_way_down(
    status: str, by_person: bool, times: int, looked_between: bool
) -> None:
    story = busy()
    story.now += seconds(15)
    ended(story, status, by_person=by_person)
    story.workers.clear()
    if looked_between:  # the agent has ended, the server not yet
        story.cycle(seconds(20), reports=False)
    go(story, "stopped")
    assert [e.subject for e in outcome(story)] == ["t1"] * times


def test_what_ended_long_before_is_nobodys_loss() -> None:
    story = busy()
    ended(story, "stopped")
    story.report("m1")
    for _ in range(20):
        story.cycle()
    go(story, "stopped")
    assert not outcome(story)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_only_so_often(times: int) -> None:
    story = busy(max_requeues=times)
    count = 0
    for _ in range(4):
        go(story, "stopped")
        count += len(outcome(story))
        go(story, "running")
        story.report("m1")
        story.cycle()
        if "t1" in story.entries:
            story.run("m1", "t1")
        for _ in range(3):
            story.cycle()
    assert count == times


def test_after_a_month_it_may_again() -> None:
    story = busy()
    go(story, "stopped")
    assert outcome(story)
    assert story.memory.requeued["t1"].count == 1
    story.cycle(timedelta(days=31), reports=False)
    assert story.memory.requeued == {}


def test_a_failed_requeue_is_tried_again_and_counts_once() -> None:
    story = busy()
    go(story, "stopped")
    story.workers.clear()
    made = story.wait(minutes(5))
    assert reasons(made) == ["lost_task"]
    story.done(*made.effects, failure=Failure.TRANSIENT)
    assert len(outcome(story)) == 1
    assert story.memory.requeued["t1"].count == 1


def silent() -> Story:
    """m1 runs and is silent, with t1 on it."""
    story = busy()
    for _ in range(8):
        story.cycle(reports=False)
    assert verdict(story)[0] is S.LOST
    return story


def test_a_silent_instance_is_left_alone_until_clearml_has_ended_its_task() -> None:
    story = silent()
    assert not outcome(story, timedelta(hours=2))
    ended(story, "stopped")  # its watchdog
    story.workers.clear()
    (found,) = outcome(story, minutes(5))
    assert "m1, which fell silent, and ClearML has ended the task" in found.because


def test_ended_tasks_are_not_asked_for_all_the_time_meanwhile() -> None:
    story = silent()
    assert story.world().clearml.ended_tasks is None
    ended(story, "stopped")
    story.workers.clear()
    assert story.world().clearml.ended_tasks is not None


@pytest.mark.parametrize("cycles", range(26, 36))
def test_its_task_is_found_whenever_it_ends(cycles: int) -> None:
    story = silent()
    story.honest = False  # others' tasks wait: ended tasks are seen in every cycle
    for _ in range(cycles):
        assert not story.cycle(reports=False).effects
    ended(story, "stopped")
    story.workers.clear()
    assert reasons(story.cycle(reports=False)) == ["lost_task"]


def test_an_idle_one_that_falls_silent_is_not_watched() -> None:
    story = busy()
    story.end("t1", "completed")
    for _ in range(10):
        story.cycle(reports=False)
    assert verdict(story)[0] is S.LOST
    assert story.memory.power_offs == {}


def test_whoever_says_that_it_is_to_go_has_not_lost_it() -> None:
    story = busy()
    known = replace(story.memory.instances["id-m1"], stop_decided_at=story.now)
    story.memory = replace(story.memory, instances={"id-m1": known})
    go(story, "gone")
    assert not outcome(story)


def aborted_at_once(story: Story) -> None:
    ended(story, "stopped", by_person=True)


def aborted_and_never_obeyed(story: Story) -> None:
    """The server asks an agent that is no more, and gives up two hours later."""
    story.tasks["t1"] = replace(story.tasks["t1"], stop_requested=True)
    outcome(story, timedelta(hours=2))
    ended(story, "stopped")


def completed(story: Story) -> None:
    ended(story, "completed")


def failed(story: Story) -> None:
    ended(story, "failed")


@pytest.mark.parametrize("how", [aborted_at_once, aborted_and_never_obeyed, completed, failed])
@pytest.mark.parametrize("alive", [True, False])
def test_other_ends_of_a_lost_task_are_ends(how: Callable[[Story], None], alive: bool) -> None:
    story = silent()
    if not alive:
        go(story, "stopped")
    how(story)
    story.workers.clear()
    assert not outcome(story)


def test_one_that_was_only_silent_goes_on() -> None:
    story = silent()
    story.report("m1", "t1")
    story.cycle()
    assert verdict(story)[0] is S.RUNNING_TASK
    assert story.memory.power_offs == {}
    ended(story, "stopped")
    story.report("m1")
    assert not outcome(story, minutes(1))


def test_a_silent_one_that_is_stopped_by_somebody_is_lost() -> None:
    story = silent()
    go(story, "stopped")
    assert len(outcome(story)) == 1


def test_what_we_powered_off_is_rescued_as_ever_and_not_counted() -> None:
    story = busy("leave")
    story.end("t1")
    made = story.wait(minutes(60))
    assert verbs(made) == ["stop"]
    story.done(*made.effects)
    story.run("m1", "t2")  # pulled in the last moment
    go(story, "stopped")
    story.workers.clear()
    assert [(e.subject, e.reason) for e in outcome(story)] == [("t2", Reason.CAUGHT_TASK)]
    assert story.memory.requeued == {}


def test_by_default_nothing_is_watched() -> None:
    story = busy("leave")
    go(story, "stopped")
    story.cycle(reports=False)
    assert story.memory.power_offs == {}


def test_a_choice_that_is_taken_back_counts_at_once() -> None:
    story = busy()
    go(story, "stopped")
    story.cycle(reports=False)
    story.config = config({"on_lost": "leave", "stopped_retention": "30d"})
    assert not outcome(story)


def test_without_memory_nobody_knows_whose_doing_it_was() -> None:
    story = busy()
    story.memory, story.lost_memory = Memory(), True
    go(story, "stopped")
    assert not outcome(story)


def test_it_is_found_also_when_the_daemon_was_down() -> None:
    story = busy()
    story.now += minutes(30)
    ended(story, "stopped")
    story.workers.clear()
    go(story, "stopped")
    story.now += timedelta(hours=5)
    made = story.cycle(reports=False)
    assert verbs(made) == ["rescue"]
    story.done(*made.effects, failure=Failure.TRANSIENT)
    assert [e.subject for e in outcome(story)] == ["t1"]


def test_it_is_found_also_when_clearml_was_down() -> None:
    story = busy()
    story.clearml_down = True
    go(story, "stopped")
    outcome(story, minutes(40))
    story.clearml_down = False
    assert [e.subject for e in outcome(story)] == ["t1"]
    assert story.now - START < timedelta(hours=3)


def test_the_queue_gets_another_machine_for_it() -> None:
    story = busy()
    go(story, "gone")
    outcome(story, minutes(4))
    assert story.last is not None
    assert story.memory.pending
    assert any(key.startswith("create:") for key in story.memory.pending)


# --- a death that is seen late


@pytest.mark.parametrize("dark", [minutes(1), minutes(5), minutes(40)])
def test_a_task_is_put_back_also_when_its_zone_was_dark_meanwhile(dark: timedelta) -> None:
    story = busy()
    story.dark_zones.add(story.instances["m1"].zone)
    story.now += seconds(10)
    ended(story, "stopped")  # the agent stopped it, and said goodbye
    story.workers.clear()
    story.wait(dark)
    story.dark_zones.clear()
    go(story, "stopped")
    assert len(outcome(story)) == 1


def test_what_ended_before_the_last_report_ended_by_itself() -> None:
    story = busy()
    ended(story, "stopped")
    story.report("m1")
    for _ in range(8):
        story.cycle()
    story.dark_zones.add(story.instances["m1"].zone)
    story.workers.clear()
    story.wait(minutes(5))
    story.dark_zones.clear()
    go(story, "stopped")
    assert not outcome(story)


def test_a_task_that_ended_while_the_plan_was_still_awaited_is_put_back() -> None:
    story = busy()
    story.now += seconds(30)
    view = story.world()
    slow = replace(view.clearml, begun_at=story.now, observed_at=story.now + seconds(15))
    story.now += seconds(1)
    ended(story, "stopped")
    story.workers.clear()
    made = plan(replace(view, clearml=slow), story.memory, story.config, story.now + seconds(20))
    story.memory, story.now = made.memory, story.now + seconds(20)
    go(story, "stopped")
    assert len(outcome(story)) == 1


# --- an instance whose tags could not be changed


def test_a_machine_that_worked_is_not_half_made_whatever_its_tags_say() -> None:
    story = Story(config({"on_lost": "requeue"}), honest=True)
    story.has(instance("m1", tags=("phase=provisioning",)))
    story.cycle()
    story.run("m1", "t1")
    made = story.cycle()
    assert verbs(made) == ["tag"]
    story.done(*made.effects, failure=Failure.UNAUTHORIZED)
    story.cycle()
    go(story, "stopped")
    story.workers.clear()
    ended(story, "stopped")
    story.cycle(minutes(1))
    assert verdict(story)[0] is S.STOPPED
    assert len(outcome(story)) == 1
    story.cycle()
    assert verdict(story)[0] is S.STOPPED


# --- clocks


@pytest.mark.parametrize("skew", [minutes(7), minutes(-7)])
def test_a_death_is_timed_by_the_clock_of_its_tasks(skew: timedelta) -> None:
    story = busy()
    story.skew = skew
    story.memory = replace(story.memory, skew=skew)
    worked_at = story.now
    ended(story, "stopped")
    story.workers.clear()
    go(story, "stopped")
    story.cycle()
    off = story.memory.power_offs["m1"]
    assert (off.at_work_at, off.decided_at) == (worked_at + skew, story.now + skew)
    assert len(outcome(story, WATCHED - minutes(1))) == 1
    assert story.memory.power_offs == {}


def test_one_that_was_stopped_once_and_started_again_dies_by_itself_all_the_same() -> None:
    story = busy()
    story.end("t1")
    made = story.wait(minutes(60))
    assert verbs(made) == ["stop"]
    story.done(*made.effects)
    for state in ("stopped", "running"):  # somebody powers it on
        go(story, state)
        story.cycle(reports=False)
    story.report("m1")
    story.cycle()
    story.clearml_down = True
    story.cycle()
    story.enqueue("t2")
    story.run("m1", "t2")  # nobody sees that
    go(story, "stopped")
    story.cycle(reports=False)
    story.clearml_down = False
    assert [effect.task.id for effect in outcome(story)] == ["t2"]


@pytest.mark.parametrize("later", [1, 14])
@pytest.mark.parametrize("state", ["stopped in place", "stopped"])
def test_one_that_we_started_and_that_worked_and_died_before_anybody_could_remember(
    state: str, later: int
) -> None:
    """The store did not answer: what is remembered is that it was stopped, and told to start."""
    story = busy()
    story.end("t1")
    story.done(*story.wait(minutes(60)).effects)
    go(story, "stopped")
    story.wait(minutes(20))
    story.enqueue("t2")
    made = story.cycle(reports=False)
    assert verbs(made) == ["start"]
    story.run("m1", "t2")
    story.now += minutes(4)
    story.end("t2", "stopped")
    story.workers.clear()
    went_off = story.now + seconds(40)
    story.has(replace(story.instances["m1"], state=ServerState(state), modified_at=went_off))
    story.now += minutes(later)
    assert [effect.task.id for effect in outcome(story)] == ["t2"]


def test_a_return_that_fails_is_tried_again_however_long_the_machine_was_silent_before() -> None:
    story = busy()
    for _ in range(60):
        story.cycle(reports=False)
    go(story, "stopped")
    made = story.cycle(reports=False)
    assert reasons(made) == ["lost_task"]
    story.done(*made.effects, failure=Failure.RATE_LIMITED)
    assert "start" not in verbs(story.cycle(reports=False))
    assert [effect.task.id for effect in outcome(story)] == ["t1"]


def started_again(since: timedelta) -> Story:
    """m1 dies with t1 on it, and somebody starts it again, while ClearML is down; Scaleway changed
    it so long after its death was seen."""
    story = busy()
    story.clearml_down = True
    story.cycle()
    go(story, "stopped")
    story.cycle(reports=False)
    changed_at = story.now + since
    story.now += minutes(3)
    story.has(registered("m1", modified_at=changed_at))
    for _ in range(40):
        story.cycle(reports=False)
    story.clearml_down = False
    story.report("m1")
    return story


def test_what_its_death_left_hanging_goes_back_also_when_somebody_started_it_again() -> None:
    """ClearML ends such a task after two hours."""
    story = started_again(minutes(1))
    for _ in range(60):
        assert verbs(story.cycle()) == []
    ended(story, "stopped")
    story.report("m1")
    assert reasons(story.cycle()) == ["lost_task"]


def test_what_a_person_stops_on_it_meanwhile_stays_stopped() -> None:
    story = started_again(minutes(1))
    story.cycle()
    ended(story, "stopped", by_person=True)
    story.report("m1")
    assert verbs(story.wait(minutes(3))) == []


def test_what_began_after_its_death_ends_for_its_own_reasons() -> None:
    story = started_again(minutes(1))
    ended(story, "failed")
    story.run("m1", "t2")
    story.cycle()
    story.end("t2", "stopped")
    assert verbs(story.wait(minutes(3))) == []


def test_one_that_only_an_old_listing_showed_off_did_not_die() -> None:
    story = started_again(-minutes(1))
    story.cycle()
    ended(story, "stopped")
    story.report("m1")
    assert verbs(story.wait(minutes(3))) == []


def test_what_a_person_asked_to_stop_stays_so_when_its_machine_dies_once_more() -> None:
    """ClearML forgets who asked when it gives a task up."""
    story = started_again(minutes(1))
    story.tasks["t1"] = replace(story.tasks["t1"], stop_requested=True)
    for _ in range(40):
        story.cycle()
    story.clearml_down = True
    story.cycle()
    go(story, "stopped")
    story.cycle(reports=False)
    story.tasks["t1"] = replace(story.tasks["t1"], stop_requested=False)
    ended(story, "stopped")
    story.clearml_down = False
    assert outcome(story) == []
