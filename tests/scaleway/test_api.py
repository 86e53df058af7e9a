"""Reads of the face, its small changes, and that it fits the loop's port."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from gpu_autoscaler.domain.errors import NotFound, OutOfStock, Rejected, Transient
from gpu_autoscaler.domain.model import FleetTags, Instance, ServerState, VolumeKind, VolumeRef
from gpu_autoscaler.runtime.ports import Scaleway
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.wire import server_of
from tests.scaleway.cloud import (
    FLEET,
    NOT_FOUND,
    ORDER,
    OUT_OF_STOCK,
    PROJECT,
    QUEUE,
    TAGS,
    TRANSIENT,
    ZONE,
    Cloud,
    play,
    refuse,
    server_json,
    volume_json,
)

OTHERS = list(FleetTags("other").of_instance(QUEUE, "abc123"))


def list_instances(cloud: Cloud) -> Any:
    return play(cloud, lambda api: api.instances(ZONE))


def test_it_fits_the_port() -> None:
    async def scene(api: ScalewayApi) -> Scaleway:
        port: Scaleway = api
        return port

    assert play(Cloud(), scene)


def test_an_instance_as_listed() -> None:
    cloud = Cloud(servers={"s1": server_json(state="starting", state_detail="allocating node")})
    (found,) = list_instances(cloud)

    assert (found.id, found.name, found.zone) == ("s1", ORDER.name, ZONE)
    assert found.placement == ORDER.placement
    assert found.state is ServerState.STARTING
    assert found.state_detail == "allocating node"
    assert found.tags == frozenset(TAGS)
    assert found.volumes == (VolumeRef("v1", VolumeKind.BLOCK),)
    assert found.created_at == datetime(2026, 9, 7, 8, 0, 0, 221012, tzinfo=UTC)
    assert found.modified_at == datetime(2026, 9, 7, 8, 0, 5, 221012, tzinfo=UTC)
    assert not found.protected
    query = cloud.requests[0].url.params
    assert dict(query) == {
        "project": PROJECT,
        "tags": "managed-by=gpu-autoscaler,fleet=research",
        "per_page": "100",
        "page": "1",
    }


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("running", ServerState.RUNNING),
        ("stopped", ServerState.STOPPED),
        ("stopped in place", ServerState.STOPPED_IN_PLACE),
        ("locked", ServerState.LOCKED),
        ("melting", ServerState.UNKNOWN),
        (None, ServerState.UNKNOWN),
    ],
)
def test_states_as_scaleway_spells_them(word: str | None, state: ServerState) -> None:
    assert server_of(server_json(state=word), ZONE).instance.state is state


def test_what_lacks_a_tag_is_left_out_whatever_scaleway_filters() -> None:
    entries = [server_json("s1"), server_json("s2", tags=OTHERS), server_json("s3", tags=[])]
    cloud = Cloud()
    cloud.fail("GET servers", httpx.Response(200, json={"servers": entries}))
    assert [found.id for found in list_instances(cloud)] == ["s1"]


@pytest.mark.parametrize(
    "broken",
    [
        {"name": None},
        {"tags": None},
        {"tags": "managed-by=gpu-autoscaler"},
        {"creation_date": None},
        {"creation_date": "yesterday"},
        {"creation_date": "2026-09-07T08:00:00"},
        {"volumes": {"0": {"id": "v1", "volume_type": "floppy"}}},
        {"volumes": {"0": {"volume_type": "sbs_volume"}}},
        {"commercial_type": None},
    ],
)
def test_one_unreadable_server_fails_the_listing(broken: dict[str, Any]) -> None:
    entries = [server_json("s1"), server_json("s2") | broken]
    cloud = Cloud()
    cloud.fail("GET servers", httpx.Response(200, json={"servers": entries}))
    with pytest.raises(Transient, match="unreadable"):
        list_instances(cloud)


@pytest.mark.parametrize("answer", [refuse(404), refuse(500), refuse(404, None)])
def test_existence_is_denied_by_scaleways_own_404_alone(answer: httpx.Response) -> None:
    cloud = Cloud(servers={"s1": server_json()})
    assert play(cloud, lambda api: api.exists(ZONE, "s1")) is True
    assert play(cloud, lambda api: api.exists(ZONE, "s2")) is False
    cloud.fail("GET server", *[answer] * 3)
    with pytest.raises(Transient):
        play(cloud, lambda api: api.exists(ZONE, "s2"))


def test_volumes_need_every_tag_although_scaleway_lists_those_with_one() -> None:
    cloud = Cloud(
        volumes={
            "v1": volume_json("v1"),
            "v2": volume_json("v2", tags=OTHERS),
            "v3": volume_json("v3", held_by=None),
        }
    )
    found = play(cloud, lambda api: api.volumes(ZONE))
    assert {volume.id: volume.attached_to for volume in found} == {"v1": "s1", "v3": None}
    assert cloud.requests[0].url.params.get_list("tags") == [*FLEET.membership]
    assert cloud.requests[0].url.params["project_id"] == PROJECT


@pytest.mark.parametrize(
    ("status", "held"),
    [("attaching", True), ("attached", True), ("detaching", True), ("detached", False)],
)
def test_a_volume_is_held_until_it_is_detached(status: str, held: bool) -> None:
    volume = volume_json()
    volume["references"][0]["status"] = status
    (found,) = play(Cloud(volumes={"v1": volume}), lambda api: api.volumes(ZONE))
    assert found.attached_to == ("s1" if held else None)


def a_cloud(**server: Any) -> tuple[Cloud, Any]:
    raw = server_json(**server)
    return Cloud(servers={"s1": raw}), server_of(raw, ZONE).instance


@pytest.mark.parametrize(
    ("task", "at"),
    [
        ({"started_at": "2026-07-30T12:53:21.850129+00:00"}, "2026-07-30T12:53:21.850129+00:00"),
        ({"started_at": "2026-07-30T12:53:21"}, None),
        ({"started_at": 5}, None),
        ({}, None),
    ],
)
def test_start(task: dict[str, Any], at: str | None) -> None:
    cloud, stopped = a_cloud()
    cloud.task = task
    began = play(cloud, lambda api: api.start(stopped))
    assert began == (datetime.fromisoformat(at) if at else None)
    assert cloud.servers["s1"]["state"] == "starting"

    play(cloud, lambda api: api.start(stopped))  # refused, and yet what was wanted


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(refuse(412, OUT_OF_STOCK), OutOfStock), (refuse(409, TRANSIENT), Transient)],
)
def test_a_start_refused(answer: httpx.Response, expected: type[Exception]) -> None:
    cloud, stopped = a_cloud()
    cloud.fail("POST poweron", answer)
    with pytest.raises(expected):
        play(cloud, lambda api: api.start(stopped))


def test_a_start_of_one_that_is_gone() -> None:
    _, stopped = a_cloud()
    with pytest.raises(NotFound):
        play(Cloud(), lambda api: api.start(stopped))


@pytest.mark.parametrize("state", ["running", "stopped in place", "stopped", "stopping"])
def test_stop(state: str) -> None:
    cloud, running = a_cloud(state=state)
    play(cloud, lambda api: api.stop(running))
    assert cloud.servers["s1"]["state"] in ("stopping", "stopped")


def test_a_stop_of_one_that_is_gone_is_success() -> None:
    _, running = a_cloud(state="running")
    play(Cloud(), lambda api: api.stop(running))
    cloud, running = a_cloud(state="running")
    cloud.fail("POST poweroff", refuse(409, TRANSIENT))
    cloud.fail("GET server", refuse(404, NOT_FOUND))
    play(cloud, lambda api: api.stop(running))


@pytest.mark.parametrize(
    ("state", "detail"), [("stopping", "stopping in place"), ("starting", "allocating node")]
)
def test_a_stop_that_comes_too_early_is_transient(state: str, detail: str) -> None:
    cloud, early = a_cloud(state=state, state_detail=detail)
    with pytest.raises(Transient, match=state):
        play(cloud, lambda api: api.stop(early))


def test_changed_tags_are_sent_with_those_set_since_the_listing_and_nothing_else() -> None:
    cloud, listed = a_cloud(tags=[*TAGS, "phase=provisioning", "mine"])
    cloud.servers["s1"]["tags"] = [*TAGS, "phase=provisioning", "keep"]
    play(cloud, lambda api: api.change_tags(listed, ["registered"], ["phase=provisioning"]))
    assert cloud.body("PATCH server") == {"tags": sorted([*TAGS, "keep", "registered"])}


@pytest.mark.parametrize(("present", "remove"), [(TAGS, TAGS[:1]), (OTHERS, ()), (["keep"], ())])
def test_a_server_is_never_left_without_the_fleets_tags(present: Any, remove: Any) -> None:
    cloud, listed = a_cloud()
    cloud.servers["s1"]["tags"] = list(present)
    with pytest.raises(Rejected, match="fleet 'research'"):
        play(cloud, lambda api: api.change_tags(listed, ["registered"], remove))
    assert cloud.changes() == []


@pytest.mark.parametrize(
    ("step", "answers", "expected"),
    [
        ("GET server", [refuse(404, NOT_FOUND)], NotFound),
        ("PATCH server", [refuse(404, NOT_FOUND)], NotFound),
        ("GET server", [refuse(500)] * 3, Transient),
        ("PATCH server", [httpx.ReadError("reset")], Transient),
    ],
)
def test_tags_that_cannot_be_changed(
    step: str, answers: list[httpx.Response | Exception], expected: type[Exception]
) -> None:
    cloud, listed = a_cloud()
    cloud.fail(step, *answers)
    with pytest.raises(expected):
        play(cloud, lambda api: api.change_tags(listed, ["registered"], []))
    assert cloud.servers["s1"]["tags"] == [*TAGS]


def one_server() -> tuple[Cloud, Instance]:
    cloud = Cloud(servers={"s1": server_json()})
    return cloud, list_instances(cloud)[0]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, ""),
        (b"installing: install_agent\n", "installing: install_agent"),
        (b"failed: \x1b[31m1 GPU\nexpected 2\xff", "failed:  [31m1 GPU expected 2\ufffd"),
        (b"x" * 5000, "x" * 200),
    ],
)
def test_what_a_machine_says_of_its_boot_is_one_harmless_line(
    written: bytes | None, read: str
) -> None:
    cloud, there = one_server()
    if written is not None:
        cloud.user_data["gpu-autoscaler-boot"] = written
    assert play(cloud, lambda api: api.boot_report(there)) == read


def test_a_report_that_does_not_come_is_an_error_and_not_silence() -> None:
    cloud, there = one_server()
    cloud.fail("GET user_data", *[refuse(502, TRANSIENT)] * 3)
    with pytest.raises(Transient):
        play(cloud, lambda api: api.boot_report(there))


def test_the_script_is_taken_away_and_only_that() -> None:
    cloud, there = one_server()
    cloud.user_data = {"cloud-init": b"#!/bin/bash", "gpu-autoscaler-boot": b"ready"}
    for _ in range(2):  # the second time there is none
        play(cloud, lambda api: api.remove_bootstrap(there))
    assert cloud.user_data == {"gpu-autoscaler-boot": b"ready"}
