"""Budgets: what the present day, week or month has cost, what it may cost, and who waits for it.

A budget that is used up holds its queues as a pause does: nothing is launched and no task pulled,
what runs goes on to its end. So it is overspent by the tasks that run then, and by no more.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.money import BudgetConfig
from gpu_autoscaler.domain.ledger import HOUR, Stretch
from gpu_autoscaler.domain.memory import Memory

WHOLE_FLEET = ""
"""In place of a queue's name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in its present period."""

    queue: str
    """Whose it is; `WHOLE_FLEET` for that of all."""
    budget: BudgetConfig
    since: datetime
    until: datetime
    """When the next period begins, UTC."""
    eur: float
    """Spent so far."""
    projected_eur: float
    """By its end, if all that is paid for now goes on."""

    @property
    def share(self) -> float:
        """Of it that is spent."""
        return self.eur / self.budget.eur

    @property
    def blocks(self) -> bool:
        """It is used up, and not just to be told of."""
        return self.budget.at_cap == "block" and self.eur >= self.budget.eur

    @property
    def name(self) -> str:
        """For people: `20.00 EUR a day for H100-1-80G`."""
        of = f"for {self.queue}" if self.queue else "for the fleet"
        return f"{self.budget.eur:.2f} EUR a {self.budget.per} {of}"

    @property
    def held(self) -> str:
        """Why a queue is held."""
        return (
            f"the budget of {self.name} is used up ({self.eur:.2f} EUR): "
            f"it opens again at {self.until:%Y-%m-%d %H:%M} UTC"
        )


def standings(
    memory: Memory, config: Config, prices: Mapping[str, float], now: datetime
) -> tuple[Standing, ...]:
    """All budgets, those of the fleet first."""
    wanted = [(WHOLE_FLEET, each) for each in config.budgets]
    wanted += [(name, each) for name, queue in config.queues.items() for each in queue.budgets]
    if not wanted:
        return ()
    rates = _sums(_lasting(memory), lambda each: _eur_per_hour(each, prices))
    spent: dict[str, dict[str, float]] = {}
    for per in {budget.per for _, budget in wanted}:
        since, _ = period(per, now)
        spent[per] = spent_since(memory, prices, since, now)
    found = []
    for queue, budget in wanted:
        since, until = period(budget.per, now)
        eur, rate = (_of(queue, sums) for sums in (spent[budget.per], rates))
        projected = eur + rate * ((until - now) / HOUR)
        found.append(Standing(queue, budget, since, until, eur, projected))
    return tuple(found)


def held(of: Iterable[Standing], config: Config) -> dict[str, Standing]:
    """By queue, the budget that keeps it from working; of several the one that opens last."""
    found: dict[str, Standing] = {}
    for standing in of:
        if standing.blocks:
            for name in [standing.queue] if standing.queue else config.queues:
                before = found.get(name)
                if before is None or standing.until > before.until:
                    found[name] = standing
    return found


def period(per: str, now: datetime) -> tuple[datetime, datetime]:
    """The day, week (from Monday) or month, UTC, that a moment is in."""
    midnight = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    if per == "day":
        return midnight, midnight + timedelta(days=1)
    if per == "week":
        monday = midnight - timedelta(days=midnight.weekday())
        return monday, monday + timedelta(days=7)
    first = midnight.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def spent_since(
    memory: Memory, prices: Mapping[str, float], since: datetime, now: datetime
) -> dict[str, float]:
    """Euros by queue, from a midnight on."""
    first_day = since.date().isoformat()
    found: dict[str, float] = {}
    for day, queues in memory.spent.items():
        if day >= first_day:
            for queue, eur in queues.items():
                found[queue] = found.get(queue, 0.0) + eur

    def so_far(each: Stretch) -> float:
        begun = min(max(each.since, since), now)
        return _eur_per_hour(each, prices) * ((now - begun) / HOUR)

    for queue, eur in _sums(_lasting(memory), so_far).items():
        found[queue] = found.get(queue, 0.0) + eur
    return found


def _lasting(memory: Memory) -> list[Stretch]:
    return [known.stretch for known in memory.instances.values() if known.stretch is not None]


def _eur_per_hour(lasting: Stretch, prices: Mapping[str, float]) -> float:
    machine = lasting.eur_per_hour
    if machine is None:
        machine = prices.get(lasting.commercial_type, 0.0)
    return machine + lasting.storage_eur_per_hour


def _sums(of: Iterable[Stretch], amount: Callable[[Stretch], float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in of:
        found[each.queue] = found.get(each.queue, 0.0) + amount(each)
    return found


def _of(queue: str, sums: Mapping[str, float]) -> float:
    return sums.get(queue, 0.0) if queue else sum(sums.values())
