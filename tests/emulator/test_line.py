"""What passes through a `Line`: every call of the shipped sequences, each cut, lost or repeated."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import pytest

from gpu_autoscaler.clearml.api import ClearmlApi
from gpu_autoscaler.domain.errors import ApiError, NotFound, RateLimited, Rejected, Transient
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    Placement,
    ServerState,
)
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER
from gpu_autoscaler.emulator.inprocess import InProcessScaleway
from gpu_autoscaler.emulator.line import DirectLine
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.scaleway.api import ScalewayApi
from tests.emulator.line_rig import (
    BIRTH,
    FLEET,
    ORDER,
    QUEUE,
    SERVERS,
    VOLUMES,
    BadLine,
    Site,
    site,
)
from tests.emulator.scaleway_rig import IMAGE, TYPE, ZONE, CountingIds


def test_the_default_line_counts() -> None:
    async def run() -> None:
        model = ScalewayModel(Timeline(LoopClock()), CountingIds())
        cloud = InProcessScaleway(model, FLEET, PROJECT)
        await cloud.instances(ZONE)
        await cloud.instances(ZONE)
        assert cloud.calls == Counter({f"GET {SERVERS}": 2})
        assert await DirectLine().carry("any", lambda: 7) == 7

    run_virtual(run())


READS: dict[str, Callable[[Site], Awaitable[object]]] = {
    f"GET {SERVERS}": lambda site: site.cloud.instances(ZONE),
    f"GET {VOLUMES}": lambda site: site.cloud.volumes(ZONE),
    f"GET {SERVERS}/none": lambda site: site.cloud.exists(ZONE, "none"),
    f"GET /instance/v1/zones/{ZONE}/products/servers": lambda site: site.cloud.prices(ZONE),
    f"GET /instance/v1/zones/{ZONE}/products/servers/availability": lambda site: (
        site.cloud.availability(ZONE)
    ),
    "queues.get_all": lambda site: site.clearml.queues([QUEUE]),
    "workers.get_all": lambda site: site.clearml.workers(),
    "tasks.get_all": lambda site: site.clearml.open_tasks([site.queue]),
    "users.get_current_user": lambda site: site.clearml.checks.identity(),
}


@pytest.mark.parametrize(("call", "read"), READS.items(), ids=READS)
class TestEveryRead:
    def test_is_one_call_of_its_name(
        self, call: str, read: Callable[[Site], Awaitable[object]]
    ) -> None:
        async def story(site: Site) -> None:
            await read(site)
            assert site.line.calls == [call]

        site(story)

    def test_is_repeated_as_the_adapter_does_and_then_given_up(
        self, call: str, read: Callable[[Site], Awaitable[object]]
    ) -> None:
        async def story(site: Site) -> None:
            began = site.clock.now()
            with pytest.raises(Transient, match="502"):
                await read(site)
            assert site.line.calls == [call] * 3
            pauses = 3.0 if "." in call.split("/", maxsplit=1)[0] else 1.5
            assert (site.clock.now() - began).total_seconds() == pytest.approx(pauses)

        site(story, BadLine({call: Transient("502")}, again=True))

    def test_is_right_the_second_time(
        self, call: str, read: Callable[[Site], Awaitable[object]]
    ) -> None:
        async def story(site: Site) -> None:
            first = await read(site)
            assert await read(site) == first
            assert site.line.calls == [call] * 3

        site(story, BadLine({call: Transient("502")}))

    def test_ends_by_the_adapters_deadline(
        self, call: str, read: Callable[[Site], Awaitable[object]]
    ) -> None:
        async def story(site: Site) -> None:
            began = site.clock.now()
            with pytest.raises(Transient, match=r"within 1[05] s"):
                await read(site)
            assert (site.clock.now() - began).total_seconds() < 40

        site(story, BadLine(cut_at=0))


def test_what_no_repetition_cures_is_not_repeated() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(RateLimited):
            await site.cloud.instances(ZONE)
        assert len(site.line.calls) == 1

    site(story, BadLine({"GET": RateLimited("429")}))


def test_a_creation_is_the_shipped_sequence_of_calls() -> None:
    async def story(site: Site) -> None:
        await site.cloud.create(ORDER, b"#!/bin/sh\n")
        assert site.called() == BIRTH

    site(story)


@pytest.mark.parametrize("cut_at", range(len(BIRTH) + 1))
def test_killed_between_any_two_calls_of_a_creation_the_world_is_as_it_was_then(
    cut_at: int,
) -> None:
    async def story(site: Site) -> None:
        creation = asyncio.ensure_future(site.cloud.create(ORDER, b"#!/bin/sh\n"))
        await site.clock.sleep(1)
        assert creation.done() == (cut_at == len(BIRTH))
        creation.cancel()
        servers = site.model.all_servers()
        assert len(servers) == (cut_at > 1)
        for server in servers:
            (volume,) = server.volumes.values()
            (disk,) = site.model.block.find(ZONE)
            assert disk is volume
            assert FLEET.owns(frozenset(disk.tags)) == (cut_at > 2)
            assert ("cloud-init" in server.user_data) == (cut_at > 3)
            assert (server.state is ServerState.STARTING) == (cut_at > 4)
            assert (PROVISIONING_TAG in server.tags) == (cut_at <= 6)

    site(story, BadLine(cut_at=cut_at))


def test_a_lost_reply_to_a_creation_is_searched_for_and_removed() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(Transient):
            await site.cloud.create(ORDER, b"#!/bin/sh\n")
        assert site.called()[1:3] == [f"POST {SERVERS}", f"GET {SERVERS}"]
        assert site.model.bill().servers_created == 1
        assert site.model.all_servers() == []
        assert site.model.block.find(ZONE) == []

    site(story, BadLine({f"POST {SERVERS}": Transient("504")}, lost=True))


def test_a_deletion_asks_tags_deletes_and_looks_until_all_is_gone() -> None:
    async def story(site: Site) -> None:
        instance = await site.made()
        await site.cloud.stop(instance)
        await site.clock.sleep(60)
        site.line.calls.clear()
        await site.cloud.delete(instance)
        called = site.called()
        assert called[:3] == [f"GET {SERVERS}/id", f"GET {VOLUMES}/id", f"DELETE {SERVERS}/id"]
        assert f"DELETE {VOLUMES}/id" in called
        assert called[-1] == f"GET {VOLUMES}/id"
        assert site.model.block.find(ZONE) == []

    site(story)


def test_a_deletion_of_one_that_is_on_again_is_refused_as_shipped() -> None:
    async def story(site: Site) -> None:
        with pytest.raises(Rejected, match="powered on meanwhile"):
            await site.cloud.delete(await site.made())

    site(story)


def test_a_power_off_of_one_that_is_off_is_no_failure_as_shipped() -> None:
    async def story(site: Site) -> None:
        instance = await site.made()
        await site.cloud.stop(instance)
        await site.cloud.stop(instance)
        assert site.called() == [f"POST {SERVERS}/id/action"] * 2 + [f"GET {SERVERS}/id"]

    site(story)


SHIPPED: dict[str, Callable[[Site], Awaitable[object]]] = {
    f"GET {SERVERS}": lambda site: ScalewayApi.instances(site.cloud, ZONE),
    f"GET {VOLUMES}": lambda site: ScalewayApi.volumes(site.cloud, ZONE),
    f"GET /instance/v1/zones/{ZONE}/products/servers": lambda site: ScalewayApi.prices(
        site.cloud, ZONE
    ),
    f"GET /instance/v1/zones/{ZONE}/products/servers/availability": lambda site: (
        ScalewayApi.availability(site.cloud, ZONE)
    ),
    "queues.get_all": lambda site: ClearmlApi.queues(site.clearml, [QUEUE]),
    "workers.get_all": lambda site: ClearmlApi.workers(site.clearml),
    "tasks.get_all": lambda site: ClearmlApi.open_tasks(site.clearml, [site.queue]),
}


@pytest.mark.parametrize(("call", "shipped"), SHIPPED.items(), ids=SHIPPED)
def test_a_fast_read_says_what_the_shipped_one_says(
    call: str, shipped: Callable[[Site], Awaitable[object]]
) -> None:
    async def story(site: Site) -> None:
        await site.made()
        site.clearml_model.register(EMULATED_USER, "w1", [site.queue])
        site.clearml_model.report(EMULATED_USER, "w1", site.caught_task())
        site.model.set_stock(Placement(TYPE, ZONE), 0)
        said = await READS[call](site)
        assert said == await shipped(site)
        assert said

    site(story)


def test_a_requeue_is_three_calls() -> None:
    async def story(site: Site) -> None:
        site.caught_task()
        task = await site.task()
        site.line.calls.clear()
        await site.clearml.requeue_to_front(task, "caught")
        assert site.line.calls == ["tasks.stopped", "tasks.enqueue", "queues.move_task_to_front"]

    site(story)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("at", ["tasks.stopped", "tasks.enqueue", "queues.move_task_to_front"])
def test_a_requeue_that_broke_off_anywhere_is_finished_by_the_next_one(at: str, lost: bool) -> None:
    async def story(site: Site) -> None:
        caught = site.caught_task()
        other = site.clearml_model.create_task("other", site.queue)
        task, _ = sorted(await site.clearml.open_tasks([site.queue]), key=lambda t: t.id != caught)
        with pytest.raises(Transient):
            await site.clearml.requeue_to_front(task, "caught")
        found = await site.clearml.open_tasks([site.queue])
        ended = await site.clearml.ended_tasks([site.queue], VIRTUAL_START)
        (task,) = (t for t in (*found, *ended) if t.id == caught)
        await site.clearml.requeue_to_front(task, "caught")
        assert list(site.clearml_model.queues.get(site.queue).entries) == [caught, other]

    site(story, BadLine({at: Transient("504")}, lost=lost))


def test_what_clearml_refuses_has_the_shipped_meaning() -> None:
    async def story(site: Site) -> None:
        site.caught_task()
        task = await site.task()
        site.clearml_model.finish(task.id, "completed")
        with pytest.raises(Rejected, match=r"tasks\.stopped .* 400: .*\(400/110\)"):
            await site.clearml.requeue_to_front(task, "caught")
        site.clearml_model.delete_task(task.id)
        with pytest.raises(NotFound):
            await site.clearml.requeue_to_front(task, "caught")

    site(story)


def test_a_listing_is_the_callers_own_and_follows_every_change() -> None:
    async def story(site: Site) -> None:
        instance = await site.made()
        first = await site.cloud.instances(ZONE)
        assert isinstance(first, tuple)
        assert first == (instance,)
        assert first[0] is instance, "nothing changed: it is not made again"
        site.model.update_server(ZONE, instance.id, tags=(*instance.tags, "registered"))
        (changed,) = await site.cloud.instances(ZONE)
        assert changed.tags == instance.tags | {"registered"}
        site.model.update_server(ZONE, instance.id, protected=True)
        assert [i.protected for i in await site.cloud.instances(ZONE)] == [True]
        site.model.update_server(ZONE, instance.id, protected=False)
        site.model.person_deletes(instance.id)
        assert [i.state for i in await site.cloud.instances(ZONE)] == [ServerState.STOPPING]

    site(story)


def test_nothing_goes_over_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither httpx nor JSON text is on the way; only a refusal is read from its text."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("written down")

    monkeypatch.setattr(httpx.AsyncClient, "send", forbidden)
    monkeypatch.setattr(httpx, "Response", forbidden)
    monkeypatch.setattr("json.dumps", forbidden)
    monkeypatch.setattr("json.loads", forbidden)

    async def story(site: Site) -> None:
        instance = await site.made()
        await site.cloud.change_tags(instance, ["registered"], [])
        await site.cloud.stop(instance)
        assert await site.cloud.exists(ZONE, instance.id)
        site.caught_task()
        await site.clearml.requeue_to_front(await site.task(), "caught")

    site(story)


@pytest.mark.parametrize("mode", [StockMode.AT_CREATE, StockMode.AT_POWERON])
def test_an_unknown_path_and_an_empty_shelf_say_what_the_http_face_says(mode: StockMode) -> None:
    async def story(site: Site) -> None:
        site.model.set_stock(Placement(TYPE, ZONE), 0, mode)
        with pytest.raises(ApiError, match=r"POST .*: 412 out_of_stock: resource is out of stock"):
            await site.cloud.create(ORDER, b"#!/bin/sh\n")
        with pytest.raises(NotFound, match="GET /nowhere: 404 not_found"):
            await site.cloud._transport.get("/nowhere")

    site(story)


def test_what_belongs_to_others_is_not_listed() -> None:
    async def story(site: Site) -> None:
        site.model.create_server(ZONE, NewServer(TYPE, IMAGE, tags=("fleet=test",)))
        assert await site.cloud.instances(ZONE) == ()
        assert await site.cloud.volumes(ZONE) == ()

    site(story)
