"""An emulated machine's agent calls ClearML as the real one does, gaps and deaths included."""

import pytest

from gpu_autoscaler.emulator.machines import Habit
from gpu_autoscaler.runtime.clock import VIRTUAL_START
from tests.emulator.machine_rig import BOOT, STARTED, Site, names
from tests.emulator.scaleway_rig import ZONE


def test_it_registers_after_its_boot_and_not_before() -> None:
    site = Site()
    site.server()
    site.pass_by(19 + BOOT - 1)
    assert site.worker() is None
    site.pass_by(2)
    worker = site.worker()
    assert worker is not None
    assert (worker.id, worker.queue_ids, worker.task_id) == ("h100-000001", [site.queue], None)
    assert names(site) == ["register", "report"]


def test_the_order_of_its_calls_is_pop_then_started_then_report() -> None:
    site = Site()
    site.up()
    site.calls.clear()
    task = site.task(10)
    site.pass_by(20)
    assert site.status(task) == "completed"
    assert names(site) == ["next_task", "started", "report", "finish", "report"]


def test_between_pop_and_start_the_task_is_nowhere() -> None:
    """In no queue, still `queued`, and its worker looks idle."""
    site = Site(Habit(pop_to_start_seconds=60))
    site.up()
    task = site.task()
    site.pass_by(10)
    assert site.clearml.queues.get(site.queue).entries == {}
    assert site.status(task) == "queued"
    assert site.clearml.task(task).last_worker is None
    worker = site.worker()
    assert worker is not None
    assert worker.task_id is None
    site.pass_by(60)
    assert site.status(task) == "in_progress"
    assert site.clearml.task(task).last_worker == "h100-000001"
    assert worker.task_id == task


def test_the_ordinary_gap_is_short_but_there() -> None:
    site = Site()
    site.up()
    site.calls.clear()
    site.task()
    site.pass_by(10)
    at = dict(site.calls)
    assert 0 < at["started"] - at["next_task"] < 1


def test_it_reports_twice_a_minute_idle_or_busy() -> None:
    site = Site()
    site.up()
    site.calls.clear()
    site.pass_by(300)
    assert names(site).count("report") == 10
    site.task()
    site.pass_by(300)
    worker = site.worker()
    assert worker is not None
    assert worker.last_report_time is not None
    assert (site.clock.now() - worker.last_report_time).total_seconds() <= 30


def test_it_takes_one_task_after_the_other() -> None:
    site = Site()
    site.up()
    first, second = site.task(60), site.task(60)
    site.pass_by(30)
    assert (site.status(first), site.status(second)) == ("in_progress", "queued")
    site.pass_by(60)
    assert (site.status(first), site.status(second)) == ("completed", "in_progress")
    site.pass_by(60)
    assert site.machines.completed == 2


def test_a_boot_that_never_registers_stays_dark() -> None:
    site = Site(Habit(registers=False))
    server = site.server()
    task = site.task()
    site.pass_by(3600)
    assert site.worker() is None
    assert site.calls == []
    assert site.status(task) == "queued"
    assert server.powered


@pytest.mark.parametrize("missing", ["user data", "queue tag"])
def test_a_server_nobody_equipped_starts_no_agent(missing: str) -> None:
    site = Site()
    server = site.server(user_data=missing != "user data")
    if missing == "queue tag":
        server.tags = ()
    site.pass_by(3600)
    assert site.machines.agents == {}
    assert site.calls == []


def test_sigterm_stops_the_task_and_unregisters() -> None:
    site = Site()
    server = site.up()
    task = site.task()
    site.pass_by(60)
    site.cloud.act(ZONE, server.id, "poweroff")
    assert site.status(task) == "in_progress", "not within the same moment"
    site.pass_by(1)
    assert site.status(task) == "stopped"
    assert not site.clearml.task(task).stop_requested
    assert site.worker() is None
    assert site.machines.interrupted == 1
    site.calls.clear()
    site.pass_by(3600)
    assert site.calls == [], "and nothing comes from it any more"
    assert site.status(task) == "stopped"


def test_a_dead_machine_says_nothing_and_its_entry_outlives_it() -> None:
    site = Site()
    server = site.up()
    task = site.task()
    site.pass_by(60)
    site.cloud.crash(server.id)
    site.pass_by(500)
    assert site.worker() is not None, "the entry lives for 600 s after the last report"
    assert site.status(task) == "in_progress"
    site.pass_by(200)
    assert site.worker() is None
    assert site.status(task) == "in_progress", "nobody ended it"
    assert site.machines.interrupted == 0


def test_the_end_of_a_task_that_died_with_its_machine_is_void() -> None:
    site = Site()
    server = site.up()
    task = site.task(600)
    site.pass_by(60)
    site.cloud.crash(server.id)
    site.cloud.act(ZONE, server.id, "poweron")
    site.pass_by(3600)
    assert site.status(task) == "in_progress"
    assert site.machines.completed == 0
    assert site.worker() is not None, "the new boot's agent is up"


def test_an_abort_is_obeyed_at_the_next_poll() -> None:
    site = Site()
    site.up()
    task = site.task()
    site.pass_by(60)
    site.clearml.abort(task)
    assert site.status(task) == "in_progress"
    site.pass_by(6)
    assert site.status(task) == "stopped"
    assert site.machines.interrupted == 0, "that was a person"
    other = site.task(10)
    site.pass_by(30)
    assert site.status(other) == "completed"
    site.pass_by(3600)
    assert site.status(task) == "stopped", "its planned end is void"


def test_a_phantom_entry_is_dropped_and_the_next_one_taken() -> None:
    site = Site()
    site.up()
    site.clearml.queues.add_entry(site.queue, "0" * 32)
    task = site.task(10)
    site.pass_by(30)
    assert site.status(task) == "completed"
    assert site.worker() is not None


def test_a_paused_queue_is_left_alone() -> None:
    site = Site()
    site.up()
    site.clearml.queues.get(site.queue).tags.append("force_workers:off")
    task = site.task()
    site.pass_by(600)
    assert site.status(task) == "queued"
    site.clearml.queues.get(site.queue).tags.clear()
    site.pass_by(10)
    assert site.status(task) == "in_progress"


def test_a_restarted_machine_registers_anew() -> None:
    site = Site()
    server = site.up()
    site.cloud.act(ZONE, server.id, "poweroff")
    site.pass_by(60)
    site.cloud.act(ZONE, server.id, "poweron")
    site.calls.clear()
    site.pass_by(STARTED + BOOT)
    assert names(site)[0] == "register"
    worker = site.worker()
    assert worker is not None
    assert worker.register_time > VIRTUAL_START


def test_a_missing_queue_is_made_as_the_agents_flag_says() -> None:
    site = Site()
    site.server(queue="made-by-agent")
    site.pass_by(STARTED + BOOT)
    assert site.clearml.queues.named("made-by-agent") is not None


@pytest.mark.parametrize(("said", "lasts"), [(None, 1200), (60.0, 60)])
def test_how_long_a_task_takes(said: float | None, lasts: float) -> None:
    site = Site(task_seconds=1200)
    site.up()
    task = site.task(said)
    site.pass_by(lasts - 1)
    assert site.status(task) == "in_progress"
    site.pass_by(10)
    assert site.status(task) == "completed"


def test_faster_machines_are_done_sooner() -> None:
    site = Site(speed=60.0)
    site.up()
    task = site.task(3600)
    site.pass_by(70)
    assert site.status(task) == "completed"
