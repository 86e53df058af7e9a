"""The HTTP surface: who may ask, what comes back, and what bad requests get."""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import jsonschema
import pytest

from gpu_autoscaler.domain.requests import Answer, Request
from gpu_autoscaler.reports.formats import as_dict
from gpu_autoscaler.reports.period import parse_period
from gpu_autoscaler.reports.report import By, report
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.app import PATIENCE, surface_app
from gpu_autoscaler.web.guard import MAX_BODY_BYTES
from gpu_autoscaler.web.openapi import document
from tests.policy.worlds import QUEUE, START, Story, config, registered

T = TypeVar("T")

TOKEN = "correct-horse"
BASIC = "Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
BEARER = {"Authorization": f"Bearer {TOKEN}"}
AS_BROWSER = {"Authorization": BASIC, "X-Requested-With": "gpu-autoscaler"}
NASTY = [
    "a/b",
    'say "no"',
    "<script>alert(1)</script>",
    "🚀 rocket",
    "../../etc/passwd",
    "50 % off?",
]


class Asked:
    """Costs that are those of a ledger without a line."""

    async def of(self, since: str, by: By) -> dict[str, Any]:
        if since == "today":
            raise OSError("the ledger is gone")
        period = parse_period(since, START)
        return as_dict(report([], [], period, START, by), "test")


class Site:
    """A surface over a loop that a test plays."""

    def __init__(self, token: str | None = TOKEN, client: str = "10.0.0.9", base: str = "") -> None:
        self.clock = LoopClock()
        self.leads, self.interval = True, timedelta(seconds=30)
        self.woken = 0
        self.asked: list[Request] = []
        self.answer: Answer | None = None
        self.last: Cycle | None = None
        exposition = b"up 1\n", "text/plain; version=0.0.4"
        app = surface_app(self, self.clock, token, lambda: exposition, costs=Asked())
        transport = httpx.ASGITransport(app, client=(client, 1234), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=base or "http://daemon")

    def wake(self) -> None:
        self.woken += 1

    async def ask(self, request: Request, within: timedelta) -> Answer | None:
        self.asked.append(request)
        assert within == PATIENCE
        return self.answer and replace(self.answer, request=request)

    def cycle(self, story: Story) -> None:
        world = story.world()
        made = story.cycle()
        self.last = Cycle(story.now, world, made, story.config)


def busy() -> Story:
    """m1 runs a task of a nasty name, another one waits."""
    story = Story(config({"max_instances": 1}, clearml={"web_host": "https://app.example"}))
    story.prices = {"H100-1-80G": 2.73}
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.enqueue("t1")
    story.run("m1", "t1")
    story.tasks["t1"] = replace(story.tasks["t1"], name=NASTY[2])
    story.enqueue("t2")
    story.cycle()
    return story


def at(
    run: Callable[[Site], Awaitable[T]],
    token: str | None = TOKEN,
    client: str = "10.0.0.9",
    base: str = "",
) -> T:
    async def main() -> T:
        there = Site(token, client, base)
        there.cycle(busy())
        return await run(there)

    return run_virtual(main())


def status_of(
    method: str,
    path: str,
    headers: dict[str, str],
    token: str | None = TOKEN,
    client: str = "10.0.0.9",
    base: str = "",
) -> int:
    async def run(there: Site) -> int:
        reply = await there.http.request(method, path, headers=headers)
        assert TOKEN not in reply.text
        assert "Traceback" not in reply.text
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        return reply.status_code

    return at(run, token, client, base)


# --- who may ask


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/status", "/api/v1/openapi.json", "/x"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"bearer {TOKEN}x"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": "Bearer " + "x" * 3000},
    ],
)
def test_without_the_token_nothing_is_told(path: str, headers: dict[str, str]) -> None:
    assert status_of("GET", path, headers) == 401


@pytest.mark.parametrize("headers", [BEARER, {"Authorization": BASIC}])
@pytest.mark.parametrize("path", ["/metrics", "/api/v1/status", "/api/v1/openapi.json"])
def test_with_it_everything_is(path: str, headers: dict[str, str]) -> None:
    assert status_of("GET", path, headers) == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_platforms_need_no_token_to_ask_for_health(path: str) -> None:
    assert status_of("GET", path, {}) == 200


@pytest.mark.parametrize(
    ("client", "base", "headers", "status"),
    [
        ("127.0.0.1", "http://localhost:8080", {}, 200),
        ("::1", "http://[::1]:8080", {}, 200),
        ("10.0.0.9", "http://localhost:8080", {}, 403),
        ("127.0.0.1", "http://evil.example:8080", {}, 403),  # a name made to point here
        ("127.0.0.1", "http://localhost:8080", {"X-Forwarded-For": "10.0.0.9"}, 403),
    ],
)
def test_without_a_token_only_this_machine_may_ask(
    client: str, base: str, headers: dict[str, str], status: int
) -> None:
    assert status_of("GET", "/api/v1/status", headers, None, client, base) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [(BEARER, 200), (AS_BROWSER, 200), ({"Authorization": BASIC}, 403), ({}, 401)],
)
def test_no_other_site_makes_a_browser_act(headers: dict[str, str], status: int) -> None:
    assert status_of("POST", "/api/v1/reconcile", headers) == status


# --- bad requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/page/../../../etc/passwd", 404),
        ("GET", "/page/%2e%2e%2fapp.py", 404),
        ("GET", "/page/index.html", 404),
        ("POST", "/api/v1/status", 405),
        ("OPTIONS", "/api/v1/status", 405),
        ("DELETE", "/api/v1/queues/x/pause", 405),
        ("HEAD", "/api/v1/status", 200),
        ("GET", "/api/v1/reconcile", 405),
        ("TRACE", "/", 405),
    ],
)
def test_a_wrong_path_or_method_is_told_in_a_sentence(method: str, path: str, status: int) -> None:
    assert status_of(method, path, BEARER) == status


@pytest.mark.parametrize("length", [MAX_BODY_BYTES + 1, 10**9])
def test_a_huge_body_is_refused_before_it_is_read(length: int) -> None:
    headers = {**BEARER, "Content-Length": str(length)}
    assert status_of("POST", "/api/v1/reconcile", headers) == 413


def test_before_the_first_cycle_it_says_so() -> None:
    async def run(there: Site) -> None:
        there.last = None
        for path in ("status", "explain/x"):
            reply = await there.http.get(f"/api/v1/{path}", headers=BEARER)
            assert (reply.status_code, list(reply.json())) == (503, ["error"])

    at(run)


def test_a_defect_is_no_traceback() -> None:
    async def run(there: Site) -> httpx.Response:
        there.last = "no cycle"  # type: ignore[assignment]
        return await there.http.get("/api/v1/status", headers=BEARER)

    reply = at(run)
    assert reply.status_code == 500
    assert "defect" in reply.json()["error"]


# --- what comes back


def test_the_status_tells_queues_instances_and_money() -> None:
    async def run(there: Site) -> dict[str, object]:
        reply = await there.http.get("/api/v1/status", headers=BEARER)
        found: dict[str, object] = reply.json()
        schema = (await there.http.get("/api/v1/openapi.json", headers=BEARER)).json()
        jsonschema.validate(
            found, {"$ref": "#/components/schemas/Status", "components": schema["components"]}
        )
        return found

    found = json.loads(json.dumps(at(run)))
    (queue,) = found["queues"]
    assert (queue["waiting"], queue["busy"], queue["billed"]) == (1, 1, 1)
    assert [task["id"] for task in queue["tasks"]] == ["t2"]
    (there,) = found["instances"]
    assert there["task"]["name"] == NASTY[2]
    assert there["task"]["url"] == "https://app.example/projects/*/experiments/t1"
    assert (there["state"], there["actions"]) == ("running_task", ["keep"])
    assert [each["state"] for each in there["timeline"]][-2:] == ["idle", "running_task"]
    assert found["money"]["eur_per_hour"] == 2.73
    assert datetime.fromisoformat(found["money"]["prices_read_at"]) == START


def test_the_same_cycle_is_sent_once() -> None:
    async def run(there: Site) -> None:
        first = await there.http.get("/api/v1/status", headers=BEARER)
        again = {**BEARER, "If-None-Match": first.headers["etag"]}
        reply = await there.http.get("/api/v1/status", headers=again)
        assert (reply.status_code, reply.content) == (304, b"")
        later = busy()
        later.cycle()
        there.cycle(later)
        assert (await there.http.get("/api/v1/status", headers=again)).status_code == 200

    at(run)


@pytest.mark.parametrize("name", NASTY)
def test_any_name_can_be_explained(name: str) -> None:
    async def run(there: Site) -> httpx.Response:
        return await there.http.get(f"/api/v1/explain/{quote(name, safe='')}", headers=BEARER)

    reply = at(run)
    assert reply.status_code == (200 if name == NASTY[2] else 404)
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", [QUEUE, *NASTY])
@pytest.mark.parametrize(("noun", "verb"), [("queues", "pause"), ("instances", "stop")])
def test_a_request_reaches_the_loop_and_its_answer_comes_back(
    name: str, noun: str, verb: str
) -> None:
    async def run(there: Site) -> tuple[list[Request], list[httpx.Response]]:
        path = f"/api/v1/{noun}/{quote(name, safe='')}/{verb}"
        replies = []
        for answer in (True, False, None):
            sentence = Answer(Request, answer, "so it is")  # type: ignore[arg-type]
            there.answer = sentence if answer is not None else None
            replies.append(await there.http.post(path, headers=BEARER))
        return there.asked, replies

    asked, replies = at(run)
    assert {(each.kind.value, each.subject) for each in asked} == {(verb, name)}
    assert [reply.status_code for reply in replies] == [200, 409, 504]
    assert replies[0].json() == {"done": "so it is"}
    assert replies[1].json() == {"error": "so it is"}


def test_a_dry_run_promises_nothing() -> None:
    async def run(there: Site) -> None:
        app = surface_app(there, there.clock, TOKEN, lambda: (b"", ""), dry_run=True)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as client:
            reply = await client.post(f"/api/v1/queues/{QUEUE}/pause", headers=BEARER)
        assert (reply.status_code, there.asked) == (409, [])
        assert "dry run" in reply.json()["error"]

    at(run)


def test_reconcile_wakes_the_loop() -> None:
    async def run(there: Site) -> int:
        await there.http.post("/api/v1/reconcile", headers=BEARER)
        return there.woken

    assert at(run) == 1


def test_every_path_of_the_document_answers() -> None:
    async def run(there: Site) -> None:
        paths = (await there.http.get("/api/v1/openapi.json", headers=BEARER)).json()["paths"]
        there.answer = Answer(Request, True, "done")  # type: ignore[arg-type]
        for path, methods in paths.items():
            for method in set(methods) - {"parameters"}:
                url = path.replace("{name}", QUEUE)
                reply = await there.http.request(method.upper(), url, headers=BEARER)
                assert reply.status_code == 200, path

    at(run)


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("", 200, '"by":"day"'),
        ("?since=last-month&by=task", 200, '"by":"task"'),
        ("?since=yesterday", 400, "since: write today, week, month"),
        ("?since=<b>", 400, "since: write today"),
        ("?since=2199", 400, "since: it lies in the future"),
        ("?by=machine", 400, "by: write task, project, user, queue, type, day"),
        ("?since=today", 503, "the ledger is gone"),
    ],
)
def test_what_it_cost(query: str, code: int, says: str) -> None:
    async def run(there: Site) -> None:
        reply = await there.http.get(f"/api/v1/costs{query}", headers=BEARER)
        assert reply.status_code == code
        assert says in reply.text
        schema = document()["components"]["schemas"]["Costs" if code == 200 else "Refused"]
        jsonschema.validate(reply.json(), schema)
        assert (await there.http.get("/costs", headers=BEARER)).status_code == 200
        assert (await there.http.get("/costs")).status_code == 401

    at(run)
