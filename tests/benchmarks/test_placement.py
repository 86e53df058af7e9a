"""What three placements instead of one are worth when stock comes and goes: waits and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from tests.simulation.shelves import PLACES, Day, config, dice_of, live, some

SEEDS = (1, 2, 3)
HOURS, TASKS, LONGEST = 20.0, 25, timedelta(hours=3)
CHOICES = {
    "one placement": PLACES[:1],
    "two": PLACES[:2],
    "three, one of them dearer": PLACES,
}


@dataclass(frozen=True, slots=True)
class Sum:
    """Of all seeds."""

    days: Sequence[Day]

    @property
    def tasks(self) -> int:
        return sum(day.figures.tasks for day in self.days)

    @property
    def mean_wait(self) -> timedelta:
        waited = [day.figures.mean_wait * day.figures.tasks for day in self.days]
        return sum(waited, timedelta(0)) / self.tasks

    @property
    def p95_wait(self) -> timedelta:
        """Of the worst seed."""
        return max(day.figures.p95_wait for day in self.days)

    @property
    def eur(self) -> float:
        return sum(day.figures.eur for day in self.days)

    @property
    def active_hours(self) -> float:
        hours = (day.figures.active_hours_by_type.values() for day in self.days)
        return sum(map(sum, hours))

    @property
    def refused(self) -> int:
        return sum(day.failures().total() for day in self.days)


def test_three_placements_against_one() -> None:
    """The same tasks and the same shortages for each; printed by `make bench`."""
    found: dict[str, Sum] = {}
    for name, places in CHOICES.items():
        days = []
        for seed in SEEDS:
            tasks = some(dice_of(seed), HOURS, TASKS, longest=LONGEST)
            days.append(live(f"{seed}", config(places, poll="1m", max_instances=25), tasks))
        found[name] = Sum(days)
    first = found["one placement"]
    stocked = [1 - day.empty_share[PLACES[0]] for day in first.days]
    title = (
        f"{first.tasks} tasks of up to 3 hours in {len(SEEDS)} x {HOURS:g} hours; the first "
        f"placement had stock {100 * sum(stocked) / len(stocked):.0f} % of the time"
    )
    table = Table("", *found, title=title)
    rows = {
        "mean wait": [
            f"{each.mean_wait / timedelta(minutes=1):.1f} min" for each in found.values()
        ],
        "95th percentile, worst seed": [
            f"{each.p95_wait / timedelta(minutes=1):.0f} min" for each in found.values()
        ],
        "cost": [f"{each.eur:.0f} EUR" for each in found.values()],
        "cost per hour of work": [
            f"{each.eur / each.active_hours:.2f} EUR" for each in found.values()
        ],
        "launches that met an empty shelf": [str(each.refused) for each in found.values()],
    }
    for label, values in rows.items():
        table.add_row(label, *values)
    Console(width=120).print(table)
    waits = [each.mean_wait for each in found.values()]
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] < waits[0] / 2
