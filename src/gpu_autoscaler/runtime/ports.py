"""What the loop needs from outside, declared by the one who needs it.

Adapters fit these shapes without knowing them; the loop never knows an adapter. Every method
raises a subclass of `domain.errors.ApiError` on failure and nothing else, and ends by its own
deadline at the latest.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.domain.model import (
    Availability,
    CreateOrder,
    Instance,
    Placement,
    Queue,
    Task,
    Volume,
    Worker,
)


class Clearml(Protocol):
    """The ClearML server."""

    @property
    def skew(self) -> timedelta:
        """How far the server's clock is ahead of ours, as far as its replies tell."""

    async def queues(self, names: Collection[str]) -> Mapping[str, Queue]:
        """Those of the named queues that exist, by name, with their entries oldest first."""

    async def workers(self) -> Sequence[Worker]:
        """Every worker that ClearML lists, ours and others'."""

    async def open_tasks(self, queue_ids: Collection[str]) -> Sequence[Task]:
        """Tasks of these queues that are queued or in progress."""

    async def ended_tasks(self, queue_ids: Collection[str], since: datetime) -> Sequence[Task]:
        """Tasks of these queues that ended (stopped, failed, completed) at `since` or later."""

    async def task_records(
        self, task_ids: Collection[str], queue_names: Mapping[str, str]
    ) -> Sequence[TaskRecord]:
        """Those of the tasks that ended, as the ledger keeps them; `queue_names`: by id."""

    async def requeue_to_front(self, task: Task, note: str) -> None:
        """Put a task back at the head of its queue, whatever its status, with a note on it."""

    async def tag_queue(self, queue: Queue, tags: Collection[str]) -> None:
        """Give a queue these of `PAUSE_TAGS` and none of the others; its own tags stay."""


class Scaleway(Protocol):
    """The cloud, as far as one fleet sees it: only what carries the fleet's tags comes back."""

    async def instances(self, zone: str) -> Sequence[Instance]:
        """All servers of the fleet in a zone."""

    async def exists(self, zone: str, server_id: str) -> bool:
        """Whether a server still exists as the fleet's: False only on a 404, or when a person
        took the fleet's tags off it."""

    async def boot_report(self, instance: Instance) -> str:
        """What the machine last said of its boot; empty when it said nothing, or is gone."""

    async def volumes(self, zone: str) -> Sequence[Volume]:
        """All block volumes with the fleet's tags in a zone."""

    async def availability(self, zone: str) -> Mapping[str, Availability]:
        """Stock of every commercial type in a zone."""

    async def prices(self, zone: str) -> Mapping[str, float]:
        """Euros per hour of every commercial type in a zone, without tax."""

    async def create(self, order: CreateOrder, user_data: bytes) -> datetime | None:
        """Make, tag, fill and power on one instance; on failure nothing of it is left behind.
        Returns from when on it is billed, where the cloud says so; so does `start`."""

    async def start(self, instance: Instance) -> datetime | None:
        """Power on a stopped instance."""

    async def stop(self, instance: Instance) -> None:
        """Power off: the machine is no longer billed, its volumes are kept."""

    async def delete(self, instance: Instance) -> None:
        """Remove a stopped instance with its volumes, and see that they are gone."""

    async def delete_volume(self, volume: Volume) -> None:
        """Remove a free volume of the fleet."""

    async def change_tags(
        self, instance: Instance, add: Collection[str], remove: Collection[str]
    ) -> None:
        """Add and take away tags; the others stay as they are by then."""

    async def remove_bootstrap(self, instance: Instance) -> None:
        """Take the user data away that the machine was made with; none is no failure."""


class Bootstrap(Protocol):
    """What turns a bare instance into a worker."""

    def user_data(
        self, queue: str, instance_name: str, placement: Placement | None = None
    ) -> bytes:
        """The cloud-init script for one instance, with its secrets."""

    def spec(self, queue: str, placement: Placement | None = None) -> str:
        """Short hash of everything that makes an instance of this queue what it is; at a placement
        with settings of its own another one."""


class Store(Protocol):
    """Where memory survives a restart, and where two daemons agree on which of them acts.

    Memory and lease are one thing: whoever saves renews, and nobody else can save.
    """

    async def load(self) -> Kept:
        """Read the newest memory, and take the lease when it is free.

        Raises StateRefused when a newer version wrote it, another OSError with a sentence when
        the store does not answer.
        """

    async def save(self, memory: Memory) -> None:
        """Keep it and renew the lease; when this returns, a crash cannot lose it.

        Raises LeaseLost when another daemon took the lease, another OSError when the store
        does not answer: then the lease runs on, and out.
        """

    async def release(self) -> None:
        """Give the lease away with the newest memory, so that the next one need not wait.

        Raises OSError.
        """

    def lease_left(self) -> float:
        """Seconds for which this daemon may still act; 0.0 when it may not."""


class Pages(Protocol):
    """What was used, day by day, to be read."""

    async def read(self, day: date) -> Page:
        """What is known of a day (UTC); an empty page when nothing is. Raises StoreError."""


class Ledger(Pages, Protocol):
    """The same, to be written; apart from the memory, which forgets."""

    async def add(self, stretches: Sequence[Stretch], tasks: Sequence[TaskRecord]) -> None:
        """Write down what is not written yet; when this returns, a crash cannot lose it.
        Raises StoreError."""
