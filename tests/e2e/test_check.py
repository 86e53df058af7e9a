"""`gpu-autoscaler check`: every mistake with its place, and whether what is named exists."""

from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.support import (
    QUEUE,
    ZONE,
    clean_environment,
    daemon_environment,
    emulated,
    gpu_autoscaler,
    in_real_time,
)

pytestmark = pytest.mark.e2e

FIVE_MISTAKES = """\
fleet: research
poll_interval: 30
scaleway: {project_id: 11111111-2222-3333-4444-555555555555}
defaults:
  idle_timeot: 30m
queues:
  H100-1-80G:
    placements: [{type: H100-1-80G, zone: paris}]
    max_instances: -1
    volume: {size: 5GB}
"""
EXPECTED = (
    (2, "poll_interval", "a duration needs a unit"),
    (5, "defaults.idle_timeot", "did you mean idle_timeout?"),
    (8, "queues.H100-1-80G.placements[0].zone", "a zone looks like fr-par-2"),
    (9, "queues.H100-1-80G.max_instances", "must be at least 0"),
    (10, "queues.H100-1-80G.volume.size", "20GB to 10TB"),
)


@in_real_time
async def test_five_mistakes_are_all_named_with_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "queues.yaml"
    path.write_text(FIVE_MISTAKES)
    words = ("check", "--config", str(path))
    ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path))
    assert (ended.code, ended.out) == (1, "")
    lines = ended.err.splitlines()
    assert len(lines) == len(EXPECTED)
    for line, (number, key, says) in zip(lines, EXPECTED, strict=True):
        assert line.startswith(f"error: {path}:{number}: {key}: ")
        assert says in line


@in_real_time
async def test_no_file_and_no_secrets_are_said_together(tmp_path: Path) -> None:
    path = tmp_path / "queues.yaml"
    words = ("check", "--config", str(path))
    ended = await gpu_autoscaler(*words, env=clean_environment(tmp_path))
    assert (ended.code, ended.out) == (1, "")
    lines = ended.err.splitlines()
    assert [line for line in lines if str(path) in line]
    for name in ("CLEARML_ACCESS_KEY", "CLEARML_SECRET_KEY", "SCALEWAY_SECRET_KEY"):
        assert [line for line in lines if f"GPU_AUTOSCALER_{name}: not set" in line]
    assert all(line.startswith("error: ") for line in lines)


@in_real_time
async def test_online_everything_is_there(tmp_path: Path) -> None:
    async with emulated() as world:
        world.queue()
        words = ("check", "--online", "--config", str(world.config(tmp_path)))
        ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path))
        assert (ended.code, ended.err) == (0, "")
        levels = [line.split()[0] for line in ended.out.splitlines() if line.startswith("  ")]
        assert Counter(levels) == {"ok": 16, "note": 2}, ended.out
        assert "note  security group" in ended.out
        assert ended.out.endswith("16 ok, 2 note, 0 bad\n")
        assert world.left() == (0, 0), "trying what the key may do makes nothing"
        assert world.scaleway_calls.count("DELETE") == 4
        assert "GPU_AUTOSCALER" not in ended.out


@in_real_time
async def test_online_what_is_missing_is_named(tmp_path: Path) -> None:
    async with emulated() as world:
        here = {"type": QUEUE, "zone": ZONE}
        queues = {
            "no [such] queue": {"placements": [here]},
            "no-such-type": {"placements": [{**here, "type": "H100-9-80G"}]},
            "no-such-image": {"placements": [here], "image": "debian_potato"},
        }
        world.queue("no-such-type")
        world.queue("no-such-image")
        config = world.config(tmp_path, change={"queues": queues})
        words = ("check", "--online", "--config", str(config))
        ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path))
        assert (ended.code, ended.err) == (1, "")
        bad = [line for line in ended.out.splitlines() if line.startswith("  bad")]
        queue, kind, image = bad
        assert queue.strip() == "bad   queue no [such] queue: " + (
            "ClearML has no queue of this name; create it, or rename"
        )
        assert kind.startswith(f"  bad   H100-9-80G in {ZONE}: not offered there; ")
        assert QUEUE in kind, "what there is instead"
        assert "image debian_potato" in image
        assert "ubuntu_jammy_gpu_os_12" in image, "what would be right"


@in_real_time
async def test_online_wrong_keys_are_told_from_what_is_missing(tmp_path: Path) -> None:
    async with emulated() as world:
        world.queue()
        words = ("check", "--online", "--config", str(world.config(tmp_path)))
        environment = daemon_environment(tmp_path, CLEARML_SECRET_KEY="a-wrong-secret")
        ended = await gpu_autoscaler(*words, env=environment)
        assert ended.code == 1
        login = next(line for line in ended.out.splitlines() if "login" in line)
        assert login.startswith("  bad   login")
        assert "GPU_AUTOSCALER_CLEARML_SECRET_KEY" in login
        assert "a-wrong-secret" not in ended.out + ended.err
        assert f"ok    servers in {ZONE}" in ended.out
