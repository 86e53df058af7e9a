"""What a cycle concluded: one source for the log, plans, and all views to come."""

from dataclasses import dataclass, field
from datetime import datetime

from gpu_autoscaler.domain.effects import Effect, Outcome, Reason
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView, Placement, ZoneView
from gpu_autoscaler.domain.requests import Answer, Request


@dataclass(frozen=True, slots=True)
class World:
    """What was observed in one cycle, and what ended since the last one."""

    clearml: ClearmlView
    zones: dict[str, ZoneView]
    specs: dict[str, str]
    """By queue: hash of all that an instance would be made with now."""
    own_specs: dict[tuple[str, Placement], str] = field(default_factory=dict)
    """The same, where a placement of a queue has settings of its own."""
    prices: dict[str, float] = field(default_factory=dict)
    """Euros per hour by commercial type (the zones agree on them); empty while unknown."""
    prices_read_at: datetime | None = None
    """When the oldest of them was read."""
    outcomes: tuple[Outcome, ...] = ()
    in_flight: frozenset[str] = frozenset()
    """Keys of the effects that this process is still carrying out."""
    lost_memory: bool = False
    """This is the first cycle of a daemon that found no memory."""
    requests: tuple[Request, ...] = ()
    """What operators asked for since the last cycle."""

    def spec(self, queue: str, placement: Placement) -> str:
        """Hash of all that an instance of the queue would be made with there now; empty while
        nobody knows."""
        return self.own_specs.get((queue, placement), self.specs.get(queue, ""))


@dataclass(frozen=True, slots=True)
class QueueDecision:
    """What is done for a queue, or why nothing is."""

    queue: str
    reason: Reason
    because: str
    demand: int = 0
    oldest_entry_at: datetime | None = None
    capacity: int = 0
    billed: int = 0
    busy: int = 0
    launched: int = 0


@dataclass(frozen=True, slots=True)
class InstanceDecision:
    """What is done with an instance, or why nothing is."""

    name: str
    queue: str
    state: InstanceState
    state_since: datetime
    reason: Reason
    because: str
    previous: InstanceState | None = None
    """The state before, when it changed in this cycle."""
    effect: Effect | None = None
    hands_off: str = ""
    """Why it is never touched; empty when it may be."""
    from_outside: bool = False
    """The change of state was nobody's decision here: a person's, or Scaleway's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole answer of the policy to one world."""

    effects: tuple[Effect, ...]
    memory: Memory
    queues: tuple[QueueDecision, ...]
    instances: tuple[InstanceDecision, ...]
    answers: tuple[Answer, ...] = ()
    """To the requests, in their order."""
