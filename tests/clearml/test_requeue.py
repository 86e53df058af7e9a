"""Putting a task back at the head of its queue."""

from datetime import UTC, datetime

import httpx
import pytest

from gpu_autoscaler.domain.errors import ApiError, NotFound, Rejected, Transient, Unauthorized
from gpu_autoscaler.domain.model import Task, TaskStatus
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from tests.clearml.server import Server, answer, refusal

NOTE = "returned to its queue: its instance was powered off"
DONE = answer(updated=1, fields={"status": "queued"})
MOVED = answer(position=0)
ALREADY_QUEUED = refusal(400, 706, "Failed adding task to queue since task is already queued")
NOT_IN_QUEUE = refusal(400, 703, "Invalid queue id or task not in queue")
WRONG_STATUS = refusal(400, 110, "Invalid task status")

STOP, ENQUEUE, MOVE = "tasks.stopped", "tasks.enqueue", "queues.move_task_to_front"


def requeue(server: Server, status: TaskStatus) -> None:
    moment = datetime(2026, 9, 7, 7, tzinfo=UTC)
    task = Task("t1", "train", status, "q1", moment, last_worker="h100-1-a1b2c3")

    async def story() -> None:
        async with server.api(LoopClock()) as api:
            await api.requeue_to_front(task, NOTE)

    run_virtual(story())


def willing() -> Server:
    server = Server()
    server.on(STOP, DONE)
    server.on(ENQUEUE, DONE)
    server.on(MOVE, MOVED)
    return server


@pytest.mark.parametrize(
    ("status", "calls", "force"),
    [
        (TaskStatus.IN_PROGRESS, [STOP, ENQUEUE, MOVE], False),
        (TaskStatus.STOPPED, [ENQUEUE, MOVE], False),
        (TaskStatus.FAILED, [ENQUEUE, MOVE], False),
        (TaskStatus.COMPLETED, [ENQUEUE, MOVE], True),
        (TaskStatus.QUEUED, [ENQUEUE, MOVE], False),
    ],
)
def test_what_it_takes_depends_on_the_status(
    status: TaskStatus, calls: list[str], force: bool
) -> None:
    server = willing()
    requeue(server, status)
    assert server.asked[1:] == calls
    for method in set(calls) - {MOVE}:
        [body] = server.bodies(method)
        assert (body["task"], body["status_reason"]) == ("t1", NOTE)
        assert body.get("force", False) == (force and method == ENQUEUE)
    assert server.bodies(ENQUEUE)[0]["queue"] == "q1"
    assert server.bodies(MOVE) == [{"queue": "q1", "task": "t1"}]


def test_a_task_that_is_queued_already_is_moved_to_the_front() -> None:
    server = willing()
    server.on(ENQUEUE, ALREADY_QUEUED)
    requeue(server, TaskStatus.QUEUED)
    assert server.asked[1:] == [ENQUEUE, MOVE]


def test_a_task_that_an_agent_took_at_once_is_well_served() -> None:
    server = willing()
    server.on(MOVE, NOT_IN_QUEUE)
    requeue(server, TaskStatus.STOPPED)
    assert server.asked[1:] == [ENQUEUE, MOVE]


def test_a_task_said_to_be_queued_that_waits_nowhere_is_reported() -> None:
    server = willing()
    server.on(ENQUEUE, ALREADY_QUEUED)
    server.on(MOVE, NOT_IN_QUEUE)
    with pytest.raises(Rejected, match=r"task t1 is queued already, .* wait in queue q1"):
        requeue(server, TaskStatus.QUEUED)


@pytest.mark.parametrize(
    ("method", "step", "kind", "last"),
    [
        (STOP, refusal(400, 101, "Invalid task id"), NotFound, STOP),
        (ENQUEUE, refusal(400, 101, "Invalid task id"), NotFound, ENQUEUE),
        (ENQUEUE, refusal(400, 701, "Invalid queue id"), Rejected, ENQUEUE),
        (STOP, WRONG_STATUS, Rejected, STOP),  # it ended by itself: not to be run again
        (ENQUEUE, WRONG_STATUS, Rejected, ENQUEUE),  # it runs elsewhere
        (ENQUEUE, refusal(403, 21, "Forbidden"), Unauthorized, ENQUEUE),
        (MOVE, refusal(400, 12, "Validation error"), Rejected, MOVE),
    ],
)
def test_a_refusal_ends_it(
    method: str, step: httpx.Response, kind: type[ApiError], last: str
) -> None:
    server = willing()
    server.on(method, step)
    with pytest.raises(ApiError) as caught:
        requeue(server, TaskStatus.IN_PROGRESS)
    assert isinstance(caught.value, kind)
    assert step.json()["meta"]["result_msg"] in str(caught.value)
    assert server.asked[-1] == last


@pytest.mark.parametrize("method", [STOP, ENQUEUE, MOVE])
@pytest.mark.parametrize("step", [httpx.Response(502), httpx.Response(429)])
def test_a_change_is_not_tried_again_by_itself(method: str, step: httpx.Response) -> None:
    server = willing()
    server.on(method, step)
    with pytest.raises(ApiError):
        requeue(server, TaskStatus.IN_PROGRESS)
    assert server.asked.count(method) == 1
    assert server.asked[-1] == method


def test_a_change_with_an_expired_token_is_made_with_a_new_one() -> None:
    server = willing()
    server.on(ENQUEUE, refusal(401, 30, "Invalid token"), DONE)
    requeue(server, TaskStatus.STOPPED)
    assert server.asked == ["auth.login", ENQUEUE, "auth.login", ENQUEUE, MOVE]


def test_it_can_be_repeated_when_an_answer_was_lost() -> None:
    server = willing()
    server.on(ENQUEUE, httpx.ReadTimeout("lost"), ALREADY_QUEUED)
    with pytest.raises(Transient):
        requeue(server, TaskStatus.STOPPED)
    requeue(server, TaskStatus.STOPPED)
    assert server.asked[-1] == MOVE
