"""The emulated server's endpoints for everything but tasks: from a request to a reply's data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase

from gpu_autoscaler.emulator.clearml_auth import API_VERSION, SERVER_VERSION
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import QueueRecord, User
from gpu_autoscaler.emulator.clearml_views import (
    entry_view,
    queue_view,
    queue_view_ex,
    worker_key,
    worker_view,
)
from gpu_autoscaler.emulator.clearml_wire import (
    Json,
    fields_of,
    has_tags,
    iso,
    name_pattern,
    only,
    page_of,
    required,
    several,
    stored,
    whole_number,
)
from gpu_autoscaler.emulator.clearml_workers import TIMEOUT_SECONDS

LAST_SEEN_SECONDS = 3600
HIDING_TAG = "k8s-glue"
"""Queues with this system tag are left out of listings that do not ask for them."""
QUEUE_FIELDS = frozenset(
    {
        *("id", "name", "display_name", "company", "user", "created", "tags", "system_tags"),
        *("entries", "last_update", "metadata", "workers"),
    }
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One authorised request."""

    model: ClearmlModel
    user: User
    ip: str
    body: Json
    """Fields nobody knows are ignored, silently: a mistyped filter lets everything through."""

    def note(self) -> tuple[str, str]:
        """Reason and message that go with a change of status."""
        return (self.body.get("status_reason") or "", self.body.get("status_message") or "")

    def forced(self) -> bool:
        """Whether the request insists."""
        return bool(self.body.get("force"))


Endpoint = Callable[[Ask], Json]


def _queues_found(ask: Ask) -> list[QueueRecord]:
    body, name = ask.body, name_pattern(ask.body)
    ids = several(body.get("id"))
    everything = list(ask.model.queues.all.values())
    shown = bool(ids or name or body.get("search_hidden"))
    found = [
        queue
        for queue in everything
        if (not ids or queue.id in ids)
        and (name is None or name.search(queue.name))
        and (shown or HIDING_TAG not in queue.system_tags)
        and has_tags(queue.tags, several(body.get("tags")))
        and has_tags(queue.system_tags, several(body.get("system_tags")))
    ]
    return page_of(found, body)


def _queues_get_all(ask: Ask) -> Json:
    fields, most = fields_of(ask.body, QUEUE_FIELDS), ask.body.get("max_task_entries")
    views = (queue_view(queue, ask.model.company, most) for queue in _queues_found(ask))
    return {"queues": [only(view, fields) for view in views]}


def _queues_get_all_ex(ask: Ask) -> Json:
    fields, most = fields_of(ask.body, QUEUE_FIELDS), ask.body.get("max_task_entries")
    workers = ask.model.workers.alive()
    views = (queue_view(queue, ask.model.company, most) for queue in _queues_found(ask))
    return {"queues": [only(queue_view_ex(ask.model, view, workers), fields) for view in views]}


def _queue(ask: Ask) -> QueueRecord:
    return ask.model.queues.get(required(ask.body, "queue", str))


def _queues_get_by_id(ask: Ask) -> Json:
    most = ask.body.get("max_task_entries")
    return {"queue": queue_view(_queue(ask), ask.model.company, most)}


def _queues_get_num_entries(ask: Ask) -> Json:
    return {"num": len(_queue(ask).entries)}


def _queues_get_default(ask: Ask) -> Json:
    default = next(q for q in ask.model.queues.all.values() if "default" in q.system_tags)
    return {"id": default.id, "name": default.name}


def _queues_create(ask: Ask) -> Json:
    queue = ask.model.queues.create(required(ask.body, "name", str), ask.user.id)
    _change_queue(queue, ask.body)
    return {"id": queue.id}


def _change_queue(queue: QueueRecord, body: Json) -> Json:
    changes = {
        key: body[key]
        for key in ("name", "display_name", "tags", "system_tags")
        if body.get(key) is not None
    }
    for key, value in changes.items():
        setattr(queue, key, value)
    return changes


def _queues_update(ask: Ask) -> Json:
    queue = _queue(ask)
    fields = _change_queue(queue, ask.body)
    now = ask.model.timeline.now()
    queue.last_update = stored(now)
    return {"updated": 1, "fields": {**fields, "last_update": iso(now)}}


def _queues_delete(ask: Ask) -> Json:
    ask.model.delete_queue(required(ask.body, "queue", str), ask.forced())
    return {"deleted": 1}


def _queues_get_next_task(ask: Ask) -> Json:
    entry = ask.model.queues.pop_entry(required(ask.body, "queue", str))
    return {"entry": entry_view(*entry)} if entry else {}


def _queues_add_task(ask: Ask) -> Json:
    ask.model.queues.add_entry(required(ask.body, "queue", str), required(ask.body, "task", str))
    return {"added": 1}


def _queues_remove_task(ask: Ask) -> Json:
    task_id = required(ask.body, "task", str)
    return {"removed": int(ask.model.queues.remove_entry(_queue(ask).id, task_id))}


def _queues_move_to_front(ask: Ask) -> Json:
    return {"position": _move(ask, to_front=True)}


def _queues_move_to_back(ask: Ask) -> Json:
    return {"position": _move(ask, to_front=False)}


def _move(ask: Ask, to_front: bool) -> int:
    task_id = required(ask.body, "task", str)
    return ask.model.queues.move_entry(required(ask.body, "queue", str), task_id, to_front)


def _workers_get_all(ask: Ask) -> Json:
    body, model = ask.body, ask.model
    seconds = whole_number(body.get("last_seen", LAST_SEEN_SECONDS) or 0)
    now = model.timeline.now()
    since = now - timedelta(seconds=max(seconds, 1)) if seconds else None
    pattern = body.get("worker_pattern")
    return {
        "workers": [
            worker_view(model, worker)
            for worker in model.workers.alive()
            if (since is None or worker.last_activity_time >= since)
            and (not pattern or fnmatchcase(worker_key(model, worker), f"*{pattern}"))
            and has_tags(worker.tags, several(body.get("tags")))
        ]
    }


def _workers_register(ask: Ask) -> Json:
    ask.model.register(
        ask.user,
        required(ask.body, "worker", str),
        several(ask.body.get("queues")),
        whole_number(ask.body.get("timeout", TIMEOUT_SECONDS)),
        several(ask.body.get("tags")),
        ask.ip,
    )
    return {}


def _workers_unregister(ask: Ask) -> Json:
    ask.model.unregister(ask.user, required(ask.body, "worker", str))
    return {}


def _workers_status_report(ask: Ask) -> Json:
    body = ask.body
    worker = required(body, "worker", str)
    required(body, "timestamp", int)
    ask.model.report(
        ask.user,
        worker,
        body.get("task"),
        body.get("queue"),
        several(body.get("queues")),
        several(body.get("tags")),
        ask.ip,
    )
    return {}


def _users_get_current_user(ask: Ask) -> Json:
    company = {"id": ask.model.company, "name": "clearml"}
    user: Json = {"id": ask.user.id, "name": ask.user.name, "company": company, "role": "user"}
    user["created"] = iso(ask.model.started_at)
    return {"user": user, "getting_started": {}, "settings": {"max_download_items": 50_000}}


def _server_info(_: Ask) -> Json:
    return {"version": SERVER_VERSION, "build": "", "commit": "", "api_version": API_VERSION}


def _debug_ping(_: Ask) -> Json:
    return {"msg": "ClearML server"}


OPEN_TO_ALL = frozenset({"debug.ping", "server.info"})
"""These need no credentials."""

ENDPOINTS: Mapping[str, tuple[str, Endpoint]] = {
    "debug.ping": ("1.0", _debug_ping),
    "server.info": ("2.1", _server_info),
    "users.get_current_user": ("1.0", _users_get_current_user),
    "queues.get_all": ("2.4", _queues_get_all),
    "queues.get_all_ex": ("2.4", _queues_get_all_ex),
    "queues.get_by_id": ("2.4", _queues_get_by_id),
    "queues.get_num_entries": ("2.15", _queues_get_num_entries),
    "queues.get_default": ("2.4", _queues_get_default),
    "queues.create": ("2.4", _queues_create),
    "queues.update": ("2.4", _queues_update),
    "queues.delete": ("2.4", _queues_delete),
    "queues.get_next_task": ("1.0", _queues_get_next_task),
    "queues.add_task": ("2.4", _queues_add_task),
    "queues.remove_task": ("2.4", _queues_remove_task),
    "queues.move_task_to_front": ("2.4", _queues_move_to_front),
    "queues.move_task_to_back": ("2.4", _queues_move_to_back),
    "workers.get_all": ("2.4", _workers_get_all),
    "workers.register": ("2.4", _workers_register),
    "workers.unregister": ("2.4", _workers_unregister),
    "workers.status_report": ("2.4", _workers_status_report),
}
"""By name: the first API version that has it, and what answers."""
