"""When the clock was set, or the next daemon's is another: what is remembered, by the present one.

A machine whose boot seems to begin in ten minutes would have no reports until then, and be taken
for one that never registered; a launch that seems to be long over would be made a second time.
"""

from dataclasses import fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from gpu_autoscaler.domain.memory import Memory, PowerOff
from gpu_autoscaler.policy.settings import START_SETTLE

T = TypeVar("T")

_ENDS = frozenset({"expires_at", "until"})
"""What lies in the future by its nature: moved along with the clock."""

_BY_CLEARML = frozenset({"fast_failures", "failures_from"})
"""By ClearML's clock, which was not set back."""


def by_another_clock(memory: Memory, now: datetime) -> Memory:
    """The same memory, in which nothing under way is over before every listing shows it."""
    pending = dict(memory.pending)
    for key, each in pending.items():
        later = now + START_SETTLE - each.expires_at
        if later > timedelta(0):
            decided_at, expires_at = each.decided_at + later, each.expires_at + later
            pending[key] = replace(each, decided_at=decided_at, expires_at=expires_at)
    return replace(memory, pending=pending)


def turned_back(memory: Memory, now: datetime) -> Memory:
    """The same memory as seen from `now`, which may be before it was made."""
    if memory.planned_at is None or memory.planned_at <= now:
        return memory
    return _seen_from(memory, now, memory.planned_at - now)


def _seen_from(value: T, now: datetime, back: timedelta) -> T:
    found: Any = value
    if isinstance(value, PowerOff):
        pass  # its times are ClearML's
    elif isinstance(value, datetime):
        found = min(value, now)
    elif isinstance(value, dict):
        found = {key: _seen_from(each, now, back) for key, each in value.items()}
    elif isinstance(value, tuple):
        found = tuple(_seen_from(each, now, back) for each in value)
    elif is_dataclass(value):
        parts: dict[str, Any] = {}
        for field in fields(value):
            if field.name in _BY_CLEARML:
                continue
            part = getattr(value, field.name)
            is_end = field.name in _ENDS
            parts[field.name] = part - back if is_end else _seen_from(part, now, back)
        found = replace(value, **parts)  # type: ignore[type-var]
    return found  # type: ignore[no-any-return]
