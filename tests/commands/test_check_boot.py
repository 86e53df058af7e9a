"""`check --boot`: what it makes works and goes away again, however it ends."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpu_autoscaler import cli
from gpu_autoscaler.commands import boot_steps, check_boot
from gpu_autoscaler.commands.boot_steps import BEGIN, END, PREFIX
from gpu_autoscaler.domain.model import (
    CHECKED_BY_TAG,
    MANAGED_BY_TAG,
    Availability,
    CreateOrder,
    FleetTags,
    Placement,
)
from gpu_autoscaler.emulator.faults import FaultKind
from gpu_autoscaler.emulator.inprocess import InProcessScaleway
from gpu_autoscaler.emulator.machines import Habit
from gpu_autoscaler.emulator.scaleway_state import PROJECT
from gpu_autoscaler.emulator.scaleway_stock import StockMode
from gpu_autoscaler.runtime.clock import RandomIds, run_virtual
from tests.commands.site import ENV, QUEUE, TYPE, ZONE, Site

SMI = "NVIDIA-SMI 550.54  H100"
HERE, THERE = Placement(TYPE, ZONE), Placement(TYPE, "pl-waw-2")
CHECKS = FleetTags("test", CHECKED_BY_TAG)
NEVER = 10**9


class Boot(Site):
    """A fleet with work of its own, and the answers to the questions."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, check_boot, monkeypatch)
        self.replace(f"zone: {ZONE}}}]", f"zone: {ZONE}}}, {{type: {TYPE}, zone: pl-waw-2}}]")
        self.replace("gpu-small:\n", "gpu-small:\n    stale_timeout: 10m\n")
        self.machines.task_seconds = 10.0
        self.real = self.task()
        self.questions: list[str] = []
        self.answers: Iterator[bool] | None = None
        self.printed = f"preparing the run\n{BEGIN}\n{SMI}\n{END}\n"
        self._let_tasks_print(monkeypatch)

    def _let_tasks_print(self, monkeypatch: pytest.MonkeyPatch) -> None:
        finish = self.clearml.finish

        def printing(task_id: str, *words: Any, **more: Any) -> Any:
            self.clearml.console(task_id).append({"msg": self.printed, "timestamp": 1})
            return finish(task_id, *words, **more)

        monkeypatch.setattr(self.clearml, "finish", printing)

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return next(self.answers) if self.answers else True

    async def run(self, json_to: io.StringIO | None = None) -> int:
        return await check_boot.check_boot(
            self.setup,
            QUEUE,
            self.clock,
            RandomIds(),
            self.console,
            confirm=self.confirm,
            json_to=json_to,
        )

    def left(self) -> list[str]:
        """Whatever a check may have made and is still there."""
        queues = [q.name for q in self.clearml.queues.all.values() if q.name.startswith(PREFIX)]
        tasks = [t.id for t in self.clearml.tasks.all.values() if t.id != self.real]
        volumes = [v.id for zone in (ZONE, "pl-waw-2") for v in self.scaleway.block.find(zone)]
        return [*self.servers(), *volumes, *queues, *tasks]

    def untouched(self) -> bool:
        """The real task waits where it waited."""
        return self.clearml.task(self.real).status == "queued"


Go = Callable[[Callable[[Boot], Awaitable[None]]], None]


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    def go(run: Callable[[Boot], Awaitable[None]]) -> None:
        async def main() -> None:
            site = Boot(tmp_path, monkeypatch)
            await run(site)
            assert site.left() == []
            assert site.untouched()

        run_virtual(main())

    return go


def test_it_shows_what_nvidia_smi_prints_and_removes_everything(boot: Go) -> None:
    async def run(site: Boot) -> None:
        assert await site.run() == 0
        assert SMI in site.said
        assert "preparing the run" not in site.said
        for line in (f"made: {HERE}", "running booting kernel", "its worker is registered"):
            assert line in site.said
        assert site.said.endswith("2 ok, 0 note, 0 bad\n")
        assert len(site.scaleway.log.servers) > 0

    boot(run)


def test_it_says_the_price_first_and_makes_nothing_on_a_no(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.answers = iter([False])
        assert await site.run() == 1
        (question,) = site.questions
        assert f"  {HERE}, 2.87 €/h\n" in question
        assert f"  or, when that is out of stock, {THERE}, 2.87 €/h\n" in question
        assert "About 0.48 € for 10 minutes, at most 1.43 € for 30; 2.87 € if a whole" in question
        assert site.calls.count("^(POST|PATCH|DELETE) /(instance|block)") == 0
        assert site.calls.count("queues.create|tasks.create") == 0

    boot(run)


def test_no_daemon_takes_it_for_its_own(boot: Go) -> None:
    async def run(site: Boot) -> None:
        check = asyncio.create_task(site.run())
        await site.clock.sleep(100)
        ((name, server),) = site.servers().items()
        volumes = site.scaleway.block.find(ZONE)
        assert [volume.name for volume in volumes] == [name]
        for tags in (server.tags, *(volume.tags for volume in volumes)):
            assert MANAGED_BY_TAG not in tags
            assert CHECKS.owns(frozenset(tags))
        daemons = InProcessScaleway(site.scaleway, FleetTags("test"), PROJECT)
        assert await daemons.instances(ZONE) == ()
        assert await daemons.volumes(ZONE) == ()
        script = server.user_data["cloud-init"].decode()
        assert f"--queue {name} " in script
        assert QUEUE not in script
        assert await check == 0

    boot(run)


def test_a_machine_that_never_registers_is_removed_and_said_where_it_hung(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.machines.habit = lambda _: Habit(registers=False)
        assert await site.run() == 1
        assert "no worker registered within stale_timeout (10m)" in site.said
        assert "the last that was seen of it: running booted" in site.said
        assert "it says: installing: install_agent" in site.said
        assert "/var/log/cloud-init-output.log" in site.said
        assert site.said.endswith("1 ok, 0 note, 1 bad\n")

    boot(run)


def test_a_machine_that_says_it_failed_is_not_waited_for(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.machines.habit = lambda _: Habit(boot_fails="1 GPU, expected 2")
        assert await site.run() == 1
        assert "cannot become a worker; it says: failed: 1 GPU, expected 2" in site.said
        assert "stale_timeout" not in site.said

    boot(run)


@pytest.mark.parametrize("mode", [StockMode.AT_CREATE, StockMode.AT_POWERON])
def test_the_next_placement_is_tried_when_one_is_empty(boot: Go, mode: StockMode) -> None:
    async def run(site: Boot) -> None:
        site.scaleway.set_stock(HERE, Availability.SHORTAGE, mode)
        assert await site.run() == 0
        assert f"{HERE} is out of stock" in site.said
        assert f"made: {THERE}" in site.said

    boot(run)


def test_when_all_are_empty_it_says_so(boot: Go) -> None:
    async def run(site: Boot) -> None:
        for where in (HERE, THERE):
            site.scaleway.set_stock(where, Availability.SHORTAGE)
        assert await site.run() == 1
        assert f"{HERE} is out of stock; {THERE} is out of stock: try again later" in site.said

    boot(run)


def test_a_lack_of_stock_that_nobody_admits_is_noticed(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.scaleway.set_stock(HERE, Availability.SHORTAGE, StockMode.SILENT)
        assert await site.run() == 1
        assert "it was on, and is off again" in site.said

    boot(run)


@pytest.mark.parametrize("after", [0.5, 3.0, 20.0, 100.0, 185.0, 240.0])
def test_an_interrupted_check_removes_what_it_made(boot: Go, after: float) -> None:
    async def run(site: Boot) -> None:
        site.machines.task_seconds = 600.0
        site.scaleway.set_listing_lag(30.0)
        for match in ("queues.create", "POST /instance", "user_data"):
            site.faults.add(FaultKind.SLOW, match, seconds=1.0)
        check = asyncio.create_task(site.run())
        await site.clock.sleep(after)
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check

    boot(run)


def test_a_creation_whose_answer_was_lost_is_looked_for(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.scaleway.set_listing_lag(30.0)
        site.faults.add(FaultKind.LOST_REPLY, "POST /instance/v1/zones/[^/]+/servers$", count=1)
        assert await site.run() == 1
        assert "bad   creation: " in site.said

    boot(run)


@pytest.mark.parametrize(
    ("method", "step"),
    [("queues.create", "queue and task"), ("tasks.create", "queue and task"), ("tasks.enq", "q")],
)
def test_what_clearml_does_not_allow_is_said_before_anything_is_bought(
    boot: Go, method: str, step: str
) -> None:
    async def run(site: Boot) -> None:
        site.faults.add(FaultKind.ERROR, method, status=403)
        assert await site.run() == 1
        assert f"bad   {step}" in site.said
        assert "answered 403" in site.said
        assert site.calls.count("POST /instance") == 0

    boot(run)


def test_what_scaleway_does_not_allow_is_said(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.faults.add(FaultKind.ERROR, "POST /instance", status=403)
        assert await site.run() == 1
        assert "bad   creation: " in site.said

    boot(run)


def test_a_task_that_fails_shows_its_console(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.machines.habit = lambda _: Habit(fails_tasks_after=20.0)
        secret = ENV["GPU_AUTOSCALER_CLEARML_SECRET_KEY"]
        site.printed = f"-e KEY={secret}\ndocker: could not select device driver\n"
        assert await site.run() == 1
        assert "-e KEY=********\n" in site.said
        assert secret not in site.said
        assert "docker: could not select device driver" in site.said
        assert "the task failed (worker execution exit code 1); its console is above" in site.said

    boot(run)


def test_a_task_that_completes_without_a_word_of_nvidia_smi_is_bad(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.printed = "hello\n"
        assert await site.run() == 1
        assert "nothing of nvidia-smi is on its console" in site.said

    boot(run)


def test_a_task_that_does_not_end_is_given_up(boot: Go) -> None:
    async def run(site: Boot) -> None:
        site.machines.task_seconds = NEVER
        assert await site.run() == 1
        assert "the task is in_progress after 15 minutes" in site.said

    boot(run)


def test_services_may_fail_for_a_while(boot: Go) -> None:
    async def run(site: Boot) -> None:
        check = asyncio.create_task(site.run())
        await site.clock.sleep(60)
        for match in ("workers.get_all", "tasks.get_all", "servers"):
            site.faults.add(FaultKind.ERROR, match)
        await site.clock.sleep(60)
        site.faults.clear()
        assert await check == 0

    boot(run)


def test_what_cannot_be_removed_is_said_and_the_next_check_offers_it(boot: Go) -> None:
    async def run(site: Boot) -> None:
        forbidden = [
            site.faults.add(FaultKind.ERROR, match, status=403)
            for match in ("DELETE /block", "queues.delete")
        ]
        assert await site.run() == 1
        assert "the next check --boot offers to remove it" in site.said
        left = site.left()
        assert len(left) == 2
        for fault in forbidden:
            site.faults.remove(fault)
        site.questions.clear()
        assert await site.run() == 0
        assert f"volume {PREFIX}" in site.questions[0]
        assert f"queue {PREFIX}" in site.questions[0]

    boot(run)


def test_what_a_killed_check_left_is_found_in_every_zone(boot: Go) -> None:
    async def run(site: Boot) -> None:
        await left_by_a_killed_check(site)
        assert await site.run() == 0
        offered, price = site.questions
        assert f"instance {PREFIX}0dead0 in pl-waw-2, since 2026-09-07" in offered
        assert f"queue {PREFIX}0dead0 at ClearML" in offered
        assert "€/h" in price

    boot(run)


def test_what_is_left_stays_there_on_a_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        site = Boot(tmp_path, monkeypatch)
        await left_by_a_killed_check(site)
        before = site.left()
        site.answers = iter([False, True])
        assert await site.run() == 0
        assert site.left() == before

    run_virtual(main())


async def left_by_a_killed_check(site: Boot) -> None:
    name = f"{PREFIX}0dead0"
    queue = site.clearml.create_queue(name)
    site.clearml.create_task(name, queue)
    cloud = InProcessScaleway(site.scaleway, CHECKS, PROJECT)
    order = CreateOrder(
        name,
        name,
        THERE,
        "ubuntu_jammy_gpu_os_12",
        125 * 10**9,
        5000,
        CHECKS.of_instance(name, "abc"),
    )
    await cloud.create(order, b"#!/bin/sh\n")
    await site.clock.sleep(60)


def test_machines_get_one_json_object(boot: Go) -> None:
    async def run(site: Boot) -> None:
        out = io.StringIO()
        assert await site.run(out) == 0
        told = json.loads(out.getvalue())
        assert told["ok"] is True
        assert told["output"] == f"{SMI}\n"
        assert [row["what"] for row in told["findings"]] == ["task", "removal"]

    boot(run)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--boot", "nobody"), "has no queue 'nobody'; it has gpu-small"),
        (("--boot", QUEUE, "--online"), "say either --online or --boot"),
        (("--boot", QUEUE, "--json"), "--boot asks: with --json, say --yes"),
    ],
)
def test_what_makes_no_sense_is_refused(
    boot: Go, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    async def run(site: Boot) -> None:
        monkeypatch.setattr(cli, "configure_logs", lambda *_, **__: None)
        line = ["check", "--config", str(site.file), *words]
        refused = CliRunner().invoke(cli.app, line, env={**ENV, "COLUMNS": "200"})
        assert refused.exit_code == 2
        assert said in refused.stderr
        assert site.calls.count() == 0

    boot(run)


def test_the_script_is_what_python_takes() -> None:
    compile(boot_steps.SCRIPT, "check.py", "exec")
