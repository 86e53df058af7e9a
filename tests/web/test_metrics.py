"""Metrics tell what a cycle saw and did, each thing once, and nothing that is over."""

import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory, PowerOff
from gpu_autoscaler.domain.model import MANAGED_BY_TAG, Placement, Volume
from gpu_autoscaler.policy.settings import BREAKER_FAILURES
from gpu_autoscaler.web.metrics import Metrics
from tests.policy.worlds import (
    QUEUE,
    SPEC,
    START,
    TYPE,
    ZONE,
    config,
    instance,
    minutes,
    registered,
    seconds,
    task,
)
from tests.web.cycles import Told, series

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
HERE = Placement(TYPE, ZONE)
PLACE = (TYPE, ZONE)


def idle(story: Told, *names: str) -> None:
    """Registered instances of an hour ago, that idle."""
    for name in names:
        story.has(registered(name))
        story.report(name)


# --- queues


def test_what_waits_and_for_how_long() -> None:
    story = Told()
    story.enqueue("t1", "t2")
    story.step(seconds(90))
    assert story.series("queue_waiting_tasks") == {(QUEUE,): 2}
    assert story.series("queue_oldest_wait_seconds") == {(QUEUE,): 90}

    story.entries.clear()
    story.step()
    assert story.series("queue_waiting_tasks") == {(QUEUE,): 0}
    assert story.series("queue_oldest_wait_seconds") == {(QUEUE,): 0}


def test_what_waits_is_unknown_without_clearml() -> None:
    story = Told()
    story.enqueue("t1")
    story.step()
    story.clearml_down = True
    story.step()
    assert story.series("queue_waiting_tasks") == {}
    assert story.series("queue_oldest_wait_seconds") == {}


def test_capacity_counts_what_is_being_made() -> None:
    story = Told()
    story.enqueue("t1")
    story.step()
    story.step()
    assert story.series("queue_capacity_instances") == {(QUEUE,): 1}


# --- instances and money


def test_instances_are_counted_by_state_and_place() -> None:
    story = Told(config=config({"max_instances": 5}))
    idle(story, "m1", "m2")
    story.has(instance("m3"))
    story.step()
    assert story.series("instances") == {
        (QUEUE, "idle", TYPE, ZONE): 2,
        (QUEUE, "initializing", TYPE, ZONE): 1,
    }


def test_an_instance_that_is_gone_leaves_no_series() -> None:
    story = Told()
    idle(story, "m1")
    story.step()
    story.instances.clear()
    story.gone.add("id-m1")
    story.step()
    assert story.series("instances") == {}


def test_what_the_billed_ones_cost() -> None:
    story = Told(config=config(max_eur_per_hour=20.0), prices={TYPE: 2.5})
    idle(story, "m1", "m2")
    story.has(registered("m3", "stopped"))
    story.step()
    assert story.series("cost_euros_per_hour") == {(QUEUE,): 5.0}
    assert story.series("max_euros_per_hour") == {(): 20.0}

    story.instances.clear()
    story.gone |= {"id-m1", "id-m2", "id-m3"}
    story.step()
    assert story.series("cost_euros_per_hour") == {(QUEUE,): 0.0}


def test_the_cost_is_unknown_while_prices_are() -> None:
    story = Told()
    idle(story, "m1")
    story.step()
    assert story.series("cost_euros_per_hour") == {}
    assert story.series("max_euros_per_hour") == {}


# --- decisions and their ends


def test_what_is_begun_is_counted_with_its_reason() -> None:
    story = Told()
    story.enqueue("t1", "t2")
    story.step()
    story.step()
    assert story.series("effects_decided_total") == {(QUEUE, "demand", "create"): 2}


def test_who_stands_by_begins_nothing() -> None:
    story = Told()
    story.enqueue("t1")
    cycle = story.step(acted=False)
    assert cycle.plan.effects
    assert story.series("effects_decided_total") == {}
    assert story.series("queue_waiting_tasks") == {(QUEUE,): 1}
    assert story.value("lease_held") == 0


def test_a_task_and_a_volume_count_for_their_queue() -> None:
    story = Told(
        memory=Memory(
            planned_at=START - seconds(30),
            clearml_since=START - minutes(9),
            power_offs={"m1": PowerOff(QUEUE, START)},
            free_volumes={"v1": START - minutes(30)},
        )
    )
    tags = frozenset({MANAGED_BY_TAG, "fleet=test", f"queue={QUEUE}"})
    story.volumes = [Volume("v1", ZONE, "m0", None, START - minutes(30), tags)]
    story.ended = [task("t1", "stopped", "m1", status_changed_at=START + seconds(10))]
    story.step(seconds(60))
    story.step(seconds(60))
    counted = story.series("effects_decided_total")
    assert {(queue, verb) for queue, _, verb in counted} >= {
        (QUEUE, "rescue"),
        (QUEUE, "delete_volume"),
    }


def test_how_effects_ended() -> None:
    story = Told()
    story.enqueue("t1", "t2", "t3")
    first = story.step().plan.effects
    story.done(first[0])
    story.done(first[1], failure=Failure.OUT_OF_STOCK, message="none left")
    story.step()
    story.step()
    assert story.series("effects_ended_total") == {
        ("ok", "create"): 1,
        ("out_of_stock", "create"): 1,
    }


def test_outcomes_that_come_again_are_counted_once() -> None:
    """Of a cycle that did not act they are put back (see `Loop.cycle`)."""
    story = Told()
    story.enqueue("t1")
    effect = story.step().plan.effects[0]
    for acted in (False, True):
        story.done(effect)
        story.step(acted=acted)
    assert story.series("effects_ended_total") == {("ok", "create"): 1}


def test_why_nothing_is_done() -> None:
    story = Told()
    idle(story, "m1", "m2")
    story.run("m1", "t1")
    story.step()
    assert story.series("skipped_actions") == {
        (QUEUE, "no_demand", "queue"): 1,
        (QUEUE, "busy", "instance"): 1,
        (QUEUE, "recently_busy", "instance"): 1,
    }


def test_what_is_done_is_not_skipped() -> None:
    story = Told()
    story.has(instance("m1", "stopped in place"))
    story.enqueue("t1")
    assert len(story.step().plan.effects) == 2
    assert story.series("skipped_actions") == {}


def test_back_offs_are_told_while_they_run() -> None:
    soon = Backoff(HERE, Failure.OUT_OF_STOCK, 1, START, START + seconds(45), "none")
    refused = Backoff(HERE, Failure.REJECTED, 1, START, START + minutes(9), "no", spec="old")
    again = Backoff(HERE, Failure.REJECTED, 1, START, START + minutes(9), "no", spec="older")
    story = Told(memory=Memory(planned_at=START, backoffs=(soon, refused, again)))
    story.step()
    assert story.series("backoffs") == {("out_of_stock", *PLACE): 1, ("rejected", *PLACE): 2}
    story.step()
    assert story.series("backoffs") == {("rejected", *PLACE): 2}


@pytest.mark.parametrize(
    ("failures", "lasts", "told"),
    [
        (BREAKER_FAILURES, minutes(30), {PLACE: 1}),
        (BREAKER_FAILURES, seconds(20), {}),
        (BREAKER_FAILURES - 1, minutes(30), {}),
    ],
)
def test_breakers_are_told_while_they_are_open(
    failures: int, lasts: timedelta, told: dict[tuple[str, ...], float]
) -> None:
    breaker = Breaker(HERE, SPEC, failures, START, START + lasts)
    story = Told(memory=Memory(planned_at=START, breakers=(breaker,)))
    story.step()
    assert story.series("breakers_open") == told


# --- durations


def test_a_boot_lasts_until_the_agent_registers() -> None:
    story = Told()
    story.has(instance("m1", created_at=START))
    story.step(seconds(100))
    story.report("m1", registered_at=START + seconds(110))
    story.step()
    story.step()
    assert story.series("boot_duration_seconds_count") == {PLACE: 1}
    assert story.series("boot_duration_seconds_sum") == {PLACE: 110}


def test_the_boot_of_a_stopped_instance_lasts_until_its_first_report() -> None:
    """ClearML still knows its agent, which registered in an earlier boot."""
    story = Told()
    story.has(registered("m1", "stopped"))
    story.step()
    story.has(registered("m1", "starting"))
    story.step()
    story.has(registered("m1", "running"))
    story.report("m1", registered_at=START - minutes(50))
    story.step(minutes(2))
    assert story.series("boot_duration_seconds_sum") == {PLACE: 149}  # less the report's second


def test_a_boot_counts_also_when_the_first_report_is_of_a_task() -> None:
    story = Told()
    story.has(instance("m1", created_at=START))
    story.step()
    story.run("m1", "t1")
    story.step()
    assert story.series("boot_duration_seconds_count") == {PLACE: 1}


def test_who_comes_back_from_silence_did_not_boot() -> None:
    story = Told()
    idle(story, "m1")
    story.step()
    for _ in range(6):
        story.step(reports=False)
    assert story.value("instances", QUEUE, "lost", TYPE, ZONE) == 1
    story.step()
    assert story.value("instances", QUEUE, "idle", TYPE, ZONE) == 1
    assert story.series("boot_duration_seconds_count") == {}


def test_a_task_waits_from_its_entry_to_its_start() -> None:
    story = Told()
    idle(story, "m1")
    story.enqueue("t1", "t2")
    story.step()
    story.now += seconds(15)
    story.run("m1", "t1")
    story.step()
    story.step()
    assert story.series("time_to_start_seconds_count") == {(QUEUE,): 1}
    assert story.series("time_to_start_seconds_sum") == {(QUEUE,): 45}


def test_a_task_on_its_way_to_an_agent_still_waits() -> None:
    """For some seconds it is queued, and in no queue."""
    story = Told()
    idle(story, "m1")
    story.enqueue("t1")
    story.step()
    story.entries.clear()
    story.step()
    story.run("m1", "t1")
    story.step()
    assert story.series("time_to_start_seconds_sum") == {(QUEUE,): 60}


def test_an_entry_that_outlives_the_start_counts_once() -> None:
    story = Told()
    idle(story, "m1")
    story.enqueue("t1")
    story.step()
    story.run("m1", "t1")
    story.entries.append("t1")
    story.step()
    story.step()
    assert story.series("time_to_start_seconds_count") == {(QUEUE,): 1}


def test_a_start_that_is_first_seen_after_an_outage_counts() -> None:
    story = Told()
    idle(story, "m1")
    story.enqueue("t1")
    story.step()
    story.run("m1", "t1")
    story.clearml_down = True
    story.step()
    story.clearml_down = False
    story.step()
    assert story.series("time_to_start_seconds_sum") == {(QUEUE,): 30}


def test_the_starts_and_boots_of_another_daemon_are_counted_there() -> None:
    story = Told()
    story.has(instance("m1", created_at=START))
    story.enqueue("t1")
    story.step()
    story.run("m1", "t1")
    story.step(acted=False)
    story.step()
    assert story.series("time_to_start_seconds_count") == {}
    assert story.series("boot_duration_seconds_count") == {}


# --- the loop and its calls


def test_how_the_loop_turns() -> None:
    story = Told()
    assert story.value("lease_held") is None
    story.step()
    story.step(minutes(5))
    assert story.value("cycle_duration_seconds_sum") == 4
    assert story.value("cycle_duration_seconds_count") == 2
    assert story.value("heartbeat_gap_seconds_sum") == 300
    assert story.value("heartbeat_gap_seconds_count") == 1
    assert story.value("last_cycle_timestamp_seconds") == story.now.timestamp()
    assert story.value("poll_interval_seconds") == 30
    assert story.value("lease_held") == 1


def test_a_cycle_that_did_not_see_everything_is_no_success() -> None:
    story = Told(dark_zones={ZONE})
    story.step()
    assert story.value("last_success_timestamp_seconds") == 0
    story.dark_zones.clear()
    story.step()
    good = story.now.timestamp()
    story.clearml_down = True
    story.step()
    assert story.value("last_success_timestamp_seconds") == good
    assert story.value("last_cycle_timestamp_seconds") == good + 30


def test_calls_are_counted_by_their_end() -> None:
    metrics = Metrics()
    metrics.called("clearml", "ok", 0.2)
    metrics.called("clearml", "transient", 10.0)
    metrics.called("clearml", "ok", 0.3)
    counted = series(metrics, "api_requests_total")
    assert counted["clearml", "ok"] == 2
    assert counted["clearml", "transient"] == 1
    assert counted["scaleway", "unauthorized"] == 0, "told before the first of its kind"
    assert series(metrics, "api_request_duration_seconds_sum")["clearml",] == 10.5


def test_what_is_exposed_before_the_first_cycle() -> None:
    metrics = Metrics()
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=")
    assert b"_created" not in body
    ((version,),) = series(metrics, "build_info")
    assert version == tomllib.loads(PROJECT.read_text())["project"]["version"]


def test_two_have_nothing_in_common() -> None:
    one, other = Metrics(), Metrics()
    one.called("clearml", "ok", 1)
    assert series(other, "api_requests_total")["clearml", "ok"] == 0


def test_no_series_is_named_after_a_task_or_an_instance() -> None:
    story = Told(config=config({"max_instances": 9}))
    idle(story, "machine-1")
    story.enqueue("task-1", "task-2")
    effects = story.step().plan.effects
    story.done(*effects, failure=Failure.TRANSIENT, message="timeout of task-1")
    story.run("machine-1", "task-1")
    story.step()
    body, _ = story.metrics.exposition()
    for name in ("machine-1", "task-1", "task-2", *(effect.subject for effect in effects)):
        assert name not in body.decode()
