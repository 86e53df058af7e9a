"""Scale up: launch = min(demand - capacity - idle workers of others, max - billed)."""

from dataclasses import replace
from itertools import pairwise

import pytest

from gpu_autoscaler.domain.effects import CreateInstance, Failure, Reason, StartInstance
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Backoff
from gpu_autoscaler.domain.model import PROVISIONING_TAG, Availability, Instance, Placement
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    START,
    TYPE,
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


def test_a_waiting_task_launches_one_instance_with_everything_it_needs() -> None:
    story = Story()
    story.enqueue("t1")
    (effect,) = story.cycle().effects
    assert isinstance(effect, CreateInstance)
    assert effect.reason is Reason.DEMAND
    assert effect.order.placement == Placement(TYPE, ZONE)
    assert effect.order.name.startswith("h100-1-80g-")
    assert effect.order.volume_bytes == 200 * 10**9
    assert {"fleet=test", f"queue={QUEUE}", "spec=abc123abc123"} <= set(effect.order.tags)


def test_a_launch_under_way_is_not_launched_again() -> None:
    story = Story()
    story.enqueue("t1")
    assert verbs(story.cycle()) == ["create"]
    assert not story.wait(minutes(3)).effects


def test_a_launch_that_vanished_is_launched_again_after_its_deadline() -> None:
    story = Story()
    story.enqueue("t1")
    story.cycle()
    made = story.wait(minutes(5))
    assert verbs(made) == ["create"]
    assert story.now - START >= minutes(3.5)


@pytest.mark.parametrize(
    ("waiting", "most", "launched"), [(0, 2, 0), (1, 2, 1), (2, 2, 2), (5, 2, 2), (5, 0, 0)]
)
def test_max_instances_bounds_launches(waiting: int, most: int, launched: int) -> None:
    story = Story(config({"max_instances": most}))
    story.enqueue(*(f"t{i}" for i in range(waiting)))
    made = story.cycle()
    assert verbs(made) == ["create"] * launched
    assert made.queues[0].launched == launched


def test_names_of_several_launches_differ() -> None:
    story = Story(config({"max_instances": 5}))
    story.enqueue(*"abcde")
    names = {effect.subject for effect in story.cycle().effects}
    assert len(names) == 5


def test_busy_instances_are_billed_but_no_capacity() -> None:
    story = Story(config({"max_instances": 2}))
    story.has(registered("m1"))
    story.run("m1", "t0")
    story.enqueue("t1", "t2")
    assert verbs(story.cycle()) == ["create"]


def test_an_idle_instance_is_capacity() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1")
    story.enqueue("t1")
    made = story.cycle()
    assert not made.effects
    assert made.queues[0].reason is Reason.SATISFIED


def test_entries_without_a_queued_task_are_no_demand() -> None:
    story = Story()
    story.entries = ["phantom", "done"]
    story.tasks["done"] = task("done", "in_progress", "elsewhere")
    assert not story.cycle().effects


def test_idle_workers_of_others_count_while_they_report() -> None:
    story = Story()
    story.report("a-desktop")
    story.enqueue("t1")
    assert not story.cycle().effects
    made = story.cycle(minutes(3), reports=False)
    assert verbs(made) == ["create"]


def test_a_worker_entry_that_outlives_our_instance_is_nobodys_capacity() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    del story.instances["m1"]
    story.gone = {"id-m1"}
    story.enqueue("t1")
    assert verbs(story.cycle()) == ["create"]


def test_min_instances_are_kept_without_demand() -> None:
    story = Story(config({"min_instances": 2}))
    assert reasons(story.cycle()) == ["min_instances"] * 2


def test_a_stopped_instance_is_started_before_one_is_created() -> None:
    story = Story()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1", "t2")
    made = story.cycle()
    assert verbs(made) == ["start", "create"]
    assert isinstance(made.effects[0], StartInstance)


@pytest.mark.parametrize(
    "unfit",
    [
        registered("m1", "stopped", spec="old"),
        registered("m1", "stopped", protected=True),
        registered("m1", "stopped", tags=("keep",)),
        registered("m1", "stopped", commercial_type="L4-1-24G"),
    ],
    ids=["old spec", "protected", "kept", "other placement"],
)
def test_an_unfit_stopped_instance_is_not_started(unfit: object) -> None:
    story = Story()
    story.instances["m1"] = unfit  # type: ignore[assignment]
    story.cycle()
    story.enqueue("t1")
    assert "start" not in verbs(story.cycle())


def test_fleet_wide_max_serves_the_oldest_task_first() -> None:
    base = {"placements": [{"type": TYPE, "zone": ZONE}]}
    story = Story(
        config(
            queues={"young": {"name": "young", **base}, QUEUE: {"name": QUEUE, **base}},
            max_instances=1,
        )
    )
    story.enqueue("t1")
    made = story.cycle()
    assert [e.order.queue for e in made.effects if isinstance(e, CreateInstance)] == [QUEUE]
    story.enqueue("t2")
    found = {q.queue: q.reason for q in story.cycle().queues}
    assert found[QUEUE] is Reason.FLEET_MAX_INSTANCES


@pytest.mark.parametrize(
    ("cap", "prices", "launched", "word"),
    [
        (3.0, {TYPE: 2.87}, 1, "launching"),
        (2.0, {TYPE: 2.87}, 0, "max_eur_per_hour"),
        (9.0, {}, 0, "not known"),
    ],
)
def test_the_price_per_hour_is_bounded(
    cap: float, prices: dict[str, float], launched: int, word: str
) -> None:
    story = Story(config(max_eur_per_hour=cap), prices=prices)
    story.enqueue("t1")
    made = story.cycle()
    assert len(made.effects) == launched
    assert word in made.queues[0].because


TWO = {"placements": [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]}


def _zone_of(story: Story) -> list[str]:
    made = story.cycle(seconds(2))
    return [e.order.placement.zone for e in made.effects if isinstance(e, CreateInstance)]


def test_out_of_stock_goes_on_to_the_next_placement_and_comes_back() -> None:
    story = Story(config(TWO))
    story.enqueue("t1")
    first = story.cycle()
    story.done(*first.effects, failure=Failure.OUT_OF_STOCK)
    assert _zone_of(story) == [OTHER_ZONE]
    assert story.last is not None
    story.done(*story.last.effects, failure=Failure.OUT_OF_STOCK)
    assert _zone_of(story) == []
    assert story.last.queues[0].reason is Reason.NO_PLACEMENT
    assert "next try at" in story.last.queues[0].because
    made = story.wait(minutes(6))
    assert [e.order.placement.zone for e in made.effects] == [ZONE]  # type: ignore[attr-defined]
    assert minutes(4) < story.now - START < minutes(7)


def test_back_off_doubles_up_to_an_hour() -> None:
    story = Story()
    story.enqueue("t1")
    tries = []
    for _ in range(7):
        made = story.wait(minutes(90))
        assert verbs(made) == ["create"]
        tries.append(story.now)
        story.done(*made.effects, failure=Failure.OUT_OF_STOCK)
    gaps = [round((b - a).total_seconds() / 60) for a, b in pairwise(tries)]
    assert gaps == [6, 10, 20, 40, 60, 60]  # minutes, to the cycle


def test_several_failures_of_one_cycle_count_as_one() -> None:
    story = Story(config({"max_instances": 3}))
    story.enqueue("t1", "t2", "t3")
    story.done(*story.cycle().effects, failure=Failure.OUT_OF_STOCK)
    story.cycle()
    assert [b.failures for b in story.memory.backoffs] == [1]


def test_a_change_to_available_ends_the_back_off_and_a_constant_probe_does_not() -> None:
    story = Story(availability={TYPE: Availability.AVAILABLE})
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=Failure.OUT_OF_STOCK)
    assert not story.cycle().effects  # the probe lied all along
    story.availability = {TYPE: Availability.SHORTAGE}
    assert not story.cycle().effects
    story.availability = {TYPE: Availability.SCARCE}
    assert verbs(story.cycle()) == ["create"]


def test_starts_obey_the_back_off_too() -> None:
    story = Story()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1")
    made = story.cycle()
    assert verbs(made) == ["start"]
    story.done(*made.effects, failure=Failure.OUT_OF_STOCK)
    assert not story.wait(minutes(4)).effects


def test_a_start_that_falls_back_to_stopped_without_a_word_is_out_of_stock() -> None:
    story = Story()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1")
    made = story.cycle()
    story.done(*made.effects)
    story.has(registered("m1", "starting"))
    assert not story.cycle().effects
    story.has(registered("m1", "stopped"))
    made = story.cycle()
    assert not made.effects
    assert story.memory.backoffs[0].failure is Failure.OUT_OF_STOCK
    assert story.memory.backoffs[0].failures == 1


def test_a_first_boot_that_falls_back_is_removed() -> None:
    story = Story()
    story.enqueue("t1")
    (effect,) = story.cycle().effects
    story.done(effect)
    story.has(instance(effect.subject, "starting", created_at=story.now))
    story.cycle()
    story.has(instance(effect.subject, "stopped", created_at=story.now))
    made = story.cycle()
    assert reasons(made) == ["start_fell_back"]
    assert verbs(made) == ["delete"]


def test_an_accepted_start_is_not_a_fall_back_while_the_listing_lags() -> None:
    story = Story()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1")
    story.done(*story.cycle().effects)
    assert not story.cycle(seconds(20)).effects
    assert story.memory.backoffs == ()


@pytest.mark.parametrize(
    ("failure", "at_least", "at_most"),
    [
        (Failure.QUOTA, 29, 32),
        (Failure.REJECTED, 59, 62),
        (Failure.TRANSIENT, 0.4, 2),
        (Failure.RATE_LIMITED, 1, 3),
    ],
)
def test_other_failures_have_their_own_pauses(
    failure: Failure, at_least: float, at_most: float
) -> None:
    story = Story()
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=failure)
    failed_at = story.now
    assert verbs(story.wait(minutes(70))) == ["create"]
    assert minutes(at_least) <= story.now - failed_at <= minutes(at_most)


def test_a_quota_holds_for_the_type_in_all_zones() -> None:
    story = Story(config(TWO))
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=Failure.QUOTA)
    assert not story.wait(minutes(20)).effects


def test_a_rejected_placement_is_tried_again_when_its_spec_changes() -> None:
    story = Story()
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=Failure.REJECTED)
    assert not story.wait(minutes(10)).effects
    story.specs = {QUEUE: "fedcba987654"}
    assert verbs(story.cycle()) == ["create"]


def test_lost_permission_pauses_only_after_two_minutes_of_it() -> None:
    story = Story()
    story.enqueue("t1")
    tries = 0
    for _ in range(10):  # five minutes
        made = story.cycle()
        tries += len(made.effects)
        story.done(*made.effects, failure=Failure.UNAUTHORIZED)
    assert 4 <= tries <= 6


@pytest.mark.parametrize("dark", [True, False])
def test_an_unseen_zone_gets_no_launch_but_others_go_on(dark: bool) -> None:
    story = Story(config(TWO))
    story.enqueue("t1")
    if dark:
        story.dark_zones = {ZONE}
    assert _zone_of(story) == [OTHER_ZONE if dark else ZONE]


def test_the_last_known_instances_of_an_unseen_zone_are_counted() -> None:
    story = Story(config({**TWO, "max_instances": 1}))
    story.has(registered("m1"))
    story.run("m1", "t0")
    story.cycle()
    story.enqueue("t1")
    story.dark_zones = {ZONE}
    made = story.cycle()
    assert not made.effects
    assert made.queues[0].reason is Reason.MAX_INSTANCES


def test_no_launch_without_clearml() -> None:
    story = Story()
    story.enqueue("t1")
    story.clearml_down = True
    made = story.cycle()
    assert not made.effects
    assert made.queues[0].reason is Reason.INCOMPLETE


def test_a_missing_queue_is_said_and_launches_nothing() -> None:
    story = Story(config({"min_instances": 1}), queue_exists=False)
    made = story.cycle()
    assert not made.effects
    assert made.queues[0].reason is Reason.QUEUE_MISSING


def test_without_memory_two_observations_must_agree_before_the_first_launch() -> None:
    story = Story(lost_memory=True)
    story.enqueue("t1", "t2")
    made = story.cycle()
    assert not made.effects
    assert made.queues[0].reason is Reason.UNCONFIRMED
    story.has(instance("m1"))  # the first listing lagged
    assert verbs(story.cycle()) == ["create"]


def test_without_memory_a_dark_zone_confirms_nothing() -> None:
    story = Story(config(TWO), lost_memory=True, dark_zones={ZONE})
    story.enqueue("t1")
    made = story.wait(minutes(5))
    assert not made.effects
    assert f"no answer from {ZONE}" in made.queues[0].because
    story.dark_zones = set()
    story.cycle()
    assert verbs(story.cycle()) == ["create"]


def test_a_half_made_server_is_its_launch_and_not_one_more() -> None:
    story = Story()
    story.enqueue("t1")
    (effect,) = story.cycle().effects
    story.has(instance(effect.subject, "stopped", tags=(PROVISIONING_TAG,), created_at=story.now))
    made = story.cycle()
    assert not made.effects
    assert made.queues[0].billed == 1


def test_constant_demand_leads_to_an_empty_plan() -> None:
    story = Story(config({"max_instances": 3}))
    story.enqueue("t1", "t2")
    for effect in story.cycle().effects:
        story.done(effect)
        story.has(instance(effect.subject, "running", created_at=story.now))
    story.cycle()
    for name in list(story.instances):
        story.report(name)
    for _ in range(60):
        made = story.cycle()
        assert [e for e in made.effects if e.verb != "tag"] == []
        story.done(*made.effects)
        story.instances = {
            n: replace(i, tags=i.tags | {"registered"}) for n, i in story.instances.items()
        }


def test_a_back_off_holds_while_another_instance_runs_in_the_placement() -> None:
    story = Story(config(TWO))
    story.has(registered("m1"))
    story.run("m1", "t0")
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=Failure.OUT_OF_STOCK)
    assert _zone_of(story) == [OTHER_ZONE]


def test_a_rejected_request_of_one_queue_is_no_fault_of_another() -> None:
    base = {"placements": [{"type": TYPE, "zone": ZONE}]}
    story = Story(
        config(queues={QUEUE: {"name": QUEUE, **base}, "other": {"name": "other", **base}})
    )
    story.specs = {QUEUE: "good", "other": "bad"}
    story.memory = replace(
        story.memory,
        backoffs=(
            Backoff(
                Placement(TYPE, ZONE),
                Failure.REJECTED,
                1,
                START,
                START + minutes(60),
                "no such image",
                "bad",
            ),
        ),
    )
    story.enqueue("t1")
    assert verbs(story.cycle()) == ["create"]


def test_a_start_that_the_listing_hides_for_a_while_is_not_a_lost_worker() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.workers.clear()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1")
    made = story.cycle()
    assert verbs(made) == ["start"]
    assert not story.cycle(seconds(10)).effects  # still `stopped` in the listing
    story.done(*made.effects)
    story.has(registered("m1", "running"))
    for _ in range(8):
        assert not story.cycle(seconds(10)).effects
    assert story.last is not None
    assert story.last.instances[0].state is S.INITIALIZING


def test_an_accepted_creation_in_a_dark_zone_is_not_made_again_elsewhere() -> None:
    story = Story(config(TWO))
    story.enqueue("t1")
    story.done(*story.cycle().effects)
    story.dark_zones = {ZONE}
    assert not story.wait(minutes(9)).effects
    (other,) = story.wait(minutes(2)).effects
    assert isinstance(other, CreateInstance)
    assert other.order.placement.zone == OTHER_ZONE, "it should have booted by now"


def test_after_an_outage_agents_get_the_time_to_report() -> None:
    story = Story(config({"max_instances": 3}))
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.clearml_down = True
    for _ in range(20):
        story.cycle(reports=False)
    story.clearml_down = False
    story.enqueue("t1")
    assert not story.cycle(reports=False).effects


def test_a_queue_made_again_under_its_name_gets_machines_of_its_own() -> None:
    story = Story()
    story.has(registered("m1"))
    story.report("m1", queue_ids=("the-old-one",))
    story.enqueue("t1")
    assert verbs(story.cycle()) == ["create"]


def test_a_half_made_server_that_may_not_be_touched_is_no_capacity() -> None:
    story = Story()
    story.has(instance("m1", "stopped", tags=(PROVISIONING_TAG,), protected=True))
    story.enqueue("t1")
    assert verbs(story.cycle()) == ["create"]


def test_a_zone_is_looked_at_until_it_was_seen_empty() -> None:
    story = Story()
    story.enqueue("t1")
    story.cycle()
    story.config = config({"placements": [{"type": TYPE, "zone": OTHER_ZONE}]})
    story.entries.clear()
    assert ZONE in story.cycle().memory.zones  # a creation may be on its way there
    story.wait(minutes(10))
    assert ZONE in story.memory.zones  # nobody has looked at its volumes
    story.volumes = []
    assert ZONE not in story.cycle().memory.zones


def test_one_that_cannot_be_started_does_not_starve_its_queue() -> None:
    story = Story()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1")
    made = story.cycle()
    assert verbs(made) == ["start"]
    story.done(*made.effects, failure=Failure.REJECTED)
    assert verbs(story.cycle()) == ["create"]


def test_half_made_servers_that_cannot_be_removed_bound_new_ones() -> None:
    story = Story()
    for name in ("m1", "m2"):
        story.has(instance(name, "stopped", tags=(PROVISIONING_TAG,)))
    story.enqueue("t1")
    made = story.cycle()
    assert "create" not in verbs(made)
    assert made.queues[0].reason is Reason.HALF_MADE


def test_a_stopped_machine_with_a_task_on_it_is_not_started_for_another() -> None:
    story = Story()
    story.has(registered("m1"))
    story.run("m1", "t0")
    story.cycle()
    story.has(registered("m1", "stopped"))
    story.cycle()
    story.enqueue("t1")
    assert verbs(story.cycle()) == ["create"]


def test_a_clock_that_is_ahead_does_not_make_our_own_creation_look_abandoned() -> None:
    story = Story(config({"max_instances": 1}))
    story.enqueue("t1")
    (effect,) = story.cycle().effects
    early = story.now - minutes(4)
    story.has(instance(effect.subject, "stopped", tags=(PROVISIONING_TAG,), created_at=early))
    assert not story.cycle().effects


def test_a_creation_under_way_in_a_dark_zone_is_not_made_again_elsewhere() -> None:
    story = Story(config(TWO))
    story.enqueue("t1")
    story.cycle()
    story.dark_zones = {ZONE}  # and nobody tells how it ended
    assert not story.wait(minutes(9)).effects
    made = story.wait(minutes(2))
    assert verbs(made) == ["create"]
    assert made.queues[0].because.endswith("; not counted: 1 that should have booted by now")


def test_a_start_whose_call_got_no_answer_counts_and_then_rests() -> None:
    story = Story()
    story.has(registered("m1", "stopped"))
    story.enqueue("t1")
    begun = story.cycle()
    assert verbs(begun) == ["start"]
    story.done(*begun.effects, failure=Failure.TRANSIENT)
    assert verbs(story.cycle()) == [], "it may have been heard"
    seen = story.wait(minutes(2))
    assert verbs(seen) == ["create"], "it was not: it rests, and another one is made"


@pytest.mark.parametrize(
    ("stuck", "dark"),
    [
        (instance("m1", created_at=START, tags=("keep",)), False),
        (instance("m1", created_at=START, protected=True), False),
        (instance("m1", "starting", created_at=START), False),
        (instance("m1", created_at=START), True),
    ],
)
def test_what_should_have_booted_by_now_is_no_capacity(stuck: Instance, dark: bool) -> None:
    story = Story(config({**TWO, "max_instances": 2}))
    story.has(stuck)
    story.enqueue("t1")
    story.cycle()
    if dark:
        story.dark_zones = {ZONE}
    assert not story.wait(minutes(9)).effects
    made = story.wait(minutes(3))
    assert verbs(made) == ["create"]
    (queue,) = made.queues
    assert queue.because.endswith("; not counted: 1 that should have booted by now")
    assert queue.billed == 1, "it is paid for all the same"
    story.enqueue("t2")
    assert not story.cycle().effects
    assert story.last is not None
    assert story.last.queues[0].reason is Reason.MAX_INSTANCES


def test_one_that_cannot_be_powered_off_is_no_capacity() -> None:
    story = Story(config({"max_instances": 2}))
    story.has(instance("m1", created_at=START))
    story.enqueue("t1")
    made = story.wait(minutes(12))
    assert verbs(made) == ["stop"], "first it is to make room"
    story.done(*made.effects, failure=Failure.UNAUTHORIZED)
    assert verbs(story.cycle()) == ["create"]


def test_the_time_to_boot_begins_anew_after_an_outage_of_clearml() -> None:
    story = Story(config({"max_instances": 2}))
    story.has(instance("m1", created_at=START))
    story.enqueue("t1")
    story.cycle()
    story.clearml_down = True
    story.wait(minutes(30))
    story.clearml_down = False
    assert not story.wait(minutes(9)).effects


def test_how_long_a_boot_may_last_is_its_queues() -> None:
    story = Story(config({"max_instances": 2, "stale_timeout": "20m"}))
    story.has(instance("m1", created_at=START, protected=True))
    story.enqueue("t1")
    assert not story.wait(minutes(19)).effects
    assert verbs(story.wait(minutes(3))) == ["create"]


def test_one_that_comes_late_is_counted_again() -> None:
    story = Story(config({"max_instances": 1}))
    story.has(instance("m1", created_at=START, protected=True))
    story.enqueue("t1")
    story.wait(minutes(15))
    assert story.last is not None
    assert story.last.queues[0].capacity == 0
    story.report("m1")
    (queue,) = story.cycle().queues
    assert (queue.capacity, queue.reason) == (1, Reason.SATISFIED)
