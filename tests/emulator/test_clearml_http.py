"""The HTTP face: transport, refusals, authorisation."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import User
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import LoopClock, RandomIds, run_virtual

AGENTS = User("__agents__", "agents", "AGENTSACCESSKEY", "agents-secret-key")
KEYS = (EMULATED_USER.access_key, EMULATED_USER.secret_key)


class Api:
    """A model behind its HTTP face, and a client with the first user's keys."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.model = ClearmlModel(Timeline(self.clock), RandomIds(), (EMULATED_USER, AGENTS))
        self.queue = self.model.create_queue("gpu-small")
        transport = httpx.ASGITransport(app=clearml_app(self.model), client=("10.0.0.7", 4711))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://clearml")

    async def reply(self, endpoint: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/{endpoint}", json=body, auth=KEYS)

    async def data(self, endpoint: str, **body: Any) -> dict[str, Any]:
        reply = await self.reply(endpoint, **body)
        assert reply.status_code == 200, reply.text
        data: dict[str, Any] = reply.json()["data"]
        return data

    async def refusal(self, endpoint: str, **body: Any) -> tuple[int, int]:
        return codes(await self.reply(endpoint, **body))


def codes(reply: httpx.Response) -> tuple[int, int]:
    """HTTP status and sub-code; the envelope must agree with the former."""
    meta = reply.json()["meta"]
    assert meta["result_code"] == reply.status_code
    return reply.status_code, meta["result_subcode"]


def with_api(test: Callable[[Api], Awaitable[None]]) -> None:
    """Run a coroutine against a fresh emulator, in virtual time."""

    async def main() -> None:
        api = Api()
        async with api.client:
            await test(api)

    run_virtual(main())


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("prefix", ["", "/v2.5", "/v99.0"])
def test_any_method_and_version_works(method: str, prefix: str) -> None:
    async def test(api: Api) -> None:
        path = f"{prefix}/queues.get_all"
        reply = await api.client.request(method, path, auth=KEYS, content='{"name": "gpu"}')
        assert [queue["id"] for queue in reply.json()["data"]["queues"]] == [api.queue]
        endpoint = reply.json()["meta"]["endpoint"]
        assert endpoint["requested_version"] == (prefix[2:] or "2.34")

    with_api(test)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1.0/queues.get_all", b"", (404, 0)),
        ("/queues.nope", b"", (404, 0)),
        ("/nope.get_all", b"", (404, 0)),
        ("/workers.get_runtime_properties", b'{"worker": "w"}', (404, 0)),
        ("/nope", b"", (400, 0)),
        ("/v2/queues.get_all", b"", (400, 0)),
        ("/", b"", (400, 0)),
        ("/queues.get_all", b"{not json", (400, 0)),
        ("/queues.get_all", b"[1,2]", (500, 0)),
        ("/queues.get_all", b'"abc"', (500, 0)),
        ("/queues.get_all", b'{"name": ["a"]}', (500, 0)),
        ("/queues.get_all", b'{"page": "x", "page_size": "y"}', (500, 0)),
        ("/queues.get_all", b'{"name": "["}', (400, 21)),
        ("/queues.get_all", b'{"only_fields": ["nope"]}', (400, 14)),
        ("/queues.get_by_id", b"", (400, 12)),
        ("/queues.get_by_id", b'{"queue": null}', (400, 12)),
        ("/queues.get_by_id", b'{"queue": 5}', (400, 12)),
        ("/queues.get_by_id", b'{"queue": "nobody"}', (400, 701)),
        ("/queues.get_num_entries", b'{"queue": "nobody"}', (400, 701)),
        ("/queues.get_next_task", b'{"queue": "nobody"}', (400, 701)),
        ("/queues.create", b'{"name": "q"}', (400, 800)),
        ("/queues.create", b'{"name": "gpu-small"}', (400, 801)),
        ("/tasks.get_by_id", b'{"task": "nobody"}', (400, 101)),
        ("/tasks.enqueue", b'{"task": "nobody", "queue": "nobody"}', (400, 101)),
        ("/workers.get_all", b'{"last_seen": "abc"}', (400, 12)),
        ("/workers.register", b'{"worker": "w", "queues": ["nobody"]}', (400, 701)),
        ("/workers.register", b'{"worker": "w", "timeout": -1}', (400, 1002)),
        ("/workers.status_report", b'{"worker": "w"}', (400, 12)),
        ("/workers.status_report", b'{"worker": "w", "timestamp": 1, "task": "x"}', (400, 101)),
        ("/auth.login", b'{"expiration_sec": "abc"}', (400, 12)),
        ("/auth.login", b'{"expiration_sec": 1000000000}', (400, 12)),
    ],
)
def test_refusals(path: str, body: bytes, expected: tuple[int, int]) -> None:
    async def test(api: Api) -> None:
        reply = await api.client.post(path, content=body, auth=KEYS)
        assert codes(reply) == expected
        assert reply.json()["data"] == {}

    with_api(test)


def test_compressed_requests_are_refused_in_plain_text() -> None:
    async def test(api: Api) -> None:
        headers = {"content-encoding": "gzip"}
        reply = await api.client.post("/queues.get_all", content=b"", headers=headers)
        assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (
            415,
            "text/plain",
        )

    with_api(test)


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (None, (401, 20)),
        ("Digest abc", (401, 10)),
        ("Basic !!!", (401, 22)),
        ("Basic " + base64.b64encode(b"nobody:x").decode(), (401, 22)),
        ("Basic " + base64.b64encode(f"{KEYS[0]}:x".encode()).decode(), (401, 22)),
        ("Bearer ", (401, 30)),
        ("Bearer abc", (401, 30)),
        ("Bearer a.b.c", (401, 30)),
    ],
)
@pytest.mark.parametrize("path", ["/auth.login", "/queues.get_all"])
def test_strangers_are_turned_away(
    path: str, authorization: str | None, expected: tuple[int, int]
) -> None:
    async def test(api: Api) -> None:
        headers = {"authorization": authorization} if authorization is not None else {}
        assert codes(await api.client.post(path, headers=headers)) == expected

    with_api(test)


def test_two_endpoints_answer_everybody() -> None:
    async def test(api: Api) -> None:
        for path in ("/debug.ping", "/server.info"):
            assert codes(await api.client.get(path)) == (200, 0)

    with_api(test)


class TestTokens:
    def test_they_look_like_the_real_ones_and_last_30_days(self) -> None:
        async def test(api: Api) -> None:
            token = (await api.data("auth.login"))["token"]
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            assert claims["exp"] - claims["iat"] == 30 * 86_400
            assert claims["identity"]["user"] == EMULATED_USER.id
            api.client.cookies.clear()
            bearer = {"authorization": f"Bearer {token}"}
            assert codes(await api.client.get("/auth.login", headers=bearer)) == (200, 0)

        with_api(test)

    def test_they_expire_on_the_emulators_clock(self) -> None:
        async def test(api: Api) -> None:
            token = (await api.data("auth.login", expiration_sec=60))["token"]
            bearer = {"authorization": f"Bearer {token}"}
            await api.clock.sleep(59)
            assert codes(await api.client.get("/queues.get_all", headers=bearer)) == (200, 0)
            await api.clock.sleep(1)
            assert codes(await api.client.get("/queues.get_all", headers=bearer)) == (401, 30)

        with_api(test)

    def test_a_logout_revokes(self) -> None:
        async def test(api: Api) -> None:
            token = (await api.data("auth.login"))["token"]
            bearer = {"authorization": f"Bearer {token}"}
            assert codes(await api.client.get("/auth.logout", headers=bearer)) == (200, 0)
            assert codes(await api.client.get("/queues.get_all", headers=bearer)) == (401, 30)

        with_api(test)

    def test_the_login_cookie_is_a_credential(self) -> None:
        async def test(api: Api) -> None:
            await api.client.post("/auth.login", auth=KEYS)
            assert codes(await api.client.post("/queues.get_all")) == (200, 0)

        with_api(test)
