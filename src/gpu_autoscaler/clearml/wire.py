"""What ClearML's answers look like, as far as the daemon reads them, and what they mean to us.

Strict about everything the daemon relies on: an answer that lacks it is a broken answer, never
an empty one, because an empty world is a reason to stop machines. Lenient about the rest: fields
nobody here reads may come, go and change their type.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gpu_autoscaler.domain.ledger import TaskRecord
from gpu_autoscaler.domain.model import Entry, Queue, Task, TaskStatus, Worker

D = TypeVar("D")

ABORT_OBEYED = "task was stopped by tasks.stop"
"""Reason that clearml-agent 3.0.3 gives when it obeyed an abort; after SIGTERM it says
"user abort", although no user did anything (both recorded with the real agent)."""

STOPPING = "stopping"
"""The status message of a running task that somebody aborted and whose agent did not obey yet."""

STOPPED_BY = "Stopped by "
"""How the status message begins, before the user's name, when the server carries out an abort
without asking: no agent runs the task, or the one that does has been silent for 10 minutes."""


def _aware(moment: datetime) -> datetime:
    """Times come with +00:00; one that came without a zone would be UTC too, as it is stored."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


Moment = Annotated[datetime, AfterValidator(_aware)]


class Wire(BaseModel):
    """Base of everything that ClearML sends: no coercion, unknown keys ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Meta(Wire):
    """How a call ended."""

    result_code: int
    result_subcode: int = 0
    result_msg: str | None = None


class Verdict(Wire):
    """An answer of which only the outcome matters."""

    meta: Meta


class Reply(Verdict, Generic[D]):
    """The envelope around every answer."""

    data: D


class Done(Wire):
    """The answer to a change, of which nothing is read."""


class Login(Wire):
    """auth.login."""

    token: str = Field(pattern=r"^[!-~]+$")
    """Must be fit for a header: printable, without blanks."""


class Claims(Wire):
    """What a token says about itself, in seconds since the epoch."""

    exp: float
    iat: float | None = None


class User(Wire):
    """A ClearML user."""

    id: str
    name: str | None = None
    company: "Item | None" = None
    """Absent in answers to other questions."""


class CurrentUser(Wire):
    """users.get_current_user."""

    user: User


class Item(Wire):
    """One of a listing."""

    id: str


class EntryItem(Wire):
    """A waiting task in queues.get_all; the task may not exist (any more)."""

    task: str
    added: Moment


class QueueItem(Item):
    """A queue in queues.get_all."""

    name: str
    entries: tuple[EntryItem, ...]
    tags: tuple[str, ...] | None = None

    def to_domain(self) -> Queue:
        """The queue, its entries in the order they were served: oldest first."""
        entries = tuple(Entry(entry.task, entry.added) for entry in self.entries)
        return Queue(self.id, self.name, entries, self.tags or ())


class WorkerItem(Item):
    """A worker in workers.get_all."""

    register_time: Moment
    last_activity_time: Moment | None = None
    last_report_time: Moment | None = None
    """Absent until the first report, seconds after registering."""
    task: Item | None = None
    """Absent, not null, while idle."""
    queues: tuple[Item, ...] | None = None
    """In no order; a deleted queue stays here by its id alone."""

    def to_domain(self) -> Worker:
        """The worker."""
        return Worker(
            id=self.id,
            registered_at=self.register_time,
            last_report_at=self.last_report_time or self.last_activity_time or self.register_time,
            task_id=self.task.id if self.task else None,
            queue_ids=tuple(queue.id for queue in self.queues or ()),
        )


class Execution(Wire):
    """Where a task runs."""

    queue: str | None = None


class TaskItem(Item):
    """A task in tasks.get_all, reduced to `FIELDS`."""

    name: str | None = None
    status: str
    status_changed: Moment
    status_message: str | None = None
    status_reason: str | None = None
    execution: Execution = Execution()
    last_worker: str | None = None
    started: Moment | None = None

    def to_domain(self) -> Task:
        """The task; a status that we do not know is OTHER."""
        known = self.status in TaskStatus.__members__.values()
        status = TaskStatus(self.status) if known else TaskStatus.OTHER
        return Task(
            id=self.id,
            name=self.name or "",
            status=status,
            queue_id=self.execution.queue or "",
            status_changed_at=self.status_changed,
            last_worker=self.last_worker or None,
            stop_requested=self._stop_requested,
            started_at=self.started,
        )

    @property
    def _stop_requested(self) -> bool:
        match self.status:
            case TaskStatus.IN_PROGRESS:
                return self.status_message == STOPPING
            case TaskStatus.STOPPED:
                at_once = (self.status_message or "").startswith(STOPPED_BY)
                return at_once or self.status_reason == ABORT_OBEYED
            case _:
                return False


QUEUE_FIELDS = ("id", "name", "entries", "tags")
TASK_FIELDS = (
    "id",
    "name",
    "status",
    "status_changed",
    "status_message",
    "status_reason",
    "execution.queue",
    "last_worker",
    "started",
)


class Queues(Wire):
    """queues.get_all."""

    queues: tuple[QueueItem, ...]


class Workers(Wire):
    """workers.get_all."""

    workers: tuple[WorkerItem, ...]


class Tasks(Wire):
    """tasks.get_all."""

    tasks: tuple[TaskItem, ...]


class Named(Wire):
    """What tasks.get_all_ex gives in place of an id; without a name when that is gone."""

    id: str | None = None
    name: str | None = None


class ExecutionEx(Wire):
    """Where a task ran."""

    queue: Named | None = None


class TaskItemEx(Item):
    """A task in tasks.get_all_ex, reduced to `RECORD_FIELDS`."""

    name: str | None = None
    status: str
    status_changed: Moment
    execution: ExecutionEx = ExecutionEx()
    last_worker: str | None = None
    started: Moment | None = None
    completed: Moment | None = None
    project: Named | None = None
    user: Named | None = None

    def to_domain(self, queue_names: Mapping[str, str]) -> TaskRecord:
        """For the ledger; a user without a name by what is known of it."""
        queue = self.execution.queue or Named()
        user, project = self.user or Named(), self.project or Named()
        return TaskRecord(
            id=self.id,
            name=self.name or "",
            project=project.name or "",
            user=user.name or user.id or "",
            queue=queue_names.get(queue.id or "") or queue.name or "",
            instance=(self.last_worker or "").split(":", 1)[0],
            status=self.status,
            started_at=self.started,
            ended_at=self.completed or self.status_changed,
        )


RECORD_FIELDS = (
    "id",
    "name",
    "status",
    "status_changed",
    "execution.queue.name",
    "last_worker",
    "started",
    "completed",
    "project.name",
    "user.name",
)


class TasksEx(Wire):
    """tasks.get_all_ex."""

    tasks: tuple[TaskItemEx, ...]


class LogEvent(Wire):
    """A piece of a task's console."""

    msg: str | None = None


class TaskLog(Wire):
    """events.get_task_log."""

    events: tuple[LogEvent, ...]


# Each made once: pydantic builds a parametrised model anew when nobody keeps it.
LOGIN_REPLY = Reply[Login]
CURRENT_USER = Reply[CurrentUser]
DONE = Reply[Done]
CREATED = Reply[Item]
TASK_LOG = Reply[TaskLog]
QUEUES = Reply[Queues]
WORKERS = Reply[Workers]
TASKS = Reply[Tasks]
TASKS_EX = Reply[TasksEx]
