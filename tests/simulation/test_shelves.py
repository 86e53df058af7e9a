"""Days with shortages: every task runs, each change of placement is explained, none is hammered."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from gpu_autoscaler.commands.plan import as_dict
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from tests.simulation.shelves import PLACES, Day, Probe, config, dice_of, live, some

BUSY = {"idle_timeout": "5m", "idle_action": "delete"}
"""So that each task needs a machine of its own."""
ADMITTED = (StockMode.AT_CREATE, StockMode.AT_POWERON)


SCARCE = timedelta(minutes=30)
"""So long is there stock on average: mostly all three placements are empty."""


def spell(
    seed: int, hours: float, probe: Probe = Probe.HONEST, modes: Sequence[StockMode] = ADMITTED
) -> Day:
    workload = some(dice_of(seed), hours, 30, longest=timedelta(hours=1))
    return live(
        f"{seed}", config(PLACES, **BUSY), workload, probe=probe, modes=modes, stocked=SCARCE
    )


def test_a_day_with_shortages_runs_every_task_and_explains_each_change_of_placement() -> None:
    found = spell(1, 24, modes=tuple(StockMode))
    assert found.figures.tasks_by_status == {"completed": 30}
    launches = found.launches()
    elsewhere = [(c, e) for c, e in launches if e.order.placement != PLACES[0]]
    print({str(place): f"{share:.0%} empty" for place, share in found.empty_share.items()})
    print(f"{len(launches)} created, {len(elsewhere)} of them not in the first placement")
    assert len(elsewhere) >= 5
    said = {line["subject"]: line["because"] for line in found.logged if line["event"] == "create"}
    for cycle, effect in elsewhere:
        better = PLACES[: PLACES.index(effect.order.placement)]
        for place in better:
            (why,) = [part for part in effect.because.split("; ") if part.startswith(f"{place}: ")]
            assert "next try at" in why or "out of stock" in why
        assert said[effect.subject] == effect.because, "in the log"
        shown = {each["subject"]: each["because"] for each in as_dict(cycle)["effects"]}
        assert shown[effect.subject] == effect.because, "in `plan`"
    nowhere = [
        queue
        for cycle in found.cycles
        for queue in cycle.plan.queues
        if queue.reason is Reason.NO_PLACEMENT
    ]
    assert nowhere, "there was an hour without any stock"
    for queue in nowhere:
        assert all(f"{place}: " in queue.because for place in PLACES), "each with its next try"


@pytest.mark.parametrize("probe", list(Probe))
def test_an_empty_shelf_is_met_once_per_back_off_whatever_the_probe_says(probe: Probe) -> None:
    found = spell(2, 8, probe)
    assert found.figures.tasks_by_status == {"completed": 30}
    failures = found.failures()
    print(f"{probe}: {failures.total()} launches met an empty shelf, in {len(failures)} back-offs")
    assert failures.total() >= 3
    assert max(failures.values()) == 1
    assert found.begun_in_a_back_off() == []


@pytest.mark.parametrize("probe", [Probe.ALWAYS, Probe.FLIPS])
def test_a_shelf_that_is_silently_empty_is_met_once_per_back_off_after_the_first(
    probe: Probe,
) -> None:
    """The first time nobody can know before a minute is over: what was begun until then counts."""
    found = spell(3, 8, probe, (StockMode.SILENT,))
    failures = found.failures()
    assert failures.total() >= 3
    assert max([count for (_, row, _), count in failures.items() if row > 1], default=0) <= 1
    assert found.begun_in_a_back_off() == []
