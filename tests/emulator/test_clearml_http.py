"""The HTTP face: transport, authorisation, listings and their silent limits."""

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
NOBODY = "0" * 32


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


class TestQueues:
    def test_listings_are_cut_at_500_silently(self) -> None:
        async def test(api: Api) -> None:
            for number in range(520):
                api.model.create_queue(f"bulk-{number:03}")
            for paging, found in (
                ({}, 500),
                ({"page": 0, "page_size": 10_000}, 500),
                ({"page": 1, "page_size": 10_000}, 22),
                ({"page": 99}, 0),
                ({"page": 2, "page_size": 100}, 100),
            ):
                queues = (await api.data("queues.get_all", only_fields=["id"], **paging))["queues"]
                assert len(queues) == found, paging
                queues = (await api.data("queues.get_all_ex", **paging))["queues"]
                assert len(queues) == found, paging

        with_api(test)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"name": "gpu"}, ["gpu-small", "my-gpu"]),
            ({"name": "GPU"}, []),
            ({"name": "^gpu\\-small$"}, ["gpu-small"]),
            ({"id": [NOBODY]}, []),
            ({"nmae": "gpu"}, ["default", "gpu-small", "my-gpu"]),
            ({"search_hidden": True}, ["default", "gpu-small", "my-gpu", "pods"]),
            ({"name": "pods"}, ["pods"]),
            ({"tags": ["force_workers:off"]}, ["my-gpu"]),
        ],
    )
    def test_filters(self, filters: dict[str, Any], found: list[str]) -> None:
        async def test(api: Api) -> None:
            mine = api.model.create_queue("my-gpu")
            await api.data("queues.update", queue=mine, tags=["force_workers:off"])
            pods = api.model.create_queue("pods")
            await api.data("queues.update", queue=pods, system_tags=["k8s-glue"])
            queues = (await api.data("queues.get_all", **filters))["queues"]
            assert [queue["name"] for queue in queues] == found

        with_api(test)

    def test_max_task_entries_hides_the_backlog_but_zero_does_not(self) -> None:
        async def test(api: Api) -> None:
            for _ in range(3):
                api.model.create_task("t", api.queue)
            for most, shown in ((1, 1), (0, 3), (None, 3)):
                data = await api.data("queues.get_by_id", queue=api.queue, max_task_entries=most)
                assert len(data["queue"]["entries"]) == shown
            assert await api.data("queues.get_num_entries", queue=api.queue) == {"num": 3}

        with_api(test)

    def test_an_unknown_queue_name_is_made_by_enqueue(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("t")
            reply = await api.data("tasks.enqueue", task=task, queue_name="typo")
            made = api.model.queues.named("typo")
            assert made is not None
            assert reply["fields"]["execution.queue"] == made.id

        with_api(test)


class TestWorkers:
    def test_a_deleted_queue_stays_as_an_id(self) -> None:
        async def test(api: Api) -> None:
            await api.data("workers.register", worker="w1", queues=[api.queue])
            await api.data("queues.delete", queue=api.queue)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert worker["queues"] == [{"id": api.queue}]

        with_api(test)

    def test_all_users_workers_are_listed_under_the_callers_address(self) -> None:
        async def test(api: Api) -> None:
            keys = (AGENTS.access_key, AGENTS.secret_key)
            await api.client.post("/workers.register", json={"worker": "w1"}, auth=keys)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert (worker["user"]["id"], worker["ip"]) == (AGENTS.id, "10.0.0.7")
            await api.data("workers.unregister", worker="w1")
            assert len((await api.data("workers.get_all"))["workers"]) == 1

        with_api(test)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({}, ["gpu1", "my_gpu1"]),
            ({"last_seen": 60}, ["gpu1"]),
            ({"last_seen": 0}, ["gpu1", "my_gpu1"]),
            ({"last_seen": None}, ["gpu1", "my_gpu1"]),
            ({"last_seen": -5}, ["gpu1"]),
            ({"worker_pattern": "gpu*"}, ["gpu1", "my_gpu1"]),
            ({"worker_pattern": "my_gpu1"}, ["my_gpu1"]),
            ({"bogus": 1}, ["gpu1", "my_gpu1"]),
        ],
    )
    def test_filters(self, filters: dict[str, Any], found: list[str]) -> None:
        async def test(api: Api) -> None:
            await api.data("workers.register", worker="my_gpu1", queues=[api.queue])
            await api.clock.sleep(300)
            await api.data("workers.register", worker="gpu1", queues=[api.queue])
            workers = (await api.data("workers.get_all", **filters))["workers"]
            assert sorted(worker["id"] for worker in workers) == found

        with_api(test)


class TestTasks:
    def test_a_mistyped_filter_lets_everything_through(self) -> None:
        async def test(api: Api) -> None:
            api.model.create_task("a")
            api.model.create_task("b")
            data = await api.data("tasks.get_all", last_worker=["w1"], only_fields=["name"])
            assert data == {"tasks": [{"name": "a"}, {"name": "b"}]}

        with_api(test)

    def test_dotted_fields_come_nested_and_absent_ones_stay_absent(self) -> None:
        async def test(api: Api) -> None:
            api.model.create_task("a", api.queue)
            fields = ["execution.queue", "script.diff", "last_worker"]
            data = await api.data("tasks.get_all", only_fields=fields)
            assert data == {"tasks": [{"execution": {"queue": api.queue}, "script": {}}]}

        with_api(test)

    def test_the_ex_listing_joins_names_that_are_asked_for(self) -> None:
        async def test(api: Api) -> None:
            api.model.create_task("a", api.queue)
            fields = ["execution.queue.name", "user.name"]
            (task,) = (await api.data("tasks.get_all_ex", only_fields=fields))["tasks"]
            assert task["execution"]["queue"] == {"id": api.queue, "name": "gpu-small"}
            assert task["user"] == {"id": EMULATED_USER.id, "name": EMULATED_USER.name}

        with_api(test)

    def test_listings_are_cut_at_500_silently(self) -> None:
        async def test(api: Api) -> None:
            for number in range(510):
                api.model.create_task(f"t{number}", api.queue)
            ask = {"status": ["queued"], "execution.queue": [api.queue], "only_fields": ["name"]}
            first = (await api.data("tasks.get_all", **ask, page=0, page_size=600))["tasks"]
            rest = (await api.data("tasks.get_all", **ask, page=1, page_size=500))["tasks"]
            assert [task["name"] for task in first + rest] == [f"t{n}" for n in range(510)]
            assert len(first) == 500

        with_api(test)

    def test_open_tasks_of_some_queues(self) -> None:
        async def test(api: Api) -> None:
            other = api.model.create_queue("other")
            waits, runs, done, elsewhere = (
                api.model.create_task(name, queue)
                for name, queue in (
                    ("waits", api.queue),
                    ("runs", api.queue),
                    ("done", api.queue),
                    ("elsewhere", other),
                )
            )
            for task in (runs, done):
                await api.data("tasks.started", task=task)
            await api.data("tasks.completed", task=done)
            ask = {"status": ["queued", "in_progress"], "execution.queue": [api.queue]}
            found = (await api.data("tasks.get_all", **ask))["tasks"]
            assert [task["id"] for task in found] == [waits, runs]
            found = (await api.data("tasks.get_all", status=["queued"]))["tasks"]
            assert [task["id"] for task in found] == [waits, elsewhere]
            # a task that is edited into another queue moves in the index as well
            await api.data("tasks.edit", task=runs, execution={"queue": other})
            found = (await api.data("tasks.get_all", **ask))["tasks"]
            assert [task["id"] for task in found] == [waits]

        with_api(test)

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"status_changed": [">=2026-09-07T08:01:00"]}, ["b", "c"]),
            ({"status_changed": [">2026-09-07T08:01:00+00:00"]}, ["c"]),
            ({"status_changed": ">=2026-09-07T08:01:00Z"}, ["b", "c"]),
            ({"status_changed": [">=2026-09-07T08:00:30", "<2026-09-07T08:01:30"]}, ["b"]),
            ({"last_update": ["<=2026-09-07T08:01:00"]}, ["a", "b"]),
            ({"started": [">=2026-09-07T08:00:00"]}, []),
            ({"status_changed": [">=2026-09-07T08:01:00"], "name": "^c"}, ["c"]),
            ({"order_by": ["-status_changed"]}, ["c", "b", "a"]),
            ({"order_by": ["-started", "name"]}, ["a", "b", "c"]),
        ],
    )
    def test_ranges_and_order(self, filters: dict[str, Any], found: list[str]) -> None:
        async def test(api: Api) -> None:
            for name in ("a", "b", "c"):
                api.model.create_task(name, api.queue)
                await api.clock.sleep(60)
            tasks = (await api.data("tasks.get_all", **filters, only_fields=["name"]))["tasks"]
            assert [task["name"] for task in tasks] == found

        with_api(test)

    def test_what_changed_recently_is_found_also_after_many_changes(self) -> None:
        async def test(api: Api) -> None:
            early, late = (api.model.create_task(name, api.queue) for name in ("early", "late"))
            await api.clock.sleep(60)
            await api.data("tasks.started", task=early)
            ask = {"status_changed": [">=2026-09-07T08:00:30"], "only_fields": ["id"]}
            assert (await api.data("tasks.get_all", **ask))["tasks"] == [{"id": early}]
            await api.data("tasks.started", task=late)
            found = (await api.data("tasks.get_all", **ask))["tasks"]
            assert found == [{"id": early}, {"id": late}]

        with_api(test)

    def test_events_are_a_sign_of_life_also_as_json_lines(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("a", api.queue)
            await api.clock.sleep(60)
            event = json.dumps({"type": "log", "task": task, "msg": "hello"})
            reply = await api.client.post(
                "/events.add_batch",
                content=f"{event}\n{event}\n",
                headers={"content-type": "application/json-lines"},
                auth=KEYS,
            )
            assert reply.json()["data"] == {"added": 2, "errors": 0, "errors_info": {}}
            data = await api.data("tasks.get_by_id", task=task)
            assert data["task"]["last_update"] == "2026-09-07T08:01:00.000000+00:00"

        with_api(test)

    def test_only_pings_move_the_running_time(self) -> None:
        async def test(api: Api) -> None:
            task = api.model.create_task("a", api.queue)
            await api.data("tasks.started", task=task)
            report = {"worker": "w1", "task": task, "queue": api.queue, "timestamp": 1}
            await api.clock.sleep(61)
            await api.data("workers.status_report", **report)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert worker["task"]["running_time"] == 0
            await api.data("tasks.ping", task=task)
            (worker,) = (await api.data("workers.get_all"))["workers"]
            assert worker["task"]["running_time"] == 61_000

        with_api(test)
