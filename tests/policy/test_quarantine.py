"""Black holes: a machine that fails every task at once is taken out, a broken script is not."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.effects import (
    DeleteInstance,
    Failure,
    Guard,
    Reason,
    SetTags,
    StopInstance,
)
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import QUARANTINED_TAG, ServerState
from gpu_autoscaler.policy.guard import refusal
from tests.policy.test_stop import verdict
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


def idle(*names: str, **queue: object) -> Story:
    """Idle machines; ended tasks are seen only when they are asked for."""
    story = Story(config({"max_instances": 5, **queue}), honest=True)
    story.has(*(registered(name) for name in names))
    for name in names:
        story.report(name)
    for _ in range(3):
        story.cycle()
    return story


def waiting(*names: str, **queue: object) -> Story:
    """The same, with tasks that waited at the last look: as many as the machines can take."""
    story = idle(*names, **queue)
    story.enqueue(*(f"for {name}" for name in names))
    assert not story.cycle().effects
    return story


def drained(*names: str, **queue: object) -> Story:
    """m1 has failed three tasks between two looks, and was idle at both."""
    story = waiting("m1", *names, **queue)
    story.burn("m1", "t1", "t2", "t3")
    return story


def stop_of(made: Plan, name: str = "m1") -> StopInstance:
    (stop,) = (e for e in made.effects if isinstance(e, StopInstance) and e.subject == name)
    return stop


def off(story: Story, made: Plan, name: str = "m1") -> None:
    """The power-off took place."""
    story.done(stop_of(made, name))
    story.workers.pop(name, None)
    story.has(replace(story.instances[name], state=registered(state="stopped").state))


def test_three_tasks_that_fail_at_once_power_it_off_at_once() -> None:
    story = drained()
    made = story.cycle(seconds(10))
    stop = stop_of(made)
    assert (stop.guard, stop.reason) == (Guard.QUARANTINE, Reason.QUARANTINED)
    assert stop.because == (
        "3 tasks in a row failed on m1 within 1m of their start, and no other instance of "
        "H100-1-80G has several such failures: powering it off"
    )
    assert verdict(story) == (S.QUARANTINED, Reason.QUARANTINED)
    assert made.memory.power_offs["m1"].at_work_at == story.now


@pytest.mark.parametrize("others", [0, 1])
def test_it_is_no_capacity_any_more(others: int) -> None:
    made = drained(*[f"m{n + 2}" for n in range(others)], max_instances=3).cycle(seconds(10))
    assert verbs(made).count("create") == 1, "another one for the task that waits"


def test_busy_at_every_look_it_is_found_all_the_same() -> None:
    story = waiting("m1")
    for number in range(1, 4):
        story.run("m1", f"t{number}")
        assert "stop" not in verbs(story.cycle(seconds(10)))
        story.end(f"t{number}", "failed")
    assert stop_of(story.cycle(seconds(1))).guard is Guard.QUARANTINE


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("row", "quarantined"),
    [
        ("fff", True),
        ("ff", False),
        ("ffcff", False),
        ("ffcffcf", False),
        ("cfff", True),
        ("ffsf", False),
        ("ffLf", False),  # failed after two minutes: it had worked
        ("fafaf", True),  # aborted by a person: says nothing
        ("f?f?f", True),  # nobody knows when it began
        ("f?f?", False),
        ("ffffff", True),
    ],
)
def test_what_counts_as_a_row(row: str, quarantined: bool, backwards: bool) -> None:
    story = waiting("m1")
    for number, how in enumerate(row, 1):
        story.run("m1", f"t{number}")
        story.now += minutes(2) if how == "L" else seconds(10)
        story.end(
            f"t{number}", {"c": "completed", "s": "stopped", "a": "stopped"}.get(how, "failed")
        )
        assert story.ended is not None
        if how == "a":
            story.ended[-1] = replace(story.ended[-1], stop_requested=True)
        if how == "?":
            story.ended[-1] = replace(story.ended[-1], started_at=story.now - timedelta(days=9))
    assert story.ended is not None
    if backwards:
        story.ended.reverse()
    story.cycle(seconds(10))
    assert (verdict(story)[0] is S.QUARANTINED) is quarantined


def test_a_task_seen_twice_counts_once() -> None:
    story = waiting("m1")
    story.honest = False  # every end is shown in every cycle
    story.burn("m1", "t1", "t2")
    for _ in range(5):
        story.cycle()
        assert verdict(story)[0] is S.IDLE
    assert len(story.memory.instances["id-m1"].fast_failures) == 2


def test_a_success_that_nobody_saw_breaks_the_row() -> None:
    story = waiting("m1")
    story.burn("m1", "t1", "t2")
    story.entries = []
    story.cycle(seconds(10))
    story.burn("m1", "t3", status="completed")  # nothing waited: not asked for in this cycle
    story.cycle(seconds(10))
    story.enqueue("t4", "t5")
    story.cycle(seconds(10))
    story.burn("m1", "t4")
    story.cycle(seconds(10))
    assert verdict(story)[0] is S.IDLE
    assert len(story.memory.instances["id-m1"].fast_failures) == 1


def test_a_broken_script_fails_everywhere_and_takes_no_machine_out() -> None:
    story = waiting("m1", "m2")
    story.burn("m2", "t7", "t8")
    story.burn("m1", "t1", "t2", "t3")
    story.cycle(seconds(10))
    assert verdict(story)[0] is S.IDLE
    story.burn("m2", "t9", "t10")
    story.burn("m1", "t4")
    story.cycle(seconds(10))
    assert {verdict(story, name)[0] for name in ("m1", "m2")} == {S.IDLE}


def test_a_broken_script_that_two_machines_take_turns_with_takes_out_neither() -> None:
    story = waiting("m1", "m2")
    for number in range(6):
        story.burn("m1", f"a{number}")
        story.cycle(seconds(10))
        story.burn("m2", f"b{number}")
        story.cycle(seconds(10))
        assert {verdict(story, name)[0] for name in ("m1", "m2")} == {S.IDLE}


def test_one_typo_elsewhere_does_not_shield_a_black_hole() -> None:
    story = waiting("m1", "m2")
    story.burn("m2", "typo")
    story.burn("m1", "t1", "t2", "t3")
    stop_of(story.cycle(seconds(10)))


def test_what_failed_elsewhere_shields_it_for_a_while_only() -> None:
    story = waiting("m1", "m2")
    story.burn("m2", "t8", "t9")
    story.run("m2", "long")
    drained_for = 0
    while verdict(story)[0] is not S.QUARANTINED and drained_for < 40:
        drained_for += 1
        story.burn("m1", f"x{drained_for}")
        story.cycle(seconds(55))
    assert 30 <= drained_for <= 33


def test_three_tries_over_a_day_are_a_persons() -> None:
    story = waiting("m1", idle_timeout="5h")
    for number in range(4):
        story.burn("m1", f"try {number}")
        assert not story.wait(minutes(85)).effects
    assert verdict(story)[0] is S.IDLE


def test_one_failure_read_by_a_clock_that_jitters_counts_once() -> None:
    story = waiting("m1")
    story.honest = False  # every end is shown in every cycle
    story.burn("m1", "t1")
    assert story.ended is not None
    ended = story.ended[0]
    for number in range(10):
        off_by = seconds((0.3, -0.4, 0.9, 0)[number % 4])
        (began,) = (ended.started_at,)
        assert began is not None
        story.ended = [
            replace(
                ended, started_at=began + off_by, status_changed_at=ended.status_changed_at + off_by
            )
        ]
        story.cycle(seconds(10))
    assert verdict(story)[0] is S.IDLE
    assert story.memory.instances["id-m1"].failed_tasks == ("t1",)


@pytest.mark.parametrize("ahead", [minutes(6), minutes(-6)])
def test_one_failure_counts_once_when_our_clock_is_set(ahead: timedelta) -> None:
    story = waiting("m1")
    story.burn("m1", "t1", "t2")
    story.cycle(seconds(10))
    for _ in range(3):
        story.set_clock(ahead)
        story.cycle(seconds(10))
    assert len(story.memory.instances["id-m1"].fast_failures) == 2
    story.burn("m1", "t3")
    story.cycle(seconds(10))
    assert verdict(story)[0] is S.QUARANTINED


def test_one_task_that_runs_and_fails_time_after_time_counts_each_time() -> None:
    story = waiting("m1")
    for _ in range(3):
        story.burn("m1", "t1")
        story.cycle(seconds(10))
    assert verdict(story)[0] is S.QUARANTINED


def test_when_the_other_one_works_again_it_was_the_machine() -> None:
    story = waiting("m1", "m2")
    story.burn("m2", "t7", "t8")
    story.burn("m1", "t1", "t2", "t3")
    story.cycle(seconds(10))
    assert verdict(story)[0] is S.IDLE
    story.burn("m2", "t9", status="completed")
    story.cycle(seconds(10))
    assert [verdict(story, name)[0] for name in ("m1", "m2")] == [S.QUARANTINED, S.IDLE]


def test_failures_long_ago_elsewhere_do_not_count() -> None:
    story = waiting("m1", "m2", idle_timeout="5h")
    story.burn("m2", "t7", "t8")
    story.cycle(seconds(10))
    story.now += minutes(31)
    story.burn("m1", "t1", "t2", "t3")
    story.cycle(seconds(10))
    assert verdict(story)[0] is S.QUARANTINED


def test_one_script_cannot_take_out_one_machine_after_another() -> None:
    story = drained()
    off(story, story.cycle(seconds(10)))
    story.has(registered("m2"))
    story.report("m2")
    story.cycle()
    for number in range(60):  # it goes on for an hour
        story.enqueue(f"x{number}")
        story.cycle()
        story.burn("m2", f"x{number}")
        story.cycle()
    assert verdict(story, "m2")[0] is S.IDLE
    assert len(story.memory.instances["id-m2"].fast_failures) == 4


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ({"m1": (0, 5, 9)}, {"m1"}),
        ({"m1": (0, 5, 10)}, {"m1"}),
        ({"m1": (0, 5, 11)}, set()),  # too far apart
        ({"m1": (0, 50, 55, 59)}, {"m1"}),
        ({"m1": (0, 5, 9), "m2": (39,)}, {"m1"}),  # one is anybody's typo
        ({"m1": (0, 5, 9), "m2": (38, 39)}, set()),
        ({"m1": (0, 5, 9), "m2": (39, 40)}, {"m1"}),
        ({"m1": (0, 5, 9), "m2": (8,), "m3": (9,)}, {"m1"}),  # nor do two make a pair
        ({"m1": (40, 45, 49), "m2": (10, 11)}, set()),
        ({"m1": (40, 45, 49), "m2": (9, 10)}, {"m1"}),
        ({"m1": (10, 40, 45, 49), "m2": (9, 10)}, {"m1"}),  # long ago it was common
        ({"m1": (0, 1, 60), "m2": (10,), "m3": (50, 51, 52)}, {"m3"}),
        ({"m1": (0, 1, 60, 61), "m3": (50, 51, 52)}, set()),
        ({"m1": (0, 1, 2), "m2": (60, 61, 62), "m3": (120, 121, 122)}, {"m1", "m2", "m3"}),
    ],
)
def test_rows_that_touch_have_a_common_cause(
    rows: dict[str, tuple[int, ...]], found: set[str]
) -> None:
    story = idle(*rows, idle_timeout="5h")
    story.now += minutes(200)
    known = dict(story.memory.instances)
    for name, row in rows.items():
        times = tuple(START + minutes(minute) for minute in row)
        known[f"id-{name}"] = replace(known[f"id-{name}"], fast_failures=times)
    story.memory = replace(story.memory, instances=known)
    story.cycle()
    assert {name for name in rows if verdict(story, name)[0] is S.QUARANTINED} == found


def test_what_ended_before_memory_was_lost_says_nothing() -> None:
    story = drained()
    story.memory, story.lost_memory = Memory(), True
    story.cycle(seconds(10))
    story.cycle(seconds(10))
    assert verdict(story)[0] is S.IDLE


def test_what_ended_before_our_first_sight_says_nothing_by_whichever_clock() -> None:
    story = Story(skew=minutes(5))
    story.has(registered("m1"))
    story.cycle()
    assert story.memory.instances["id-m1"].failures_from == story.now + minutes(5)


def test_of_two_black_holes_at_once_none_is_taken_out() -> None:
    story = waiting("m1", "m2")
    story.burn("m1", "t1", "t2", "t3")
    story.burn("m2", "t4", "t5", "t6")
    story.cycle(seconds(10))
    assert {verdict(story, name)[0] for name in ("m1", "m2")} == {S.IDLE}


@pytest.mark.parametrize(
    ("ran_for", "refused"),
    [(20, None), (59, None), (61, "for more than a minute"), (None, "since when is not known")],
)
def test_only_a_task_that_holds_out_keeps_it_on(ran_for: int | None, refused: str | None) -> None:
    story = drained()
    began = None if ran_for is None else story.now - seconds(ran_for)
    story.tasks["t9"] = task("t9", "in_progress", "m1", started_at=began)
    view = story.world().clearml
    found = refusal(Guard.QUARANTINE, registered("m1"), story.now, view, (), story.now)
    assert (found is None) if refused is None else (refused in (found or ""))


def test_a_worker_at_a_task_that_nobody_knows_keeps_it_on() -> None:
    story = drained()
    story.report("m1", "of another queue")
    view = story.world().clearml
    assert refusal(Guard.QUARANTINE, registered("m1"), story.now, view, (), story.now)


def test_a_task_that_is_queued_again_and_just_pulled_does_not_keep_it_on() -> None:
    story = drained()
    story.tasks["t9"] = task("t9", started_at=story.now - timedelta(days=1))
    story.report("m1", "t9")
    view = story.world().clearml
    assert refusal(Guard.QUARANTINE, registered("m1"), story.now, view, (), story.now) is None


def test_it_stays_on_while_clearml_gives_no_full_answer() -> None:
    story = drained()
    made = story.cycle(seconds(10))
    story.done(stop_of(made), failure=Failure.GUARD, message="a task holds out")
    story.clearml_down = True
    made = story.cycle()
    assert verbs(made) == ["tag"]
    story.done(*made.effects)
    assert verdict(story) == (S.QUARANTINED, Reason.QUARANTINED)
    story.clearml_down = False
    assert stop_of(story.cycle()).guard is Guard.QUARANTINE


def test_the_task_that_the_power_off_caught_is_rescued() -> None:
    story = drained()
    story.run("m1", "t4")  # in the very moment
    made = story.cycle(seconds(10))
    off(story, made)
    effects = [e for _ in range(4) for e in story.cycle().effects if e.verb == "rescue"]
    assert [(e.subject, e.reason) for e in effects] == [("t4", Reason.CAUGHT_TASK)]


@pytest.mark.parametrize(("status", "put_back"), [("failed", True), ("completed", False)])
def test_what_ends_in_the_moment_of_the_power_off(status: str, put_back: bool) -> None:
    story = drained()
    story.run("m1", "t4")
    made = story.cycle(seconds(10))
    story.end("t4", status)
    off(story, made)
    planned = [verb for _ in range(3) for verb in verbs(story.cycle())]
    assert ("rescue" in planned) is put_back


def test_the_tag_follows_once_it_is_off() -> None:
    story = drained()
    made = story.cycle(seconds(10))
    assert "tag" not in verbs(made), "one thing at a time, and the power-off is urgent"
    off(story, made)
    made = story.wait(minutes(5))
    (tagging,) = (e for e in made.effects if isinstance(e, SetTags))
    assert (tagging.subject, tagging.add, tagging.reason) == (
        *("m1", frozenset({QUARANTINED_TAG})),
        Reason.QUARANTINED,
    )


def quarantined(*, tagged: bool = True, queue: Mapping[str, Any] | None = None) -> Story:
    """m1 is off, with its tag on (or not yet), and nothing waits."""
    story = drained(**(queue or {}))
    story.entries, story.tasks = [], {}
    off(story, story.cycle(seconds(10)))
    for _ in range(3):
        made = story.cycle()
        story.done(*made.effects)
    if tagged:
        one = story.instances["m1"]
        story.has(replace(one, tags=one.tags | {QUARANTINED_TAG}))
        story.cycle()
    return story


@pytest.mark.parametrize("tagged", [True, False])
def test_it_is_never_started_again(tagged: bool) -> None:
    story = quarantined(tagged=tagged)
    story.enqueue("t30")
    made = story.cycle()
    assert "start" not in verbs(made)
    assert "create" in verbs(made)


@pytest.mark.parametrize("action", ["stop", "delete"])
def test_it_is_kept_to_be_looked_at_and_then_deleted(action: str) -> None:
    kept = {"stopped_retention": "1h", "quarantine_retention": "6h"}
    story = quarantined(queue={"idle_action": action, **kept})
    story.specs = dict.fromkeys(story.specs, "fedcba987654")  # its bootstrap is out of date, too
    since = story.now
    made = story.wait(timedelta(hours=12))
    (gone,) = made.effects
    assert isinstance(gone, DeleteInstance)
    assert gone.reason is Reason.QUARANTINED
    assert timedelta(hours=5, minutes=50) <= story.now - since <= timedelta(hours=6)


def test_the_tag_survives_a_loss_of_memory() -> None:
    story = quarantined()
    story.memory, story.lost_memory = Memory(), True
    story.enqueue("t30")
    made = [story.cycle() for _ in range(4)]
    assert "start" not in [verb for each in made for verb in verbs(each)]
    assert verdict(story) == (S.STOPPED, Reason.QUARANTINED)


def test_whoever_starts_it_sees_it_go_off_again() -> None:
    story = quarantined()
    story.has(replace(story.instances["m1"], state=registered().state))
    story.report("m1")
    made = story.cycle()
    assert stop_of(made).because.startswith("m1 is quarantined since 2026-09-07 08:0")


def test_nobody_waits_for_one_that_somebody_starts() -> None:
    story = quarantined()
    story.has(replace(story.instances["m1"], state=ServerState.STARTING))
    story.enqueue("t30")
    assert verbs(story.cycle()) == ["create"]


def test_once_released_it_is_kept_like_any_stopped_one() -> None:
    story = quarantined(queue={"stopped_retention": "1h", "idle_action": "delete"})
    story.now += timedelta(hours=3)
    story.has(registered("m1", "stopped"))
    released_at = story.now
    made = story.wait(timedelta(hours=2))
    assert reasons(made) == ["stopped_retention"]
    assert story.now - released_at >= minutes(60)


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_it_is_released_by_taking_its_tag_off(state: str) -> None:
    story = quarantined()
    story.has(registered("m1", state))
    if state == "running":
        story.report("m1")
    assert not story.cycle().effects
    assert story.memory.instances["id-m1"].quarantined_at, "a second listing must agree"
    made = story.cycle()
    assert not made.effects
    assert verdict(story)[0] is (S.IDLE if state == "running" else S.STOPPED)
    story.enqueue("t30")
    made = story.cycle()
    assert verbs(made) == ([] if state == "running" else ["start"])


def test_a_listing_from_before_the_tag_does_not_release_it() -> None:
    story = quarantined()
    story.enqueue("t30")
    with_tag = story.instances["m1"]
    story.has(registered("m1", "stopped"))
    assert "start" not in verbs(story.cycle())
    story.dark_zones = {with_tag.zone}  # and what nobody lists says nothing either
    assert "start" not in [verb for _ in range(4) for verb in verbs(story.cycle())]
    assert story.memory.instances["id-m1"].quarantined_at
    story.dark_zones = set()
    story.has(with_tag)
    story.cycle()
    story.has(registered("m1", "stopped"))
    assert "start" not in verbs(story.cycle())
    assert verdict(story)[1] is Reason.QUARANTINED


def test_after_its_release_the_row_begins_anew() -> None:
    story = quarantined()
    story.has(registered("m1"))
    story.report("m1")
    story.enqueue("t30", "t31")
    story.honest = False
    story.cycle()
    story.cycle()
    story.burn("m1", "t30", "t31")
    story.cycle()
    assert verdict(story)[0] is S.IDLE
    story.burn("m1", "t32")
    story.cycle()
    assert verdict(story)[0] is S.QUARANTINED


def test_a_person_may_put_the_tag_on() -> None:
    story = idle("m1")
    story.has(registered("m1", tags=(QUARANTINED_TAG,)))
    assert stop_of(story.cycle()).guard is Guard.QUARANTINE


@pytest.mark.parametrize("hold", [{"protected": True}, {"tags": ("keep",)}])
def test_hands_off_wins(hold: dict[str, object]) -> None:
    story = waiting("m1")
    story.has(registered("m1", **hold))  # type: ignore[arg-type]
    story.burn("m1", "t1", "t2", "t3")
    assert not [e for e in story.cycle(seconds(10)).effects if e.subject == "m1"]
    assert verdict(story)[0] is S.IDLE
    story.has(registered("m1"))
    assert stop_of(story.cycle()).guard is Guard.QUARANTINE, "it has not mended meanwhile"


def test_it_is_no_spare_for_the_minimum() -> None:
    story = drained("m2", min_instances=1, max_instances=3)
    story.entries, story.tasks = [], {}
    made = story.cycle(seconds(10))
    story.done(stop_of(made), failure=Failure.TRANSIENT)
    story.has(registered("m1", protected=True))  # it stays on, and is billed
    assert not story.wait(minutes(60)).effects
    assert verdict(story, "m2") == (S.IDLE, Reason.MIN_INSTANCES)
    assert verdict(story) == (S.QUARANTINED, Reason.HANDS_OFF)


def test_the_minimum_is_filled_without_it() -> None:
    story = drained(min_instances=1, max_instances=3)
    story.entries, story.tasks = [], {}
    assert "create" in verbs(story.cycle(seconds(10)))
    # billed all the same: nothing is launched above the maximum
    story = drained(min_instances=1, max_instances=1)
    story.entries, story.tasks = [], {}
    assert "create" not in verbs(story.cycle(seconds(10)))


def test_it_is_asked_for_only_where_tasks_wait() -> None:
    story = idle("m1")
    assert story.world().clearml.ended_tasks is None
    story.enqueue("t1", "t2")
    story.cycle()
    assert story.memory.waited == ("H100-1-80G",)
    assert story.world().clearml.ended_tasks is not None
    story.entries = []
    story.cycle()
    assert story.world().clearml.ended_tasks is None
