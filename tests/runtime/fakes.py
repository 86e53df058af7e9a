"""Ports that answer what a test tells them to, late or never if it says so, and note every call."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.ledger import TaskRecord
from gpu_autoscaler.domain.model import (
    Availability,
    CreateOrder,
    Instance,
    Queue,
    Task,
    Volume,
    Worker,
)
from tests.policy.worlds import QUEUE, QUEUE_ID


@dataclass
class Wire:
    """What goes wrong on the way, for both services."""

    clock: Clock
    calls: list[str] = field(default_factory=list)
    """In the order in which they were made, with what they were about."""
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds, by call."""
    errors: dict[str, Exception] = field(default_factory=dict)
    """By call, with or without what it is about."""

    async def call(self, name: str, about: object = "") -> None:
        full = f"{name} {about}".strip()
        self.calls.append(full)
        for key in (full, name):
            if key in self.slow:
                await self.clock.sleep(self.slow[key])
            if key in self.errors:
                raise self.errors[key]

    def count(self, name: str) -> int:
        return sum(call.split(" ")[0] == name for call in self.calls)


@dataclass
class FakeClearml:
    wire: Wire
    skew: timedelta = timedelta(0)
    known: dict[str, Queue] = field(default_factory=lambda: {QUEUE: Queue(QUEUE_ID, QUEUE)})
    agents: list[Worker] = field(default_factory=list)
    open: list[Task] = field(default_factory=list)
    ended: list[Task] = field(default_factory=list)
    ended_since: list[datetime] = field(default_factory=list)
    asked_queues: list[Collection[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: dict[str, TaskRecord] = field(default_factory=dict)

    async def queues(self, names: Collection[str]) -> Mapping[str, Queue]:
        await self.wire.call("queues")
        self.asked_queues.append(names)
        return {name: self.known[name] for name in names if name in self.known}

    async def workers(self) -> Sequence[Worker]:
        await self.wire.call("workers")
        return self.agents

    async def open_tasks(self, queue_ids: Collection[str]) -> Sequence[Task]:
        await self.wire.call("open_tasks")
        return [task for task in self.open if task.queue_id in queue_ids]

    async def ended_tasks(self, queue_ids: Collection[str], since: datetime) -> Sequence[Task]:
        await self.wire.call("ended_tasks")
        self.ended_since.append(since)
        return self.ended

    async def task_records(
        self, task_ids: Collection[str], queue_names: Mapping[str, str]
    ) -> Sequence[TaskRecord]:
        await self.wire.call("task_records")
        return [self.records[each] for each in task_ids if each in self.records]

    async def tag_queue(self, queue: Queue, tags: Collection[str]) -> None:
        await self.wire.call("tag_queue", f"{queue.name} {sorted(tags)}")

    async def requeue_to_front(self, task: Task, note: str) -> None:
        await self.wire.call("requeue_to_front", task.id)
        self.notes.append(note)


@dataclass
class FakeScaleway:
    wire: Wire
    there: list[Instance] = field(default_factory=list)
    unlisted: set[str] = field(default_factory=set)
    """Ids of servers that exist, but that no listing shows."""
    disks: list[Volume] = field(default_factory=list)
    stock: dict[str, Availability] = field(default_factory=dict)
    price: dict[str, float] = field(default_factory=dict)
    user_data: list[bytes] = field(default_factory=list)
    tags: list[tuple[Collection[str], Collection[str]]] = field(default_factory=list)
    """Added and taken away."""
    reports: dict[str, str] = field(default_factory=dict)
    """What machines say of their boots, by name."""

    async def instances(self, zone: str) -> Sequence[Instance]:
        await self.wire.call("instances", zone)
        return [i for i in self.there if i.zone == zone]

    async def exists(self, zone: str, server_id: str) -> bool:
        await self.wire.call("exists", server_id)
        return server_id in self.unlisted

    async def boot_report(self, instance: Instance) -> str:
        await self.wire.call("boot_report", instance.name)
        return self.reports.get(instance.name, "")

    async def volumes(self, zone: str) -> Sequence[Volume]:
        await self.wire.call("volumes", zone)
        return [v for v in self.disks if v.zone == zone]

    async def availability(self, zone: str) -> Mapping[str, Availability]:
        await self.wire.call("availability", zone)
        return self.stock

    async def prices(self, zone: str) -> Mapping[str, float]:
        await self.wire.call("prices", zone)
        return self.price

    async def create(self, order: CreateOrder, user_data: bytes) -> None:
        self.user_data.append(user_data)
        await self.wire.call("create", order.name)

    async def start(self, instance: Instance) -> None:
        await self.wire.call("start", instance.name)

    async def stop(self, instance: Instance) -> None:
        await self.wire.call("stop", instance.name)

    async def delete(self, instance: Instance) -> None:
        await self.wire.call("delete", instance.name)

    async def delete_volume(self, volume: Volume) -> None:
        await self.wire.call("delete_volume", volume.id)

    async def change_tags(
        self, instance: Instance, add: Collection[str], remove: Collection[str]
    ) -> None:
        self.tags.append((add, remove))
        await self.wire.call("change_tags", instance.name)

    async def remove_bootstrap(self, instance: Instance) -> None:
        await self.wire.call("remove_bootstrap", instance.name)
