"""What an operator wants to be told of: something that is wrong from one moment to another."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """How much it matters, from least to most."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def reaches(self, least: "Severity") -> bool:
        """Whether it matters at least so much."""
        order = list(Severity)
        return order.index(self) >= order.index(least)


class EpisodeKind(StrEnum):
    """What is wrong."""

    LAUNCH_FAILING = "launch_failing"
    OUT_OF_STOCK = "out_of_stock"
    QUOTA = "quota_exceeded"
    NEVER_REGISTERED = "never_registered"
    LOST_WORKER = "lost_worker"
    QUARANTINED = "quarantined"
    ORPHAN_REMOVED = "orphan_removed"
    UNAUTHORIZED = "unauthorized"
    BUDGET = "budget"
    OBSERVATION_FAILING = "observation_failing"
    WEEKLY_REPORT = "weekly_report"
    # not of the policy: who is told of them sees them by itself
    LOOP_STALLED = "loop_stalled"
    LEASE_CHANGED = "lease_changed"

    @property
    def recovers(self) -> bool:
        """Whether its end is news; otherwise it is a mere event."""
        return self not in (
            EpisodeKind.ORPHAN_REMOVED,
            EpisodeKind.LEASE_CHANGED,
            EpisodeKind.WEEKLY_REPORT,
        )


@dataclass(frozen=True, slots=True)
class Episode:
    """One thing that is wrong; told once when it begins and once when it ends."""

    kind: EpisodeKind
    subject: str
    """What it is about: a queue, an instance, a placement, a type, a volume, a zone, a service."""
    since: datetime
    text: str
    """One sentence: what is wrong, where, and what to do. It may change while the episode lasts."""
    severity: Severity
    """As it was at the beginning: it decides who is told, of the end as well."""

    @property
    def key(self) -> tuple[EpisodeKind, str]:
        """No two episodes with one key stand at the same time."""
        return self.kind, self.subject
