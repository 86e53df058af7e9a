"""What is wrong for so long, or so much, that people are told: derived anew in each cycle.

What this cycle could not see keeps what was said of it: an outage of a service must neither end
an episode nor begin one. A trouble that needs patience waits in memory until it is an episode.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain

from gpu_autoscaler.config.models import QueueConfig
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.decisions import QueueDecision
from gpu_autoscaler.domain.effects import Failure, Reason
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Breaker
from gpu_autoscaler.domain.model import QUARANTINED_TAG, ClearmlView, ZoneView
from gpu_autoscaler.policy import place
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.settings import (
    BREAKER_FAILURES,
    LAUNCH_FAILING_PATIENCE,
    OBSERVATION_PATIENCE,
    UNAUTHORIZED_PATIENCE,
)

CLEARML, SCALEWAY = "ClearML", "Scaleway"
QUOTA = EpisodeKind.QUOTA

_AT_ONCE = timedelta(0)

_NOTHING_COMES = frozenset({Reason.NO_PLACEMENT, Reason.BREAKER_OPEN})
"""Why a launch is refused that is nobody's wish: a maximum is somebody's."""


def follow(
    fleet: Fleet, queues: Iterable[QueueDecision], free_volumes: Collection[str]
) -> "Following":
    """What stands now, after everything else has been decided."""
    following = Following(fleet)
    for decision in queues:
        _launches(following, fleet, decision)
    _quotas(following, fleet)
    for queue in fleet.config.queues.values():
        _boots_in_vain(following, fleet, queue)
    for fact in fleet.facts.values():
        _instance(following, fleet, fact)
    _orphans(following, fleet, free_volumes)
    _permissions(following, fleet)
    _answers(following, fleet)
    _budgets(following, fleet)
    return following


@dataclass(slots=True)
class Following:
    """The episodes and troubles of one cycle, while they are found."""

    fleet: Fleet
    standing: list[Episode] = field(default_factory=list)
    troubles: dict[str, datetime] = field(default_factory=dict)
    """For the next memory: not yet episodes."""
    _before: dict[tuple[EpisodeKind, str], Episode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before = {episode.key: episode for episode in self.fleet.memory.episodes}

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """For the next memory."""
        return tuple(self.standing)

    def before(self, kind: EpisodeKind, subject: str) -> Episode | None:
        """What stood until now."""
        return self._before.get((kind, subject))

    def since(self, kind: EpisodeKind, subject: str) -> datetime | None:
        """Since when it stands, or is about to; None when it is new."""
        episode = self.before(kind, subject)
        return episode.since if episode else self.fleet.memory.troubles.get(f"{kind}:{subject}")

    def wrong(
        self,
        kind: EpisodeKind,
        subject: str,
        severity: Severity,
        text: str,
        *,
        since: datetime | None = None,
        patience: timedelta = _AT_ONCE,
    ) -> None:
        """This is so now, since then if it is new; an episode when it lasted for so long."""
        since, before = (
            self.since(kind, subject) or since or self.fleet.now,
            self.before(kind, subject),
        )
        if before is not None:  # who was told of its beginning is told of its end
            self.standing.append(replace(before, text=text))
        elif self.fleet.now - since >= patience:
            self.standing.append(Episode(kind, subject, since, text, severity))
        else:
            self.troubles[f"{kind}:{subject}"] = since

    def unseen(self, kind: EpisodeKind, subject: str) -> None:
        """Nobody knows in this cycle: it stays what it was."""
        if episode := self.before(kind, subject):
            self.standing.append(episode)
        elif since := self.since(kind, subject):
            self.troubles[f"{kind}:{subject}"] = since


def _launches(following: Following, fleet: Fleet, decision: QueueDecision) -> None:
    """One of two episodes of a queue: nothing comes for want of stock, or for other reasons."""
    stock, other = EpisodeKind.OUT_OF_STOCK, EpisodeKind.LAUNCH_FAILING
    name, queue = decision.queue, fleet.config.queues[decision.queue]
    met = _met(fleet, queue) if decision.demand else {}
    if not fleet.world.clearml.complete or met is None:
        following.unseen(stock, name)
        following.unseen(other, name)
        return
    since = following.since(other, name) or following.since(stock, name)
    stuck = decision.reason is Reason.HALF_MADE
    # between two tries it is no longer refused, and not yet mended; what is remembered of another
    # day alone says nothing
    in_vain = met and (decision.reason in _NOTHING_COMES or since or _just_failed(fleet, queue))
    if not decision.demand or not (stuck or in_vain):
        return
    waiting = f"{decision.demand} waiting in {name}"
    if decision.oldest_entry_at is not None:
        waiting += f" since {decision.oldest_entry_at:%Y-%m-%d %H:%M}"
    # it never falls back to the milder one, or each failure of another kind were a new episode
    if set(met) == {Failure.OUT_OF_STOCK} and not (stuck or following.before(other, name)):
        where = ", ".join(map(str, queue.placements))
        text = (
            f"{waiting}, and everything is out of stock ({where}): it is tried again and again; "
            "name another placement, or use another queue, if it cannot wait"
        )
        kind, severity = stock, Severity.WARNING
    else:
        why = decision.because if stuck else "; ".join(chain.from_iterable(met.values()))
        text = (
            f"{waiting}, and no instance can be launched: {why}; mend the cause, `gpu-autoscaler "
            "check --online` may name it"
        )
        kind, severity = other, Severity.ERROR
    following.wrong(kind, name, severity, text, since=since, patience=LAUNCH_FAILING_PATIENCE)


def _quotas(following: Following, fleet: Fleet) -> None:
    """From the first refusal until one boots; also where other placements serve its queues."""
    for backoff in fleet.backoffs.kept():
        if backoff.failure is Failure.QUOTA:
            name = backoff.placement.commercial_type
            text = (
                f"no more {name} may be launched, in whatever zone ({backoff.message}): ask "
                "Scaleway for a larger quota, or lower max_instances; it is tried again at "
                f"{backoff.until:%Y-%m-%d %H:%M} at the earliest"
            )
            if name not in {each.subject for each in following.standing if each.kind is QUOTA}:
                following.wrong(QUOTA, name, Severity.WARNING, text, since=backoff.failed_at)


def _just_failed(fleet: Fleet, queue: QueueConfig) -> bool:
    met = (fleet.backoffs.met(p, fleet.spec(queue.name, p)) for p in queue.placements)
    return any(backoff is not None and backoff.failed_at == fleet.now for backoff in met)


def _met(fleet: Fleet, queue: QueueConfig) -> dict[Failure | None, list[str]] | None:
    """What launches met at all its placements, as sentences by kind (no kind: they booted in vain).

    Empty when one of them may work; None when that depends on a zone that does not answer.
    """
    found: dict[Failure | None, list[str]] = {}
    dark = False
    for placement in queue.placements:
        spec = fleet.spec(queue.name, placement)
        backoff = fleet.backoffs.met(placement, spec)
        if place.above_max_price(fleet, queue, placement):
            continue  # somebody wants it so; the others decide
        if refusal := fleet.breakers.refusal(placement, spec):
            found.setdefault(None, []).append(refusal)
        elif backoff is not None:
            text = f"{placement}: {backoff.failure.replace('_', ' ')} ({backoff.message})"
            found.setdefault(backoff.failure, []).append(text)
        elif fleet.zone_answers(placement.zone):
            return {}
        else:
            dark = True
    return None if dark else found


def _boots_in_vain(following: Following, fleet: Fleet, queue: QueueConfig) -> None:
    """From the first boot whose agent never came until one comes there; worse when several did."""
    for placement in queue.placements:
        breaker = fleet.breakers.of(placement, fleet.spec(queue.name, placement))
        if breaker is None:
            continue
        where = f"{placement} for {queue.name}"
        said = f" (the last one said: {breaker.last_report})" if breaker.last_report else ""
        text = f"{_in_vain(breaker)} at {where} and never registered{said}: "
        first = f"{text}given up; one is an accident, more are the image, the network or the script"
        following.wrong(EpisodeKind.NEVER_REGISTERED, where, Severity.WARNING, first)
        if breaker.failures >= BREAKER_FAILURES:
            text += (
                f"the next is tried at {breaker.until:%Y-%m-%d %H:%M} at the earliest; look at the "
                "console of one, at `image`, `agent` and what `gpu-autoscaler render` prints"
            )
            subject = f"breaker of {where}"
            following.wrong(EpisodeKind.NEVER_REGISTERED, subject, Severity.ERROR, text)


def _in_vain(breaker: Breaker) -> str:
    count = breaker.failures
    return "An instance booted" if count == 1 else f"{count} instances in a row booted"


def _instance(following: Following, fleet: Fleet, fact: Fact) -> None:
    lost, quarantined = EpisodeKind.LOST_WORKER, EpisodeKind.QUARANTINED
    if not fact.seen:  # what ClearML does not say leaves an instance in its state already
        following.unseen(lost, fact.name)
        following.unseen(quarantined, fact.name)
        return
    where = f"{fact.name} ({fact.instance.placement}, {fact.instance.queue or 'no queue'})"
    if fact.state is S.LOST:
        text = f"the agent of {where} fell silent"
        if fact.claims:
            severity = Severity.ERROR
            text += (
                f" with task {fact.claims[0]} on it: it is left alone until ClearML has ended the "
                "task; look at the machine, or abort the task"
            )
        else:
            severity = Severity.WARNING
            text += " without a task: if that lasts it is powered off, nothing is to be done"
        following.wrong(lost, fact.name, severity, text, since=fact.memory.state_since)
    if fact.quarantined:
        text = (
            f"{where} fails every task at once and is quarantined, powered off and then removed: "
            f"look at the tasks that failed on it; take off its tag `{QUARANTINED_TAG}` to use it"
        )
        following.wrong(
            quarantined, fact.name, Severity.ERROR, text, since=fact.memory.quarantined_at
        )


def _orphans(following: Following, fleet: Fleet, free_volumes: Collection[str]) -> None:
    """Told once, when the removal is first planned: it is repeated until the thing is gone."""
    kind = EpisodeKind.ORPHAN_REMOVED
    for effect in fleet.effects:
        if effect.reason in (Reason.HALF_MADE, Reason.ORPHAN_VOLUME):
            text = f"{effect.because}: it is removed, nothing is to be done"
            following.wrong(kind, effect.subject, Severity.INFO, text)
    told = {episode.subject for episode in following.standing if episode.kind is kind}
    for episode in fleet.memory.episodes:
        there = episode.subject in free_volumes or episode.subject in fleet.by_name
        if episode.kind is kind and there and episode.subject not in told:
            following.unseen(kind, episode.subject)


def _permissions(following: Following, fleet: Fleet) -> None:
    kind = EpisodeKind.UNAUTHORIZED
    clearml, zones = fleet.world.clearml, fleet.world.zones.values()
    dark = [zone for zone in zones if zone.refused]
    since = fleet.memory.unauthorized_since
    if dark or since:
        what = dark[0].error if dark else "calls that change something are refused"
        text = (
            f"Scaleway refuses the daemon's key ({what}): give it InstancesFullAccess and "
            "BlockStorageFullAccess on the project, or set a new one"
        )
        following.wrong(
            kind, SCALEWAY, Severity.ERROR, text, since=since, patience=UNAUTHORIZED_PATIENCE
        )
    elif not all(zone.complete for zone in zones):
        following.unseen(kind, SCALEWAY)
    if clearml.refused:
        text = f"ClearML refuses the daemon's key ({clearml.error}): set a new one"
        following.wrong(kind, CLEARML, Severity.ERROR, text, patience=UNAUTHORIZED_PATIENCE)
    elif not clearml.complete:
        following.unseen(kind, CLEARML)


def _answers(following: Following, fleet: Fleet) -> None:
    views: dict[str, ClearmlView | ZoneView] = {CLEARML: fleet.world.clearml}
    views |= fleet.world.zones
    for subject, view in views.items():
        kind = EpisodeKind.OBSERVATION_FAILING
        if view.refused:  # another episode, and no full answer either
            following.unseen(kind, subject)
        elif not view.complete:
            service = CLEARML if subject == CLEARML else f"{SCALEWAY} in {subject}"
            lasts = format_duration(OBSERVATION_PATIENCE)
            text = (
                f"{service} gives no full answer for more than {lasts} ({view.error}): nothing is "
                "launched or stopped there; see whether the service, or the way to it, is down"
            )
            following.wrong(kind, subject, Severity.ERROR, text, patience=OBSERVATION_PATIENCE)


def _budgets(following: Following, fleet: Fleet) -> None:
    """One for each share that is reached, until the next period begins."""
    for standing in fleet.budgets:
        budget, reached = standing.budget, f"{standing.eur:.2f} EUR of {standing.name} are spent"
        for share in budget.alert_at:
            if standing.share * 100 >= share:
                text = (
                    f"{reached}; it will be {standing.projected_eur:.2f} by "
                    f"{standing.until:%Y-%m-%d %H:%M} UTC if all that is paid for now goes on"
                )
                subject = f"{share:g} % of {standing.name}"
                following.wrong(EpisodeKind.BUDGET, subject, Severity.WARNING, text)
        if standing.share >= 1:
            severity, what = Severity.WARNING, "it holds nothing back"
            if standing.blocks:
                severity = Severity.ERROR
                what = (
                    "nothing is launched and no task pulled until "
                    f"{standing.until:%Y-%m-%d %H:%M} UTC, what runs finishes; raise it if that "
                    "is too early"
                )
            following.wrong(EpisodeKind.BUDGET, standing.name, severity, f"{reached}: {what}")
