"""What the doctor asks of ClearML, and the queue and task that a boot check makes."""

from typing import Any

import httpx
import pytest

from gpu_autoscaler.clearml.checks import NOTHING
from gpu_autoscaler.domain.errors import NotFound, Rejected, Transient
from gpu_autoscaler.domain.model import TaskStatus
from tests.clearml.server import T0, Server, answer, refusal
from tests.clearml.test_reads import ask

CHANGES = ("tasks.enqueue", "tasks.stopped", "queues.move_task_to_front", "queues.update")
NO_TASK = refusal(400, 101, "Invalid task id")
NO_QUEUE = refusal(400, 701, "Invalid queue id")


def open_to_all() -> Server:
    server = Server()
    for method in CHANGES:
        server.on(method, NO_TASK if method.startswith("tasks") else NO_QUEUE)
    return server


def test_every_change_is_tried_on_nothing() -> None:
    server = open_to_all()
    assert ask(server, lambda api: api.checks.refused()) == []
    assert server.asked == ["auth.login", *CHANGES]
    for method in CHANGES:
        (body,) = server.bodies(method)
        assert {body.get(key, NOTHING) for key in ("task", "queue")} == {NOTHING}


@pytest.mark.parametrize("method", CHANGES)
def test_a_change_that_is_forbidden_is_named(method: str) -> None:
    server = open_to_all()
    server.on(method, refusal(403, 21, "Forbidden (not allowed for role)"))
    assert ask(server, lambda api: api.checks.refused()) == [method]


def test_no_answer_is_no_permission() -> None:
    server = open_to_all()
    server.on("tasks.stopped", httpx.Response(502, html="<h1>Bad Gateway</h1>"))
    with pytest.raises(Transient):
        ask(server, lambda api: api.checks.refused())


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ({"id": "u1", "name": "Ada", "company": {"id": "c1", "name": "x"}}, ("u1", "Ada", "c1")),
        ({"id": "u1"}, ("u1", "u1", "")),
    ],
)
def test_whose_key_it_is(user: dict[str, Any], found: tuple[str, ...]) -> None:
    server = Server()
    server.on("users.get_current_user", answer(user=user))
    identity = ask(server, lambda api: api.checks.identity())
    assert (identity.user_id, identity.name, identity.company_id) == found


def test_queues_are_found_by_the_beginning_of_their_names() -> None:
    server = Server()
    listed = [{"id": f"q{n}", "name": name, "entries": []} for n, name in enumerate(("a-1", "b"))]
    server.on("queues.get_all", answer(queues=listed))
    assert ask(server, lambda api: api.checks.queues_called("a-")) == {"a-1": "q0"}


def test_a_queue_that_is_gone_is_deleted() -> None:
    server = Server()
    server.on("queues.delete", NO_QUEUE)
    ask(server, lambda api: api.checks.delete_queue("q1"))
    assert server.bodies("queues.delete") == [{"queue": "q1", "force": True}]
    server.on("queues.delete", refusal(400, 12, "Validation error"))
    with pytest.raises(Rejected):
        ask(server, lambda api: api.checks.delete_queue("q1"))


def test_a_task_that_is_gone_is_deleted() -> None:
    server = Server()
    server.on("tasks.delete", NO_TASK)
    ask(server, lambda api: api.checks.delete_task("t1"))
    assert server.bodies("tasks.delete") == [{"task": "t1", "force": True}]


def test_how_far_a_task_is() -> None:
    server = Server()
    task = {"id": "t1", "status": "failed", "status_changed": T0, "last_worker": "w1"}
    server.on("tasks.get_all", answer(tasks=[{**task, "status_reason": "exit code 1"}]))
    run = ask(server, lambda api: api.checks.run("t1"))
    assert (run.status, run.worker, run.reason) == (TaskStatus.FAILED, "w1", "exit code 1")
    with pytest.raises(NotFound):
        ask(server, lambda api: api.checks.run("t2"))


def test_a_console_is_put_in_order() -> None:
    server = Server()
    events = [{"msg": "last", "timestamp": 3}, {"msg": "third\r\n", "timestamp": 2}]
    events += [{"msg": "second", "timestamp": 2}, {"msg": "first\n", "timestamp": 1}]
    server.on("events.get_task_log", answer(events=events, returned=4, total=4))
    console = ask(server, lambda api: api.checks.console("t1"))
    assert console == "first\nsecond\nthird\nlast\n"
