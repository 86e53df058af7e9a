"""`demo`: both emulated services, the daemon, and two working days, on this machine alone.

What runs is what ships: the same adapters speak the same HTTP to the emulators (inside this
process), the same loop decides. Only time is virtual: it moves when nothing else can, so no
figure depends on how fast this machine is.
"""

import asyncio
import itertools
import tempfile
import webbrowser
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from gpu_autoscaler.commands.cost import Format, Found, cost, open_sources, read
from gpu_autoscaler.commands.demo_page import DemoPage
from gpu_autoscaler.commands.demo_view import View
from gpu_autoscaler.commands.emulate import EMULATED_KEY
from gpu_autoscaler.commands.storing import ledger_of
from gpu_autoscaler.commands.wiring import build_loop, open_services
from gpu_autoscaler.config.load import parse_config
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.config.watch import Reload
from gpu_autoscaler.domain.model import Availability
from gpu_autoscaler.emulator import sample
from gpu_autoscaler.emulator.clearml_http import clearml_app
from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.faults import Calls, Faults
from gpu_autoscaler.emulator.in_memory import InMemoryTransport
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_bill import Bill
from gpu_autoscaler.emulator.scaleway_http import FULL_ACCESS, scaleway_app
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_state import PROJECT, Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.reports.period import Period, parse_period
from gpu_autoscaler.reports.report import By
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, RandomIds, Stopwatch, run_virtual
from gpu_autoscaler.runtime.loop import Loop
from gpu_autoscaler.simulation.figures import BootLog, Figures, figures
from gpu_autoscaler.store.directory import DirectoryStore

DEFAULT_SPEED = 5000.0
"""Two days in about 40 s: slow enough to follow."""
CONFIG = "queues.yaml"
GIVE_UP_AFTER = timedelta(hours=96)
DOWN_SECONDS = 20.0
"""How long the daemon is gone at its restart."""


class _Fixed:
    """A configuration that does not change."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def current(self) -> Config:
        return self._config

    async def refresh(self) -> Reload | None:
        return None


def demo(
    speed: float, console: Console | None, *, browser: bool = False, keep: Path | None = None
) -> dict[str, Any]:
    """Run it to its end; with a console, show it there and on a page. Returns the summary.

    `keep`: a new directory for configuration and state, which stays. Raises OSError when it is
    there already, or no port is to be had.
    """
    watch, page = Stopwatch(), DemoPage()
    with ExitStack() as stack:
        if keep is not None:
            keep.mkdir(parents=True)
            directory = keep.resolve()
        else:
            temporary = tempfile.TemporaryDirectory(prefix="gpu-autoscaler-demo-")
            directory = Path(stack.enter_context(temporary))
        if console is not None:
            url = stack.enter_context(page.served(partial(_read, directory)))
            console.print(f"The status page is at {url}", highlight=False)
            if browser:
                webbrowser.open(url)
        summary = run_virtual(_demo(directory, console, page), speed)
        summary["wall_s"] = round(watch.seconds(), 1)
        if console is not None:
            View.close(console, summary)
            if keep is not None:
                command = f"gpu-autoscaler cost --config {keep / CONFIG}"
                days = f"--since {summary['days']} --by task"
                console.print(f"Ask on: {command} {days}", highlight=False, soft_wrap=True)
            if browser:
                console.input("The page stays until you press Enter. ")
    return summary


def succeeded(summary: dict[str, Any]) -> bool:
    """Whether it went as it must."""
    bad = ("tasks_failed", "tasks_interrupted", "instances_left", "volumes_left")
    return summary["tasks_completed"] == len(sample.SUBMISSIONS) and not any(
        summary[key] for key in bad
    )


async def _demo(directory: Path, console: Console | None, page: DemoPage) -> dict[str, Any]:
    clock = LoopClock()
    timeline = Timeline(clock)
    team = [replace(EMULATED_USER, id=name, name=name, access_key=name) for name in sample.TEAM]
    clearml = ClearmlModel(timeline, RandomIds(), (EMULATED_USER, *team))
    numbers = itertools.count(1)

    def habit(_: Server) -> Habit:
        number = next(numbers)
        fails = number == sample.FAILING_BOOT
        return Habit(boot_seconds=120.0 + 15.0 * (number % 7), registers=not fails)

    log = BootLog(timeline, habit)
    machines = EmulatedMachines(timeline, clearml, habit=log.habit)
    scaleway = ScalewayModel(timeline, RandomIds(), machines=machines)
    config = _configure(directory)
    queue_ids = {name: clearml.create_queue(name) for name in config.queues}
    start = clock.now()
    view = View(console, config, clock, start) if console is not None else None
    people = asyncio.create_task(_people(clearml, scaleway, queue_ids, clock))
    daemon = _Daemon(config, clearml, scaleway, clock, directory, page)
    tasks: list[str] = []
    await daemon.start()
    restarted = False
    with view or _Nobody():
        while True:
            if view is not None:
                view.show(daemon.loop, scaleway.bill().eur)
            hours = (clock.now() - start) / timedelta(hours=1)
            if hours >= sample.RESTART_AT_HOURS and not restarted:
                restarted = True
                await daemon.kill()
                if view is not None:
                    view.say("the daemon is killed, and started again")
                await clock.sleep(DOWN_SECONDS)
                await daemon.start()
            if hours >= sample.LASTS / timedelta(hours=1) and people.done():
                tasks = people.result()
                ended = all(clearml.task(t).status not in ("queued", "in_progress") for t in tasks)
                left = scaleway.bill()
                if (ended and not left.servers_left and not left.volumes_left) or (
                    clock.now() - start > GIVE_UP_AFTER
                ):
                    break
            await clock.sleep(config.poll_interval.total_seconds())
        await daemon.end()
        if console is not None:
            await _account(directory, clock, console)
    types = {name: queue.placements[0].commercial_type for name, queue in config.queues.items()}
    summary = _summary(figures(clearml, scaleway, log.boots, types), scaleway.bill(), machines)
    return {**summary, "days": _days(clock.now())}


def _configure(directory: Path) -> Config:
    """The sample's configuration, which stands in the directory as well."""
    plain = sample.sample_config(
        str(directory), "http://clearml.demo", "http://scaleway.demo", PROJECT
    )
    for queue in plain["queues"].values():
        del queue["name"]
    content = yaml.safe_dump(plain, sort_keys=False).encode()
    file = directory / CONFIG
    file.write_bytes(content)
    return parse_config(content, str(file), {})


async def _account(directory: Path, clock: LoopClock, console: Console) -> None:
    """What the ledger says, as the command shows it."""
    sources = open_sources(str(directory / CONFIG), {"HOME": str(directory)})
    days = parse_period(_days(clock.now()), clock.now())
    table = Format.TABLE
    await cost(sources, days, clock, console, by=By.USER, format_=table, always_on=None)


async def _read(directory: Path, period: Period, now: datetime) -> Found:
    """What a report needs, for the page."""
    sources = open_sources(str(directory / CONFIG), {"HOME": str(directory)})
    return await read(sources, period, now)


def _days(now: datetime) -> str:
    """All of them, as `--since` takes it."""
    return f"{VIRTUAL_START.date()}..{now.date()}"


class _Daemon:
    """The daemon as a process that can be killed: everything but its directory is lost."""

    def __init__(
        self,
        config: Config,
        clearml: ClearmlModel,
        scaleway: ScalewayModel,
        clock: LoopClock,
        directory: Path,
        page: DemoPage,
    ) -> None:
        self._config, self._clock, self._directory = config, clock, directory
        self._page = page
        calls = Calls()
        self._clearml = clearml_app(clearml, Faults(), calls)
        self._scaleway = scaleway_app(scaleway, Faults(), calls, {EMULATED_KEY: FULL_ACCESS})
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self.loop: Loop

    async def start(self) -> None:
        """Begin; returns when the first cycle is due."""
        self._begun.clear()
        self._task = asyncio.create_task(self._run())
        await self._begun.wait()

    async def kill(self) -> None:
        """As SIGKILL would: nothing is finished, nothing is said."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def end(self) -> None:
        """As SIGTERM does."""
        self.loop.stop()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        user = EMULATED_USER
        pair = (user.access_key, user.secret_key)
        secrets = Secrets(*pair, "", EMULATED_KEY, None, *pair, None, None, None, None)
        with DirectoryStore(self._directory) as store:
            async with open_services(
                self._config,
                secrets,
                self._clock,
                clearml_transport=InMemoryTransport(self._clearml),
                scaleway_transport=InMemoryTransport(self._scaleway),
            ) as services:
                source = _Fixed(self._config)
                ledger = ledger_of(self._config, secrets)
                self.loop = build_loop(source, secrets, services, store, self._clock, ledger=ledger)
                self._page.shows(self.loop)
                await self.loop.prepare()
                self._begun.set()
                await self.loop.run()


async def _people(
    clearml: ClearmlModel, scaleway: ScalewayModel, queue_ids: dict[str, str], clock: LoopClock
) -> list[str]:
    """Submit the sample's tasks at their times, and let the shelf be empty for a while."""
    start = clock.now()
    lack = sample.SHORTAGE
    events: list[tuple[float, Any]] = [(each.at_hours, each) for each in sample.SUBMISSIONS]
    events += [
        (lack.from_hours, Availability.SHORTAGE),
        (lack.to_hours, Availability.AVAILABLE),
    ]
    tasks = []
    projects = {
        name: clearml.create_project(name)
        for name in sorted({each.project for each in sample.SUBMISSIONS})
    }
    for at_hours, event in sorted(events, key=lambda each: each[0]):
        wait = start + timedelta(hours=at_hours) - clock.now()
        await clock.sleep(max(0.0, wait.total_seconds()))
        if isinstance(event, sample.Submission):
            queue = queue_ids[event.queue]
            project = projects[event.project]
            tasks.append(
                clearml.create_task(
                    event.name, queue, event.hours * 3600, user=event.user, project=project
                )
            )
        else:
            scaleway.set_stock(lack.placement, event)
    return tasks


class _Nobody:
    """Stands in for the view when nobody looks."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _summary(told: Figures, bill: Bill, machines: EmulatedMachines) -> dict[str, Any]:
    return {
        **told.to_json(),
        "tasks_completed": told.tasks_by_status.get("completed", 0),
        "tasks_failed": told.tasks_by_status.get("failed", 0) + told.tasks_interrupted,
        "tasks_interrupted": machines.interrupted,  # also those that ran again later
        "instances_created": bill.servers_created,
        "instances_left": bill.servers_left,
        "volumes_left": bill.volumes_left,
    }
