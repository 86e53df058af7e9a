"""`notify test`: which channels work, by number and scheme, and never where they are."""

import asyncio
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typer.testing import CliRunner

from gpu_autoscaler import cli
from gpu_autoscaler.commands.notify import notify_test
from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.commands.wiring import Setup, load_setup
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.web.channel import DEADLINE_SECONDS, send_by_apprise
from gpu_autoscaler.web.wording import Message
from tests.commands.site import ENV, QUEUE, TYPE, YAML, ZONE

SECRET = "hunter2"


def written(directory: Path, urls: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """A configuration with these channels, and the environment it takes them from."""
    file = directory / "queues.yaml"
    known = {"state": directory, "project": PROJECT, "queue": QUEUE, "type": TYPE, "zone": ZONE}
    lines = "".join(f"- url: ${{URL_{number}}}\n" for number in range(len(urls)))
    file.write_text(YAML.format(**known) + (f"notifications:\n{lines}" if urls else ""))
    return file, {**ENV, **{f"URL_{number}": url for number, url in enumerate(urls)}}


def setup(directory: Path, *urls: str) -> Setup:
    return load_setup(*written(directory, urls))


async def fake(url: str, message: Message) -> bool:
    """Channels are called after what they do."""
    if "hangs" in url:
        await LoopClock().sleep(1e9)
    if "breaks" in url:
        raise ConnectionError(url)
    return "works" in url


WORKS, REFUSES = f"json://works/{SECRET}", f"xml://refuses/{SECRET}"
BREAKS, HANGS = f"jsons://breaks/{SECRET}", f"xmls://hangs/{SECRET}"


def said_of(directory: Path, *urls: str, as_json: bool = False) -> tuple[int, str]:
    file = io.StringIO()
    console = Console(file=file, width=200, color_system=None)
    code = run_virtual(notify_test(setup(directory, *urls), console, as_json=as_json, send=fake))
    assert SECRET not in file.getvalue()
    return code, file.getvalue()


def test_each_channel_is_said_by_number_and_scheme(tmp_path: Path) -> None:
    assert said_of(tmp_path, WORKS) == (0, "ok   channel 1 (json)\n")
    code, said = said_of(tmp_path, WORKS, REFUSES, BREAKS, HANGS)
    assert (code, said.splitlines()) == (
        1,
        [
            "ok   channel 1 (json)",
            "bad  channel 2 (xml): not accepted, or not reached",
            "bad  channel 3 (jsons): ConnectionError",
            f"bad  channel 4 (xmls): no answer within {DEADLINE_SECONDS:.0f} s",
        ],
    )


def test_machines_read_the_same(tmp_path: Path) -> None:
    code, said = said_of(tmp_path, WORKS, REFUSES, as_json=True)
    assert code == 1
    assert json.loads(said) == {
        "ok": False,
        "channels": [
            {"number": 1, "scheme": "json", "error": None},
            {"number": 2, "scheme": "xml", "error": "not accepted, or not reached"},
        ],
    }
    code, said = said_of(tmp_path, WORKS, as_json=True)
    assert (code, json.loads(said)["ok"]) == (0, True)


def test_no_channel_is_no_success(tmp_path: Path) -> None:
    code, said = said_of(tmp_path)
    assert (code, said) == (1, "no channels: `notifications` in the configuration is empty\n")
    assert json.loads(said_of(tmp_path, as_json=True)[1]) == {"ok": False, "channels": []}


@pytest.mark.parametrize("answers", [200, 500])
def test_a_message_really_arrives(tmp_path: Path, answers: int) -> None:
    posts: list[dict[str, str]] = []

    async def post(request: Request) -> Response:
        posts.append(json.loads(await request.body()))
        return Response(status_code=answers)

    async def main() -> int:
        app = Starlette(routes=[Route(f"/{SECRET}", post, methods=["POST"])])
        with bind("127.0.0.1", 0) as listener:
            async with served(app, listener) as port:
                known = setup(tmp_path, f"json://127.0.0.1:{port}/{SECRET}")
                console = Console(file=io.StringIO())
                return await notify_test(known, console, as_json=False, send=send_by_apprise)

    assert asyncio.run(main()) == (0 if answers == 200 else 1)
    assert [post["title"] for post in posts] == ["[test] test"]


@pytest.fixture
def _no_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is run here must not leave its log to whoever comes next."""
    monkeypatch.setattr(cli, "configure_logs", lambda *_: None)


@pytest.mark.usefixtures("_no_logs")
def test_the_command_itself(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    file, env = written(tmp_path, [f"json://127.0.0.1:{port}/{SECRET}"])
    ended = CliRunner().invoke(
        cli.app, ["notify", "test", "--json", "--config", str(file)], env=env
    )
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["channels"][0]["scheme"] == "json"
    assert SECRET not in ended.output


def test_a_channel_that_is_no_channel_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    file, env = written(tmp_path, [f"carrier-pigeon://{SECRET}"])
    ended = CliRunner().invoke(cli.app, ["notify", "test", "--config", str(file)], env=env)
    assert ended.exit_code == 1
    assert "notifications[0].url: not a URL that apprise understands" in ended.output
    assert SECRET not in ended.output
