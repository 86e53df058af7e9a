"""The account of a run: what ran, what was billed, and what always-on machines would cost."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from gpu_autoscaler.emulator.scaleway_model import ScalewayModel
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import Server
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import VIRTUAL_START
from gpu_autoscaler.simulation.figures import BootLog, Figures, Run, figures, peak_busy
from tests.emulator.scaleway_rig import IMAGE, TYPE, ZONE, CountingIds, ManualClock

QUEUE, OTHER = "small", "large"
OTHER_TYPE = "H100-2-80G"
TYPES = {QUEUE: TYPE, OTHER: OTHER_TYPE}
EUR_PER_HOUR = {TYPE: 2.8665, OTHER_TYPE: 5.733}
HOUR = 3600.0
START = 19.0
"""Power-on to `running`."""
BOOT = 150.0
STOP = 45.0
NEVER = Habit(registers=False)


class Site:
    """Both services, two queues, and machines that are switched by hand."""

    def __init__(self, *habits: Habit) -> None:
        self.clock = ManualClock()
        self.line = Timeline(self.clock)
        self.clearml = ClearmlModel(self.line, CountingIds())
        self.queues = {name: self.clearml.create_queue(name) for name in TYPES}
        coming = list(habits)
        self.log = BootLog(self.line, lambda _: coming.pop(0) if coming else Habit())
        self.machines = EmulatedMachines(self.line, self.clearml, habit=self.log.habit)
        self.cloud = ScalewayModel(self.line, CountingIds(), machines=self.machines)
        self.servers: list[Server] = []

    def turn(self, seconds: float) -> None:
        self.clock.turn(seconds)
        self.line.advance()

    def task(self, seconds: float | None, queue: str = QUEUE) -> str:
        return self.clearml.create_task("train", self.queues[queue], duration=seconds)

    def server(self, queue: str = QUEUE) -> Server:
        """A new machine, powered on."""
        name = f"{queue}-{len(self.servers):06x}"
        order = NewServer(TYPES[queue], IMAGE, name=name, tags=(f"queue={queue}",))
        server = self.cloud.create_server(ZONE, order)
        server.user_data["cloud-init"] = b"#!/bin/sh\n"
        self.servers.append(server)
        self.act(server, "poweron")
        return server

    def act(self, server: Server, action: str) -> None:
        self.cloud.act(ZONE, server.id, action)

    def account(self) -> Figures:
        return figures(self.clearml, self.cloud, self.log.boots, TYPES)


def test_an_hour_of_work_and_what_it_took() -> None:
    site = Site()
    site.task(HOUR)
    site.turn(600)
    server = site.server()
    site.turn(START + BOOT + HOUR + 1000)
    site.act(server, "poweroff")
    site.turn(1000)
    told = site.account()
    assert told.tasks_by_status == {"completed": 1}
    assert (told.tasks, told.tasks_interrupted, told.tasks_requeued) == (1, 0, 0)
    assert told.mean_wait.total_seconds() == pytest.approx(600 + START + BOOT, abs=1)
    assert told.p95_wait == told.mean_wait
    assert told.active_hours_by_type == {TYPE: pytest.approx(1)}
    billed = -(-(START + BOOT + HOUR + 1000 + STOP) // 60) * 60
    assert told.billed_hours_by_type == {TYPE: pytest.approx(billed / HOUR)}
    assert told.boot_hours == pytest.approx((START + BOOT) / HOUR)
    assert told.hours_above_floor == pytest.approx(billed / HOUR - 1)
    assert told.hours_above_floor_without_boot == pytest.approx((billed - START - BOOT) / HOUR - 1)
    assert told.machines_eur == pytest.approx(billed / HOUR * EUR_PER_HOUR[TYPE])
    assert told.eur == told.machines_eur + told.storage_eur > told.machines_eur
    assert told.eur_above_floor == pytest.approx((billed / HOUR - 1) * EUR_PER_HOUR[TYPE])
    span = 600 + START + BOOT + HOUR + 2000
    assert told.span == timedelta(seconds=span)
    assert told.peak_busy == {QUEUE: 1}
    assert told.always_on_eur == pytest.approx(span / HOUR * EUR_PER_HOUR[TYPE])
    assert told.saved == pytest.approx(1 - told.eur / told.always_on_eur)


def test_nothing_at_all() -> None:
    site = Site()
    site.turn(HOUR)
    told = site.account()
    assert (told.tasks, told.billed_hours, told.active_hours, told.eur) == (0, 0, 0, 0)
    assert (told.saved, told.mean_wait, told.p95_wait) == (0, timedelta(0), timedelta(0))
    assert told.table().row_count


def test_types_and_queues_are_told_apart() -> None:
    site = Site()
    for queue, count in ((QUEUE, 2), (OTHER, 1)):
        for _ in range(count):
            site.task(HOUR, queue)
            site.server(queue)
    site.turn(2 * HOUR)
    told = site.account()
    assert told.active_hours_by_type == {
        TYPE: pytest.approx(2, rel=1e-4),
        OTHER_TYPE: pytest.approx(1, rel=1e-4),
    }
    assert told.peak_busy == {QUEUE: 2, OTHER: 1}
    assert told.always_on_eur == pytest.approx(
        2 * (2 * EUR_PER_HOUR[TYPE] + EUR_PER_HOUR[OTHER_TYPE])
    )
    assert told.eur_above_floor == pytest.approx(
        told.machines_eur - 2 * EUR_PER_HOUR[TYPE] - EUR_PER_HOUR[OTHER_TYPE], rel=1e-3
    )


def test_of_twenty_waits_the_95th_percentile_is_the_last_but_one() -> None:
    site = Site()
    for number in range(20):
        site.turn(100)
        task = site.task(1)
        site.turn(number)
        site.clearml.started(task)
    told = site.account()
    assert told.mean_wait == timedelta(seconds=9.5)
    assert told.p95_wait == timedelta(seconds=18)


def test_who_was_never_started_did_not_wait_so_far() -> None:
    site = Site()
    site.task(HOUR)
    site.turn(HOUR)
    told = site.account()
    assert told.tasks_by_status == {"queued": 1}
    assert told.mean_wait == timedelta(0)


def test_a_task_counts_as_long_as_its_machine_was_on() -> None:
    """The server's watchdog ends the task of a dead machine hours later."""
    site = Site()
    site.task(10 * HOUR)
    server = site.server()
    site.turn(START + BOOT + HOUR)
    site.cloud.crash(server.id)
    site.turn(1000)
    assert site.account().tasks_by_status == {"in_progress": 1}
    assert site.account().active_hours == pytest.approx(1, abs=0.01)
    site.turn(3 * HOUR)
    told = site.account()
    assert told.tasks_interrupted == 1
    assert told.active_hours == pytest.approx(1, abs=0.01)
    assert told.boot_hours == pytest.approx((START + BOOT) / HOUR)


def test_of_a_task_that_ran_again_the_last_run_counts_and_the_first_wait() -> None:
    site = Site()
    task = site.task(2 * HOUR)
    first = site.server()
    site.turn(START + BOOT + HOUR)
    site.act(first, "poweroff")
    site.turn(HOUR)
    assert site.account().tasks_interrupted == 1
    assert site.account().active_hours == pytest.approx(1, abs=0.01)
    site.clearml.enqueue(task, site.queues[QUEUE])
    assert site.account().active_hours == 0
    site.server()
    site.turn(START + BOOT + HOUR)
    assert site.account().active_hours == pytest.approx(1, abs=0.01), "while it runs"
    site.turn(5 * HOUR)
    told = site.account()
    assert told.tasks_by_status == {"completed": 1}
    assert told.tasks_requeued == 1
    assert told.active_hours == pytest.approx(2, abs=0.01)
    assert told.mean_wait.total_seconds() == pytest.approx(START + BOOT, abs=1)


def test_a_second_run_lasts_no_longer_than_its_machine_was_on() -> None:
    """Somebody ends it by hand, long before its time."""
    site = Site()
    task = site.task(9 * HOUR)
    first = site.server()
    site.turn(START + BOOT + 8 * HOUR)
    site.act(first, "poweroff")
    site.turn(60)
    site.clearml.enqueue(task, site.queues[QUEUE])
    site.server()
    site.turn(START + BOOT + HOUR)
    site.clearml.finish(task, "failed")
    assert site.account().active_hours == pytest.approx((START + BOOT + HOUR) / HOUR)


def test_a_second_run_whose_beginning_nobody_knows_is_not_in_the_floor() -> None:
    site = Site()
    task = site.task(9 * HOUR)
    for _ in range(2):
        server = site.server()
        site.turn(START + BOOT + HOUR)
        site.act(server, "poweroff")
        site.turn(HOUR)
        if site.clearml.task(task).fields["enqueue_status"] == "created":
            site.clearml.enqueue(task, site.queues[QUEUE])
    told = site.account()
    assert (told.tasks_interrupted, told.active_hours) == (1, 0)


@pytest.mark.parametrize(
    ("habits", "off_after", "booted"),
    [
        pytest.param([Habit(300)], START + 301, 1, id="up"),
        pytest.param([Habit(300)], START + 299, 0, id="switched off before"),
        pytest.param([NEVER], HOUR, 0, id="never came up"),
    ],
)
def test_boots_that_got_nowhere_were_for_nothing(
    habits: list[Habit], off_after: float, booted: int
) -> None:
    site = Site(*habits)
    server = site.server()
    site.turn(off_after)
    site.act(server, "poweroff")
    site.turn(HOUR)
    assert site.account().boot_hours == pytest.approx(booted * (START + 300) / HOUR)
    assert site.account().active_hours == 0


def test_every_power_on_and_reboot_is_a_boot_of_its_own() -> None:
    site = Site()
    server = site.server()
    site.turn(HOUR)
    site.act(server, "reboot")
    site.turn(HOUR)
    site.act(server, "poweroff")
    site.turn(HOUR)
    assert site.cloud.server(ZONE, server.id).state is ServerState.STOPPED
    site.act(server, "poweron")
    site.turn(HOUR)
    rebooting = site.cloud.timings.reboot
    expected = (START + BOOT) + (rebooting + BOOT) + (START + BOOT)
    assert site.account().boot_hours == pytest.approx(expected / HOUR)


def test_tasks_of_other_peoples_workers_are_not_our_hours() -> None:
    site = Site()
    task = site.task(HOUR)
    site.clearml.started(task, "workstation")
    site.clearml.report(site.clearml.user, "workstation", task, site.queues[QUEUE])
    site.turn(HOUR)
    site.clearml.finish(task, "completed", "workstation")
    told = site.account()
    assert told.tasks_by_status == {"completed": 1}
    assert (told.active_hours, told.peak_busy) == (0, {})


def run(begin: int, end: int, queue: str = QUEUE) -> Run:
    moments = (VIRTUAL_START + timedelta(hours=hour) for hour in (begin, end))
    return Run(queue, TYPES[queue], *moments)


@pytest.mark.parametrize(
    ("ran", "peak"),
    [
        ([], {}),
        ([run(0, 1), run(1, 2)], {QUEUE: 1}),
        ([run(0, 2), run(1, 3), run(2, 4)], {QUEUE: 2}),
        ([run(0, 9), run(1, 2), run(3, 4), run(3, 5)], {QUEUE: 3}),
        ([run(0, 2), run(1, 3, OTHER)], {QUEUE: 1, OTHER: 1}),
        ([run(1, 1)], {QUEUE: 1}),
    ],
)
def test_the_peak(ran: list[Run], peak: dict[str, int]) -> None:
    assert peak_busy(ran) == peak
    assert peak_busy(reversed(ran)) == peak


def steps() -> st.SearchStrategy[list[Callable[[Site], None]]]:
    """What may happen at a site, in any order."""

    def with_some(number: int, act: Callable[[Site, Server], None]) -> Callable[[Site], None]:
        def step(site: Site) -> None:
            alive = site.cloud.all_servers()
            if alive:
                act(site, alive[number % len(alive)])

        return step

    def switch(site: Site, server: Server) -> None:
        if "poweroff" in server.allowed_actions:
            site.act(server, "poweroff")
        elif "poweron" in server.allowed_actions:
            site.act(server, "poweron")

    def requeue(site: Site) -> None:
        for task in site.clearml.tasks.all.values():
            if task.status == "stopped":
                site.clearml.enqueue(task.id, site.queues[QUEUE])

    numbers = st.integers(0, 9)
    one = st.one_of(
        st.floats(1, 20_000).map(lambda seconds: lambda site: site.turn(seconds)),
        st.floats(0, 9000).map(lambda seconds: lambda site: site.task(seconds)),
        st.sampled_from(sorted(TYPES)).map(lambda queue: lambda site: site.server(queue)),
        numbers.map(lambda number: with_some(number, switch)),
        numbers.map(lambda n: with_some(n, lambda site, it: site.cloud.crash(it.id))),
        st.just(requeue),
    )
    return st.lists(one, max_size=25)


@settings(max_examples=150, deadline=None)
@given(steps())
def test_whatever_happens_the_account_adds_up(happens: list[Callable[[Site], None]]) -> None:
    site = Site()
    for step in happens:
        step(site)
    told = site.account()
    assert told.mean_wait >= timedelta(0)
    assert told.p95_wait >= timedelta(0)
    assert told.tasks == len(site.clearml.tasks.all)
    for kind, hours in told.active_hours_by_type.items():
        assert 0 <= hours <= told.billed_hours_by_type[kind] + 1e-9
    assert told.hours_above_floor_without_boot >= -1e-9
    assert told.eur_above_floor >= -1e-9
    assert sum(told.peak_busy.values()) <= len(site.servers)
    assert told.saved <= 1
    json.dumps(told.to_json())


def test_the_json_is_rounded_and_its_keys_keep_their_order() -> None:
    site = Site()
    for queue in TYPES:
        site.task(HOUR / 3, queue)
        site.server(queue)
    site.turn(HOUR)
    told = site.account().to_json()
    assert list(told)[:4] == ["simulated_hours", "tasks", "tasks_by_status", "tasks_interrupted"]
    assert list(told["active_hours_by_type"]) == sorted(TYPES.values())
    assert told["active_hours"] == 0.67
    assert told["cost_eur"] == pytest.approx(
        told["machines_cost_eur"] + told["storage_cost_eur"], abs=0.011
    )
    assert told == json.loads(json.dumps(told))


def test_the_table_shows_ours_beside_what_was_published() -> None:
    site = Site()
    site.task(HOUR)
    site.server()
    site.turn(3 * HOUR)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(site.account().table())
    lines = (line.split("│") for line in captured.get().splitlines())
    rows = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines if line[1:]}
    assert rows["Tasks"] == ["1: 1 completed", ""]
    assert rows["Machines billed"] == ["3.0 h", "950.0 h"]
    assert rows["Above the floor"] == ["2.0 h (200.0 %)", "50.0 h (5.6 %)"]
    assert rows["Saved"][1] == "73.6 %"
