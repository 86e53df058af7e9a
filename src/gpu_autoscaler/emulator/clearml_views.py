"""How the emulated server shows what it remembers: one function per kind of document."""

from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import QueueRecord, TaskRecord, WorkerRecord
from gpu_autoscaler.emulator.clearml_wire import Json, iso, only, plain

REFERENCES = ("company", "user", "project", "parent")
"""Ids that the `_ex` listings show as objects."""


def queue_view(queue: QueueRecord, company: str, most_entries: int | None) -> Json:
    """A queue as `queues.get_all` has it; `most_entries` cuts what waits, 0 and None do not."""
    view: Json = {
        "id": queue.id,
        "name": queue.name,
        "company": company,
        "created": iso(queue.created),
        "tags": queue.tags,
        "system_tags": queue.system_tags,
        "entries": [entry_view(*entry) for entry in queue.entries.items()][: most_entries or None],
        "last_update": iso(queue.last_update),
        "metadata": {},
    }
    if queue.display_name:
        view["display_name"] = queue.display_name
    return view


def entry_view(task_id: str, added: object) -> Json:
    """What waits in a queue."""
    return {"task": task_id, "added": plain(added)}


def queue_view_ex(model: ClearmlModel, view: Json, workers: list[WorkerRecord]) -> Json:
    """The same with names of tasks (a phantom has none) and the workers that listen."""
    entries = [{**each, "task": _named_task(model, each["task"])} for each in view["entries"]]
    listening = [
        {
            "name": worker.id,
            "ip": worker.ip,
            "key": worker_key(model, worker),
            "task": _named_task(model, worker.task_id) if worker.task_id else None,
        }
        for worker in workers
        if view["id"] in worker.queue_ids
    ]
    return {**view, "company": {"id": model.company}, "entries": entries, "workers": listening}


def _named_task(model: ClearmlModel, task_id: str) -> Json:
    task = model.tasks.all.get(task_id)
    return {"id": task_id, "name": task.fields["name"]} if task else {"id": task_id}


def worker_key(model: ClearmlModel, worker: WorkerRecord) -> str:
    """Its key in the server's cache: by user, then id."""
    return f"worker_{model.company}_{worker.user.id}_{worker.id}"


def worker_view(model: ClearmlModel, worker: WorkerRecord) -> Json:
    """A worker as `workers.get_all` has it: an idle one has no `task` and no `queue` at all."""
    view: Json = {
        "id": worker.id,
        "company": {"id": model.company, "name": "clearml"},
        "ip": worker.ip,
        "key": worker_key(model, worker),
        "last_activity_time": iso(worker.last_activity_time),
        "register_time": iso(worker.register_time),
        "register_timeout": worker.timeout_seconds,
        "queues": [_listened_queue(model, queue_id) for queue_id in worker.queue_ids],
        "tags": worker.tags,
        "system_tags": [],
        "user": {"id": worker.user.id, "name": worker.user.name},
    }
    if worker.last_report_time:
        view["last_report_time"] = iso(worker.last_report_time)
    if worker.queue_id:
        view["queue"] = _listened_queue(model, worker.queue_id)
    if worker.task_id:
        view["task"] = {**_named_task(model, worker.task_id), **_progress(model, worker.task_id)}
    return view


def _progress(model: ClearmlModel, task_id: str) -> Json:
    task = model.tasks.all.get(task_id)
    if task is None:
        return {}
    seconds = task.fields.get("active_duration", 0)
    return {"running_time": seconds * 1000, "last_iteration": task.fields["last_iteration"]}


def _listened_queue(model: ClearmlModel, queue_id: str) -> Json:
    queue = model.queues.all.get(queue_id)
    if queue is None:  # it was deleted under the worker
        return {"id": queue_id}
    view: Json = {"id": queue_id, "name": queue.name, "num_tasks": len(queue.entries)}
    if queue.display_name:
        view["display_name"] = queue.display_name
    if queue.entries:
        view["next_task"] = _named_task(model, next(iter(queue.entries)))
    return view


def task_view(task: TaskRecord, fields: list[str]) -> Json:
    """A task, or only these fields of it; what was never set is absent, not null."""
    view: Json = plain(only(task.fields, fields))
    if not fields:
        view.pop("enqueue_status", None)
    return view


def task_view_ex(model: ClearmlModel, task: TaskRecord, fields: list[str]) -> Json:
    """The same with references as objects, which have names where those are asked for."""
    names = {
        "user": {user.id: user.name for user in model.users.values()},
        "project": {key: project["name"] for key, project in model.projects.items()},
    }
    whole = dict(task.fields)
    for field in REFERENCES:
        if whole.get(field):
            whole[field] = {"id": whole[field]}
            if f"{field}.name" in fields:
                whole[field]["name"] = names.get(field, {}).get(whole[field]["id"])
    if task.queue_id:
        queue = model.queues.all.get(task.queue_id)
        shown = {"id": task.queue_id}
        if queue and "execution.queue.name" in fields:
            shown["name"] = queue.name
        whole["execution"] = {**whole["execution"], "queue": shown}
    view: Json = plain(only(whole, [field.removesuffix(".name") for field in fields]))
    return view
