"""Prometheus itself reads what is exposed, and the alerts that watch it."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpu_autoscaler.commands import run
from gpu_autoscaler.commands.storing import open_store
from gpu_autoscaler.commands.wiring import build_loop
from gpu_autoscaler.domain import effects
from gpu_autoscaler.domain.calls import OUTCOMES
from gpu_autoscaler.domain.effects import Failure, Reason
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.memory import Backoff, Breaker, Memory
from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.web.metrics import Metrics
from tests.commands.site import QUEUE, Site
from tests.policy.worlds import SPEC, START, TYPE, ZONE, config, instance, minutes, registered
from tests.web.cycles import Told, series

FOLDER = Path(__file__).parents[2] / "config"
ALERTS = FOLDER / "prometheus" / "alerts.yml"
TESTS = FOLDER / "prometheus" / "alerts.test.yml"

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
HERE = Placement(TYPE, ZONE)

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs promtool (Debian package prometheus)"
)


BUDGET = {"eur": 500, "per": "day"}


def exposed() -> bytes:
    """After some cycles in which everything that has a metric happened."""
    story = Told(
        config=config({"max_instances": 5}, max_eur_per_hour=50.0, budgets=[BUDGET]),
        prices={TYPE: 2.5},
        memory=Memory(
            planned_at=START,
            backoffs=(Backoff(HERE, Failure.QUOTA, 1, START, START + minutes(30), "no"),),
            breakers=(Breaker(HERE, SPEC, 3, START, START + minutes(30)),),
        ),
    )
    story.has(
        registered("m1"), instance("m2", created_at=START), instance("m3", "stopped in place")
    )
    story.report("m1")
    story.enqueue("t1", "t2")
    story.metrics.called("clearml", "ok", 0.1)
    first = story.step().plan.effects
    story.done(*first, failure=Failure.TRANSIENT, message="timeout")
    story.run("m1", "t1")
    story.report("m2")
    story.step()
    body, _ = story.metrics.exposition()
    return body


def promtool(*arguments: str, given: bytes = b"") -> None:
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@needs_promtool
def test_promtool_finds_no_fault_in_the_metrics() -> None:
    promtool("check", "metrics", given=exposed())


def lived_through(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """The metrics of a daemon, against both emulators, after a quarter of an hour with one task."""
    metrics = Metrics()

    async def live() -> None:
        site = Site(directory, run, monkeypatch)
        setup, clock = site.setup, site.clock
        site.task(seconds=120)
        services = site.open_services(setup.config, setup.secrets, clock, on_call=metrics.called)
        async with open_store(setup, clock) as store, services as both:
            loop = build_loop(
                setup.watcher, setup.secrets, both, store, clock, on_cycle=metrics.cycled
            )
            await loop.prepare()
            running = asyncio.create_task(loop.run())
            await clock.sleep(15 * 60)
            loop.stop()
            await running

    run_virtual(live())
    return metrics


@needs_promtool
def test_promtool_finds_no_fault_in_those_of_a_running_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = lived_through(tmp_path, monkeypatch)
    body, _ = metrics.exposition()
    promtool("check", "metrics", given=body)


def test_what_a_running_daemon_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = lived_through(tmp_path, monkeypatch)
    assert series(metrics, "effects_decided_total")[QUEUE, "demand", "create"] == 1
    assert series(metrics, "effects_ended_total")["ok", "create"] == 1
    assert series(metrics, "instances") == {(QUEUE, "idle", TYPE, ZONE): 1}
    assert series(metrics, "api_requests_total")["scaleway", "ok"] > 30
    ((boot,),) = [series(metrics, "boot_duration_seconds_sum").values()]
    ((wait,),) = [series(metrics, "time_to_start_seconds_sum").values()]
    assert 60 < boot < wait < 600


@needs_promtool
def test_promtool_finds_no_fault_in_the_rules() -> None:
    promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(TESTS))


def test_there_are_alerts() -> None:
    assert len(set(NAMES)) == len(RULES) >= 14


@pytest.mark.parametrize("alert", NAMES)
def test_each_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    cases = [
        case
        for group in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
        for case in group["promql_expr_test"]
        if f'alertname="{alert}"' in case["expr"]
    ]
    assert {bool(case["exp_samples"]) for case in cases} == {True, False}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_alerts_watch_metrics_that_exist(rule: dict[str, Any]) -> None:
    there = set(re.findall(r"^(gpu_autoscaler_\w+)[{ ]", exposed().decode(), re.MULTILINE))
    asked = set(re.findall(r"gpu_autoscaler_\w+", rule["expr"]))
    assert asked
    assert asked <= there


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_alerts_ask_for_labels_and_words_that_exist(rule: dict[str, Any]) -> None:
    """A slip in either is an alert that never fires, and no error to Prometheus."""
    labels = set(re.findall(r'[{,](\w+)="', exposed().decode()))
    words = {
        *Reason,
        *Failure,
        *InstanceState,
        *OUTCOMES,
        *effects._VERBS.values(),
        "queue",
        "instance",
    }
    asked = re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', rule["expr"])
    grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
    assert {label for label, _ in asked} <= labels
    assert {word for _, value in asked for word in value.split("|")} <= words
    assert {label for by in grouped for label in by.split(", ")} <= labels | {"job"}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert FOLDER.parent / path == FOLDER / "README.md"
    assert anchor == rule["alert"].lower()


def test_the_runbook_has_a_paragraph_for_each_alert_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    chapters = re.findall(r"^### (GpuAutoscaler\w+)\n\n(?=\w)", text, re.MULTILINE)
    assert chapters == NAMES
