"""What a command needs: a configuration file, secrets, and both services, emulated in process."""

import functools
import io
import json
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from rich.console import Console

from gpu_autoscaler.commands import storing, wiring
from gpu_autoscaler.commands.emulate import EMULATED_KEY
from gpu_autoscaler.commands.wiring import Setup, load_setup
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.faults import Calls, FaultKind, Faults
from gpu_autoscaler.emulator.machines import EmulatedMachines
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, Keys, scaleway_app
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import PROJECT, Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import LoopClock, RandomIds
from gpu_autoscaler.store.lease import LeasedStore

QUEUE = "gpu-small"
TYPE = "H100-1-80G"
ZONE = "fr-par-2"
YAML = """\
fleet: test
state_dir: {state}
clearml: {{api_host: http://clearml.test}}
scaleway: {{project_id: {project}, api_url: http://scaleway.test}}
queues:
  {queue}:
    placements: [{{type: {type}, zone: {zone}}}]
    max_instances: 4
"""
ENV = {
    "GPU_AUTOSCALER_CLEARML_ACCESS_KEY": EMULATED_USER.access_key,
    "GPU_AUTOSCALER_CLEARML_SECRET_KEY": EMULATED_USER.secret_key,
    "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY": "SCWXXXXXXXXXXXXXXXXX",
    "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY": EMULATED_KEY,
}


class Site:
    """Made inside the virtual loop; `module` is the command whose services these become."""

    def __init__(
        self, directory: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch, **yaml: str
    ) -> None:
        self.directory = directory / "state"
        self.file = directory / "queues.yaml"
        known = {"state": self.directory, "project": PROJECT, "queue": QUEUE}
        self.file.write_text(YAML.format(**{**known, "type": TYPE, "zone": ZONE, **yaml}))
        self.clock = LoopClock()
        line = Timeline(self.clock)
        self.clearml = ClearmlModel(line, RandomIds())
        self.machines = EmulatedMachines(line, self.clearml)
        self.scaleway = ScalewayModel(line, RandomIds(), machines=self.machines)
        self.queue_id = self.clearml.create_queue(QUEUE)
        self.faults, self.calls = Faults(), Calls()
        self.keys: Keys = {EMULATED_KEY: FULL_ACCESS}
        self.secrets: dict[str, str] = {}
        """More of the environment."""
        clearml = httpx.ASGITransport(clearml_app(self.clearml, self.faults, self.calls))
        self.open_services = functools.partial(
            wiring.open_services,
            clearml_transport=clearml,
            scaleway_transport=httpx.ASGITransport(
                scaleway_app(self.scaleway, self.faults, self.calls, self.keys)
            ),
        )
        monkeypatch.setattr(module, "open_services", self.open_services)
        if hasattr(module, "open_agents_clearml"):
            agents = functools.partial(wiring.open_agents_clearml, transport=clearml)
            monkeypatch.setattr(module, "open_agents_clearml", agents)
        self.console = Console(file=io.StringIO(), width=200, color_system=None)

    def use_bucket(self, monkeypatch: pytest.MonkeyPatch) -> InMemoryBucket:
        """Memory and lease in object storage; it is given."""
        bucket = InMemoryBucket(self.clock)
        self.file.write_text(self.file.read_text() + "store: {bucket: my-bucket}\n")
        monkeypatch.setattr(storing, "bucket_of", lambda *_: bucket)
        return bucket

    def append(self, text: str) -> None:
        """More of the configuration: the end of it is the queue's settings."""
        self.file.write_text(self.file.read_text() + text)

    def replace(self, old: str, new: str) -> None:
        """A change in the configuration."""
        self.file.write_text(self.file.read_text().replace(old, new))

    @property
    def setup(self) -> Setup:
        """The configuration as it stands in the file now."""
        return load_setup(self.file, {**ENV, **self.secrets})

    @property
    def said(self) -> str:
        """Everything printed so far."""
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    def task(self, seconds: float = 36_000) -> str:
        """Somebody enqueues a task."""
        return self.clearml.create_task("train", self.queue_id, seconds)

    def servers(self) -> dict[str, Server]:
        """By name."""
        return {server.name: server for server in self.scaleway.all_servers()}

    def break_off(self, match: str) -> None:
        """Calls whose path holds this are answered 500 from now on."""
        self.faults.add(FaultKind.ERROR, match)


async def a_daemon_was_here(bucket: InMemoryBucket, clock: LoopClock) -> LeasedStore:
    """It holds the lease, and falls silent."""
    store = LeasedStore(bucket, clock, holder="another", lasts=timedelta(minutes=3))
    await store.load()
    await store.save(Memory(planned_at=clock.now()))
    return store


def holder_of(bucket: InMemoryBucket) -> str:
    """Who has the lease; empty when it was given back."""
    assert bucket.blob is not None
    return str(json.loads(bucket.blob.content)["lease"]["holder"])
