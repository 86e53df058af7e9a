"""The emulated servers and volumes against what was recorded of the real ones."""

from collections.abc import Callable, Collection

import pytest

from gpu_autoscaler.domain.model import Availability, Placement, ServerState, VolumeKind
from gpu_autoscaler.emulator.scaleway_errors import ScalewayError
from gpu_autoscaler.emulator.scaleway_order import NewVolume
from gpu_autoscaler.emulator.scaleway_power import Timings
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from tests.emulator.scaleway_rig import GB, IMAGE, LONG, TYPE, ZONE, Rig, root_of

PLACE = Placement(TYPE, ZONE)
ACTIONS = ("poweron", "poweroff", "stop_in_place", "reboot", "terminate", "backup")

S = ServerState
OUTCOMES = {
    # state: what the six actions (in the order above) lead to; a word in capitals is a refusal
    S.STOPPED: ("running", "WRONG", "WRONG", "WRONG", "WRONG", "stopped"),
    S.STARTING: ("IN USE", "IN USE", "stopped in place", "IN USE", "IN USE", "running"),
    S.RUNNING: ("WRONG", "stopped", "stopped in place", "running", "gone", "running"),
    S.STOPPING: ("IN USE", "IN USE", "stopped", "IN USE", "IN USE", "stopped"),
    S.STOPPED_IN_PLACE: ("running", "stopped", "IN USE", "running", "gone", "stopped in place"),
    S.LOCKED: ("IN USE",) * 6,
}
REFUSALS = {(400, "invalid_request_error"): "WRONG", (400, "precondition_failed"): "IN USE"}


@pytest.mark.parametrize(
    ("state", "action", "outcome"),
    [(s, a, o) for s, row in OUTCOMES.items() for a, o in zip(ACTIONS, row, strict=True)],
)
def test_every_action_in_every_state(state: ServerState, action: str, outcome: str) -> None:
    rig = Rig()
    server = rig.bring_to(state)
    assert server.state is state
    assert _outcome(rig, server, action) == outcome


def _outcome(rig: Rig, server: Server, action: str) -> str:
    try:
        rig.act(server, action)
    except ScalewayError as refusal:
        return REFUSALS[refusal.status, refusal.type]
    rig.turn(LONG)
    left = rig.model.all_servers()
    return left[0].state if left else "gone"


@pytest.mark.parametrize("state", OUTCOMES)
def test_only_a_stopped_server_can_be_deleted(state: ServerState) -> None:
    rig = Rig()
    server = rig.bring_to(state)
    if state is ServerState.STOPPED:
        rig.model.delete_server(ZONE, server.id)
        assert rig.model.all_servers() == []
    else:
        with pytest.raises(ScalewayError, match="precondition_failed"):
            rig.model.delete_server(ZONE, server.id)


def test_a_start_goes_through_the_recorded_details() -> None:
    rig = Rig()
    server = rig.create()
    assert (server.state, server.state_detail, server.public_ip) == ("stopped", "", None)
    rig.act(server, "poweron")
    seen = []
    for seconds in (0, 5, 14, 15):
        rig.turn(seconds)
        seen.append((str(server.state), server.state_detail))
    assert seen == [
        ("starting", "allocating node"),
        ("starting", "provisioning node"),
        ("running", "booting kernel"),
        ("running", "booted"),
    ]
    assert server.public_ip is not None


def test_a_terminated_server_leaves_its_block_volume_and_no_scratch() -> None:
    rig = Rig()
    scratch = NewVolume(VolumeKind.SCRATCH, 100 * GB)
    server = rig.running(volumes={"0": NewVolume(size=125 * GB), "1": scratch})
    volume = root_of(server)
    rig.act(server, "terminate")
    assert (server.state_detail, server.allowed_actions) == ("terminating", ())
    assert (volume.status, volume.detaching) == ("in_use", True)
    rig.turn(12)
    assert (volume.status, volume.server_id) == ("available", None)
    assert rig.model.server(ZONE, server.id) is server
    rig.turn(3)
    with pytest.raises(ScalewayError, match="not_found"):
        rig.model.server(ZONE, server.id)
    assert rig.model.block.find(ZONE) == [volume]


def test_a_terminating_server_without_scratch_keeps_its_allowed_actions() -> None:
    rig = Rig()
    server = rig.running()
    rig.act(server, "terminate")
    assert server.allowed_actions == ("stop_in_place", "backup")


def test_a_volume_is_deleted_only_when_available() -> None:
    rig = Rig()
    server = rig.create()
    volume = root_of(server)
    with pytest.raises(ScalewayError, match="412"):
        rig.model.block.delete(ZONE, volume.id)
    rig.model.delete_server(ZONE, server.id)
    with pytest.raises(ScalewayError, match="412"):
        rig.model.block.delete(ZONE, volume.id)
    rig.turn(Timings().detach_on_delete)
    rig.model.block.delete(ZONE, volume.id)
    assert rig.model.block.find(ZONE) == []


def test_root_volumes_are_born_untagged_and_slow_and_change_their_iops_in_a_while() -> None:
    rig = Rig()
    volume = root_of(rig.create(tags=("fleet=a",)))
    assert (volume.tags, volume.iops, volume.status) == ((), 5000, "in_use")
    rig.model.block.update(ZONE, volume.id, tags=["fleet=a"], iops=15000)
    assert (volume.tags, volume.iops, volume.status) == (("fleet=a",), 5000, "updating")
    with pytest.raises(ScalewayError, match="transient_state"):
        rig.model.block.update(ZONE, volume.id, iops=5000)
    rig.turn(LONG)
    assert (volume.iops, volume.status) == (15000, "in_use")


def test_servers_need_all_tags_and_volumes_one() -> None:
    rig = Rig()
    both, one = rig.create(tags=("a", "b", "c")), rig.create(tags=("a",))
    for server in (both, one):
        rig.model.block.update(ZONE, root_of(server).id, tags=server.tags)
    assert rig.model.servers(ZONE, tags=["a", "b"]) == [both]
    assert rig.model.block.find(ZONE, tags=["a", "b"]) == [root_of(one), root_of(both)]
    assert rig.model.block.find(ZONE, server_id=one.id) == [root_of(one)]
    assert rig.model.servers(ZONE, state="running") == []
    assert rig.model.servers("fr-par-1") == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"commercial_type": "H100-SXM-1-80G"}, "invalid_arguments"),
        ({"commercial_type": "H200"}, "invalid_arguments"),
        ({"image": "no-such-image"}, "not_found"),
        ({"image": "ubuntu_jammy"}, "invalid_arguments"),
        ({"security_group": "00000000-0000-0000-0000-000000000001"}, "not_found"),
        ({"volumes": {"0": NewVolume(VolumeKind.LOCAL, 20 * GB)}}, "invalid_arguments"),
        ({"volumes": {"0": NewVolume(size=19 * GB)}}, "invalid_arguments"),
        ({"volumes": {"0": NewVolume(size=0)}}, "invalid_arguments"),
        ({"volumes": {"1": NewVolume(VolumeKind.SCRATCH, 3001 * GB)}}, "invalid_arguments"),
        ({"volumes": {"1": NewVolume(VolumeKind.SCRATCH)}}, "invalid_arguments"),
        (
            {"volumes": {slot: NewVolume(VolumeKind.SCRATCH, GB) for slot in ("1", "2")}},
            "invalid_arguments",
        ),
        (
            {
                "commercial_type": "L4-1-24G",
                "volumes": {"1": NewVolume(VolumeKind.SCRATCH, GB)},
            },
            "invalid_arguments",
        ),
    ],
)
def test_what_cannot_be_created_leaves_nothing_behind(
    changes: dict[str, object], error: str
) -> None:
    rig = Rig()
    with pytest.raises(ScalewayError, match=error):
        rig.create(**changes)
    assert rig.model.all_servers() == []
    assert rig.model.block.by_id == {}


def test_the_image_may_be_an_id_and_the_root_volume_left_out() -> None:
    rig = Rig()
    image = rig.model.catalog.image(ZONE, IMAGE)
    assert image is not None
    assert root_of(rig.create(image=image.id, volumes={})).size == 20 * GB


def test_stock_is_missed_at_creation() -> None:
    rig = Rig()
    rig.model.set_stock(PLACE, 0, StockMode.AT_CREATE)
    with pytest.raises(ScalewayError, match="out_of_stock"):
        rig.create()
    assert rig.model.block.by_id == {}


def test_stock_is_missed_at_power_on() -> None:
    rig = Rig()
    rig.model.set_stock(PLACE, Availability.SHORTAGE)
    server = rig.create()
    with pytest.raises(ScalewayError, match="out_of_stock"):
        rig.act(server, "poweron")
    assert server.state is ServerState.STOPPED


def test_stock_is_missed_in_silence() -> None:
    rig = Rig()
    rig.model.set_stock(PLACE, 0, StockMode.SILENT)
    server = rig.create()
    rig.act(server, "poweron")
    states = [server.state]
    rig.turn(Timings().silent_failure)
    assert [*states, server.state] == [ServerState.STARTING, ServerState.STOPPED]
    assert rig.machines.seen == []


@pytest.mark.parametrize(
    ("leave", "given_back"),
    [("poweroff", True), ("terminate", True), ("stop_in_place", False), ("crash", True)],
)
def test_who_gives_the_machine_back(leave: str, given_back: bool) -> None:
    rig = Rig()
    rig.model.set_stock(PLACE, 1)
    server = rig.running()
    assert rig.model.availability(ZONE)[TYPE] is Availability.SHORTAGE
    if leave == "crash":
        rig.model.crash(server.id)
    else:
        rig.act(server, leave)
    rig.turn(LONG)
    level = rig.model.availability(ZONE)[TYPE]
    assert level is (Availability.SCARCE if given_back else Availability.SHORTAGE)


def test_a_shortage_stays_one_whoever_gives_back() -> None:
    rig = Rig()
    server = rig.running()
    rig.model.set_stock(PLACE, Availability.SHORTAGE)
    rig.act(server, "poweroff")
    rig.turn(LONG)
    with pytest.raises(ScalewayError, match="out_of_stock"):
        rig.act(server, "poweron")


def test_the_availability_listing_can_lie() -> None:
    rig = Rig()
    rig.model.set_stock(PLACE, 0, told=Availability.AVAILABLE)
    assert rig.model.availability(ZONE)[TYPE] is Availability.AVAILABLE


@pytest.mark.parametrize("figures", [True, False])
def test_the_quota_counts_stopped_servers_of_the_type(figures: bool) -> None:
    rig = Rig()
    rig.model.set_quota(TYPE, 1, figures=figures)
    rig.create()
    with pytest.raises(ScalewayError, match="quotas_exceeded") as refusal:
        rig.create()
    assert refusal.value.status == 403
    assert ("current" in refusal.value.body["details"][0]) is figures
    rig.create(commercial_type="H100-2-80G")


@pytest.mark.parametrize("action", ["poweroff", "terminate", "reboot", "stop_in_place", "delete"])
def test_protection_forbids(action: str) -> None:
    rig = Rig()
    server = rig.create() if action == "delete" else rig.running()
    rig.model.update_server(ZONE, server.id, protected=True)
    with pytest.raises(ScalewayError, match="precondition_failed"):
        rig.act(server, action)
    assert server in rig.model.all_servers()


@pytest.mark.parametrize(
    ("happens", "seen"),
    [
        (lambda rig, server: rig.act(server, "poweroff"), ["off, announced"]),
        (lambda rig, server: rig.act(server, "stop_in_place"), ["off, announced"]),
        (lambda rig, server: rig.act(server, "reboot"), ["off, announced", "on running"]),
        (lambda rig, server: rig.act(server, "terminate"), ["off, at once"]),
        (lambda rig, server: rig.model.crash(server.id), ["off, at once"]),
    ],
)
def test_the_machines_hear_of_it(happens: Callable[..., None], seen: Collection[str]) -> None:
    rig = Rig()
    server = rig.running()
    assert rig.machines.seen == ["on running"]
    happens(rig, server)
    rig.turn(LONG)
    assert rig.machines.seen[1:] == seen


def test_a_crash_during_a_start_ends_the_start() -> None:
    rig = Rig()
    server = rig.bring_to(ServerState.STARTING)
    rig.model.crash(server.id)
    rig.turn(LONG)
    assert server.state is ServerState.STOPPED


def test_a_guest_that_powers_down_stays_billed_in_place() -> None:
    rig = Rig()
    server = rig.running()
    rig.model.standby(server.id)
    rig.turn(LONG)
    assert server.state is ServerState.STOPPED_IN_PLACE


@pytest.mark.parametrize("state", [ServerState.RUNNING, ServerState.STOPPED])
@pytest.mark.parametrize("with_volumes", [True, False])
def test_a_person_deletes_a_server(state: ServerState, with_volumes: bool) -> None:
    rig = Rig()
    server = rig.bring_to(state)
    rig.model.person_deletes(server.id, with_volumes=with_volumes)
    rig.turn(LONG)
    assert rig.model.all_servers() == []
    assert len(rig.model.block.by_id) == (0 if with_volumes else 1)


def test_a_listing_shows_the_past_when_it_lags() -> None:
    rig = Rig()
    old = rig.create(name="old")
    rig.model.set_listing_lag(30)
    new = rig.create(name="new")
    rig.model.delete_server(ZONE, old.id)
    assert [server.name for server in rig.model.servers(ZONE)] == ["old"]
    assert rig.model.server(ZONE, new.id) is new
    rig.turn(10)
    rig.act(new, "poweron")
    rig.turn(20)
    assert [(s.name, s.state) for s in rig.model.servers(ZONE)] == [("new", "stopped")]
    rig.turn(LONG)
    assert [(s.name, s.state) for s in rig.model.servers(ZONE)] == [("new", "running")]
