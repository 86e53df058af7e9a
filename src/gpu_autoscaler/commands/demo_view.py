"""What one sees of the demo: a live table on a terminal, lines elsewhere."""

from collections import deque
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.runtime.loop import Cycle, Loop

LAST_DECISIONS = 10

_STYLES = {
    S.RUNNING_TASK: "green",
    S.IDLE: "yellow",
    S.STOPPED: "dim",
    S.LOST: "red",
}


class View:
    """Shows the loop's last cycle whenever it is told to."""

    def __init__(self, console: Console, config: Config, clock: Clock, start: datetime) -> None:
        self._console, self._config, self._clock, self._start = console, config, clock, start
        self._shown: Cycle | None = None
        self._said: deque[str] = deque(maxlen=LAST_DECISIONS)
        self._live = Live(console=console, auto_refresh=False, screen=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, sentence: str) -> None:
        """One line of what happens."""
        line = f"{self._clock.now():%a %H:%M}  {sentence}"
        self._said.append(line)
        if not self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, loop: Loop, eur: float) -> None:
        """Take in what the loop did since the last time."""
        cycle = loop.last
        if cycle is None or cycle is self._shown:
            return
        self._shown = cycle
        for outcome in cycle.world.outcomes:
            if outcome.failure is not None:
                self.say(f"{outcome.effect.verb} failed: {outcome.message}")
        for effect in cycle.plan.effects:
            if effect.verb != "tag":
                self.say(f"{effect.verb.replace('_', ' ')}: {effect.because}")
        if self._console.is_terminal:
            self._live.update(self._frame(cycle, eur), refresh=True)

    def _frame(self, cycle: Cycle, eur: float) -> Group:
        hours = (self._clock.now() - self._start).total_seconds() / 3600
        head = Text(
            f"{self._clock.now():%A %H:%M}   hour {hours:4.1f}   {eur:8.2f} EUR spent", "bold"
        )
        queues = _table("Queue", "Waiting", "Busy", "Idle or booting")
        for queue in sorted(cycle.plan.queues, key=lambda q: q.queue):
            queues.add_row(
                queue.queue, str(queue.demand), str(queue.busy), str(queue.capacity), queue.because
            )
        machines = _table("Instance", "State")
        for instance in cycle.plan.instances:
            state = Text(
                instance.state.value.replace("_", " "), _STYLES.get(instance.state, "cyan")
            )
            machines.add_row(instance.name, state, instance.because)
        return Group(head, queues, machines, Text("\n".join(self._said), "dim"))

    @staticmethod
    def close(console: Console, summary: dict[str, Any]) -> None:
        """The closing account."""
        table = Table(title="Two days of a small team", show_header=False)
        rows = {
            "Tasks completed": f"{summary['tasks_completed']} of {summary['tasks']}",
            "Tasks interrupted": summary["tasks_interrupted"],
            "Instances created": summary["instances_created"],
            "Instances, volumes left": f"{summary['instances_left']}, {summary['volumes_left']}",
            "Mean wait, 95th percentile": (
                f"{summary['mean_wait_s'] / 60:.1f} min, {summary['p95_wait_s'] / 60:.1f} min"
            ),
            "Spent": f"{summary['cost_eur']:.2f} EUR in {summary['simulated_hours']:.1f} hours",
            "Always on would have cost": f"{summary['always_on_cost_eur']:.2f} EUR",
            "Saved": f"{summary['saving_percent']:.1f} %",
            "Took": f"{summary['wall_s']:.1f} s",
        }
        for label, value in rows.items():
            table.add_row(label, str(value))
        console.print(table)


def _table(*columns: str) -> Table:
    table = Table(*columns, expand=True)
    table.add_column("Why", ratio=1, no_wrap=True)
    return table
