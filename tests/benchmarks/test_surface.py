"""What people who look cost the loop: 100 queues, 1,000 instances, 20 clients (`make bench`).

Asserted is a ratio within one run: the median cycle with clients against the one without.
"""

import asyncio
import contextlib
import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog
from playwright.async_api import async_playwright
from rich.console import Console
from rich.table import Table

from gpu_autoscaler.commands.emulate import LOOPBACK
from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.emulator.inprocess import InProcessClearml
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.runtime.execute import LiveExecutor
from gpu_autoscaler.runtime.loop import Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.record import Recorder
from gpu_autoscaler.store.directory import DirectoryStore
from gpu_autoscaler.web.app import surface_app
from gpu_autoscaler.web.metrics import Metrics
from tests.benchmarks.daemon import LEARNING, Unchanging
from tests.benchmarks.fleet import LARGE, BenchFleet
from tests.benchmarks.test_cost import ROOT
from tests.web.page_viewer import CHROMIUM, QUIET

ROUNDS = 10
"""Of each kind in turn: what else happens on this machine meets both alike."""
CYCLES = 20
"""In each round, so 200 of each kind."""
PAUSE_SECONDS = 0.1
COSTS_AT_MOST = 1.2


@dataclass
class Measured:
    """Seconds."""

    alone: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    replies: list[float] = field(default_factory=list)
    status_bytes: int = 0
    metrics_bytes: int = 0
    first_paint: float = math.nan
    """Of the page in a real browser; not a number where there is none."""

    @property
    def ratio(self) -> float:
        return statistics.median(self.watched) / statistics.median(self.alone)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        yield
    finally:
        structlog.configure(**before)


async def _measure(directory: Path) -> Measured:
    clock = SystemClock()
    fleet = BenchFleet(LARGE, clock)
    await fleet.fill()
    clearml = InProcessClearml(fleet.clearml)
    found, metrics = Measured(), Metrics()
    with DirectoryStore(directory) as store, bind(LOOPBACK, 0) as listener:
        loop = Loop(
            Unchanging(fleet.config),
            Observer(clearml, fleet.cloud, clock),
            LiveExecutor(clearml, fleet.cloud, clock, lambda: None),
            store,
            lambda _: fleet.bootstrap,
            clock,
            Recorder(),
            metrics.cycled,
        )
        await loop.prepare()

        async def cycles(number: int, seconds: list[float]) -> None:
            for _ in range(number):
                await clock.sleep(PAUSE_SECONDS)
                fleet.report()
                begun = clock.monotonic()
                await loop.cycle()
                seconds.append(clock.monotonic() - begun)

        await cycles(LEARNING, [])
        app = surface_app(loop, clock, None, metrics.exposition)
        async with served(app, listener) as port:
            url = f"http://{LOOPBACK}:{port}"
            clients = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.benchmarks.clients", f"{url}/api/v1/status"),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert clients.stdin is not None
            for _ in range(ROUNDS):
                await cycles(CYCLES, found.alone)
                clients.stdin.write(b"go\n")
                await cycles(CYCLES, found.watched)
                clients.stdin.write(b"stop\n")
            async with httpx.AsyncClient() as client:
                found.status_bytes = len((await client.get(f"{url}/api/v1/status")).content)
                found.metrics_bytes = len((await client.get(f"{url}/metrics")).content)
            found.first_paint = await _first_paint(url)
            told, _ = await clients.communicate(b"")  # and closes its input
            found.replies = json.loads(told)
    return found


async def _first_paint(url: str) -> float:
    if not CHROMIUM.exists():
        return math.nan
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = await browser.new_page()
        await page.goto(url)
        await page.locator("#instances li").first.wait_for()
        milliseconds: float = await page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        await browser.close()
    return milliseconds / 1000


def test_who_looks_slows_the_loop_down_by_a_fifth_at_most(tmp_path: Path) -> None:
    with silent():
        found = asyncio.run(_measure(tmp_path))
    replies = statistics.quantiles(found.replies, n=20)
    table = Table("", str(LARGE), title="Cost of 20 who look every two seconds")
    rows = {
        "cycle, median, nobody looks": f"{statistics.median(found.alone) * 1000:.1f} ms",
        "cycle, median, 20 look": f"{statistics.median(found.watched) * 1000:.1f} ms",
        "ratio": f"{found.ratio:.2f}",
        "reply, median": f"{statistics.median(found.replies) * 1000:.1f} ms",
        "reply, 95th percentile": f"{replies[18] * 1000:.1f} ms",
        "replies": f"{len(found.replies):,}",
        "status": f"{found.status_bytes / 1000:.0f} kB",
        "metrics": f"{found.metrics_bytes / 1000:.0f} kB",
        "first paint of the page": f"{found.first_paint * 1000:.0f} ms"
        if found.first_paint
        else "",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console(width=100).print(table)
    assert found.ratio <= COSTS_AT_MOST
    assert len(found.replies) > ROUNDS
