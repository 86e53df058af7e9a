"""A world that obeys plans, fails at times, and is hit by whatever a property test thinks of.

It keeps the truth (what really runs where) beside what the policy is shown of it.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import Plan, World
from gpu_autoscaler.domain.effects import (
    CreateInstance,
    DeleteInstance,
    Effect,
    Failure,
    Guard,
    OnInstance,
    RemoveBootstrap,
    RescueTask,
    SetTags,
    StartInstance,
    StopInstance,
)
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import (
    QUARANTINED_TAG,
    Availability,
    Instance,
    ServerState,
    TaskStatus,
)
from gpu_autoscaler.policy import guard
from gpu_autoscaler.policy.rescue import stuck_tasks
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    SPEC,
    TYPE,
    ZONE,
    Story,
    config,
    instance,
    seconds,
    task,
)

STEP = seconds(30)
ENTRY_LIVES = timedelta(minutes=10)
"""A worker entry outlives its machine by so long."""
BOTH = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]
SHORT: dict[str, Any] = {
    "placements": BOTH,
    "idle_timeout": "4m",
    "stale_timeout": "5m",
    "lost_timeout": "5m",
    "stopped_retention": "10m",
}


def other_queue_only() -> Config:
    """The queue has left the configuration."""
    name = "another-queue"
    return config(queues={name: {"name": name, "placements": BOTH}})


CONFIGS = (
    config({**SHORT, "max_instances": 3}),
    config({**SHORT, "max_instances": 1}),
    config({**SHORT, "max_instances": 4, "min_instances": 1}),
    config({**SHORT, "max_instances": 3, "idle_action": "delete"}),
    config({**SHORT, "max_instances": 4}, max_instances=2),
    config({**SHORT, "max_instances": 0}),
    config({**SHORT, "max_instances": 3, "on_lost": "requeue", "quarantine_retention": "20m"}),
    other_queue_only(),
)
FAILURES = tuple(f for f in Failure if f is not Failure.GUARD)


@dataclass(slots=True)
class Machine:
    """What is really inside one server."""

    registers: bool = True
    boots_in: int = 3
    """Cycles from `running` to the agent's registration."""
    up: bool = False
    silent: bool = False
    hole: bool = False
    """It fails whatever it pulls, at once."""
    popped: str | None = None
    task: str | None = None
    changes_in: int = 1
    """Cycles until the server's state moves on by itself."""


@dataclass(slots=True)
class Flying:
    """An effect under way."""

    effect: Effect
    cycles: int
    failure: Failure | None


class Shown(Story):
    """A story that keeps what it showed; tasks of a gone queue are seen by its remembered id."""

    shown: World

    def world(self) -> World:
        self.shown = super().world()
        if not self.queue_exists and QUEUE not in self.memory.queue_ids.values():
            clearml = replace(self.shown.clearml, open_tasks=(), ended_tasks=())
            self.shown = replace(self.shown, clearml=clearml)
        return self.shown


@dataclass
class Drill:
    """Cycles of a story whose effects take place."""

    story: Shown = field(default_factory=lambda: Shown(config=CONFIGS[0], removes_bootstraps=False))
    machines: dict[str, Machine] = field(default_factory=dict)
    """By instance name; of every server that exists."""
    flying: list[Flying] = field(default_factory=list)
    fate: int = 0
    """Decides how long the next effects take and whether they fail."""
    dud: bool = False
    """The next created machine never registers."""
    late: bool = False
    """An agent pulls a task between our last look and the next power-off."""
    caught: set[str] = field(default_factory=set)
    """Tasks that a power-off caught so, that memory can know of, and that are not rescued yet."""
    count: int = 0
    aborted: set[str] = field(default_factory=set)
    """Tasks that a person stopped."""

    # --- what people and accidents do; each takes any number and makes of it what it can

    def enqueue(self, number: int) -> None:
        for _ in range(number % 3 + 1):
            self.count += 1
            self.story.enqueue(f"t{self.count}")

    def finish(self, number: int) -> None:
        busy = [m for m in self.machines.values() if m.task]
        if busy:
            self._end(busy[number % len(busy)], ("completed", "failed", "stopped")[number % 3])

    def silence(self, number: int) -> None:
        for machine in self._some(number):
            machine.silent = not machine.silent

    def watchdog(self, number: int) -> None:
        """ClearML gives up on tasks of machines that do not report."""
        for machine in self.machines.values():
            if machine.silent and machine.task:
                done = self.story.tasks.pop(machine.task)
                ended = replace(
                    done,
                    status=TaskStatus.STOPPED,
                    status_changed_at=self.story.now,
                    stop_requested=False,  # its note takes the place of the abort's
                )
                self.story.ended = [*(self.story.ended or []), ended]
                machine.task = None

    def spoil(self, number: int) -> None:
        """Machines become black holes, or are mended."""
        for machine in self._some(number):
            machine.hole = not machine.hole

    def stock(self, number: int) -> None:
        """The probe says something else of both zones, true or not; or nothing."""
        told = (None, *Availability)[number % 4]
        self.story.availability = None if told is None else {TYPE: told}

    def abort(self, number: int) -> None:
        """A person aborts a task; a silent agent is asked and does not obey."""
        for machine in self._some(number):
            running = self.story.tasks.get(machine.task or "")
            if running is not None:
                self.aborted.add(running.id)
                self.story.tasks[running.id] = replace(running, stop_requested=True)
                if not machine.silent:
                    self._end(machine, "stopped")

    def release(self, number: int) -> None:
        """A person takes the tag off, or puts it on."""
        for machine in self._servers(number):
            self._change(machine.name, tags=machine.tags ^ {QUARANTINED_TAG})

    def clearml(self, number: int) -> None:
        self.story.clearml_down = not self.story.clearml_down

    def zone(self, number: int) -> None:
        self.story.dark_zones ^= {(ZONE, OTHER_ZONE)[number % 2]}

    def queue(self, number: int) -> None:
        self.story.queue_exists = not self.story.queue_exists

    def forget(self, number: int) -> None:
        """The process dies: what it had begun is done, or not, before the next one looks.

        All answers then: what nobody remembers and nobody shows cannot be counted.
        """
        self.story.dark_zones, self.story.queue_exists = set(), True
        self.story.clearml_down = False
        for each in self.flying:
            self._apply(each)
        self.flying, self.story.outcomes, self.caught = [], [], set()
        self.story.memory, self.story.lost_memory = Memory(), True

    def edit(self, number: int) -> None:
        self.story.config = CONFIGS[number % len(CONFIGS)]

    def bootstrap(self, number: int) -> None:
        self.story.specs = {QUEUE: (SPEC, "def456def456")[number % 2]}

    def protect(self, number: int) -> None:
        for machine in self._servers(number):
            self._change(machine.name, protected=not machine.protected)

    def keep(self, number: int) -> None:
        until = (self.story.now + timedelta(minutes=10)).isoformat()
        for machine in self._servers(number):
            tag = ("keep", f"keep={until}", "keep=soon")[number % 3]
            self._change(machine.name, tags=machine.tags | {tag})

    def lock(self, number: int) -> None:
        for machine in self._servers(number):
            if machine.zone in self.story.dark_zones:
                continue  # nobody can count what begins to cost where nobody can look
            locked = machine.state is ServerState.LOCKED
            state = ServerState.STOPPED if locked else ServerState.LOCKED
            self._off(machine.name)
            self._change(machine.name, state=state)

    def crash(self, number: int) -> None:
        for machine in self._servers(number):
            self._off(machine.name)
            self._change(machine.name, state=ServerState.STOPPED)

    def stand_by(self, number: int) -> None:
        for machine in self._servers(number):
            if machine.state is ServerState.RUNNING:
                self._off(machine.name)
                self._change(machine.name, state=ServerState.STOPPED_IN_PLACE)

    def remove(self, number: int) -> None:
        for machine in self._servers(number):
            self._gone(machine.name)

    def fail(self, number: int) -> None:
        self.fate = number

    def break_next(self, number: int) -> None:
        self.dud = not self.dud

    def pull_late(self, number: int) -> None:
        self.late = True

    def jump(self, number: int) -> None:
        """The daemon is down for a while, or its clock is set back a little."""
        for each in self.flying:
            each.cycles = 0
        self.story.now += timedelta(seconds=(-20, 300, 2400, 10800)[number % 4])

    # --- the course of things

    def cycle(self) -> Plan:
        """Half a minute passes: machines move, effects end, a plan is made and begun."""
        for name in list(self.machines):
            self._move(name)
        for each in list(self.flying):
            each.cycles -= 1
            if each.cycles < 0:
                self.flying.remove(each)
                self.story.done(each.effect, failure=self._apply(each))
        self._expire()
        made = self.story.cycle(STEP, reports=False)
        for effect in made.effects:
            bits, self.fate = self.fate, self.fate // 3
            failure = FAILURES[bits % len(FAILURES)] if bits % 3 == 1 else None
            self.flying.append(Flying(effect, bits % 3, failure))
        return made

    def calm(self) -> None:
        """Nothing fails any more, and nobody interferes."""
        self.fate, self.dud = 0, False
        self.story.clearml_down, self.story.queue_exists = False, True
        self.story.dark_zones = set()
        for machine in self.machines.values():
            machine.silent = machine.hole = False

    def paid(self) -> int:
        """Servers that cost money now, or will as soon as what is under way has happened."""
        on = {i.name for i in self.story.instances.values() if i.state is not ServerState.STOPPED}
        on |= {
            each.effect.subject
            for each in self.flying
            if isinstance(each.effect, StartInstance | CreateInstance)
        }
        return len(on)

    # --- inside

    def _move(self, name: str) -> None:
        machine, server = self.machines[name], self.story.instances[name]
        if server.state in (ServerState.STARTING, ServerState.STOPPING):
            machine.changes_in -= 1
            if machine.changes_in < 0:
                starts = server.state is ServerState.STARTING
                after = ServerState.RUNNING if starts else ServerState.STOPPED
                self._change(name, state=after)
                machine.changes_in = 1
        elif server.state is ServerState.RUNNING and not machine.up:
            machine.boots_in -= 1
            if machine.boots_in < 0 and machine.registers:
                machine.up, machine.silent = True, False
                self.story.workers.pop(name, None)
                self.story.report(name)
        elif machine.up and not machine.silent:
            self._work(name, machine)

    def _work(self, name: str, machine: Machine) -> None:
        if machine.hole:
            self._burn(name, machine)
        elif machine.popped is not None:
            self.story.run(name, machine.popped)
            machine.popped, machine.task = None, machine.popped
        elif machine.task is None and self.story.entries and self.story.queue_exists:
            popped = self.story.entries.pop(0)
            if self.count % 2:  # half of the stories look between pop and start
                machine.popped = popped
            else:
                machine.task = popped
                self.story.run(name, popped)
        self.story.report(name, machine.task)

    def _burn(self, name: str, machine: Machine) -> None:
        """Some tasks in half a minute, five seconds each."""
        self._end(machine, "failed")
        for left in range(4, 0, -1):
            if self.story.entries and self.story.queue_exists and machine.popped is None:
                burnt = self.story.entries[0]
                self.story.run(name, burnt)
                self.story.end(burnt, "failed")
                times = [self.story.now - seconds(5 * left + late) for late in (4, 0)]
                done = (self.story.ended or []).pop()
                done = replace(done, started_at=times[0], status_changed_at=times[1])
                self.story.ended = [*(self.story.ended or []), done]

    def _end(self, machine: Machine, status: str) -> None:
        if machine.task in self.story.tasks:
            self.story.end(machine.task or "", status)
        machine.task = None

    def _expire(self) -> None:
        for name, worker in list(self.story.workers.items()):
            if self.story.now - worker.last_report_at > ENTRY_LIVES:
                del self.story.workers[name]

    def _some(self, number: int) -> list[Machine]:
        """All machines, or one, or none."""
        all_ = list(self.machines.values())
        return all_ if number % 4 == 3 or not all_ else [all_[number % len(all_)]]

    def _servers(self, number: int) -> list[Instance]:
        all_ = list(self.story.instances.values())
        return [all_[number % len(all_)]] if all_ else []

    def _change(self, name: str, **changes: Any) -> None:
        known = self.story.instances[name]
        self.story.instances[name] = replace(known, modified_at=self.story.now, **changes)

    def _off(self, name: str) -> None:
        """The power goes: a task of it stays in progress until somebody notices."""
        registers = self.machines[name].registers
        self.machines[name] = Machine(registers=registers)

    def _gone(self, name: str) -> None:
        self.story.gone.add(self.story.instances.pop(name).id)
        del self.machines[name]

    def _apply(self, each: Flying) -> Failure | None:
        """Let an effect happen, or not; how it ended."""
        effect, failure = each.effect, each.failure
        match effect:
            case CreateInstance(order=order) if failure is None:
                self.story.has(
                    instance(
                        order.name,
                        "starting",
                        zone=order.placement.zone,
                        created_at=self.story.now,
                        modified_at=self.story.now,
                    )
                )
                self._change(order.name, tags=frozenset(order.tags))
                self.machines[order.name] = Machine(registers=not self.dud)
                if self.dud and self.fate % 2:
                    self.story.boot_reports[order.name] = "failed: no GPU"
            case RescueTask() if failure is None and effect.task.id in self._tasks():
                self.story.ended = [t for t in self.story.ended or [] if t.id != effect.task.id]
                self.story.tasks[effect.task.id] = task(
                    effect.task.id, started_at=effect.task.started_at
                )
                self.story.entries.insert(0, effect.task.id)
                self.caught.discard(effect.task.id)
            case OnInstance():
                return self._on_server(effect, failure)
        return failure

    def _tasks(self) -> set[str]:
        return {*self.story.tasks, *(t.id for t in self.story.ended or [])}

    def _on_server(self, effect: Any, failure: Failure | None) -> Failure | None:
        server = self.story.instances.get(effect.instance.name)
        if server is None:
            return Failure.NOT_FOUND
        if failure is not None or server.protected:
            return failure or Failure.REJECTED
        stopped = server.state is ServerState.STOPPED
        match effect:
            case StartInstance() if stopped:
                self._change(server.name, state=ServerState.STARTING)
                self.machines[server.name] = Machine(self.machines[server.name].registers)
            case StopInstance() if server.state in (
                ServerState.RUNNING,
                ServerState.STOPPED_IN_PLACE,
            ):
                return self._stop(effect)
            case DeleteInstance() if stopped:
                self._gone(server.name)
            case SetTags():
                self._change(server.name, tags=(server.tags | effect.add) - effect.remove)
            case RemoveBootstrap():
                return None
            case _:
                return Failure.REJECTED
        return None

    def _stop(self, effect: StopInstance) -> Failure | None:
        view = self.story.world().clearml
        stuck = stuck_tasks(self.story.memory.popped, self.story.now)
        if guard.refusal(
            effect.guard, effect.instance, effect.booted_at, view, stuck, self.story.now
        ):
            return Failure.GUARD
        machine, name = self.machines[effect.instance.name], effect.instance.name
        running = self.story.tasks.get(machine.task or "")
        if effect.guard is Guard.QUARANTINE and running is not None:
            began = running.started_at
            assert began is not None
            assert self.story.now - began <= seconds(60), "it had held out"
            if not running.stop_requested and running.id not in self.story.memory.rescued:
                self.caught.add(running.id)
        else:
            assert effect.guard is Guard.NONE or machine.task is None, "a task was stopped"
        if self.late and machine.up and self.story.entries:
            self.late = False
            caught = self.story.entries.pop(0)
            if caught not in self.story.memory.rescued:
                self.caught.add(caught)
            self.story.run(name, caught)
            self.story.end(caught, "stopped")
        self._off(name)
        self.story.workers.pop(name, None)
        self._change(name, state=ServerState.STOPPING)
        return None
