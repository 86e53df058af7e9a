"""The parts are put together so that each hears what it needs."""

from pathlib import Path

import pytest

from gpu_autoscaler.commands import run
from gpu_autoscaler.runtime.clock import run_virtual
from tests.commands.site import QUEUE, ZONE, Site


def test_requests_to_both_services_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, str]] = []

    async def story() -> None:
        site = Site(tmp_path, run, monkeypatch)
        setup = site.setup
        async with site.open_services(
            setup.config,
            setup.secrets,
            site.clock,
            on_call=lambda api, outcome, _: heard.append((api, outcome)),
        ) as services:
            await services.clearml.queues([QUEUE])
            await services.scaleway.instances(ZONE)

    run_virtual(story())
    assert set(heard) == {("clearml", "ok"), ("scaleway", "ok")}
