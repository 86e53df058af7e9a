"""`simulate`: the shipped loop in virtual time, under every fault, from one seed."""

import shlex
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from gpu_autoscaler.simulation.faults import Level
from gpu_autoscaler.simulation.play import Result, play
from gpu_autoscaler.simulation.scenario import scenario


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a simulation, and how to see it again."""

    command: str
    faults: Level
    result: Result

    @property
    def violation(self) -> str | None:
        """The first rule that was broken, with its moment."""
        return str(self.result.violation) if self.result.violation else None

    def to_json(self) -> dict[str, Any]:
        """The same bytes for the same seed."""
        watch = self.result.world.watch
        return {
            "command": self.command,
            "violation": self.violation,
            "last_events": list(watch.events) if self.violation else [],
            "figures": self.result.figures.to_json(),
            "effects": dict(sorted(watch.effects.items())),
            "happened": {k: n for k, n in sorted(self.result.world.happened.items()) if n},
            "tasks_caught_by_a_power_off": watch.caught,
            "daemons": len(self.result.world.daemons),
            "left": self.result.left,
        }

    def show(self, console: Console) -> None:
        """For people."""
        found = self.to_json()
        console.print(self.result.figures.table())
        for name in ("effects", "happened"):
            if found[name]:
                console.print(_counts(name.capitalize(), found[name]))
        if self.violation is None:
            console.print("[green]No rule was broken.[/]")
            return
        console.print("\n".join(found["last_events"]), markup=False, highlight=False)
        console.print(f"[red]A rule was broken:[/] {self.violation}", highlight=False)
        console.print(f"See it again with: {self.command}", highlight=False)


def simulate(seed: int, days: float, workload: str, faults: Level) -> Outcome:
    """Raises WorkloadError."""
    words = ["gpu-autoscaler", "simulate", "--seed", str(seed), "--days", f"{days:g}"]
    words += ["--workload", workload, "--faults", faults.value]
    result = play(scenario(seed, days, workload, faults))
    return Outcome(shlex.join(words), faults, result)


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table(title, "Times")
    for name, number in counts.items():
        table.add_row(name.replace("_", " "), str(number))
    return table
