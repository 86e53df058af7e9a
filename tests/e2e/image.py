"""The image, built from the Dockerfile and run, by tools that need no daemon.

The official base image cannot be had everywhere. Debian's Python, laid out like it, stands in for
it: only its version differs, on which nothing in the Dockerfile may depend. It is kept in the
user's cache.
"""

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_autoscaler.commands.emulate import LOOPBACK
from tests.e2e.support import Ended, Running, process, running

ROOT = Path(__file__).parents[2]
TOOLS_NEEDED = ("buildah", "podman", "runc", "mmdebstrap")
BASE = "docker.io/library/python:3.12-slim"
IMAGE = "gpu-autoscaler:test"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PACKAGES = "python3,python3-venv,passwd,ca-certificates"
SUITE = "bookworm"
UNREAD = ("doc", "info", "locale", "man")
"""Below /usr/share: as in the official image, they are left out."""
LAY_OUT = """\
#!/bin/sh
# as in the official image: pip under /usr/local and free to install, no bytecode
set -eu
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -s /usr/bin/python3 "$1/usr/local/bin/python"
chroot "$1" env -i PATH="$PATH" sh -c 'PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) \
    python3 -m pip --disable-pip-version-check --no-cache-dir install --quiet --no-index \
    --root-user-action=ignore --find-links /usr/share/python-wheels pip setuptools'
find "$1/usr" -name __pycache__ -prune -exec rm -rf {} +
"""


def why_not() -> str:
    """Why images cannot be built here; empty when they can."""
    missing = [tool for tool in TOOLS_NEEDED if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian packages of these names)"
    return "" if os.geteuid() == 0 else "needs root"


def base_archive(scratch: Path) -> Path:
    """The base's files as a tar archive; made once on a machine."""
    recipe = hashlib.sha256(f"{SUITE} {PACKAGES} {UNREAD} {LAY_OUT}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "gpu-autoscaler-tests" / f"base-{recipe}.tar"
    if not kept.exists():
        hook = scratch / "lay-out"
        hook.write_text(LAY_OUT)
        hook.chmod(0o755)
        kept.parent.mkdir(parents=True, exist_ok=True)
        half_done = kept.with_suffix(f".{os.getpid()}.tar")
        words = ["--quiet", "--variant=essential", f"--include={PACKAGES}"]
        words += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in UNREAD]
        _run("mmdebstrap", *words, f"--customize-hook={hook}", SUITE, str(half_done))
        half_done.replace(kept)
    return kept


@dataclass(frozen=True)
class Containers:
    """A storage of images and containers that nobody else uses."""

    folder: Path
    short: Path
    """Where podman keeps what lasts until the next boot: it takes no path above 50 characters."""

    @property
    def layers(self) -> Path:
        """Where the files and the descriptions of all images are."""
        return self.folder / "storage"

    def _where(self) -> list[str]:
        places = ["--root", str(self.layers), "--runroot", str(self.short)]
        return [*places, "--storage-driver", "overlay"]

    def podman_words(self, *words: str) -> list[str]:
        """A call of podman."""
        how = ["--runtime", "runc", "--cgroup-manager=cgroupfs", "--events-backend=file"]
        return ["podman", *self._where(), *how, *words]

    def podman(self, *words: str) -> str:
        """What it prints. Raises CalledProcessError."""
        return _run(*self.podman_words(*words))

    def build(self) -> None:
        """The base, and the image on top of it, as people build it."""
        self.podman("import", "--quiet", str(base_archive(self.folder)), BASE)
        # what this machine needs to reach the package index stays out of the image
        settings = self.folder / "pip.conf"
        settings.write_text(f"[global]\ncert = {BUNDLE}\ndisable-pip-version-check = true\n")
        given = [f"--volume={settings}:/etc/pip.conf:ro", f"--volume={BUNDLE}:{BUNDLE}:ro"]
        how = ["--isolation=chroot", "--network=host", "--pull-never", "--format", "docker"]
        what = ["--quiet", "--tag", IMAGE, str(ROOT)]
        _run("buildah", *self._where(), "bud", *how, *given, *what)

    def remove(self) -> None:
        """All of it; it is large."""
        mounted = self.layers / "overlay"
        if mounted.is_mount():
            _run("umount", str(mounted))
        shutil.rmtree(self.folder)

    def inspect(self) -> dict[str, Any]:
        """The image's description."""
        (found,) = json.loads(self.podman("image", "inspect", IMAGE))
        return dict(found["Config"])

    def run_words(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """A call that runs the image with as little as it needs."""
        frugal = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all"]
        frugal += ["--security-opt=no-new-privileges"]
        # what podman does by default and this machine may not allow
        plain = ["--network=host", "--health-interval=disable"]
        plain += ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
        alone = ["--rm", "--pull=never"]
        return self.podman_words("run", *alone, *plain, *frugal, *options, IMAGE, *words)

    def python(self, code: str) -> str:
        """What a Python program inside prints."""
        return _run(*self.run_words("-c", code, options=("--entrypoint=python",)))

    @asynccontextmanager
    async def daemon(
        self, name: str, env: Mapping[str, str], *options: str
    ) -> AsyncIterator[Running]:
        """The container with its default command; `env` does not show in the process list."""
        passed = [f"--env={each}" for each in env]
        words = self.run_words(options=(f"--name={name}", *passed, *options))
        async with running(*words, environment={**os.environ, **env}) as it:
            try:
                yield it
            finally:
                await self.call("rm", "--force", "--ignore", "--time=0", name)

    async def call(self, *words: str) -> Ended:
        """Podman, while daemon and services go on."""
        return await process(*self.podman_words(*words), environment=os.environ)

    async def stop(self, name: str, daemon: Running) -> int:
        """As a platform does it: SIGTERM, and SIGKILL 5 seconds later. Returns the exit code."""
        await self.call("stop", "--time=5", name)
        return await asyncio.wait_for(daemon.child.wait(), timeout=60)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
