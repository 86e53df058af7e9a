"""What every command owes a person: help with an example, honest exit codes, a demo that works."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpu_autoscaler.commands.emulate import EMULATED_KEY
from gpu_autoscaler.emulator import sample
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER
from tests.e2e.support import (
    TOOLS,
    clean_environment,
    gpu_autoscaler,
    in_real_time,
    process,
    running,
    until,
)

pytestmark = pytest.mark.e2e

COMMANDS = (
    *("run", "plan", "status", "explain", "check", "render", "down", "notify"),
    *("demo", "simulate", "emulate", "cost"),
)
DEMO_PATIENCE_SECONDS = 500.0
"""It takes 40 s of processor time, whatever else the machine has to do."""
SUMMARY_KEYS = {
    "tasks_completed",
    "tasks_failed",
    "tasks_interrupted",
    "instances_created",
    "instances_left",
    "volumes_left",
    "mean_wait_s",
    "p95_wait_s",
    "cost_eur",
    "always_on_cost_eur",
    "saving_percent",
    "simulated_hours",
    "wall_s",
}


@in_real_time
async def test_the_help_names_every_command(tmp_path: Path) -> None:
    ended = await gpu_autoscaler("--help", env=clean_environment(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    listed = re.findall(r"^│ (\w+) ", ended.out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@in_real_time
async def test_each_commands_help_has_an_example(tmp_path: Path, command: str) -> None:
    ended = await gpu_autoscaler(command, "--help", env=clean_environment(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert f"Example: gpu-autoscaler {command}" in ended.out


@pytest.mark.parametrize(
    "words",
    [
        "explode",
        "run --exploding",
        "run --port 65536",
        "render",
        "down",
        "down --idle --all",
        "demo --speed 0",
        "emulate gcp",
    ],
)
@in_real_time
async def test_bad_usage_is_2_with_a_sentence(tmp_path: Path, words: str) -> None:
    ended = await gpu_autoscaler(*words.split(), env=clean_environment(tmp_path))
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: gpu-autoscaler" in ended.err
    assert "Traceback" not in ended.err


@in_real_time
async def test_the_demo_runs_to_its_end_and_keeps_its_promises(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    words = (str(TOOLS / "gpu-autoscaler"), "demo", "--json", "--speed", "1e9", "--keep", str(kept))
    environment = clean_environment(tmp_path)
    ended = await process(*words, environment=environment, patience=DEMO_PATIENCE_SECONDS)
    assert (ended.code, ended.err) == (0, "")
    summary = json.loads(ended.out)
    assert summary.keys() >= SUMMARY_KEYS
    assert all(isinstance(summary[key], int | float) for key in SUMMARY_KEYS)
    tasks = len(sample.SUBMISSIONS)
    assert summary["tasks_completed"] == summary["tasks"] == tasks >= 30
    for key in ("tasks_failed", "tasks_interrupted", "instances_left", "volumes_left"):
        assert summary[key] == 0, key
    assert summary["simulated_hours"] >= 48
    assert len(summary["peak_busy"]) == 4, "all four queues"
    assert 0 < summary["instances_created"] < tasks, "stopped ones were started again"
    assert 0 < summary["mean_wait_s"] <= summary["p95_wait_s"]
    assert 0 < summary["cost_eur"] < summary["always_on_cost_eur"]
    saved = 100 * (1 - summary["cost_eur"] / summary["always_on_cost_eur"])
    assert summary["saving_percent"] == pytest.approx(saved, abs=0.1)
    await _the_ledger_agrees(kept, summary, environment)


async def _the_ledger_agrees(kept: Path, summary: dict[str, Any], environment: Any) -> None:
    """With the emulated cloud's own bill, to the cent, whatever the rows stand for."""
    for by in ("task", "user", "project", "queue", "type", "day"):
        words = f"cost --config {kept}/queues.yaml --since {summary['days']} --by {by}".split()
        as_json = await gpu_autoscaler(*words, "--format", "json", env=environment)
        assert (as_json.code, as_json.err) == (0, "")
        report = json.loads(as_json.out)
        assert round(report["total"]["eur"], 2) == round(summary["cost_eur"], 2), by
        rows = [*report["rows"], *report["overhead"]]
        assert sum(row["eur"] for row in rows) == pytest.approx(report["total"]["eur"], abs=0.005)
    tasks = await gpu_autoscaler(
        "cost",
        *f"--config {kept}/queues.yaml --since {summary['days']} --by task --format csv".split(),
        env=environment,
    )
    table = list(csv.DictReader(io.StringIO(tasks.out.removeprefix("\ufeff"))))
    named = {row["name"]: row for row in table}
    assert {"7b run", "probe layer 12", "pretrain seed 1"} <= named.keys()
    assert named["7b run"]["user"] == "Katherine"
    assert named["7b run"]["project"] == "large models"
    shown = await gpu_autoscaler(*words[:-1], "user", env=environment)
    assert "Katherine" in shown.out
    assert "Overhead: idle" in shown.out
    again = await gpu_autoscaler("demo", "--json", "--keep", str(kept), env=environment)
    assert again.code == 2
    assert "it exists; name a new directory" in again.err.replace("\n", " ")


@in_real_time
async def test_emulate_both_says_where_and_ends_on_sigterm(tmp_path: Path) -> None:
    words = (str(TOOLS / "gpu-autoscaler"), "emulate", "both", "--speed", "60")
    async with running(*words, environment=clean_environment(tmp_path)) as it:
        await until(lambda: any("Ctrl-C" in line for line in it.lines), "it is ready")
        clearml, scaleway = re.findall(r"http://127\.0\.0\.1:\d+", "\n".join(it.lines))
        async with httpx.AsyncClient() as client:
            keys = (EMULATED_USER.access_key, EMULATED_USER.secret_key)
            reply = await client.post(f"{clearml}/queues.get_all", auth=keys)
            assert [queue["name"] for queue in reply.json()["data"]["queues"]] == ["default"]
            reply = await client.get(
                f"{scaleway}/instance/v1/zones/fr-par-2/servers",
                headers={"X-Auth-Token": EMULATED_KEY},
            )
            assert reply.json() == {"servers": []}
        assert await it.end() == 0
