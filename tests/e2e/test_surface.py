"""The HTTP surface of the real daemon: asked, told what to do, and searched for secrets."""

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from gpu_autoscaler.commands.emulate import EMULATED_KEY, LOOPBACK
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER
from tests.e2e.support import (
    QUEUE,
    TASK,
    TOOLS,
    daemon_environment,
    emulated,
    gpu_autoscaler,
    in_real_time,
    running,
    until,
)

pytestmark = pytest.mark.e2e

DAEMON = (str(TOOLS / "gpu-autoscaler"), "run", "--config")
TOKEN = "a-token-that-nobody-guesses"
SECRETS = (TOKEN, EMULATED_USER.access_key, EMULATED_USER.secret_key, EMULATED_KEY)
CONFLICT, TRIES = 409, 20
PATHS = ("/", "/page/app.js", "/api/v1/status", "/api/v1/openapi.json", "/metrics", "/healthz")


@in_real_time
async def test_it_tells_obeys_and_keeps_its_secrets(tmp_path: Path) -> None:
    async with emulated() as world:
        task = world.task()
        environment = daemon_environment(tmp_path, API_TOKEN=TOKEN)
        config = str(world.config(tmp_path))
        async with running(*DAEMON, config, environment=environment) as daemon:
            url = f"http://{LOOPBACK}:{(await daemon.said('started'))['port']}"
            await until(lambda: task.status == "in_progress", "the task runs")
            async with httpx.AsyncClient(base_url=url) as anybody:
                assert (await anybody.get("/api/v1/status")).status_code == 401
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
                paused = await client.post(f"/api/v1/queues/{QUEUE}/pause")
                assert paused.status_code == 200, paused.text
                queue = world.clearml.queues.named(QUEUE)
                assert queue is not None
                await until(lambda: "force_workers:off" in queue.tags, "agents are told")
                waiting = world.task()
                answers = [await client.get(path) for path in PATHS]
                assert [answer.status_code for answer in answers] == [200] * len(PATHS)
                assert TASK in answers[2].text
                _promtool(answers[4].text)
                (server,) = world.servers()
                for _ in range(TRIES):  # its tags may just be changed by the daemon itself
                    kept = await client.post(f"/api/v1/instances/{server.name}/keep")
                    if kept.status_code != CONFLICT:
                        break
                assert "is kept for" in kept.text
                asked = environment | {"GPU_AUTOSCALER_URL": url}
                told = await gpu_autoscaler("explain", waiting.id, env=asked)
                assert "after somebody resumes it" in told.out
                resumed = await client.post(f"/api/v1/queues/{QUEUE}/resume")
                assert resumed.json() == {"done": f"{QUEUE} is resumed"}
                await until(lambda: waiting.status == "in_progress", "the second task runs")
                answers += [paused, kept, resumed, await client.get("/api/v1/status")]
            shown = [told.out, *(answer.text for answer in answers), *daemon.lines]
            assert not [secret for secret in SECRETS for text in shown if secret in text]
            assert await daemon.end() == 0


def _promtool(exposition: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is not None:  # CI has it
        command = [promtool, "check", "metrics"]
        checked = subprocess.run(
            command, input=exposition, text=True, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
