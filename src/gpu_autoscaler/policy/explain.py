"""Why is my task still waiting, why is that machine still on: the last decision in words.

Pure, and nothing but a view: whatever it says stands in the world and the plan of one cycle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.decisions import InstanceDecision, Plan, QueueDecision, World
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.lifecycle import BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import Entry, Queue, Task, TaskStatus
from gpu_autoscaler.policy.outlook import by_name, next_step, typical_boot
from gpu_autoscaler.policy.stock import Backoffs, holds_back
from gpu_autoscaler.policy.stop import idle_timeout


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say of one name."""

    kind: str
    """`task`, `instance`, `queue`, or `unknown`."""
    name: str
    sentences: tuple[str, ...]
    starts_at: datetime | None = None
    """When a waiting task starts, as far as can be told."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """One cycle, to be asked about."""

    world: World
    plan: Plan
    config: Config
    now: datetime

    def explain(self, name: str) -> Explanation:
        """Of an instance or a queue by its name, or of a task by its id or name."""
        for one in self.plan.instances:
            if one.name == name:
                return self._instance(one)
        for queue in self.plan.queues:
            if queue.queue == name:
                return self._queue(queue)
        tasks = (*self.world.clearml.open_tasks, *(self.world.clearml.ended_tasks or ()))
        found = [task for task in tasks if name in (task.id, task.name)]
        if found:
            return self._task(found[0], name, len(found))
        return self._unknown(name)

    # --- a task

    def _task(self, task: Task, asked: str, found: int) -> Explanation:
        about = f"{task.name} ({task.id})"
        sentences = []
        if found > 1:
            sentences.append(f"{found} tasks are named {asked}; this is the first: {task.id}.")
        starts_at = None
        if task.status is TaskStatus.QUEUED:
            more, starts_at = self._waiting(task, about)
            sentences += more
        elif task.status is TaskStatus.IN_PROGRESS:
            sentences += self._running(task, about)
        else:
            ended = _ago(task.status_changed_at, self.now)
            sentences.append(f"{about} is {task.status.value}, since {ended}.")
        return Explanation("task", task.id, tuple(sentences), starts_at)

    def _running(self, task: Task, about: str) -> list[str]:
        since = _ago(task.status_changed_at, self.now)
        sentences = [f"{about} runs on {task.machine or 'an unknown worker'} since {since}."]
        sentences += [
            f"{one.name} is {_state(one)}: {one.because}."
            for one in self.plan.instances
            if one.name == task.machine and one.state is not S.RUNNING_TASK
        ]
        return sentences

    def _waiting(self, task: Task, about: str) -> tuple[list[str], datetime | None]:
        queue = next((q for q in self.world.clearml.queues.values() if q.id == task.queue_id), None)
        decision = next((q for q in self.plan.queues if queue and q.queue == queue.name), None)
        if queue is None or decision is None:
            theirs = queue.name if queue else f"the queue {task.queue_id}"
            return [f"{about} waits in {theirs}, which is no queue of this fleet."], None
        line = self._line(queue)
        place = next((i for i, entry in enumerate(line) if entry.task_id == task.id), None)
        if place is None:
            return [f"{about} was pulled by an agent, which is about to start it."], None
        waited = _ago(line[place].added_at, self.now)
        sentences = [
            f"{about} is number {place + 1} of {len(line)} in {queue.name}, since {waited}."
        ]
        more, starts_at = self._what_it_waits_for(place, decision)
        return sentences + more, starts_at

    def _what_it_waits_for(
        self, place: int, queue: QueueDecision
    ) -> tuple[list[str], datetime | None]:
        if queue.reason is Reason.BUDGET:
            return [f"{queue.because[0].upper()}{queue.because[1:]}. What runs finishes."], None
        if queue.reason is Reason.PAUSED:
            return [f"{queue.queue} is {queue.because}: it starts after somebody resumes it."], None
        idle = [one for one in self._of(queue) if one.state is S.IDLE and one.effect is None]
        if place < len(idle):
            poll = self.config.queues[queue.queue].agent.polling_interval
            name = idle[place].name
            text = f"{name} is idle and asks for a task every {format_duration(poll)}."
            return [text], self.now + poll
        coming = sorted(self._coming(queue.queue))
        if place - len(idle) < len(coming):
            ready, sentence = coming[place - len(idle)]
            held_back = self._held_back(queue.queue)
            return [sentence, *held_back, _about(ready, self.now)], ready
        return [f"No machine is on its way for it: {queue.because}."], None

    def _coming(self, queue: str) -> list[tuple[datetime, str]]:
        """Machines that boot for this queue: when each will be ready, and a sentence on it."""
        found = []
        known, there = by_name(self.plan), {one.name: one for one in self.plan.instances}
        for one in self.plan.instances:
            if one.queue == queue and one.state in BOOTING and one.reason is not Reason.HALF_MADE:
                memory = known[one.name]
                place = str(memory.last_seen.placement)
                ready, sentence = self._boot(one.name, place, memory.booted_at, "boots")
                says = f" It says: {memory.boot_report}." if memory.boot_report else ""
                found.append((ready, sentence + says))
        for pending in self.plan.memory.pending.values():
            if pending.queue != queue or pending.failed or pending.placement is None:
                continue
            name, place = pending.name, str(pending.placement)
            made = pending.key.startswith("create:") and name not in known
            off = name in there and there[name].state is S.STOPPED
            started = pending.key.startswith("start:") and off
            if made or started:
                does = "is being created" if made else "is being started"
                found.append(self._boot(name, place, pending.decided_at, does))
        return found

    def _boot(self, name: str, place: str, since: datetime, does: str) -> tuple[datetime, str]:
        seconds, own = typical_boot(self.plan.memory, place)
        takes = format_duration(timedelta(seconds=round(seconds)))
        history = f"typical there: {takes}" if own else f"no boot there yet; elsewhere {takes}"
        ready = max(since + timedelta(seconds=seconds), self.now)
        return ready, f"{name} ({place}) {does} since {_ago(since, self.now)} ({history})."

    # --- an instance

    def _instance(self, one: InstanceDecision) -> Explanation:
        sentences = [f"{one.name} is {_state(one)} since {_ago(one.state_since, self.now)}."]
        sentences.append(f"{one.because[0].upper()}{one.because[1:]}.")
        known = by_name(self.plan)[one.name]
        step = next_step(one, known, self.config)
        queue = self.config.queues.get(one.queue)
        if step is not None:
            sentences.append(f"If nothing else happens, it is {step.what} at {_clock(step.at)}.")
        elif one.state is S.RUNNING_TASK and queue is not None:
            timeout = format_duration(idle_timeout(queue, known))
            sentences.append(f"It is never stopped while a task runs, and idles {timeout} first.")
        return Explanation("instance", one.name, tuple(sentences))

    # --- a queue

    def _queue(self, queue: QueueDecision) -> Explanation:
        sentences = [f"{queue.queue}: {queue.because}."]
        if queue.demand and queue.oldest_entry_at is not None:
            sentences.append(
                f"{queue.demand} waiting, the first {_ago(queue.oldest_entry_at, self.now)}."
            )
        maximum = self.config.queues[queue.queue].max_instances
        sentences.append(
            f"{queue.billed} of at most {maximum} instances are billed, {queue.busy} work."
        )
        sentences += [sentence for _, sentence in sorted(self._coming(queue.queue))]
        sentences += self._held_back(queue.queue)
        return Explanation("queue", queue.queue, tuple(sentences))

    def _held_back(self, queue: str) -> list[str]:
        """Placements where the queue launches nothing now, and until when."""
        backoffs = Backoffs(self.plan.memory.backoffs, self.now)
        found = []
        for placement in self.config.queues[queue].placements:
            spec = self.world.spec(queue, placement)
            if backoff := backoffs.of(placement, spec):
                found.append(f"{placement}: {holds_back(backoff, self.now)}.")
        return found

    # --- nothing of ours

    def _unknown(self, name: str) -> Explanation:
        clearml = self.world.clearml
        if not clearml.complete:
            return Explanation("unknown", name, (f"ClearML gave no full answer: {clearml.error}.",))
        queues = ", ".join(self.config.queues)
        sentences = (
            f"No task, instance or queue that this fleet knows is called {name}.",
            f"It looks at the queues {queues}: is the task enqueued in one of them?",
        )
        return Explanation("unknown", name, sentences)

    # --- how

    def _of(self, queue: QueueDecision) -> Sequence[InstanceDecision]:
        return [one for one in self.plan.instances if one.queue == queue.queue]

    def _line(self, queue: Queue) -> list[Entry]:
        """Those that really wait, in the order in which agents get them."""
        queued = {t.id for t in self.world.clearml.open_tasks if t.status is TaskStatus.QUEUED}
        return [entry for entry in queue.entries if entry.task_id in queued]


def _state(one: InstanceDecision) -> str:
    return one.state.value.replace("_", " ")


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M} UTC"


def _ago(moment: datetime, now: datetime) -> str:
    """`08:15 UTC (12m)`."""
    for_ = timedelta(seconds=max(0, round((now - moment).total_seconds())))
    return f"{_clock(moment)} ({format_duration(for_)})"


def _about(ready: datetime, now: datetime) -> str:
    minutes = round((ready - now).total_seconds() / 60)
    if minutes < 1:
        return "It should start any moment."
    return f"It should start in about {minutes} min."
