"""The end of a server: by its state, with its volumes, and with nobody else's."""

from typing import Any

import httpx
import pytest

from gpu_autoscaler.domain.errors import ApiError, Rejected, Transient
from gpu_autoscaler.domain.model import FleetTags, Instance, Volume, VolumeKind, VolumeRef
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.wire import block_volume_of, server_of
from tests.scaleway.cloud import (
    FLEET,
    NOT_FOUND,
    QUEUE,
    STILL_IN_USE,
    TAGS,
    TRANSIENT,
    ZONE,
    Cloud,
    play,
    refuse,
    server_json,
    slot_json,
    volume_json,
)

OTHERS = FleetTags("other").of_volume(QUEUE)


def a_cloud(**server: Any) -> Cloud:
    return Cloud(servers={"s1": server_json(**server)}, volumes={"v1": volume_json()})


def instance(cloud: Cloud) -> Instance:
    return server_of(cloud.servers.get("s1", server_json()), ZONE).instance


def delete(cloud: Cloud) -> None:
    """What the loop asks for: the end of a stopped one."""
    listed = instance(cloud)
    play(cloud, lambda api: api.delete(listed))


def test_a_stopped_one_goes_with_its_volume() -> None:
    cloud = a_cloud()
    delete(cloud)

    assert cloud.changes() == ["DELETE server", "DELETE volume"]
    assert not cloud.servers
    assert not cloud.volumes
    assert cloud.steps[-1] == "GET volume"


@pytest.mark.parametrize("state", ["running", "starting", "stopped in place"])
def test_one_that_was_powered_on_meanwhile_is_not_deleted(state: str) -> None:
    cloud = a_cloud(state=state)
    cloud.volumes["v1"]["tags"] = []
    listed = server_of(server_json(state="stopped"), ZONE).instance
    with pytest.raises(Rejected, match=f"was powered on meanwhile: it is {state}"):
        play(cloud, lambda api: api.delete(listed))
    assert cloud.changes() == []


@pytest.mark.parametrize(
    "too_late",
    [
        refuse(400, STILL_IN_USE),
        refuse(400, {"type": "invalid_request_error", "message": "server should be stopped"}),
    ],
)
def test_one_that_is_powered_on_right_before_its_end_is_not_deleted(
    too_late: httpx.Response,
) -> None:
    cloud = a_cloud(state="starting")
    cloud.fail("GET server", httpx.Response(200, json={"server": server_json(state="stopped")}))
    cloud.fail("DELETE server", too_late)
    with pytest.raises(Rejected, match="was powered on meanwhile"):
        delete(cloud)
    assert cloud.changes() == ["DELETE server"]
    assert cloud.volumes


@pytest.mark.parametrize("state", ["running", "starting", "stopped in place"])
def test_one_that_is_powered_on_during_the_wait_is_not_deleted(state: str) -> None:
    cloud = a_cloud(state=state)
    cloud.fail("GET server", httpx.Response(200, json={"server": server_json(state="stopping")}))
    with pytest.raises(Rejected, match="was powered on meanwhile"):
        delete(cloud)
    assert cloud.changes() == []


def test_a_deletion_waits_for_one_that_is_stopping() -> None:
    cloud = a_cloud(state="running")

    async def scene(api: ScalewayApi) -> None:
        listed = (await api.instances(ZONE))[0]
        await api.stop(listed)
        await api.delete(listed)

    play(cloud, scene)

    assert cloud.changes() == ["POST poweroff", "DELETE server", "DELETE volume"]
    assert not cloud.servers
    assert not cloud.volumes


def test_a_server_that_never_arrives_ends_the_wait() -> None:
    cloud = a_cloud(state="stopping")
    with pytest.raises(Transient, match="server s1 in fr-par-2 is not gone after 300 s"):
        delete(cloud)
    assert cloud.changes() == []
    assert cloud.volumes


def test_an_untagged_boot_volume_is_tagged_before_its_server_goes() -> None:
    cloud = a_cloud()
    cloud.volumes["v1"]["tags"] = ["mine"]
    delete(cloud)

    assert cloud.changes() == ["PATCH volume", "DELETE server", "DELETE volume"]
    assert cloud.body("PATCH volume") == {"tags": sorted(["mine", *FLEET.of_volume(QUEUE)])}
    assert not cloud.volumes


def test_no_server_is_removed_while_its_volume_cannot_be_tagged() -> None:
    cloud = a_cloud()
    cloud.volumes["v1"]["tags"] = []
    cloud.fail("PATCH volume", refuse(403, {"type": "permissions_denied", "message": "no"}))
    with pytest.raises(ApiError):
        delete(cloud)
    assert list(cloud.servers) == ["s1"]


@pytest.mark.parametrize("tags", [[], ["mine"], list(OTHERS)])
def test_a_volume_that_somebody_else_attached_survives(tags: list[str]) -> None:
    cloud = a_cloud(volumes={"0": slot_json("v1"), "1": slot_json("v2")})
    cloud.volumes["v2"] = volume_json("v2", tags=tags)
    delete(cloud)

    assert list(cloud.volumes) == ["v2"]
    assert cloud.volumes["v2"]["tags"] == tags


def test_a_scratch_or_local_volume_still_there_is_removed_with_the_server() -> None:
    slots = {"0": slot_json("v1"), "1": slot_json("l1", "l_ssd"), "2": slot_json("l2", "scratch")}
    cloud = a_cloud(volumes=slots)
    cloud.local_volumes["l1"] = {"id": "l1", "server": None, "tags": []}
    delete(cloud)

    assert not cloud.local_volumes
    assert "DELETE local volume" in cloud.steps


def test_a_server_that_is_gone_already_still_gives_up_its_volumes() -> None:
    cloud = Cloud(volumes={"v1": volume_json(held_by=None)})
    delete(cloud)
    assert cloud.changes() == ["DELETE volume"]
    assert not cloud.volumes


def test_everything_gone_already_is_success() -> None:
    cloud = Cloud()
    delete(cloud)
    assert cloud.changes() == []


@pytest.mark.parametrize("step", ["DELETE server", "DELETE volume"])
def test_a_404_on_the_way_is_success(step: str) -> None:
    cloud = a_cloud()
    cloud.fail(step, refuse(404, NOT_FOUND), done=True)
    delete(cloud)
    assert not cloud.servers
    assert not cloud.volumes


@pytest.mark.parametrize(
    "answer",
    [refuse(400, STILL_IN_USE), refuse(409, TRANSIENT), refuse(429), httpx.ReadError("reset")],
)
@pytest.mark.parametrize("step", ["GET server", "DELETE server", "GET volume", "DELETE volume"])
def test_a_passing_refusal_on_the_way_is_waited_out(
    step: str, answer: httpx.Response | Exception
) -> None:
    cloud = a_cloud()
    cloud.fail(step, answer, answer)
    delete(cloud)
    assert not cloud.servers
    assert not cloud.volumes


def test_a_wrong_state_is_believed_only_when_the_state_did_not_change() -> None:
    cloud = a_cloud()
    wrong = {"type": "invalid_request_error", "message": "instance should be powered off"}
    cloud.fail("DELETE server", refuse(400, wrong))
    with pytest.raises(Rejected, match="should be powered off"):
        delete(cloud)

    cloud = a_cloud()
    cloud.fail("DELETE server", refuse(400, wrong), done=True)
    delete(cloud)
    assert not cloud.servers
    assert cloud.steps.count("DELETE server") == 1


def test_a_heard_request_is_not_repeated_while_the_state_lags() -> None:
    cloud = a_cloud()
    cloud.fail("DELETE server", httpx.Response(204))
    with pytest.raises(Transient, match="not gone"):
        delete(cloud)
    assert cloud.steps.count("DELETE server") == 1


@pytest.mark.parametrize("status", ["available", "in_use"])
def test_a_volume_that_moved_to_another_server_is_not_deleted(status: str) -> None:
    cloud = Cloud(volumes={"v1": volume_json(held_by="s7", status=status)})
    with pytest.raises(Transient, match="volume v1 in fr-par-2 is not gone"):
        delete(cloud)
    assert cloud.changes() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protected": True}, "is protected"),
        ({"state": "locked"}, "is locked"),
        ({"tags": list(OTHERS)}, "does not carry the fleet's tags"),
    ],
)
def test_servers_that_are_not_to_be_touched(changes: dict[str, Any], words: str) -> None:
    cloud = a_cloud(**changes)
    with pytest.raises(Rejected, match=words):
        delete(cloud)
    assert cloud.changes() == []


def test_an_unknown_state_is_left_alone() -> None:
    cloud = a_cloud(state="melting")
    with pytest.raises(Transient):
        delete(cloud)
    assert cloud.changes() == []


def a_volume(**changes: Any) -> tuple[Cloud, Volume]:
    listed = block_volume_of(volume_json(held_by=None), ZONE).volume
    return Cloud(volumes={"v1": volume_json(**changes)}), listed


def test_a_free_volume_of_the_fleet_is_deleted() -> None:
    cloud, volume = a_volume(held_by=None)
    play(cloud, lambda api: api.delete_volume(volume))
    assert not cloud.volumes


def test_a_volume_that_is_gone_is_success() -> None:
    _, volume = a_volume()
    play(Cloud(), lambda api: api.delete_volume(volume))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "is held by s1"),
        ({"held_by": None, "tags": []}, "lacks the fleet's tags"),
        ({"held_by": None, "tags": list(TAGS[:1])}, "lacks the fleet's tags"),
        ({"held_by": None, "tags": list(OTHERS)}, "lacks the fleet's tags"),
        ({"held_by": None, "status": "locked"}, "is locked"),
    ],
)
def test_volumes_that_are_not_to_be_touched(changes: dict[str, Any], words: str) -> None:
    cloud, volume = a_volume(**changes)
    with pytest.raises(Rejected, match=words):
        play(cloud, lambda api: api.delete_volume(volume))
    assert cloud.changes() == []


def test_a_volume_busy_with_a_snapshot_is_waited_for_and_not_deleted_under_it() -> None:
    cloud, volume = a_volume(held_by=None, status="snapshotting")
    with pytest.raises(Transient, match="volume v1 in fr-par-2 is not gone"):
        play(cloud, lambda api: api.delete_volume(volume))
    assert cloud.changes() == []


def test_volume_kinds_of_a_server_come_in_the_order_of_its_slots() -> None:
    slots = {"10": slot_json("c"), "2": slot_json("b", "scratch"), "0": slot_json("a")}
    server = server_of(server_json(volumes=slots), ZONE)
    assert server.boot_volume == "a"
    assert server.instance.volumes == (
        VolumeRef("a", VolumeKind.BLOCK),
        VolumeRef("b", VolumeKind.SCRATCH),
        VolumeRef("c", VolumeKind.BLOCK),
    )
