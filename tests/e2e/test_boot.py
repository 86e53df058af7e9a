"""The whole of it with machines that boot: systemd, cloud-init with its Scaleway data source.

The daemon's process, the bootstrap, the preflight and the agent are the real ones. Emulated are
the two services, and the GPUs by a stub of nvidia-smi. Time is faster than real for the daemon
and the services, not for the machines.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu_autoscaler.commands.serving import served
from gpu_autoscaler.domain.model import ServerState as S
from gpu_autoscaler.emulator.clearml_records import TaskRecord
from gpu_autoscaler.emulator.metadata import metadata_app
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.runtime.clock import ScaledClock, SystemClock
from tests.e2e import fast_cli, nspawn
from tests.e2e.nspawn import Image, Machine, Network, NspawnMachines, Provider
from tests.e2e.support import (
    LOOK_EVERY_SECONDS,
    SUBMIT,
    Emulated,
    Running,
    client_environment,
    daemon_environment,
    emulated,
    in_real_time,
    process,
    running,
    until,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not nspawn.USABLE and not os.environ.get("CI"),
        reason=f"needs root and the commands {', '.join(nspawn.MISSING) or '(all there)'}",
    ),
]

SPEED = 20.0
"""The agent reports every real second: 20 s here, so that its word is fresh (under 90 s)."""
TYPE = "H100-2-80G"
TOKEN = "token-of-the-page"
SECRETS = {
    "CLEARML_ACCESS_KEY": "ACCESSOFCLEARML",
    "CLEARML_SECRET_KEY": "secret-of-clearml",
    "SCALEWAY_ACCESS_KEY": "SCWACCESSOFSCALEWAYX",
    "SCALEWAY_SECRET_KEY": "77777777-6666-4555-8444-333333333333",
    "API_TOKEN": TOKEN,
    "AGENT_GIT_USER": "somebody",
    "AGENT_GIT_PASSWORD": "password-of-git",
    "AGENT_S3_ACCESS_KEY": "access-of-storage",
    "AGENT_S3_SECRET_KEY": "secret-of-storage",
    "AGENT_SSH_KEY": "-----BEGIN KEY-----\nmaterial-of-ssh-key\n-----END KEY-----\n",
}
SECRET_TEXTS = (
    *(text for name, text in SECRETS.items() if name not in ("AGENT_GIT_USER", "AGENT_SSH_KEY")),
    *("material-of-ssh-key", "token-of-somebody"),
)
QUEUE_SETTINGS = {
    "agent": {
        "docker": False,
        "polling_interval": "1s",
        "environment": {
            "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1",
            "CLEARML_AGENT_STATUS_REPORT_FREQ_SEC": "1",
            "HF_TOKEN": "${HF_TOKEN}",
        },
    },
    "placements": [{"type": TYPE, "zone": "fr-par-2"}],
    "idle_timeout": "1h",
    "stale_timeout": "1h",
    "lost_timeout": "1h",
    "stopped_retention": "1h",
}
STEPS = (
    *("install_packages", "log_in_to_registry", "pull_image", "install_agent"),
    *("write_configuration", "write_units", "run_extra_script", "load_units", "preflight"),
)
FIRST_BOOT = [*(f"installing: {step}" for step in STEPS), "preflight"]
FIRST_BOOT += ["installing: start_agent", "ready"]
LATER_BOOT = ["preflight", "ready"]
USER_DATA = f"http://{nspawn.METADATA}/user_data"


@dataclass
class Scene:
    """A daemon at work, the services, and machines with `gpus` GPUs each."""

    world: Emulated
    provider: Provider
    machines: NspawnMachines
    daemon: Running
    folder: Path

    def configure(self, **queue: object) -> None:
        """Change the configuration; the daemon sees it in its next cycle."""
        self.world.config(self.folder, change={"poll_interval": "15s"}, **QUEUE_SETTINGS | queue)

    async def submit(self, script: str) -> TaskRecord:
        """Put a script in the queue with the real SDK, in a process of its own."""
        path = self.folder / "main.py"
        path.write_text(script)
        client = client_environment(self.folder / "person", self.world.clearml_url)
        words = (sys.executable, "-c", SUBMIT, str(path), "H100-1-80G")
        ended = await process(*self.provider.network.command(*words), environment=client)
        assert "submitted" in ended.out, ended.err
        return self.world.clearml.tasks.all[ended.out.split()[-1]]

    def server(self) -> Server:
        """The only one."""
        (server,) = self.world.servers()
        return server

    def machine(self) -> Machine:
        """The only one."""
        (machine,) = self.machines.all.values()
        return machine

    def said(self, milestone: str) -> bool:
        """Whether one machine has said that, since `milestones` was last asked."""
        return any(milestone in said for said in self.machines.milestones.values())

    def milestones(self) -> list[str]:
        """What the only one said, since this was last asked."""
        (said,) = self.machines.milestones.values()
        copied, said[:] = said[:], []
        return copied


@asynccontextmanager
async def scene(folder: Path, gpus: int) -> AsyncIterator[Scene]:
    clock = ScaledClock(SPEED)
    image = Image.fetched()
    async with AsyncExitStack() as stack:
        provider = Provider(folder)
        stack.callback(provider.close)
        machines = NspawnMachines(image, provider, folder / "machines", lambda _: gpus)
        stack.callback(machines.close)
        listen = provider.listen
        world = await stack.enter_async_context(emulated(clock, machines, listen=listen))
        metadata = metadata_app(machines.server_at)
        listener = provider.listen(nspawn.METADATA, 80)
        await stack.enter_async_context(served(metadata, listener))
        world.knows(SECRETS)
        world.queue()
        it = Scene(world, provider, machines, None, folder)  # type: ignore[arg-type]
        it.configure()
        words = fast_cli.command(clock, "run", "--config", str(folder / "queues.yaml"))
        environment = daemon_environment(folder / "daemon", **SECRETS)
        environment |= {"HF_TOKEN": "token-of-somebody", "PYTHONPATH": str(Path.cwd())}
        daemon = running(*provider.network.command(*words), environment=environment)
        it.daemon = await stack.enter_async_context(daemon)
        yield it
        assert await it.daemon.end() == 0


@in_real_time
async def test_a_machine_boots_works_reboots_stops_and_starts(tmp_path: Path) -> None:
    async with scene(tmp_path, gpus=2) as it, watched_process_lists() as seen:
        script = "open('/var/tmp/runs', 'a').write('run ')\n"
        first = await it.submit(script)
        await until(lambda: first.status == "completed", "the first task runs to its end")
        machine, server = it.machine(), it.server()
        assert first.last_worker == server.name
        assert it.milestones() == FIRST_BOOT
        root_alone_can_read_secrets(machine)
        container = machine.network.with_container()
        assert await reaches(container, f"{it.world.clearml_url}/debug.ping")
        assert not await reaches(container, USER_DATA), "closed"
        assert await reaches(machine.network, USER_DATA)
        machine.network.change("iptables -t raw -F")
        assert await reaches(container, USER_DATA), "that was what closed it"

        await until(
            lambda: "cloud-init" not in server.user_data, "the daemon takes the secrets away"
        )
        it.world.scaleway.act(server.zone, server.id, "reboot")
        await until(lambda: it.said("ready"), "it boots again")
        assert it.milestones() == LATER_BOOT
        assert not await reaches(container, USER_DATA), "closed again"
        second = await it.submit(script)
        await until(lambda: second.status == "completed", "it works again")

        it.configure(idle_timeout="2m")
        await until(lambda: server.state is S.STOPPED, "it idles out and is stopped")
        await until(lambda: not machine.running, "systemd shuts down")
        it.configure()
        third = await it.submit(script)
        await until(lambda: third.status == "completed", "it is started and works")
        assert it.milestones() == LATER_BOOT
        root_alone_can_read_secrets(machine)
        assert second.last_worker == third.last_worker == server.name
        assert machine.shell("cat /var/tmp/runs").stdout == "run run run "

        told = await surface(it, third.id)
        volumes = it.world.scaleway.block.find(server.zone)
        told += [server.name, *server.tags, *(str((v.name, v.tags)) for v in volumes)]
        it.configure(idle_timeout="2m", stopped_retention="1m")
        await until(lambda: it.world.left() == (0, 0), "it is removed with its volume")
        state = [path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    places = {
        "log": it.daemon.lines,
        "console": [machine.console.read_text(errors="replace")],
        "state": state,
        "told": told,
        "process list": seen,
    }
    assert all(places.values())
    leaks = [(place, text) for place, said in places.items() for text in secrets_in(said)]
    assert leaks == []


@in_real_time
async def test_a_machine_that_lacks_a_gpu_says_so_and_is_removed_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path, gpus=1) as it:
        task = it.world.task()
        await until(lambda: it.said("failed: 1 GPU, expected 2"), "it says what is wrong")
        calls = it.world.scaleway_calls
        earlier = len(calls.log)
        machine, server = it.machine(), it.server()
        said = it.milestones()
        it.configure(max_instances=0)  # or the next one boots
        await until(lambda: it.world.left() == (0, 0), "it is removed with its volume")
        later = [f"{call.method} {call.path}" for call in [*calls][earlier:]]
        off = later.index(f"POST /instance/v1/zones/{server.zone}/servers/{server.id}/action")
        cycles = [call for call in later[:off] if call.endswith(f"/{nspawn.BACK_CHANNEL}")]
        assert len(cycles) <= 1, "the first cycle that can hear of it acts"
        assert said == [*FIRST_BOOT[:-2], "failed: 1 GPU, expected 2"]
        assert "preflight failed: 1 GPU, expected 2" in machine.console.read_text(errors="replace")
        assert task.status == "queued"
        assert server.name not in {worker.id for worker in it.world.clearml.workers.alive()}
        log = "\n".join(it.daemon.lines)
        assert '"reason": "boot_failed"' in log
        assert "stale" not in log


async def surface(it: Scene, *names: str) -> list[str]:
    """What the daemon tells over HTTP, also of these."""
    port = (await it.daemon.said("started"))["port"]
    told = []
    explained = [f"/api/v1/explain/{name}" for name in (it.server().name, *names)]
    for path in ("/", "/api/v1/status", "/metrics", *explained):
        url = f"http://127.0.0.1:{port}{path}"
        words = ("curl", "--fail", "--silent", "--noproxy", "*", "--config", "-", url)
        command = it.provider.network.command(*words)
        token = f'user = "anybody:{TOKEN}"'.encode()
        answer = await process(*command, environment=os.environ, stdin=token)
        assert answer.code == 0, path
        told.append(answer.out)
    return told


async def reaches(network: Network, url: str) -> bool:
    """Whether a request from there, and from a port below 1024, is answered."""
    curl = ("curl", "--fail", "--silent", "--noproxy", "*", "--max-time", "2")
    words = (*curl, "--local-port", "1-1023", "--output", "/dev/null", url)
    return (await process(*network.command(*words), environment=os.environ)).code == 0


def root_alone_can_read_secrets(machine: Machine) -> None:
    """Look through its files, and its journal, as root and as nobody."""
    looked = "/etc /home /opt /root /run /srv /tmp /var"
    search = f"grep -rlsFI --exclude-dir=wheels -f - {looked}"
    texts = "\n".join(SECRET_TEXTS)
    assert "/root/clearml.conf\n" in machine.shell(search, texts).stdout
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    assert machine.shell(f"{nobody} {search}", texts).stdout == ""
    assert machine.shell("journalctl --boot | grep -cF -f -", texts).stdout == "0\n"


def secrets_in(texts: Iterable[str]) -> list[str]:
    """Those that are in one of these texts."""
    return [secret for secret in SECRET_TEXTS if any(secret in text for text in texts)]


def command_lines() -> set[str]:
    """Of all processes of this computer, machines included."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@asynccontextmanager
async def watched_process_lists() -> AsyncIterator[set[str]]:
    """Every command line that any process had meanwhile."""
    seen: set[str] = set()

    async def watch() -> None:
        clock = SystemClock()
        while True:
            seen.update(await asyncio.to_thread(command_lines))
            await clock.sleep(5 * LOOK_EVERY_SECONDS)  # each look takes its time from the machines

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
