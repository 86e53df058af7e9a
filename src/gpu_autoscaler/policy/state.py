"""Joins the two worlds: for every instance what state it is in, and what is remembered of it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.lifecycle import BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Memory
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    REGISTERED_TAG,
    Instance,
    ServerState,
    Task,
    Worker,
)
from gpu_autoscaler.policy.fact import Fact, has_registered
from gpu_autoscaler.policy.guard import claims_on
from gpu_autoscaler.policy.hands_off import keep_seen, why_hands_off
from gpu_autoscaler.policy.settings import (
    HALF_MADE_AFTER,
    PAUSED_AFTER,
    START_PATIENCE,
    START_SETTLE,
    WORKER_FRESH,
    WORKER_LOST,
)
from gpu_autoscaler.policy.tagged import tagged

PAST_STATES = 12
"""Kept of each instance, for its time line: more than a day of work and idleness."""


class Join:
    """Derives the facts of one cycle."""

    def __init__(self, world: World, memory: Memory, config: Config, now: datetime) -> None:
        self._world, self._memory, self._config, self._now = world, memory, config, now
        self._clearml_now = now + world.clearml.skew
        self._stood_still = stood_still(memory, config, now)
        self._workers: dict[str, list[Worker]] = defaultdict(list)
        for worker in world.clearml.workers:
            self._workers[worker.machine].append(worker)
        self._tasks: dict[str, list[Task]] = defaultdict(list)
        for task in world.clearml.open_tasks:
            if task.machine:
                self._tasks[task.machine].append(task)
        self._ended: dict[str, list[Task]] = defaultdict(list)
        for task in world.clearml.ended_tasks or ():
            if task.machine:
                self._ended[task.machine].append(task)

    def facts(self) -> dict[str, Fact]:
        """Every instance of the fleet by server id: the listed ones, and the known unseen."""
        found: dict[str, Fact] = {}
        gone = {server_id for zone in self._world.zones.values() for server_id in zone.gone}
        for zone in self._world.zones.values():
            for instance in zone.instances if zone.complete else ():
                if instance.id not in gone:
                    found[instance.id] = self._fact(instance, seen=True)
        for server_id, known in self._memory.instances.items():
            if server_id not in found and server_id not in gone:
                # a listing that lacks it proves nothing: only a 404 on it does. What ClearML
                # says of it counts all the same
                found[server_id] = self._fact(known.last_seen, seen=False)
        return found

    def _fact(self, instance: Instance, *, seen: bool) -> Fact:
        known = self._memory.instances.get(instance.id)
        previous = known.state if known is not None else None
        was = known.last_seen.state if known is not None else None
        known = self._booted(replace(known or self._first_sight(instance), last_seen=instance), was)
        known = tagged(known, instance, self._now, self._clearml_now) if seen else known
        known = self._told(known)
        workers = self._workers.get(instance.name, [])
        tasks = self._tasks.get(instance.name, [])
        reports = [w.last_report_at for w in workers if w.last_report_at > known.booted_at]
        if reports:
            newest = max(reports)
            if known.last_report_at is None or newest > known.last_report_at:
                known = replace(known, last_report_at=newest)
        claims = claims_on(instance.name, workers, tasks)
        if claims:
            view = self._world.clearml
            known = replace(known, claimed_at=view.begun_at or view.observed_at)
        state = self._state(instance, known, claims, was is ServerState.STARTING)
        fell_back = seen and state is S.STOPPED and known.start_accepted_at is not None
        known = self._remember(known, state, instance, workers)
        half_made = state is S.PROVISIONING and instance.state is ServerState.STOPPED
        return Fact(
            instance,
            state,
            known,
            previous,
            seen=seen,
            claims=claims,
            hands_off=why_hands_off(instance, known, self._config, self._now),
            fell_back=fell_back,
            serves=self._serves(instance, workers),
            abandoned=half_made and self._abandoned(instance),
            overdue=self._overdue(instance, known),
        )

    def _abandoned(self, instance: Instance) -> bool:
        old = self._now - instance.created_at >= HALF_MADE_AFTER
        return old and f"create:{instance.name}" not in self._memory.pending

    def _overdue(self, instance: Instance, known: InstanceMemory) -> bool:
        """Whether its boot should have ended by the last cycle: what is done about that comes
        first, and only what is left over counts no more."""
        patience = START_PATIENCE
        if known.state is S.INITIALIZING:
            patience = self._stale_timeout(instance)
        last = self._memory.planned_at
        return known.state in BOOTING and last is not None and last - known.state_since >= patience

    def _first_sight(self, instance: Instance) -> InstanceMemory:
        stopped = instance.state is ServerState.STOPPED
        finished = stopped and not _half_made(instance)
        created = self._memory.pending.get(f"create:{instance.name}")
        return InstanceMemory(
            last_seen=instance,
            state=S.STOPPED if finished else S.PROVISIONING,
            # without memory the API's own change date is the best witness of a stop
            state_since=min(instance.modified_at, self._now) if finished else self._now,
            # by Scaleway's clock; reports are by ours, and those of its future would not count
            booted_at=min(instance.created_at, self._now),
            start_accepted_at=created.decided_at if created else None,
            failures_from=self._clearml_now,
        )

    def _booted(self, known: InstanceMemory, was: ServerState | None) -> InstanceMemory:
        """A machine that is off has no reports: what comes later is of its next boot."""
        match known.last_seen.state:
            case ServerState.STOPPED | ServerState.STOPPED_IN_PLACE:
                began = self._now
            case ServerState.STARTING if was in (ServerState.RUNNING, ServerState.STOPPING):
                began = self._restarted_at(known.last_seen)
            case ServerState.RUNNING if was is ServerState.STOPPING or self._went_off(known):
                began = self._restarted_at(known.last_seen)
            case _:
                return known
        return replace(
            known,
            booted_at=began,
            last_report_at=None,
            has_registered=known.has_registered or known.last_report_at is not None,
            idle_since=None,
            first_idle_report_at=None,
            boot_report="",
            boot_failed=False,
        )

    def _went_off(self, known: InstanceMemory) -> bool:
        """Whether our power-off, of whose end nobody heard, was followed by somebody's power-on
        before anybody looked: Scaleway has changed it since. A tag would do that too; but then the
        agent that was there before reports on."""
        there = known.last_seen
        off, changed_at = self._memory.power_offs.get(there.name), there.modified_at
        if off is None or off.accepted or not off.ours:
            return False
        workers = self._workers.get(there.name, ())
        reports_on = any(w.registered_at < changed_at < w.last_report_at for w in workers)
        return changed_at > max(off.decided_at, known.booted_at) and not reports_on

    def _restarted_at(self, instance: Instance) -> datetime:
        """When somebody restarted it between two looks, which a silent store may hold apart: at the
        last one or later, as far as Scaleway's own date tells."""
        last = self._memory.planned_at or self._now
        return max(last, min(instance.modified_at, self._now))

    def _told(self, known: InstanceMemory) -> InstanceMemory:
        """With what it says of its boot."""
        zone = self._world.zones.get(known.last_seen.zone)
        report = zone.boot_reports.get(known.last_seen.id) if zone else None
        return known if report is None else _with(known, boot_report=report)

    def _serves(self, instance: Instance, workers: Sequence[Worker]) -> bool:
        queue = self._world.clearml.queues.get(instance.queue)
        asked = {queue_id for worker in workers for queue_id in worker.queue_ids}
        return queue is None or not asked or queue.id in asked

    def _state(
        self,
        instance: Instance,
        known: InstanceMemory,
        claims: tuple[str, ...],
        was_starting: bool,
    ) -> S:
        """The one function that names the state. Order matters: what is surest comes first."""
        match instance.state:
            case ServerState.LOCKED | ServerState.UNKNOWN:
                return S.UNKNOWN
            case ServerState.STOPPED_IN_PLACE:
                return S.STOPPED_IN_PLACE
            case ServerState.STOPPING:
                return S.STOPPING
            case ServerState.STARTING:
                return S.STARTING
            case ServerState.STOPPED:
                return self._stopped_state(instance, known, was_starting)
            case ServerState.RUNNING:
                return self._running_state(instance, known, claims)

    def _stopped_state(self, instance: Instance, known: InstanceMemory, was_starting: bool) -> S:
        pending = self._memory.pending
        deleting = pending.get(f"delete:{instance.id}")
        if deleting is not None and not deleting.failed:
            return S.DELETING
        if _half_made(instance) and not has_registered(instance, known):
            return S.PROVISIONING
        starting = pending.get(f"start:{instance.id}")
        if starting and starting.done and was_starting:
            return S.STOPPED  # it was on its way, and is no more
        if (starting and not starting.failed) or f"create:{instance.name}" in pending:
            return S.STARTING
        accepted = known.start_accepted_at
        if accepted is not None and not was_starting and self._now - accepted < START_SETTLE:
            return S.STARTING  # the listing lags behind the accepted power-on
        return S.STOPPED

    def _running_state(
        self,
        instance: Instance,
        known: InstanceMemory,
        claims: tuple[str, ...],
    ) -> S:
        stopping = self._memory.pending.get(f"stop:{instance.id}")
        if stopping is not None and stopping.done:
            return S.STOPPING
        if known.quarantined_at is not None:
            return S.QUARANTINED
        settled = (S.INITIALIZING, S.IDLE, S.RUNNING_TASK, S.LOST)
        if not self._world.clearml.complete:
            return known.state if known.state in settled else S.INITIALIZING
        report = known.last_report_at
        if report is None:
            overdue = self._now - known.state_since > self._stale_timeout(instance)
            waited = known.state in (S.INITIALIZING, S.LOST) and overdue and not self._stood_still
            # a task on it proves that its agent came, and fell silent before anybody looked
            came = has_registered(instance, known) or known.claimed_at is not None
            if came and (known.state is S.LOST or waited):
                return S.LOST
            return S.INITIALIZING
        if self._now - report < WORKER_FRESH:
            return S.RUNNING_TASK if claims else S.IDLE
        # after an outage nobody has had the time to report yet
        heard_since = max(report, self._memory.clearml_since or self._now)
        if self._now - heard_since > WORKER_LOST or known.state is S.LOST:
            return S.LOST
        return S.RUNNING_TASK if claims else S.IDLE

    def _stale_timeout(self, instance: Instance) -> timedelta:
        queue = self._config.queues.get(instance.queue)
        return queue.stale_timeout if queue else self._config.orphan_timeout

    def _remember(
        self, known: InstanceMemory, state: S, instance: Instance, workers: Sequence[Worker]
    ) -> InstanceMemory:
        if state is not known.state:
            # a removal that failed leaves it as stopped as it was
            same = {state, known.state} == {S.STOPPED, S.DELETING}
            since = known.state_since if same else self._now
            past = known.past
            if (
                state is S.STOPPED
                and known.state is S.STARTING
                and past[-1:]
                and past[-1][0] is state
            ):
                # a start that found no stock: off all along, and kept no longer for having tried
                since, past = past[-1][1], past[:-1]
            elif known.state_since < since:
                past = (*past, (known.state, known.state_since))[-PAST_STATES:]
            known = replace(known, state=state, state_since=since, past=past)
        elif (state is S.INITIALIZING and self._memory.clearml_since is None) or (
            state in BOOTING and self._stood_still
        ):
            # nobody could have registered, or nobody looked, meanwhile: its time starts anew
            known = replace(known, state_since=self._now)
        if state in (S.INITIALIZING, S.IDLE, S.RUNNING_TASK, S.QUARANTINED):
            known = _with(known, start_accepted_at=None)
        if known.boot_failed and known.last_report_at is not None:  # it came after all
            known = replace(known, boot_failed=False)
        decided_at = known.stop_decided_at
        again = state is S.IDLE and decided_at is not None and known.booted_at > decided_at
        if state is S.RUNNING_TASK or again:  # what was decided about its last idleness is void
            known = _with(known, stop_decided_at=None, delete_when_stopped=False)
        if state is S.IDLE:
            known = self._idle(known, instance, workers)
        elif state not in (S.LOST, S.STOPPING) and self._world.clearml.complete:
            known = _with(known, idle_since=None, first_idle_report_at=None)
        return _with(known, keep_seen_at=keep_seen(known, instance, self._now))

    def _idle(
        self, known: InstanceMemory, instance: Instance, workers: Sequence[Worker]
    ) -> InstanceMemory:
        """Since when it idles: from the end of its last task as ClearML knows it."""
        ended = max(
            (t for t in self._ended.get(instance.name, []) if t.status_changed_at <= self._now),
            key=lambda task: task.status_changed_at,
            default=None,
        )
        since, status = known.idle_since, known.last_task_status
        if ended is not None and ended.status_changed_at > known.booted_at:
            status = ended.status
            since = max(since or ended.status_changed_at, ended.status_changed_at)
        elif since is None:
            since = self._now
            if self._world.clearml.ended_tasks is not None and not self._was_busy(instance):
                # ClearML knows of no task: idle since its agent came; one that came before what
                # looks like a boot and reports after it was never off
                came = [w.registered_at for w in workers if w.last_report_at > known.booted_at]
                since = min([*came, self._now])
        first = known.first_idle_report_at or known.last_report_at
        return _with(
            known,
            idle_since=min(since, self._now),
            first_idle_report_at=first,
            last_task_status=status,
        )

    def _was_busy(self, instance: Instance) -> bool:
        before = self._memory.instances.get(instance.id)
        return before is not None and before.state is S.RUNNING_TASK


def stood_still(memory: Memory, config: Config, now: datetime) -> bool:
    """Whether the last cycle is so long ago, or the clock was set forward so far, that nobody
    knows what went on meanwhile."""
    longest = max(PAUSED_AFTER, 3 * config.poll_interval)
    return memory.planned_at is not None and now - memory.planned_at > longest


def _half_made(instance: Instance) -> bool:
    """Its birth was not declared; one that has worked was complete all the same."""
    return PROVISIONING_TAG in instance.tags and REGISTERED_TAG not in instance.tags


def _with(known: InstanceMemory, **changes: Any) -> InstanceMemory:
    """`replace`, which is slow, only where it changes something: mostly it would not."""
    differs = any(getattr(known, name) != value for name, value in changes.items())
    return replace(known, **changes) if differs else known
