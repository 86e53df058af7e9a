"""What the daemon asks of ClearML, and the two things it changes there.

A cycle makes three reads, however many queues and tasks there are: listings are paged at the
server's maximum. Filters are applied again on our side, because the server ignores those that
it does not know without a word and then lists everything.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from gpu_autoscaler.clearml import wire
from gpu_autoscaler.clearml.checks import Checks
from gpu_autoscaler.clearml.transport import (
    CALL_DEADLINE,
    Credentials,
    RejectedWithCode,
    Session,
)
from gpu_autoscaler.clearml.wire import Reply
from gpu_autoscaler.domain.calls import OnCall, nobody
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import NotFound, Rejected, Transient
from gpu_autoscaler.domain.ledger import TaskRecord
from gpu_autoscaler.domain.model import PAUSE_TAGS, Queue, Task, TaskStatus, Worker

__all__ = ["ClearmlApi", "Credentials"]

D = TypeVar("D")
T = TypeVar("T", bound=wire.Item)

PAGE_SIZE = 500
"""The most that the server gives at once; without paging it cuts there without a word."""
MAX_PAGES = 200
OPEN = (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
ENDED = (TaskStatus.STOPPED, TaskStatus.FAILED, TaskStatus.COMPLETED)
NOT_ENDED = (TaskStatus.CREATED, *OPEN)

NOT_IN_QUEUE = 703
ALREADY_QUEUED = 706


class ClearmlApi:
    """One ClearML server, seen through one user's API key.

    Every method raises a subclass of `domain.errors.ApiError` and nothing else. Reads are tried
    three times; each attempt ends within `call_deadline` seconds.
    """

    def __init__(
        self,
        api_host: str,
        credentials: Credentials,
        clock: Clock,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        call_deadline: float = CALL_DEADLINE,
        on_call: OnCall = nobody,
        session: Session | None = None,
    ) -> None:
        """`session`: a ready one, before everything that says how to reach ClearML."""
        self._session = session or Session(
            api_host,
            credentials,
            clock,
            transport=transport,
            call_deadline=call_deadline,
            on_call=on_call,
        )
        self.checks = Checks(self._session)
        """For the doctor."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.aclose()

    @property
    def skew(self) -> timedelta:
        """How far the server's clock is ahead of ours, give or take a second; zero until it
        answered. All moments in what is read are the server's."""
        return self._session.skew

    async def queues(self, names: Collection[str]) -> Mapping[str, Queue]:
        """Those of the named queues that exist, by name, with their entries oldest first."""
        if not names:
            return {}
        items = await self._all_pages(
            "queues.get_all",
            {
                # a regular expression, searched for anywhere in the name, case-sensitive
                "name": f"^({'|'.join(re.escape(name) for name in sorted(names))})$",
                "only_fields": wire.QUEUE_FIELDS,
                "search_hidden": True,
                "order_by": ["created"],
            },
            wire.QUEUES,
            lambda data: data.queues,
        )
        return {item.name: item.to_domain() for item in items if item.name in names}

    async def workers(self) -> Sequence[Worker]:
        """Every worker that ClearML lists, ours and others'; an id registered by two users
        comes twice.

        Without the server's default filter (seen in the last hour): an agent's entry expires by
        itself 600 s after its last report, and one that asked for longer may well have a task.
        """
        data = await self._session.read("workers.get_all", {"last_seen": 0}, wire.WORKERS)
        return tuple(item.to_domain() for item in data.workers)

    async def open_tasks(self, queue_ids: Collection[str]) -> Sequence[Task]:
        """Tasks of these queues that are queued or in progress."""
        return await self._tasks(queue_ids, OPEN, {})

    async def ended_tasks(self, queue_ids: Collection[str], since: datetime) -> Sequence[Task]:
        """Tasks of these queues that ended (stopped, failed, completed) at `since` or later, by the
        server's clock."""
        # whole milliseconds, as the server stores them: a finer bound would miss its own moment
        bound = since.astimezone(UTC)
        bound = bound.replace(microsecond=bound.microsecond // 1000 * 1000)
        tasks = await self._tasks(
            queue_ids, ENDED, {"status_changed": [f">={bound.isoformat(timespec='milliseconds')}"]}
        )
        return tuple(task for task in tasks if task.status_changed_at >= bound)

    async def task_records(
        self, task_ids: Collection[str], queue_names: Mapping[str, str]
    ) -> Sequence[TaskRecord]:
        """Those of the tasks that ended, as the ledger keeps them, their times by the server's
        clock; what was deleted is missing. `queue_names`: by id, of queues that may be gone."""
        if not task_ids:
            return ()
        query = {
            "id": sorted(task_ids),
            "only_fields": wire.RECORD_FIELDS,
            "search_hidden": True,
            "order_by": ["created"],
        }
        items = await self._all_pages(
            "tasks.get_all_ex", query, wire.TASKS_EX, lambda data: data.tasks
        )
        ended = (i for i in items if i.id in task_ids and i.status not in NOT_ENDED)
        return tuple(item.to_domain(queue_names) for item in ended)

    async def requeue_to_front(self, task: Task, note: str) -> None:
        """Put a task back at the head of its queue, with `note` as the reason of its status.

        Safe to repeat: a task that is queued already is only moved. What the server refuses is
        raised as Rejected: it compares statuses atomically, so a task that ended by itself or
        runs elsewhere by now is left alone. NotFound means that the task does not exist.
        """
        reason = {"task": task.id, "status_reason": note}
        if task.status is TaskStatus.IN_PROGRESS:
            await self._session.call("tasks.stopped", reason, wire.DONE)
        already_queued = await self._enqueue(task, reason)
        place = {"queue": task.queue_id, "task": task.id}
        try:
            await self._session.call("queues.move_task_to_front", place, wire.DONE)
        except RejectedWithCode as error:
            if error.subcode != NOT_IN_QUEUE:
                raise
            if already_queued:
                raise Rejected(
                    f"ClearML says that task {task.id} is queued already, and that it does not"
                    f" wait in queue {task.queue_id}: enqueue it by hand if it does not run"
                ) from None
            # an agent was waiting and took it between the two calls: better than at the front

    async def tag_queue(self, queue: Queue, tags: Collection[str]) -> None:
        """Give a queue these of `PAUSE_TAGS`, and none of the others; what else it is tagged with
        stays as it is by then. NotFound when there is no such queue any more."""
        present = (await self.queues([queue.name])).get(queue.name)
        if present is None or present.id != queue.id:
            raise NotFound(f"ClearML has no queue {queue.name} any more")
        others = [tag for tag in present.tags if tag not in PAUSE_TAGS]
        body = {"queue": queue.id, "tags": [*others, *sorted(tags)]}
        await self._session.call("queues.update", body, wire.DONE)

    async def _enqueue(self, task: Task, reason: Mapping[str, Any]) -> bool:
        """Enqueue; True when it waited in the queue already."""
        body = {**reason, "queue": task.queue_id}
        if task.status is TaskStatus.COMPLETED:  # the one end from which ClearML wants to be sure
            body["force"] = True
        try:
            await self._session.call("tasks.enqueue", body, wire.DONE)
        except RejectedWithCode as error:
            if error.subcode != ALREADY_QUEUED:
                raise
            return True
        return False

    async def _tasks(
        self,
        queue_ids: Collection[str],
        statuses: Collection[TaskStatus],
        extra: Mapping[str, Any],
    ) -> Sequence[Task]:
        if not queue_ids:
            return ()
        query = {
            "status": list(statuses),
            "execution.queue": sorted(queue_ids),
            "only_fields": wire.TASK_FIELDS,
            "search_hidden": True,  # steps of pipelines are hidden, and run like others
            "order_by": ["created"],
            **extra,
        }
        items = await self._all_pages("tasks.get_all", query, wire.TASKS, lambda data: data.tasks)
        tasks = (item.to_domain() for item in items)
        return tuple(t for t in tasks if t.status in statuses and t.queue_id in queue_ids)

    async def _all_pages(
        self,
        method: str,
        query: Mapping[str, Any],
        shape: type[Reply[D]],
        items_of: Callable[[D], Sequence[T]],
    ) -> Collection[T]:
        """Everything a listing has, each id once: a list that grows while it is read repeats."""
        found: dict[str, T] = {}
        previous: list[str] = []
        for page in range(MAX_PAGES):
            body = {**query, "page": page, "page_size": PAGE_SIZE}
            items = items_of(await self._session.read(method, body, shape))
            found.update((item.id, item) for item in items)
            if len(items) < PAGE_SIZE:
                return found.values()
            ids = [item.id for item in items]
            if ids == previous:
                raise Transient(f"ClearML {method} sends page {page - 1} again as page {page}")
            previous = ids
        raise Transient(f"ClearML {method} does not end after {MAX_PAGES} pages")
