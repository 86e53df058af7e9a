"""What a simulation is made of: a configuration and a workload, both from the seed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.runtime.clock import VIRTUAL_START, Dice, seeded
from gpu_autoscaler.simulation import workload
from gpu_autoscaler.simulation.faults import Level
from gpu_autoscaler.simulation.workload import Submission

PROJECT = "11111111-2222-3333-4444-555555555555"
ZONES = ("fr-par-2", "pl-waw-2")
PLACEMENTS: dict[str, list[tuple[str, str]]] = {
    workload.SMALL: [("H100-1-80G", ZONES[0]), ("H100-1-80G", ZONES[1])],
    workload.BIG: [("H100-2-80G", ZONES[0]), ("H100-2-80G", ZONES[1])],
    workload.CLUSTER: [("H100-SXM-4-80G", ZONES[0])],
}
THESIS, DENSE = "thesis", "dense"
BOUNDED_SHARE = 0.2
"""Of the dense runs have working hours, and as many a budget for the day."""
KEEP = "40m"
"""So that a `keep` that nobody takes off ends within a short simulation."""
MACHINES_AT_ONCE = 5
"""Bound of each queue of a real workload: three to five tasks are submitted at once."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated."""

    seed: int
    hours: float
    level: Level
    workload: Sequence[Submission]
    config: Config
    with_lease: bool = True
    """Memory and lease in object storage; otherwise in a directory."""


def scenario(seed: int, days: float, name: str, level: Level) -> Scenario:
    """`name`: `thesis`, `dense`, or the path of a CSV file. Raises WorkloadError."""
    dice = seeded(f"{seed}/workload")
    match name:
        case "dense":
            return _dense(seed, days, level)
        case "thesis":
            tasks = workload.thesis(dice, days)
        case _:
            end = days * 24 * 3600
            tasks = workload.read_csv(Path(name))
            tasks = tuple(task for task in tasks if task.at.total_seconds() < end)
    queues = {each.queue for each in tasks}
    return Scenario(seed, days * 24, level, tasks, _config(queues, {}))


def _dense(seed: int, days: float, level: Level) -> Scenario:
    """Hours instead of days: short tasks, short timeouts, tight bounds, all drawn."""
    hours = days * 24
    dice = seeded(f"{seed}/config")
    tasks = workload.dense(seeded(f"{seed}/workload"), hours)
    queue: dict[str, Any] = {
        "idle_timeout": f"{dice.randint(3, 8)}m",
        "stale_timeout": "8m",
        "lost_timeout": "5m",
        "stopped_retention": "20m",
        "quarantine_retention": "20m",
        "max_instances": dice.randint(1, 3),
        "min_instances": int(dice.random() < 0.1),
        "idle_action": dice.choice(["stop", "stop", "delete"]),
        "on_lost": dice.choice(["leave", "requeue"]),
    }
    if dice.random() < 0.3:
        queue["idle_timeout_after_success"] = "2m"
    fleet: dict[str, Any] = {"max_instances": dice.randint(3, 5)} if dice.random() < 0.5 else {}
    money = seeded(f"{seed}/money")
    if money.random() < BOUNDED_SHARE:
        queue["working_hours"] = _working_hours(money, hours)
    if money.random() < BOUNDED_SHARE:
        bounded = fleet if money.random() < 0.5 else queue
        bounded["budgets"] = [{"eur": round(money.uniform(3, 40), 2), "per": "day"}]
    config = _config({task.queue for task in tasks}, queue, **fleet)
    return Scenario(seed, hours, level, tasks, config, with_lease=dice.random() < 0.7)


def _working_hours(dice: Dice, hours: float) -> dict[str, Any]:
    """One window that begins and ends within the run, with bounds of its own."""
    begins = dice.uniform(0.02, 0.4) * hours
    ends = begins + dice.uniform(0.1, 0.5) * hours
    first, last = (VIRTUAL_START + timedelta(hours=each) for each in (begins, ends))
    window: dict[str, Any] = {
        "days": "mon-sun",
        "from": f"{first:%H:%M}",
        "to": f"{last:%H:%M}",
        "max_instances": dice.randint(1, 3),
        "min_instances": dice.randint(0, 1),
        "idle_timeout": f"{dice.randint(3, 8)}m",
    }
    return {"windows": [window]}


def _config(names: Collection[str], queue: dict[str, Any], **fleet: Any) -> Config:
    """A queue that is named for no machine gets the smallest ones."""
    queues = {}
    for name in sorted(names):
        placements = PLACEMENTS.get(name, PLACEMENTS[workload.SMALL])
        queues[name] = {
            "name": name,
            "placements": [{"type": kind, "zone": zone} for kind, zone in placements],
            "max_instances": MACHINES_AT_ONCE,
            **queue,
        }
    return Config.model_validate(
        {
            "fleet": "simulated",
            "keep": KEEP,
            "scaleway": {"project_id": PROJECT},
            "queues": queues,
            **fleet,
        }
    )
