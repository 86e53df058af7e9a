"""What Prometheus is told: gauges of the last cycle, and what has been counted since the start.

Labels are bounded: queues, placements and words of closed sets, never a task or an instance.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from gpu_autoscaler import __version__
from gpu_autoscaler.domain.calls import OK, OUTCOMES
from gpu_autoscaler.domain.decisions import InstanceDecision
from gpu_autoscaler.domain.effects import queue_of
from gpu_autoscaler.domain.lifecycle import BOOTING, InstanceState
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import TaskStatus, Worker
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.gauges import PREFIX, gauges

APIS = ("clearml", "scaleway")

_REPORTS = frozenset({InstanceState.IDLE, InstanceState.RUNNING_TASK})

_CYCLE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_GAP_BUCKETS = (2, 5, 10, 20, 30, 35, 45, 60, 90, 120, 300, 600, 1800)
"""Fine around the ordinary interval: a platform that takes the processor away stretches it."""
_CALL_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
_BOOT_BUCKETS = (30, 60, 90, 120, 150, 180, 240, 300, 420, 600, 900, 1800)
_WAIT_BUCKETS = (10, 30, 60, 120, 180, 240, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200)


class Metrics:
    """Fed by the loop and by both APIs; read as the text that Prometheus scrapes."""

    def __init__(self) -> None:
        # of each series, when it began: twice as many, and no use here
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._now = _Now()
        self._registry.register(self._now)
        self._count()
        self._last_success: datetime | None = None
        self._ended: float | None = None
        """The end of the last cycle."""
        self._waiting: dict[str, tuple[str, datetime]] = {}
        """Tasks that wait or are on their way to an agent, by id: queue, and since when."""

    def _count(self) -> None:
        ours = self._registry
        build = Gauge(f"{PREFIX}build_info", "1, with the version.", ["version"], registry=ours)
        build.labels(__version__).set(1)
        self._cycles = Histogram(
            f"{PREFIX}cycle_duration_seconds",
            "How long a cycle took, without the pause after it.",
            buckets=_CYCLE_BUCKETS,
            registry=ours,
        )
        self._gaps = Histogram(
            f"{PREFIX}heartbeat_gap_seconds",
            "From the end of one cycle to the end of the next.",
            buckets=_GAP_BUCKETS,
            registry=ours,
        )
        self._decided = Counter(
            f"{PREFIX}effects_decided_total",
            "What was begun: launches, stops, deletions and the like, and why.",
            ["verb", "queue", "reason"],
            registry=ours,
        )
        self._outcomes = Counter(
            f"{PREFIX}effects_ended_total",
            "How that ended: ok, the kind of failure, or guard: left undone at the last look.",
            ["verb", "result"],
            registry=ours,
        )
        self._boots = Histogram(
            f"{PREFIX}boot_duration_seconds",
            "From the beginning of a boot to the first report of its agent.",
            ["type", "zone"],
            buckets=_BOOT_BUCKETS,
            registry=ours,
        )
        self._waits = Histogram(
            f"{PREFIX}time_to_start_seconds",
            "From a task's entry in the queue to its start; not of those that end within a cycle.",
            ["queue"],
            buckets=_WAIT_BUCKETS,
            registry=ours,
        )
        self._calls = Counter(
            f"{PREFIX}api_requests_total",
            "Requests to an API: ok, or the kind of error that was the answer.",
            ["api", "outcome"],
            registry=ours,
        )
        self._call_seconds = Histogram(
            f"{PREFIX}api_request_duration_seconds",
            "How long a request took, also one without an answer.",
            ["api"],
            buckets=_CALL_BUCKETS,
            registry=ours,
        )
        for api in APIS:
            self._call_seconds.labels(api)
            for outcome in OUTCOMES:  # from 0 on, or nobody sees the first of its kind
                self._calls.labels(api, outcome)

    def called(self, api: str, outcome: str, seconds: float) -> None:
        """A request to an API ended (see `domain.calls.OnCall`)."""
        self._calls.labels(api, outcome).inc()
        self._call_seconds.labels(api).observe(seconds)

    def cycled(self, cycle: Cycle) -> None:
        """A cycle ended. Of one that did not act, nothing is counted that the daemon which does
        counts, too; nor its outcomes, which come again."""
        self._cycles.observe(cycle.ended - cycle.began)
        if self._ended is not None:
            self._gaps.observe(cycle.ended - self._ended)
        self._ended = cycle.ended
        if cycle.complete:
            self._last_success = cycle.finished_at
        self._now.families = gauges(cycle, self._last_success)
        starts = self._starts(cycle)
        if not cycle.acted:
            return
        for queue, seconds in starts:
            self._waits.labels(queue).observe(seconds)
        for effect in cycle.plan.effects:
            reason = effect.reason.value
            self._decided.labels(
                effect.verb, queue_of(effect, cycle.plan.memory.queue_ids), reason
            ).inc()
        for outcome in cycle.world.outcomes:
            result = OK if outcome.failure is None else outcome.failure.value
            self._outcomes.labels(outcome.effect.verb, result).inc()
        for known, seconds in _boots(cycle):
            there = known.last_seen
            self._boots.labels(there.commercial_type, there.zone).observe(seconds)

    def exposition(self) -> tuple[bytes, str]:
        """What is to be answered to Prometheus, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _starts(self, cycle: Cycle) -> list[tuple[str, float]]:
        """Queue and waiting time of each task that was seen waiting, and is at work now.

        Between queue and agent a task is in neither for some seconds: its entry is remembered for
        as long as ClearML calls it queued.
        """
        clearml = cycle.world.clearml
        if not clearml.complete:
            return []
        tasks = {task.id: task for task in clearml.open_tasks}
        started = [
            (queue, max(0.0, (task.status_changed_at - added_at).total_seconds()))
            for task_id, (queue, added_at) in self._waiting.items()
            if (task := tasks.get(task_id)) and task.status is TaskStatus.IN_PROGRESS
        ]
        seen = self._waiting | {
            entry.task_id: (queue.name, entry.added_at)
            for queue in clearml.queues.values()
            for entry in queue.entries
        }
        queued = (task.id for task in clearml.open_tasks if task.status is TaskStatus.QUEUED)
        self._waiting = {task_id: seen[task_id] for task_id in queued if task_id in seen}
        return started


class _Now(Collector):
    """The gauges of the last cycle, replaced as a whole."""

    def __init__(self) -> None:
        self.families: Iterable[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        return self.families


def _boots(cycle: Cycle) -> Iterator[tuple[InstanceMemory, float]]:
    """Instances whose agent has come in this cycle, and seconds since their boot began."""
    by_name = {known.last_seen.name: known for known in cycle.plan.memory.instances.values()}
    for decision in cycle.plan.instances:
        if not _came(decision):
            continue
        known = by_name[decision.name]
        workers = (w for w in cycle.world.clearml.workers if w.machine == decision.name)
        came = _first_sign(known, workers)
        yield known, max(0.0, (came - known.booted_at).total_seconds())


def _came(decision: InstanceDecision) -> bool:
    return decision.previous in BOOTING and decision.state in _REPORTS


def _first_sign(known: InstanceMemory, workers: Iterable[Worker]) -> datetime:
    """Its registration in this boot; an agent that ClearML still knew does not register anew."""
    signs = [w.registered_at for w in workers if w.registered_at > known.booted_at]
    if known.last_report_at is not None:
        signs.append(known.last_report_at)
    return min(signs, default=known.state_since)
