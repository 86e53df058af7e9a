"""The weekly report, from the moment at which it is due to the message: the real daemon."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_autoscaler.commands.emulate import LOOPBACK
from gpu_autoscaler.commands.serving import served
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.policy.weekly import WEEK
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.store.ledger import DayLedger, FileSheets
from tests.e2e.support import (
    TOOLS,
    daemon_environment,
    emulated,
    in_real_time,
    on_loopback,
    running,
    until,
)
from tests.store.test_ledger import stretch, task

pytestmark = pytest.mark.e2e


@in_real_time
async def test_the_week_is_told_once_when_it_is_due(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    async def hook(request: Request) -> Response:
        told.append(await request.json())
        return Response(status_code=204)

    now = SystemClock().now()
    due = now.date() - timedelta(days=1)
    noon = datetime.combine(due - timedelta(days=3), time(12), UTC)
    until_two = noon + timedelta(hours=2)
    worked = stretch(state=S.RUNNING_TASK, since=noon, until=until_two, tasks={"t1": ""})
    ended = replace(task("t1"), started_at=noon, ended_at=until_two)
    state = tmp_path / "state"
    state.mkdir()
    memory = state / "memory.json"
    last_week = Memory(planned_at=now, weekly_told=due - WEEK)
    memory.write_bytes(TypeAdapter(Memory).dump_json(last_week))
    await DayLedger(FileSheets(state / "ledger")).add([worked], [ended])
    async with (
        served(Starlette(routes=[Route("/", hook, methods=["POST"])]), on_loopback()) as port,
        emulated() as world,
    ):
        change = {
            "weekly_report": {"day": f"{due:%A}".lower(), "hour": 0},
            "notifications": [{"url": "${GPU_AUTOSCALER_HOOK}"}],
        }
        config = str(world.config(tmp_path, change=change))
        environment = daemon_environment(tmp_path, HOOK=f"json://{LOOPBACK}:{port}/")
        for _ in range(2):  # who comes after a restart does not tell it again
            daemon_runs = running(
                str(TOOLS / "gpu-autoscaler"), "run", "--config", config, environment=environment
            )
            async with daemon_runs as daemon:
                await daemon.said("leading")
                before = memory.read_bytes()
                await until(lambda: told and memory.read_bytes() != before, "report and cycle")  # noqa: B023 - awaited at once
                assert await daemon.end() == 0
    (message,) = told
    assert "5.73 EUR" in message["title"]
    assert "Busy with 1 task: 5.73 EUR, 2.0 h" in message["message"]
