"""The emulated server's tasks: documents, the status machine, the watchdog, searching."""

import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.emulator.clearml_records import IN_PROGRESS, OPEN, QUEUED, TaskRecord
from gpu_autoscaler.emulator.clearml_wire import (
    COMPARE,
    Json,
    RefusedError,
    has_tags,
    iso,
    name_pattern,
    several,
    stored,
    time_ranges,
)
from gpu_autoscaler.emulator.timeline import Timeline

UNRESPONSIVE_SECONDS = 7200
WATCHDOG_EVERY_SECONDS = 900
WATCHDOG_NOTE = "Forced stop (non-responsive)"
WATCHDOG_USER = "__apiserver__"

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "created": frozenset({QUEUED, IN_PROGRESS}),
    QUEUED: frozenset({"created", IN_PROGRESS, "stopped"}),
    IN_PROGRESS: frozenset({"stopped", "failed", "created", "completed"}),
    "stopped": frozenset({"created", QUEUED, IN_PROGRESS, "failed", "completed"}),
    "failed": frozenset({"created", QUEUED, IN_PROGRESS, "stopped"}),
    "completed": frozenset({"created", IN_PROGRESS}),
}
"""What goes without `force`. Notably a completed task is not queued again just like that."""

TIMES = ("created", "started", "completed", "status_changed", "last_update", "last_change")
TASK_FIELDS = frozenset(
    {
        *TIMES,
        *("id", "company", "user", "name", "type", "comment", "parent", "project", "published"),
        *("status", "status_reason", "status_message", "enqueue_status", "report_assets"),
        *("active_duration", "output", "execution", "tags", "system_tags", "script", "input"),
        *("last_worker", "last_worker_report", "last_iteration", "last_metrics", "container"),
        *("unique_metrics", "metric_stats", "hyperparams", "configuration", "runtime", "models"),
        *("last_changed_by", "report"),
    }
)
LISTS = ("tags", "system_tags", "report_assets", "unique_metrics")
OBJECTS = (
    *("output", "script", "container", "runtime", "hyperparams", "configuration"),
    *("last_metrics", "metric_stats"),
)
EDITABLE = frozenset(
    {
        *("name", "type", "comment", "parent", "project", "tags", "system_tags", "script"),
        *("container", "runtime", "hyperparams", "configuration", "models"),
    }
)
"""What people and clients may overwrite; `execution` is merged. The rest is ignored, silently."""


class TaskStore:
    """All tasks, indexed so that the open ones and the recently changed ones are found fast."""

    def __init__(self, timeline: Timeline, ids: Ids, company: str) -> None:
        self.timeline = timeline
        self._ids = ids
        self._company = company
        self._numbers = itertools.count()
        self.all: dict[str, TaskRecord] = {}
        self._open: dict[str | None, dict[str, TaskRecord]] = {}
        """Tasks that wait or run, by the queue they were put in."""
        self._changed: dict[str, TaskRecord] = {}
        """All tasks, the one whose status changed last at the end."""
        timeline.after(WATCHDOG_EVERY_SECONDS, self._watchdog)

    def get(self, task_id: str) -> TaskRecord:
        """The task; 400/101 when there is none."""
        task = self.all.get(task_id)
        if task is None:
            where = f"id={task_id}, company={self._company}"
            raise RefusedError(400, 101, f"Invalid task id: {where}")
        return task

    def create(self, user: str, request: Json, emulated_duration: float | None) -> TaskRecord:
        """A new task in status `created`, from the fields of a request."""
        now = stored(self.timeline.now())
        execution = {"test_split": 0, "parameters": {}, "model_desc": {}, "model_labels": {}}
        fields: Json = {
            "id": self._ids.hex(32),
            "company": self._company,
            "user": user,
            "name": "",
            "type": "training",
            "status": "created",
            "status_reason": "",
            "status_message": "",
            **dict.fromkeys(("created", "status_changed", "last_update", "last_change"), now),
            **{field: [] for field in LISTS},
            **{field: {} for field in OBJECTS},
            "models": {"input": [], "output": []},
            "execution": {**execution, "artifacts": []},
            "last_iteration": 0,
            "last_changed_by": user,
        }
        task = TaskRecord(next(self._numbers), fields, emulated_duration)
        self.all[task.id] = task
        self._merge(task, request)
        self._file(task)
        return task

    def edit(self, task: TaskRecord, user: str, request: Json) -> Json:
        """Overwrite the fields that a request names; says what was changed."""
        now = self.timeline.now()
        changed = self._merge(task, request)
        moved = {"last_change": stored(now), "last_update": stored(now), "last_changed_by": user}
        task.fields.update(moved)
        self._file(task)
        return {**changed, **dict.fromkeys(moved, iso(now)), "last_changed_by": user}

    def _merge(self, task: TaskRecord, request: Json) -> Json:
        changed = {
            key: value for key, value in request.items() if key in EDITABLE and value is not None
        }
        task.fields.update(changed)
        if request.get("execution"):
            self._open.get(task.queue_id, {}).pop(task.id, None)
            task.fields["execution"].update(request["execution"])
        return changed

    def touch(self, task: TaskRecord, **fields: Any) -> None:
        """Note a sign of life; time and other fields as given."""
        now = stored(self.timeline.now())
        task.fields.update(fields, last_update=now, last_change=now)

    def ping(self, task: TaskRecord) -> None:
        """A sign of life that also moves the task's running time, as only pings do."""
        started = task.fields.get("started")
        running = int((self.timeline.now() - started).total_seconds()) if started else 0
        self.touch(task, active_duration=running)

    def change_status(
        self,
        task: TaskRecord,
        status: str,
        user: str,
        note: tuple[str, str] = ("", ""),
        force: bool = False,
        **fields: Any,
    ) -> Json:
        """Move a task to a status, with `note` (reason, message); says what was changed.

        A field given as None is taken away. 400/110 when the machine has no such edge.
        """
        known = status == task.status or status in TRANSITIONS.get(task.status, ())
        if not (force or known):
            edge = f"current_status={task.status}, new_status={status}"
            raise RefusedError(400, 110, f"Invalid task status: {edge}")
        now = self.timeline.now()
        changes: Json = {"status": status, "status_reason": note[0], "status_message": note[1]}
        changes |= dict.fromkeys(("status_changed", "last_update", "last_change"), now)
        changes |= {"last_changed_by": user, **fields}
        for key, value in changes.items():
            if value is None:
                task.fields.pop(key, None)
            else:
                task.fields[key] = stored(value) if isinstance(value, datetime) else value
        self._changed.pop(task.id, None)
        self._file(task)
        return {k: iso(v) if isinstance(v, datetime) else v for k, v in changes.items()}

    def set_queue(self, task: TaskRecord, queue_id: str) -> None:
        """Note on the task which queue it was put in."""
        self._open.get(task.queue_id, {}).pop(task.id, None)
        task.fields["execution"]["queue"] = queue_id
        self._file(task)

    def reset(self, task: TaskRecord, user: str, force: bool) -> Json:
        """Back to `created`, with nothing left of the run."""
        gone: Json = dict.fromkeys(("started", "completed", "active_duration", "enqueue_status"))
        gone |= dict.fromkeys(("last_worker", "last_worker_report"))
        fresh: Json = {"last_metrics": {}, "runtime": {}, "last_iteration": 0}
        return self.change_status(task, "created", user, force=force, **gone, **fresh)

    def delete(self, task: TaskRecord) -> None:
        """Forget it."""
        del self.all[task.id]
        self._changed.pop(task.id, None)
        self._open.get(task.queue_id, {}).pop(task.id, None)

    def _file(self, task: TaskRecord) -> None:
        self._changed[task.id] = task
        shelf = self._open.setdefault(task.queue_id, {})
        if task.status in OPEN:
            shelf[task.id] = task
        else:
            shelf.pop(task.id, None)

    def _watchdog(self) -> None:
        now = self.timeline.now()
        for task in self._open_of(None):
            silence = now - task.fields["last_update"]
            if task.status == IN_PROGRESS and silence > timedelta(seconds=UNRESPONSIVE_SECONDS):
                note = (WATCHDOG_NOTE, WATCHDOG_NOTE)
                self.change_status(task, "stopped", WATCHDOG_USER, note)
        self.timeline.after(WATCHDOG_EVERY_SECONDS, self._watchdog)

    def _open_of(self, queue_ids: list[str] | None) -> list[TaskRecord]:
        shelves = self._open if queue_ids is None else queue_ids
        return [task for queue_id in shelves for task in self._open.get(queue_id, {}).values()]

    def open_in(self, queue_ids: Iterable[str]) -> list[TaskRecord]:
        """Tasks of these queues that wait or run: what a search for them finds, but fast."""
        return sorted(self._open_of(list(queue_ids)), key=lambda task: task.number)

    def search(self, request: Json) -> list[TaskRecord]:
        """Tasks that pass a request's filters, before paging; unknown filters pass everything."""
        ranges = time_ranges(request, TIMES)
        name = name_pattern(request)
        exact = {
            field: set(several(request[field]))
            for field in ("id", "status", "type", "user", "project", "parent")
            if request.get(field)
        }
        queues = set(several(request.get("execution.queue")))
        tags = [(key, several(request.get(key))) for key in ("tags", "system_tags")]
        found = [
            task
            for task in self._candidates(request, ranges)
            if all(task.fields.get(field) in values for field, values in exact.items())
            and (not queues or task.queue_id in queues)
            and (name is None or name.search(task.fields["name"]))
            and all(has_tags(task.fields[key], wanted) for key, wanted in tags)
            and all(_in_range(task, *each) for each in ranges)
        ]
        found.sort(key=lambda task: task.number)
        for field in reversed(several(request.get("order_by"))):
            key = field.removeprefix("-")
            absent = [task for task in found if task.fields.get(key) is None]
            present = [task for task in found if task.fields.get(key) is not None]
            present.sort(key=lambda task: task.fields[key], reverse=field.startswith("-"))
            found = present + absent
        return found

    def _candidates(self, request: Json, ranges: list[Any]) -> Iterable[TaskRecord]:
        """A superset of what the filters let through, as small as the indexes allow."""
        if request.get("id"):
            return [self.all[i] for i in several(request["id"]) if i in self.all]
        statuses = several(request.get("status"))
        if statuses and OPEN.issuperset(statuses):
            return self._open_of(several(request.get("execution.queue")) or None)
        for field, how, moment in ranges:
            if field == "status_changed" and how in (">=", ">"):
                return self._changed_since(moment)
        return self.all.values()

    def _changed_since(self, moment: datetime) -> Iterable[TaskRecord]:
        for task in reversed(self._changed.values()):
            if task.fields["status_changed"] < moment:
                return
            yield task


def _in_range(task: TaskRecord, field: str, how: str | None, moment: datetime) -> bool:
    value = task.fields.get(field)
    return value is not None and COMPARE[how](value, moment)
