"""Scaleway's own SDK walks a server through its life at the emulator, over real HTTP."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from scaleway.block.v1 import BlockV1API  # type: ignore[import-untyped]
from scaleway.instance.v1 import ServerAction, VolumeServerTemplate, VolumeVolumeType  # type: ignore[import-untyped]
from scaleway.instance.v1.custom_api import InstanceUtilsV1API  # type: ignore[import-untyped]
from scaleway.marketplace.v2 import LocalImageType, MarketplaceV2API  # type: ignore[import-untyped]
from scaleway_core.api import ScalewayException
from scaleway_core.client import Client
from starlette.types import ASGIApp

from tests.emulator.scaleway_rig import GB, LONG, TYPE, ZONE
from tests.emulator.test_scaleway_http import KEY, Site

TAGS = ["managed-by=gpu-autoscaler", "fleet=a"]


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The app on a free port of this machine, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def test_a_whole_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    with served(site.app) as url:
        client = Client("SCW" + "X" * 17, KEY, api_url=url, default_zone=ZONE)
        instance, block = InstanceUtilsV1API(client), BlockV1API(client)

        images = MarketplaceV2API(client).list_local_images_all(
            image_label="ubuntu_jammy_gpu_os_12", zone=ZONE, type_=LocalImageType.INSTANCE_SBS
        )
        image = next(image for image in images if TYPE in image.compatible_commercial_types)
        root = VolumeServerTemplate(
            boot=True, size=125 * GB, volume_type=VolumeVolumeType.SBS_VOLUME
        )
        server = instance.create_server(
            commercial_type=TYPE, name="h100-000001", image=image.id, volumes={"0": root}, tags=TAGS
        ).server
        assert server is not None
        assert (server.state, len(server.volumes)) == ("stopped", 1)

        volume_id = server.volumes["0"].id
        block.update_volume(volume_id=volume_id, tags=TAGS, perf_iops=15000)
        instance.set_server_user_data(server.id, "cloud-init", b"#!/bin/sh\n")
        assert instance.list_server_user_data(server_id=server.id).user_data == ["cloud-init"]

        def state() -> str:
            found = instance.get_server(server_id=server.id).server
            assert found is not None
            return str(found.state)

        def act(action: ServerAction) -> None:
            task = instance.server_action(server_id=server.id, action=action).task
            assert task is not None
            assert task.description == "fake task"

        act(ServerAction.POWERON)
        assert state() == "starting"
        site.turn(LONG)
        assert state() == "running"
        assert [s.id for s in instance.list_servers_all(tags=TAGS)] == [server.id]
        listed = block.list_volumes_all(tags=TAGS, include_deleted=False)
        assert listed[0].specs.perf_iops == 15000

        act(ServerAction.POWEROFF)
        site.turn(LONG)
        assert state() == "stopped"
        act(ServerAction.POWERON)
        site.turn(LONG)
        act(ServerAction.TERMINATE)
        site.turn(LONG)
        with pytest.raises(ScalewayException, match="not_found"):
            state()
        assert block.get_volume(volume_id=volume_id).status == "available"
        block.delete_volume(volume_id=volume_id)
        assert instance.list_servers_all() == []
        assert block.list_volumes_all(include_deleted=False) == []
        assert instance.list_ips_all() == []

    bill = site.model.bill()
    assert (bill.servers_left, bill.volumes_left) == (0, 0)
    assert bill.servers_eur > 0
