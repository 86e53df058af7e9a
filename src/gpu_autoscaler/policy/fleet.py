"""The fleet while a plan is made: what every rule reads, and where it leaves its conclusions."""

from dataclasses import dataclass, field
from datetime import datetime

from gpu_autoscaler.config.models import Config, QueueConfig
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import LISTING_LAG, CreateInstance, Effect, OnInstance, Reason
from gpu_autoscaler.domain.lifecycle import BILLED
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory, Pending
from gpu_autoscaler.domain.model import Placement, TaskStatus
from gpu_autoscaler.policy.state import Fact
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
    pending: dict[str, Pending]
    """Under way, including what this plan adds; by effect key."""
    effects: list[Effect] = field(default_factory=list)
    verdicts: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    """Why nothing is done with an instance, by server id."""

    def queue(self, name: str) -> QueueConfig | None:
        """Its settings; None for a queue that left the configuration."""
        return self.config.queues.get(name)

    def of_queue(self, name: str) -> list[Fact]:
        """The queue's instances, in the order of their names."""
        return sorted((f for f in self.facts.values() if f.instance.queue == name), key=_by_name)

    def unlisted_creates(self, queue: str | None = None) -> list[Pending]:
        """Instances under way that no listing shows yet; they count as booting."""
        listed = {fact.name for fact in self.facts.values()}
        return [
            p
            for key, p in self.pending.items()
            if key.startswith("create:")
            and p.name not in listed
            and (queue is None or p.queue == queue)
        ]

    def billed(self, queue: str | None = None) -> int:
        """How many instances are paid for, of one queue or of all."""
        listed = sum(
            f.state in BILLED and (queue is None or f.instance.queue == queue)
            for f in self.facts.values()
        )
        starting = sum(
            f.state not in BILLED
            and f"start:{f.instance.id}" in self.pending
            and (queue is None or f.instance.queue == queue)
            for f in self.facts.values()
        )
        return listed + starting + len(self.unlisted_creates(queue))

    def eur_per_hour(self) -> float:
        """What all billed instances cost; types without a known price count as nothing."""
        prices = self.world.prices
        listed = sum(
            prices.get(f.instance.commercial_type, 0.0)
            for f in self.facts.values()
            if f.state in BILLED or f"start:{f.instance.id}" in self.pending
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
        queued = {t.id for t in self.world.clearml.open_tasks if t.status is TaskStatus.QUEUED}
        return sorted(e.added_at for e in known.entries if e.task_id in queued)

    def tasks_looked_at(self, fact: Fact) -> bool:
        """Whether, since it is down, ClearML was asked for a task that the power-off caught.

        Before that it is neither deleted nor started: either would blur whose doing it was.
        """
        if fact.name not in self.memory.power_offs:
            return True
        hanging = any(
            task.machine == fact.name
            and task.status is TaskStatus.IN_PROGRESS
            and not task.stop_requested
            for task in self.world.clearml.open_tasks
        )
        asked = self.world.clearml.ended_tasks is not None
        return fact.previous is S.STOPPED and asked and not hanging

    def touchable(self, fact: Fact) -> bool:
        """Whether an effect on this instance may be planned now; if not, the verdict says why."""
        if fact.hands_off:
            self.verdicts[fact.instance.id] = (Reason.HANDS_OFF, f"hands off: {fact.hands_off}")
        elif not fact.seen:
            self.verdicts[fact.instance.id] = (
                Reason.UNSEEN,
                f"not listed in {fact.instance.zone} in this cycle: counted as it was last seen",
            )
        elif under_way := self.under_way(fact):
            self.verdicts[fact.instance.id] = (
                Reason.IN_FLIGHT,
                f"{under_way.key.partition(':')[0]} is under way",
            )
        else:
            return True
        return False

    def under_way(self, fact: Fact) -> Pending | None:
        """What is being done to this instance already, if anything."""
        keys = [f"{verb}:{fact.instance.id}" for verb in ("start", "stop", "delete", "tag")]
        keys.append(f"create:{fact.name}")
        return next((self.pending[key] for key in keys if key in self.pending), None)

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
        self.effects.append(effect)
        self.pending[effect.key] = Pending(
            key=effect.key,
            name=effect.subject,
            decided_at=self.now,
            expires_at=self.now + effect.deadline + LISTING_LAG,
            queue=queue,
            placement=placement,
        )

    def zone_answers(self, zone: str) -> bool:
        """Whether the zone was listed completely in this cycle."""
        view = self.world.zones.get(zone)
        return view is not None and view.complete

    def usable(self, placement: Placement) -> bool:
        """Whether a launch may be tried there now."""
        return self.zone_answers(placement.zone) and self.backoffs.of(placement) is None


def _by_name(fact: Fact) -> str:
    return fact.name
