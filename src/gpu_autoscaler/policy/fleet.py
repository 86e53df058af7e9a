"""The fleet while a plan is made: what every rule reads, and where it leaves its conclusions."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from gpu_autoscaler.config.models import Config, QueueConfig
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import (
    LISTING_LAG,
    CreateInstance,
    Effect,
    OnInstance,
    Reason,
    RescueTask,
    StartInstance,
)
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory, Pending
from gpu_autoscaler.domain.model import Placement, Task, TaskStatus
from gpu_autoscaler.policy.breaker import Breakers
from gpu_autoscaler.policy.budgets import Standing
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.questions import queue_names
from gpu_autoscaler.policy.settings import WORKER_FRESH
from gpu_autoscaler.policy.stock import Backoffs


@dataclass(slots=True)
class Fleet:
    """One cycle's working state. Rules add effects; nothing here reads or writes outside."""

    config: Config
    world: World
    memory: Memory
    now: datetime
    facts: dict[str, Fact]
    """By server id."""
    backoffs: Backoffs
    breakers: Breakers
    pending: dict[str, Pending]
    """Under way, including what this plan adds; by effect key."""
    effects: list[Effect] = field(default_factory=list)
    verdicts: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    """Why nothing is done with an instance, by server id."""
    _by_queue: dict[str, list[str]] = field(default_factory=dict)
    by_name: dict[str, str] = field(default_factory=dict)
    """Server ids."""
    _queued: frozenset[str] = frozenset()
    _queues_read: frozenset[str] = frozenset()
    """Names: an instance of another one, found without memory, may run what nobody asked for."""
    _unlisted: dict[str, list[Pending]] = field(default_factory=dict)
    """Creations under way that no listing shows yet, by queue."""
    budgets: tuple[Standing, ...] = ()
    """How each stood when this cycle began."""
    withheld: set[str] = field(default_factory=set)
    """Machines with a task that goes back to its queue once it is sure that they are off."""
    names_taken: set[str] = field(default_factory=set)
    """What a new instance must not be called."""
    idle_others: Counter[str] = field(default_factory=Counter)
    """By queue id: agents that are nobody's instance; they will take a waiting task too."""

    def __post_init__(self) -> None:
        """Index what every rule asks for; the set of instances is the same all through a plan."""
        for server_id, fact in sorted(self.facts.items(), key=lambda item: item[1].name):
            self._by_queue.setdefault(fact.instance.queue, []).append(server_id)
        self.by_name = {fact.name: server_id for server_id, fact in self.facts.items()}
        self._queues_read = frozenset(queue_names(self.memory, self.config))
        self._queued = frozenset(
            t.id for t in self.world.clearml.open_tasks if t.status is TaskStatus.QUEUED
        )
        self.names_taken |= self.by_name.keys() | self.memory.retired.keys()
        for pending in self.pending.values():
            self._note(pending)
        self.idle_others = self._idle_workers_of_others()

    def _idle_workers_of_others(self) -> Counter[str]:
        """Only fresh ones: an entry outlives its machine by ten minutes and still looks idle."""
        ours = self.by_name.keys() | self.memory.retired.keys()
        ours |= {known.last_seen.name for known in self.memory.instances.values()}
        workers = self.world.clearml.workers
        busy = {w.id for w in workers if w.task_id}
        idle = {
            (queue_id, w.id)
            for w in workers
            if w.id not in busy
            and w.machine not in ours
            and self.now - w.last_report_at < WORKER_FRESH
            for queue_id in w.queue_ids
        }
        return Counter(queue_id for queue_id, _ in idle)

    @property
    def clearml_now(self) -> datetime:
        """The present moment on ClearML's clock, by which power-offs are timed: ours may be set, or
        be another daemon's, before their tasks are looked at."""
        return self.now + self.world.clearml.skew

    def queue(self, name: str) -> QueueConfig | None:
        """Its settings; None for a queue that left the configuration."""
        return self.config.queues.get(name)

    def spec(self, queue: str, placement: Placement) -> str:
        """Hash of all that an instance of the queue would be made with there now."""
        return self.world.spec(queue, placement)

    def of_queue(self, name: str) -> list[Fact]:
        """The queue's instances, in the order of their names."""
        return [self.facts[server_id] for server_id in self._by_queue.get(name, ())]

    def under_way(self, verb: str, fact: Fact) -> bool:
        """Whether this is being done to the instance, by this cycle or an earlier one."""
        pending = self.pending.get(f"{verb}:{fact.instance.id}")
        return pending is not None and not pending.failed

    def unlisted_creates(self, queue: str | None = None) -> list[Pending]:
        """Instances under way that no listing shows yet; they count as booting."""
        if queue is not None:
            return self._unlisted.get(queue, [])
        return [pending for of_queue in self._unlisted.values() for pending in of_queue]

    def _note(self, pending: Pending) -> None:
        self.names_taken.add(pending.name)
        if pending.key.startswith("create:") and pending.name not in self.by_name:
            self._unlisted.setdefault(pending.queue, []).append(pending)
            if pending.placement is not None:
                spec = self.spec(pending.queue, pending.placement)
                self.breakers.launched(pending.placement, spec)

    def billed(self, queue: str | None = None) -> int:
        """How many instances are paid for, of one queue or of all."""
        facts = self.facts.values() if queue is None else self.of_queue(queue)
        listed = sum(f.billed or self.under_way("start", f) for f in facts)
        return listed + len(self.unlisted_creates(queue))

    def staying(self, queue: str | None = None) -> int:
        """How many of these are not on their way out."""
        facts = self.facts.values() if queue is None else self.of_queue(queue)
        leaving = (S.STOPPING, S.QUARANTINED)
        going = (f for f in facts if f.state in leaving or self.under_way("stop", f))
        return self.billed(queue) - sum(fact.billed for fact in going)

    def eur_per_hour(self) -> float:
        """What all billed instances cost; types without a known price count as nothing."""
        prices = self.world.prices
        listed = sum(
            prices.get(f.instance.commercial_type, 0.0)
            for f in self.facts.values()
            if f.billed or self.under_way("start", f)
        )
        under_way = sum(
            prices.get(p.placement.commercial_type, 0.0)
            for p in self.unlisted_creates()
            if p.placement is not None
        )
        return listed + under_way

    def waiting(self, queue: str) -> list[datetime]:
        """Since when each task waits that is really queued, oldest first.

        Entries outlive their tasks in some cases, and may name tasks that never existed.
        """
        known = self.world.clearml.queues.get(queue)
        if known is None:
            return []
        return sorted(e.added_at for e in known.entries if e.task_id in self._queued)

    def returning(self, queue: str) -> int:
        """How many tasks this plan puts back: the next cycle sees them wait."""
        known = self.world.clearml.queues.get(queue)
        rescues = (effect for effect in self.effects if isinstance(effect, RescueTask))
        return sum(known is not None and each.task.queue_id == known.id for each in rescues)

    def tasks_looked_at(self, fact: Fact) -> bool:
        """Whether, since it is down, ClearML was asked for a task that the power-off caught.

        Before that, and before they are back, it is neither deleted nor started: either would blur
        whose doing it was, and a start ends the watch.
        """
        if fact.name not in self.memory.power_offs:
            return True
        clearml = self.world.clearml
        tasks = (*clearml.open_tasks, *(clearml.ended_tasks or ()))
        caught = any(
            (task.status is TaskStatus.IN_PROGRESS and not task.stop_requested)
            or f"rescue:{task.id}" in self.pending  # also one that failed and is tried again
            for task in tasks
            if task.machine == fact.name
        )
        asked = clearml.ended_tasks is not None
        caught = caught or fact.name in self.withheld
        return fact.previous is S.STOPPED and asked and not caught

    def touchable(self, fact: Fact, verb: str) -> bool:
        """Whether this may be planned for this instance now; if not, the verdict says why."""
        tried = self.pending.get(f"{verb}:{fact.instance.id}")
        if fact.hands_off:
            verdict = Reason.HANDS_OFF, f"hands off: {fact.hands_off}"
        elif not fact.seen:
            zone = fact.instance.zone
            verdict = Reason.UNSEEN, f"not listed in {zone} in this cycle: counted as last seen"
        elif fact.instance.queue and fact.instance.queue not in self._queues_read:
            text = f"the tasks of its queue {fact.instance.queue} were not asked for in this cycle"
            verdict = Reason.INCOMPLETE, text
        elif tried is not None and tried.failed:
            again = f"tried again at {tried.expires_at:%H:%M:%S}"
            verdict = Reason.IN_FLIGHT, f"{verb} failed, {again}"
        elif doing := self._doing(fact, verb):
            verdict = Reason.IN_FLIGHT, f"{doing} is under way"
        else:
            return True
        self.verdicts[fact.instance.id] = verdict
        return False

    def _doing(self, fact: Fact, verb: str) -> str:
        if f"create:{fact.name}" in self.pending:
            return "create"
        verbs = ["start", "delete"]
        tagging = self.pending.get(f"tag:{fact.instance.id}")
        if tagging is not None and (verb == "tag" or not tagging.done):
            verbs.append("tag")  # once accepted, it is in nobody's way but its own
        if fact.state is not S.STOPPED:  # a stop that is seen to be done needs no news of its end
            verbs.append("stop")
        return next((verb for verb in verbs if self.under_way(verb, fact)), "")

    def add(self, effect: Effect) -> None:
        """Plan an effect, and remember it as under way before anybody acts on it."""
        queue, placement = "", None
        match effect:
            case CreateInstance(order=order):
                queue, placement = order.queue, order.placement
            case OnInstance(instance=instance):
                queue, placement = instance.queue, instance.placement
            case _:
                pass
        if isinstance(effect, StartInstance):
            self.breakers.launched(effect.instance.placement, effect.instance.spec)
        self.effects.append(effect)
        pending = self.pending[effect.key] = Pending(
            key=effect.key,
            name=effect.subject,
            decided_at=self.now,
            expires_at=self.now + effect.deadline + LISTING_LAG,
            queue=queue,
            placement=placement,
        )
        self._note(pending)

    def put_back(self, task: Task, reason: Reason, because: str) -> None:
        """Plan a task's return to the head of its queue, unless that is under way."""
        if f"rescue:{task.id}" not in self.pending:
            self.add(RescueTask(task=task, reason=reason, because=because))

    def trying_stock(self, placement: Placement) -> str:
        """Name of what is being launched where the last launch met an empty shelf: until that runs
        nobody knows whether there is more, and one failure says as much as five. Empty if none is.
        """
        if not self.backoffs.was_empty(placement):
            return ""
        launches = (p for p in self.pending.values() if p.key.startswith(("create:", "start:")))
        found = [p.name for p in launches if p.placement == placement and not p.failed]
        found += [
            fact.name
            for fact in self.facts.values()
            if fact.instance.placement == placement
            and fact.state in (S.PROVISIONING, S.STARTING)
            and not (fact.abandoned or fact.overdue)
        ]
        return found[0] if found else ""

    def zone_answers(self, zone: str) -> bool:
        """Whether the zone was listed completely in this cycle."""
        view = self.world.zones.get(zone)
        return view is not None and view.complete
