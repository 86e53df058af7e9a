"""What a server is told about itself, and who may write its user data."""

import asyncio
from typing import Any

import httpx

from gpu_autoscaler.emulator.metadata import metadata_app
from gpu_autoscaler.emulator.scaleway_state import Server
from tests.emulator.scaleway_rig import TYPE, Rig

ADDRESS = "10.0.0.7"


def ask(
    server: Server, method: str, path: str, *, port: int = 1023, **request: Any
) -> httpx.Response:
    """One request from the server's address, or from `host`."""

    async def send() -> httpx.Response:
        app = metadata_app({ADDRESS: server}.get)
        client = (request.pop("host", ADDRESS), port)
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://metadata") as http:
            return await http.request(method, path, **request)

    return asyncio.run(send())


def test_anybody_on_the_server_is_told_what_it_is() -> None:
    server = Rig().running(name="gpu-1a2b3c", tags=("queue=gpu",))
    told = ask(server, "GET", "/conf?format=json", port=40000).json()
    assert (told["id"], told["hostname"]) == (server.id, "gpu-1a2b3c")
    assert (told["commercial_type"], told["tags"]) == (TYPE, ["queue=gpu"])
    assert {volume["volume_type"] for volume in told["volumes"].values()} == {"sbs_volume"}
    assert ask(server, "GET", "/conf").status_code == 400


def test_user_data_is_for_root() -> None:
    server = Rig().running()
    server.user_data["cloud-init"] = b"#!/bin/bash"
    for method in ("GET", "PATCH", "DELETE"):
        assert ask(server, method, "/user_data/cloud-init", port=1024).status_code == 403
    assert ask(server, "GET", "/user_data", port=1024).status_code == 403
    assert ask(server, "GET", "/user_data/cloud-init").content == b"#!/bin/bash"
    assert ask(server, "GET", "/user_data").json() == {"user_data": ["cloud-init"]}


def test_user_data_is_written_and_removed() -> None:
    server = Rig().running()
    assert ask(server, "GET", "/user_data/mine").status_code == 404
    assert ask(server, "PATCH", "/user_data/mine", content=b"ready").status_code == 204
    assert server.user_data["mine"] == b"ready"
    assert ask(server, "DELETE", "/user_data/mine").status_code == 204
    assert ask(server, "DELETE", "/user_data/mine").status_code == 404


def test_a_stranger_is_told_nothing() -> None:
    assert ask(Rig().running(), "GET", "/conf?format=json", host="10.0.0.8").status_code == 404
