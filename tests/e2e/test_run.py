"""`gpu-autoscaler run` as a process: what it says, what it asks for, how it ends."""

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from gpu_autoscaler.commands.emulate import LOOPBACK
from gpu_autoscaler.commands.serving import bind
from gpu_autoscaler.domain.model import ServerState
from tests.e2e.support import (
    QUEUE,
    TOOLS,
    ZONE,
    daemon_environment,
    emulated,
    gpu_autoscaler,
    in_real_time,
    running,
    until,
)

pytestmark = pytest.mark.e2e

DAEMON = (str(TOOLS / "gpu-autoscaler"), "run", "--config")
CLEARML_READS = {"auth.login", "queues.get_all", "workers.get_all", "tasks.get_all"}
CYCLES = 3


async def health(port: int) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://{LOOPBACK}:{port}/healthz")


@in_real_time
async def test_a_dry_run_says_what_it_would_create_and_why_and_only_reads(tmp_path: Path) -> None:
    async with emulated() as world:
        world.task()
        world.task()
        config = world.config(tmp_path)
        (memory,) = (tmp_path / "state").iterdir()
        before = memory.read_bytes()
        words = ("run", "--once", "--dry-run", "--config", str(config))
        ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path))
        assert ended.code == 0, ended.err
        events = ended.events("would create")
        assert len(events) == 2
        for event in events:
            assert re.fullmatch(r"h100-1-80g-[0-9a-f]{6}", event["subject"])
            assert (event["queue"], event["zone"], event["reason"]) == (QUEUE, ZONE, "demand")
            assert event["because"] == (
                f"2 waiting in {QUEUE}: creating one ({QUEUE} in {ZONE})"
            ), event["because"]
        asked = {call.path.rpartition("/")[2] for call in world.clearml_calls}
        assert asked == CLEARML_READS
        assert {call.method for call in world.scaleway_calls} == {"GET"}
        assert list((tmp_path / "state").iterdir()) == [memory], "not even a lock"
        assert memory.read_bytes() == before
        assert world.left() == (0, 0)


@in_real_time
async def test_one_cycle_creates_what_is_needed_and_the_next_one_nothing(tmp_path: Path) -> None:
    async with emulated() as world:
        task = world.task()
        words = ("run", "--once", "--config", str(world.config(tmp_path)))
        for _ in range(2):
            ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path))
            assert ended.code == 0, ended.err
            assert world.left() == (1, 1)
        assert world.scaleway_calls.count(r"POST .*/servers$") == 1
        await until(lambda: task.status == "in_progress", "its machine takes the task")


@in_real_time
async def test_it_answers_healthz_and_ends_on_sigterm_leaving_instances_alone(
    tmp_path: Path,
) -> None:
    async with emulated() as world:
        task = world.task()
        config = str(world.config(tmp_path))
        environment = daemon_environment(tmp_path)
        async with running(*DAEMON, config, environment=environment) as daemon:
            port = (await daemon.said("started"))["port"]
            await until(lambda: task.status == "in_progress", "the task runs")
            reply = await health(port)
            assert (reply.status_code, reply.json()["status"]) == (200, "ok")

            second = await gpu_autoscaler("run", "--config", config, env=environment)
            assert second.code == 1
            assert re.fullmatch(
                r"error: \S+/state: another daemon uses this state directory; .*\n", second.err
            )

            assert await daemon.end() == 0
            assert daemon.events("stopped")[0]["instances"] == "left as they are"
        (server,) = world.servers()
        assert server.state is ServerState.RUNNING
        assert task.status == "in_progress"
        assert world.scaleway_calls.count(r"/action$") == 1, "but its power-on"


@in_real_time
async def test_sigterm_in_the_middle_of_a_creation_lets_it_end(tmp_path: Path) -> None:
    async with emulated() as world:
        world.task()
        world.scaleway_faults.add("slow", r"PATCH .*/user_data/", seconds=2.0)
        config = str(world.config(tmp_path))
        async with running(*DAEMON, config, environment=daemon_environment(tmp_path)) as daemon:
            calls = world.scaleway_calls
            await until(lambda: calls.count(r"PATCH .*/user_data/"), "half of it is done")
            assert await daemon.end() == 0
        (server,) = world.servers()
        assert server.state in (ServerState.STARTING, ServerState.RUNNING)
        assert "phase=provisioning" not in server.tags


@in_real_time
async def test_wrong_keys_are_said_once_each_and_the_daemon_stays(tmp_path: Path) -> None:
    wrong = {
        "CLEARML_SECRET_KEY": "a-wrong-secret",
        "SCALEWAY_SECRET_KEY": "22222222-2222-4222-8222-222222222222",
    }
    async with emulated() as world:
        world.task()
        environment = daemon_environment(tmp_path, **wrong)
        config = str(world.config(tmp_path))
        async with running(*DAEMON, config, environment=environment) as daemon:
            port = (await daemon.said("started"))["port"]
            await until(lambda: world.scaleway_calls.count(r"/servers$") > CYCLES, "some cycles")
            said = {event["subject"]: event["error"] for event in daemon.events("failing")}
            assert len(daemon.events("failing")) == 2
            assert "GPU_AUTOSCALER_CLEARML_SECRET_KEY" in said["clearml"]
            assert "401 denied_authentication" in said[f"scaleway {ZONE}"]
            assert (await health(port)).status_code == 200
            assert await daemon.end() == 0
            assert not any(secret in line for line in daemon.lines for secret in wrong.values())
        assert world.left() == (0, 0)


@in_real_time
async def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    async with emulated() as world:
        with bind(LOOPBACK, 0) as listener:
            port = listener.getsockname()[1]
            words = ("run", "--config", str(world.config(tmp_path)), "--port", str(port))
            ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path))
        assert (ended.code, ended.out) == (1, "")
        assert ended.err == (
            f"error: cannot listen on 0.0.0.0:{port} (Address already in use); set another PORT\n"
        )


@in_real_time
async def test_after_a_kill_the_state_directory_is_free_at_once(tmp_path: Path) -> None:
    async with emulated() as world:
        config = str(world.config(tmp_path))
        environment = daemon_environment(tmp_path)
        for _ in range(2):
            async with running(*DAEMON, config, environment=environment) as daemon:
                await daemon.said("started")
                os.kill(daemon.child.pid, signal.SIGKILL)
