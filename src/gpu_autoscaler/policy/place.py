"""Where a new instance is created: in which order placements are tried, and which are left out.

The order is the configuration's, or that of prices; what Scaleway calls out of stock comes after
the rest, and is tried all the same: its figure is advice, and can be wrong either way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gpu_autoscaler.config.models import QueueConfig
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.stock import holds_back


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is launched in a placement now."""

    reason: Reason
    because: str
    """A sentence that names the placement."""


def choice(fleet: Fleet, queue: QueueConfig, chosen: Placement) -> str:
    """What is created where, and why not in a better place."""
    told = ", though Scaleway calls it out of stock" if _short(fleet, chosen) else ""
    said = [f"creating one ({chosen}){told}", *passed_over(fleet, queue, chosen)]
    return "; ".join(dict.fromkeys(said))


def in_order(fleet: Fleet, queue: QueueConfig) -> list[Placement]:
    """The queue's placements, the one to try first at the beginning."""
    return sorted(_wanted(fleet, queue), key=lambda place: _short(fleet, place))


def passed_over(fleet: Fleet, queue: QueueConfig, chosen: Placement | None) -> list[str]:
    """Why each placement that would have been better is not taken; with None, each of them."""
    wanted = _wanted(fleet, queue)
    better = wanted if chosen is None else wanted[: wanted.index(chosen)]
    found = []
    for place in better:
        refusal = refused(fleet, queue, place)
        if refusal is not None:
            found.append(refusal.because)
        else:
            found.append(f"{place}: out of stock, says Scaleway")
    return [*found, *_prices_missing(fleet, queue)]


def refused(fleet: Fleet, queue: QueueConfig, place: Placement) -> Refusal | None:
    """Why nothing may be launched there for the queue now; None when it may be tried."""
    return held_back(fleet, queue, place) or too_dear(fleet, queue, place)


def held_back(fleet: Fleet, queue: QueueConfig, place: Placement) -> Refusal | None:
    """The same, whatever it costs."""
    spec = fleet.spec(queue.name, place)
    if backoff := fleet.backoffs.of(place, spec):
        return Refusal(Reason.NO_PLACEMENT, f"{place}: {holds_back(backoff, fleet.now)}")
    if in_vain := fleet.breakers.refusal(place, spec):
        return Refusal(Reason.BREAKER_OPEN, in_vain)
    if not fleet.zone_answers(place.zone):
        return Refusal(Reason.NO_PLACEMENT, f"{place}: the zone does not answer")
    if trying := fleet.trying_stock(place):
        return Refusal(Reason.NO_PLACEMENT, f"{place}: was out of stock, {trying} tries it first")
    return None


def too_dear(fleet: Fleet, queue: QueueConfig, place: Placement) -> Refusal | None:
    """Which bound on money forbids an instance there; None when none does."""
    if above := above_max_price(fleet, queue, place):
        return Refusal(Reason.MAX_PRICE, above)
    cap, price = fleet.config.max_eur_per_hour, fleet.world.prices.get(place.commercial_type)
    budgets = (*fleet.config.budgets, *queue.budgets)
    if price is None and any(budget.at_cap == "block" for budget in budgets):
        return Refusal(Reason.NO_PLACEMENT, _unknown(place, "a budget"))
    if cap is None:
        return None
    if price is None:
        return Refusal(Reason.FLEET_MAX_EUR, _unknown(place, "max_eur_per_hour"))
    total = fleet.eur_per_hour() + price
    if total > cap:
        text = f"{place}: {total:.2f} EUR/h would be above max_eur_per_hour = {cap:.2f}"
        return Refusal(Reason.FLEET_MAX_EUR, text)
    return None


def above_max_price(fleet: Fleet, queue: QueueConfig, place: Placement) -> str:
    """Why one instance there is too dear for the queue; empty when it is not."""
    most = queue.at(place).max_price_per_hour
    if most is None:
        return ""
    price = fleet.world.prices.get(place.commercial_type)
    if price is None:
        return _unknown(place, "max_price_per_hour")
    return (
        f"{place}: {price:.2f} EUR/h is above max_price_per_hour = {most:.2f}"
        if price > most
        else ""
    )


def _unknown(place: Placement, bound: str) -> str:
    return f"{place}: its price is not known yet, and {bound} bounds it"


def _wanted(fleet: Fleet, queue: QueueConfig) -> list[Placement]:
    """By what the configuration wants alone."""
    if queue.select == "preference":
        return list(queue.placements)
    prices = fleet.world.prices

    def dearness(place: Placement) -> tuple[bool, float]:
        price = prices.get(place.commercial_type)
        return price is None, price or 0.0

    return sorted(queue.placements, key=dearness)


def _prices_missing(fleet: Fleet, queue: QueueConfig) -> Iterator[str]:
    if queue.select == "cheapest":
        for place in queue.placements:
            if place.commercial_type not in fleet.world.prices:
                yield f"{place}: its price is not known yet, so it comes last"


def _short(fleet: Fleet, place: Placement) -> bool:
    view = fleet.world.zones.get(place.zone)
    stocks = (view.availability or {}) if view else {}
    return stocks.get(place.commercial_type) is Availability.SHORTAGE
