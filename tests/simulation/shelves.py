"""Days on which stock comes and goes, as it does for GPUs, and the probe says what it likes of it.

Outages last as recorded for V100s in nine AWS zones: half of them above 29 minutes, a tenth above
four and a half hours, and there is stock 64 % of the time.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from structlog.testing import capture_logs

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.effects import CreateInstance, Failure, Reason, StartInstance
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from gpu_autoscaler.runtime.clock import Dice, run_virtual, seeded
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.simulation.daemon import Daemon, track_processes
from gpu_autoscaler.simulation.faults import NONE
from gpu_autoscaler.simulation.figures import Figures
from gpu_autoscaler.simulation.invariants import Watch
from gpu_autoscaler.simulation.scenario import PROJECT
from gpu_autoscaler.simulation.workload import SMALL, Submission
from gpu_autoscaler.simulation.world import World

MEDIAN_OUTAGE, OUTAGE_SPREAD = timedelta(minutes=29), 1.74
"""Log-normal: exp(1.28 * 1.74) = 9.3 times the median at the 90th percentile."""
LONGEST_OUTAGE = timedelta(hours=12)
MEAN_STOCK = timedelta(minutes=200)
"""Between two outages, exponential; with outages of 112 minutes on average, 64 % of the time."""
LONGEST_AFTER = timedelta(days=4)
"""After the last task came, for all of them to end."""

PLACES = (
    Placement("H100-1-80G", "fr-par-2"),
    Placement("H100-1-80G", "pl-waw-2"),
    Placement("H100-SXM-2-80G", "fr-par-2"),
)


class Probe(StrEnum):
    """What the availability listing says."""

    HONEST = "honest"
    ALWAYS = "always available"
    NEVER = "always shortage"
    FLIPS = "flips each minute"


class NotingWatch(Watch):
    """Keeps what every cycle saw and decided."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.cycles: list[Cycle] = []

    def cycled(self, daemon: Daemon, cycle: Cycle) -> None:
        super().cycled(daemon, cycle)
        self.cycles.append(cycle)


@dataclass
class ShelfWorld(World):
    """Nothing goes wrong in it but stock."""

    probe: Probe = Probe.HONEST
    modes: Sequence[StockMode] = tuple(StockMode)
    stocked: timedelta = MEAN_STOCK
    """On average, between two outages."""
    empty_for: Counter[Placement] = field(default_factory=Counter)
    """Seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.watch: NotingWatch = NotingWatch(self)
        self._empty: dict[Placement, StockMode | None] = {}
        self._minute = 0

    def begin_shelves(self, places: Collection[Placement]) -> None:
        """From now on they empty and fill."""
        for place in places:
            self._fill(place, self.random(f"stock of {place}"))
        if self.probe is Probe.FLIPS:
            self._flip()

    def _fill(self, place: Placement, dice: Dice) -> None:
        self._put(place, None)
        up = dice.expovariate(1 / self.stocked.total_seconds())
        self.call_later(up, lambda: self._clear(place, dice))

    def _clear(self, place: Placement, dice: Dice) -> None:
        self._put(place, dice.choice(list(self.modes)))
        median, longest = MEDIAN_OUTAGE.total_seconds(), LONGEST_OUTAGE.total_seconds()
        down = min(dice.lognormvariate(math.log(median), OUTAGE_SPREAD), longest)
        self.empty_for[place] += round(down)
        self.call_later(down, lambda: self._fill(place, dice))

    def _flip(self) -> None:
        self._minute += 1
        for place, mode in self._empty.items():
            self._put(place, mode)
        self.call_later(60, self._flip)

    def _put(self, place: Placement, empty: StockMode | None) -> None:
        self._empty[place] = empty
        stock = Availability.AVAILABLE if empty is None else Availability.SHORTAGE
        flipped = Availability.SHORTAGE if self._minute % 2 else Availability.AVAILABLE
        told = {
            Probe.HONEST: None,
            Probe.ALWAYS: Availability.AVAILABLE,
            Probe.NEVER: Availability.SHORTAGE,
            Probe.FLIPS: flipped,
        }[self.probe]
        self.scaleway.set_stock(place, stock, empty or StockMode.AT_POWERON, told=told)


@dataclass(frozen=True, slots=True)
class Day:
    """What came of it."""

    figures: Figures
    cycles: list[Cycle]
    logged: list[dict[str, Any]]
    empty_share: dict[Placement, float]

    def failures(self) -> Counter[tuple[Placement, int, Any]]:
        """How many launches met an empty shelf, by placement, place in the row, and back-off.

        With what is known only later: a start that was accepted and ended in `stopped`.
        """
        found: Counter[tuple[Placement, int, Any]] = Counter()
        fell_back: set[str] = set()
        for cycle in self.cycles:
            backoffs = {b.placement: b for b in cycle.plan.memory.backoffs}
            places = [
                outcome.placement
                for outcome in cycle.world.outcomes
                if outcome.failure is Failure.OUT_OF_STOCK
            ]
            for effect in cycle.plan.effects:
                if effect.reason is Reason.START_FELL_BACK and effect.subject not in fell_back:
                    fell_back.add(effect.subject)
                    places.append(effect.instance.placement)  # type: ignore[attr-defined]
            for place in places:
                assert place is not None
                backoff = backoffs[place]
                found[place, backoff.failures, backoff.failed_at] += 1
        return found

    def launches(self) -> list[tuple[Cycle, CreateInstance]]:
        """Every creation, with the cycle that decided it."""
        return [
            (cycle, effect)
            for cycle in self.cycles
            for effect in cycle.plan.effects
            if isinstance(effect, CreateInstance)
        ]

    def begun_in_a_back_off(self) -> list[str]:
        """Launches in a placement that backed off by the very plan that made them."""
        return [
            effect.key
            for cycle in self.cycles
            for effect in cycle.plan.effects
            if isinstance(effect, CreateInstance | StartInstance)
            for backoff in cycle.plan.memory.backoffs
            if backoff.until > cycle.finished_at and backoff.placement == _place(effect)
        ]


def _place(effect: CreateInstance | StartInstance) -> Placement:
    return (
        effect.order.placement if isinstance(effect, CreateInstance) else effect.instance.placement
    )


def config(places: Sequence[Placement], *, poll: str = "30s", **queue: Any) -> Config:
    """One queue with these placements."""
    listed = [{"type": place.commercial_type, "zone": place.zone} for place in places]
    settings = {"name": SMALL, "placements": listed, "max_instances": 5, **queue}
    return Config.model_validate(
        {
            "fleet": "shelves",
            "poll_interval": poll,
            "scaleway": {"project_id": PROJECT},
            "queues": {SMALL: settings},
        }
    )


def live(
    seed: str,
    settings: Config,
    workload: Sequence[Submission],
    *,
    probe: Probe = Probe.HONEST,
    modes: Sequence[StockMode] = tuple(StockMode),
    stocked: timedelta = MEAN_STOCK,
) -> Day:
    """Submit all of it to the queue, and wait until every task has ended. CPU time alone."""

    async def main() -> tuple[Figures, list[Cycle], dict[Placement, float]]:
        track_processes()
        world = ShelfWorld(seed, NONE, settings, probe=probe, modes=modes, stocked=stocked)
        world.begin_shelves(PLACES)
        world.start_daemon()
        begun = world.clock.now()
        for each in sorted(workload, key=lambda task: task.at):
            ahead = (begun + each.at - world.clock.now()).total_seconds()
            await world.clock.sleep(max(0.0, ahead))
            seconds = each.duration.total_seconds()
            task_id = world.clearml.create_task(each.name, duration=seconds)
            world.fates.submitted(task_id, "completed", SMALL)
            world.clearml.enqueue(task_id, world.queue_ids[SMALL])
        end = world.clock.now() + LONGEST_AFTER
        tasks = world.clearml.tasks.all.values()
        while any(task.status != "completed" for task in tasks):
            assert world.clock.now() < end, "some never end"
            await world.clock.sleep(60)
            if world.watch.broken is not None:
                raise world.watch.broken
        took = (world.clock.now() - begun).total_seconds()
        for daemon in world.daemons:
            daemon.process.kill()
        empty = {place: world.empty_for[place] / took for place in PLACES}
        return world.figures(), world.watch.cycles, empty

    with capture_logs() as logged:
        figures, cycles, empty = run_virtual(main())
    return Day(figures, cycles, [dict(line) for line in logged], empty)


def some(dice: Dice, hours: float, tasks: int, *, longest: timedelta) -> list[Submission]:
    """So many tasks, at any time, now and then several at once."""
    found: list[Submission] = []
    while len(found) < tasks:
        at = timedelta(hours=dice.uniform(0, hours))
        for _ in range(min(dice.choice([1, 1, 1, 3]), tasks - len(found))):
            lasts = longest * dice.uniform(0.1, 1)
            found.append(Submission(at, SMALL, lasts, name=f"task {len(found)}"))
    return found


def dice_of(seed: int) -> Dice:
    """For a workload."""
    return seeded(f"{seed}/shelves")
