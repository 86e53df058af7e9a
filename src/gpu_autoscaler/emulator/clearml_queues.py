"""The emulated server's queues and what waits in them. Knows nothing of tasks but their ids."""

from datetime import datetime

from gpu_autoscaler.domain.clock import Ids
from gpu_autoscaler.emulator.clearml_records import QueueRecord
from gpu_autoscaler.emulator.clearml_wire import RefusedError, stored
from gpu_autoscaler.emulator.timeline import Timeline

SHORTEST_NAME = 3


class QueueStore:
    """All queues. Methods raise `RefusedError` where the real server refuses."""

    def __init__(self, timeline: Timeline, ids: Ids, company: str) -> None:
        self.timeline = timeline
        self._ids = ids
        self._company = company
        self.all: dict[str, QueueRecord] = {}

    def get(self, queue_id: str) -> QueueRecord:
        """The queue; 400/701 when there is none."""
        self.timeline.advance()
        queue = self.all.get(queue_id)
        if queue is None:
            where = f"id={queue_id}, company={self._company}"
            raise RefusedError(400, 701, f"Invalid queue id: {where}")
        return queue

    def named(self, name: str) -> QueueRecord | None:
        """The queue of exactly this name, if any."""
        return next((queue for queue in self.all.values() if queue.name == name), None)

    def create(self, name: str, user: str) -> QueueRecord:
        """A new queue; 400/800 for a short name, 400/801 for a taken one."""
        self.timeline.advance()
        if len(name) < SHORTEST_NAME:
            raise RefusedError(400, 800, "Data validation error: name=String value is too short")
        if self.named(name):
            duplicate = "unique field already contains this value"
            raise RefusedError(400, 801, f"Value combination already exists ({duplicate})")
        now = stored(self.timeline.now())
        queue = QueueRecord(self._ids.hex(32), name, user, now, now)
        self.all[queue.id] = queue
        return queue

    def refuse_if_waiting(self, queue_id: str, task_id: str) -> None:
        """400/706 when the task waits in this queue."""
        if task_id in self.get(queue_id).entries:
            where = f"task={task_id}, queue={queue_id}"
            raise RefusedError(400, 706, f"Task already queued: {where}")

    def add_entry(self, queue_id: str, task_id: str) -> None:
        """Append a task id, whether such a task exists or not; 400/706 if it waits here already."""
        self.refuse_if_waiting(queue_id, task_id)
        queue = self.get(queue_id)
        queue.entries[task_id] = queue.last_update = stored(self.timeline.now())

    def remove_entry(self, queue_id: str | None, task_id: str) -> bool:
        """Take a task out of a queue; says whether it was there."""
        queue = self.all.get(queue_id or "")
        if queue is None or queue.entries.pop(task_id, None) is None:
            return False
        queue.last_update = stored(self.timeline.now())
        return True

    def move_entry(self, queue_id: str, task_id: str, to_front: bool) -> int:
        """Move a waiting task to an end of its queue; returns its new position, from 0."""
        queue = self.get(queue_id)
        if task_id not in queue.entries:
            where = f"task={task_id}, queue={queue_id}"
            raise RefusedError(400, 707, f"Invalid queue id or task not in queue: {where}")
        added = queue.entries.pop(task_id)
        queue.last_update = stored(self.timeline.now())
        if to_front:
            queue.entries = {task_id: added, **queue.entries}
            return 0
        queue.entries[task_id] = added
        return len(queue.entries) - 1

    def pop_entry(self, queue_id: str) -> tuple[str, datetime] | None:
        """What an agent gets: the oldest task id and when it was added; it waits no more.

        From here until the agent says that it runs the task, nothing shows who has it.
        """
        queue = self.get(queue_id)
        if not queue.entries:
            return None
        task_id = next(iter(queue.entries))
        added = queue.entries.pop(task_id)
        queue.last_update = stored(self.timeline.now())
        return task_id, added
