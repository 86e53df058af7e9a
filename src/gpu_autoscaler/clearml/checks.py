"""What `check` asks of ClearML, and the queue and the task that it makes and takes away again.

Permissions are tried on ids that nothing has: ClearML then says 400 with "no such task" or "no
such queue" (recorded) to whom it would let, and 401 or 403 to whom it would not. An open source
server lets every user do everything here; hosted plans have roles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu_autoscaler.clearml import wire
from gpu_autoscaler.clearml.transport import RejectedWithCode, Session
from gpu_autoscaler.domain.errors import Forbidden, NotFound, Rejected
from gpu_autoscaler.domain.model import TaskStatus

NOTHING = "0" * 32
UNKNOWN_QUEUE = 701
LOG_EVENTS = 1000
"""Events of a console that are asked for; one holds many lines."""

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "tasks.enqueue": {"task": NOTHING, "queue": NOTHING},
    "tasks.stopped": {"task": NOTHING},
    "queues.move_task_to_front": {"queue": NOTHING, "task": NOTHING},
    "queues.update": {"queue": NOTHING, "tags": []},
}
"""Every change that the daemon makes, on nothing."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose key it is."""

    user_id: str
    name: str
    company_id: str


@dataclass(frozen=True, slots=True)
class Run:
    """How far a task is."""

    status: TaskStatus
    worker: str
    """The last that had it; empty before the first."""
    reason: str


class Checks:
    """Belongs to a `ClearmlApi`; raises what that raises."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def identity(self) -> Identity:
        """The user whose key this is."""
        user = (await self._session.read("users.get_current_user", {}, wire.CURRENT_USER)).user
        company = user.company.id if user.company else ""
        return Identity(user.id, user.name or user.id, company)

    @property
    def token_lifetime(self) -> float | None:
        """Seconds that a fresh token is good for; None when it does not say."""
        return self._session.token_lifetime

    async def refused(self) -> list[str]:
        """The daemon's changes that ClearML does not let this user make."""
        found = []
        for method, body in CHANGES.items():
            try:
                await self._session.read(method, body, wire.DONE)
            except Forbidden:
                found.append(method)
            except (NotFound, Rejected):
                continue
        return found

    async def queues_called(self, prefix: str) -> Mapping[str, str]:
        """Ids by name of the queues whose names begin so."""
        query = {
            "name": f"^{prefix}",
            "only_fields": wire.QUEUE_FIELDS,
            "search_hidden": True,
            "page": 0,
            "page_size": 500,
        }
        found = (await self._session.read("queues.get_all", query, wire.QUEUES)).queues
        return {queue.name: queue.id for queue in found if queue.name.startswith(prefix)}

    async def create_queue(self, name: str) -> str:
        """A new queue; its id."""
        return (await self._session.call("queues.create", {"name": name}, wire.CREATED)).id

    async def delete_queue(self, queue_id: str) -> None:
        """Remove a queue, also with what waits in it; one that is gone is no failure."""
        body = {"queue": queue_id, "force": True}
        try:
            await self._session.read("queues.delete", body, wire.DONE)
        except RejectedWithCode as error:
            if error.subcode != UNKNOWN_QUEUE:
                raise

    async def create_task(self, name: str, script: str) -> str:
        """A new task that runs a script without packages; its id."""
        body = {
            "name": name,
            "type": "testing",
            "script": {
                "diff": script,
                "entry_point": "check.py",
                "working_dir": ".",
                "requirements": {"pip": ""},
                "binary": "python3",
            },
        }
        return (await self._session.call("tasks.create", body, wire.CREATED)).id

    async def enqueue(self, task_id: str, queue_id: str) -> None:
        """Let a new task wait in a queue."""
        await self._session.call("tasks.enqueue", {"task": task_id, "queue": queue_id}, wire.DONE)

    async def run(self, task_id: str) -> Run:
        """How far a task is. Raises NotFound."""
        query = {"id": [task_id], "only_fields": wire.TASK_FIELDS, "search_hidden": True}
        found = (await self._session.read("tasks.get_all", query, wire.TASKS)).tasks
        item = next((item for item in found if item.id == task_id), None)
        if item is None:
            raise NotFound(f"ClearML has no task {task_id} any more")
        task = item.to_domain()
        return Run(task.status, task.last_worker or "", item.status_reason or "")

    async def console(self, task_id: str) -> str:
        """What a task has printed, as far as ClearML has it; its end when that is long."""
        query = {"task": task_id, "batch_size": LOG_EVENTS, "navigate_earlier": True}
        found = await self._session.read("events.get_task_log", query, wire.TASK_LOG)
        # the latest comes first; a container's terminal ends lines its own way
        pieces = (
            (event.msg or "").replace("\r\n", "\n").rstrip("\n") for event in found.events[::-1]
        )
        return "".join(f"{piece}\n" for piece in pieces)

    async def delete_task(self, task_id: str) -> None:
        """Remove a task, whatever its status; one that is gone is no failure."""
        try:
            await self._session.read("tasks.delete", {"task": task_id, "force": True}, wire.DONE)
        except NotFound:
            return
