"""The real clearml SDK and the real clearml-agent against the emulator, in real time.

What they need is what the emulator must speak; what the agent says when it ends is what the
daemon tells a person's abort from a machine's end by.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import ABORT_OBEYED, EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import TaskRecord
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import RandomIds, SystemClock
from tests.e2e.support import PATIENCE_SECONDS, SUBMIT, client_environment

pytestmark = pytest.mark.e2e

WORKER = "research-1a2b3c"
QUEUE = "research"
AGENT_EXIT = 254
"""How clearml-agent 3.0.3 ends on SIGTERM."""


@dataclass
class Server:
    """The emulator on a port of its own, and its state."""

    model: ClearmlModel
    url: str

    def ask(self, endpoint: str, **body: Any) -> Any:
        """What a person does in the web interface."""
        keys = (EMULATED_USER.access_key, EMULATED_USER.secret_key)
        reply = httpx.post(f"{self.url}/{endpoint}", json=body, auth=keys)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def hears_from_worker(self) -> bool:
        """Before its first report an agent is still starting, and may end without a word."""
        workers = self.ask("workers.get_all")["workers"]
        return [w["id"] for w in workers if "last_report_time" in w] == [WORKER]

    def worker_ids(self) -> list[str]:
        return [worker["id"] for worker in self.ask("workers.get_all")["workers"]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    model = ClearmlModel(Timeline(SystemClock()), RandomIds())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(clearml_app(model), log_level="warning")
        uvicorn_server = uvicorn.Server(config)
        thread = threading.Thread(target=uvicorn_server.run, args=([listener],))
        thread.start()
        try:
            yield Server(model, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            uvicorn_server.should_exit = True
            thread.join(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def environment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of their own for the clients: nothing of this machine's settings or locks."""
    home = tmp_path_factory.mktemp("home")
    return client_environment(home, server.url) | {"CLEARML_WORKER_ID": WORKER}


@pytest.fixture
def agent(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running, registered agent, in a process group that does not survive the test."""
    command = ["daemon", "--foreground", "--queue", QUEUE, "--cpu-only"]
    if server.model.queues.named(QUEUE) is None:
        server.ask("queues.create", name=QUEUE)
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clearml_agent", *command],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until(server.hears_from_worker, "the agent registers and reports")
            yield process
        finally:
            process.terminate()  # it takes its task along and unregisters
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE_SECONDS)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look every tenth of a second, until patience ends."""
    tick = threading.Event()
    for _ in range(int(PATIENCE_SECONDS * 10)):
        if condition():
            return
        tick.wait(0.1)
    pytest.fail(f"waited in vain: {what}")


def submit(server: Server, environment: dict[str, str], folder: Path, script: str) -> TaskRecord:
    """Put a script in the queue with the real SDK, in a process of its own."""
    path = folder / "main.py"
    path.write_text(script)
    outcome = subprocess.run(
        [sys.executable, "-c", SUBMIT, str(path), QUEUE],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert "submitted" in outcome.stdout, outcome.stderr
    return server.model.tasks.all[outcome.stdout.split()[-1]]


def marker(folder: Path) -> tuple[Path, str]:
    """A file that a task makes when its own code runs, and code that then stays for a minute."""
    path = folder / "runs"
    return path, f"import pathlib, time\npathlib.Path({str(path)!r}).touch()\ntime.sleep(60)\n"


@pytest.mark.usefixtures("agent")
def test_a_task_goes_from_the_sdk_through_the_agent_and_a_person_aborts_the_next(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    task = submit(server, environment, tmp_path, "print('hello')\n")
    wait_until(lambda: task.status == "completed", "the agent runs the task")
    queue = server.model.queues.named(QUEUE)
    assert queue is not None
    assert (task.last_worker, task.queue_id) == (WORKER, queue.id)
    assert task.fields["status_reason"] == "worker execution done"

    path, script = marker(tmp_path)
    task = submit(server, environment, tmp_path, script)
    wait_until(path.exists, "the task's own code runs")
    server.ask("tasks.stop", task=task.id)
    assert task.stop_requested
    wait_until(lambda: task.status == "stopped", "the agent obeys")
    assert task.fields["status_reason"] == ABORT_OBEYED
    assert task.fields["status_message"] == f"Changed by clearml-agent {WORKER}"
    assert server.worker_ids() == [WORKER]


def test_sigterm_in_the_middle_of_a_task_stops_it_and_unregisters(
    server: Server,
    environment: dict[str, str],
    tmp_path: Path,
    agent: "subprocess.Popen[bytes]",
) -> None:
    path, script = marker(tmp_path)
    task = submit(server, environment, tmp_path, script)
    wait_until(path.exists, "the task's own code runs")
    agent.terminate()
    assert agent.wait(PATIENCE_SECONDS) == AGENT_EXIT
    assert task.status == "stopped"
    assert task.fields["status_reason"] == "user abort"
    assert server.worker_ids() == []
    assert server.ask("queues.get_all", name=QUEUE)["queues"][0]["entries"] == []


def test_sigterm_of_an_idle_agent_unregisters(
    server: Server, agent: "subprocess.Popen[bytes]"
) -> None:
    agent.terminate()
    assert agent.wait(PATIENCE_SECONDS) == AGENT_EXIT
    assert server.worker_ids() == []
