"""A task that a power-off caught goes back to the head of its queue, once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory
from tests.policy.test_stop import idle_story, verdict
from tests.policy.worlds import (
    START,
    Story,
    config,
    minutes,
    reasons,
    registered,
    seconds,
    task,
    verbs,
)


def powered_off(failure: Failure | None = None) -> Story:
    """m1 idled out and is down, whatever we were told of it."""
    story = idle_story("m1")
    made = story.wait(minutes(60))
    assert verbs(made) == ["stop"]
    story.done(*made.effects, failure=failure)
    story.now += seconds(20)
    story.has(registered("m1", "stopped"))
    story.workers.clear()
    return story


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_task_that_ended_with_the_machine_is_put_back(status: str) -> None:
    story = powered_off()
    story.ended = [task("t1", status, "m1", status_changed_at=story.now)]
    assert reasons(story.cycle()) == ["caught_task"]


def test_a_task_that_hangs_on_the_dead_machine_is_put_back() -> None:
    story = powered_off()
    story.tasks["t1"] = task("t1", "in_progress", "m1", status_changed_at=story.now)
    made = story.wait(minutes(5))
    assert reasons(made) == ["caught_task"]


def test_a_task_that_completed_is_done() -> None:
    story = powered_off()
    story.ended = [task("t1", "completed", "m1", status_changed_at=story.now)]
    assert not story.wait(minutes(10)).effects


def test_a_task_is_put_back_once() -> None:
    story = powered_off()
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    made = story.cycle()
    assert not story.cycle().effects  # under way
    story.done(*made.effects)
    assert not story.wait(minutes(10)).effects


def test_a_failed_rescue_is_tried_again() -> None:
    story = powered_off()
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    made = story.cycle()
    story.done(*made.effects, failure=Failure.TRANSIENT)
    assert verbs(story.wait(minutes(2))) == ["rescue"]


def test_what_ended_before_the_power_off_is_not_touched() -> None:
    story = powered_off()
    story.ended = [task("t0", "failed", "m1", status_changed_at=story.now - minutes(20))]
    assert not story.wait(minutes(10)).effects


def test_what_somebody_asked_to_stop_stays_stopped() -> None:
    story = powered_off()
    hanging = task("t1", "in_progress", "m1", status_changed_at=story.now)
    story.tasks["t1"] = replace(hanging, stop_requested=True)
    assert not story.wait(minutes(10)).effects


def test_a_task_of_a_machine_that_we_did_not_power_off_is_nobody_s_catch() -> None:
    story = powered_off()
    story.ended = [task("t1", "stopped", "m2", status_changed_at=story.now)]
    assert not story.wait(minutes(10)).effects


def test_the_machine_is_not_started_before_its_tasks_were_looked_at() -> None:
    story = powered_off()
    story.enqueue("t1")
    assert verbs(story.cycle()) == []
    assert verbs(story.cycle()) == ["start"]


def test_a_popped_task_that_nobody_starts_goes_back() -> None:
    story = Story()
    story.tasks["t1"] = task("t1")
    made = story.wait(minutes(10))
    assert reasons(made) == ["popped_task"]
    assert made.effects[0].because.endswith("(1 of 3, then it is left)")


def test_a_popped_task_that_is_started_is_left_alone() -> None:
    story = Story()
    story.tasks["t1"] = task("t1")
    story.cycle()
    story.tasks["t1"] = task("t1", "in_progress", "elsewhere")
    assert not story.wait(timedelta(hours=1)).effects


def test_a_power_off_that_did_not_happen_catches_nothing() -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    story.done(*made.effects, failure=Failure.TRANSIENT)
    for _ in range(3):  # what it may have done is awaited
        story.cycle()
    story.run("m1", "t1")
    story.cycle()
    story.end("t1")
    for _ in range(6):
        assert "rescue" not in verbs(story.cycle())


def test_what_ended_shortly_before_the_power_off_is_not_touched() -> None:
    story = powered_off()
    decided_at = story.memory.power_offs["m1"].decided_at
    story.ended = [task("t0", "completed", "m1", status_changed_at=decided_at - seconds(10))]
    assert not story.wait(minutes(10)).effects


def test_a_catch_is_found_also_when_clearml_was_down_for_long() -> None:
    story = powered_off()
    ended = task("t1", "stopped", "m1", status_changed_at=story.now)
    story.clearml_down = True
    story.wait(minutes(40))
    story.clearml_down, story.ended = False, [ended]
    assert reasons(story.cycle()) == ["caught_task"]


def test_a_popped_task_is_not_believed_stuck_right_after_an_outage() -> None:
    story = Story()
    story.tasks["t1"] = task("t1")
    story.cycle()
    story.clearml_down = True
    story.wait(minutes(20))
    story.clearml_down = False
    assert not story.cycle().effects
    assert not story.wait(minutes(2)).effects


@pytest.mark.parametrize("failure", [Failure.TRANSIENT, Failure.REJECTED, Failure.UNAUTHORIZED])
def test_what_ends_on_a_machine_whose_power_off_failed_is_no_catch(failure: Failure) -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    story.done(*made.effects, failure=failure)
    story.run("m1", "t1")
    story.cycle(seconds(10))
    story.end("t1")
    for _ in range(30):
        assert "rescue" not in verbs(story.cycle())


def test_what_people_change_about_an_old_task_is_no_catch() -> None:
    story = idle_story("m1")
    story.run("m1", "t0")
    story.cycle()
    story.end("t0", "failed")
    made = story.wait(minutes(60))
    story.done(*made.effects)
    story.has(registered("m1", "stopped"))
    story.workers.clear()
    story.cycle()
    story.ended = [task("t0", "stopped", "m1", status_changed_at=story.now)]  # "mark aborted"
    assert not story.wait(minutes(10)).effects


def test_a_popped_task_put_back_may_still_be_caught_later() -> None:
    story = Story()
    story.tasks["t1"] = task("t1")
    made = story.wait(minutes(10))
    story.done(*made.effects)
    story.cycle()
    assert story.memory.rescued == {}


def test_a_popped_task_is_put_back_also_when_cycles_are_far_apart() -> None:
    story = Story(config(poll_interval="5m"))
    story.tasks["t1"] = task("t1")
    made = [story.cycle(minutes(5)) for _ in range(4)]
    assert "rescue" in [verb for each in made for verb in verbs(each)]


@pytest.mark.parametrize("failure", [Failure.RATE_LIMITED, Failure.TRANSIENT])
def test_the_machine_is_not_started_before_its_task_is_back(failure: Failure) -> None:
    story = powered_off()
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    story.enqueue("t2")
    done: list[str] = []
    for fails in (failure, None):
        while "rescue" not in done[-1:]:
            done += [verb for verb in verbs(story.cycle()) if verb != "create"]
        assert story.last is not None
        story.done(*story.last.effects, failure=fails)
        done.append("failed" if fails else "done")
    story.ended = []
    story.enqueue("t3")
    assert [*done, *verbs(story.cycle())] == ["rescue", "failed", "rescue", "done", "start"]


def test_a_machine_is_not_removed_before_its_task_is_back() -> None:
    story = powered_off()
    story.config = config({"stopped_retention": "1s"})
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    made = story.cycle()
    story.done(*made.effects, failure=Failure.RATE_LIMITED)
    assert [verbs(made), verbs(story.wait(minutes(2)))] == [["rescue"], ["rescue"]]


# --- clocks


@pytest.mark.parametrize("forward", [minutes(10), minutes(-10)])
def test_what_ended_before_the_power_off_did_so_by_any_clock(forward: timedelta) -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    story.done(*made.effects)
    story.has(registered("m1", "stopped"))
    story.workers.clear()
    story.ended = [task("t0", "failed", "m1", status_changed_at=story.now - seconds(60))]
    story.memory = replace(  # as if its end had not been known at the power-off
        story.memory,
        power_offs={n: replace(o, known_ended=()) for n, o in story.memory.power_offs.items()},
    )
    story.set_clock(forward)
    assert not story.wait(minutes(10)).effects


@pytest.mark.parametrize("forward", [minutes(10), minutes(-10)])
@pytest.mark.parametrize("status", ["stopped", "in_progress"])
def test_a_caught_task_is_found_by_any_clock(forward: timedelta, status: str) -> None:
    story = powered_off()
    one = task("t1", status, "m1", status_changed_at=story.now)
    if status == "stopped":
        story.ended = [one]
    else:
        story.tasks["t1"] = one
    story.honest = True
    story.set_clock(forward)
    assert reasons(story.wait(minutes(3))) == ["caught_task"]


def test_a_power_off_is_timed_by_the_clock_of_its_tasks() -> None:
    story = idle_story("m1")
    story.skew = minutes(7)
    story.wait(minutes(60))
    assert story.memory.power_offs["m1"].decided_at == story.now + minutes(7)


def test_a_clock_set_forward_does_not_end_the_watch() -> None:
    story = powered_off()
    story.set_clock(minutes(20))
    story.cycle()
    assert set(story.memory.power_offs) == {"m1"}
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    assert reasons(story.cycle()) == ["caught_task"]


# --- a machine that somebody else may have started again


@pytest.mark.parametrize("status", ["in_progress", "stopped"])
def test_nothing_was_caught_where_nobody_can_look(status: str) -> None:
    story = powered_off()
    story.cycle()
    story.dark_zones.add(story.instances["m1"].zone)
    story.now += minutes(2)
    story.run("m1", "t1")  # a person has started it
    if status == "stopped":
        story.end("t1", "stopped")
    assert not story.wait(minutes(20)).effects
    story.dark_zones.clear()
    story.has(registered("m1"))
    assert not story.wait(minutes(5)).effects


def test_what_was_caught_is_put_back_at_once_where_the_power_off_was_accepted() -> None:
    story = powered_off()
    story.dark_zones.add(story.instances["m1"].zone)
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    assert reasons(story.cycle()) == ["caught_task"]


def test_what_was_caught_is_put_back_when_the_zone_answers_again() -> None:
    story = powered_off(Failure.TRANSIENT)
    story.dark_zones.add(story.instances["m1"].zone)
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    assert not story.wait(minutes(30)).effects
    story.dark_zones.clear()
    assert reasons(story.cycle()) == ["caught_task"]


def test_nothing_hangs_on_a_machine_that_is_heard_of() -> None:
    story = powered_off()
    story.cycle()
    story.run("m1", "t1")  # the listing still says stopped
    for _ in range(6):
        assert "rescue" not in verbs(story.cycle())
    story.workers.clear()
    assert reasons(story.wait(minutes(3))) == ["caught_task"]


def test_its_last_words_do_not_keep_a_task_from_its_queue() -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    story.done(*made.effects)
    story.run("m1", "t1")
    story.now += seconds(20)
    story.end("t1", "stopped")  # its worker's entry stays behind
    story.has(registered("m1", "stopped"))
    assert reasons(story.cycle(seconds(10), reports=False)) == ["caught_task"]


# --- a task whose pull kills the agent


def pulled_in_vain(times: int, story: Story) -> int:
    """How often the task goes back when every pull of so many ends its agent."""
    back = 0
    for _ in range(times):
        story.tasks["t1"] = task("t1")
        made = story.wait(minutes(10))
        back += reasons(made).count("popped_task")
        story.done(*made.effects)
    return back


def test_a_task_that_is_never_started_is_put_back_three_times_and_left() -> None:
    story = Story()
    assert pulled_in_vain(8, story) == 3
    assert story.last is not None
    because = story.last.queues[0].because
    assert because.endswith("left out of the queue, pulled 4 times and never started: t1")
    assert story.last.queues[0].demand == 0


def test_a_task_that_is_left_keeps_no_machine_on() -> None:
    story = idle_story("m1")
    pulled_in_vain(4, story)
    assert verbs(story.wait(minutes(40))) == ["stop"]


def test_after_a_month_it_may_go_back_again() -> None:
    story = Story()
    pulled_in_vain(4, story)
    assert story.memory.popped_back["t1"].count == 3
    story.cycle(timedelta(days=31))
    assert story.memory.popped_back == {}


def test_a_machine_that_is_heard_of_is_not_started_while_a_task_of_it_is_withheld() -> None:
    story = powered_off(Failure.TRANSIENT)
    story.cycle()
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    story.enqueue("t2")
    story.report("m1")  # the listing still says stopped
    for _ in range(4):
        assert "start" not in verbs(story.cycle())
    story.workers.clear()
    assert reasons(story.cycle()) == ["caught_task"]


# --- memory lost between the power-off and its catch


def caught_and_forgotten(state: str, ended_before: timedelta, off_before: timedelta) -> Story:
    """A daemon without memory finds a machine that is off or going, and a task stopped on it."""
    story = Story(memory=Memory(), lost_memory=True, honest=True)
    story.has(registered("m1", state, modified_at=START - off_before))
    ended_at = START - ended_before
    story.ended = [task("t1", "stopped", "m1", status_changed_at=ended_at)]
    return story


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_a_catch_is_found_also_when_memory_was_lost_meanwhile(state: str) -> None:
    story = caught_and_forgotten(state, seconds(50), seconds(20))
    assert reasons(story.cycle(seconds(0))) == ["caught_task"]


@pytest.mark.parametrize(
    ("ended_before", "off_before"),
    [(minutes(5), minutes(3)), (seconds(140), seconds(20)), (minutes(60), seconds(20))],
)
def test_without_memory_what_ended_well_before_the_power_off_is_left(
    ended_before: timedelta, off_before: timedelta
) -> None:
    story = caught_and_forgotten("stopped", ended_before, off_before)
    assert story.wait(minutes(20)).effects == ()


def test_what_a_late_listing_still_showed_on_counts_as_never_seen() -> None:
    story = caught_and_forgotten("running", seconds(5), minutes(60))
    assert story.cycle(seconds(0)).effects == ()
    story.has(registered("m1", "stopped", modified_at=START))
    assert reasons(story.cycle()) == ["caught_task"]


def test_what_goes_off_later_does_so_by_somebody_else_s_doing() -> None:
    story = caught_and_forgotten("running", minutes(60), minutes(60))
    story.cycle(seconds(0))
    for _ in range(4):
        story.cycle()
    story.has(registered("m1", "stopped", modified_at=story.now))
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    assert story.wait(minutes(5)).effects == ()


def test_with_memory_a_machine_never_seen_before_was_not_powered_off_by_us() -> None:
    story = caught_and_forgotten("stopped", seconds(50), seconds(20))
    story.memory, story.lost_memory = Memory(planned_at=START - seconds(30)), False
    assert story.wait(minutes(5)).effects == ()


# --- somebody started the machine again before its tasks could be looked at


def started_again() -> Story:
    """m1 idled out, ClearML went down, and somebody powered m1 on before it came back."""
    story = powered_off()
    story.clearml_down = True
    story.cycle(reports=False)
    story.has(registered("m1", "starting"))
    story.cycle(reports=False)
    story.has(registered("m1", "running"))
    for _ in range(4):
        story.cycle(reports=False)
    story.clearml_down = False
    story.report("m1")
    return story


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_catch_is_found_also_on_a_machine_that_somebody_started_again(status: str) -> None:
    story = started_again()
    off_at = story.memory.power_offs["m1"].decided_at
    story.ended = [task("t1", status, "m1", status_changed_at=off_at + seconds(10))]
    made = story.cycle()
    assert reasons(made) == ["caught_task"]
    story.done(*made.effects)
    assert "rescue" not in verbs(story.cycle())


@pytest.mark.parametrize(("after", "rescued"), [(seconds(110), True), (seconds(111), False)])
def test_what_ended_while_the_power_went_was_caught(after: timedelta, rescued: bool) -> None:
    story = started_again()
    off_at = story.memory.power_offs["m1"].decided_at
    story.ended = [task("t1", "stopped", "m1", status_changed_at=off_at + after)]
    assert ("rescue" in verbs(story.cycle())) is rescued


def test_what_ends_on_it_afterwards_is_no_catch() -> None:
    story = started_again()
    story.ended = [task("t1", "stopped", "m1", status_changed_at=story.now)]
    assert "rescue" not in verbs(story.wait(minutes(2)))


def test_what_hangs_on_it_when_it_goes_off_by_itself_is_no_catch() -> None:
    story = started_again()
    story.enqueue("t1")
    story.run("m1", "t1")
    story.cycle()
    story.has(registered("m1", "stopped"))
    story.workers.clear()
    for _ in range(10):
        assert "rescue" not in verbs(story.cycle(reports=False))


def test_a_popped_task_that_was_put_back_counts_anew() -> None:
    story = Story()
    story.enqueue("t1")
    story.has(registered())
    story.report(registered().name)
    story.cycle()
    story.entries.clear()
    made = story.wait(minutes(5))
    assert reasons(made) == ["popped_task"]
    story.done(*made.effects)  # and another agent pulls it before the next look
    assert not story.wait(seconds(150)).effects
    assert reasons(story.wait(seconds(60))) == ["popped_task"]


@pytest.mark.parametrize(
    ("modified", "agent_is_back", "rescued"),
    [(True, True, True), (True, False, True), (False, True, False)],
)
def test_one_that_was_started_again_before_anybody_looked_is_known_by_its_change(
    modified: bool, agent_is_back: bool, rescued: bool
) -> None:
    """The daemon died before it heard that its power-off was accepted."""
    story = idle_story("m1")
    made = story.wait(minutes(60))
    assert verbs(made) == ["stop"]
    off_at = story.now
    story.now += minutes(3)
    if modified:
        story.has(registered("m1", modified_at=off_at + minutes(2)))
    story.ended = [task("t1", "stopped", "m1", status_changed_at=off_at + seconds(5))]
    plans = [story.cycle(reports=agent_is_back) for _ in range(3)]
    assert ("rescue" in [verb for each in plans for verb in verbs(each)]) is rescued
    assert verdict(story)[0] is (S.IDLE if agent_is_back else S.INITIALIZING), "not lost: it boots"
