"""The emulated services without HTTP: the loop's ports, which are the shipped adapters.

For the simulation and for measuring the loop itself. Changes go the shipped way, call by call
(see `inprocess_wire`). Frequent reads answer from the model: rendered and read again, a server
would be some 70 µs, and a cycle nearly twice as long.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from gpu_autoscaler.clearml.api import ClearmlApi
from gpu_autoscaler.domain.model import (
    Availability,
    Entry,
    FleetTags,
    Instance,
    Queue,
    ServerState,
    Task,
    TaskStatus,
    Volume,
    VolumeRef,
    Worker,
)
from gpu_autoscaler.emulator.clearml_model import ABORT_OBEYED, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import TaskRecord
from gpu_autoscaler.emulator.inprocess_wire import (
    NOBODY,
    NOWHERE,
    InProcessSession,
    InProcessTransport,
)
from gpu_autoscaler.emulator.line import DirectLine, Line
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.scaleway.api import ScalewayApi


class InProcessClearml(ClearmlApi):
    """Fits `runtime.ports.Clearml`. Model and loop share one clock: there is no skew."""

    def __init__(self, model: ClearmlModel, line: Line | None = None) -> None:
        direct = DirectLine()
        self.calls = direct.calls
        """What was asked, by name, where no other line was given."""
        self._model = model
        self._wire = InProcessSession(model, line or direct)
        super().__init__(NOWHERE, NOBODY, model.timeline.clock, session=self._wire)

    async def queues(self, names: Collection[str]) -> Mapping[str, Queue]:
        if not names:
            return {}
        wanted = set(names)

        def answer() -> Mapping[str, Queue]:
            self._model.timeline.advance()
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

        return await self._wire.look("queues.get_all", answer)

    async def workers(self) -> Sequence[Worker]:
        def answer() -> Sequence[Worker]:
            return tuple(
                Worker(
                    id=record.id,
                    registered_at=record.register_time,
                    last_report_at=record.last_report_time or record.last_activity_time,
                    task_id=record.task_id,
                    queue_ids=tuple(record.queue_ids),
                )
                for record in self._model.workers.alive()
            )

        return await self._wire.look("workers.get_all", answer)

    async def open_tasks(self, queue_ids: Collection[str]) -> Sequence[Task]:
        if not queue_ids:
            return ()

        def answer() -> Sequence[Task]:
            self._model.timeline.advance()
            return tuple(map(_task, self._model.tasks.open_in(queue_ids)))

        return await self._wire.look("tasks.get_all", answer)

    async def ended_tasks(self, queue_ids: Collection[str], since: datetime) -> Sequence[Task]:
        if not queue_ids:
            return ()

        def answer() -> Sequence[Task]:
            self._model.timeline.advance()
            wanted = {
                "status": ["stopped", "failed", "completed"],
                "execution.queue": list(queue_ids),
                "status_changed": [f">={since.isoformat()}"],
            }
            return tuple(map(_task, self._model.tasks.search(wanted)))

        return await self._wire.look("tasks.get_all", answer)


class InProcessScaleway(ScalewayApi):
    """Fits `runtime.ports.Scaleway`."""

    def __init__(
        self, model: ScalewayModel, fleet: FleetTags, project: str, line: Line | None = None
    ) -> None:
        direct = DirectLine()
        self.calls = direct.calls
        """What was asked, by name, where no other line was given."""
        self._model, self._project = model, project
        self._wire = InProcessTransport(model, line or direct)
        self._seen: dict[str, tuple[tuple[object, ...], Instance]] = {}
        """Each server as it was seen last, by id, with what may change about it."""
        super().__init__("", project, fleet, model.timeline.clock, ready=self._wire)

    async def instances(self, zone: str) -> Sequence[Instance]:
        def answer() -> Sequence[Instance]:
            ours = self._fleet.membership
            found = self._model.servers(zone, project=self._project, tags=ours)
            return tuple(map(self._instance, found))

        return await self._wire.look(f"/instance/v1/zones/{zone}/servers", answer)

    def _instance(self, server: Server) -> Instance:
        """Made anew only when something about it changed: most servers stay as they are."""
        detail, tags = server.state_detail, server.tags
        version = (server.modified_at, server.state, detail, tags, server.protected, server.name)
        before, instance = self._seen.get(server.id, (None, None))
        if instance is None or before != version:
            instance = _instance(server)
            self._seen[server.id] = version, instance
        return instance

    async def volumes(self, zone: str) -> Sequence[Volume]:
        def answer() -> Sequence[Volume]:
            return tuple(
                Volume(v.id, zone, v.name, v.server_id, v.created_at, tags)
                for v in self._model.block.find(zone, project=self._project)
                if self._fleet.owns(tags := frozenset(v.tags))
            )

        return await self._wire.look(f"/block/v1/zones/{zone}/volumes", answer)

    async def availability(self, zone: str) -> Mapping[str, Availability]:
        path = f"/instance/v1/zones/{zone}/products/servers/availability"
        return await self._wire.look(path, lambda: self._model.availability(zone))

    async def prices(self, zone: str) -> Mapping[str, float]:
        def answer() -> Mapping[str, float]:
            return {kind.name: kind.eur_per_hour for kind in self._model.catalog.in_zone(zone)}

        return await self._wire.look(f"/instance/v1/zones/{zone}/products/servers", answer)


def _task(record: TaskRecord) -> Task:
    fields = record.fields
    statuses = set(TaskStatus)
    obeyed = fields["status_reason"] == ABORT_OBEYED
    aborted = obeyed or fields["status_message"].startswith("Stopped by ")
    return Task(
        id=record.id,
        name=fields["name"],
        status=TaskStatus(record.status) if record.status in statuses else TaskStatus.OTHER,
        queue_id=record.queue_id or "",
        status_changed_at=fields["status_changed"],
        last_worker=record.last_worker,
        stop_requested=record.stop_requested or (record.status == "stopped" and aborted),
        started_at=fields.get("started"),
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
