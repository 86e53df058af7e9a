"""`explain` and `status`: the daemon's answer, or an own look where no daemon runs."""

import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from gpu_autoscaler.commands import plan as planning
from gpu_autoscaler.commands.ask import Asker, Unreachable
from gpu_autoscaler.commands.wiring import Setup
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.web.app import surface_app
from tests.commands.site import QUEUE, Site
from tests.web.test_surface import NASTY, TOKEN, busy
from tests.web.test_surface import Site as Daemon


def console() -> Console:
    return Console(file=io.StringIO(), width=250, color_system=None)


def said(there: Console) -> str:
    assert isinstance(there.file, io.StringIO)
    return there.file.getvalue()


def nothing() -> Setup:
    raise AssertionError("no configuration is needed where a daemon answers")


def of_daemon(
    ask: Callable[[Asker, Console], Awaitable[int]], token: str = TOKEN
) -> tuple[int, str]:
    async def run() -> tuple[int, str]:
        daemon, there = Daemon(), console()
        daemon.cycle(busy())
        app = surface_app(daemon, daemon.clock, TOKEN, lambda: (b"", "text/plain"))
        transport = httpx.ASGITransport(app)
        code = await ask(Asker("http://daemon", token, nothing, daemon.clock, transport), there)
        return code, said(there)

    return run_virtual(run())


def test_the_daemon_s_explanation_is_printed() -> None:
    code, told = of_daemon(lambda a, c: a.explain("t2", c, as_json=False))
    assert code == 0
    assert "number 1 of 1" in told
    assert "max_instances = 1 are billed" in told


def test_a_name_that_looks_like_markup_is_text() -> None:
    _, told = of_daemon(lambda a, c: a.explain(NASTY[2], c, as_json=False))
    assert NASTY[2] in told


def test_what_nobody_knows_is_exit_1() -> None:
    code, told = of_daemon(lambda a, c: a.explain("nobody/knows", c, as_json=False))
    assert code == 1
    assert "is called nobody/knows" in told


def test_the_status_is_a_table_or_json() -> None:
    code, told = of_daemon(lambda a, c: a.status(c, watch=False, as_json=False))
    assert code == 0
    for word in ("2.73 EUR/h by prices read ", "m1", "running task", NASTY[2], "1 of 1"):
        assert word in told
    _, told = of_daemon(lambda a, c: a.status(c, watch=False, as_json=True))
    assert json.loads(told)["fleet"] == "test"


def test_a_wrong_token_is_an_error_and_no_look_of_its_own() -> None:
    with pytest.raises(OSError, match="401: the token is missing or wrong"):
        of_daemon(lambda a, c: a.explain("t2", c, as_json=False), token="wrong")


def broken(reply: httpx.Response | Exception) -> httpx.MockTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(reply, Exception):
            raise reply
        return reply

    return httpx.MockTransport(handle)


@pytest.mark.parametrize(
    "reply", [httpx.ConnectError("refused"), httpx.Response(200, text="<html>something else")]
)
def test_where_no_daemon_answers_it_looks_by_itself(
    reply: httpx.Response | Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> str:
        site = Site(tmp_path, planning, monkeypatch)
        task = site.task()
        asker = Asker("http://daemon", None, lambda: site.setup, site.clock, broken(reply))
        assert await asker.explain(task, site.console, as_json=False) == 0
        assert await asker.status(site.console, watch=False, as_json=False) == 0
        return site.said

    told = run_virtual(run())
    assert "looking myself" in told
    assert f"is number 1 of 1 in {QUEUE}" in told


def test_an_address_that_is_none_is_unreachable() -> None:
    async def run() -> None:
        daemon = Daemon()
        with pytest.raises(Unreachable):
            await Asker("http://[", None, nothing, daemon.clock)._get("status")

    run_virtual(run())
