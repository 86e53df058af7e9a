"""An emulated ClearML server's state and rules: the in-process face.

Simulated people and machines call these methods directly; `clearml_http` offers the same state
over HTTP. The rules are those of server 2.3.0 as measured, gaps and traps included.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.emulator.clearml_queues import QueueStore
from gpu_autoscaler.emulator.clearml_records import (
    IN_PROGRESS,
    QUEUED,
    STOPPING,
    Outcome,
    TaskRecord,
    User,
)
from gpu_autoscaler.emulator.clearml_tasks import TaskStore
from gpu_autoscaler.emulator.clearml_wire import Json, RefusedError, stored
from gpu_autoscaler.emulator.clearml_workers import WorkerStore
from gpu_autoscaler.emulator.timeline import Timeline

ABORT_PATIENCE_SECONDS = 600
"""A running task that gave no sign of life for so long is stopped without asking its agent."""
AGENT_REASONS = {
    "completed": "worker execution done",
    "failed": "worker execution exit code 1",
    "stopped": "user abort",
}
"""How clearml-agent 3.0.3 words the end of a task; it says "user abort" when it gets SIGTERM."""
ABORT_OBEYED = "task was stopped by tasks.stop"
"""What it says instead when somebody pressed abort."""

EMULATED_USER = User("__emulated__", "emulated", "EMULATEDACCESSKEY", "emulated-secret-key")
"""Who everybody is when nobody says otherwise: the daemon, the agents and the people."""

CONSOLE_EVENTS = 1000

Note = tuple[str, str]
"""A status's reason and message."""


class ClearmlModel:
    """Users, queues, tasks and workers of one emulated server.

    Every method raises `RefusedError` where the real server refuses. Where a `user` may be left
    out, the first one acts.
    """

    def __init__(
        self, timeline: Timeline, ids: Ids, users: Sequence[User] = (EMULATED_USER,)
    ) -> None:
        self.timeline = timeline
        self.started_at = stored(timeline.now())
        self.ids = ids
        self.users = {user.access_key: user for user in users}
        self.user = users[0]
        self.company = ids.hex(32)
        self.projects: dict[str, Json] = {}
        self._consoles: dict[str, deque[Json]] = {}
        self.queues = QueueStore(timeline, ids, self.company)
        self.tasks = TaskStore(timeline, ids, self.company)
        self.workers = WorkerStore(timeline, self.queues, self.tasks)
        self.register = self.workers.register
        self.report = self.workers.report
        self.unregister = self.workers.unregister
        self.queues.create("default", self.user.id).system_tags.append("default")

    def console(self, task_id: str) -> deque[Json]:
        """The last events of type `log` that came for a task, oldest first."""
        return self._consoles.setdefault(task_id, deque(maxlen=CONSOLE_EVENTS))

    # people

    def create_queue(self, name: str) -> str:
        """A new queue; returns its id."""
        return self.queues.create(name, self.user.id).id

    def create_project(self, name: str) -> str:
        """A new project; returns its id."""
        project_id = self.ids.hex(32)
        self.projects[project_id] = {"id": project_id, "name": name}
        return project_id

    def delete_queue(self, queue_id: str, force: bool = False) -> None:
        """Remove a queue; with `force` its tasks go back to what they were before."""
        queue = self.queues.get(queue_id)
        if queue.entries and not force:
            note = "Queue is not empty (use force=true to delete)"
            raise RefusedError(400, 702, f"{note}: id={queue_id}")
        for task_id in list(queue.entries):
            task = self.tasks.all.get(task_id)
            if task is not None and task.status == QUEUED:
                self.dequeue(task_id)
        del self.queues.all[queue_id]

    def create_task(
        self,
        name: str,
        queue: str | None = None,
        duration: float | None = None,
        outcome: Outcome = "completed",
        user: str = "",
        **extra: Any,
    ) -> str:
        """A new task (of the user with this id), waiting in the queue of this id if one is given;
        returns its id.

        `duration`: seconds an emulated machine takes to run it, until this `outcome`. `extra`:
        ClearML's own fields.
        """
        self.timeline.advance()
        task = self.tasks.create(user or self.user.id, {"name": name, **extra}, duration)
        task.emulated_outcome = outcome
        if queue is not None:
            self.enqueue(task.id, queue)
        return task.id

    def task(self, task_id: str) -> TaskRecord:
        """The task as it is now; 400/101 when there is none."""
        self.timeline.advance()
        return self.tasks.get(task_id)

    def enqueue(
        self,
        task_id: str,
        queue_id: str,
        user: User | None = None,
        note: Note = ("", ""),
        force: bool = False,
    ) -> Json:
        """Put a task at the tail of a queue; also one that stopped or failed, as it is."""
        task = self.task(task_id)
        before = task.fields.get("enqueue_status") if task.status == QUEUED else task.status
        self.queues.refuse_if_waiting(queue_id, task_id)
        changed = self.tasks.change_status(
            task, QUEUED, self._id(user), note, force=force, enqueue_status=before
        )
        self.queues.add_entry(queue_id, task_id)
        self.tasks.set_queue(task, queue_id)
        return {**changed, "execution.queue": queue_id}

    def dequeue(
        self,
        task_id: str,
        user: User | None = None,
        note: Note = ("", ""),
        status: str | None = None,
    ) -> Json:
        """Take a task out of its queue, back to what it was before (or to `status`)."""
        task = self.task(task_id)
        after = status or task.fields.get("enqueue_status") or "created"
        restores = task.status == QUEUED
        changed = self.tasks.change_status(
            task, after, self._id(user), note, force=restores, enqueue_status=None
        )
        self.queues.remove_entry(task.queue_id, task_id)
        return changed

    def abort(
        self, task_id: str, user: User | None = None, reason: str = "", force: bool = False
    ) -> Json:
        """What the abort button does: a running task's agent is only asked to stop it."""
        task = self.task(task_id)
        silence = (self.timeline.now() - task.fields["last_update"]).total_seconds()
        runs = task.last_worker is not None and silence < ABORT_PATIENCE_SECONDS
        if task.status == IN_PROGRESS and runs:
            note = (reason, STOPPING)
            return self.tasks.change_status(task, IN_PROGRESS, self._id(user), note)
        note = (reason, f"Stopped by {(user or self.user).name}")
        changed = self.finish(task_id, "stopped", user=user, note=note, force=force)
        self.queues.remove_entry(task.queue_id, task_id)
        return changed

    def reset(self, task_id: str, user: User | None = None, force: bool = False) -> Json:
        """Back to a draft, out of its queue, with nothing left of the run."""
        task = self.task(task_id)
        changed = self.tasks.reset(task, self._id(user), force)
        self.queues.remove_entry(task.queue_id, task_id)
        return changed

    def delete_task(self, task_id: str) -> None:
        """Forget a task and its entry."""
        task = self.task(task_id)
        self.queues.remove_entry(task.queue_id, task_id)
        self.tasks.delete(task)
        self._consoles.pop(task_id, None)

    # agents; see also register, report and unregister

    def next_task(self, user: User, queue_id: str) -> str | None:
        """Pop the oldest entry's task id; it may be of a task that is done, or never was."""
        del user  # everybody may
        entry = self.queues.pop_entry(queue_id)
        return entry[0] if entry else None

    def started(
        self,
        task_id: str,
        worker_id: str = "",
        user: User | None = None,
        note: Note | None = None,
        force: bool = True,
    ) -> Json:
        """The task runs; the note is the real agent's unless given."""
        task = self.task(task_id)
        if note is None:
            note = ("worker starting task execution", _signature(worker_id))
        first = {} if "started" in task.fields else {"started": self.timeline.now()}
        changed = self.tasks.change_status(
            task, IN_PROGRESS, self._id(user), note, force=force, **first
        )
        task.fields.setdefault("active_duration", 0)
        return changed

    def finish(
        self,
        task_id: str,
        status: str,
        worker_id: str = "",
        user: User | None = None,
        note: Note | None = None,
        force: bool = True,
    ) -> Json:
        """The task is `completed`, `failed` or `stopped`. An entry of it stays in its queue.

        The note is the real agent's unless given.
        """
        task = self.task(task_id)
        if note is None:
            obeyed = status == "stopped" and task.stop_requested
            reason = ABORT_OBEYED if obeyed else AGENT_REASONS[status]
            note = (reason, _signature(worker_id))
        now = self.timeline.now()
        ended = {} if status == "failed" else {"completed": now}
        changed = self.tasks.change_status(task, status, self._id(user), note, force=force, **ended)
        if started := task.fields.get("started"):
            task.fields["active_duration"] = int((now - started).total_seconds())
        return changed

    def _id(self, user: User | None) -> str:
        return (user or self.user).id


def _signature(worker_id: str) -> str:
    return f"Changed by clearml-agent {worker_id}"
