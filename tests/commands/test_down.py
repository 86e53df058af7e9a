"""`down`: what idles, or everything; only after a yes, and never what somebody keeps."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gpu_autoscaler.commands import down as taking_down
from gpu_autoscaler.domain.errors import LeaseLost, StateInUse, StoreError
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    CreateOrder,
    FleetTags,
    Placement,
    ServerState,
)
from gpu_autoscaler.emulator.faults import FaultKind
from gpu_autoscaler.emulator.inprocess import InProcessScaleway
from gpu_autoscaler.emulator.scaleway_order import NewServer, NewVolume
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.runtime.execute import LiveExecutor, Orders
from gpu_autoscaler.store.directory import DirectoryStore, ReadOnlyStore
from gpu_autoscaler.store.lease import LeasedStore
from tests.commands.site import QUEUE, TYPE, ZONE, Site, a_daemon_was_here, holder_of

FLEET = FleetTags("test")
SPEC = "abc123abc123"


class Down(Site):
    """A fleet in work, and the answer to the question."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, taking_down, monkeypatch)
        self.questions: list[str] = []
        self.answer = True

    async def machine(self, name: str) -> None:
        """One more instance of ours, which will boot."""
        cloud = InProcessScaleway(self.scaleway, FLEET, PROJECT)
        tags = FLEET.of_instance(QUEUE, SPEC)
        size = 125 * 10**9
        placement = Placement(TYPE, ZONE)
        order = CreateOrder(name, QUEUE, placement, "ubuntu_jammy_gpu_os_12", size, 5000, tags)
        await cloud.create(order, b"#!/bin/sh\n")

    async def fleet(self, *, busy: int, idle: int) -> list[str]:
        """So many of each, all registered; the tasks."""
        for number in range(busy):
            await self.machine(f"gpu-small-b{number:05}")
        await self.clock.sleep(400)
        tasks = [self.task() for _ in range(busy)]
        await self.clock.sleep(60)
        for number in range(idle):
            await self.machine(f"gpu-small-1{number:05}")
        await self.clock.sleep(400)
        return tasks

    async def run(self, *, everything: bool) -> int:
        def confirm(question: str) -> bool:
            self.questions.append(question)
            return self.answer

        return await taking_down.down(
            self.setup, self.clock, self.console, everything=everything, confirm=confirm
        )

    def memory(self) -> Memory | None:
        return _RunNow(ReadOnlyStore(self.directory)).memory


class _RunNow:
    """Reads a store without awaiting: its reads never wait for anything."""

    def __init__(self, store: ReadOnlyStore) -> None:
        load = store.load()
        try:
            load.send(None)
        except StopIteration as end:
            self.memory: Memory | None = end.value.memory
        else:
            raise AssertionError("the store waits for something")


@pytest.fixture
def down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Down], Awaitable[None]]], None]:
    def go(run: Callable[[Down], Awaitable[None]]) -> None:
        async def main() -> None:
            await run(Down(tmp_path, monkeypatch))

        run_virtual(main())

    return go


Go = Any


def test_an_empty_fleet_is_nothing_to_take_down(down: Go) -> None:
    async def run(site: Down) -> None:
        assert await site.run(everything=True) == 0
        assert site.said == "Nothing to take down.\n"
        assert site.questions == []

    down(run)


def test_idle_powers_off_what_idles_and_leaves_what_works(down: Go) -> None:
    async def run(site: Down) -> None:
        (task,) = await site.fleet(busy=1, idle=2)
        assert await site.run(everything=False) == 0
        await site.clock.sleep(60)
        states = {name: server.state for name, server in site.servers().items()}
        assert states == {
            "gpu-small-b00000": ServerState.RUNNING,
            "gpu-small-100000": ServerState.STOPPED,
            "gpu-small-100001": ServerState.STOPPED,
        }
        assert site.clearml.task(task).status == "in_progress"
        assert site.said.count("powered off") == 2
        (question,) = site.questions
        assert question.startswith("Power off:")
        assert "gpu-small-b00000" not in question

    down(run)


def test_what_is_powered_off_is_remembered_before(down: Go) -> None:
    """So that a daemon started later rescues a task that was caught."""

    async def run(site: Down) -> None:
        await site.fleet(busy=1, idle=1)
        site.break_off("poweroff|/action")
        assert await site.run(everything=False) == 1
        memory = site.memory()
        assert memory is not None
        assert set(memory.power_offs) == {"gpu-small-100000"}

    down(run)


@pytest.mark.parametrize("everything", [True, False])
def test_a_no_changes_nothing(down: Go, everything: bool) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=1, idle=1)
        site.answer = False
        site.calls.clear()
        assert await site.run(everything=everything) == 1
        assert len(site.questions) == 1
        assert site.said == "Nothing done.\n"
        assert site.memory() is None
        assert site.calls.count("^(PATCH|DELETE)|/action") == 0

    down(run)


def test_all_names_the_tasks_and_leaves_nothing_behind(down: Go) -> None:
    async def run(site: Down) -> None:
        (task,) = await site.fleet(busy=1, idle=1)
        assert await site.run(everything=True) == 0
        (question,) = site.questions
        assert question.startswith("Remove, with their volumes:")
        assert "train on gpu-small-b00000" in question
        bill = site.scaleway.bill()
        assert (bill.servers_left, bill.volumes_left) == (0, 0)
        assert site.clearml.task(task).status == "stopped", "the agent had the time to say so"
        memory = site.memory()
        assert memory is not None
        assert set(memory.power_offs) == {"gpu-small-100000"}, "the busy one was confirmed"

    down(run)


def test_all_removes_what_is_stopped_starting_or_half_made_too(down: Go) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=1)
        (idle,) = site.servers().values()
        site.scaleway.person_stops(idle.id)
        await site.clock.sleep(60)
        await site.machine("gpu-small-200000")
        await site.machine("gpu-small-300000")
        other = site.servers()["gpu-small-300000"]
        await site.clock.sleep(60)
        site.scaleway.standby(other.id)
        tags = (*FLEET.of_instance(QUEUE, SPEC), PROVISIONING_TAG)
        half = NewServer(TYPE, "ubuntu_jammy_gpu_os_12", name="half", tags=tags)
        made = site.scaleway.create_server(ZONE, half)
        site.scaleway.block.update(ZONE, made.volumes["0"].id, tags=FLEET.of_volume(QUEUE))
        assert await site.run(everything=True) == 0
        bill = site.scaleway.bill()
        assert (bill.servers_left, bill.volumes_left) == (0, 0)

    down(run)


@pytest.mark.parametrize("everything", [True, False])
def test_what_is_kept_stays_busy_or_idle(down: Go, everything: bool) -> None:
    async def run(site: Down) -> None:
        (task,) = await site.fleet(busy=1, idle=1)
        for server in site.servers().values():
            site.scaleway.update_server(ZONE, server.id, tags=(*server.tags, "keep"))
        assert await site.run(everything=everything) == 0
        assert site.said == "Nothing to take down.\n"
        assert site.clearml.task(task).status == "in_progress"
        assert len(site.servers()) == 2

    down(run)


def test_what_is_protected_or_foreign_stays(down: Go) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=1)
        (ours,) = site.servers().values()
        site.scaleway.update_server(ZONE, ours.id, protected=True)
        foreign = NewServer(
            TYPE,
            "ubuntu_jammy_gpu_os_12",
            name="theirs",
            tags=(*FleetTags("another").of_instance(QUEUE, SPEC),),
            volumes={"0": NewVolume(size=125 * 10**9)},
        )
        site.scaleway.create_server(ZONE, foreign)
        assert await site.run(everything=True) == 0
        assert set(site.servers()) == {ours.name, "theirs"}

    down(run)


def test_a_task_pulled_while_the_person_thinks_keeps_its_machine(down: Go) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=1)

        def confirm(_: str) -> bool:
            site.task()
            return True

        code = await taking_down.down(
            site.setup, site.clock, site.console, everything=False, confirm=confirm
        )
        assert code == 0, "that is no failure"
        assert "left alone: it changed since the question" in site.said
        (server,) = site.servers().values()
        assert server.state is ServerState.RUNNING

    down(run)


def test_a_task_pulled_at_the_last_moment_keeps_its_machine(
    down: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=1)
        submit = LiveExecutor.submit

        def submit_late(executor: LiveExecutor, orders: Orders) -> None:
            site.task()
            assert site.clearml.next_task(site.clearml.user, site.queue_id)
            submit(executor, orders)

        monkeypatch.setattr(LiveExecutor, "submit", submit_late)
        assert await site.run(everything=False) == 0
        assert "left on: task" in site.said
        (server,) = site.servers().values()
        assert server.state is ServerState.RUNNING

    down(run)


@pytest.mark.parametrize("silent", ["queues.get_all", "/servers"])
def test_without_a_full_answer_nothing_is_asked_and_nothing_done(down: Go, silent: str) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=1)
        site.break_off(silent)
        assert await site.run(everything=True) == 1
        assert "not everything answered" in site.said
        assert site.questions == []
        assert len(site.servers()) == 1

    down(run)


def test_one_that_cannot_be_removed_does_not_keep_the_others(down: Go) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=2)
        stays = site.servers()["gpu-small-100000"]
        site.faults.add(FaultKind.ERROR, f"POST .*{stays.id}/action", status=403)
        assert await site.run(everything=True) == 1
        assert "gpu-small-100000: not removed:" in site.said
        assert "gpu-small-100001: removed, with its volumes" in site.said
        assert set(site.servers()) == {"gpu-small-100000"}

    down(run)


def test_one_that_somebody_deletes_meanwhile_is_no_failure(down: Go) -> None:
    async def run(site: Down) -> None:
        await site.fleet(busy=0, idle=1)
        (server,) = site.servers().values()

        def confirm(_: str) -> bool:
            site.scaleway.person_deletes(server.id)
            return True

        code = await taking_down.down(
            site.setup, site.clock, site.console, everything=True, confirm=confirm
        )
        assert code == 0
        assert site.servers() == {}

    down(run)


def test_beside_a_running_daemon_it_refuses(down: Go) -> None:
    async def run(site: Down) -> None:
        with (
            DirectoryStore(site.directory),
            pytest.raises(StateInUse, match="another daemon uses this state directory; stop it"),
        ):
            await site.run(everything=True)

    down(run)


# --- with the memory in a bucket


def test_after_a_dead_daemon_it_goes_on_when_the_lease_has_run_out(
    down: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(site: Down) -> None:
        bucket = site.use_bucket(monkeypatch)
        await site.fleet(busy=0, idle=1)
        await a_daemon_was_here(bucket, site.clock)
        with pytest.raises(StoreError, match="a daemon acts"):
            await site.run(everything=True)
        await site.clock.sleep(200)
        assert await site.run(everything=True) == 0
        assert site.servers() == {}
        assert holder_of(bucket) == ""

    down(run)


@pytest.mark.parametrize("machines", [0, 1])
def test_whatever_it_comes_to_the_lease_is_given_back(
    down: Go, monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    async def run(site: Down) -> None:
        bucket = site.use_bucket(monkeypatch)
        await site.fleet(busy=0, idle=machines)
        site.answer = False
        assert await site.run(everything=True) == machines
        assert holder_of(bucket) == ""

    down(run)


@pytest.mark.parametrize("everything", [True, False])
def test_a_farewell_that_fails_does_not_undo_what_was_done(
    down: Go, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    async def run(site: Down) -> None:
        bucket = site.use_bucket(monkeypatch)
        await site.fleet(busy=0, idle=1)
        site.calls.clear()

        async def before(call: str) -> None:
            if call == "put" and site.calls.count("/action|DELETE"):
                raise StoreError("no answer")

        bucket.before = before
        assert await site.run(everything=everything) == 0

    down(run)


@pytest.mark.parametrize("everything", [True, False])
def test_who_loses_the_lease_stops_and_says_so(
    down: Go, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    async def run(site: Down) -> None:
        bucket = site.use_bucket(monkeypatch)
        await site.fleet(busy=0, idle=2)
        left = LeasedStore.lease_left
        lost = [False]

        async def before(call: str) -> None:
            if call == "put" and lost[0]:
                raise LeaseLost("its holder is now another")

        async def lose() -> None:
            while everything and not site.calls.count("/action"):
                await site.clock.sleep(0.1)
            lost[0] = True

        async def after(call: str) -> None:
            puts.extend([call] if call == "put" else [])
            if len(puts) == 2:  # what is to be stopped is remembered, and not stopped yet
                losing.append(asyncio.create_task(lose()))

        puts: list[str] = []
        losing: list[asyncio.Task[None]] = []
        bucket.before, bucket.after = before, after
        monkeypatch.setattr(LeasedStore, "lease_left", lambda s: 0.0 if lost[0] else left(s))
        site.calls.clear()
        assert await site.run(everything=everything) == 1
        assert "another daemon may hold the lease by now" in site.said
        assert len(site.servers()) == 2
        assert site.calls.count("DELETE") == 0

    down(run)


def test_a_long_removal_keeps_its_lease(down: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(site: Down) -> None:
        bucket = site.use_bucket(monkeypatch)
        await site.fleet(busy=0, idle=1)
        site.faults.add(FaultKind.SLOW, "DELETE", seconds=100.0)
        other = LeasedStore(bucket, site.clock, holder="other", lasts=timedelta(minutes=3))
        working = asyncio.create_task(site.run(everything=True))
        while not working.done():
            await site.clock.sleep(30)
            assert working.done() or not (await other.load()).ours
        assert await working in (0, 1)

    down(run)
