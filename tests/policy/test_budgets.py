"""Budgets: what is spent, who is held for it and until when, and what people hear of it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import Failure, Reason, TagQueue
from gpu_autoscaler.domain.episodes import EpisodeKind, Severity
from gpu_autoscaler.domain.memory import Memory, Pause, Pending
from gpu_autoscaler.domain.model import BUDGET_TAG, PAUSE_TAG, PAUSE_TAGS, Queue
from gpu_autoscaler.domain.requests import Request, RequestKind
from gpu_autoscaler.policy.budgets import Standing, held, period, standings
from gpu_autoscaler.policy.explain import Explainer
from gpu_autoscaler.policy.pause import tag_queues
from gpu_autoscaler.policy.questions import queue_names
from tests.policy.worlds import (
    QUEUE,
    START,
    TYPE,
    ZONE,
    Story,
    config,
    fleet,
    known,
    minutes,
    reasons,
)
from tests.store.test_ledger import stretch

DAY: Mapping[str, Any] = {"eur": 20, "per": "day"}
TODAY, YESTERDAY = "2026-09-07", "2026-09-06"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("per", "now", "since", "until"),
    [
        ("day", "2026-09-07T00:00", "2026-09-07", "2026-09-08"),
        ("day", "2026-09-07T23:59", "2026-09-07", "2026-09-08"),
        ("week", "2026-09-07T00:00", "2026-09-07", "2026-09-14"),  # a Monday
        ("week", "2026-09-13T23:59", "2026-09-07", "2026-09-14"),
        ("month", "2026-09-30T12:00", "2026-09-01", "2026-10-01"),
        ("month", "2026-12-31T23:59", "2026-12-01", "2027-01-01"),
        ("month", "2028-02-29T12:00", "2028-02-01", "2028-03-01"),
    ],
)
def test_a_period_begins_and_ends_at_midnight(per: str, now: str, since: str, until: str) -> None:
    assert period(per, moment(now)) == (moment(since), moment(until))


@pytest.mark.usefixtures("far_east")
def test_a_period_is_one_of_utc_wherever_the_daemon_runs() -> None:
    assert period("day", moment("2026-09-07T23:59")) == (moment(TODAY), moment("2026-09-08"))


def standing(memory: Memory, budget: Mapping[str, Any] = DAY, **queue: Any) -> Standing:
    """Of the only budget: the fleet's, or the queue's if it has one."""
    settings = config(queue, **({} if queue else {"budgets": [budget]}))
    (found,) = standings(memory, settings, {TYPE: 3.0}, START)
    return found


def lasting(**changes: Any) -> Memory:
    """A machine that is on since yesterday evening, and what ended before."""
    on = stretch(queue=QUEUE, since=START - timedelta(hours=10), eur_per_hour=2.0, **changes)
    spent = {YESTERDAY: {QUEUE: 100.0}, TODAY: {QUEUE: 3.0, "other": 1.0}}
    return Memory(instances={"id-m1": replace(known("m1"), stretch=on)}, spent=spent)


def test_what_lasts_counts_from_the_beginning_of_the_period() -> None:
    found = standing(lasting())
    assert found.eur == pytest.approx(4.0 + 8 * 2.0)  # START is 08:00
    assert found.projected_eur == pytest.approx(20.0 + 16 * 2.0)
    assert standing(lasting(storage_eur_per_hour=0.5)).eur == pytest.approx(4.0 + 8 * 2.5)
    unknown = standing(Memory(instances={"id-m1": replace(known("m1"), stretch=None)}))
    assert (unknown.eur, unknown.share) == (0.0, 0.0)


def test_a_queue_pays_for_itself_alone() -> None:
    assert standing(lasting(), budgets=[DAY]).eur == pytest.approx(3.0 + 16.0)
    assert standing(lasting(), budgets=[{"eur": 9, "per": "month"}]).eur == pytest.approx(123.0)


def test_a_machine_whose_price_came_late_counts_with_it() -> None:
    memory = lasting()
    one = memory.instances["id-m1"]
    assert one.stretch is not None
    priceless = replace(one, stretch=replace(one.stretch, eur_per_hour=None))
    memory = replace(memory, instances={"id-m1": priceless})
    assert standing(memory).eur == pytest.approx(4.0 + 8 * 3.0)


def test_all_that_lasts_adds_up_and_what_has_no_price_counts_as_nothing() -> None:
    memory = lasting()
    one = memory.instances["id-m1"]
    assert one.stretch is not None
    nameless = replace(one.stretch, eur_per_hour=None, commercial_type="no-such-type")
    more = {f"id-m{n}": replace(known(f"m{n}"), stretch=one.stretch) for n in (2, 3)}
    more["id-m4"] = replace(known("m4"), stretch=nameless)
    memory = replace(memory, instances={**memory.instances, **more})
    settings: tuple[dict[str, Any], ...] = ({}, {"budgets": [DAY]})
    for queue in settings:
        own = standing(memory, **queue).eur - standing(lasting(), **queue).eur
        assert own == pytest.approx(2 * 8 * 2.0)


def test_a_queue_that_used_nothing_has_spent_nothing() -> None:
    found = standing(Memory(), budgets=[DAY])
    assert (found.eur, found.projected_eur) == (0.0, 0.0)


def test_the_budget_that_opens_last_holds() -> None:
    settings = config({"budgets": [{"eur": 1, "per": "month"}, DAY]}, budgets=[DAY])
    found = held(standings(lasting(), settings, {}, START), settings)
    assert found[QUEUE].budget.per == "month"
    mild = config(budgets=[{**DAY, "at_cap": "alert"}])
    assert held(standings(lasting(), mild, {}, START), mild) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_the_last_to_open_holds_in_whatever_order(order: int) -> None:
    budgets = [{"eur": 1, "per": per} for per in ("day", "month", "week")][::order]
    settings = config({"budgets": budgets})
    found = held(standings(lasting(), settings, {}, START), settings)
    assert found[QUEUE].budget.per == "month"


def test_a_queue_s_budget_holds_that_queue_alone_and_the_fleet_s_all() -> None:
    place = {"placements": [{"type": TYPE, "zone": ZONE}]}
    queues: dict[str, Any] = {n: {"name": n, **place, "max_instances": 2} for n in (QUEUE, "other")}
    queues[QUEUE]["budgets"] = [{"eur": 1, "per": "day"}]
    settings = config(queues=queues)
    (one,) = standings(lasting(), settings, {}, START)
    assert (one.queue, one.since, one.until) == (QUEUE, moment(TODAY), moment("2026-09-08"))
    assert held((one,), settings) == {QUEUE: one}
    settings = config(queues=queues, budgets=[{"eur": 1, "per": "month"}])
    fleets, _ = found = standings(lasting(), settings, {}, START)
    assert held(found, settings) == {QUEUE: fleets, "other": fleets}


# --- in a plan


def story(spent: float, **changes: Any) -> Story:
    """A task waits, and so much is spent today."""
    memory = Memory(planned_at=START - minutes(0.5), spent={TODAY: {QUEUE: spent}})
    here = Story(config=config(budgets=[DAY]), memory=memory, prices={TYPE: 3.0}, **changes)
    here.enqueue("t1")
    return here


def test_below_the_cap_nothing_changes() -> None:
    assert reasons(story(19.99).cycle()) == ["demand"]


def test_at_the_cap_nothing_is_launched_and_nothing_pulled() -> None:
    here = story(20.0)
    made = here.cycle()
    (tag,) = made.effects
    assert isinstance(tag, TagQueue)
    assert (tag.tags, tag.reason) == (PAUSE_TAGS, Reason.BUDGET)
    because = (
        "the budget of 20.00 EUR a day for the fleet is used up (20.00 EUR): "
        "it opens again at 2026-09-08 00:00 UTC"
    )
    (queue,) = made.queues
    assert (queue.reason, queue.because, queue.launched) == (Reason.BUDGET, because, 0)
    (said,) = Explainer(here.world(), made, here.config, here.now).explain("t1").sentences[1:]
    assert said == f"{because[0].upper()}{because[1:]}. What runs finishes."


def test_in_the_next_period_it_goes_on_by_itself() -> None:
    here = story(25.0)
    here.cycle()
    here.queue_tags = tuple(PAUSE_TAGS)
    here.cycle()
    here.now = moment("2026-09-08T00:00")
    made = here.cycle()
    (untag, *_) = [each for each in made.effects if isinstance(each, TagQueue)]
    assert (untag.tags, untag.reason) == (frozenset(), Reason.BUDGET)
    here.queue_tags = ()
    here.done(untag)
    assert reasons(here.cycle()) in (["demand"], [])
    assert here.memory.pauses == {}
    assert any(p.key.startswith("create:") for p in here.memory.pending.values())


def test_a_person_s_pause_outlives_the_budget_and_a_resume_does_not_end_it() -> None:
    here = story(25.0)
    here.cycle()
    here.requests = [Request(RequestKind.PAUSE, QUEUE)]
    here.cycle()
    here.now = moment("2026-09-08T00:00")
    assert here.cycle().queues[0].reason is Reason.PAUSED
    other = story(25.0)
    other.cycle()
    other.requests = [Request(RequestKind.RESUME, QUEUE)]
    made = other.cycle()
    (answer,) = made.answers
    assert not answer.obeyed
    assert "is held: the budget of 20.00 EUR a day" in answer.sentence
    assert made.queues[0].reason is Reason.BUDGET


def test_who_holds_a_queue_stands_in_its_tags() -> None:
    """They outlive memory: a budget's pause still ends by itself, a person's does not."""
    here = story(1.0, lost_memory=True, queue_tags=(BUDGET_TAG, PAUSE_TAG, "theirs"))
    (untag, *_) = [each for each in here.cycle().effects if isinstance(each, TagQueue)]
    assert untag.tags == frozenset()
    theirs = story(1.0, lost_memory=True, queue_tags=(PAUSE_TAG,))
    theirs.cycle()
    assert theirs.memory.pauses[QUEUE] == Pause(theirs.now, tagged=True)
    both = story(25.0, lost_memory=True, queue_tags=(PAUSE_TAG,))
    assert not any(isinstance(each, TagQueue) for each in both.cycle().effects)
    assert both.memory.pauses[QUEUE].asked


def test_each_queue_is_tagged_for_its_own_sake() -> None:
    """In whatever state those before it are."""
    names = ("tagged", "plain", "tagging", "late", "over")
    shown = {n: Queue(f"id-{n}", n, tags=tuple(PAUSE_TAGS) if n == "tagged" else ()) for n in names}
    shown["over"] = replace(shown["over"], tags=(BUDGET_TAG,))
    held_ = Pause(START, asked=False, budget="it is used up")
    tagging = Pending("tag_queue:id-tagging", "tagging", START, START + minutes(1))
    memory = Memory(
        pauses=dict.fromkeys(("tagged", "tagging", "late"), held_), pending={tagging.key: tagging}
    )
    there = fleet(memory=memory, queues=shown)
    tag_queues(there)
    paused = "queue late is paused: no agent pulls (its tag `force_workers:off`); it is used up"
    resumed = "queue over is resumed: agents may pull again (its tag `force_workers:off`)"
    assert [(e.subject, e.reason, e.because) for e in there.effects] == [
        ("late", Reason.BUDGET, paused),
        ("over", Reason.BUDGET, resumed),
    ]


def test_a_budget_s_tag_that_a_person_left_over_goes() -> None:
    here = story(1.0, queue_tags=(BUDGET_TAG,))
    (_, untag) = here.cycle().effects
    assert isinstance(untag, TagQueue)
    assert untag.tags == frozenset()


def left() -> Story:
    """The queue was held by the budget, tags and all, and is no longer configured."""
    here = story(25.0)
    here.done(*here.cycle().effects)
    here.queue_tags = tuple(PAUSE_TAGS)
    here.cycle()
    here.config = here.config.model_copy(update={"queues": {}})
    return here


def test_a_queue_that_leaves_the_configuration_is_let_go() -> None:
    """Else nobody takes off the tag, and it is taken for a person's when the queue comes back."""
    here = left()
    assert QUEUE in queue_names(here.memory, here.config)
    (untag,) = here.cycle().effects
    assert isinstance(untag, TagQueue)
    assert untag.tags == frozenset()
    assert untag.because.endswith("agents may pull again (its tag `force_workers:off`)")
    here.done(untag)
    here.queue_tags = ()
    here.cycle()
    assert here.memory.pauses == {}


def test_its_tag_is_taken_off_until_that_worked() -> None:
    here = left()
    here.done(*here.cycle().effects, failure=Failure.TRANSIENT)
    (again,) = here.wait(minutes(10)).effects
    assert isinstance(again, TagQueue)
    assert QUEUE in queue_names(here.memory, here.config)


def test_one_that_comes_back_meanwhile_is_held_again() -> None:
    here = left()
    bounded = story(25.0).config
    here.done(*here.cycle().effects)
    here.config = bounded
    here.cycle()
    assert here.memory.pauses[QUEUE].budget


def test_one_that_leaves_while_clearml_is_down_is_let_go_after_that() -> None:
    here = left()
    here.clearml_down = True
    assert here.cycle().effects == ()
    here.clearml_down = False
    (untag,) = here.cycle().effects
    assert isinstance(untag, TagQueue)


def test_one_that_is_no_more_at_clearml_is_forgotten() -> None:
    here = left()
    here.queue_exists = False
    here.cycle()
    assert here.memory.pauses == {}


def test_what_a_person_paused_stays_so_when_it_leaves() -> None:
    here = story(1.0)
    here.requests = [Request(RequestKind.PAUSE, QUEUE)]
    here.done(*here.cycle().effects)
    here.requests, here.queue_tags = [], (PAUSE_TAG,)
    here.config = here.config.model_copy(update={"queues": {}})
    assert here.cycle().effects == ()
    assert here.memory.pauses == {}


def test_people_are_told_at_each_share_and_at_the_cap_once() -> None:
    budget = {**DAY, "alert_at": [50, 90]}
    here = story(9.95)
    here.config = config(budgets=[budget])
    assert here.cycle().memory.episodes == ()
    here.memory = replace(here.memory, spent={TODAY: {QUEUE: 10.0}})
    (told,) = here.cycle().memory.episodes
    assert (told.subject, told.severity) == (
        *("50 % of 20.00 EUR a day for the fleet", Severity.WARNING),
    )
    assert told.text == (
        "10.00 EUR of 20.00 EUR a day for the fleet are spent; it will be 10.00 by "
        "2026-09-08 00:00 UTC if all that is paid for now goes on"
    )
    here.memory = replace(here.memory, spent={TODAY: {QUEUE: 20.5}})
    made = here.cycle().memory.episodes
    assert [each.kind for each in made] == [EpisodeKind.BUDGET] * 3
    assert made[-1].severity is Severity.ERROR
    assert made[-1].text == (
        "20.50 EUR of 20.00 EUR a day for the fleet are spent: nothing is launched and no task "
        "pulled until 2026-09-08 00:00 UTC, what runs finishes; raise it if that is too early"
    )
    assert here.cycle().memory.episodes[0].since == made[0].since
    here.now = moment("2026-09-08T00:00")
    assert here.cycle().memory.episodes == ()


def test_a_budget_that_only_tells_holds_nothing_back() -> None:
    here = story(20.0)
    here.config = config(budgets=[{**DAY, "at_cap": "alert"}])
    made = here.cycle()
    assert reasons(made) == ["demand"]
    assert made.memory.episodes[-1].severity is Severity.WARNING
    assert made.memory.episodes[-1].text.endswith("are spent: it holds nothing back")
