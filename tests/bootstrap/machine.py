"""A bare machine made of a temporary directory and stubs, on which the bootstrap can run."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets

REAL_TOOLS = [
    *("bash", "cat", "chmod", "cmp", "dirname", "grep", "ln", "mkdir", "mktemp", "mv"),
    *("timeout", "tr"),
]
STUBBED_TOOLS = ["apt-get", "curl", "dpkg-query", "python3", "sleep", "systemctl", "systemd-run"]

STUB = """#!/bin/bash
call="${0##*/} $*"
printf '%s\\n' "$call" >>"$STUB_LOG"
if [[ "$call" == "docker login"* ]]; then cat >"$STUB_LOG.stdin"; fi
if [[ -n "$STUB_FAIL" && "$call" == *"$STUB_FAIL"* ]]; then exit 42; fi
case "$call" in
"python3 "*"/pip install "*" --target "*)
    mkdir -p "$6/bin"
    ln -sf "${0%/*}/stub" "$6/bin/uv"
    ;;
"python3 -m venv "*)
    mkdir -p "$3/bin"
    ln -sf "${0%/*}/stub" "$3/bin/python"
    ;;
dpkg-query*)
    if [[ " $STUB_INSTALLED " == *" ${!#} "* ]]; then echo "install ok installed"; fi
    ;;
esac
"""

NEEDED = "curl git iptables openssh-client python3-venv"


class Machine:
    """One directory tree; what the stubs were asked is in `calls`."""

    def __init__(self, folder: Path, installed: str = f"{NEEDED} docker") -> None:
        self.root = folder / "root"
        self._log = folder / "calls"
        self._tools = folder / "bin"
        self._installed = installed
        self.root.mkdir()
        self._tools.mkdir()
        (self._tools / "stub").write_text(STUB)
        (self._tools / "stub").chmod(0o755)
        for tool in REAL_TOOLS:
            real = shutil.which(tool)
            assert real, tool
            (self._tools / tool).symlink_to(real)
        for tool in [*STUBBED_TOOLS, *(["docker"] if "docker" in installed.split() else [])]:
            (self._tools / tool).symlink_to("stub")

    def run(self, script: bytes, fail: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run the script from its beginning; calls that contain `fail` fail."""
        self._log.write_text("")
        path = self.root / "user-data"
        path.write_bytes(script)
        return subprocess.run(
            [str(self._tools / "bash"), str(path)],
            env={
                "PATH": str(self._tools),
                "BOOTSTRAP_ROOT": str(self.root),
                "STUB_LOG": str(self._log),
                "STUB_FAIL": fail,
                "STUB_INSTALLED": self._installed,
            },
            capture_output=True,
            check=False,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        """The command lines that the stubs of the last run saw, but for the back channel."""
        calls = self._log.read_text().splitlines()
        return [call for call in calls if not call.startswith("curl")]

    @property
    def milestones(self) -> list[str]:
        """What was said on the back channel."""
        calls = self._log.read_text().splitlines()
        found = (re.search("--data-binary (.*) --output /dev/null http://169[.]", c) for c in calls)
        return [match[1] for match in found if match]

    @property
    def told_docker(self) -> str:
        """What `docker login` was given on its standard input."""
        return self._log.with_suffix(".stdin").read_text()

    def read(self, path: str) -> str:
        """Content of a file the bootstrap wrote, line ends untouched."""
        return (self.root / path).read_bytes().decode()

    def mode(self, path: str) -> int:
        """Permission bits of such a file."""
        return os.stat(self.root / path).st_mode & 0o777


def config(agent: Mapping[str, object] | None = None, **queue: object) -> Config:
    """A configuration with one queue, named `gpu` unless told otherwise."""
    name = str(queue.pop("name", "gpu"))
    placements = [{"type": "L4-1-24G", "zone": "fr-par-2"}]
    settings = {"name": name, "placements": placements, "agent": agent or {}, **queue}
    return Config.model_validate(
        {
            "fleet": "research",
            "scaleway": {"project_id": "11111111-2222-3333-4444-555555555555"},
            "queues": {name: settings},
        }
    )


def secrets(**given: str | None) -> Secrets:
    """Secrets of which those named are as given and the others recognisable."""
    values: dict[str, str | None] = {
        name: f"{name}-value" for name in Secrets.__dataclass_fields__ if name not in given
    }
    return Secrets(**{**values, **given})  # type: ignore[arg-type]
