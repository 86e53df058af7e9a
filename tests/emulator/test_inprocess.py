"""The in-process ports say of a model exactly what the HTTP adapters say of it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import httpx
import pytest

from gpu_autoscaler.clearml.api import ClearmlApi, Credentials
from gpu_autoscaler.domain.errors import ApiError, NotFound, OutOfStock, QuotaExceeded, Rejected
from gpu_autoscaler.domain.model import (
    MANAGED_BY_TAG,
    PROVISIONING_TAG,
    Availability,
    CreateOrder,
    FleetTags,
    Placement,
    ServerState,
    TaskStatus,
)
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import User
from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.inprocess import InProcessClearml, InProcessScaleway
from gpu_autoscaler.emulator.machines import EmulatedMachines
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, scaleway_app
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.runtime.ports import Clearml, Scaleway
from gpu_autoscaler.scaleway.api import ScalewayApi
from tests.emulator.scaleway_rig import GB, IMAGE, TYPE, ZONE, CountingIds

T = TypeVar("T")
FLEET = FleetTags("test")
QUEUES = ("gpu-small", "gpu-large")
OTHERS = User("__agents__", "agents", "AGENTSACCESSKEY", "agents-secret-key")
KEY = "99999999-8888-7777-6666-555555555555"


def order(name: str = "small-000001", queue: str = QUEUES[0]) -> CreateOrder:
    return CreateOrder(
        name=name,
        queue=queue,
        placement=Placement(TYPE, ZONE),
        image=IMAGE,
        volume_bytes=125 * GB,
        volume_iops=5000,
        tags=FLEET.of_instance(queue, "abc123abc123"),
    )


class Both:
    """One model of each service, each behind both of its faces."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        line = Timeline(self.clock)
        self.clearml = ClearmlModel(line, CountingIds(), (EMULATED_USER, OTHERS))
        self.machines = EmulatedMachines(line, self.clearml)
        self.scaleway = ScalewayModel(line, CountingIds(), machines=self.machines)
        self.queue_ids = [self.clearml.create_queue(name) for name in QUEUES]
        self.clearml_faces: dict[str, Clearml] = {
            "in process": InProcessClearml(self.clearml),
            "http": ClearmlApi(
                "http://clearml.test",
                Credentials(EMULATED_USER.access_key, EMULATED_USER.secret_key),
                self.clock,
                transport=httpx.ASGITransport(clearml_app(self.clearml)),
            ),
        }
        self.scaleway_faces: dict[str, Scaleway] = {
            "in process": InProcessScaleway(self.scaleway, FLEET, PROJECT),
            "http": ScalewayApi(
                KEY,
                PROJECT,
                FLEET,
                self.clock,
                api_url="http://scaleway.test",
                transport=httpx.ASGITransport(
                    scaleway_app(self.scaleway, Faults(), Calls(), {KEY: FULL_ACCESS})
                ),
            ),
        }

    async def populate(self) -> None:
        """Servers in every state, tasks at every stage, and what belongs to others."""
        cloud = self.scaleway_faces["in process"]
        for number in range(7):
            await cloud.create(order(f"small-00000{number}"), b"#!/bin/sh\n")
        tasks = [self.clearml.create_task(f"task {n}", self.queue_ids[0], 3600) for n in range(3)]
        await self.clock.sleep(200)
        ids = {s.name[-1]: s.id for s in self.scaleway.all_servers()}
        self.clearml.abort(tasks[0])
        self.clearml.finish(tasks[1], "failed")
        self.scaleway.person_stops(ids["0"])
        self.scaleway.standby(ids["1"])
        self.scaleway.lock(ids["2"])
        await self.clock.sleep(60)
        self.scaleway.update_server(ZONE, ids["3"], protected=True)
        self.scaleway.person_starts(ids["0"])
        self.scaleway.person_stops(ids["4"])
        self.scaleway.person_deletes(ids["5"], with_volumes=False)
        await self.clock.sleep(15)
        self.scaleway.create_server(ZONE, NewServer(TYPE, IMAGE, tags=(MANAGED_BY_TAG,)))
        half = (*FLEET.of_instance(QUEUES[1], "x"), PROVISIONING_TAG)
        self.scaleway.create_server(ZONE, NewServer(TYPE, IMAGE, name="half", tags=half))
        self.scaleway.create_server(
            ZONE, NewServer(TYPE, IMAGE, tags=half, project="another-project")
        )
        self.clearml.create_task("waits", self.queue_ids[1])
        self.clearml.queues.add_entry(self.queue_ids[1], "0" * 32)
        self.clearml.register(OTHERS, "a-workstation", self.queue_ids)
        self.clearml.register(EMULATED_USER, "a-workstation:gpu0", [self.queue_ids[1]])
        self.clearml.report(OTHERS, "a-workstation")
        self.scaleway.set_stock(Placement(TYPE, ZONE), 2)
        self.scaleway.set_stock(Placement("L40S-1-48G", ZONE), Availability.SHORTAGE)


def told(run: Callable[[Both], Awaitable[T]], *, populated: bool = True) -> T:
    async def main() -> T:
        both = Both()
        if populated:
            await both.populate()
        return await run(both)

    return run_virtual(main())


CLEARML_READS: dict[str, Callable[[Both, Clearml], Awaitable[object]]] = {
    "queues": lambda both, face: face.queues(QUEUES),
    "a queue that is not there": lambda both, face: face.queues(["gpu-small", "nowhere"]),
    "open tasks": lambda both, face: face.open_tasks(both.queue_ids),
    "open tasks of one queue": lambda both, face: face.open_tasks(both.queue_ids[1:]),
    "ended tasks": lambda both, face: face.ended_tasks(both.queue_ids, VIRTUAL_START),
    "tasks ended lately": lambda both, face: face.ended_tasks(
        both.queue_ids, VIRTUAL_START + timedelta(seconds=200.3)
    ),
    "tasks ended in no queue": lambda both, face: face.ended_tasks([], VIRTUAL_START),
}


@pytest.mark.parametrize("read", CLEARML_READS.values(), ids=CLEARML_READS)
def test_both_faces_of_clearml_say_the_same(
    read: Callable[[Both, Clearml], Awaitable[object]],
) -> None:
    async def run(both: Both) -> None:
        said = {name: await read(both, face) for name, face in both.clearml_faces.items()}
        inside, outside = (_plain(each) for each in (said["in process"], said["http"]))
        assert inside == outside

    told(run)


def test_no_queue_has_no_open_task() -> None:
    async def run(both: Both) -> None:
        said = [list(await face.open_tasks([])) for face in both.clearml_faces.values()]
        assert said == [[], []]

    told(run)


def test_both_faces_list_the_same_workers() -> None:
    async def run(both: Both) -> None:
        said = [await face.workers() for face in both.clearml_faces.values()]
        inside, outside = (sorted(workers, key=lambda w: w.id) for workers in said)
        assert inside == outside
        assert len(inside) > 4

    told(run)


def test_what_is_compared_is_not_empty() -> None:
    async def run(both: Both) -> None:
        face = both.clearml_faces["in process"]
        open_tasks = await face.open_tasks(both.queue_ids)
        assert {t.status for t in open_tasks} == {TaskStatus.QUEUED, TaskStatus.IN_PROGRESS}
        ended = await face.ended_tasks(both.queue_ids, VIRTUAL_START)
        assert {(t.status, t.stop_requested) for t in ended} == {
            (TaskStatus.FAILED, False),
            (TaskStatus.STOPPED, True),
        }
        there = await both.scaleway_faces["in process"].instances(ZONE)
        assert {i.state for i in there} == set(ServerState) - {ServerState.UNKNOWN}
        disks = await both.scaleway_faces["in process"].volumes(ZONE)
        assert {v.attached_to is None for v in disks} == {True, False}

    told(run)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


SCALEWAY_READS: dict[str, Callable[[Scaleway], Awaitable[object]]] = {
    "instances": lambda face: face.instances(ZONE),
    "instances elsewhere": lambda face: face.instances("pl-waw-2"),
    "volumes": lambda face: face.volumes(ZONE),
    "availability": lambda face: face.availability(ZONE),
    "prices": lambda face: face.prices(ZONE),
    "an unknown server": lambda face: face.exists(ZONE, "00000000-0000-4000-8000-00000000dead"),
}


@pytest.mark.parametrize("read", SCALEWAY_READS.values(), ids=SCALEWAY_READS)
def test_both_faces_of_scaleway_say_the_same(
    read: Callable[[Scaleway], Awaitable[object]],
) -> None:
    async def run(both: Both) -> None:
        inside, outside = [await read(face) for face in both.scaleway_faces.values()]
        assert _sorted(inside) == _sorted(outside)

    told(run)


def _sorted(value: object) -> object:
    return sorted(value, key=lambda v: v.id) if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("face", ["in process", "http"])
def test_a_whole_life_by_either_face(face: str) -> None:
    """Create, register, run a task, stop, start, tag, delete: the same world afterwards."""

    async def run(both: Both) -> None:
        cloud = both.scaleway_faces[face]
        await cloud.create(order(), b"#!/bin/sh\n")
        (made,) = await cloud.instances(ZONE)
        assert made.tags == frozenset(order().tags), "and the phase tag is gone"
        (disk,) = await cloud.volumes(ZONE)
        assert disk.tags == frozenset(FLEET.of_volume(QUEUES[0]))
        assert disk.attached_to == made.id
        task = both.clearml.create_task("train", both.queue_ids[0], 60)
        await both.clock.sleep(300)
        assert both.clearml.task(task).status == "completed"
        await cloud.stop(made)
        await both.clock.sleep(60)
        (made,) = await cloud.instances(ZONE)
        assert made.state is ServerState.STOPPED
        await cloud.start(made)
        await both.clock.sleep(60)
        (made,) = await cloud.instances(ZONE)
        assert made.state is ServerState.RUNNING
        await cloud.stop(made)
        await both.clock.sleep(60)
        await cloud.delete(made)
        await both.clock.sleep(120)
        bill = both.scaleway.bill()
        assert (bill.servers_left, bill.volumes_left) == (0, 0)
        assert not await cloud.exists(ZONE, made.id)

    told(run, populated=False)


@pytest.mark.parametrize("face", ["in process", "http"])
@pytest.mark.parametrize("mode", [StockMode.AT_CREATE, StockMode.AT_POWERON])
def test_a_creation_that_fails_leaves_nothing_by_either_face(face: str, mode: StockMode) -> None:
    async def run(both: Both) -> None:
        both.scaleway.set_stock(Placement(TYPE, ZONE), 0, mode)
        with pytest.raises(OutOfStock):
            await both.scaleway_faces[face].create(order(), b"#!/bin/sh\n")
        await both.clock.sleep(120)
        bill = both.scaleway.bill()
        assert (bill.servers_left, bill.volumes_left) == (0, 0)

    told(run, populated=False)


Act = Callable[[Both, Scaleway], Awaitable[object]]
REFUSALS: dict[str, tuple[Act, type[ApiError]]] = {}


def refusal(
    error: type[ApiError],
) -> Callable[[Callable[[Both, Scaleway], Awaitable[object]]], None]:
    def note(act: Callable[[Both, Scaleway], Awaitable[object]]) -> None:
        REFUSALS[act.__name__] = (act, error)

    return note


@refusal(QuotaExceeded)
async def beyond_the_quota(both: Both, cloud: Scaleway) -> None:
    both.scaleway.set_quota(TYPE, 0)
    await cloud.create(order(), b"")


@refusal(Rejected)
async def a_type_the_zone_lacks(both: Both, cloud: Scaleway) -> None:
    there = order()
    await cloud.create(
        CreateOrder(
            name=there.name,
            queue=there.queue,
            placement=Placement("NOPE-1", ZONE),
            image=there.image,
            volume_bytes=there.volume_bytes,
            volume_iops=there.volume_iops,
            tags=there.tags,
        ),
        b"",
    )


@refusal(NotFound)
async def start_of_one_that_is_gone(both: Both, cloud: Scaleway) -> None:
    await cloud.create(order(), b"")
    (made,) = await cloud.instances(ZONE)
    await both.clock.sleep(60)
    both.scaleway.person_deletes(made.id)
    await both.clock.sleep(60)
    await cloud.start(made)


@pytest.mark.parametrize("face", ["in process", "http"])
@pytest.mark.parametrize(("act", "error"), REFUSALS.values(), ids=REFUSALS)
def test_both_faces_refuse_with_the_same_error(act: Act, error: type[ApiError], face: str) -> None:
    async def run(both: Both) -> None:
        with pytest.raises(error):
            await act(both, both.scaleway_faces[face])

    told(run, populated=False)


@pytest.mark.parametrize("face", ["in process", "http"])
@pytest.mark.parametrize("end", ["in_progress", "stopped", "failed", "completed"])
def test_either_face_puts_a_task_back_at_the_head_of_its_queue(face: str, end: str) -> None:
    async def run(both: Both) -> None:
        queue_id = both.queue_ids[0]
        task_id = both.clearml.create_task("caught", queue_id)
        both.clearml.next_task(EMULATED_USER, queue_id)
        both.clearml.started(task_id, "w1")
        other = both.clearml.create_task("other", queue_id)
        if end != "in_progress":
            both.clearml.finish(task_id, end, "w1")
        cloud = both.clearml_faces[face]
        found = [
            *(await cloud.open_tasks([queue_id])),
            *(await cloud.ended_tasks([queue_id], VIRTUAL_START)),
        ]
        (task,) = (t for t in found if t.id == task_id)
        await cloud.requeue_to_front(task, "caught by a power-off")
        assert list(both.clearml.queues.get(queue_id).entries) == [task_id, other]
        assert both.clearml.task(task_id).status == "queued"
        assert both.clearml.task(task_id).fields["status_reason"] == "caught by a power-off"

    told(run, populated=False)
