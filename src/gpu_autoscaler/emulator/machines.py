"""What lives inside the emulated servers: a machine that boots into a ClearML worker and works.

Its agent makes the calls of the real clearml-agent in the real order (pop, then started, then
report), with the same gaps: between pop and start the task is in no queue and the worker looks
idle.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import IN_PROGRESS, User
from gpu_autoscaler.emulator.clearml_wire import RefusedError
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline

REPORT_SECONDS = 30.0
POLL_SECONDS = 5.0
PING_EVERY_REPORTS = 2
SHUTDOWN_SECONDS = 0.5
"""Measured: a SIGTERMed agent has stopped its task and unregistered by then."""


@dataclass(frozen=True, slots=True)
class Habit:
    """How one boot of one machine goes."""

    boot_seconds: float = 150.0
    """From `running` to the agent's registration: kernel, cloud-init, apt, pip."""
    registers: bool = True
    pop_to_start_seconds: float = 0.04
    """Measured on loopback; three round trips on a real network."""


class Agent:
    """One clearml-agent daemon on one machine, for one boot."""

    def __init__(self, machines: "EmulatedMachines", name: str, queue: str, habit: Habit) -> None:
        self._machines, self._name, self._queue, self._habit = machines, name, queue, habit
        self._model, self._user = machines.clearml, machines.user
        self._alive = True
        self._task: str | None = None
        self._popped: str | None = None
        self._reports = 0
        self._runs = 0
        """Counts begins and ends of tasks, so that the end of one that was stopped is void."""

    def boot(self) -> None:
        """Begin; the agent is up after the habit's time, if it ever is."""
        if self._habit.registers:
            self._later(self._habit.boot_seconds, self._register)

    def terminate(self) -> None:
        """SIGTERM at shutdown: the task is stopped at once, the worker unregistered."""
        self._machines.timeline.after(SHUTDOWN_SECONDS, self._say_goodbye)

    def kill(self) -> None:
        """The power is gone: nothing more comes from here; ClearML is not told."""
        self._alive = False

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        def run() -> None:
            if self._alive:
                step()

        self._machines.timeline.after(seconds, run)

    def _queue_id(self) -> str | None:
        queues = self._model.queues.all.values()
        return next((q.id for q in queues if q.name == self._queue), None)

    def _register(self) -> None:
        queue_id = self._queue_id() or self._model.create_queue(self._queue)  # --create-queue
        self._model.register(self._user, self._name, [queue_id])
        self._report()
        self._poll()

    def _report(self) -> None:
        self._model.report(self._user, self._name, self._task, self._queue_id(), ())
        if self._task is not None:
            self._reports += 1
            if self._reports % PING_EVERY_REPORTS == 0:
                self._model.tasks.ping(self._model.task(self._task))
        self._later(REPORT_SECONDS, self._report)

    def _poll(self) -> None:
        if self._task is None and self._popped is None and (queue_id := self._queue_id()):
            queue = self._model.queues.get(queue_id)
            if "force_workers:off" not in queue.tags:
                self._popped = self._model.next_task(self._user, queue_id)
                if self._popped is not None:
                    self._later(self._habit.pop_to_start_seconds, self._start)
        if self._task is not None and self._model.task(self._task).stop_requested:
            self._end("stopped")
        self._later(POLL_SECONDS, self._poll)

    def _start(self) -> None:
        task_id, self._popped = self._popped, None
        try:
            self._model.started(task_id or "", self._name, self._user)
        except RefusedError:
            return  # a phantom entry, or a task somebody deleted: dropped, as the real agent does
        self._task = task_id
        self._model.report(self._user, self._name, task_id, self._queue_id(), ())
        duration = self._model.task(task_id or "").emulated_duration
        seconds = self._machines.task_seconds if duration is None else duration
        self._runs += 1
        run = self._runs
        seconds /= self._machines.speed
        self._later(seconds, lambda: self._end("completed") if self._runs == run else None)

    def _end(self, status: str) -> None:
        task_id, self._task = self._task, None
        self._runs += 1
        if task_id is not None and self._model.task(task_id).status == IN_PROGRESS:
            self._model.finish(task_id, status, self._name, self._user)
        if status == "completed":
            self._machines.completed += 1
        self._model.report(self._user, self._name, None, None, ())

    def _say_goodbye(self) -> None:
        if not self._alive:
            return
        if self._task is not None:
            self._machines.interrupted += 1
            self._end("stopped")
        self._alive = False
        self._model.unregister(self._user, self._name)


class EmulatedMachines:
    """All machines; fits the `Machines` that the emulated Scaleway calls."""

    def __init__(
        self,
        timeline: Timeline,
        clearml: ClearmlModel,
        *,
        habit: Callable[[Server], Habit] = lambda _: Habit(),
        user: User | None = None,
        task_seconds: float = 3600.0,
        speed: float = 1.0,
    ) -> None:
        self.timeline, self.clearml = timeline, clearml
        self.user = user or clearml.user
        self.task_seconds = task_seconds
        """Of tasks that do not say how long they take."""
        self.speed = speed
        """How much faster than they say tasks run."""
        self.habit = habit
        self.completed = 0
        self.interrupted = 0
        """Tasks that a power-off stopped."""
        self.agents: dict[str, Agent] = {}
        """Of the powered machines, by server id."""

    def powered_on(self, server: Server) -> None:
        """Boot. The queue is read from the server's tags; without user data nothing starts."""
        queue = next((t.partition("=")[2] for t in server.tags if t.startswith("queue=")), None)
        if queue is None or "cloud-init" not in server.user_data:
            return
        agent = Agent(self, server.name, queue, self.habit(server))
        self.agents[server.id] = agent
        agent.boot()

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        """Shut down in order, or go dark."""
        agent = self.agents.pop(server.id, None)
        if agent is None:
            return
        if graceful:
            agent.terminate()
        else:
            agent.kill()
