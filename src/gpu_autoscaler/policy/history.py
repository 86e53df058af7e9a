"""What memory keeps for people: the decision log, how long boots take, what the month has cost."""

from datetime import UTC, datetime, timedelta

from gpu_autoscaler.domain.effects import Failure, Reason, queue_of
from gpu_autoscaler.domain.lifecycle import BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Account, Said
from gpu_autoscaler.domain.requests import Answer
from gpu_autoscaler.policy.budgets import period, spent_since
from gpu_autoscaler.policy.fleet import Fleet

LAST_SAID = 200
"""Lines kept: some days of a small team, 40 kB of memory."""

LAST_BOOTS = 10
"""Per placement: the median of so many is what a boot typically takes."""


def said(fleet: Fleet, answers: tuple[Answer, ...]) -> tuple[Said, ...]:
    """The decision log with what this cycle adds."""
    now, ids = fleet.now, fleet.memory.queue_ids
    lines = [
        Said(now, each.request.subject, "", each.request.kind.value, Reason.OPERATOR, each.sentence)
        for each in answers
    ]
    for outcome in fleet.world.outcomes:
        failure, effect = outcome.failure, outcome.effect
        if failure is not None:
            verb = "left undone" if failure is Failure.GUARD else f"{effect.verb} failed"
            text = outcome.message or str(failure)
            queue = queue_of(effect, ids)
            lines.append(Said(outcome.at, effect.subject, queue, verb, failure, text))
    for effect in fleet.effects:
        if effect.reason is not Reason.REGISTERED:  # every machine does, and nothing follows
            why = effect.because
            queue = queue_of(effect, ids)
            lines.append(Said(now, effect.subject, queue, effect.verb, effect.reason, why))
    return (*fleet.memory.said, *lines)[-LAST_SAID:]


def boots(fleet: Fleet) -> dict[str, tuple[float, ...]]:
    """How long the last boots of each placement took, from power-on to the first report."""
    found = dict(fleet.memory.boots)
    for fact in fleet.facts.values():
        came = fact.state in (S.IDLE, S.RUNNING_TASK) and fact.previous in BOOTING
        heard = fact.memory.last_report_at
        if came and heard is not None:
            place = str(fact.instance.placement)
            took = (heard - fact.memory.booted_at).total_seconds()
            found[place] = (*found.get(place, ()), round(took))[-LAST_BOOTS:]
    return found


def account(fleet: Fleet) -> Account | None:
    """This month's cost so far, as the ledger has it."""
    if not fleet.world.prices:
        return fleet.memory.account
    month = f"{fleet.now.astimezone(UTC):%Y-%m}"
    before = fleet.memory.account
    if before is None or before.month != month:
        before = Account(month, fleet.now)
    since, _ = period("month", fleet.now)
    eur = sum(spent_since(fleet.memory, fleet.world.prices, since, fleet.now).values())
    at_work = sum(
        fleet.world.prices.get(fact.instance.commercial_type, 0.0)
        for fact in fleet.facts.values()
        if fact.state is S.RUNNING_TASK
    )
    return Account(month, before.since, eur, max(before.peak_eur_per_hour, at_work))


def saved(kept: Account, now: datetime) -> float:
    """Euros that as many machines as ever worked at once would have cost more, always on."""
    return kept.peak_eur_per_hour * ((now - kept.since) / timedelta(hours=1)) - kept.eur
