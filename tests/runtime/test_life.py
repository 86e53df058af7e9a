"""Whole stories: the loop against the emulated services, hours in milliseconds."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.model import Availability, Instance, Placement, ServerState
from gpu_autoscaler.emulator.machines import Habit
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.runtime.execute import Orders
from gpu_autoscaler.runtime.loop import SHORTEST_PAUSE
from tests.policy.worlds import OTHER_ZONE, QUEUE, TYPE, ZONE, config, minutes
from tests.runtime.world import World


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def story(run: Callable[[World], Awaitable[None]], **queue: Any) -> World:
    """Run a story in virtual time."""

    async def main() -> World:
        world = World(**queue)
        await run(world)
        return world

    return run_virtual(main())


def test_from_zero_to_a_finished_task_and_back_to_zero() -> None:
    async def run(world: World) -> None:
        first = world.task(hours=2)
        await world.until(lambda: world.status(first) == "completed")
        assert world.created() == 1
        await world.until(lambda: world.states() == dict.fromkeys(world.states(), "stopped"))
        second = world.task(hours=1)
        await world.until(lambda: world.status(second) == "completed")
        assert world.created() == 1, "the stopped one was started again"
        await world.cycles(hours(26))
        assert world.left() == (0, 0)
        assert world.machines.interrupted == 0

    story(run)


def test_several_tasks_get_several_instances_up_to_max_and_no_more() -> None:
    async def run(world: World) -> None:
        tasks = [world.task(hours=3) for _ in range(7)]
        await world.until(lambda: all(world.status(t) == "completed" for t in tasks), hours(12))
        assert world.created() == 3
        assert world.machines.interrupted == 0

    story(run, max_instances=3)


def test_a_machine_that_never_registers_is_replaced_and_removed() -> None:
    async def run(world: World) -> None:
        world.habits = [Habit(registers=False)]
        task = world.task(hours=1)
        await world.until(lambda: world.status(task) == "completed")
        await world.cycles(minutes(10))
        assert world.created() == 2
        assert len(world.states()) == 1

    story(run)


@pytest.mark.parametrize("mode", list(StockMode))
def test_out_of_stock_wherever_it_shows_moves_on_to_the_next_zone(mode: StockMode) -> None:
    async def run(world: World) -> None:
        world.scaleway.set_stock(Placement(TYPE, ZONE), 0, mode, told=Availability.AVAILABLE)
        task = world.task(hours=1)
        await world.until(lambda: world.status(task) == "completed", hours(2))
        assert {s.zone for s in world.scaleway.all_servers()} == {OTHER_ZONE}
        await world.cycles(hours(26))
        assert world.left() == (0, 0)

    story(run, placements=[{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}])


@pytest.mark.parametrize("mode", list(StockMode))
@pytest.mark.parametrize("restart", [False, True])
def test_wherever_a_lack_of_stock_shows_the_next_placement_is_tried_at_once(
    mode: StockMode, restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as a cycle may follow; a silent one as soon as a cycle sees it."""

    async def run(world: World) -> None:
        port, tries = world.scaleway_port, list[tuple[str, float, float]]()
        for name in ("create", "start"):
            monkeypatch.setattr(port, name, noting(getattr(port, name), tries, world))
        working = asyncio.create_task(world.loop.run())
        if restart:
            first = world.task(hours=0.1)
            await soon(world, lambda: world.status(first) == "completed")
            await soon(world, lambda: set(world.states().values()) == {"stopped"})
            await world.clock.sleep(120)
        world.scaleway.set_stock(Placement(TYPE, ZONE), 0, mode, told=Availability.AVAILABLE)
        tries.clear()
        task = world.task(hours=0.1)
        await soon(world, lambda: world.status(task) == "completed")
        world.loop.stop()
        await working
        (here, _, ended), (there, begun, _) = tries
        assert (here, there) == (ZONE, OTHER_ZONE)
        if mode is StockMode.SILENT:
            silence, interval = world.scaleway.timings.silent_failure, 30
            assert silence <= begun - ended <= silence + interval
        else:
            assert 0 <= begun - ended <= SHORTEST_PAUSE.total_seconds()
        zones = [server.zone for server in world.scaleway.all_servers()]
        assert zones == ([ZONE] if restart else []) + [OTHER_ZONE], "one that never ran is removed"

    places = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]
    story(run, placements=places, idle_timeout="5m")


def noting(call: Callable[..., Awaitable[None]], tries: list[Any], world: World) -> Any:
    """The same call, which notes where it was made, and from when to when."""

    async def made(what: Any, *more: Any) -> None:
        begun = world.clock.monotonic()
        try:
            await call(what, *more)
        finally:
            tries.append((what.placement.zone, begun, world.clock.monotonic()))

    return made


async def soon(world: World, true: Callable[[], bool]) -> None:
    """The daemon works by itself; within two hours it is so."""
    end = world.clock.now() + hours(2)
    while not true():
        assert world.clock.now() < end, world.states()
        await world.clock.sleep(5)


def test_a_restart_that_meets_an_empty_shelf_keeps_the_machine_and_waits() -> None:
    async def run(world: World) -> None:
        first = world.task(hours=1)
        await world.until(lambda: world.status(first) == "completed")
        await world.until(lambda: ServerState.STOPPED in world.states().values())
        world.scaleway.set_stock(Placement(TYPE, ZONE), 0, StockMode.SILENT)
        second = world.task(hours=1)
        await world.cycles(minutes(40))
        assert world.status(second) == "queued"
        world.scaleway.set_stock(Placement(TYPE, ZONE), 3)
        await world.until(lambda: world.status(second) == "completed", hours(4))
        assert world.machines.interrupted == 0

    story(run)


def test_killed_while_three_are_being_made_then_three_and_no_more() -> None:
    async def run(world: World) -> None:
        tasks = [world.task(hours=1) for _ in range(3)]
        await world.loop.cycle()
        world.start_daemon()  # the old process's calls are lost with it
        await world.until(lambda: all(world.status(t) == "completed" for t in tasks))
        assert world.created() == 3
        await world.cycles(hours(26))
        assert world.left() == (0, 0)

    story(run, max_instances=5)


def test_losing_all_memory_again_and_again_costs_no_task_and_no_double() -> None:
    async def run(world: World) -> None:
        tasks = [world.task(hours=2) for _ in range(3)]
        await world.cycles(minutes(20))
        assert world.created() == 3
        for _ in range(6):
            world.forget()
            await world.cycles(minutes(20))
        assert world.created() == 3
        await world.until(lambda: all(world.status(t) == "completed" for t in tasks))
        assert world.machines.interrupted == 0

    story(run, max_instances=5)


async def caught_by_the_power_off(world: World, meanwhile: Callable[[str], Awaitable[None]]) -> str:
    """After the last look a task comes, and the idle agent pulls it; its id."""
    first = world.task(hours=1)
    await world.until(lambda: world.status(first) == "completed")
    caught: list[str] = []
    stop = world.scaleway_port.stop

    async def stop_late(instance: Instance) -> None:
        caught.append(world.task(hours=1, name="caught"))
        await world.clock.sleep(10)
        await meanwhile(caught[0])
        await stop(instance)

    world.scaleway_port.stop = stop_late  # type: ignore[method-assign]
    await world.until(lambda: bool(caught))
    world.scaleway_port.stop = stop  # type: ignore[method-assign]
    return caught[0]


def test_a_task_pulled_at_the_last_moment_is_rescued() -> None:
    async def run(world: World) -> None:
        async def runs(task: str) -> None:
            assert world.status(task) == "in_progress"

        caught = await caught_by_the_power_off(world, runs)
        await world.until(lambda: world.status(caught) == "completed")
        assert world.machines.interrupted == 1
        assert world.clearml_port.calls["queues.move_task_to_front"] == 1

    story(run)


def test_a_task_that_a_person_aborts_while_we_stop_stays_aborted() -> None:
    async def run(world: World) -> None:
        async def aborted(task: str) -> None:
            world.clearml.abort(task)
            await world.clock.sleep(6)

        caught = await caught_by_the_power_off(world, aborted)
        await world.cycles(hours(1))
        assert world.status(caught) == "stopped"

    story(run)


def test_a_task_seen_at_the_last_look_keeps_its_machine() -> None:
    async def run(world: World) -> None:
        first = world.task(hours=1)
        await world.until(lambda: world.status(first) == "completed")
        pushed: list[str] = []
        submit = world.executor.submit

        def submit_late(orders: Orders) -> None:
            if any(effect.verb == "stop" for effect in orders.effects) and not pushed:
                pushed.append(world.task(hours=1))
                world.timeline.advance()
                queue = world.queue_ids[QUEUE]
                world.clearml.next_task(world.clearml.user, queue)  # popped, not started
            submit(orders)

        world.executor.submit = submit_late  # type: ignore[method-assign]
        await world.until(lambda: bool(pushed))
        await world.cycles(minutes(1))
        assert set(world.states().values()) == {"running"}

    story(run)


def test_stopped_in_place_by_somebody_is_powered_off() -> None:
    async def run(world: World) -> None:
        task = world.task(hours=1)
        await world.until(lambda: world.status(task) == "completed")
        world.scaleway.standby(world.server().id)
        await world.until(lambda: world.server().state is ServerState.STOPPED, minutes(5))

    story(run)


def test_deleted_by_hand_is_noticed_and_replaced() -> None:
    async def run(world: World) -> None:
        task = world.task(hours=1)
        await world.until(lambda: world.status(task) == "in_progress")
        world.scaleway.person_deletes(world.server().id)
        await world.cycles(minutes(5))
        assert world.states() == {}
        other = world.task(hours=1)
        await world.until(lambda: world.status(other) == "completed")
        assert world.created() == 2

    story(run)


def test_an_hour_without_clearml_stops_nothing_and_launches_nothing() -> None:
    async def run(world: World) -> None:
        task = world.task(hours=3)
        await world.until(lambda: world.status(task) == "in_progress")
        world.task(hours=1)

        async def down(*_: object) -> object:
            await world.clock.sleep(3600)
            return {}

        queues = world.clearml_port.queues
        world.clearml_port.queues = down  # type: ignore[method-assign,assignment]
        await world.cycles(hours(1))
        assert len(world.states()) == 1
        world.clearml_port.queues = queues  # type: ignore[method-assign]
        await world.until(lambda: world.status(task) == "completed", hours(5))
        assert world.machines.interrupted == 0

    story(run)


def test_a_listing_that_lags_launches_nothing_twice() -> None:
    async def run(world: World) -> None:
        world.scaleway.set_listing_lag(30)
        tasks = [world.task(hours=1) for _ in range(4)]
        await world.until(lambda: all(world.status(t) == "completed" for t in tasks), hours(6))
        assert world.created() == 4
        await world.cycles(hours(26))
        assert world.left() == (0, 0)

    story(run, max_instances=4)


def test_nothing_begins_that_cannot_be_remembered() -> None:
    async def run(world: World) -> None:
        task = world.task(hours=1)
        world.store.error = OSError("disk full")
        await world.cycles(minutes(10))
        assert world.created() == 0
        world.store.error = None
        await world.until(lambda: world.status(task) == "completed")
        assert world.created() == 1

    story(run)


def test_a_popped_task_whose_agent_died_goes_back_and_runs() -> None:
    async def run(world: World) -> None:
        task = world.task(hours=1)
        world.clearml.next_task(world.clearml.user, world.queue_ids[QUEUE])
        await world.until(lambda: world.status(task) == "completed")

    story(run)


def test_calls_per_cycle_do_not_grow_with_queues() -> None:
    counts = {}
    for number in (1, 100):

        async def run(number: int = number) -> dict[str, int]:
            queues = {
                f"queue-{i}": {
                    "name": f"queue-{i}",
                    "placements": [{"type": TYPE, "zone": ZONE}],
                }
                for i in range(number)
            }
            world = World(config(queues=queues))
            await world.cycles(minutes(3))
            world.clearml_port.calls.clear()
            world.scaleway_port.calls.clear()
            await world.loop.cycle()
            return dict(world.clearml_port.calls + world.scaleway_port.calls)

        counts[number] = run_virtual(run())
    assert (
        counts[1]
        == counts[100]
        == {
            "queues.get_all": 1,
            "workers.get_all": 1,
            "tasks.get_all": 1,
            f"GET /instance/v1/zones/{ZONE}/servers": 1,
        }
    )


def test_a_cut_off_machine_of_a_queue_made_again_keeps_its_running_task() -> None:
    async def run(world: World) -> None:
        task = world.task(hours=3)
        await world.until(lambda: world.status(task) == "in_progress")
        world.clearml.delete_queue(world.queue_ids[QUEUE], force=True)
        world.clearml.create_queue(QUEUE)
        await world.cycles(minutes(2))
        world.machines.agents[world.server().id].kill()  # to ClearML, it has gone silent
        await world.cycles(hours(1.5))  # its worker entry is long gone, its task is not
        assert world.status(task) == "in_progress"
        assert world.server().state is ServerState.RUNNING

    story(run)
