"""What shall become of each task, and what really happened to it.

A task that nothing happened to ends as the workload says. One that a person aborted is over. One
whose machine died goes as its queue's `on_lost` says. Whatever we do to it, we never run it twice.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from gpu_autoscaler.emulator.clearml_records import TaskRecord

if TYPE_CHECKING:
    from gpu_autoscaler.simulation.world import World

UNDER_WAY = timedelta(minutes=12)
"""What people do while an effect is under way comes too late for it: the longest deadline, the
longest pause of the daemon, and the age of what it was decided on."""


FORGOTTEN_LATE = timedelta(minutes=3)
"""So long after a power-off its memory may be lost and it is still believed to be ours: a quarter
of an hour, less the restart and what a clock is wrong by."""


@dataclass(slots=True)
class Fate:
    """One task's."""

    outcome: str
    """As the workload has it."""
    queue: str
    aborted_at: datetime | None = None
    deaths: list[datetime] = field(default_factory=list)
    """When its machine, or its agent, died under it by no doing of ours."""
    caught_at: datetime | None = None
    """A power-off of ours hit it then,"""
    caught_on: str = ""
    """on this machine."""
    eaten: bool = False
    """It failed on a machine that fails everything."""


class Fates:
    """Those of all submitted tasks."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.all: dict[str, Fate] = {}

    def submitted(self, task_id: str, outcome: str, queue: str) -> None:
        """Somebody created it."""
        self.all[task_id] = Fate(outcome, queue)

    def aborted(self, task_id: str) -> None:
        """A person pressed abort."""
        if (fate := self.all.get(task_id)) is not None:
            fate.aborted_at = self._world.clock.now()

    def caught(self, task_id: str, machine: str) -> None:
        """A daemon powered its machine off, which it pulled it from right before."""
        if (fate := self.all.get(task_id)) is not None:
            fate.caught_at, fate.caught_on = self._world.clock.now(), machine

    def died(self, task_id: str) -> None:
        """It lost its machine or its agent."""
        now = self._world.clock.now()
        if (fate := self.all.get(task_id)) is not None and now not in fate.deaths:
            fate.deaths.append(now)

    def ended(self, task: TaskRecord, status: str) -> None:
        """Its agent, or ClearML, says that it is over."""
        fate = self.all.get(task.id)
        if fate is not None and status == "failed":
            fate.eaten |= task.last_worker in self._world.watch.black_holes

    def put_back(self, task: TaskRecord) -> str | None:
        """A daemon enqueues it: what is wrong with that, if anything."""
        fate = self.all.get(task.id)
        running = {run[0] for run in self._world.machines.running()}
        if task.id in running:
            return f"task {task.id} is put back while it runs"
        if task.status == "completed":
            return f"task {task.id} is put back though it completed"
        aborted_at, forgot_at = fate and fate.aborted_at, self._world.forgot_at
        # an abort that was not obeyed before the power went stands in the memory alone
        forgotten = aborted_at and forgot_at and forgot_at > aborted_at
        if aborted_at and (started := task.fields.get("started")) and started > aborted_at:
            return None  # an agent had just pulled it, and ran it all the same
        if aborted_at and not forgotten and self._world.clock.now() - aborted_at > UNDER_WAY:
            return f"task {task.id} is put back though a person aborted it"
        return None

    def problems(self) -> list[str]:
        """At the end: the tasks that did not end as they should."""
        return [
            f"task {task_id} ended as {status}, not {fate.outcome}"
            for task_id, fate in self.all.items()
            if not self._right(fate, status := self._world.clearml.task(task_id).status)
        ]

    def _right(self, fate: Fate, status: str) -> bool:
        if status == fate.outcome or fate.aborted_at is not None or fate.eaten:
            return True
        _, config = self._world.configs[0]
        queue = config.queues[fate.queue]
        requeued = queue.on_lost == "requeue" and len(fate.deaths) <= queue.max_requeues
        # who forgot what was on a machine, or was told that its queue is no more, leaves it
        happened = self._world.happened
        knows = not happened["memory_lost"] and not happened["queue_removed"]
        # nobody can know of a power-off that is forgotten, and long ago or undone since
        caught_at, forgot_at = fate.caught_at, self._world.forgot_at
        if caught_at and forgot_at and forgot_at > caught_at:
            late = forgot_at - caught_at > FORGOTTEN_LATE
            return late or fate.caught_on in self._world.watch.undone or bool(fate.deaths)
        return bool(fate.deaths) and not (requeued and knows)
