"""What people are told of: each once, from its beginning to its end, and never by mere darkness."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import CreateInstance, Failure, StopInstance
from gpu_autoscaler.domain.episodes import Episode, Severity
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory
from gpu_autoscaler.domain.model import PROVISIONING_TAG, Placement, ServerState
from gpu_autoscaler.policy.stock import Backoffs
from tests.policy.test_cleanup import volume
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    SPEC,
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

BOTH = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]
HERE, THERE = Placement(TYPE, ZONE), Placement(TYPE, OTHER_ZONE)
NAME = "m1"
OUT_HERE = Failure.OUT_OF_STOCK


@dataclass
class Told(Story):
    """A story that notes when which episodes begin and end."""

    refused: tuple[str, ...] = ()
    """Who refuses our key: `ClearML`, or a zone."""

    def world(self) -> World:
        world = super().world()
        zones = dict(world.zones)
        for name in set(self.refused) & zones.keys():
            zones[name] = replace(zones[name], complete=False, error="403", refused=True)
        clearml = world.clearml
        if "ClearML" in self.refused:
            clearml = replace(clearml, complete=False, error="401", refused=True)
        return replace(world, clearml=clearml, zones=zones)

    def standing(self) -> dict[str, Episode]:
        return {f"{e.kind} {e.subject}": e for e in self.memory.episodes}

    def names(self) -> list[str]:
        return list(self.standing())

    def pass_(self, duration: timedelta, **failing: Any) -> list[str]:
        """Cycle for so long; launches fail so, if they are to. Returns what began and ended."""
        edges: list[str] = []
        end = self.now + duration
        while self.now < end:
            before = set(self.standing())
            made = self.cycle()
            if failing:
                self.done(*made.effects, message="as Scaleway says", **failing)
            now = set(self.standing())
            edges += [f"+{name}" for name in sorted(now - before)]
            edges += [f"-{name}" for name in sorted(before - now)]
        return edges


def waits(**changes: Any) -> Told:
    story = Told(config({"placements": BOTH}), **changes)
    story.enqueue("t1")
    return story


OUT = f"out_of_stock {QUEUE}"
FAILING = f"launch_failing {QUEUE}"
QUOTA = f"quota_exceeded {TYPE}"


def test_out_of_stock_for_long_is_told_once_and_over_when_one_boots() -> None:
    story = waits()
    assert story.pass_(minutes(14), failure=Failure.OUT_OF_STOCK) == []
    assert story.pass_(minutes(300), failure=Failure.OUT_OF_STOCK) == [f"+{OUT}"]
    told = story.standing()[OUT]
    assert told.since - START <= seconds(90), "the first refusal, not the fifteenth minute"
    assert told.severity is Severity.WARNING
    assert told.text == (
        f"1 waiting in {QUEUE} since 2026-09-07 08:00, and everything is out of stock "
        f"({HERE}, {THERE}): it is tried again and again; name another placement, or use another "
        "queue, if it cannot wait"
    )
    story.has(instance("new", created_at=story.now))
    assert story.pass_(minutes(2)) == [f"-{OUT}"]


def test_what_is_about_to_be_told_keeps_its_beginning_while_clearml_is_down() -> None:
    story = waits()
    story.pass_(minutes(10), failure=Failure.OUT_OF_STOCK)
    before = story.memory.troubles
    assert list(before) == [f"out_of_stock:{QUEUE}"]
    story.clearml_down = True
    story.cycle()
    assert story.memory.troubles.items() >= before.items()
    story.clearml_down = False
    assert story.pass_(minutes(6), failure=Failure.OUT_OF_STOCK) == [f"+{OUT}"]


def test_out_of_stock_is_over_when_nobody_waits() -> None:
    story = waits()
    story.pass_(minutes(20), failure=Failure.OUT_OF_STOCK)
    story.entries.clear()
    story.tasks.clear()
    assert story.pass_(minutes(1)) == [f"-{OUT}"]
    assert story.memory.troubles == {}


def test_a_quota_is_over_when_one_boots_and_is_one_for_all_zones() -> None:
    story = waits()
    assert story.pass_(minutes(5), failure=Failure.QUOTA) == [f"+{QUOTA}"]
    story.memory = replace(
        story.memory,
        backoffs=(*story.memory.backoffs, replace(story.memory.backoffs[0], placement=THERE)),
    )
    assert story.pass_(minutes(5)) == []
    assert story.names() == [QUOTA]
    told = story.standing()[QUOTA]
    assert told.severity is Severity.WARNING
    assert told.text.startswith(
        f"no more {TYPE} may be launched, in whatever zone (as Scaleway says): ask Scaleway for a "
        "larger quota, or lower max_instances; it is tried again at 2026-09-0"
    )
    assert told.text.endswith(" at the earliest")
    for zone in (ZONE, OTHER_ZONE):
        assert story.names() == [QUOTA]
        story.has(instance(f"new-{zone}", zone=zone, created_at=story.now))
        story.cycle()
    assert story.names() == []


@pytest.mark.parametrize("step", [1, -1])
def test_a_placement_that_is_too_dear_does_not_hide_that_the_others_are_empty(step: int) -> None:
    places = [BOTH[0], {**BOTH[1], "type": "H100-SXM-2-80G", "max_price_per_hour": 1}][::step]
    story = Told(config({"placements": places}), prices={TYPE: 2.5, "H100-SXM-2-80G": 6.6})
    story.enqueue("t1")
    assert story.pass_(minutes(20), failure=Failure.OUT_OF_STOCK) == [f"+{OUT}"]


def test_stock_in_one_of_two_places_is_no_episode() -> None:
    story = waits()
    for _ in range(60):
        made = story.cycle()
        for effect in made.effects:
            if isinstance(effect, CreateInstance) and effect.order.placement == HERE:
                story.done(effect, failure=Failure.OUT_OF_STOCK)
            elif isinstance(effect, CreateInstance):
                story.has(instance(effect.subject, zone=OTHER_ZONE, created_at=story.now))
        story.pass_(seconds(30))
        assert story.names() == []


@pytest.mark.parametrize(
    "failure", [Failure.QUOTA, Failure.REJECTED, Failure.TRANSIENT, Failure.RATE_LIMITED]
)
def test_a_launch_that_fails_for_long_is_told_once_with_what_was_said(failure: Failure) -> None:
    story = waits()
    at_once = [f"+{QUOTA}"] if failure is Failure.QUOTA else []
    assert story.pass_(minutes(14), failure=failure) == at_once
    assert story.pass_(minutes(200), failure=failure) == [f"+{FAILING}"]
    told = story.standing()[FAILING]
    assert told.severity is Severity.ERROR
    what = f"{failure.value.replace('_', ' ')} (as Scaleway says)"
    assert told.text == (
        f"1 waiting in {QUEUE} since 2026-09-07 08:00, and no instance can be launched: "
        f"{HERE}: {what}; {THERE}: {what}; mend the cause, `gpu-autoscaler check --online` may "
        "name it"
    )


def test_a_mixed_cause_is_a_failing_launch_and_does_not_change_with_each_failure() -> None:
    story = waits()
    edges: list[str] = []
    for step in range(400):
        before = set(story.standing())
        made = story.cycle()
        for effect in made.effects:
            assert isinstance(effect, CreateInstance)
            here = effect.order.placement == HERE
            story.done(effect, failure=OUT_HERE if here or step % 7 == 0 else Failure.TRANSIENT)
        edges += sorted(set(story.standing()) ^ before)
    assert edges in ([FAILING], [OUT, FAILING, OUT], [OUT, OUT, FAILING])
    assert story.names() == [FAILING]


def test_both_kinds_of_a_queue_count_from_the_first_refusal() -> None:
    story = Told()
    story.enqueue("t1")
    story.pass_(minutes(10), failure=Failure.TRANSIENT)
    edges = story.pass_(minutes(10), failure=Failure.OUT_OF_STOCK)
    assert edges in ([f"+{OUT}"], [f"+{FAILING}"])
    assert next(iter(story.standing().values())).since - START <= minutes(3)


def test_a_maximum_is_a_wish_and_no_failure() -> None:
    story = Told(config({"placements": BOTH[:1], "max_instances": 1}))
    story.has(registered(NAME))
    story.run(NAME, "t0")
    story.enqueue("t1")
    # from an earlier day: still remembered, and not why nothing is launched now
    out = Backoff(HERE, Failure.OUT_OF_STOCK, 1, START, START + minutes(5), "no stock")
    busy = known(NAME, "running_task", booted_at=START - minutes(9))
    there = {f"id-{NAME}": busy}
    story.memory = replace(story.memory, backoffs=(out,), instances=there)
    assert story.pass_(minutes(60)) == []
    assert story.memory.backoffs != ()


def test_half_made_ones_that_cannot_be_removed_keep_tasks_waiting() -> None:
    story = Told(config({"placements": BOTH, "max_instances": 1}))
    story.enqueue("t1")
    old = {"tags": (PROVISIONING_TAG,), "created_at": START - minutes(30)}
    story.has(instance("half", "stopped", **old))
    edges = story.pass_(minutes(40), failure=Failure.REJECTED)
    assert edges == ["+orphan_removed half", f"+{FAILING}"]
    assert "could not be removed" in story.standing()[FAILING].text


def test_a_quota_of_another_zone_goes_on_when_its_pause_ends() -> None:
    quota = Backoff(HERE, Failure.QUOTA, 1, START, START + minutes(30), "quota")
    backoffs = Backoffs((quota,), START + minutes(31))
    assert backoffs.of(THERE, SPEC) is None
    assert backoffs.met(THERE, SPEC) == quota
    assert backoffs.met(Placement("L4-1-24G", OTHER_ZONE), SPEC) is None


def test_darkness_neither_ends_nor_begins_what_is_said_of_launches() -> None:
    story = waits()
    story.pass_(minutes(20), failure=Failure.OUT_OF_STOCK)
    story.clearml_down = True
    assert story.pass_(minutes(9)) == []
    story.clearml_down, story.dark_zones = False, {ZONE, OTHER_ZONE}
    assert story.pass_(minutes(9), failure=Failure.OUT_OF_STOCK) == []
    assert story.names() == [OUT]
    fresh = waits(dark_zones={ZONE, OTHER_ZONE})
    fresh.pass_(minutes(60))
    assert sorted(fresh.names()) == [
        f"observation_failing {ZONE}",
        f"observation_failing {OTHER_ZONE}",
    ]


def test_one_place_that_fails_while_the_other_is_dark_is_not_everywhere() -> None:
    story = waits(dark_zones={OTHER_ZONE})
    story.pass_(minutes(60), failure=Failure.OUT_OF_STOCK)
    assert story.names() == [f"observation_failing {OTHER_ZONE}"]


def test_one_place_that_fails_says_nothing_of_one_that_is_dark() -> None:
    story = waits()
    story.pass_(minutes(20), failure=Failure.OUT_OF_STOCK)
    story.dark_zones = {OTHER_ZONE}
    here = tuple(each for each in story.memory.backoffs if each.placement == HERE)
    story.memory = replace(story.memory, backoffs=here)
    assert story.pass_(minutes(1)) == []
    story.dark_zones = set()
    assert story.pass_(minutes(1)) == [f"-{OUT}"], "there it can be tried"


def boots_in_vain(story: Told, minutes_: float) -> list[str]:
    """Whatever is created runs and never registers; what is stopped stops, and goes."""
    edges: list[str] = []
    end = story.now + minutes(minutes_)
    while story.now < end:
        before = set(story.standing())
        made = story.cycle()
        edges += [f"+{n}" for n in sorted(set(story.standing()) - before)]
        edges += [f"-{n}" for n in sorted(before - set(story.standing()))]
        for effect in made.effects:
            if isinstance(effect, CreateInstance):
                there = instance(effect.subject, created_at=story.now)
                story.has(replace(there, tags=frozenset(effect.order.tags)))
            elif isinstance(effect, StopInstance):
                off = replace(story.instances[effect.subject], state=ServerState.STOPPED)
                story.has(off)
            elif effect.verb == "delete":
                story.gone.add(story.instances.pop(effect.subject).id)
        story.done(*made.effects)
    return edges


def test_an_agent_that_never_came_is_told_the_open_breaker_too_and_both_end_with_one() -> None:
    story = Told(config({"placements": BOTH[:1]}))
    story.enqueue("t1")
    one = f"never_registered {HERE} for {QUEUE}"
    many = f"never_registered breaker of {HERE} for {QUEUE}"
    assert boots_in_vain(story, 13) == [f"+{one}"]
    assert story.standing()[one].severity is Severity.WARNING
    where = f"booted at {HERE} for {QUEUE} and never registered: "
    assert story.standing()[one].text.startswith(f"An instance {where}")
    edges = boots_in_vain(story, 60)
    assert sorted(edges) == [f"+{FAILING}", f"+{many}"]
    assert story.standing()[many].severity is Severity.ERROR
    assert story.standing()[many].text.startswith(f"3 instances in a row {where}")
    assert "gpu-autoscaler render" in story.standing()[many].text
    story.gone |= {each.id for each in story.instances.values()}
    story.instances = {}
    story.has(registered("good", created_at=story.now))
    story.report("good")
    story.pass_(minutes(2))
    assert story.names() == []


def test_boots_in_vain_with_a_bootstrap_that_is_no_longer_used_are_over() -> None:
    story = Told()
    breaker = Breaker(HERE, SPEC, 3, START, START + minutes(30), 1)
    story.memory = replace(story.memory, breakers=(breaker,))
    assert len(story.pass_(seconds(30))) == 2
    story.specs = {QUEUE: "fff123abc123"}
    story.pass_(seconds(30))
    assert story.names() == []
    assert story.memory.breakers != ()


LOST = f"lost_worker {NAME}"
WHERE = f"{NAME} ({HERE}, {QUEUE})"
SILENT = {
    True: (
        "with task t1 on it: it is left alone until ClearML has ended the task; "
        "look at the machine, or abort the task"
    ),
    False: "without a task: if that lasts it is powered off, nothing is to be done",
}


def at_work(*, busy: bool) -> Told:
    story = Told()
    story.has(registered(NAME))
    story.report(NAME)
    story.cycle()
    if busy:
        story.enqueue("t1")
        story.run(NAME, "t1")
    story.pass_(minutes(3))
    return story


@pytest.mark.parametrize("busy", [True, False])
def test_a_lost_worker_is_told_and_over_when_it_reports(busy: bool) -> None:
    story = at_work(busy=busy)
    edges: list[str] = []
    for _ in range(8):
        before = set(story.standing())
        story.cycle(reports=False)
        edges += sorted(set(story.standing()) ^ before)
    assert edges == [LOST]
    told = story.standing()[LOST]
    assert told.severity is (Severity.ERROR if busy else Severity.WARNING)
    assert told.text == f"the agent of {WHERE} fell silent {SILENT[busy]}"
    assert told.since == story.memory.instances[f"id-{NAME}"].state_since
    assert told.since < story.now, "since it is silent, not since we look"
    assert story.pass_(minutes(2)) == [f"-{LOST}"]


def test_a_lost_worker_of_nobody_s_queue_is_told_too() -> None:
    story = Told()
    story.has(replace(registered(NAME), tags=frozenset({"managed-by", "fleet=test"})))
    story.report(NAME)
    story.pass_(minutes(2))
    for _ in range(8):
        story.cycle(reports=False)
    assert story.standing()[LOST].text.startswith(f"the agent of {NAME} ({HERE}, no queue) fell")


def test_who_was_told_of_a_beginning_is_told_of_the_end() -> None:
    story = at_work(busy=True)
    for _ in range(8):
        story.cycle(reports=False)
    story.tasks.clear()
    story.workers[NAME] = replace(story.workers[NAME], task_id=None)
    story.cycle(reports=False)
    told = story.standing()[LOST]
    assert "without a task" in told.text
    assert told.severity is Severity.ERROR


@pytest.mark.parametrize("dark", ["clearml", "zone"])
def test_darkness_does_not_bring_a_lost_worker_back(dark: str) -> None:
    story = at_work(busy=True)
    for _ in range(8):
        story.cycle(reports=False)
    if dark == "clearml":
        story.clearml_down = True
    else:
        story.dark_zones = {ZONE}
    story.cycle(reports=True)
    story.cycle(reports=True)
    assert story.names() == [LOST]
    assert story.memory.instances[f"id-{NAME}"].state != "unknown"


def test_nobody_is_lost_while_clearml_says_nothing() -> None:
    story = at_work(busy=False)
    story.clearml_down = True
    assert story.pass_(minutes(30)) == ["+observation_failing ClearML"]


def test_a_quarantined_machine_is_told_until_it_is_released_or_gone() -> None:
    story = at_work(busy=False)
    story.burn(NAME, "a", "b", "c")
    name = f"quarantined {NAME}"
    assert story.pass_(minutes(1)) == [f"+{name}"]
    assert story.standing()[name].severity is Severity.ERROR
    assert story.standing()[name].text == (
        f"{WHERE} fails every task at once and is quarantined, powered off and then removed: "
        "look at the tasks that failed on it; take off its tag `quarantined` to use it"
    )
    story.dark_zones = {ZONE}
    assert story.pass_(minutes(5)) == []
    story.dark_zones = set()
    story.gone.add(story.instances.pop(NAME).id)
    assert story.pass_(minutes(1)) == [f"-{name}"]


def test_a_removed_orphan_is_told_once_however_often_its_removal_fails() -> None:
    story = Told(volumes=[volume("v1")])
    edges = story.pass_(minutes(60), failure=Failure.REJECTED)
    assert edges == ["+orphan_removed v1"]
    told = story.standing()["orphan_removed v1"]
    assert (told.severity, told.kind.recovers) == (Severity.INFO, False)
    story.volumes = []
    assert story.pass_(minutes(10)) == ["-orphan_removed v1"]


def test_a_removed_half_made_server_is_told_once() -> None:
    story = Told()
    old = {"tags": (PROVISIONING_TAG,), "created_at": START - minutes(30)}
    story.has(instance("half", "stopped", **old))
    assert story.pass_(minutes(40), failure=Failure.TRANSIENT) == ["+orphan_removed half"]


NO_KEY = (
    "Scaleway refuses the daemon's key ({}): give it InstancesFullAccess and "
    "BlockStorageFullAccess on the project, or set a new one"
)


def test_a_permission_that_stays_lost_is_told_and_over_when_a_call_is_allowed() -> None:
    story = waits()
    assert story.pass_(minutes(1.5), failure=Failure.UNAUTHORIZED) == []
    edges = story.pass_(minutes(3), failure=Failure.UNAUTHORIZED)
    assert edges == ["+unauthorized Scaleway"]
    told = story.standing()["unauthorized Scaleway"]
    assert told.since - START <= seconds(90), "the first refusal, not the last"
    assert told.text == NO_KEY.format("calls that change something are refused")
    story.pass_(minutes(20), failure=Failure.UNAUTHORIZED)
    assert story.names() == [FAILING, "unauthorized Scaleway"]
    made = story.wait(minutes(10))
    story.done(*made.effects)
    assert "-unauthorized Scaleway" in story.pass_(minutes(1))


@pytest.mark.parametrize(
    ("who", "service", "text"),
    [
        ("ClearML", "ClearML", "ClearML refuses the daemon's key (401): set a new one"),
        (ZONE, "Scaleway", NO_KEY.format("403")),
    ],
)
def test_a_refused_look_is_one_episode_and_not_two(who: str, service: str, text: str) -> None:
    story = Told(refused=(who,))
    assert story.pass_(minutes(30)) == [f"+unauthorized {service}"]
    told = story.standing()[f"unauthorized {service}"]
    assert (told.severity, told.text) == (Severity.ERROR, text)
    story.refused = ()
    story.clearml_down, story.dark_zones = True, {ZONE}
    assert story.pass_(minutes(5)) == [], "no answer is no permission"
    story.clearml_down, story.dark_zones = False, set()
    assert story.pass_(minutes(1)) == [f"-unauthorized {service}"]


@pytest.mark.parametrize(
    ("subject", "service"),
    [("ClearML", "ClearML gives no full answer for more than 10m (down)"),
     (ZONE, f"Scaleway in {ZONE} gives no full answer for more than 10m (502)")],
)  # fmt: skip
def test_no_full_answer_for_long_is_told_and_over_with_the_first_one(
    subject: str, service: str
) -> None:
    story = Told(clearml_down=subject == "ClearML", dark_zones={subject} - {"ClearML"})
    assert story.pass_(minutes(9.5)) == []
    assert story.pass_(minutes(120)) == [f"+observation_failing {subject}"]
    told = story.standing()[f"observation_failing {subject}"]
    assert told.since - START <= seconds(30)
    assert told.text == (
        f"{service}: nothing is launched or stopped there; see whether the service, or the way "
        "to it, is down"
    )
    story.clearml_down, story.dark_zones = False, set()
    assert story.pass_(minutes(1)) == [f"-observation_failing {subject}"]
    assert story.memory.troubles == {}


def test_a_short_darkness_is_nothing() -> None:
    story = Told()
    for _ in range(6):
        story.clearml_down = True
        assert story.pass_(minutes(9)) == []
        story.clearml_down = False
        assert story.pass_(minutes(1)) == []


def test_they_are_kept_with_the_memory() -> None:
    story = waits(clearml_down=True, dark_zones={ZONE})
    story.pass_(minutes(20))
    adapter = TypeAdapter(Memory)
    story.memory = adapter.validate_json(adapter.dump_json(story.memory))
    before = story.memory.episodes
    assert len(before) == 2
    story.pass_(minutes(20))
    assert [(e.key, e.since) for e in story.memory.episodes] == [(e.key, e.since) for e in before]


def test_severities_are_in_order() -> None:
    assert Severity.ERROR.reaches(Severity.INFO)
    assert Severity.WARNING.reaches(Severity.WARNING)
    assert not Severity.INFO.reaches(Severity.WARNING)


def test_a_clock_that_is_set_back_moves_since_not_the_episode() -> None:
    story = Told(clearml_down=True)
    story.pass_(minutes(20))
    story.now -= timedelta(hours=2)
    assert story.pass_(seconds(30)) == []
    assert story.standing()["observation_failing ClearML"].since <= story.now
