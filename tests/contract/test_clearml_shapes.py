"""The emulated server's replies have the keys and the types of the real server's.

`SHAPES` was typed after replies recorded from clearml-server 2.3.0. Where the recordings lie
beside the project they are compared with it too, and all replies with the SDK's own schemas.
"""

import base64
import json
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from clearml.backend_api.services.v2_23 import auth, events, queues, tasks, workers
from jsonschema import Draft7Validator

from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import LoopClock, RandomIds, run_virtual

EXAMPLES = Path(__file__).parents[2].parent / "shared" / "examples" / "clearml"
KEYS = (EMULATED_USER.access_key, EMULATED_USER.secret_key)
NOBODY = "nobody"
START = datetime(2026, 9, 7, 8, 0, 0, 123456, tzinfo=UTC)
"""Not a whole millisecond: times that went through the server's database lose the rest."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\d{3})\+00:00")
FREE_FORM = frozenset({"script", "runtime", "metric_stats", "hyperparams", "container"})
"""Objects whose keys are the client's business."""

ID = NAME = "str"
NUMBER = "int"
STORED, EXACT = "time in ms", "time in us"
COMPANY = {"id": ID}
TASK_NAME = {"id": ID, "name": NAME}
ENTRY = {"task": ID, "added": STORED}
QUEUE: dict[str, Any] = {
    "id": ID,
    "name": NAME,
    "company": ID,
    "created": STORED,
    "last_update": STORED,
    "tags": [],
    "system_tags": [],
    "entries": [],
    "metadata": {},
}
DEFAULT_QUEUE = {**QUEUE, "system_tags": ["str"]}
QUEUE_EX: dict[str, Any] = {**QUEUE, "company": COMPANY, "workers": []}
DEFAULT_QUEUE_EX = {**QUEUE_EX, "system_tags": ["str"]}
LISTENER = {"name": ID, "ip": "str", "key": "str", "task": None}
LISTENED = {"id": ID, "name": NAME, "num_tasks": NUMBER}
LISTENED_PENDING = {**LISTENED, "next_task": TASK_NAME}
WORKER: dict[str, Any] = {
    "id": ID,
    "key": "str",
    "ip": "str",
    "user": TASK_NAME,
    "company": TASK_NAME,
    "register_time": EXACT,
    "last_activity_time": EXACT,
    "register_timeout": NUMBER,
    "tags": [],
    "system_tags": [],
    "queues": [LISTENED],
}
REPORTED = {**WORKER, "last_report_time": EXACT}
PROGRESS = {**TASK_NAME, "running_time": NUMBER, "last_iteration": NUMBER}
BUSY = {
    **REPORTED,
    "task": PROGRESS,
    "queue": LISTENED_PENDING,
    "queues": [LISTENED_PENDING],
}
TASK: dict[str, Any] = {
    "id": ID,
    "company": ID,
    "user": ID,
    "name": NAME,
    "type": "str",
    "status": "str",
    "status_reason": "str",
    "status_message": "str",
    "created": STORED,
    "status_changed": STORED,
    "last_update": STORED,
    "last_change": STORED,
    "report_assets": [],
    "tags": [],
    "system_tags": [],
    "unique_metrics": [],
    "output": {},
    "last_metrics": {},
    "configuration": {},
    **dict.fromkeys(FREE_FORM, "free"),
    "models": {"input": [], "output": []},
    "last_iteration": NUMBER,
    "last_changed_by": ID,
    "execution": {
        "test_split": NUMBER,
        "parameters": {},
        "model_desc": {},
        "model_labels": {},
        "artifacts": [],
        "queue": ID,
    },
}
RUN = {
    "started": STORED,
    "active_duration": NUMBER,
    "last_worker": ID,
    "last_worker_report": STORED,
}
CHANGE = {
    "status": "str",
    "status_reason": "str",
    "status_message": "str",
    "last_changed_by": ID,
    "status_changed": EXACT,
    "last_update": EXACT,
    "last_change": EXACT,
}

SHAPES: dict[str, Any] = {
    "auth.login": {"token": "str"},
    "debug.ping": {"msg": "str"},
    "server.info": {"version": "str", "build": "str", "commit": "str", "api_version": "str"},
    "queues.create": {"id": ID},
    "queues.get_all__fresh": {"queues": [DEFAULT_QUEUE]},
    "queues.get_all__one_entry": {"queues": [DEFAULT_QUEUE, {**QUEUE, "entries": [ENTRY]}]},
    "queues.get_all_ex__worker_idle": {
        "queues": [DEFAULT_QUEUE_EX, {**QUEUE_EX, "workers": [LISTENER]}]
    },
    "queues.get_all_ex__worker_busy_one_pending": {
        "queues": [
            DEFAULT_QUEUE_EX,
            {
                **QUEUE_EX,
                "entries": [{**ENTRY, "task": TASK_NAME}],
                "workers": [{**LISTENER, "task": TASK_NAME}],
            },
        ]
    },
    "queues.get_by_id__one_entry": {"queue": {**QUEUE, "entries": [ENTRY]}},
    "queues.get_num_entries": {"num": NUMBER},
    "queues.get_next_task": {"entry": ENTRY},
    "ok__workers.register": {},
    "ok__workers.get_all__timeout_5": {"workers": [WORKER]},
    "workers.get_all__idle": {"workers": [REPORTED]},
    "workers.get_all__busy": {"workers": [BUSY]},
    "workers.get_all__queue_deleted": {"workers": [{**REPORTED, "queues": [{"id": ID}]}]},
    "tasks.create": {"id": ID},
    "tasks.enqueue": {
        "fields": {**CHANGE, "enqueue_status": "str", "execution.queue": ID},
        "queued": NUMBER,
        "updated": NUMBER,
    },
    "tasks.get_by_id__queued": {"task": TASK},
    "tasks.get_by_id__popped_never_started": {"task": TASK},
    "tasks.get_by_id__in_progress": {"task": {**TASK, **RUN}},
    "tasks.stop__running": {"fields": CHANGE, "updated": NUMBER},
    "tasks.get_by_id__completed": {"task": {**TASK, **RUN, "completed": STORED}},
}

SCHEMAS = {
    "auth.login": auth.LoginResponse,
    "queues.create": queues.CreateResponse,
    "queues.get_all": queues.GetAllResponse,
    "queues.get_by_id": queues.GetByIdResponse,
    "queues.get_num_entries": queues.GetNumEntriesResponse,
    "queues.get_next_task": queues.GetNextTaskResponse,
    "queues.delete": queues.DeleteResponse,
    "workers.register": workers.RegisterResponse,
    "workers.get_all": workers.GetAllResponse,
    "workers.status_report": workers.StatusReportResponse,
    "tasks.create": tasks.CreateResponse,
    "tasks.enqueue": tasks.EnqueueResponse,
    "tasks.get_by_id": tasks.GetByIdResponse,
    "tasks.get_all": tasks.GetAllResponse,
    "tasks.started": tasks.StartedResponse,
    "tasks.ping": tasks.PingResponse,
    "events.get_task_log": events.GetTaskLogResponse,
    "tasks.stop": tasks.StopResponse,
    "tasks.completed": tasks.CompletedResponse,
}


def shape(value: Any, key: str = "") -> Any:
    """Types instead of values; equal neighbours in a list count once."""
    if key in FREE_FORM:
        return "free"
    if isinstance(value, dict):
        return {name: shape(part, name) for name, part in value.items()}
    if isinstance(value, list):
        shapes = [shape(part) for part in value]
        return [each for i, each in enumerate(shapes) if i == 0 or each != shapes[i - 1]]
    if isinstance(value, str) and (time := TIME.fullmatch(value)):
        return STORED if time[1] == "000" else EXACT
    return None if value is None else type(value).__name__


class Recorder:
    """Plays one story against the emulator and keeps the replies' data by example name."""

    def __init__(self) -> None:
        clock = LoopClock(START)
        self.sleep = clock.sleep
        app = clearml_app(ClearmlModel(Timeline(clock), RandomIds()))
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://clearml", auth=KEYS
        )
        self.kept: dict[str, Any] = {}

    async def ask(self, endpoint: str, keep_as: str = "", /, **body: Any) -> Any:
        reply = await self.client.post(f"/{endpoint}", json=body)
        assert reply.status_code == 200, reply.text
        data = reply.json()["data"]
        if endpoint in SCHEMAS:
            Draft7Validator(SCHEMAS[endpoint]._schema).validate(data)
        self.kept[keep_as or endpoint] = data
        return data

    async def story(self) -> None:
        """A task's life with one agent, from the empty server to the deleted queue."""
        for endpoint in ("auth.login", "debug.ping", "server.info"):
            await self.ask(endpoint)
        await self.ask("queues.get_all", "queues.get_all__fresh")
        queue = (await self.ask("queues.create", name="gpu-small"))["id"]
        first = (await self.ask("tasks.create", name="first", type="training"))["id"]
        await self.ask("tasks.enqueue", task=first, queue=queue)
        await self.ask("tasks.get_by_id", "tasks.get_by_id__queued", task=first)
        await self.ask("queues.get_all", "queues.get_all__one_entry")
        await self.ask("queues.get_by_id", "queues.get_by_id__one_entry", queue=queue)
        await self.ask("queues.get_num_entries", queue=queue)
        await self.ask("queues.get_next_task", queue=queue)
        await self.ask("tasks.get_by_id", "tasks.get_by_id__popped_never_started", task=first)
        await self.ask("workers.register", "ok__workers.register", worker="w1", queues=[queue])
        await self.ask("workers.get_all", "ok__workers.get_all__timeout_5")
        report: dict[str, Any] = {"worker": "w1", "timestamp": 1, "queues": [queue]}
        await self.ask("workers.status_report", **report)
        await self.ask("workers.get_all", "workers.get_all__idle")
        await self.ask("queues.get_all_ex", "queues.get_all_ex__worker_idle")
        second = (await self.ask("tasks.create", name="second", type="training"))["id"]
        await self.ask("tasks.enqueue", task=second, queue=queue)
        await self.ask("tasks.started", task=first, force=True)
        await self.ask("workers.status_report", **report, task=first, queue=queue)
        await self.ask("tasks.ping", task=first)
        await self.ask("events.add_batch", requests=[{"type": "log", "task": first, "msg": "x"}])
        log = await self.ask("events.get_task_log", task=first)
        assert [event["msg"] for event in log["events"]] == ["x"]
        await self.ask("workers.get_all", "workers.get_all__busy")
        await self.ask("queues.get_all_ex", "queues.get_all_ex__worker_busy_one_pending")
        await self.ask("tasks.get_by_id", "tasks.get_by_id__in_progress", task=first)
        await self.sleep(30)
        await self.ask("tasks.stop", "tasks.stop__running", task=first)
        await self.ask("tasks.completed", task=first)
        await self.ask("tasks.get_by_id", "tasks.get_by_id__completed", task=first)
        await self.ask("tasks.get_all", id=[first, second])
        await self.ask("workers.status_report", **report)
        await self.ask("queues.delete", queue=queue, force=True)
        await self.ask("workers.get_all", "workers.get_all__queue_deleted")


@cache
def replies() -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        recorder = Recorder()
        async with recorder.client:
            await recorder.story()
        return recorder.kept

    return run_virtual(main())


@pytest.mark.parametrize("name", SHAPES)
def test_the_emulator_answers_in_the_recorded_shape(name: str) -> None:
    assert shape(replies()[name]) == SHAPES[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_are_those_of_the_recordings(name: str) -> None:
    path = EXAMPLES / f"{name}.json"
    if not path.exists():
        pytest.skip("no recordings beside the project")
    recorded = json.loads(path.read_text())["response"]["json"]["data"]
    assert shape(recorded) == SHAPES[name]


NEEDS_A_STORY = ("fixed_user", "token", "not_empty", "tasks.enqueue", "timeout")
"""Refusals whose recordings depend on what went before; the emulator's own tests have them."""


def refusals() -> list[Path]:
    """Recordings of requests that any server refuses."""
    found = sorted(EXAMPLES.glob("err__*.json"))
    return [path for path in found if not any(word in path.name for word in NEEDS_A_STORY)]


@pytest.mark.skipif(not EXAMPLES.exists(), reason="no recordings beside the project")
@pytest.mark.parametrize("path", refusals(), ids=lambda path: path.stem)
def test_refusals_are_worded_as_recorded(path: Path) -> None:
    recorded = json.loads(path.read_text())
    request, response = recorded["request"], recorded["response"]
    keys = (NOBODY, "x") if response["status"] == 401 else KEYS
    credentials = base64.b64encode(":".join(keys).encode()).decode()

    async def main() -> None:
        recorder = Recorder()
        async with recorder.client as client:
            await recorder.ask("queues.create", name="gpu-small")
            token = (await recorder.ask("auth.login"))["token"]
            client.cookies.clear()
            client.auth = httpx.Auth()
            headers = {
                name: value.replace("<token>", token).replace("<credentials>", credentials)
                for name, value in request["headers"].items()
            }
            reply = await client.request(
                request["method"], request["path"], headers=headers, content=request["body"]
            )
            assert reply.status_code == response["status"]
            if response["json"] is None:
                assert reply.text == response["text"]
            else:
                assert worded(reply.json()) == worded(response["json"])

    run_virtual(main())


def worded(reply: dict[str, Any]) -> Any:
    """A refusal's codes and the first words of its message; the ids after a colon differ."""
    meta = reply["meta"]
    codes = [meta[key] for key in ("result_code", "result_subcode", "error_stack", "error_data")]
    endpoint = {**meta["endpoint"], "requested_version": None}
    return codes, endpoint, meta["result_msg"].split(":")[0], reply["data"]


def test_the_envelope_is_the_recorded_one() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with recorder.client as client:
            for path, actual in (("/queues.get_all", "2.4"), ("/queues.nope", None)):
                meta = (await client.post(path)).json()["meta"]
                assert meta.pop("id") == meta.pop("trx")
                assert meta.pop("endpoint") == {
                    "name": path[1:],
                    "requested_version": "2.34",
                    "actual_version": actual,
                }
                message = meta.pop("result_msg")
                assert message == ("OK" if actual else UNKNOWN_ENDPOINT)
                code = 200 if actual else 404
                assert meta == {
                    "result_code": code,
                    "result_subcode": 0,
                    "error_stack": None,
                    "error_data": {},
                }

    run_virtual(main())


UNKNOWN_ENDPOINT = "Unable to find endpoint for name queues.nope and version 2.34"
