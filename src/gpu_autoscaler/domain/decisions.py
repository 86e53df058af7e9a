"""What a cycle concluded: one source for the log, plans, and all views to come."""

from dataclasses import dataclass, field
from datetime import datetime

from gpu_autoscaler.domain.effects import Effect, Outcome, Reason
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView, ZoneView
from gpu_autoscaler.domain.requests import Answer, Request


@dataclass(frozen=True, slots=True)
class World:
    """What was observed in one cycle, and what ended since the last one."""

    clearml: ClearmlView
    zones: dict[str, ZoneView]
    specs: dict[str, str]
    """By queue: hash of the bootstrap an instance would get now."""
    prices: dict[str, float] = field(default_factory=dict)
    """Euros per hour by commercial type; empty while unknown."""
    outcomes: tuple[Outcome, ...] = ()
    in_flight: frozenset[str] = frozenset()
    """Keys of the effects that this process is still carrying out."""
    lost_memory: bool = False
    """This is the first cycle of a daemon that found no memory."""
    requests: tuple[Request, ...] = ()
    """What operators asked for since the last cycle."""


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
