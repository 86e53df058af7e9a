"""When the clock was set, or the next daemon's is another: what is remembered, by the present one.

A machine whose boot seems to begin in ten minutes would have no reports until then, and be taken
for one that never registered; a launch that seems to be long over would be made a second time.
ClearML's clock is the same for all: each memory says how far it was ahead of its writer's.
"""

from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.ledger import Stretch
from gpu_autoscaler.domain.memory import Memory, PowerOff
from gpu_autoscaler.domain.model import Instance
from gpu_autoscaler.policy.settings import CLOCK_MARGIN

T = TypeVar("T")

_BY_OTHER_CLOCKS = (PowerOff, Instance, Stretch)
"""By ClearML's, and by Scaleway's; what is being written to the ledger must stay the same."""
_FIXED = frozenset({"fast_failures", "failures_from", "booked_until"})
"""By ClearML's clock, and what the ledger says."""


def by_present_clock(memory: Memory, world: World, now: datetime) -> Memory:
    """The same memory as our clock would have written it; nothing in it lies after `now`."""
    if memory.planned_at is None:
        return memory
    by = timedelta(0)
    if world.clearml.complete and abs(memory.skew - world.clearml.skew) > CLOCK_MARGIN:
        by = memory.skew - world.clearml.skew
    by = min(by, now - memory.planned_at)
    return replace(_moved(memory, by), skew=memory.skew - by) if by else memory


def _moved(value: T, by: timedelta) -> T:
    """With every moment in it later by so much."""
    found: Any = value
    if isinstance(value, _BY_OTHER_CLOCKS):
        pass
    elif isinstance(value, datetime):
        found = value + by
    elif isinstance(value, dict):
        found = {key: _moved(each, by) for key, each in value.items()}
    elif isinstance(value, tuple):
        found = tuple(_moved(each, by) for each in value)
    elif is_dataclass(value):
        names = (field.name for field in fields(value) if field.name not in _FIXED)
        parts = {name: _moved(getattr(value, name), by) for name in names}
        found = replace(value, **parts)  # type: ignore[type-var]
    return found  # type: ignore[no-any-return]
