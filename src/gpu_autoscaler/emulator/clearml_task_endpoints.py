"""The emulated server's endpoints for tasks, projects and events."""

from collections.abc import Mapping

from gpu_autoscaler.emulator.clearml_endpoints import Ask, Endpoint
from gpu_autoscaler.emulator.clearml_records import TaskRecord
from gpu_autoscaler.emulator.clearml_tasks import TASK_FIELDS
from gpu_autoscaler.emulator.clearml_views import task_view, task_view_ex
from gpu_autoscaler.emulator.clearml_wire import (
    Json,
    RefusedError,
    fields_of,
    iso,
    name_pattern,
    page_of,
    required,
    several,
)

LOG_BATCH = 100


def _id(ask: Ask) -> str:
    return required(ask.body, "task", str)


def _task(ask: Ask) -> TaskRecord:
    return ask.model.task(_id(ask))


def _found(ask: Ask) -> list[TaskRecord]:
    return page_of(ask.model.tasks.search(ask.body), ask.body)


def _get_all(ask: Ask) -> Json:
    fields = fields_of(ask.body, TASK_FIELDS)
    return {"tasks": [task_view(task, fields) for task in _found(ask)]}


def _get_all_ex(ask: Ask) -> Json:
    fields = fields_of(ask.body, TASK_FIELDS)
    return {"tasks": [task_view_ex(ask.model, task, fields) for task in _found(ask)]}


def _get_by_id(ask: Ask) -> Json:
    return {"task": task_view(_task(ask), fields_of(ask.body, TASK_FIELDS))}


def _create(ask: Ask) -> Json:
    required(ask.body, "name", str)
    required(ask.body, "type", str)
    return {"id": ask.model.tasks.create(ask.user.id, ask.body, None).id}


def _edit(ask: Ask) -> Json:
    return _updated(ask.model.tasks.edit(_task(ask), ask.user.id, ask.body))


def _updated(fields: Json) -> Json:
    return {"fields": fields, "updated": 1}


def _enqueue(ask: Ask) -> Json:
    model, name = ask.model, ask.body.get("queue_name")
    queue_id = ask.body.get("queue")
    if name and not queue_id:  # a name nobody knows makes a queue
        queue_id = (model.queues.named(name) or model.queues.create(name, ask.user.id)).id
    if not queue_id:
        raise RefusedError(400, 12, "Validation error (no queue given)")
    changed = model.enqueue(_id(ask), queue_id, ask.user, ask.note(), ask.forced())
    return {**_updated(changed), "queued": 1}


def _dequeue(ask: Ask) -> Json:
    changed = ask.model.dequeue(_id(ask), ask.user, ask.note(), ask.body.get("new_status"))
    return {**_updated(changed), "dequeued": 1}


def _started(ask: Ask) -> Json:
    changed = ask.model.started(_id(ask), "", ask.user, ask.note(), ask.forced())
    return {**_updated(changed), "started": 1}


def _stop(ask: Ask) -> Json:
    return _updated(ask.model.abort(_id(ask), ask.user, ask.note()[0], ask.forced()))


def _stopped(ask: Ask) -> Json:
    return _updated(_finish(ask, "stopped"))


def _failed(ask: Ask) -> Json:
    return _updated(_finish(ask, "failed"))


def _completed(ask: Ask) -> Json:
    return {**_updated(_finish(ask, "completed")), "published": 0}


def _finish(ask: Ask, status: str) -> Json:
    return ask.model.finish(_id(ask), status, "", ask.user, ask.note(), ask.forced())


def _reset(ask: Ask) -> Json:
    return {**_updated(ask.model.reset(_id(ask), ask.user, ask.forced())), "deleted_models": 0}


def _delete(ask: Ask) -> Json:
    ask.model.delete_task(_id(ask))
    return {"deleted": True, "updated_children": 0, "updated_models": 0}


def _ping(ask: Ask) -> Json:
    ask.model.tasks.ping(_task(ask))
    return {}


def _projects_get_all(ask: Ask) -> Json:
    name, ids = name_pattern(ask.body), several(ask.body.get("id"))
    found = [
        project
        for project in ask.model.projects.values()
        if (not ids or project["id"] in ids) and (name is None or name.search(project["name"]))
    ]
    return {"projects": page_of(found, ask.body)}


def _projects_create(ask: Ask) -> Json:
    now = iso(ask.model.timeline.now())
    project: Json = {
        "id": ask.model.ids.hex(32),
        "name": required(ask.body, "name", str),
        "description": ask.body.get("description") or "",
        "company": ask.model.company,
        "user": ask.user.id,
        "created": now,
        "last_update": now,
        "tags": [],
        "system_tags": ask.body.get("system_tags") or [],
    }
    ask.model.projects[project["id"]] = project
    return {"id": project["id"]}


def _projects_get_by_id(ask: Ask) -> Json:
    project_id = required(ask.body, "project", str)
    if project_id not in ask.model.projects:
        raise RefusedError(400, 401, f"Invalid project id: id={project_id}")
    return {"project": ask.model.projects[project_id]}


def _events_add(ask: Ask) -> Json:
    return _events_add_batch(Ask(ask.model, ask.user, ask.ip, {"requests": [ask.body]}))


def _events_add_batch(ask: Ask) -> Json:
    """A sign of life of their tasks; the lines of consoles are kept, the others are not."""
    events = ask.body.get("requests") or []
    for event in events:
        if event.get("type") == "log" and event.get("task") in ask.model.tasks.all:
            ask.model.console(event["task"]).append(event)
    for task_id in {event.get("task") for event in events}:
        if task_id in ask.model.tasks.all:
            ask.model.tasks.touch(ask.model.tasks.all[task_id])
    return {"added": len(events), "errors": 0, "errors_info": {}}


def _events_get_task_log(ask: Ask) -> Json:
    lines = list(ask.model.console(_task(ask).id))
    most = ask.body.get("batch_size") or LOG_BATCH
    latest_first = ask.body.get("navigate_earlier", True)
    part = lines[::-1][:most] if latest_first else lines[:most]
    return {"events": part, "returned": len(part), "total": len(lines)}


TASK_ENDPOINTS: Mapping[str, tuple[str, Endpoint]] = {
    "tasks.get_all": ("1.0", _get_all),
    "tasks.get_all_ex": ("1.0", _get_all_ex),
    "tasks.get_by_id": ("1.0", _get_by_id),
    "tasks.create": ("1.0", _create),
    "tasks.edit": ("1.0", _edit),
    "tasks.update": ("1.0", _edit),
    "tasks.enqueue": ("1.0", _enqueue),
    "tasks.dequeue": ("1.0", _dequeue),
    "tasks.started": ("1.0", _started),
    "tasks.stop": ("1.0", _stop),
    "tasks.stopped": ("1.0", _stopped),
    "tasks.failed": ("1.0", _failed),
    "tasks.completed": ("1.0", _completed),
    "tasks.reset": ("1.0", _reset),
    "tasks.delete": ("1.0", _delete),
    "tasks.ping": ("1.0", _ping),
    "projects.get_all": ("1.0", _projects_get_all),
    "projects.get_all_ex": ("1.0", _projects_get_all),
    "projects.get_by_id": ("1.0", _projects_get_by_id),
    "projects.create": ("1.0", _projects_create),
    "events.add": ("1.0", _events_add),
    "events.add_batch": ("1.0", _events_add_batch),
    "events.get_task_log": ("1.5", _events_get_task_log),
}
"""By name: the first API version that has it, and what answers."""
