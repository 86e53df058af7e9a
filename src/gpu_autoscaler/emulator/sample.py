"""A sample workload for the demo: two working days of a small team on four queues."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gpu_autoscaler.domain.model import Placement


@dataclass(frozen=True, slots=True)
class Submission:
    """Somebody enqueues a task."""

    at_hours: float
    """After the start, which is a Monday, 8 o'clock."""
    queue: str
    name: str
    hours: float
    project: str
    user: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """Nothing of this is to be had for a while."""

    placement: Placement
    from_hours: float
    to_hours: float


WARSAW = "pl-waw-2"
PARIS = "fr-par-2"

_PLAN: dict[str, list[tuple[float, str, float]]] = {
    "H100-1-80G": [
        (0.2, "tokenizer ablation", 2.0),
        (0.3, "probe layer 12", 2.5),
        (1.5, "probe layer 24", 2.5),
        (4.0, "lora rank 8", 3.0),
        (4.1, "lora rank 16", 3.0),
        (7.5, "distill small", 4.5),
        (9.0, "eval checkpoints", 1.5),
        (24.3, "lora rank 32", 3.0),
        (24.4, "lora rank 64", 3.0),
        (27.0, "eval rank sweep", 1.0),
        (30.0, "distill medium", 5.0),
        (33.0, "eval distilled", 1.5),
    ],
    "H100-2-80G": [
        (0.5, "pretrain seed 1", 7.0),
        (0.6, "pretrain seed 2", 7.0),
        (2.0, "pretrain seed 3", 6.5),
        (6.0, "contrastive a", 6.0),
        (9.5, "contrastive b", 9.0),
        (10.0, "contrastive c", 8.0),
        (24.5, "pretrain seed 4", 7.0),
        (25.0, "pretrain seed 5", 7.5),
        (26.5, "contrastive d", 6.0),
        (33.5, "final a", 9.0),
        (34.0, "final b", 9.0),
    ],
    "H100-SXM-4-80G": [
        (1.0, "shard test", 1.0),
        (5.5, "7b warmup", 4.0),
        (10.0, "7b run", 9.0),
        (25.5, "7b resume", 6.0),
        (32.0, "7b eval", 1.5),
    ],
    "H100-SXM-8-80G": [
        (3.0, "13b smoke test", 0.7),
        (8.5, "13b run", 8.0),
        (27.5, "13b resume", 6.0),
        (34.5, "13b eval", 1.0),
    ],
}

_PROJECTS = {
    "language probes": ("Ada", ("tokenizer", "probe", "eval")),
    "small models": ("Grace", ("lora", "distill")),
    "vision": ("Alan", ("pretrain", "contrastive", "final")),
    "large models": ("Katherine", ("shard", "7b", "13b")),
}
"""Who works on it, and how the names of its tasks begin."""


def _submission(at: float, queue: str, name: str, hours: float) -> Submission:
    first = name.split(maxsplit=1)[0]
    project, user = next(
        (project, user) for project, (user, words) in _PROJECTS.items() if first in words
    )
    return Submission(at, queue, name, hours, project, user)


SUBMISSIONS = tuple(
    sorted(
        (
            _submission(at, queue, name, hours)
            for queue, rows in _PLAN.items()
            for at, name, hours in rows
        ),
        key=lambda each: each.at_hours,
    )
)
TEAM = tuple(sorted({each.user for each in SUBMISSIONS}))
SHORTAGE = Shortage(Placement("H100-2-80G", PARIS), from_hours=0.0, to_hours=5.0)
RESTART_AT_HOURS = 9.52
"""The daemon is killed and started again while a machine boots."""
FAILING_BOOT = 4
"""The machine of this boot, counted from 1, never registers."""
LASTS = timedelta(hours=48)


def sample_config(
    state_dir: str, clearml_url: str, scaleway_url: str, project: str
) -> dict[str, Any]:
    """The configuration of the demo, as it would stand in YAML."""
    return {
        "fleet": "demo",
        "poll_interval": "60s",  # half the work: slow machines too play two days in a minute
        "state_dir": state_dir,
        "prices": {"address_eur_per_hour": 0},  # the emulated cloud charges none
        "clearml": {"api_host": clearml_url},
        "scaleway": {"project_id": project, "api_url": scaleway_url},
        "queues": {
            name: {
                "name": name,
                "placements": [{"type": name, "zone": zone} for zone in zones],
                "max_instances": most,
                "stopped_retention": "2h",
                "idle_timeout_after_success": "10m",
            }
            for name, zones, most in (
                ("H100-1-80G", (PARIS, WARSAW), 3),
                ("H100-2-80G", (PARIS, WARSAW), 4),
                ("H100-SXM-4-80G", (PARIS,), 1),
                ("H100-SXM-8-80G", (PARIS,), 1),
            )
        },
    }
