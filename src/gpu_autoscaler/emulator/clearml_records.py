"""What the emulated ClearML server remembers, one record per thing."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

Outcome = Literal["completed", "failed"]

QUEUED, IN_PROGRESS = "queued", "in_progress"
STOPPING = "stopping"
"""The message by which the server asks a running task's agent to stop it."""
OPEN = frozenset({QUEUED, IN_PROGRESS})
"""Statuses of tasks that wait or run; every other status is at rest."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a pair of API keys."""

    id: str
    name: str
    access_key: str
    secret_key: str = field(repr=False)


@dataclass(slots=True)
class QueueRecord:
    """A queue; `entries` is what waits, by task id, first come first."""

    id: str
    name: str
    user: str
    created: datetime
    last_update: datetime
    tags: list[str] = field(default_factory=list)
    system_tags: list[str] = field(default_factory=list)
    display_name: str = ""
    entries: dict[str, datetime] = field(default_factory=dict)
    """When each was added. Its task may be done already, or may never have existed."""


@dataclass(slots=True)
class WorkerRecord:
    """A worker's entry; two users may each have one of the same id."""

    id: str
    user: User
    ip: str
    register_time: datetime
    last_activity_time: datetime
    timeout_seconds: int
    queue_ids: list[str]
    tags: list[str] = field(default_factory=list)
    last_report_time: datetime | None = None
    task_id: str | None = None
    queue_id: str | None = None

    @property
    def expires_at(self) -> datetime:
        """When the entry vanishes unless the worker reports before."""
        return self.last_activity_time + timedelta(seconds=self.timeout_seconds)


@dataclass(slots=True)
class TaskRecord:
    """A task: the server's document of it (times as datetimes), and what the emulation adds."""

    number: int
    """Tasks are listed in this order unless asked otherwise."""
    fields: dict[str, Any]
    emulated_duration: float | None = None
    """Seconds an emulated machine takes to run it; None when nobody said."""
    emulated_outcome: Outcome = "completed"
    """How it ends on an emulated machine."""

    @property
    def id(self) -> str:
        """ClearML's id."""
        return str(self.fields["id"])

    @property
    def status(self) -> str:
        """ClearML's status word."""
        return str(self.fields["status"])

    @property
    def queue_id(self) -> str | None:
        """The queue it was last put in; stays when the task leaves it."""
        queue: str | None = self.fields["execution"].get("queue")
        return queue

    @property
    def last_worker(self) -> str | None:
        """Id of the worker that last reported about it."""
        worker: str | None = self.fields.get("last_worker")
        return worker

    @property
    def stop_requested(self) -> bool:
        """Whether somebody pressed abort and the agent has not obeyed yet."""
        return self.status == IN_PROGRESS and self.fields["status_message"] == STOPPING
