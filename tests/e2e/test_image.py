"""The image is built and run, read-only and without a privilege, against the emulated services."""

import json
import os
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.store.lease import LeasedStore
from gpu_autoscaler.store.s3 import S3Bucket
from tests.e2e.image import ROOT, Containers, free_port, why_not
from tests.e2e.support import daemon_environment, emulated, in_real_time, until
from tests.store.server import BUCKET, REGION, bucket_server, make_bucket, upload

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be built"),
]

KEY = "gpu-autoscaler/queues.yaml"
MOUNTED = "/etc/gpu-autoscaler/queues.yaml"
STATE = "/var/lib/gpu-autoscaler/state"
UID = 10001
SECRETS = {
    "CLEARML_ACCESS_KEY": "HIDDENCLEARMLACCESS",
    "CLEARML_SECRET_KEY": "hidden-clearml-secret",
    "SCALEWAY_ACCESS_KEY": "SCWHIDDENACCESSXXXXX",
    "SCALEWAY_SECRET_KEY": "99999999-8888-4777-8666-555555555555",
    "API_TOKEN": "hidden-api-token-0123456789",
    "AGENT_GIT_USER": "robot",
    "AGENT_GIT_PASSWORD": "hidden-git-password",
}


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """With the image."""
    with tempfile.TemporaryDirectory(prefix="run-") as short:
        made = Containers(tmp_path_factory.mktemp("containers"), Path(short))
        made.build()
        yield made
        made.remove()


def environment(home: Path, port: int, **changes: str) -> dict[str, str]:
    """Nothing but what the daemon is told."""
    told = daemon_environment(home, **SECRETS, **changes)
    return {name: told[name] for name in told if name.startswith("GPU_")} | {"PORT": str(port)}


@in_real_time
async def test_it_becomes_healthy_works_and_ends_at_once_when_told(
    tmp_path: Path, containers: Containers
) -> None:
    async with emulated() as world:
        world.knows(SECRETS)
        task = world.task()
        config = world.config(tmp_path, change={"state_dir": "state"})
        state = config.with_name("state")
        for each in (state, *state.iterdir()):
            os.chown(each, UID, UID)
        mounts = (f"--volume={config}:{MOUNTED}:ro", f"--volume={state}:{STATE}")
        env = environment(tmp_path, free_port())
        async with containers.daemon("mounted", env, *mounts) as daemon:
            await daemon.said("started")
            await until(lambda: task.status == "in_progress", "the task runs")
            assert (await containers.call("healthcheck", "run", "mounted")).code == 0
            asking = ("exec", "--env=PORT=1", "mounted", "python", "-m", "gpu_autoscaler.web.probe")
            assert (await containers.call(*asking)).code == 1, "nobody is well on another port"
            assert await containers.stop("mounted", daemon) == 0
            assert daemon.events("stopped")[0]["instances"] == "left as they are"
        (server,) = world.servers()
        assert server.state is ServerState.RUNNING


@in_real_time
async def test_environment_variables_are_enough_and_a_new_configuration_needs_no_deploy(
    tmp_path: Path, containers: Containers
) -> None:
    with bucket_server() as storage:
        make_bucket(storage)
        async with emulated() as world:
            world.knows(SECRETS)
            store = {"bucket": BUCKET, "key": "memory.json", "region": REGION, "endpoint": storage}

            def configured(most: Any) -> None:
                change: dict[str, Any] = {"store": store}
                path = world.config(tmp_path, change=change, max_instances=most)
                upload(storage, KEY, path.read_text())

            configured(1)
            await ran_before_in(storage)
            tasks = [world.task(), world.task()]
            place = {"CONFIG": f"s3://{BUCKET}/{KEY}", "CONFIG_REGION": REGION}
            env = environment(tmp_path, free_port(), CONFIG_ENDPOINT=storage, **place)
            async with containers.daemon("bare", env) as daemon:
                await until(lambda: any(t.status == "in_progress" for t in tasks), "one runs")
                assert len(world.servers()) == 1
                configured("many")
                refused = await daemon.said("configuration not used")
                assert f"s3://{BUCKET}/{KEY}:" in refused["error"]
                configured(2)
                await daemon.said("configuration loaded")
                await until(lambda: all(t.status == "in_progress" for t in tasks), "both run")
                assert await containers.stop("bare", daemon) == 0
                assert daemon.events("stopped")
            hidden = [value for name, value in SECRETS.items() if name != "AGENT_GIT_USER"]
            kept = await memory_in(storage).get()
            assert kept is not None
            shown = [*daemon.lines, kept.content.decode()]
            assert not [text for text in shown if any(each in text for each in hidden)]
            assert found(containers.layers / "overlay", ["clearml-gpu-autoscaler"]), "it searches"
            for folder in ("overlay", "overlay-images", "overlay-layers"):
                assert not found(containers.layers / folder, hidden)


def memory_in(storage: str) -> S3Bucket:
    """Where the daemon keeps it."""
    keys = {"access_key": "any", "secret_key": "any"}
    return S3Bucket(BUCKET, "memory.json", region=REGION, endpoint=storage, **keys)


async def ran_before_in(storage: str) -> None:
    """A daemon was here, did nothing, and left: else the first launch waits for a second look."""
    clock = SystemClock()
    store = LeasedStore(memory_in(storage), clock, holder="another", lasts=timedelta(minutes=3))
    await store.load()
    await store.save(Memory(planned_at=clock.now()))
    await store.release()


def found(folder: Path, texts: list[str]) -> list[str]:
    """The files below that hold one of these."""
    words = ["grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings"]
    patterns = [f"--regexp={text}" for text in texts]
    done = subprocess.run([*words, *patterns, str(folder)], capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_nothing_is_left_to_build_with_and_nothing_to_compile(containers: Containers) -> None:
    told = containers.python(
        "import importlib.util, json, os, shutil, sys\n"
        "import gpu_autoscaler, gpu_autoscaler.cli, gpu_autoscaler.store.s3\n"
        "files = [getattr(m, '__cached__', None) for m in list(sys.modules.values())]\n"
        "names = 'pip', 'setuptools', 'wheel', 'ensurepip'\n"
        "print(json.dumps({\n"
        "    'user': [os.getuid(), os.getgid()],\n"
        "    'modules': [name for name in names if importlib.util.find_spec(name)],\n"
        "    'commands': [c for c in ('pip', 'pip3', 'gcc', 'curl') if shutil.which(c)],\n"
        "    'uncompiled': [f for f in files if f and not os.path.exists(f)],\n"
        "    'compiled': sum(map(bool, files)),\n"
        "    'version': gpu_autoscaler.__version__,\n"
        "}))"
    )
    inside = json.loads(told)
    assert inside.pop("compiled") > 500
    assert inside == {
        "user": [UID, UID],
        "modules": [],
        "commands": [],
        "uncompiled": [],
        "version": version(),
    }


def test_the_description_says_what_it_is_and_how_it_runs(containers: Containers) -> None:
    described = containers.inspect()
    assert described["User"] == f"{UID}:{UID}"
    assert (described["Entrypoint"], described["Cmd"]) == (["gpu-autoscaler"], ["run"])
    labels = {name.rpartition(".")[2]: text for name, text in described["Labels"].items()}
    assert labels["title"] == "clearml-gpu-autoscaler"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == version()


def version() -> str:
    """As the package itself says it."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
