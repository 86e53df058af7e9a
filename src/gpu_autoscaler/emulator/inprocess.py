"""The emulated services without HTTP: the loop's ports, straight on the models.

For the simulation and for measuring the loop itself. What the HTTP adapters do in several calls
with clean-up between them happens here in one step, or not at all.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from gpu_autoscaler.domain.errors import (
    ApiError,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    Rejected,
    Transient,
)
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    Availability,
    CreateOrder,
    Entry,
    FleetTags,
    Instance,
    Queue,
    ServerState,
    Task,
    TaskStatus,
    Volume,
    VolumeKind,
    VolumeRef,
    Worker,
)
from gpu_autoscaler.emulator.clearml_model import ABORT_OBEYED, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import OPEN, TaskRecord
from gpu_autoscaler.emulator.clearml_wire import RefusedError
from gpu_autoscaler.emulator.scaleway_errors import ScalewayError
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer, NewVolume
from gpu_autoscaler.emulator.scaleway_state import BlockVolume, Server

_KINDS: Mapping[str, type[ApiError]] = {
    "out_of_stock": OutOfStock,
    "quotas_exceeded": QuotaExceeded,
    "not_found": NotFound,
    "invalid_arguments": Rejected,
    "invalid_request_error": Rejected,
}


class InProcessClearml:
    """Fits `runtime.ports.Clearml`."""

    def __init__(self, model: ClearmlModel) -> None:
        self._model = model
        self.calls: Counter[str] = Counter()

    @property
    def skew(self) -> timedelta:
        """Model and loop share one clock."""
        return timedelta(0)

    async def queues(self, names: Collection[str]) -> Mapping[str, Queue]:
        self.calls["queues"] += 1
        self._model.timeline.advance()
        wanted = set(names)
        return {
            record.name: Queue(
                record.id,
                record.name,
                tuple(Entry(task_id, added) for task_id, added in record.entries.items()),
                tuple(record.tags),
            )
            for record in self._model.queues.all.values()
            if record.name in wanted
        }

    async def workers(self) -> Sequence[Worker]:
        self.calls["workers"] += 1
        return [
            Worker(
                id=record.id,
                registered_at=record.register_time,
                last_report_at=record.last_report_time or record.register_time,
                task_id=record.task_id,
                queue_ids=tuple(record.queue_ids),
            )
            for record in self._model.workers.alive()
        ]

    async def open_tasks(self, queue_ids: Collection[str]) -> Sequence[Task]:
        if not queue_ids:
            return []
        self.calls["tasks"] += 1
        self._model.timeline.advance()
        wanted = {"status": sorted(OPEN), "execution.queue": list(queue_ids)}
        return [_task(record) for record in self._model.tasks.search(wanted)]

    async def ended_tasks(self, queue_ids: Collection[str], since: datetime) -> Sequence[Task]:
        self.calls["ended"] += 1
        if not queue_ids:
            return []
        self._model.timeline.advance()
        found = self._model.tasks.search(
            {
                "status": ["stopped", "failed", "completed"],
                "execution.queue": list(queue_ids),
                "status_changed": [f">={since.isoformat()}"],
            }
        )
        return [_task(record) for record in found]

    async def requeue_to_front(self, task: Task, note: str) -> None:
        self.calls["requeue"] += 1
        try:
            if task.status is TaskStatus.IN_PROGRESS:
                self._model.finish(task.id, "stopped", note=(note, ""))
            completed = task.status is TaskStatus.COMPLETED
            self._model.enqueue(task.id, task.queue_id, note=(note, ""), force=completed)
        except RefusedError as error:
            raise Rejected(str(error)) from None
        queue = self._model.queues.get(task.queue_id)
        mine = queue.entries.pop(task.id)
        queue.entries = {task.id: mine, **queue.entries}


class InProcessScaleway:
    """Fits `runtime.ports.Scaleway`."""

    def __init__(self, model: ScalewayModel, fleet: FleetTags, project: str) -> None:
        self._model, self._fleet, self._project = model, fleet, project
        self.calls: Counter[str] = Counter()

    async def instances(self, zone: str) -> Sequence[Instance]:
        self.calls["instances"] += 1
        found = self._model.servers(zone, project=self._project, tags=self._fleet.membership)
        return [_instance(server) for server in found]

    async def exists(self, zone: str, server_id: str) -> bool:
        self.calls["exists"] += 1
        try:
            server = self._model.server(zone, server_id)
        except ScalewayError:
            return False
        return self._fleet.owns(frozenset(server.tags))

    async def volumes(self, zone: str) -> Sequence[Volume]:
        self.calls["volumes"] += 1
        self._model.timeline.advance()
        return [
            Volume(v.id, zone, v.name, v.server_id, v.created_at, frozenset(v.tags))
            for v in self._model.block.find(zone, project=self._project)
            if self._fleet.owns(frozenset(v.tags))
        ]

    async def availability(self, zone: str) -> Mapping[str, Availability]:
        self.calls["availability"] += 1
        return self._model.availability(zone)

    async def prices(self, zone: str) -> Mapping[str, float]:
        self.calls["prices"] += 1
        return {kind.name: kind.eur_per_hour for kind in self._model.catalog.in_zone(zone)}

    async def create(self, order: CreateOrder, user_data: bytes) -> None:
        self.calls["create"] += 1
        zone = order.placement.zone
        volume = NewVolume(VolumeKind.BLOCK, order.volume_bytes, boot=True)
        with_phase = (*order.tags, PROVISIONING_TAG)
        new = NewServer(
            commercial_type=order.placement.commercial_type,
            image=order.image,
            name=order.name,
            project=self._project,
            tags=with_phase,
            volumes={"0": volume},
        )
        with _classified():
            server = self._model.create_server(zone, new)
            try:
                for each in server.volumes.values():
                    if isinstance(each, BlockVolume):
                        tags = self._fleet.of_volume(order.queue)
                        self._model.block.update(zone, each.id, tags=tags)
                server.user_data["cloud-init"] = user_data
                self._model.act(zone, server.id, "poweron")
            except ScalewayError:
                self._remove(server)
                raise
            self._model.update_server(zone, server.id, tags=order.tags)

    async def start(self, instance: Instance) -> None:
        self.calls["start"] += 1
        with _classified():
            self._model.act(instance.zone, instance.id, "poweron")

    async def stop(self, instance: Instance) -> None:
        self.calls["stop"] += 1
        with _classified():
            self._model.act(instance.zone, instance.id, "poweroff")

    async def delete(self, instance: Instance) -> None:
        self.calls["delete"] += 1
        with _classified():
            self._remove(self._model.server(instance.zone, instance.id))

    async def delete_volume(self, volume: Volume) -> None:
        self.calls["delete_volume"] += 1
        with _classified():
            self._model.block.delete(volume.zone, volume.id)

    async def change_tags(
        self, instance: Instance, add: Collection[str], remove: Collection[str]
    ) -> None:
        self.calls["change_tags"] += 1
        with _classified():
            present = set(self._model.server(instance.zone, instance.id).tags)
            tags = sorted((present | set(add)) - set(remove))
            self._model.update_server(instance.zone, instance.id, tags=tags)

    def _remove(self, server: Server) -> None:
        volumes = [v for v in server.volumes.values() if isinstance(v, BlockVolume)]
        self._model.delete_server(server.zone, server.id)
        for volume in volumes:
            volume.delete_when_free = True


class _classified:  # noqa: N801 - reads as a statement
    """Turns the emulator's refusals into our errors, as the HTTP adapter does."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ScalewayError):
            raise _KINDS.get(error.type, Transient)(f"{error.type}: {error.body}") from None


def _task(record: TaskRecord) -> Task:
    fields = record.fields
    statuses = set(TaskStatus)
    obeyed = record.status == "stopped" and fields["status_reason"] == ABORT_OBEYED
    return Task(
        id=record.id,
        name=fields["name"],
        status=TaskStatus(record.status) if record.status in statuses else TaskStatus.OTHER,
        queue_id=record.queue_id or "",
        status_changed_at=fields["status_changed"],
        last_worker=record.last_worker,
        stop_requested=record.stop_requested or obeyed,
    )


def _instance(server: Server) -> Instance:
    return Instance(
        id=server.id,
        name=server.name,
        zone=server.zone,
        commercial_type=server.commercial_type,
        state=ServerState(server.state),
        created_at=server.created_at,
        modified_at=server.modified_at,
        tags=frozenset(server.tags),
        volumes=tuple(VolumeRef(v.id, v.kind) for v in server.volumes.values() if hasattr(v, "id")),
        protected=server.protected,
        state_detail=server.state_detail,
    )
