"""What was used and what it cost: the records of the ledger, one page of them a day.

A page holds JSON lines, one record each, told apart by `kind`. Times are UTC, money is in euros
without tax. Every moment of every instance is in exactly one stretch, so their costs add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

from gpu_autoscaler.domain.lifecycle import BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S

HOUR = timedelta(hours=1)


class Use(StrEnum):
    """What a stretch was good for, as reports sum it up."""

    BUSY = "busy"
    BOOT = "boot"
    """From power-on to the agent's first report."""
    IDLE = "idle"
    """Powered on without a task, whatever the reason."""
    STOPPED = "stopped"
    """Powered off: the volume alone is paid for."""


_USES: Mapping[S, Use] = {S.RUNNING_TASK: Use.BUSY, **dict.fromkeys(BOOTING, Use.BOOT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A while, within one day, that an instance spent in one state."""

    server_id: str
    instance: str
    queue: str
    commercial_type: str
    zone: str
    state: S
    since: datetime
    until: datetime
    powered_on_at: datetime | None = None
    """Beginning of the power-on that it is part of; None while the machine is off."""
    eur_per_hour: float | None = 0.0
    """Of the machine; 0 while it is off, None when its price was not known."""
    storage_eur_per_hour: float = 0.0
    """Of its volume, and of its address while it is on."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Names, by id, of the tasks that were on it."""
    rounding_seconds: float = 0.0
    """Billed beyond `until`, when the power-on ended then: the begun unit of billing."""
    kind: Literal["stretch"] = "stretch"

    @property
    def key(self) -> tuple[str, datetime]:
        """Two records with one key are one stretch, told twice."""
        return self.server_id, self.since

    @property
    def use(self) -> Use:
        """What it was good for."""
        return _USES.get(self.state, Use.IDLE) if self.powered else Use.STOPPED

    @property
    def powered(self) -> bool:
        """Whether the machine itself is paid for."""
        return self.powered_on_at is not None

    @property
    def billed(self) -> timedelta:
        """For so long the machine is paid for."""
        if not self.powered:
            return timedelta(0)
        return self.until - self.since + timedelta(seconds=self.rounding_seconds)

    @property
    def eur(self) -> float:
        """What it cost, with its storage; a machine without a known price counts as nothing."""
        machine = (self.eur_per_hour or 0.0) * (self.billed / HOUR)
        return machine + self.storage_eur_per_hour * ((self.until - self.since) / HOUR)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task that ended on one of our instances, as ClearML told it afterwards."""

    id: str
    name: str
    project: str
    """Empty when ClearML does not know it any more; likewise the user."""
    user: str
    queue: str
    instance: str
    status: str
    started_at: datetime | None
    ended_at: datetime
    kind: Literal["task"] = "task"

    @property
    def key(self) -> tuple[str, datetime]:
        """A task that went back to its queue ends more than once."""
        return self.id, self.ended_at


Record: TypeAlias = Stretch | TaskRecord


@dataclass(frozen=True, slots=True)
class Page:
    """One day of the ledger."""

    day: date
    stretches: tuple[Stretch, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()
    problems: tuple[str, ...] = ()
    """Lines that could not be read, with their numbers: what they held is missing."""

    @property
    def records(self) -> tuple[Record, ...]:
        """All that could be read."""
        return (*self.stretches, *self.tasks)
