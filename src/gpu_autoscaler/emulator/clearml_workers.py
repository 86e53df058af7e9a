"""The emulated server's workers: entries that outlive the machines they tell of."""

from collections.abc import Iterable, Sequence

from gpu_autoscaler.emulator.clearml_queues import QueueStore
from gpu_autoscaler.emulator.clearml_records import User, WorkerRecord
from gpu_autoscaler.emulator.clearml_tasks import TaskStore
from gpu_autoscaler.emulator.clearml_wire import RefusedError, stored
from gpu_autoscaler.emulator.timeline import Timeline

TIMEOUT_SECONDS = 600
"""An entry lives this long after its worker's last report, unless it asked for another time."""
LOOPBACK = "127.0.0.1"


class WorkerStore:
    """All entries, by user and worker id: one machine may show twice, under two users."""

    def __init__(self, timeline: Timeline, queues: QueueStore, tasks: TaskStore) -> None:
        self.timeline = timeline
        self._queues = queues
        self._tasks = tasks
        self._all: dict[tuple[str, str], WorkerRecord] = {}

    def alive(self) -> list[WorkerRecord]:
        """Everybody's entries that have not expired, those of dead machines among them."""
        self.timeline.advance()
        self._forget_expired(list(self._all))
        return list(self._all.values())

    def _forget_expired(self, keys: Iterable[tuple[str, str]]) -> None:
        now = self.timeline.now()
        for key in keys:
            if key in self._all and self._all[key].expires_at <= now:
                del self._all[key]

    def register(
        self,
        user: User,
        worker_id: str,
        queue_ids: Sequence[str],
        timeout_seconds: int = TIMEOUT_SECONDS,
        tags: Sequence[str] = (),
        ip: str = LOOPBACK,
    ) -> WorkerRecord:
        """A new entry, instead of the one of the same user and id, whose task is forgotten."""
        self.timeline.advance()
        if unknown := [queue_id for queue_id in queue_ids if queue_id not in self._queues.all]:
            raise RefusedError(400, 701, f"Invalid queue id: ids=({', '.join(unknown)})")
        if timeout_seconds <= 0:
            where = f"timeout={timeout_seconds}, worker={worker_id}"
            raise RefusedError(400, 1002, f"Worker registration failed (invalid timeout): {where}")
        now = self.timeline.now()
        queues = sorted(set(queue_ids))
        worker = WorkerRecord(worker_id, user, ip, now, now, timeout_seconds, queues, list(tags))
        self._all[user.id, worker_id] = worker
        return worker

    def unregister(self, user: User, worker_id: str) -> None:
        """Remove a user's own entry; nothing happens, silently, to another's or an unknown one."""
        self.timeline.advance()
        self._all.pop((user.id, worker_id), None)

    def vanish(self, worker_id: str | None = None) -> None:
        """The server loses this worker's entries, or all there are, as when its cache is flushed.

        Whoever is alive comes back with the next report, as if newly registered.
        """
        self.timeline.advance()
        lost = [key for key in self._all if worker_id in (None, key[1])]
        for key in lost:
            del self._all[key]

    def report(
        self,
        user: User,
        worker_id: str,
        task_id: str | None = None,
        queue_id: str | None = None,
        queue_ids: Sequence[str] = (),
        tags: Sequence[str] = (),
        ip: str = LOOPBACK,
    ) -> None:
        """A sign of life, busy with a task or idle; registers an unknown worker, wipes its tags.

        `queue_ids` are kept as they were when none are given. A report of an unknown task is
        refused (400/101), but renews the entry all the same.
        """
        self.timeline.advance()
        self._forget_expired([(user.id, worker_id)])
        worker = self._all.get((user.id, worker_id)) or self.register(user, worker_id, ())
        now = self.timeline.now()
        worker.last_activity_time = now
        worker.ip = ip
        worker.tags = list(tags)
        worker.queue_id = queue_id
        worker.queue_ids = sorted(set(queue_ids)) or worker.queue_ids
        worker.task_id = None
        if task_id is not None:
            task = self._tasks.get(task_id)
            self._tasks.touch(task, last_worker=worker_id, last_worker_report=stored(now))
            worker.task_id = task_id
        worker.last_report_time = now
