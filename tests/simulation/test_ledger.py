"""What the ledger says is what the emulated cloud charges, and nothing is in it twice."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.simulation import ledger
from gpu_autoscaler.simulation.faults import Level
from gpu_autoscaler.simulation.play import play
from gpu_autoscaler.simulation.scenario import DENSE, THESIS, scenario
from tests.store.test_ledger import NOON, stretch


@pytest.mark.parametrize(("seed", "days", "workload"), [(3, 2.0, THESIS), (7, 4 / 24, DENSE)])
def test_the_ledger_agrees_with_the_bill(seed: int, days: float, workload: str) -> None:
    result = play(scenario(seed, days, workload, Level.NONE))
    assert result.violation is None
    billed: dict[str, float] = {}
    for each in ledger.stretches(result.world, result.ended_at):
        seconds = each.billed.total_seconds()
        billed[each.server_id] = billed.get(each.server_id, 0.0) + seconds
    charged = {k: v for k, v in result.bill.billed_seconds_by_server.items() if v}
    assert billed == pytest.approx(charged)


def test_what_is_in_two_stretches_is_found() -> None:
    good = [stretch(0), stretch(1), stretch(0, server_id="id-m2")]
    assert ledger.counted_twice(good) == []
    long = replace(stretch(0), until=NOON + timedelta(minutes=2))
    (said,) = ledger.counted_twice([stretch(1), long])
    assert said.startswith("m1 is counted twice from")
