"""What the daemons wrote down of the simulated time, to be held against what really happened."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.ledger import Stretch
from gpu_autoscaler.policy.ledger import lasting
from gpu_autoscaler.simulation.fates import UNDER_WAY
from gpu_autoscaler.store.pages import parse

if TYPE_CHECKING:
    from gpu_autoscaler.simulation.world import World

TICK = timedelta(milliseconds=1)
"""Moments are stored to the microsecond, and reckoned with floats."""


def stretches(world: "World", until: datetime) -> list[Stretch]:
    """Everything that is written, or that the daemon that acts remembers, up to now."""
    found = _written(world)
    acting = next(
        (each for each in reversed(world.daemons) if each.lives and each.loop.leads), None
    )
    memory = acting.loop.memory if acting is not None else None
    if memory is not None:
        written = {each.key for each in found}
        found += [each for each in memory.unbooked if each.key not in written]
        found += [replace(each, until=until) for each in lasting(memory) if each.since < until]
    return found


def used_up(world: "World", configs: Sequence[Config], queue: str) -> str:
    """Which budget forbids a launch for this queue, whichever of these is in force, by what was
    written down long enough ago to be known to every daemon; empty when none does."""
    known = world.clock.now() - UNDER_WAY
    spent: dict[str, float] = defaultdict(float)
    for each in _written(world):
        if each.until <= known:
            spent[each.queue] += each.eur
    whole = sum(spent.values())

    def held(config: Config) -> str:
        own = config.queues[queue].budgets if queue in config.queues else ()
        sums = [(each, whole) for each in config.budgets] + [(each, spent[queue]) for each in own]
        return next(
            (
                f"{eur:.2f} of {budget.eur:.2f} EUR were spent by {known:%H:%M}"
                for budget, eur in sums
                if eur > budget.eur
            ),
            "",
        )

    found = [held(config) for config in configs]
    return found[-1] if all(found) else ""


def _written(world: "World") -> list[Stretch]:
    return [
        stretch
        for name, page in world.ledger_pages.items()
        if page.blob is not None
        for stretch in parse(date.fromisoformat(name[:10]), page.blob.content, name).stretches
    ]


def counted_twice(of: Iterable[Stretch]) -> list[str]:
    """Moments of an instance that are in two stretches."""
    by_server: dict[str, list[Stretch]] = defaultdict(list)
    for each in of:
        by_server[each.server_id].append(each)
    return [
        f"{other.instance} is counted twice from {other.since} to {one.until}"
        for all_of_one in by_server.values()
        for one, other in pairwise(sorted(all_of_one, key=lambda each: each.since))
        if one.until - other.since > TICK
    ]
