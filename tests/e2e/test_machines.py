"""`plan` and `down` among machines that idle and machines that work."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu_autoscaler.commands.wiring import load_setup, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.model import CreateOrder, FleetTags, Placement, ServerState
from gpu_autoscaler.emulator.clearml_records import TaskRecord
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.policy.settings import GRACE_AFTER_TASK
from gpu_autoscaler.runtime.clock import ScaledClock
from tests.e2e import fast_cli
from tests.e2e.support import (
    QUEUE,
    TASK,
    ZONE,
    Emulated,
    Ended,
    daemon_environment,
    emulated,
    in_real_time,
    process,
    until,
)

pytestmark = pytest.mark.e2e

SPEED = 60.0


@dataclass(frozen=True)
class Site:
    """One machine with a task, one without, and a command line beside them."""

    clock: Clock
    world: Emulated
    folder: Path
    busy: Server
    idle: Server
    task: TaskRecord

    async def run(self, *words: str, stdin: bytes = b"") -> Ended:
        config = str(self.folder / "queues.yaml")
        words = fast_cli.command(self.clock, *words, "--config", config)
        environment = daemon_environment(self.folder)
        return await process(*words, environment=environment, stdin=stdin)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    clock = ScaledClock(SPEED)
    async with emulated(clock) as world:
        task = world.task(seconds=1e6)
        config = world.config(folder, max_instances=3)
        shutil.rmtree(folder / "state")  # no daemon was here: nobody remembers these machines
        setup = load_setup(config, daemon_environment(folder))
        async with open_services(setup.config, setup.secrets, clock) as services:
            orders = [order(name) for name in ("gpu-aaaaaa", "gpu-bbbbbb")]
            await asyncio.gather(
                *(services.scaleway.create(each, b"#!/bin/sh\n") for each in orders)
            )
        await until(lambda: len(world.clearml.workers.alive()) == len(orders), "agents register")
        await until(lambda: task.status == "in_progress", "one of them takes the task")
        servers = {server.name: server for server in world.servers()}
        busy = servers.pop(str(task.last_worker))
        (idle,) = servers.values()
        world.clearml_calls.clear()
        world.scaleway_calls.clear()
        yield Site(clock, world, folder, busy, idle, task)


def order(name: str) -> CreateOrder:
    return CreateOrder(
        name=name,
        queue=QUEUE,
        placement=Placement(QUEUE, ZONE),
        image="ubuntu_jammy_gpu_os_12",
        volume_bytes=200 * 10**9,
        volume_iops=5000,
        tags=FleetTags("research").of_instance(QUEUE, "spec"),
    )


@in_real_time
async def test_plan_says_what_would_be_done_and_why_and_only_reads(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        taken, _ = it.world.task(seconds=1e6), it.world.task()
        await until(lambda: taken.status == "in_progress", "the idle machine takes one")
        table, plain = await asyncio.gather(it.run("plan"), it.run("plan", "--json"))
        assert (table.code, table.err) == (0, "")
        because = f"1 waiting in {QUEUE}: creating one ({QUEUE} in {ZONE})"
        assert re.search(f"would create h100-1-80g-[0-9a-f]{{6}}: {re.escape(because)}", table.out)
        assert re.search(rf"{it.busy.name} .* running task ", table.out)

        assert (plain.code, plain.err) == (0, "")
        plan = json.loads(plain.out)
        assert (plan["complete"], plan["errors"]) == (True, {})
        (effect,) = plan["effects"]
        assert (effect["do"], effect["reason"], effect["because"]) == ("create", "demand", because)
        (queue,) = plan["queues"]
        assert (queue["queue"], queue["billed"], queue["launch"]) == (QUEUE, 2, 1)
        assert {(instance["name"], instance["state"]) for instance in plan["instances"]} == {
            (it.busy.name, "running_task"),
            (it.idle.name, "running_task"),
        }

        assert {call.method for call in it.world.scaleway_calls} == {"GET"}
        asked = {call.path.rpartition("/")[2] for call in it.world.clearml_calls}
        assert asked <= {"auth.login", "queues.get_all", "workers.get_all", "tasks.get_all"}
        assert not (tmp_path / "state").exists()


@in_real_time
async def test_down_idle_powers_off_what_idles_and_nothing_else(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        await it.clock.sleep(GRACE_AFTER_TASK.total_seconds())
        ended = await it.run("down", "--idle", "--yes")
        assert (ended.code, ended.err) == (0, "")
        assert f"{it.idle.name}: powered off" in ended.out
        assert it.busy.name not in ended.out
        await until(lambda: it.idle.state is ServerState.STOPPED, "it is off")
        assert it.busy.state is ServerState.RUNNING
        assert it.task.status == "in_progress"
        assert it.world.left() == (2, 2)

        again = await it.run("down", "--idle", "--yes")
        assert (again.code, again.out) == (0, "Nothing to take down.\n"), again.out


@in_real_time
async def test_down_asks_first(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        states = {it.busy.name: "running task", it.idle.name: "idle"}
        question = "Remove, with their volumes:\n"
        question += "".join(f"  {name} ({state})\n" for name, state in sorted(states.items()))
        question += "These tasks will be stopped, and not run again:\n"
        question += f"  {TASK} on {it.busy.name}\nGo on?"
        for stdin in (b"n\n", b""):
            ended = await it.run("down", "--all", stdin=stdin)
            assert ended.code == 1
            assert ended.out.startswith(question), ended.out
        assert it.task.status == "in_progress"
        assert {call.method for call in it.world.scaleway_calls} == {"GET"}


@in_real_time
async def test_down_all_removes_everything_with_its_volumes(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        ended = await it.run("down", "--all", "--yes")
        assert (ended.code, ended.err) == (0, "")
        for server in (it.busy, it.idle):
            assert f"{server.name}: removed, with its volumes" in ended.out
        assert it.world.left() == (0, 0)
        assert it.task.status == "stopped", "the machine was shut down, not cut off"
        once = await it.run("run", "--once")
        assert once.code == 0, once.err
        assert it.task.status == "stopped", "a person wanted it so: not put back"
        assert it.world.left() == (0, 0)
