"""What people, and Scaleway itself, do to instances behind the daemon's back."""

from collections.abc import Callable

import pytest

from gpu_autoscaler.domain.model import (
    MANAGED_BY_TAG,
    PROVISIONING_TAG,
    ServerState,
    VolumeKind,
)
from gpu_autoscaler.emulator.scaleway_order import NewServer, NewVolume
from gpu_autoscaler.emulator.scaleway_state import BlockVolume, Server
from tests.bad_days.world import BadDay, bad_day, nothing
from tests.policy.worlds import QUEUE, TYPE, ZONE, minutes
from tests.runtime.world import PROJECT

BUSY, IDLE, BOOTING, STOPPED = "busy", "idle", "booting", "stopped"
MOMENTS = [BUSY, IDLE, BOOTING, STOPPED]


async def one_that_is(world: BadDay, moment: str) -> tuple[Server, str]:
    """A server at this point of its life, with its task."""
    task = world.task(hours=0.5 if moment == BUSY else 0.05)
    when: dict[str, Callable[[], bool]] = {
        BOOTING: lambda: ServerState.RUNNING in world.states().values(),
        BUSY: lambda: world.status(task) == "in_progress",
        IDLE: lambda: world.status(task) == "completed",
        STOPPED: lambda: ServerState.STOPPED in world.states().values(),
    }
    await world.until(lambda: bool(world.states()) and when[moment]())
    return world.server(), task


async def goes_on(world: BadDay, task: str, moment: str) -> None:
    """The task that was lost with the machine is a person's business; a new one runs as ever."""
    if moment == BUSY:
        assert world.status(task) != "completed"
        if world.status(task) == "in_progress":
            world.clearml.finish(task, "failed")
        world.machines.interrupted = 0  # not by us
    tasks = [] if moment == BUSY else [task]
    await world.ends_well(*tasks, world.task(hours=0.1), created=3 if moment == BOOTING else 2)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("with_volumes", [True, False], ids=["with-volumes", "without"])
def test_deleted_by_hand(moment: str, with_volumes: bool) -> None:
    async def story(world: BadDay) -> None:
        server, task = await one_that_is(world, moment)
        world.scaleway.person_deletes(server.id, with_volumes=with_volumes)
        await world.cycles(minutes(2))
        if moment != BOOTING:
            assert world.states() == {}
            await world.cycles(minutes(10))
            assert world.left() == (0, 0), "the volume is gone within orphan_timeout"
            assert len(world.said("delete_volume", reason="orphan_volume")) == (not with_volumes)
            assert world.created() == 1, "nothing waits, nothing is made"
        await goes_on(world, task, moment)

    bad_day(story)


@pytest.mark.parametrize("moment", [BUSY, IDLE, BOOTING])
@pytest.mark.parametrize("how", ["person_stops", "standby", "crash"])
def test_stopped_by_somebody_else(moment: str, how: str) -> None:
    async def story(world: BadDay) -> None:
        server, task = await one_that_is(world, moment)
        getattr(world.scaleway, how)(server.id)
        await world.cycles(minutes(4))
        if moment != BOOTING:
            assert server.state is ServerState.STOPPED, "also what was only stopped in place"
            said = world.said("stop", reason="stopped_in_place")
            assert len(said) == (how == "standby")
        await goes_on(world, task, moment)

    bad_day(story)


@pytest.mark.parametrize("moment", [BUSY, IDLE, STOPPED])
def test_protected_is_left_alone_until_it_is_not(moment: str) -> None:
    async def story(world: BadDay) -> None:
        server, task = await one_that_is(world, moment)
        server.protected = True
        await world.cycles(minutes(25 if moment == STOPPED else 40))
        assert server.state is (ServerState.STOPPED if moment == STOPPED else ServerState.RUNNING)
        (line,) = world.said("nothing done", reason="hands_off")
        assert line["because"] == "hands off: it is protected at Scaleway"
        assert world.said("failed") == []
        server.protected = False
        await world.ends_well(task, created=1)

    bad_day(story)


def test_protection_set_between_the_look_and_the_act_is_respected() -> None:
    async def story(world: BadDay) -> None:
        server, task = await one_that_is(world, IDLE)

        async def protect(request: object) -> None:
            server.protected = server.protected or bool(world.said("stop"))

        world.meanwhile = protect
        await world.cycles(minutes(10))
        assert server.state is ServerState.RUNNING
        assert len(world.said("failed", kind="rejected")) <= 1
        world.meanwhile = nothing
        server.protected = False
        await world.ends_well(task, created=1)

    bad_day(story)


@pytest.mark.parametrize("moment", [BUSY, IDLE, STOPPED])
def test_locked_by_scaleway_counts_and_is_left_alone(moment: str) -> None:
    async def story(world: BadDay) -> None:
        server, task = await one_that_is(world, moment)
        world.scaleway.lock(server.id)
        waiting = world.task(hours=0.1)
        await world.cycles(minutes(30))
        assert server.state is ServerState.LOCKED
        assert world.created() == 1, "it is billed: max_instances counts it"
        (line,) = world.said("nothing done", reason="hands_off")
        assert line["because"] == "hands off: Scaleway locked it"
        assert len(world.said("nothing done", reason="max_instances")) == 1
        world.scaleway.crash(server.id)  # unlocked, and off
        await world.until_done(waiting)
        await goes_on(world, task, moment)

    bad_day(story, max_instances=1)


@pytest.mark.parametrize("tagged", [True, False], ids=["volume-tagged", "volume-untagged"])
@pytest.mark.parametrize("known", [True, False], ids=["with-memory", "without-memory"])
def test_a_half_made_server_is_removed_and_never_started(tagged: bool, known: bool) -> None:
    async def story(world: BadDay) -> None:
        if known:
            await world.cycles(minutes(1))
        tags = (MANAGED_BY_TAG, "fleet=test", f"queue={QUEUE}", "spec=whatever")
        order = NewServer(
            commercial_type=TYPE,
            image="ubuntu_jammy_gpu_os_12",
            name="h100-1-80g-0half0",
            project=PROJECT,
            tags=(*tags, PROVISIONING_TAG),
            volumes={"0": NewVolume(VolumeKind.BLOCK, 200 * 10**9, boot=True)},
        )
        half = world.scaleway.create_server(ZONE, order)
        if tagged:
            volume = half.volumes["0"]
            assert isinstance(volume, BlockVolume)
            world.scaleway.block.update(ZONE, volume.id, tags=tags[:3])
        if not known:
            await world.restart(without_memory=True)
        task = world.task(hours=0.1)
        await world.until_done(task)
        assert len(world.said("delete", reason="half_made", subject=half.name)) == 1
        assert world.said("start") == []
        await world.ends_well(task, created=2, billed=1)

    bad_day(story)


def test_somebody_elses_machines_are_never_touched() -> None:
    """Not the other fleet's, not the untagged, not what only looks like ours by name."""

    async def story(world: BadDay) -> None:
        others = []
        for tags in ((), (MANAGED_BY_TAG, "fleet=other", f"queue={QUEUE}"), ("fleet=test",)):
            order = NewServer(
                commercial_type=TYPE,
                image="ubuntu_jammy_gpu_os_12",
                name="h100-1-80g-00000f",
                project=PROJECT,
                tags=tags,
            )
            others.append(world.scaleway.create_server(ZONE, order))
        task = world.task(hours=0.1)
        await world.until_done(task)
        await world.until(lambda: world.left() == (3, 3))
        assert [s.state for s in others] == [ServerState.STOPPED] * 3
        assert {call.method for call in world.scaleway_calls if others[0].id in call.path} == set()

    bad_day(story)


def test_a_machine_whose_tags_a_person_took_off_is_no_longer_ours() -> None:
    async def story(world: BadDay) -> None:
        server, _ = await one_that_is(world, BUSY)
        world.scaleway.update_server(server.zone, server.id, tags=("mine-now",))
        second = world.task(hours=0.1)
        await world.until(lambda: world.status(second) == "completed")
        assert world.created() == 2, "it does not fill the queue's maximum"
        assert server.state is ServerState.RUNNING, "and is not touched"

    bad_day(story, max_instances=1)
