"""The daemon as a process of its own, for `test_cost`: a few cycles, then what they cost, as JSON.

python -m tests.benchmarks.daemon QUEUES CLEARML_URL SCALEWAY_URL STATE_DIR
"""

import asyncio
import json
import resource
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from gpu_autoscaler.commands.wiring import build_loop, open_services
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.runtime.clock import SystemClock
from gpu_autoscaler.store.directory import DirectoryStore
from tests.benchmarks.fleet import Size, config_of, secrets

CYCLES = 6
"""Measured ones."""
LEARNING = 2
"""Cycles before them: without memory, the first two are not like the others."""


class Unchanging:
    """A configuration that stays."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def current(self) -> Config:
        return self._config

    async def refresh(self) -> Reload | None:
        return None


def cpu_seconds() -> float:
    """Of this process so far, in user and kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_megabytes() -> float:
    """The most memory that this process ever held.

    Not from `getrusage`, whose figure begins with that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


async def _work(config: Config) -> dict[str, float]:
    clock = SystemClock()
    costs = []
    with DirectoryStore(Path(config.state_dir)) as store:
        async with open_services(config, secrets(), clock) as services:
            loop = build_loop(Unchanging(config), secrets(), services, store, clock)
            await loop.prepare()
            at_start = peak_megabytes()
            for _ in range(LEARNING + CYCLES):
                before = cpu_seconds()
                cycle = await loop.cycle()
                costs.append(cpu_seconds() - before)
    return {
        "cpu_s": statistics.median(costs[LEARNING:]),
        "start_mb": at_start,
        "peak_mb": peak_megabytes(),
        "effects": len(cycle.plan.effects),
        "instances": len(cycle.plan.instances),
    }


def main(arguments: Sequence[str]) -> None:
    """Entry point."""
    queues, clearml, scaleway, state_dir = arguments
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    size = Size(int(queues))
    config = config_of(size, state_dir=state_dir, clearml=clearml, scaleway=scaleway)
    sys.stdout.write(json.dumps(asyncio.run(_work(config))))


if __name__ == "__main__":
    main(sys.argv[1:])
