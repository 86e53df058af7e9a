"""What lives inside the emulated servers: a machine that boots into a ClearML worker and works.

Its agent makes the calls of the real clearml-agent in the real order (pop, then started, then
report), with the same gaps: between pop and start the task is in no queue and the worker looks
idle. A `Habit` says what goes wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gpu_autoscaler.domain.model import BOOT_FAILED, BOOT_REPORT_KEY
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import IN_PROGRESS, QueueRecord, User
from gpu_autoscaler.emulator.clearml_wire import RefusedError
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline

REPORT_SECONDS = 30.0
POLL_SECONDS = 5.0
PING_EVERY_REPORTS = 2
SHUTDOWN_SECONDS = 0.5
"""Measured: a SIGTERMed agent has stopped its task and unregistered by then."""
PAUSED_TAG = "force_workers:off"
"""Agents take nothing from a queue with this tag."""


@dataclass(frozen=True, slots=True)
class Habit:
    """How one boot of one machine goes."""

    boot_seconds: float = 150.0
    """From `running` to the agent's registration: kernel, cloud-init, apt, pip."""
    registers: bool = True
    boot_fails: str | None = None
    """What it says instead of registering: its preflight, or its bootstrap, found a fault."""
    pop_to_start_seconds: float = 0.04
    """Measured on loopback; three round trips on a real network."""
    fails_tasks_after: float | None = None
    """A black hole: every task fails after so many seconds."""
    agent_dies_after: float | None = None
    """Seconds from its registration: no word more comes from the agent, its server runs on."""
    dies_after: float | None = None
    """Seconds from the agent's registration: the hypervisor dies, and the server is stopped."""
    dies_after_pop: bool = False
    """The agent dies with the first task that it takes, before it says so: nobody starts it."""

    @property
    def comes(self) -> bool:
        """Whether its agent will register."""
        return self.registers and self.boot_fails is None


class Agent:
    """One clearml-agent daemon on one machine, for one boot."""

    def __init__(self, machines: "EmulatedMachines", server: Server, queue: str) -> None:
        self._machines, self._name, self._queue_name = machines, server.name, queue
        self._server = server
        self._habit = machines.habit(server)
        self._model, self._user = machines.clearml, machines.user
        self._alive = True
        self._queue: QueueRecord | None = None
        self._registered_for: tuple[str, ...] = ()
        """Queue ids; what it says in every report, also of a queue that is gone."""
        self._task: str | None = None
        self._started_at: datetime | None = None
        self._popped: str | None = None
        self._reports = 0
        self._runs = 0
        """Counts begins and ends of tasks, so that the end of one that was stopped is void."""

    @property
    def running(self) -> tuple[str, datetime] | None:
        """The task it works on, and since when."""
        if self._task is None or self._started_at is None or not self._alive:
            return None
        return self._task, self._started_at

    @property
    def alive(self) -> bool:
        """Whether anything more will come from it."""
        return self._alive

    @property
    def popped(self) -> str | None:
        """The task that it took and will start."""
        return self._popped if self._alive else None

    def boot(self) -> None:
        """Begin; the agent is up after the habit's time, if it ever is."""
        again = self._machines.installed(self._server)
        self._say("preflight" if again else "installing: install_agent")
        if self._habit.boot_fails is not None:
            text = f"{BOOT_FAILED}{self._habit.boot_fails}"
            self._later(self._habit.boot_seconds, lambda: self._say(text))
        elif self._habit.registers:
            self._later(self._habit.boot_seconds, self._register)

    def terminate(self) -> None:
        """SIGTERM at shutdown: the task is stopped at once, the worker unregistered."""
        self._machines.timeline.after(SHUTDOWN_SECONDS, self._say_goodbye)

    def kill(self) -> None:
        """Nothing more comes from here, and ClearML is not told: the power is gone, or it died."""
        if self.running is not None:
            self._machines.abandoned(self.running[0])
        self._alive = False

    def _say(self, text: str) -> None:
        """Through its own user data, as the bootstrap does."""
        self._server.user_data[BOOT_REPORT_KEY] = text.encode()

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        def run() -> None:
            if self._alive:
                step()

        self._machines.timeline.after(seconds, run)

    def _its_queue(self) -> QueueRecord | None:
        """The queue that has its name now."""
        known, queues = self._queue, self._model.queues
        if known is None or known.name != self._queue_name or queues.all.get(known.id) is not known:
            self._queue = known = queues.named(self._queue_name)
        return known

    def _register(self) -> None:
        queue = self._its_queue()
        queue_id = queue.id if queue else self._model.create_queue(self._queue_name)
        self._registered_for = (queue_id,)  # the last resort is the agent's flag --create-queue
        self._model.register(self._user, self._name, [queue_id])
        self._say("ready")
        self._machines.bootstrapped.add(self._server.id)
        habit, timeline = self._habit, self._machines.timeline
        if habit.agent_dies_after is not None:
            timeline.after(habit.agent_dies_after, self.kill)
        if habit.dies_after is not None:
            timeline.after(habit.dies_after, self._take_server_down)
        self._report()
        self._poll()

    def _take_server_down(self) -> None:
        if self._machines.agents.get(self._server.id) is self:
            self._machines.crash(self._server.id)

    def _report(self) -> None:
        self._tell_status()
        if self._task is not None:
            self._reports += 1
            if self._reports % PING_EVERY_REPORTS == 0:
                self._model.tasks.ping(self._model.task(self._task))
        self._later(REPORT_SECONDS, self._report)

    def _tell_status(self) -> None:
        """Every report names the queues, so that an entry which was lost comes back whole."""
        queue = self._its_queue() if self._task else None
        queue_id = queue.id if queue else None
        self._model.report(self._user, self._name, self._task, queue_id, self._registered_for)

    def pull_now(self) -> None:
        """Ask for a task at once, as the next poll would."""
        if self._alive and self._registered_for and self._task is None and self._popped is None:
            self._pull()

    def _poll(self) -> None:
        if not self._alive:
            return
        if self._task is not None:
            if self._model.task(self._task).stop_requested:
                self._end("stopped")
        elif self._popped is None:
            self._pull()
        self._machines.timeline.after(POLL_SECONDS, self._poll)

    def _pull(self) -> None:
        queue = self._its_queue()
        if queue is None or not queue.entries or PAUSED_TAG in queue.tags:
            return
        self._popped = self._model.next_task(self._user, queue.id)
        if self._habit.dies_after_pop:
            self.kill()
        else:
            self._later(self._habit.pop_to_start_seconds, self._start)

    def _start(self) -> None:
        task_id, self._popped = self._popped or "", None
        try:
            self._model.started(task_id, self._name, self._user)
        except RefusedError:
            return  # a phantom entry, or a task somebody deleted: dropped, as the real agent does
        self._task, self._started_at = task_id, self._machines.timeline.now()
        self._tell_status()
        seconds, outcome = self._fate(task_id)
        self._runs += 1
        run = self._runs
        self._later(seconds, lambda: self._end(outcome) if self._runs == run else None)

    def _fate(self, task_id: str) -> tuple[float, str]:
        """In how many seconds the task will end, and how, if nothing comes between."""
        if self._habit.fails_tasks_after is not None:
            return self._habit.fails_tasks_after, "failed"
        task = self._model.task(task_id)
        seconds = task.emulated_duration
        if seconds is None:
            seconds = self._machines.task_seconds
        return seconds / self._machines.speed, task.emulated_outcome

    def _end(self, status: str) -> None:
        task_id, self._task = self._task, None
        self._runs += 1
        if task_id is not None and self._model.task(task_id).status == IN_PROGRESS:
            self._model.finish(task_id, status, self._name, self._user)
        if status == "completed":
            self._machines.completed += 1
        self._tell_status()

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
        self.abandoned: Callable[[str], None] = lambda task_id: None
        """Called with each task whose agent dies under it, without a word."""
        self.agents: dict[str, Agent] = {}
        """Of the powered machines, by server id."""
        self.bootstrapped: set[str] = set()
        """Servers whose disk holds an agent: they need no user data any more."""
        self.crash: Callable[[str], None] = _no_hypervisor
        """What a machine that dies does to its server: `ScalewayModel.crash`, set once there is
        one. Needed only for machines whose habit says so."""

    def powered_on(self, server: Server) -> None:
        """Boot. The queue is read from the server's tags; without user data nothing starts."""
        queue = next((t.partition("=")[2] for t in server.tags if t.startswith("queue=")), None)
        if queue is None or not ("cloud-init" in server.user_data or self.installed(server)):
            return
        agent = Agent(self, server, queue)
        self.agents[server.id] = agent
        agent.boot()

    def installed(self, server: Server) -> bool:
        """Whether its agent has come up in an earlier boot."""
        return server.id in self.bootstrapped

    def powered_off(self, server: Server, *, graceful: bool) -> None:
        """Shut down in order, or go dark."""
        agent = self.agents.pop(server.id, None)
        if agent is None:
            return
        if graceful:
            agent.terminate()
        else:
            agent.kill()

    def running_task(self, server_id: str) -> tuple[str, datetime] | None:
        """The task that a machine really works on now, and since when."""
        agent = self.agents.get(server_id)
        return agent.running if agent else None

    def running(self) -> list[tuple[str, datetime]]:
        """Every task that a machine really works on now, and since when."""
        return [agent.running for agent in self.agents.values() if agent.running is not None]

    def popped_task(self, server_id: str) -> str | None:
        """The task that a machine has taken and is about to start."""
        agent = self.agents.get(server_id)
        return agent.popped if agent else None


def _no_hypervisor(server_id: str) -> None:
    raise LookupError(f"server {server_id} is to die, and nobody said how: set `crash`")
