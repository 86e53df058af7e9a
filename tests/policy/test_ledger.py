"""What the ledger gets of each instance: every moment once, by Scaleway's dates if it has any."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import CreateInstance, DeleteInstance, Outcome, StartInstance
from gpu_autoscaler.domain.ledger import Stretch, Use
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.policy.ledger import lasting
from tests.policy.worlds import (
    QUEUE,
    START,
    TYPE,
    ZONE,
    Story,
    config,
    instance,
    known,
    minutes,
    registered,
    seconds,
)

MIDNIGHT = datetime(2026, 9, 8, tzinfo=UTC)
VOLUME = 200 * 0.000118
ADDRESS = 0.004


def story(**changes: Any) -> Story:
    return Story(prices={TYPE: 3.0}, **changes)


def booked(of: Story) -> list[tuple[str, datetime, datetime]]:
    """What ended so far, as state, beginning and end."""
    return [(each.state.value, each.since, each.until) for each in of.memory.unbooked]


def stretch(of: Story, name: str = "m1") -> Stretch:
    """What lasts of an instance."""
    found = of.memory.instances[f"id-{name}"].stretch
    assert found is not None
    return found


def idle(of: Story, name: str = "m1") -> None:
    """It runs since the first cycle's moment, as far as the ledger knows."""
    of.has(registered(name, created_at=of.now))
    of.report(name)
    of.cycle(seconds(0))


def test_a_whole_life_has_no_gap_and_no_overlap() -> None:
    life = story(config=config({"idle_timeout": "5m", "stopped_retention": "10m"}))
    life.enqueue("t1")
    (create,) = life.cycle().effects
    assert isinstance(create, CreateInstance)
    name, born = create.order.name, life.now + seconds(2)
    on_at = life.now + seconds(5)
    life.has(instance(name, "starting", created_at=born, modified_at=on_at))
    life.outcomes.append(Outcome(create, life.now + seconds(6), powered_on_at=on_at))
    life.cycle()
    life.has(instance(name, created_at=born, modified_at=on_at + seconds(25)))
    life.cycle()
    life.has(registered(name, created_at=born, modified_at=on_at + seconds(25)))
    life.run(name, "t1")
    life.cycle()
    life.end("t1")
    stop = life.wait(minutes(10)).effects[0]
    life.done(stop)
    off_at = life.now + seconds(45)
    life.has(registered(name, "stopped", created_at=born, modified_at=off_at))
    life.workers.clear()
    life.cycle(minutes(1))
    delete = life.wait(minutes(15)).effects[0]
    assert isinstance(delete, DeleteInstance)
    life.instances.clear()
    life.gone = {f"id-{name}"}
    life.outcomes.append(Outcome(delete, life.now + seconds(20)))
    life.cycle()

    ended = life.memory.unbooked
    assert [each.state.value for each in ended] == [
        "provisioning",
        "starting",
        "initializing",
        "running_task",
        "idle",
        "stopped",
    ]
    for one, other in pairwise(ended):
        assert one.until == other.since
    assert (ended[0].since, ended[1].since) == (born, on_at)
    assert ended[3].tasks == {"t1": "task t1"}
    assert (ended[5].since, ended[5].until) == (off_at, life.now - seconds(10))
    assert {each.powered_on_at for each in ended[1:5]} == {on_at}
    # 45 s past some minute: the begun one is paid for
    billed = sum((each.billed for each in ended), timedelta(0))
    assert billed % minutes(1) == timedelta(0)
    assert timedelta(0) <= billed - (off_at - on_at) < minutes(1)
    storage = VOLUME * ((ended[-1].until - born) / timedelta(hours=1))
    address = ADDRESS * ((off_at - on_at) / timedelta(hours=1))
    cost = 3.0 * (billed / timedelta(hours=1)) + storage + address
    assert sum(each.eur for each in ended) == pytest.approx(cost)
    assert life.memory.spent == {"2026-09-07": {QUEUE: pytest.approx(cost)}}
    assert not life.memory.instances


def test_until_a_launch_has_ended_nobody_knows_since_when_it_is_billed() -> None:
    here = story()
    here.has(registered("m1", "stopped", modified_at=START - minutes(10)))
    here.cycle()
    here.enqueue("t1")
    (start,) = here.wait(minutes(2)).effects
    assert isinstance(start, StartInstance)
    here.has(registered("m1", "starting", modified_at=here.now + seconds(1)))
    world = replace(here.world(), in_flight=frozenset({start.key}))
    here.world = lambda: world  # type: ignore[method-assign]
    here.cycle()
    assert stretch(here).state is S.STOPPED
    del here.world
    on_at = here.now - seconds(25)
    here.outcomes.append(Outcome(start, here.now, powered_on_at=on_at))
    here.cycle()
    assert (stretch(here).since, stretch(here).powered_on_at) == (on_at, on_at)
    assert booked(here)[-1] == ("stopped", START - minutes(10), on_at)


def test_a_start_is_billed_once_it_is_accepted_though_listings_lag() -> None:
    here = story()
    here.has(registered("m1", "stopped", modified_at=START - minutes(10)))
    here.cycle()
    here.enqueue("t1")
    (start,) = here.wait(minutes(2)).effects
    here.cycle()
    assert stretch(here).state is S.STOPPED, "nobody has heard of it yet"
    on_at = here.now + seconds(3)
    here.outcomes.append(Outcome(start, here.now + seconds(5), powered_on_at=on_at))
    here.cycle()
    assert (stretch(here).state, stretch(here).since) == (S.STARTING, on_at)


def test_a_launch_whose_end_nobody_heard_of_began_when_it_was_decided() -> None:
    here = story()
    here.enqueue("t1")
    (create,) = here.cycle().effects
    decided = here.now
    assert isinstance(create, CreateInstance)
    born = decided + seconds(1)
    here.has(instance(create.order.name, created_at=born, modified_at=decided + seconds(29)))
    here.cycle()
    assert stretch(here, create.order.name).powered_on_at == born


def test_who_is_started_by_a_person_is_billed_from_scaleway_s_date_on() -> None:
    here = story()
    here.has(registered("m1", "stopped", modified_at=START - minutes(10)))
    here.cycle()
    on_at = here.now + seconds(7)
    here.has(registered("m1", "starting", modified_at=on_at))
    here.cycle()
    assert stretch(here).powered_on_at == on_at
    assert (stretch(here).eur_per_hour, stretch(here).use) == (3.0, Use.BOOT)


@pytest.mark.usefixtures("far_east")
def test_at_midnight_a_new_day_begins_and_the_power_goes_on() -> None:
    here = story()
    here.now += seconds(7)  # so that midnight is not a whole number of minutes after power-on
    idle(here)
    here.config = config({"idle_timeout": "72h"})
    here.now = MIDNIGHT - seconds(70)
    here.cycle(seconds(0))
    before = len(here.memory.unbooked)
    here.cycle(minutes(1))
    assert len(here.memory.unbooked) == before
    here.cycle()
    (last,) = here.memory.unbooked[before:]
    assert (last.state, last.until, last.rounding_seconds) == (S.IDLE, MIDNIGHT, 0.0)
    assert stretch(here).since == MIDNIGHT
    assert stretch(here).powered_on_at == last.powered_on_at
    here.cycle(timedelta(days=2))  # nobody looked for two days
    days = [each.since for each in here.memory.unbooked[before + 1 :]]
    assert days == [MIDNIGHT, MIDNIGHT + timedelta(days=1)]
    assert set(here.memory.spent) == {"2026-09-07", "2026-09-08", "2026-09-09"}


def test_each_task_has_a_stretch_of_its_own_and_is_asked_for_when_it_is_over() -> None:
    here = story()
    idle(here)
    here.run("m1", "t1")
    here.cycle()
    here.tasks.pop("t1")
    here.run("m1", "t2")
    here.cycle()
    assert here.memory.unbooked[-1].tasks == {"t1": "task t1"}
    assert stretch(here).tasks == {"t2": "task t2"}
    assert here.memory.untold == {"t1": here.now}
    here.now = MIDNIGHT
    here.cycle()
    assert set(here.memory.untold) == {"t1"}  # t2 goes on
    here.end("t2")
    here.config = config({"idle_timeout": "1000h"})
    here.cycle()
    assert set(here.memory.untold) == {"t1", "t2"}
    here.cycle(timedelta(days=7))
    assert not here.memory.untold


def test_a_price_that_is_not_known_yet_counts_from_the_beginning_once_it_is() -> None:
    here = Story()
    idle(here)
    here.cycle()
    before = stretch(here)
    assert (before.state, before.eur_per_hour) == (S.IDLE, None)
    here.cycle()
    assert stretch(here) == before, "it is still not known"
    here.prices = {TYPE: 3.0}
    here.cycle()
    assert stretch(here) == replace(before, eur_per_hour=3.0)
    here.prices = {TYPE: 4.0}
    here.cycle()
    assert stretch(here).eur_per_hour == 3.0, "of its beginning"


def test_what_never_had_a_price_is_told_as_such() -> None:
    here = Story()
    idle(here)
    here.instances.clear()
    here.gone = {"id-m1"}
    here.cycle()
    assert here.memory.unbooked[-1].eur_per_hour is None


@pytest.mark.parametrize(
    ("unit", "ran", "rounding"),
    [("1m", 90, 30), ("1m", 120, 0), ("1h", 90, 3510), ("1s", 90, 0)],
)
def test_a_begun_unit_of_billing_is_paid_for(unit: str, ran: float, rounding: float) -> None:
    here = story(config=config(prices={"billing_unit": unit}))
    idle(here)
    here.has(registered("m1", "stopped", modified_at=START + seconds(ran)))
    here.workers.clear()
    here.cycle(minutes(5))
    last = here.memory.unbooked[-1]
    assert (last.until, last.rounding_seconds) == (START + seconds(ran), rounding)


def test_a_clock_that_is_set_back_counts_nothing_twice() -> None:
    here = story()
    idle(here)
    here.run("m1", "t1")
    here.cycle()
    begun = stretch(here).since
    here.set_clock(minutes(-20))
    here.tasks.pop("t1")
    here.cycle()
    moments = [(each.since, each.until) for each in here.memory.unbooked]
    assert all(since <= until for since, until in moments)
    assert stretch(here).since == begun
    assert moments == sorted(moments)


def whole(of: Story, **changes: Any) -> Stretch:
    """All that is written of m1, idle since the second cycle."""
    plain = Stretch(
        server_id="id-m1",
        instance="m1",
        queue=QUEUE,
        commercial_type=TYPE,
        zone=ZONE,
        state=S.IDLE,
        since=of.now,
        until=of.now,
        powered_on_at=START,
        eur_per_hour=3.0,
        storage_eur_per_hour=pytest.approx(VOLUME + ADDRESS),  # type: ignore[arg-type]
    )
    return replace(plain, **changes)


def test_everything_that_a_stretch_tells() -> None:
    here = story()
    idle(here)
    first = whole(here, state=S.INITIALIZING, since=START, until=START)
    assert stretch(here) == first
    here.cycle()
    assert stretch(here) == whole(here)
    assert here.memory.unbooked[-1] == replace(first, until=here.now)
    here.report("m1", "t9")  # ClearML does not list it: its name is not known
    here.cycle(reports=False)
    assert stretch(here) == whole(here, state=S.RUNNING_TASK, tasks={"t9": ""})
    off_at = here.now + seconds(10)
    here.workers.clear()
    here.has(registered("m1", "stopped", modified_at=off_at, created_at=START))
    here.cycle()
    off = {"powered_on_at": None, "eur_per_hour": 0.0, "since": off_at, "until": off_at}
    storage = pytest.approx(VOLUME)
    assert stretch(here) == whole(here, state=S.STOPPED, storage_eur_per_hour=storage, **off)
    assert lasting(here.memory) == (replace(stretch(here), until=here.now),)


def test_what_has_just_begun_has_not_lasted() -> None:
    here = story()
    idle(here)
    assert lasting(here.memory) == ()
    assert lasting(replace(here.memory, planned_at=None)) == ()
    without = {"id-m2": known("m2")}
    assert lasting(Memory(planned_at=START, instances=without)) == ()


def test_one_that_is_removed_while_it_runs_pays_for_the_begun_minute() -> None:
    here = story()
    idle(here)
    here.instances.clear()
    here.gone = {"id-m1"}
    here.cycle(seconds(90))
    assert here.memory.unbooked[-1].rounding_seconds == 30


@pytest.mark.parametrize(("own", "gigabytes"), [({}, 200), ({"volume": {"size": "300GB"}}, 300)])
def test_a_volume_costs_by_its_size_at_its_placement(own: dict[str, Any], gigabytes: int) -> None:
    here = story(config=config({"placements": [{"type": TYPE, "zone": ZONE, **own}]}))
    here.has(registered("m1", "stopped", modified_at=START - minutes(9)))
    here.cycle()
    assert stretch(here).storage_eur_per_hour == pytest.approx(gigabytes * 0.000118)


def test_of_a_queue_that_never_was_the_volume_is_not_known() -> None:
    here = story()
    here.has(registered("m1", "stopped", modified_at=START - minutes(9), queue="unheard-of"))
    here.cycle()
    assert stretch(here).storage_eur_per_hour == 0.0


def test_one_that_was_adopted_at_work_is_on_since_its_boot_as_far_as_is_known() -> None:
    made = START - timedelta(hours=2)
    here = story(lost_memory=True)
    here.has(registered("m1", created_at=made))
    here.report("m1", "t9")
    here.cycle(reports=False)
    assert (stretch(here).state, stretch(here).since) == (S.RUNNING_TASK, made)
    assert stretch(here).powered_on_at == made


def test_one_that_is_found_half_made_costs_its_volume_since_it_was_made() -> None:
    made = START - minutes(1)
    here = story()
    here.has(instance("m1", "stopped", created_at=made, tags=("phase=provisioning",)))
    here.cycle()
    assert (stretch(here).state, stretch(here).since) == (S.PROVISIONING, made)


def test_what_was_booked_before_memory_was_lost_is_not_booked_again() -> None:
    until = START - minutes(10)
    here = story(memory=Memory(booked_until={"id-m1": until}), lost_memory=True)
    here.has(registered("m1", created_at=START - timedelta(hours=9)))
    here.report("m1")
    here.cycle()
    assert stretch(here).since == until
    assert not here.memory.unbooked
    assert not here.memory.booked_until


def test_what_an_earlier_version_remembered_begins_with_its_present_state() -> None:
    since = START - minutes(20)
    memory = Memory(
        instances={"id-m1": known("m1", "stopped", state_since=since)}, planned_at=START
    )
    here = story(memory=memory)
    here.has(registered("m1", "stopped"))
    here.cycle()
    assert (stretch(here).state, stretch(here).since) == (S.STOPPED, since)
    assert lasting(here.memory) == (replace(stretch(here), until=here.now),)


def test_of_a_queue_that_is_gone_the_volume_costs_what_it_did() -> None:
    here = story()
    idle(here)
    here.config = config(
        queues={"other": {"name": "other", "placements": [{"type": TYPE, "zone": "fr-par-2"}]}}
    )
    here.has(registered("m1", "stopped", modified_at=START + minutes(2)))
    here.cycle(minutes(3))
    assert stretch(here).storage_eur_per_hour == pytest.approx(VOLUME)


def test_sums_of_long_ago_are_forgotten() -> None:
    here = story(memory=Memory(spent={"2026-07-01": {QUEUE: 5.0}, "2026-09-01": {QUEUE: 7.0}}))
    here.cycle()
    assert here.memory.spent == {"2026-09-01": {QUEUE: 7.0}}
