"""Whatever happens, in whatever order, some things must never be planned."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    Failure,
    Guard,
    OnInstance,
    Reason,
    RemoveBootstrap,
    RescueTask,
    SetTags,
    StartInstance,
    StopInstance,
    placement_of,
)
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Memory
from gpu_autoscaler.domain.model import REGISTERED_TAG, FleetTags, ServerState, TaskStatus
from gpu_autoscaler.policy.guard import claims_on, refusal
from gpu_autoscaler.policy.plan import plan
from tests.policy.drill import BOTH, Drill
from tests.policy.worlds import QUEUE, ZONE, Story, config, registered, verbs

EVENTS = (
    *("enqueue", "enqueue", "finish", "finish", "silence", "watchdog", "clearml", "zone", "queue"),
    *("forget", "edit", "bootstrap", "protect", "keep", "lock", "crash", "stand_by", "remove"),
    *("fail", "fail", "break_next", "jump", "pull_late", "enqueue", "spoil", "abort", "release"),
    *("stock", "stock"),
)
SETTLED_WITHIN = 260
"""Cycles (130 minutes): an outage is believed in for an hour, then all timeouts one by one."""
BREAKERS_SETTLE_WITHIN = 500
"""Cycles: an open breaker tries again after four hours at most."""
QUIET_FOR = 20
OUT = Failure.OUT_OF_STOCK


def copied(memory: Memory) -> Memory:
    """With dictionaries of its own, to see whether the plan touches those it was given."""
    return replace(
        memory,
        instances=dict(memory.instances),
        pending=dict(memory.pending),
        power_offs=dict(memory.power_offs),
        rescued=dict(memory.rescued),
        requeued=dict(memory.requeued),
        popped=dict(memory.popped),
        free_volumes=dict(memory.free_volumes),
        retired=dict(memory.retired),
        queue_ids=dict(memory.queue_ids),
    )


class Checked(Drill):
    """A drill in which every plan is looked at."""

    def cycle(self) -> Plan:
        in_flight = {each.effect.key for each in self.flying if each.cycles > 0}
        before = self.story.memory
        kept = copied(before)
        made = super().cycle()
        self.pure(before, kept, made)
        self.keys(made, in_flight)
        for effect in made.effects:
            assert effect.because
            if isinstance(effect, CreateInstance | StartInstance):
                self.launch(effect)
            if isinstance(effect, StopInstance | DeleteInstance):
                self.removal(effect)
            if isinstance(effect, OnInstance):
                self.ours(effect)
            if isinstance(effect, RescueTask):
                self.put_back(effect)
        self.bounds(made)
        return made

    def pure(self, before: Memory, kept: Memory, made: Plan) -> None:
        again = plan(self.story.shown, before, self.story.config, self.story.now)
        assert again == made, "the same inputs gave another plan"
        assert before == kept, "the plan changed the memory it was given"

    def keys(self, made: Plan, in_flight: set[str]) -> None:
        keys = [effect.key for effect in made.effects]
        assert len(keys) == len(set(keys)), keys
        assert set(keys) <= set(made.memory.pending)
        assert not in_flight & set(keys), "planned again while under way"

    def launch(self, effect: CreateInstance | StartInstance) -> None:
        story = self.story
        assert not story.clearml_down
        assert story.queue_exists
        self.empty_shelves(effect)
        if isinstance(effect, CreateInstance):
            zone, tags = effect.order.placement.zone, frozenset(effect.order.tags)
            assert FleetTags("test").owns(tags)
            assert effect.order.name not in story.instances
        else:
            zone = effect.instance.zone
            assert story.instances[effect.subject].state is ServerState.STOPPED
        assert zone not in story.dark_zones

    def empty_shelves(self, effect: CreateInstance | StartInstance) -> None:
        """None is launched where a back-off lasts, and after it one alone, whatever the probe
        says: so each back-off sees one failure at most."""
        memory, place = self.story.memory, placement_of(effect)
        own = [b for b in memory.backoffs if b.placement == place and b.failure is OUT]
        assert all(b.until <= self.story.now for b in own)
        launches = (p for p in memory.pending.values() if p.key.startswith(("create:", "start:")))
        under_way = [p.key for p in launches if p.placement == place and not p.failed]
        assert not own or under_way == [effect.key]

    def removal(self, effect: StopInstance | DeleteInstance) -> None:
        story, name = self.story, effect.subject
        half_made = effect.reason is Reason.HALF_MADE
        assert not story.clearml_down or half_made
        if isinstance(effect, DeleteInstance):
            assert story.instances[name].state is ServerState.STOPPED
            return
        if effect.guard is Guard.QUARANTINE:
            view = self.story.shown.clearml
            assert not refusal(effect.guard, effect.instance, story.now, view, (), story.now)
        elif effect.guard is not Guard.NONE:
            workers, tasks = list(story.workers.values()), list(story.tasks.values())
            assert claims_on(name, workers, tasks) == ()
            assert self.machines[name].task is None, "it runs a task"
        else:
            assert story.instances[name].state is ServerState.STOPPED_IN_PLACE

    def put_back(self, effect: RescueTask) -> None:
        queue = self.story.config.queues.get(QUEUE)
        assert not effect.task.stop_requested
        if effect.reason is Reason.LOST_TASK:
            assert queue is not None
            assert queue.on_lost == "requeue"
            assert effect.task.id not in self.aborted, "a person stopped it"
            before = self.story.memory.requeued.get(effect.task.id)
            assert before is None or before.count < queue.max_requeues

    def ours(self, effect: OnInstance) -> None:
        there = self.story.instances[effect.subject]
        assert FleetTags("test").owns(there.tags)
        assert there.zone not in self.story.dark_zones, "it was not seen in this cycle"
        assert not there.protected
        assert there.state is not ServerState.LOCKED
        if isinstance(effect, SetTags):
            assert FleetTags("test").owns((there.tags | effect.add) - effect.remove)
        if isinstance(effect, RemoveBootstrap):
            assert REGISTERED_TAG in there.tags, "its next boot would need it"
        kept = any(tag == "keep" or tag.startswith("keep=") for tag in there.tags)
        assert not kept or effect.reason is Reason.KEEP_ENDED or self._keep_over(effect)

    def _keep_over(self, effect: OnInstance) -> bool:
        """An ended keep may still stand on the server while what takes it off is under way."""
        decision = next(d for d in self.story.last.instances if d.name == effect.subject)  # type: ignore[union-attr]
        return decision.reason is not Reason.HANDS_OFF

    def bounds(self, made: Plan) -> None:
        launched = [e for e in made.effects if isinstance(e, CreateInstance | StartInstance)]
        if launched:
            queue = self.story.config.queues[QUEUE]
            most = [n for n in (queue.max_instances, self.story.config.max_instances) if n]
            assert self.paid() <= min(most), f"{self.paid()} paid for, {most} allowed"


class AnyDay(RuleBasedStateMachine):
    """Whatever happens, no plan breaks a rule; then all is mended, and nothing more is planned."""

    def __init__(self) -> None:
        super().__init__()
        self.drill = Checked()
        self.broken = False

    @rule(event=st.sampled_from(EVENTS), number=st.integers(0, 1000), cycles=st.integers(0, 12))
    def happens(self, event: str, number: int, cycles: int) -> None:
        """Something, and so many cycles pass before the next thing does."""
        self.broken = True
        getattr(self.drill, event)(number)
        for _ in range(cycles + 1):
            self.drill.cycle()
        self.broken = False

    def teardown(self) -> None:
        if self.broken:
            return
        drill = self.drill
        drill.calm()
        for _ in range(SETTLED_WITHIN):
            drill.cycle()
        for _ in range(BREAKERS_SETTLE_WITHIN if drill.story.memory.breakers else 0):
            drill.cycle()
        plans = [drill.cycle() for _ in range(QUIET_FOR)]
        assert [e.because for made in plans for e in made.effects] == []
        assert not drill.caught, "caught by a power-off, and never rescued"


TestAnyDay = AnyDay.TestCase
TestAnyDay.settings = settings(
    max_examples=120,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    # to shrink a story takes minutes: add Phase.shrink by hand when one fails
    phases=(Phase.explicit, Phase.generate),
)


def test_the_memory_of_an_older_version_is_kept_as_one_of_this() -> None:
    story = Story(memory=Memory(version=1))
    assert story.cycle().memory.version == SCHEMA_VERSION


def test_machines_that_never_register_bound_the_launches() -> None:
    drill = Checked(dud=True)
    drill.enqueue(2)
    launched = 0
    for _ in range(24 * 120):
        launched += verbs(drill.cycle()).count("create")
    places, hours = len(BOTH), 24
    assert launched <= places * (3 + 3 + hours / 4), "three in a row, then 30 min, 1 h, 2 h, 4 h"


def test_a_black_hole_costs_some_tasks_and_not_the_queue() -> None:
    drill = Checked()
    drill.enqueue(0)
    while not any(m.up for m in drill.machines.values()):
        drill.cycle()
    drill.spoil(3)
    for number in range(10):
        drill.enqueue(number)
    drill.enqueue(2)
    tasks = drill.count
    for _ in range(120):
        drill.cycle()
        drill.finish(0)
    ended = [t.status for t in drill.story.ended or []]
    assert ended.count(TaskStatus.FAILED) <= 8, "what it had pulled before we looked"
    assert len(ended) == tasks, "the others ran elsewhere"


def test_an_accepted_start_counts_while_its_zone_is_dark() -> None:
    story = Story(config=config({"placements": BOTH, "max_instances": 1}))
    story.has(registered(state="stopped"))
    story.cycle()
    story.enqueue("t1")
    made = story.cycle()
    assert verbs(made) == ["start"]
    story.done(*made.effects)
    story.instances.clear()
    story.dark_zones = {ZONE}
    plans = [story.cycle() for _ in range(10)]
    assert [verbs(each) for each in plans] == [[]] * 10, "one is billed, and one is allowed"


def test_an_accepted_creation_counts_while_its_zone_is_dark() -> None:
    story = Story(config=config({"placements": BOTH, "max_instances": 1}))
    story.enqueue("t1")
    made = story.cycle()
    assert verbs(made) == ["create"]
    story.done(*made.effects)
    story.dark_zones = {ZONE}
    plans = [story.cycle() for _ in range(10)]
    assert [verbs(each) for each in plans] == [[]] * 10


def test_a_task_on_a_machine_of_a_deleted_queue_keeps_it_however_silent() -> None:
    story = Story(config=config({"lost_timeout": "5m"}))
    story.has(registered())
    story.report(registered().name)
    story.enqueue("t1")
    story.run(registered().name, "t1")
    for _ in range(3):
        story.cycle()
    story.queue_exists = False
    for _ in range(20):
        story.cycle(reports=False)
    story.workers.clear()
    plans = [story.cycle(reports=False) for _ in range(200)]
    assert [e.key for made in plans for e in made.effects] == []


def test_a_caught_task_is_rescued_also_after_a_long_outage_of_clearml() -> None:
    name = registered().name
    story = Story()
    story.has(registered())
    story.report(name)
    made = story.wait(timedelta(minutes=40))
    assert verbs(made) == ["stop"]
    story.done(*made.effects)
    story.enqueue("t1")
    story.run(name, "t1")
    story.end("t1", "stopped")
    story.workers.clear()
    story.has(registered(state="stopped"))
    story.clearml_down = True
    for _ in range(60):
        story.cycle(reports=False)
    story.clearml_down = False
    made = story.wait(timedelta(minutes=5))
    assert verbs(made) == ["rescue"]
