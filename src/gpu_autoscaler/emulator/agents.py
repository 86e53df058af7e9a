"""Emulated servers whose boot is real: the bootstrap runs, and starts the real clearml-agent here.

The user data is executed as cloud-init would, into a directory that stands for the machine's
disk, with stand-ins for what would change this machine (apt, systemd, the virtual environment).
Then the unit it wrote is started by hand: its environment file, its command line.
"""

import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from gpu_autoscaler.emulator.scaleway_state import Server

log = structlog.get_logger("gpu_autoscaler.emulator")

SERVICE = Path("etc/systemd/system/clearml-agent.service")
ENVIRONMENT = Path("etc/clearml/environment")
DONE = "exit 0\n"


class AgentProcesses:
    """Fits the `Machines` that the emulated Scaleway calls. Close it: that ends every agent."""

    def __init__(self, directory: Path, extra_environment: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._extra = dict(extra_environment or {})
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stand_ins = directory / "stand-ins"
        self._write_stand_ins()

    def powered_on(self, server: Server) -> None:
        """Run the user data at the first boot; start the agent at every boot."""
        disk = self._directory / server.name
        if not (disk / SERVICE).exists():
            script = server.user_data.get("cloud-init")
            if script is None or not self._bootstrap(disk, script):
                return
        environment = {
            **os.environ,
            **_read_environment((disk / ENVIRONMENT).read_text()),
            "HOME": str(disk / "root"),
            "TMPDIR": str(disk / "tmp"),
            **self._extra,
        }
        (disk / "tmp").mkdir(exist_ok=True)
        self._end(server.id)
        with (disk / "agent.log").open("ab") as output:
            self._running[server.id] = subprocess.Popen(  # noqa: S603 - our own unit's command
                self._command(disk),
                env=environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        """SIGTERM to the agent alone (KillMode=mixed), or nothing but the dark."""
        process = self._running.get(server.id)
        if process is None:
            return
        if graceful:
            os.kill(process.pid, signal.SIGTERM)
        else:
            self._end(server.id)

    def close(self) -> None:
        """End what still runs."""
        for server_id in list(self._running):
            self._end(server_id)

    def _end(self, server_id: str) -> None:
        """Kill what is left of a boot. Its process id is ours until we wait for it."""
        process = self._running.pop(server_id, None)
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _bootstrap(self, disk: Path, script: bytes) -> bool:
        disk.mkdir(parents=True)
        path = disk / "user-data"
        path.write_bytes(script)
        path.chmod(0o700)
        search = f"{self._stand_ins}:{os.environ['PATH']}"
        result = subprocess.run(  # noqa: S603 - what the daemon rendered, in a directory of ours
            [str(path)],
            env={**os.environ, "PATH": search, "BOOTSTRAP_ROOT": str(disk)},
            capture_output=True,
            check=False,
            timeout=120,
        )
        (disk / "bootstrap.log").write_bytes(result.stdout + result.stderr)
        if result.returncode:
            log.error("bootstrap failed", machine=disk.name, said=result.stderr.decode()[-300:])
        return result.returncode == 0

    def _command(self, disk: Path) -> list[str]:
        line = next(
            line.removeprefix("ExecStart=")
            for line in (disk / SERVICE).read_text().splitlines()
            if line.startswith("ExecStart=")
        )
        words = shlex.split(line.replace("%%", "%").replace("$$", "$"))
        words = [f"{disk}{word}" if word.startswith("/root/") else word for word in words]
        return [*words, "--cpu-only"]  # no GPU here

    def _write_stand_ins(self) -> None:
        self._stand_ins.mkdir(parents=True, exist_ok=True)
        here = Path(sys.executable).parent
        venv = 'mkdir -p "$3/bin"\n' + "".join(
            f'printf \'#!/bin/sh\\nexec "%s" "$@"\\n\' "{here / tool}" > "$3/bin/{tool}"\n'
            f'chmod +x "$3/bin/{tool}"\n'
            for tool in ("python", "clearml-agent")
        )
        venv = f'[ "$2" = venv ] || exit 1\n{venv}'
        bodies = {
            **dict.fromkeys(("apt-get", "curl", "docker", "systemctl", "systemd-run"), DONE),
            "dpkg-query": 'echo "install ok installed"\n',
            "python3": venv,
        }
        for name, body in bodies.items():
            path = self._stand_ins / name
            path.write_text(f"#!/bin/sh\n{body}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _read_environment(text: str) -> dict[str, str]:
    """A systemd EnvironmentFile of `KEY="value"` lines, as the bootstrap writes it."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if value:
            found[key] = "".join(shlex.split(value))
    return found
