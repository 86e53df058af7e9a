"""Queues, workers and tasks: what is asked, what is made of the answers."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.clearml import api as api_module
from gpu_autoscaler.clearml.api import ClearmlApi
from gpu_autoscaler.domain.errors import NotFound, Transient
from gpu_autoscaler.domain.model import Entry, Queue, Task, TaskStatus, Worker
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.runtime.ports import Clearml
from tests.clearml.server import T0, T1, Server, answer, play

AT_0 = datetime(2026, 9, 7, 7, 0, 0, 123000, tzinfo=UTC)
AT_1 = datetime(2026, 9, 7, 7, 30, 0, 456000, tzinfo=UTC)


def ask(server: Server, question: Callable[[ClearmlApi], Awaitable[Any]]) -> Any:
    return play(server, lambda api, _: question(api))[0]


def queue(number: int, label: str = "", **fields: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "name": label or f"queue {number}", "entries": [], **fields}


def worker(name: str = "h100-1-a1b2c3", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "key": f"worker_company_user_{name}",
        "ip": "127.0.0.1",
        "user": {"id": "u1", "name": "Ada"},
        "queues": [{"id": "q1", "name": "H100", "num_tasks": 0}, {"id": "q0-deleted"}],
        "register_time": T0,
        "register_timeout": 600,
        "last_activity_time": T1,
        **fields,
    }


def task(number: int, status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"t{number}",
        "name": f"train {number}",
        "status": status,
        "status_changed": T1,
        "execution": {"queue": "q1"},
        **fields,
    }


def test_fits_the_port() -> None:
    async def story() -> None:
        port: Clearml = Server().api(LoopClock())  # mypy compares the signatures
        assert all(hasattr(port, name) for name in vars(Clearml) if name[0] != "_")

    run_virtual(story())


# --- for the ledger

ENDED = task(
    1,
    "completed",
    last_worker="m1:gpu0",
    started=T0,
    completed=T1,
    execution={"queue": {"id": "q1"}},
    project={"id": "p1", "name": "lab"},
    user={"id": "u1", "name": "Ada"},
)


def records(*tasks: dict[str, Any], ids: tuple[str, ...] = ("t1",)) -> Any:
    server = Server()
    server.on("tasks.get_all_ex", answer(tasks=list(tasks)))
    return ask(server, lambda api: api.task_records(ids, {"q1": "H100"})), server


def test_what_became_of_a_task() -> None:
    (found,), server = records(ENDED)
    assert (found.id, found.name, found.status) == ("t1", "train 1", "completed")
    assert (found.project, found.user) == ("lab", "Ada")
    assert (found.queue, found.instance) == ("H100", "m1")
    assert (found.started_at, found.ended_at) == (AT_0, AT_1)
    body = server.bodies("tasks.get_all_ex")[0]
    assert body["id"] == ["t1"]
    assert {"project.name", "user.name", "execution.queue.name"} < set(body["only_fields"])


def test_what_is_missing_of_a_task_is_empty() -> None:
    bare = {"id": "t1", "status": "failed", "status_changed": T1, "user": {"id": "u7"}}
    (found,), _ = records(bare)
    assert (found.name, found.project, found.user, found.queue, found.instance) == (
        ("", "", "u7", "", "")
    )
    assert (found.started_at, found.ended_at) == (None, AT_1)


def test_what_has_not_ended_or_was_not_asked_for_is_left_out() -> None:
    open_ones = [{**ENDED, "status": status} for status in ("created", "queued", "in_progress")]
    for one in (*open_ones, {**ENDED, "id": "t2"}):
        assert records(one)[0] == ()
    assert records(ids=())[0] == ()


# --- queues


def test_queues_come_by_name_with_entries_in_the_order_served() -> None:
    server = Server()
    entries = [{"task": "t9", "added": T1}, {"task": "t1", "added": T0}]
    tagged = queue(1, "H100", entries=entries, tags=["force_workers:off"])
    server.on("queues.get_all", answer(queues=[tagged, queue(2, "L4")]))
    assert ask(server, lambda api: api.queues(["L4", "H100", "missing"])) == {
        "H100": Queue("q1", "H100", (Entry("t9", AT_1), Entry("t1", AT_0)), ("force_workers:off",)),
        "L4": Queue("q2", "L4"),
    }


def test_a_queue_gets_the_tags_of_a_pause_and_keeps_its_own() -> None:
    server = Server()
    there = queue(1, "H100", tags=["theirs", "force_workers:off"])
    server.on("queues.get_all", answer(queues=[there]))
    server.on("queues.update", answer(updated=1, fields={}))
    ours = Queue("q1", "H100")
    ask(server, lambda api: api.tag_queue(ours, {"force_workers:off", "budget-used-up"}))
    ask(server, lambda api: api.tag_queue(ours, ()))
    assert server.bodies("queues.update") == [
        {"queue": "q1", "tags": ["theirs", "budget-used-up", "force_workers:off"]},
        {"queue": "q1", "tags": ["theirs"]},
    ]
    with pytest.raises(NotFound, match="has no queue H100 any more"):
        ask(server, lambda api: api.tag_queue(Queue("q9", "H100"), ()))


def test_queues_are_asked_for_in_one_request_that_matches_exactly_these_names() -> None:
    server = Server()
    server.on("queues.get_all", answer(queues=[]))
    names = ["H100-1-80G", "a.b (x|y) [z] +$^\\ ü"]
    assert ask(server, lambda api: api.queues(names)) == {}
    [body] = server.bodies("queues.get_all")
    assert set(body["only_fields"]) == {"id", "name", "entries", "tags"}
    assert (body["page"], body["page_size"], body["search_hidden"]) == (0, 500, True)
    for name in names:
        assert re.search(body["name"], name)
        assert not re.search(body["name"], f"{name}2")
        assert not re.search(body["name"], f"x{name}")


def test_other_queues_are_dropped_when_the_server_ignores_the_filter() -> None:
    server = Server()
    names = ["H100", "h100", "H100-2", "xH100"]
    server.on("queues.get_all", answer(queues=[queue(n, name) for n, name in enumerate(names)]))
    assert set(ask(server, lambda api: api.queues(["H100"]))) == {"H100"}


def test_no_names_no_request() -> None:
    server = Server()
    assert ask(server, lambda api: api.queues([])) == {}
    assert ask(server, lambda api: api.open_tasks([])) == ()
    assert ask(server, lambda api: api.ended_tasks([], AT_0)) == ()
    assert server.asked == []


@pytest.mark.parametrize(
    ("total", "pages"), [(0, 1), (499, 1), (500, 2), (501, 2), (1000, 3), (1203, 3)]
)
def test_all_pages_are_read(total: int, pages: int) -> None:
    server = Server()
    items = [queue(number) for number in range(total)]
    server.on(
        "queues.get_all",
        *(answer(queues=items[start : start + 500]) for start in range(0, total + 500, 500)),
    )
    names = [item["name"] for item in items] or ["any"]
    assert len(ask(server, lambda api: api.queues(names))) == total
    assert [body["page"] for body in server.bodies("queues.get_all")] == list(range(pages))


def test_a_queue_that_moved_to_the_next_page_meanwhile_comes_once() -> None:
    server = Server()
    items = [task(number) for number in range(600)]
    server.on("tasks.get_all", answer(tasks=items[:500]), answer(tasks=items[499:]))
    assert len(ask(server, lambda api: api.open_tasks(["q1"]))) == 600


def test_a_page_that_repeats_is_no_observation() -> None:
    server = Server()
    server.on("queues.get_all", answer(queues=[queue(number) for number in range(500)]))
    with pytest.raises(Transient, match="page 0 again as page 1"):
        ask(server, lambda api: api.queues(["queue 1"]))


def test_a_listing_without_end_is_no_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "PAGE_SIZE", 1)
    server = Server()
    server.on("queues.get_all", *(answer(queues=[queue(number)]) for number in range(300)))
    with pytest.raises(Transient, match="does not end after 200 pages"):
        ask(server, lambda api: api.queues(["queue 1"]))


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"id": None}, r"queues\.0\.id"),
        ({"name": 5}, r"queues\.0\.name"),
        ({"entries": None}, r"queues\.0\.entries"),
        ({"entries": [{"task": "t1"}]}, r"queues\.0\.entries\.0\.added"),
        ({"entries": [{"task": "t1", "added": "yesterday"}]}, r"entries\.0\.added"),
        ({"entries": [{"task": {"id": "t1"}, "added": T0}]}, r"entries\.0\.task"),
        ({"tags": "force_workers:off"}, r"queues\.0\.tags"),
    ],
)
def test_a_queue_that_is_not_understood_is_no_observation(
    broken: dict[str, Any], field: str
) -> None:
    server = Server()
    server.on("queues.get_all", answer(queues=[queue(1, "H100", **broken)]))
    with pytest.raises(Transient, match=rf"queues\.get_all .*{field}"):
        ask(server, lambda api: api.queues(["H100"]))


def test_a_queue_without_entries_key_is_not_an_empty_queue() -> None:
    server = Server()
    server.on("queues.get_all", answer(queues=[{"id": "q1", "name": "H100", "tags": []}]))
    with pytest.raises(Transient, match=r"queues\.0\.entries: Field required"):
        ask(server, lambda api: api.queues(["H100"]))


# --- workers


@pytest.mark.parametrize(
    ("fields", "last_report", "busy_with"),
    [
        ({"last_activity_time": T0}, AT_0, None),
        ({"last_activity_time": None}, AT_0, None),
        ({"last_activity_time": T0, "last_report_time": T1}, AT_1, None),
        ({"last_report_time": T1, "task": {"id": "t1", "running_time": 5000}}, AT_1, "t1"),
        ({"last_report_time": T1, "task": None}, AT_1, None),
        ({"last_report_time": "2026-09-07T07:30:00.456", "later_field": [1]}, AT_1, None),
    ],
)
def test_a_worker(fields: dict[str, Any], last_report: datetime, busy_with: str | None) -> None:
    server = Server()
    server.on("workers.get_all", answer(workers=[worker(**fields)]))
    expected = Worker("h100-1-a1b2c3", AT_0, last_report, busy_with, ("q1", "q0-deleted"))
    assert ask(server, lambda api: api.workers()) == (expected,)
    assert server.bodies("workers.get_all") == [{"last_seen": 0}]


def test_an_id_registered_by_two_users_comes_twice() -> None:
    server = Server()
    twins = [worker(), worker(task={"id": "t1"}, user={"id": "u2", "name": "agents"})]
    server.on("workers.get_all", answer(workers=twins))
    assert [w.task_id for w in ask(server, lambda api: api.workers())] == [None, "t1"]


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"id": 7}, "id"),
        ({"register_time": None}, "register_time"),
        ({"register_time": 1788764400}, "register_time"),
        ({"register_time": "0001-13-01T00:00:00+00:00"}, "register_time"),
        ({"last_report_time": "soon"}, "last_report_time"),
        ({"task": "t1"}, "task"),
        ({"task": {}}, r"task\.id"),
        ({"queues": ["q1"]}, r"queues\.0"),
    ],
)
def test_a_worker_that_is_not_understood_is_no_observation(
    broken: dict[str, Any], field: str
) -> None:
    server = Server()
    server.on("workers.get_all", answer(workers=[worker("other"), worker(**broken)]))
    with pytest.raises(Transient, match=rf"workers\.get_all .*data\.workers\.1\.{field}"):
        ask(server, lambda api: api.workers())


# --- tasks


def test_a_running_task() -> None:
    server = Server()
    full = task(
        1,
        last_update=T1,
        last_worker="h100-1-a1b2c3:gpu0",
        started=T0,
        status_message="Changed by clearml-agent",
    )
    server.on("tasks.get_all", answer(tasks=[full]))
    [found] = ask(server, lambda api: api.open_tasks(["q1"]))
    assert found == Task(
        id="t1",
        name="train 1",
        status=TaskStatus.IN_PROGRESS,
        queue_id="q1",
        status_changed_at=AT_1,
        last_worker="h100-1-a1b2c3:gpu0",
        started_at=AT_0,
    )


@pytest.mark.parametrize("last_worker", [None, ""])
def test_a_task_that_never_ran_has_no_worker(last_worker: str | None) -> None:
    server = Server()
    fields = {"last_worker": last_worker, "name": None, "status_reason": None}
    server.on("tasks.get_all", answer(tasks=[task(1, "queued", **fields)]))
    [found] = ask(server, lambda api: api.open_tasks(["q1"]))
    assert (found.last_worker, found.machine, found.name) == (None, None, "")


@pytest.mark.parametrize(
    ("status", "message", "asked"),
    [
        ("in_progress", "stopping", True),
        ("in_progress", "Changed by clearml-agent", False),
        ("in_progress", None, False),
        ("queued", "stopping", False),
    ],
)
def test_an_abort_that_is_not_obeyed_yet(status: str, message: str | None, asked: bool) -> None:
    server = Server()
    server.on("tasks.get_all", answer(tasks=[task(1, status, status_message=message)]))
    [found] = ask(server, lambda api: api.open_tasks(["q1"]))
    assert found.stop_requested is asked


@pytest.mark.parametrize(
    ("reason", "message", "asked"),
    [
        ("task was stopped by tasks.stop", "Changed by clearml-agent m1", True),  # obeyed
        ("", "Stopped by Ada Lovelace", True),  # of an agent that was silent for 10 minutes
        (None, "Stopped by Ada Lovelace", True),
        ("user abort", "Changed by clearml-agent m1", False),  # its agent got SIGTERM
        ("Forced stop (non-responsive)", "Forced stop (non-responsive)", False),
        (None, None, False),
        ("machine died", "Not Stopped by Ada", False),
    ],
)
def test_who_stopped_a_task(reason: str | None, message: str | None, asked: bool) -> None:
    server = Server()
    notes = {"status_reason": reason, "status_message": message}
    server.on("tasks.get_all", answer(tasks=[task(1, "stopped", **notes)]))
    [found] = ask(server, lambda api: api.ended_tasks(["q1"], AT_0))
    assert found.stop_requested is asked


def test_how_a_task_failed_is_no_abort() -> None:
    server = Server()
    failed = task(1, "failed", status_message="Stopped by Ada", started=None)
    server.on("tasks.get_all", answer(tasks=[failed]))
    [found] = ask(server, lambda api: api.ended_tasks(["q1"], AT_0))
    assert (found.stop_requested, found.started_at) == (False, None)


def test_open_tasks_are_asked_for_hidden_ones_included() -> None:
    server = Server()
    server.on("tasks.get_all", answer(tasks=[]))
    ask(server, lambda api: api.open_tasks({"q2", "q1"}))
    [body] = server.bodies("tasks.get_all")
    fields = body.pop("only_fields")
    assert {"id", "status", "execution.queue", "last_worker", "status_message"} < set(fields)
    assert body == {
        "status": ["queued", "in_progress"],
        "execution.queue": ["q1", "q2"],
        "search_hidden": True,
        "order_by": ["created"],
        "page": 0,
        "page_size": 500,
    }


EVERYTHING = [
    task(1, "created", execution={}),
    task(2, "queued"),
    task(3, "in_progress"),
    task(4, "in_progress", execution={"queue": "q7"}),
    task(5, "stopped"),
    task(6, "failed"),
    task(7, "completed"),
    task(8, "completed", execution={"queue": "q7"}),
    task(9, "published"),
    task(10, "sleeping"),
    task(11, "completed", status_changed="2026-09-07T07:29:59.999000+00:00"),
]


def test_other_tasks_are_dropped_when_the_server_ignores_the_filter() -> None:
    server = Server()
    server.on("tasks.get_all", answer(tasks=EVERYTHING))
    found = ask(server, lambda api: api.open_tasks(["q1"]))
    assert [task.id for task in found] == ["t2", "t3"]
    found = ask(server, lambda api: api.ended_tasks(["q1"], AT_1))
    assert [task.id for task in found] == ["t5", "t6", "t7"]


def test_ended_tasks_are_asked_for_by_the_millisecond_that_the_server_keeps() -> None:
    server = Server()
    server.on("tasks.get_all", answer(tasks=[task(5, "stopped")]))
    since = AT_1 + timedelta(microseconds=999)  # stored: cut to milliseconds
    assert len(ask(server, lambda api: api.ended_tasks(["q1"], since))) == 1
    [body] = server.bodies("tasks.get_all")
    assert body["status"] == ["stopped", "failed", "completed"]
    assert body["status_changed"] == [">=2026-09-07T07:30:00.456+00:00"]


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"status": None}, "status"),
        ({"status_changed": None}, "status_changed"),
        ({"execution": {"queue": {"id": "q1"}}}, r"execution\.queue"),
        ({"last_worker": ["w1"]}, "last_worker"),
        ({"started": "soon"}, "started"),
    ],
)
def test_a_task_that_is_not_understood_is_no_observation(
    broken: dict[str, Any], field: str
) -> None:
    server = Server()
    server.on("tasks.get_all", answer(tasks=[task(1, **broken)]))
    with pytest.raises(Transient, match=rf"tasks\.get_all .*data\.tasks\.0\.{field}"):
        ask(server, lambda api: api.open_tasks(["q1"]))


def test_a_cycle_makes_three_reads_however_much_there_is() -> None:
    server = Server()
    server.on("queues.get_all", answer(queues=[queue(number) for number in range(400)]))
    server.on("workers.get_all", answer(workers=[worker(f"w{number}") for number in range(700)]))
    server.on("tasks.get_all", answer(tasks=[task(number) for number in range(400)]))

    async def cycle(api: ClearmlApi) -> None:
        queues = await api.queues([f"queue {number}" for number in range(400)])
        assert len(queues) == 400
        assert len(await api.workers()) == 700
        assert len(await api.open_tasks([q.id for q in queues.values()])) == 400

    ask(server, cycle)
    assert server.asked == ["auth.login", "queues.get_all", "workers.get_all", "tasks.get_all"]


# --- who am I


@pytest.mark.parametrize(
    ("user", "name"), [({"id": "u1", "name": "Ada"}, "Ada"), ({"id": "u1"}, "u1")]
)
def test_the_current_user(user: dict[str, str], name: str) -> None:
    server = Server()
    server.on("users.get_current_user", answer(user=user, settings={}))
    assert ask(server, lambda api: api.checks.identity()).name == name
