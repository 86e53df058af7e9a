"""Turns decisions into log lines: one per decision that changes something, failures on the edge.

A failure is said when it begins and when it ends, and nothing in between.
"""

import logging
from collections.abc import Iterable
from datetime import datetime

import structlog

from gpu_autoscaler.domain.decisions import Plan, World
from gpu_autoscaler.domain.effects import CreateInstance, Failure, OnInstance, Outcome, Reason
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.domain.model import BOOT_FAILED

log = structlog.get_logger("gpu_autoscaler")

_WORTH_SAYING = frozenset(
    {
        Reason.NO_PLACEMENT,
        Reason.MAX_INSTANCES,
        Reason.FLEET_MAX_INSTANCES,
        Reason.FLEET_MAX_EUR,
        Reason.BUDGET,
        Reason.MAX_PRICE,
        Reason.QUEUE_MISSING,
        Reason.LOST_WORKER,
        Reason.QUARANTINED,
        Reason.BREAKER_OPEN,
        Reason.OUTAGE,
        Reason.HANDS_OFF,
    }
)
"""Reasons for doing nothing that an operator wants to hear of when they begin."""


class Recorder:
    """Remembers what has been said, so that only edges are."""

    def __init__(self, *, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._failing: dict[str, datetime] = {}
        self._standing: dict[str, Reason] = {}
        self._boot_reports: dict[str, str] = {}
        """By instance: what was said last."""
        self._leads: bool | None = None

    def record(self, world: World, plan: Plan, now: datetime, *, acts: bool = True) -> None:
        """Say what this cycle saw fail or mend, and what it decided, if it acts on it."""
        clearml = world.clearml
        self._edge("clearml", clearml.error, now)
        if clearml.ended_error or clearml.ended_tasks is not None:
            self._edge("clearml ended tasks", clearml.ended_error, now)
        for zone in world.zones.values():
            self._edge(f"scaleway {zone.zone}", zone.error, now)
            if zone.volumes_error or zone.volumes is not None:
                self._edge(f"scaleway {zone.zone} volumes", zone.volumes_error, now)
        if not acts:
            return
        self.ended(world.outcomes)
        self._decisions(plan)
        for effect in plan.effects:
            verb = f"would {effect.verb}" if self._dry_run else effect.verb
            where: dict[str, str] = {}
            if isinstance(effect, CreateInstance):
                where = {"queue": effect.order.queue, "zone": effect.order.placement.zone}
            elif isinstance(effect, OnInstance):
                where = {"queue": effect.instance.queue, "zone": effect.instance.zone}
            subject, reason = effect.subject, effect.reason.value
            log.info(verb, subject=subject, **where, reason=reason, because=effect.because)

    def ended(self, outcomes: Iterable[Outcome]) -> None:
        """Say which effects failed, or were left undone."""
        for outcome in outcomes:
            self._outcome(outcome)

    def lease(self, *, held: bool, holder: str = "") -> None:
        """This daemon leads, or another one does; a dry run does neither."""
        if held is not self._leads and not self._dry_run:
            self._leads = held
            if held:
                log.info("leading", now="this daemon acts")
            else:
                log.warning("standing by", holder=holder, now="this daemon observes alone")

    def failing(self, subject: str, error: ApiError | OSError | None, now: datetime) -> None:
        """Something beside the two services fails (an error), or works again (None)."""
        self._edge(subject, str(error) if error is not None else "", now)

    def _edge(self, subject: str, error: str, now: datetime) -> None:
        since = self._failing.get(subject)
        if error and since is None:
            self._failing[subject] = now
            log.warning("failing", subject=subject, error=error)
        elif not error and since is not None:
            del self._failing[subject]
            log.info(
                "recovered", subject=subject, after_seconds=round((now - since).total_seconds())
            )

    def _outcome(self, outcome: Outcome) -> None:
        effect = outcome.effect
        about = {"effect": effect.verb, "subject": effect.subject}
        if outcome.failure is Failure.GUARD:
            log.info("left undone", **about, because=outcome.message)
        elif outcome.failure is not None:
            log.warning("failed", **about, kind=outcome.failure.value, error=outcome.message)

    def _decisions(self, plan: Plan) -> None:
        for instance in plan.instances:
            if instance.from_outside and instance.previous is not None:
                change = f"{instance.previous.value} -> {instance.state.value}"
                log.info("changed from outside", subject=instance.name, change=change)
        self._boots(plan)
        standing = {
            subject: (reason, because)
            for subject, reason, because in _verdicts(plan)
            if reason in _WORTH_SAYING
        }
        for subject, (reason, because) in standing.items():
            if self._standing.get(subject) is not reason:
                log.info("nothing done", subject=subject, reason=reason.value, because=because)
        self._standing = {subject: reason for subject, (reason, _) in standing.items()}

    def _boots(self, plan: Plan) -> None:
        """What machines say of their boots, when they say something new."""
        booting = [known for known in plan.memory.instances.values() if known.boot_report]
        for known in booting:
            subject, says = known.last_seen.name, known.boot_report
            if self._boot_reports.get(subject) != says:
                level = logging.WARNING if says.startswith(BOOT_FAILED) else logging.INFO
                log.log(level, "booting", subject=subject, says=says)
        self._boot_reports = {known.last_seen.name: known.boot_report for known in booting}


def _verdicts(plan: Plan) -> Iterable[tuple[str, Reason, str]]:
    for queue in plan.queues:
        if not queue.launched:
            yield queue.queue, queue.reason, queue.because
    for instance in plan.instances:
        if instance.effect is None:
            yield instance.name, instance.reason, instance.because
