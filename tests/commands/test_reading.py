"""The configuration as an object, by the real client from a real server on this machine."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from gpu_autoscaler.cli import app
from gpu_autoscaler.commands.wiring import Setup, load_setup
from gpu_autoscaler.config.document import MAX_FILE_BYTES
from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from tests.commands.site import ENV, QUEUE, TYPE, YAML, ZONE
from tests.store import server as storage
from tests.store.server import BUCKET, REGION, bucket_server, make_bucket, upload

KEY = "gpu-autoscaler/queues.yaml"
OBJECT = f"s3://{BUCKET}/{KEY}"


def text(most: object = 4) -> str:
    """A configuration."""
    filled = YAML.format(state="state", project=PROJECT, queue=QUEUE, type=TYPE, zone=ZONE)
    return filled.replace("max_instances: 4", f"max_instances: {most}")


server, empty = storage.server, storage.endpoint


@pytest.fixture
def endpoint(empty: str) -> str:
    """With a configuration in the bucket."""
    upload(empty, KEY, text())
    return empty


def environment(endpoint: str, **changes: str) -> dict[str, str]:
    settings = {"CONFIG_REGION": REGION, "CONFIG_ENDPOINT": endpoint, **changes}
    return {**ENV, **{f"GPU_AUTOSCALER_{name}": value for name, value in settings.items()}}


def look(setup: Setup) -> Reload | None:
    return asyncio.run(setup.watcher.refresh())


def most(setup: Setup) -> int:
    return setup.config.queues[QUEUE].max_instances


def test_it_is_read_at_start_and_looked_at_again(endpoint: str) -> None:
    setup = load_setup(OBJECT, environment(endpoint))
    assert most(setup) == 4
    assert look(setup) is None
    upload(endpoint, KEY, text(7))
    news = look(setup)
    assert news is not None
    assert (news.error, most(setup)) == (None, 7)
    assert look(setup) is None


def test_a_command_whose_loop_runs_already_reads_it_too(endpoint: str) -> None:
    async def command() -> Setup:
        return load_setup(OBJECT, environment(endpoint))

    assert most(asyncio.run(command())) == 4


def test_a_mistake_in_it_is_told_once_with_its_line_and_the_last_good_one_kept(
    endpoint: str,
) -> None:
    setup = load_setup(OBJECT, environment(endpoint))
    upload(endpoint, KEY, text("many"))
    news = look(setup)
    assert news is not None
    assert f"{OBJECT}:8: queues.{QUEUE}.max_instances: 'many'" in str(news.error)
    assert (look(setup), most(setup)) == (None, 4)
    upload(endpoint, KEY, text(5))
    mended = look(setup)
    assert mended is not None
    assert (mended.mended, most(setup)) == (True, 5)


def test_an_object_or_a_service_that_is_gone_is_told_once_in_all() -> None:
    with bucket_server() as server:
        make_bucket(server)
        upload(server, KEY, text())
        setup = load_setup(OBJECT, environment(server))
        upload(server, KEY, None)
        news = look(setup)
        assert news is not None
        assert str(news.error) == (
            f"{OBJECT}: there is no such object; upload the configuration there"
        )
        assert look(setup) is None
        httpx.delete(f"{server}/{BUCKET}").raise_for_status()
        assert look(setup) is None
    assert look(setup) is None, "nobody listens there any more"
    assert most(setup) == 4


def test_a_look_does_not_hold_the_event_loop(endpoint: str) -> None:
    setup = load_setup(OBJECT, environment(endpoint))

    async def scene() -> None:
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        looking = asyncio.create_task(setup.watcher.refresh())
        await turned.wait()
        assert not looking.done()
        assert await looking is None

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        ("s3://memory", {}, "s3://memory: an object is named s3://bucket/key"),
        ("s3:///key", {}, "s3:///key: an object is named s3://bucket/key"),
        ("s3://My_Bucket/k", {}, "s3://My_Bucket/k: a bucket's name looks like my-bucket"),
        (f"s3://{BUCKET}/a//b", {}, "a//b: a key looks like gpu-autoscaler/research.json"),
        (OBJECT, {"CONFIG_REGION": "Paris"}, "GPU_AUTOSCALER_CONFIG_REGION: a region looks like"),
        (OBJECT, {"CONFIG_ENDPOINT": "s3.example"}, "GPU_AUTOSCALER_CONFIG_ENDPOINT: "),
        ("s3://elsewhere/k.yaml", {}, "NoSuchBucket); make the bucket first, or name another"),
        (f"s3://{BUCKET}/no.yaml", {}, "no.yaml: there is no such object; upload the"),
        (OBJECT, {"SCALEWAY_SECRET_KEY": ""}, "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY: not set"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    endpoint: str, place: str, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_setup(place, environment(endpoint, **changes))
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_no_connection_at_start_is_a_sentence_without_keys(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_setup(OBJECT, environment("http://127.0.0.1:9"))
    assert str(caught.value) == (
        f"{OBJECT}: cannot be read (no connection, or no answer that makes sense)"
    )


def test_something_huge_is_not_downloaded(endpoint: str) -> None:
    upload(endpoint, KEY, text() + "#" * MAX_FILE_BYTES)
    with pytest.raises(ConfigError, match=rf"yaml: is larger than {MAX_FILE_BYTES} bytes"):
        load_setup(OBJECT, environment(endpoint))


@pytest.mark.parametrize(
    "words",
    [
        ("check",),
        ("render", QUEUE),
        ("plan",),
        ("cost",),
        ("status", "--url", "http://127.0.0.1:9"),
        ("explain", "x", "--url", "http://127.0.0.1:9"),
        ("run", "--once", "--dry-run"),
        ("down", "--idle"),
        ("notify", "test"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_takes_it(
    words: tuple[str, ...], endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the mistake in it, which each of them names."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    upload(endpoint, KEY, text("many"))
    env = {**environment(endpoint), "HOME": str(tmp_path), "GPU_AUTOSCALER_CONFIG": OBJECT}
    result = CliRunner().invoke(app, words, env=env)
    assert result.exit_code == 1
    assert f"{OBJECT}:8: queues.{QUEUE}.max_instances" in result.output
