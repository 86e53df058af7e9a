"""Where machines boot in vain one after the other, no more are paid for."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    Reason,
    StartInstance,
    StopInstance,
)
from gpu_autoscaler.domain.memory import Breaker, Memory
from gpu_autoscaler.domain.model import PROVISIONING_TAG, Instance, Placement, ServerState
from gpu_autoscaler.policy.breaker import Breakers
from gpu_autoscaler.policy.fact import Fact
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    SPEC,
    START,
    TYPE,
    ZONE,
    Story,
    config,
    fact,
    instance,
    known,
    minutes,
    registered,
    seconds,
    verbs,
)

HERE = Placement(TYPE, ZONE)
BOTH = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]


class Duds(Story):
    """Whatever is created runs at once; its agent comes only where `works` says so."""

    works: bool = False

    def step(self) -> Plan:
        """One cycle, whose effects take place at once."""
        made = self.cycle()
        for effect in made.effects:
            match effect:
                case CreateInstance(order=order):
                    there = instance(order.name, zone=order.placement.zone, created_at=self.now)
                    self.has(replace(there, tags=frozenset(order.tags)))
                    if self.works:
                        self.report(order.name)
                case StopInstance():
                    there = self.instances[effect.subject]
                    self.has(replace(there, state=ServerState.STOPPED))
                case DeleteInstance():
                    self.gone.add(self.instances.pop(effect.subject).id)
        self.done(*made.effects)
        return made

    def launches(self, duration: timedelta) -> list[tuple[datetime, str]]:
        """When something was created, and in which zone."""
        end, found = self.now + duration, []
        while self.now < end:
            creations = [e for e in self.step().effects if isinstance(e, CreateInstance)]
            found += [(self.now, each.order.placement.zone) for each in creations]
        return found


def duds(**queue: object) -> Duds:
    story = Duds(config({"max_instances": 1, "stale_timeout": "5m", **queue}))
    story.enqueue("t1", "t2", "t3")
    return story


def decision(story: Story) -> tuple[Reason, str]:
    assert story.last is not None
    (queue,) = story.last.queues
    return queue.reason, queue.because


def test_three_in_vain_and_then_rarer_and_rarer() -> None:
    story = duds()
    at = [when for when, _ in story.launches(timedelta(hours=24))]
    pauses = [round((b - a) / minutes(1)) for a, b in pairwise(at)]
    assert pauses[:2] == [6, 6], "one after the other, as long as it may be an accident"
    assert pauses[2:6] == [36, 66, 126, 246], "half an hour, doubled each time, after each boot"
    assert set(pauses[5:]) == {246}, "at most four hours"


def test_it_is_said_why_nothing_is_launched() -> None:
    story = duds()
    story.launches(minutes(25))
    assert decision(story) == (
        Reason.BREAKER_OPEN,
        "3 waiting, but H100-1-80G in fr-par-2: 3 in a row booted and never registered, "
        "next try at 08:48:00",
    )


def test_several_at_once_count_each() -> None:
    story = duds(max_instances=3)
    assert len(story.launches(minutes(30))) == 3
    assert story.memory.breakers[0].failures == 3


def test_half_open_one_is_tried_at_a_time() -> None:
    story = duds(max_instances=3)
    story.launches(minutes(30))
    assert len(story.launches(minutes(10))) == 1
    assert decision(story)[0] is Reason.BREAKER_OPEN
    assert "one more is being tried" in decision(story)[1]
    assert not story.launches(minutes(58)), "it failed as well: an hour of nothing"
    assert len(story.launches(minutes(10))) == 1


def test_an_agent_that_registers_closes_it() -> None:
    story = duds(max_instances=3)
    story.launches(minutes(30))
    story.works = True
    at = [when for when, _ in story.launches(minutes(10))]
    assert story.memory.breakers == ()
    assert len(at) == 3
    assert at[0] < at[1] == at[2], "one to try it, then as many as are wanted"


def test_other_placements_are_tried_meanwhile() -> None:
    story = duds(placements=BOTH)
    zones = [zone for _, zone in story.launches(minutes(45))]
    assert zones == [ZONE] * 3 + [OTHER_ZONE] * 3
    assert {b.placement.zone for b in story.memory.breakers} == {ZONE, OTHER_ZONE}


def test_a_mended_configuration_is_a_new_start() -> None:
    story = duds()
    story.launches(minutes(25))
    story.specs = {QUEUE: "fedcba987654"}
    assert len(story.launches(minutes(1))) == 1


def test_a_restarted_machine_whose_agent_never_came_back_counts() -> None:
    story = Story(config({"stale_timeout": "5m", "lost_timeout": "5m"}))
    story.has(registered("m1"))
    for _ in range(60):
        made = story.cycle()
        if "stop" in verbs(made):
            break
    assert [(b.placement, b.spec, b.failures) for b in story.memory.breakers] == [(HERE, SPEC, 1)]


def test_a_stop_tried_again_counts_once() -> None:
    story = duds()
    story.launches(minutes(2))
    while not story.memory.breakers:
        made = story.cycle()
    for _ in range(3):
        story.done(*made.effects, failure="transient")
        made = story.wait(minutes(3))
        assert verbs(made) == ["stop"]
    assert story.memory.breakers[0].failures == 1


def test_an_agent_that_came_at_the_last_moment_closes_it() -> None:
    story = duds()
    story.launches(minutes(2))
    while not story.memory.breakers:
        made = story.cycle()
    story.report(next(iter(story.instances)))
    story.done(*made.effects, failure="guard")
    story.cycle()
    assert story.memory.breakers == ()
    assert not next(iter(story.memory.instances.values())).boot_failed


def test_what_registered_before_the_failures_says_nothing() -> None:
    story = duds(max_instances=2)
    story.has(registered("m1"))
    story.run("m1", "t1")
    story.launches(minutes(30))
    assert story.memory.breakers[0].failures == 3


def test_a_machine_that_a_person_keeps_is_no_try() -> None:
    story = duds(max_instances=2)
    story.launches(minutes(30))
    story.has(instance("kept", tags=("keep",)))
    assert story.launches(minutes(30))


@pytest.mark.parametrize(("hours", "kept"), [(24.4, 1), (24.5, 0)])
def test_a_day_later_it_is_forgotten(hours: float, kept: int) -> None:
    old = Breaker(HERE, SPEC, 3, START, START + minutes(30), 1)
    now = START + timedelta(hours=hours)
    assert len(Breakers([old], now).kept()) == kept


def test_what_fails_while_it_is_open_does_not_lengthen_it() -> None:
    breakers = Breakers([], START)
    for _ in range(5):
        breakers.failed(HERE, SPEC)
    (one,) = breakers.kept()
    assert (one.failures, one.openings, one.until) == (5, 1, START + minutes(30))


def test_spares_are_not_started_either_and_then_one_at_a_time() -> None:
    story = Story(config({"max_instances": 5}))
    open_ = Breaker(HERE, SPEC, 3, START, START + minutes(30), 1)
    story.memory = replace(story.memory, breakers=(open_,))
    story.has(registered("s1", "stopped"), registered("s2", "stopped"))
    story.enqueue("t1", "t2")
    assert [verbs(story.cycle(minutes(1))) for _ in range(29)] == [[]] * 29
    assert decision(story)[0] is Reason.BREAKER_OPEN
    assert verbs(story.cycle(minutes(1))) == ["start"]


def test_below_three_it_stays_closed_and_knows_when() -> None:
    breakers = Breakers([Breaker(HERE, SPEC, 1, START, START)], START + minutes(9))
    breakers.failed(HERE, SPEC)
    assert breakers.kept() == (Breaker(HERE, SPEC, 2, START + minutes(9), START + minutes(9)),)
    assert breakers.refusal(HERE, SPEC) is None


@pytest.mark.parametrize(
    ("openings", "hours"), [(0, 0.5), (1, 1), (2, 2), (3, 4), (4, 4), (5000, 4)]
)
def test_each_time_it_opens_for_longer(openings: int, hours: float) -> None:
    before = Breaker(HERE, SPEC, 3, START - minutes(5), START, openings)
    breakers = Breakers([before], START)
    breakers.failed(HERE, SPEC)
    until = START + timedelta(hours=hours)
    assert breakers.kept() == (Breaker(HERE, SPEC, 4, START, until, openings + 1),)


@pytest.mark.parametrize(("later", "refused"), [(seconds(-1), True), (seconds(0), False)])
def test_until_when_it_refuses(later: timedelta, refused: bool) -> None:
    breakers = Breakers([Breaker(HERE, SPEC, 3, START, START + minutes(30), 1)], START)
    assert breakers.refusal(HERE, SPEC)
    assert breakers.refusal(HERE, "another") is None
    breakers = Breakers(breakers.kept(), START + minutes(30) + later)
    assert bool(breakers.refusal(HERE, SPEC)) is refused


def half_open(*facts: Fact, memory: Memory | None = None) -> Breakers:
    """After these were looked at: it failed five minutes ago, and may be tried again."""
    breaker = Breaker(HERE, SPEC, 3, START - minutes(5), START, 1)
    breakers = Breakers([breaker], START)
    breakers.watch(facts, memory or Memory())
    return breakers


@pytest.mark.parametrize(
    ("one", "tried"),
    [
        (fact(state="starting"), True),
        (fact(state="initializing"), True),
        (fact(state="provisioning"), True),
        (fact(state="provisioning", abandoned=True), False),
        (fact(state="lost"), True),  # restarted, and its agent may still come
        (fact(state="lost", memory={"last_report_at": START}), False),
        (fact(state="initializing", memory={"boot_failed": True}), False),
        (fact(state="initializing", hands_off="a person's"), False),
        (fact(state="starting", overdue=True), False),
        (fact(state="initializing", memory={"quarantined_at": START}), False),
        (fact(state="idle"), False),
        (fact(state="stopped"), False),
        (fact(state="starting", instance=registered(zone=OTHER_ZONE)), False),
        (fact(state="starting", instance=registered(spec="another")), False),
    ],
)
def test_what_counts_as_the_one_try(one: Fact, tried: bool) -> None:
    refusal = half_open(one).refusal(HERE, SPEC)
    assert refusal == (
        "H100-1-80G in fr-par-2: 3 in a row booted and never registered, one more is being tried"
        if tried
        else None
    )


@pytest.mark.parametrize(
    ("state", "booted_ago", "gave_up", "closed"),
    [
        ("idle", 299, False, True),
        ("running_task", 299, False, True),
        ("quarantined", 299, False, True),
        ("lost", 299, False, False),
        ("idle", 300, False, False),  # it had registered before: that says nothing
        ("idle", 300, True, True),  # it came after all
    ],
)
def test_whose_agent_closes_it(state: str, booted_ago: float, gave_up: bool, closed: bool) -> None:
    booted_at = START - seconds(booted_ago)
    one = fact(state=state, memory={"booted_at": booted_at, "last_report_at": START})
    before = Memory(instances={"id-m1": known(boot_failed=gave_up)})
    other = fact("m2", "starting")
    breakers = half_open(one, other, memory=before)
    assert (breakers.kept() == ()) is closed
    assert (breakers.refusal(HERE, SPEC) is None) is closed


def test_what_boots_where_no_breaker_is_hides_no_try() -> None:
    elsewhere = fact("m0", "starting", instance=registered("m0", zone=OTHER_ZONE))
    assert half_open(elsewhere, fact(state="starting")).refusal(HERE, SPEC)


def test_a_report_of_an_earlier_boot_closes_nothing() -> None:
    booted = {"booted_at": START - minutes(1)}
    assert half_open(fact(state="idle", memory=booted)).kept()


# --- machines that go off by themselves before their agent came


class Dying(Duds):
    """Whatever runs is off three minutes later, and never registers."""

    def step(self) -> Plan:
        made = super().step()
        for effect in made.effects:
            if isinstance(effect, StartInstance):
                there = self.instances[effect.subject]
                self.has(replace(there, state=ServerState.RUNNING, modified_at=self.now))
        for one in list(self.instances.values()):
            came_up = max(one.created_at, one.modified_at)
            if one.state is ServerState.RUNNING and self.now - came_up >= minutes(3):
                self.has(replace(one, state=ServerState.STOPPED, modified_at=self.now))
        return made


def test_machines_that_go_off_before_they_register_are_not_paid_for_without_end() -> None:
    story = Dying(config({"max_instances": 1}))
    story.enqueue("t1")
    at = [when for when, _ in story.launches(timedelta(hours=6))]
    assert len(at) <= 7
    assert at[3] - at[2] > minutes(30)


def booting(*between: str, there: Instance | None = None, **queue: object) -> Story:
    """m1 has been seen to boot, and then in these states."""
    story = Story(config({"max_instances": 1, **queue}))
    one = there or instance("m1", created_at=START)
    story.has(one)
    story.cycle()
    story.cycle()
    for state in between:
        story.has(replace(one, state=ServerState(state)))
        story.cycle()
    return story


@pytest.mark.parametrize("between", [("stopped",), ("stopping", "stopped"), ("stopping",) * 3])
def test_one_that_goes_off_by_itself_has_booted_in_vain(between: tuple[str, ...]) -> None:
    story = booting(*between)
    assert len(story.memory.breakers) == ("stopped" in between), "a reboot passes through stopping"
    story.has(replace(story.instances["m1"], state=ServerState.STOPPED))
    story.cycle()
    assert story.memory.instances["id-m1"].delete_when_stopped
    assert [b.failures for b in story.memory.breakers] == [1]


def test_one_whose_birth_was_not_declared_counts_too() -> None:
    story = booting("stopped", there=instance("m1", created_at=START, tags=(PROVISIONING_TAG,)))
    assert [b.failures for b in story.memory.breakers] == [1]


def test_one_that_has_worked_is_kept_and_removed_when_it_is_no_accident() -> None:
    story = booting("stopped", there=registered("m1"))
    assert [b.failures for b in story.memory.breakers] == [1]
    assert not story.memory.instances["id-m1"].delete_when_stopped
    story.memory = replace(story.memory, breakers=(Breaker(HERE, SPEC, 2, story.now, story.now),))
    for state in ("running", "stopped"):
        story.has(registered("m1", state))
        story.cycle()
    assert story.memory.instances["id-m1"].delete_when_stopped


@pytest.mark.parametrize(
    "what", ["reported", "kept", "clearml down", "back only now", "stood still", "ours"]
)
def test_what_says_nothing_about_a_boot(what: str) -> None:
    tags = ("keep",) if what == "kept" else ()
    story = booting(there=instance("m1", created_at=START, tags=tags), stale_timeout="5m")
    if what == "reported":
        story.report("m1")  # between two looks
    story.clearml_down = what in ("clearml down", "back only now")
    if what == "back only now":
        story.cycle()
        story.clearml_down = False
    if what == "ours":
        assert verbs(story.wait(minutes(6))) == ["stop"]
    before = story.memory.breakers
    story.has(replace(story.instances["m1"], state=ServerState.STOPPED))
    story.cycle(minutes(5) if what == "stood still" else seconds(30))
    assert story.memory.breakers == before


@pytest.mark.parametrize("why_not", ["it works", "it came"])
def test_each_boot_is_judged_by_itself_and_by_what_it_said(why_not: str) -> None:
    names = ("m1", "m2")
    before = {f"id-{n}": known(n, "initializing", boot_report=f"{n} mounts") for n in names}
    story = Story(config({"max_instances": 2}))
    story.memory = replace(story.memory, instances=before, clearml_since=START)
    story.has(*(registered(name, "stopped") for name in names))
    if why_not == "it works":
        story.has(registered("m1"))
    else:
        story.report("m1")  # between two looks
    story.cycle(reports=False)
    assert [(b.failures, b.last_report) for b in story.memory.breakers] == [(1, "m2 mounts")]


@pytest.mark.parametrize(
    ("state", "memory", "failures"),
    [
        ("initializing", {}, 1),
        ("lost", {}, 1),  # restarted, and its agent never came back
        ("stopping", {}, 1),
        ("starting", {}, 0),  # never seen to run
        ("idle", {}, 0),
        ("initializing", {"stop_decided_at": START}, 0),
        ("initializing", {"boot_failed": True}, 0),
        ("initializing", {"last_report_at": START}, 0),
        ("initializing", {"quarantined_at": START}, 0),
        ("stopping", {"start_accepted_at": START - minutes(5)}, 0),  # no stock
    ],
)
def test_what_was_a_boot_in_vain(state: str, memory: dict[str, datetime], failures: int) -> None:
    story = Story()
    before = known("m1", state, **memory)
    story.memory = replace(story.memory, instances={"id-m1": before}, clearml_since=START)
    story.has(registered("m1", "stopped"))
    story.cycle()
    assert sum(b.failures for b in story.memory.breakers) == failures
