"""What a cycle costs, at two sizes: time, memory, calls. `make bench` prints the table.

Nothing here asserts a time: machines differ. Asserted is what holds on every one: how many calls
a cycle makes, and that cost grows no faster than queues plus instances (with room for noise).
"""

import asyncio
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from rich.console import Console
from rich.table import Table
from starlette.types import ASGIApp

from gpu_autoscaler.clearml import api as clearml_api
from gpu_autoscaler.commands.emulate import EMULATED_KEY, LOOPBACK
from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.commands.wiring import build_loop, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.in_memory import InMemoryTransport
from gpu_autoscaler.emulator.inprocess import InProcessClearml
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, scaleway_app
from gpu_autoscaler.policy.plan import plan
from gpu_autoscaler.runtime.clock import LoopClock, SystemClock, run_virtual
from gpu_autoscaler.runtime.execute import LiveExecutor
from gpu_autoscaler.runtime.loop import Cycle, Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.record import Recorder
from gpu_autoscaler.scaleway import transport as scaleway
from gpu_autoscaler.store.directory import DirectoryStore
from tests.benchmarks.daemon import CYCLES, LEARNING, Unchanging, cpu_seconds
from tests.benchmarks.fleet import (
    BUSY,
    IDLE,
    LARGE,
    SMALL,
    STOPPED,
    ZONES,
    BenchFleet,
    Size,
    config_of,
    secrets,
)

PLANS = 15
LAUNCHES = 4
"""Per queue, in the plan that launches: three starts and a creation."""
INTERVAL_SECONDS = 30
GROWTH_ALLOWED = 4.0
"""Cost per queue and instance at the large size, as a multiple of that at the small one."""
CHILD_DEADLINE = 60.0
ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Costs:
    """What was measured at one size."""

    size: Size
    plan_s: list[float]
    launching_s: list[float]
    in_process: "Cycles"
    over_http: "Cycles"
    daemon: dict[str, float]
    """Of `daemon.py`, over loopback."""

    @property
    def per_part(self) -> dict[str, float]:
        """Each cost by queue and instance; plans by the quickest try, as the least disturbed."""
        costs = {
            "plan": min(self.plan_s),
            "plan that launches": min(self.launching_s),
            "cycle, in process": self.in_process.cpu_s,
            "cycle, over HTTP": self.over_http.cpu_s,
            "cycle of the daemon alone": self.daemon["cpu_s"],
        }
        return {name: cost / self.size.parts for name, cost in costs.items()}


@dataclass(slots=True)
class Cycles:
    """What some cycles of one loop cost."""

    last: Cycle
    cpu_s: float
    """Median of one cycle."""
    calls: dict[str, int]
    """Of one ordinary cycle."""


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[Size, Costs]:
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        found = {size: _measure(size, tmp_path_factory.mktemp("bench")) for size in (SMALL, LARGE)}
    finally:
        structlog.configure(**before)
    Console(width=100).print(_table(found[SMALL], found[LARGE]))
    return found


def _measure(size: Size, directory: Path) -> Costs:
    in_process = run_virtual(_in_process(size, directory))
    last = in_process.last
    wanting = config_of(size, min_instances=BUSY + IDLE + LAUNCHES)
    return Costs(
        size=size,
        plan_s=_times(lambda: plan(last.world, last.plan.memory, last.config, last.finished_at)),
        launching_s=_times(lambda: plan(last.world, last.plan.memory, wanting, last.finished_at)),
        in_process=in_process,
        over_http=run_virtual(_over_http(size, directory)),
        daemon=asyncio.run(_daemon_alone(size, directory)),
    )


def _times(work: Callable[[], Plan]) -> list[float]:
    """CPU seconds of each of several tries: the same as time, but for what else runs here."""
    found = []
    for _ in range(PLANS):
        before = cpu_seconds()
        work()
        found.append(cpu_seconds() - before)
    return found


async def _in_process(size: Size, directory: Path) -> Cycles:
    clock = LoopClock()
    fleet = BenchFleet(size, clock)
    await fleet.fill()
    clearml = InProcessClearml(fleet.clearml)
    with DirectoryStore(directory / "in-process") as store:
        loop = Loop(
            Unchanging(fleet.config),
            Observer(clearml, fleet.cloud, clock),
            LiveExecutor(clearml, fleet.cloud, clock, lambda: None),
            store,
            lambda _: fleet.bootstrap,
            clock,
            Recorder(),
        )
        return await _cycles(loop, fleet, clock, [clearml.calls, fleet.cloud.calls])


async def _over_http(size: Size, directory: Path) -> Cycles:
    """The adapters and the emulators' HTTP faces, without sockets: both sides' time counts."""
    clock = LoopClock()
    fleet = BenchFleet(size, clock)
    await fleet.fill()
    calls = Calls()
    with DirectoryStore(directory / "http") as store:
        async with open_services(
            fleet.config,
            secrets(),
            clock,
            clearml_transport=InMemoryTransport(_clearml(fleet, calls)),
            scaleway_transport=InMemoryTransport(_scaleway(fleet, calls)),
        ) as services:
            loop = build_loop(Unchanging(fleet.config), secrets(), services, store, clock)
            return await _cycles(loop, fleet, clock, [calls.counts])


async def _cycles(
    loop: Loop, fleet: BenchFleet, clock: Clock, counters: Sequence[Counter[str]]
) -> Cycles:
    """Let the loop work 30 s apart; checks that the fleet is at rest, as the figures say."""
    spent: list[float] = []
    calls: list[dict[str, int]] = []
    await loop.prepare()
    for _ in range(LEARNING + CYCLES):
        await clock.sleep(INTERVAL_SECONDS)
        fleet.report()
        for counter in counters:
            counter.clear()
        before = cpu_seconds()
        cycle = await loop.cycle()
        spent.append(cpu_seconds() - before)
        calls.append({name: count for counter in counters for name, count in counter.items()})
    assert not cycle.plan.effects
    states = Counter(instance.state for instance in cycle.plan.instances)
    per_queue = {S.RUNNING_TASK: BUSY, S.IDLE: IDLE, S.STOPPED: STOPPED}
    assert states == {state: n * fleet.size.queues for state, n in per_queue.items()}
    ordinary = max(calls[LEARNING:], key=calls.count)  # volumes are listed in one out of five
    return Cycles(cycle, statistics.median(spent[LEARNING:]), ordinary)


async def _daemon_alone(size: Size, directory: Path) -> dict[str, float]:
    """The daemon in a process of its own, and the emulators in this one, on loopback."""
    listeners = [bind(LOOPBACK, 0) for _ in range(2)]
    urls = [f"http://{LOOPBACK}:{each.getsockname()[1]}" for each in listeners]
    config = config_of(size, clearml=urls[0], scaleway=urls[1])
    fleet = BenchFleet(size, SystemClock(), config)
    await fleet.fill()
    calls = Calls()
    command = [sys.executable, "-m", "tests.benchmarks.daemon", str(size.queues), *urls]
    async with (
        served(_clearml(fleet, calls), listeners[0]),
        served(_scaleway(fleet, calls), listeners[1]),
    ):
        child = await asyncio.create_subprocess_exec(
            *command, str(directory / "daemon"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(CHILD_DEADLINE):
                printed, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    assert child.returncode == 0
    found: dict[str, float] = json.loads(printed)
    assert (found["instances"], found["effects"]) == (size.instances, 0)
    return found


def _clearml(fleet: BenchFleet, calls: Calls) -> ASGIApp:
    return clearml_app(fleet.clearml, Faults(), calls)


def _scaleway(fleet: BenchFleet, calls: Calls) -> ASGIApp:
    return scaleway_app(fleet.scaleway, Faults(), calls, {EMULATED_KEY: FULL_ACCESS})


def _table(*columns: Costs) -> Table:
    def milliseconds(cost: float) -> str:
        return f"{cost * 1000:,.1f} ms"

    def p95(times: list[float]) -> float:
        return sorted(times)[math.ceil(0.95 * len(times)) - 1]

    rows: dict[str, Callable[[Costs], str]] = {
        "plan, median": lambda c: milliseconds(statistics.median(c.plan_s)),
        "plan, 95th percentile": lambda c: milliseconds(p95(c.plan_s)),
        f"plan that launches {LAUNCHES} per queue, median": lambda c: milliseconds(
            statistics.median(c.launching_s)
        ),
        "cycle in process, CPU": lambda c: milliseconds(c.in_process.cpu_s),
        "cycle with HTTP and emulators, CPU": lambda c: milliseconds(c.over_http.cpu_s),
        "cycle of the daemon over loopback, CPU": lambda c: milliseconds(c.daemon["cpu_s"]),
        "memory of the daemon, at start": lambda c: f"{c.daemon['start_mb']:.0f} MB",
        "memory of the daemon, peak": lambda c: f"{c.daemon['peak_mb']:.0f} MB",
        "calls of the ports per cycle": lambda c: str(sum(c.in_process.calls.values())),
        "HTTP requests per cycle": lambda c: str(sum(c.over_http.calls.values())),
    }
    table = Table("", *(str(c.size) for c in columns), title="Cost of a cycle")
    for name, value in rows.items():
        table.add_row(name, *(value(c) for c in columns))
    return table


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=str)
def test_calls_are_constant_in_queues_tasks_and_instances(
    costs: dict[Size, Costs], size: Size
) -> None:
    servers = (f"GET /instance/v1/zones/{zone}/servers" for zone in ZONES)
    reads = dict.fromkeys(("queues.get_all", "workers.get_all", *servers), 1)
    # tasks wait beside machines that run: what ended is asked for too, in case one fails them all
    assert costs[size].in_process.calls == reads | {"tasks.get_all": 2}


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=str)
def test_requests_are_those_calls_in_pages(costs: dict[Size, Costs], size: Size) -> None:
    zones = costs[size].over_http.last.world.zones
    expected = {
        "POST /queues.get_all": 1 + size.queues // clearml_api.PAGE_SIZE,
        "POST /workers.get_all": 1,
        "POST /tasks.get_all": 2 + size.open_tasks // clearml_api.PAGE_SIZE,
    } | {
        f"GET /instance/v1/zones/{zone}/servers": math.ceil(
            len(zones[zone].instances) / scaleway.PAGE_SIZE
        )
        for zone in ZONES
    }
    assert costs[size].over_http.calls == expected


def test_cost_grows_no_faster_than_queues_plus_instances(costs: dict[Size, Costs]) -> None:
    small, large = costs[SMALL].per_part, costs[LARGE].per_part
    growth = {name: large[name] / small[name] for name in small}
    assert max(growth.values()) <= GROWTH_ALLOWED, growth
