"""Scale down: what is stopped, when, and everything that keeps a machine from being stopped."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.effects import Failure, Guard, Reason, StopInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import Instance
from tests.policy.worlds import (
    QUEUE,
    START,
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


def idle_story(*names: str, **queue: object) -> Story:
    """Machines that have just become idle."""
    story = Story(config({"max_instances": 5, **queue}))
    for name in names:
        story.has(registered(name))
        story.report(name)
    story.cycle()
    return story


def verdict(story: Story, name: str = "m1") -> tuple[S, Reason]:
    assert story.last is not None
    found = next(d for d in story.last.instances if d.name == name)
    return found.state, found.reason


def test_an_idle_instance_is_stopped_after_its_timeout_and_not_before() -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    (effect,) = made.effects
    assert isinstance(effect, StopInstance)
    assert effect.guard is Guard.IDLE
    assert effect.reason is Reason.IDLE_TIMEOUT
    assert minutes(30) <= story.now - START <= minutes(32)


def test_the_intent_is_in_memory_before_anybody_acts() -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    assert "m1" in made.memory.power_offs
    assert "stop:id-m1" in made.memory.pending
    assert made.memory.instances["id-m1"].stop_decided_at == story.now


def test_a_stop_under_way_is_not_decided_again() -> None:
    story = idle_story("m1")
    story.wait(minutes(60))
    assert not story.cycle().effects


@pytest.mark.parametrize(
    ("status", "stops_after"), [("completed", 5), ("failed", 30), ("stopped", 30)]
)
def test_a_failed_task_leaves_time_to_mend_it(status: str, stops_after: int) -> None:
    story = idle_story("m1", idle_timeout_after_success="5m")
    story.run("m1", "t0")
    story.cycle()
    story.end("t0", status)
    ended_at = story.now
    assert verbs(story.wait(minutes(60))) == ["stop"]
    assert minutes(stops_after) <= story.now - ended_at <= minutes(stops_after + 1)


def test_no_stop_in_the_grace_after_a_task_whatever_the_timeout() -> None:
    story = idle_story("m1", idle_timeout="10s")
    story.run("m1", "t0")
    story.cycle()
    story.end("t0")
    ended_at = story.now
    story.wait(minutes(10))
    assert story.now - ended_at >= minutes(2)


def test_a_running_task_keeps_its_machine_however_long() -> None:
    story = idle_story("m1")
    story.run("m1", "t0")
    assert not story.wait(timedelta(hours=12)).effects
    assert verdict(story) == (S.RUNNING_TASK, Reason.BUSY)


def test_a_task_in_progress_is_believed_even_if_the_worker_says_idle() -> None:
    story = idle_story("m1")
    story.tasks["t0"] = task("t0", "in_progress", "m1:gpu0")
    assert not story.wait(minutes(90)).effects


def test_one_of_two_worker_entries_with_a_task_is_enough() -> None:
    story = idle_story("m1")
    story.workers["twin"] = replace(story.workers["m1"], task_id="t0")
    assert not story.wait(minutes(90)).effects


def test_a_worker_with_a_suffix_is_found() -> None:
    story = idle_story("m1")
    story.workers["m1"] = replace(story.workers["m1"], id="m1:gpu0,1", task_id="t0")
    assert not story.wait(minutes(90)).effects


def test_a_task_popped_by_nobody_knows_whom_keeps_the_queue_s_machines() -> None:
    story = idle_story("m1")
    story.now += minutes(31)
    story.tasks["t1"] = task("t1")  # queued, and in no queue's entries
    assert not story.cycle().effects
    assert verdict(story)[1] is Reason.WAITING


def test_one_report_of_idleness_is_not_enough() -> None:
    story = Story(config({"idle_timeout": "2m"}))
    story.has(registered("m1"))
    story.report("m1", registered_at=START - minutes(30))
    story.lost_memory = True
    assert not story.cycle(reports=False).effects
    assert not story.cycle(seconds(10), reports=False).effects  # the same report, seen twice
    assert verbs(story.cycle()) == ["stop"]


def test_a_silent_worker_is_not_idle() -> None:
    story = idle_story("m1")
    for _ in range(10):
        assert not story.cycle(reports=False).effects
    assert verdict(story) == (S.LOST, Reason.LOST_WORKER)


def test_waiting_tasks_keep_idle_machines_most_idle_goes_first() -> None:
    story = idle_story("m1", "m2")
    story.run("m2", "t0")
    story.cycle()
    story.end("t0")
    story.enqueue("t1")
    made = story.wait(minutes(60))
    assert [e.subject for e in made.effects] == ["m1"]


def test_never_below_min_instances() -> None:
    story = idle_story("m1", "m2", min_instances=1)
    assert len(story.wait(minutes(60)).effects) == 1
    story.instances["m1"] = registered("m1", "stopped")
    assert not story.wait(minutes(60)).effects


def test_above_max_idle_ones_go_at_once() -> None:
    story = idle_story("m1", "m2")
    story.config = config({"max_instances": 1})
    assert reasons(story.wait(minutes(5))) == ["above_max"]
    assert story.now - START <= minutes(3)  # the grace after a task, not the idle timeout
    assert not story.cycle().effects  # the one under way is not one too many


def test_a_queue_that_left_the_configuration_drains() -> None:
    story = idle_story("m1", "m2")
    story.run("m2", "t0")
    story.cycle()
    story.config = config(
        queues={
            "other": {"name": "other", "placements": [{"type": "L4-1-24G", "zone": "fr-par-2"}]}
        }
    )
    made = story.wait(minutes(3))
    assert [(e.subject, e.reason) for e in made.effects] == [("m1", Reason.ABOVE_MAX)]
    story.done(*made.effects)
    story.has(registered("m1", "stopped"))
    made = story.wait(minutes(3))
    assert verbs(made) == ["delete"]


@pytest.mark.parametrize(
    "machine",
    [
        registered("m1", protected=True),
        registered("m1", tags=("keep",)),
        registered("m1", tags=("keep=2026-09-07T20:00:00+00:00",)),
        registered("m1", "locked"),
        registered("m1", "unknown"),
    ],
    ids=["protected", "keep", "keep until", "locked", "unknown state"],
)
def test_hands_off(machine: Instance) -> None:
    story = Story()
    story.has(machine)
    story.report("m1")
    assert not story.wait(timedelta(hours=5)).effects
    assert verdict(story)[1] is Reason.HANDS_OFF


def test_a_bare_keep_ends_by_itself() -> None:
    story = idle_story("m1")
    story.has(registered("m1", tags=("keep",)))
    story.run("m1", "t0")
    made = story.wait(timedelta(hours=25))
    assert reasons(made) == ["keep_ended"]
    assert story.now - START >= timedelta(hours=24)


def test_no_stop_while_clearml_does_not_answer() -> None:
    story = idle_story("m1")
    story.clearml_down = True
    assert not story.wait(timedelta(hours=2)).effects
    story.clearml_down = False
    assert verbs(story.cycle()) == ["stop"]


def test_an_empty_worker_list_stops_nothing_for_its_lost_timeout() -> None:
    story = idle_story("m1", "m2")
    story.workers.clear()
    story.wait(minutes(10))
    assert story.now - START >= minutes(10)
    assert verdict(story) == (S.LOST, Reason.OUTAGE)


def test_no_stop_in_a_zone_that_does_not_answer() -> None:
    story = idle_story("m1")
    story.dark_zones = {"fr-par-2"}
    assert not story.wait(timedelta(hours=2)).effects
    assert verdict(story)[1] is Reason.UNSEEN


def test_a_never_registered_machine_is_stopped_and_removed() -> None:
    story = Story()
    story.has(instance("m1"))
    made = story.wait(minutes(20))
    assert reasons(made) == ["never_registered"]
    assert minutes(10) <= story.now - START <= minutes(12)
    story.done(*made.effects)
    story.has(instance("m1", "stopped"))
    assert verbs(story.wait(minutes(3))) == ["delete"]


def test_a_machine_that_once_registered_is_never_stale_but_lost() -> None:
    story = Story()
    story.has(registered("m1"))
    made = story.wait(minutes(60))
    assert reasons(made) == ["lost_worker"]
    assert story.now - START >= minutes(20)


def test_booting_through_a_clearml_outage_is_not_stale() -> None:
    story = Story()
    story.has(instance("m1"))
    story.cycle()
    story.clearml_down = True
    story.wait(timedelta(hours=1))
    story.clearml_down = False
    assert not story.cycle().effects
    assert not story.wait(minutes(9)).effects


def test_a_lost_machine_with_a_task_is_left_alone_until_clearml_ends_it() -> None:
    story = idle_story("m1")
    story.run("m1", "t0")
    story.cycle()
    for _ in range(120):
        assert not story.cycle(reports=False).effects
    assert verdict(story) == (S.LOST, Reason.LOST_WORKER)
    story.workers.clear()
    story.tasks.clear()
    for _ in range(30):
        if story.cycle(reports=False).effects:
            break
    assert story.last is not None
    assert reasons(story.last) == ["lost_worker"]


def test_several_lost_at_once_are_an_outage_for_an_hour_at_most() -> None:
    story = idle_story("m1", "m2")
    story.workers.clear()
    made = story.wait(timedelta(hours=3))
    assert reasons(made) == ["lost_worker"] * 2
    assert story.now - START >= timedelta(hours=1)


def test_stopped_in_place_is_powered_off() -> None:
    story = idle_story("m1")
    story.has(registered("m1", "stopped in place"))
    assert reasons(story.cycle()) == ["stopped_in_place"]


def test_a_refused_stop_leaves_the_machine_as_it_was() -> None:
    story = idle_story("m1", idle_action="delete")
    made = story.wait(minutes(60))
    story.run("m1", "t0")
    story.done(*made.effects, failure=Failure.GUARD, message="task t0 is on it")
    after = story.cycle()
    assert not after.effects
    assert after.memory.power_offs == {}
    assert not after.memory.instances["id-m1"].delete_when_stopped


def test_losing_memory_keeps_the_idle_clock() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1", registered_at=START - timedelta(hours=5))
    ended = task("t0", "completed", "m1", status_changed_at=START - minutes(20))
    story.ended, story.lost_memory = [ended], True
    assert verbs(story.wait(minutes(30))) == ["stop"]
    assert minutes(9) <= story.now - START <= minutes(12)


def test_a_clock_that_jumps_ahead_stops_nothing_busy() -> None:
    story = idle_story("m1")
    story.run("m1", "t0")
    story.cycle()
    assert not story.cycle(timedelta(hours=5), reports=False).effects
    assert verdict(story)[0] is S.LOST


def test_a_task_too_short_to_be_seen_resets_the_idle_clock() -> None:
    story = idle_story("m1")
    story.now += minutes(20)
    assert story.ended is not None
    story.ended.append(task("blink", "completed", "m1", status_changed_at=story.now))
    assert verbs(story.wait(minutes(60))) == ["stop"]
    assert story.now - START >= minutes(50)


def test_tags_of_the_queue_name_are_taken_literally() -> None:
    story = idle_story("m1")
    assert story.last is not None
    assert story.last.instances[0].queue == QUEUE


def test_no_stop_in_the_grace_even_above_max() -> None:
    story = idle_story("m1", "m2")
    for name in ("m1", "m2"):
        story.run(name, f"t-{name}")
    story.config = config({"max_instances": 1})
    story.cycle()
    story.end("t-m1")
    assert not story.cycle().effects
    assert verdict(story, "m1")[1] is Reason.RECENTLY_BUSY


def test_one_on_its_way_out_no_longer_counts_for_the_minimum() -> None:
    story = idle_story("m1", "m2", min_instances=1)
    made = story.wait(minutes(60))
    story.done(*made.effects)
    story.has(registered("m1", "stopping"))
    assert not story.wait(minutes(10)).effects


def test_lowering_the_fleet_s_maximum_stops_idle_ones() -> None:
    story = Story(config({"max_instances": 5}, max_instances=2))
    for name in ("m1", "m2", "m3"):
        story.has(registered(name))
        story.report(name)
    assert reasons(story.wait(minutes(5))) == ["above_max"]


def test_a_lost_machine_waits_its_timeout_from_the_end_of_its_task() -> None:
    story = idle_story("m1")
    story.run("m1", "t0")
    story.cycle()
    for _ in range(60):
        story.cycle(reports=False)
    story.workers.clear()
    story.tasks.clear()
    ended_at = story.now
    while not story.cycle(reports=False).effects:
        assert story.now - ended_at < minutes(15)
    assert story.now - ended_at >= minutes(9)


def test_a_failing_stop_is_not_hammered() -> None:
    story = idle_story("m1")
    made = story.wait(minutes(60))
    stops = 0
    for _ in range(20):
        story.done(*made.effects, failure=Failure.RATE_LIMITED)
        made = story.cycle()
        stops += len(made.effects)
    assert 5 <= stops <= 10


def test_a_renamed_queue_s_running_task_keeps_its_machine() -> None:
    story = idle_story("m1")
    story.run("m1", "t0")
    story.cycle()
    story.queue_exists = False
    assert story.memory.queue_ids == {"q-1": QUEUE}
    story.workers.clear()
    for _ in range(60):
        assert not story.cycle(reports=False).effects


@pytest.mark.parametrize("tag", ["keep=tomorrow", "keep=2026-09-07T12:00:00"])
def test_a_keep_that_cannot_be_read_or_has_no_zone_ends_too(tag: str) -> None:
    story = idle_story("m1")
    story.has(registered("m1", tags=(tag,)))
    story.run("m1", "t0")
    assert reasons(story.wait(timedelta(hours=30))) == ["keep_ended"]


def test_the_fleet_s_maximum_does_not_take_a_queue_s_minimum() -> None:
    base = {"placements": [{"type": "H100-1-80G", "zone": "fr-par-2"}]}
    queues = {
        QUEUE: {"name": QUEUE, "min_instances": 1, **base},
        "other": {"name": "other", **base},
    }
    story = Story(config(queues=queues, max_instances=1))
    story.has(registered("m1"), registered("m2", queue="other"))
    story.report("m1")
    story.run("m2", "t0")
    assert not story.wait(minutes(60)).effects
    assert verdict(story)[1] is Reason.MIN_INSTANCES


def test_a_machine_whose_agent_does_not_come_back_is_not_started_for_ever() -> None:
    story = Story()
    story.has(registered("m1"))
    made = story.wait(minutes(60))
    assert reasons(made) == ["lost_worker"]
    story.done(*made.effects)
    story.has(registered("m1", "stopped"))
    story.enqueue("t1")
    seen = [verb for _ in range(6) for verb in verbs(story.cycle())]
    assert "start" not in seen
    assert "delete" in seen


def test_a_machine_that_asks_a_queue_that_is_gone_is_not_kept_by_the_minimum() -> None:
    story = idle_story("m1", min_instances=1)
    story.report("m1", queue_ids=("the-old-one",))
    assert verbs(story.wait(minutes(60)))[0] == "stop"


def test_a_clock_set_forward_takes_no_booting_machine_out() -> None:
    story = Story(config({"max_instances": 3}))
    story.has(*(instance(name, created_at=START) for name in ("m1", "m2")), registered("m3"))
    story.enqueue("t1", "t2", "t3")
    story.cycle()
    story.cycle()
    story.set_clock(minutes(15))
    assert not story.wait(minutes(9)).effects
    assert {i.state for i in story.cycle().instances} == {S.INITIALIZING}
    assert verbs(story.wait(minutes(3))) == ["stop", "stop"]


def test_rare_cycles_are_no_pause() -> None:
    story = Story(config(poll_interval="8m"))
    story.has(instance("m1", created_at=START))
    assert [verbs(story.cycle(minutes(8))) for _ in range(3)][-1] == ["stop"]
