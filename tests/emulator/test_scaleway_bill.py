"""The cloud's own bill."""

import pytest

from gpu_autoscaler.domain.model import Availability, Placement, ServerState
from gpu_autoscaler.emulator.scaleway_bill import SBS_EUR_PER_GB_HOUR
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from tests.emulator.scaleway_rig import LONG, TYPE, ZONE, Rig, root_of

HOUR = 3600.0
H100_EUR_PER_HOUR = 2.8665


def test_a_server_costs_from_power_on_to_the_end_of_its_power_off() -> None:
    rig = Rig()
    server = rig.create()
    rig.turn(HOUR)
    assert rig.model.bill().servers_eur == 0
    rig.act(server, "poweron")
    rig.turn(HOUR)
    rig.act(server, "poweroff")
    rig.turn(HOUR)
    seconds = HOUR + 45
    bill = rig.model.bill(granularity_seconds=1)
    assert bill.billed_seconds_by_server == {server.id: seconds}
    assert bill.billed_hours_by_type[TYPE] == pytest.approx(seconds / HOUR)
    assert bill.servers_eur == pytest.approx(seconds / HOUR * H100_EUR_PER_HOUR)
    assert rig.model.bill().billed_seconds_by_server[server.id] == HOUR + 60


@pytest.mark.parametrize("state", [ServerState.RUNNING, ServerState.STOPPED_IN_PLACE])
def test_standby_costs_as_much_as_work(state: ServerState) -> None:
    rig = Rig()
    rig.bring_to(state)
    before = rig.model.bill(granularity_seconds=1).servers_eur
    rig.turn(HOUR)
    spent = rig.model.bill(granularity_seconds=1).servers_eur - before
    assert spent == pytest.approx(H100_EUR_PER_HOUR)


def test_a_silent_failure_to_start_costs_its_minute() -> None:
    rig = Rig()
    rig.model.set_stock(Placement(TYPE, ZONE), Availability.SHORTAGE, StockMode.SILENT)
    server = rig.running()
    assert rig.model.bill().billed_seconds_by_server == {server.id: 60}


def test_a_volume_costs_until_it_is_deleted() -> None:
    rig = Rig()
    server = rig.create()
    rig.turn(HOUR)
    rig.model.delete_server(ZONE, server.id)
    rig.turn(HOUR)
    rig.model.block.delete(ZONE, root_of(server).id)
    rig.turn(HOUR)
    bill = rig.model.bill()
    assert bill.volume_gb_hours == pytest.approx(2 * 125)
    assert bill.eur == bill.volumes_eur == pytest.approx(250 * SBS_EUR_PER_GB_HOUR)


def test_what_is_left_is_counted() -> None:
    rig = Rig()
    gone, _ = rig.running(), rig.running()
    rig.act(gone, "terminate")
    rig.turn(LONG)
    bill = rig.model.bill()
    assert (bill.servers_created, bill.servers_left) == (2, 1)
    assert (bill.volumes_created, bill.volumes_left) == (2, 2)
