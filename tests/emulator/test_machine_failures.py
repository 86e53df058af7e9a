"""What goes wrong in emulated machines: black holes, deaths, entries that the server lost."""

import pytest

from gpu_autoscaler.domain.model import BOOT_REPORT_KEY
from gpu_autoscaler.emulator.machines import EmulatedMachines, Habit
from tests.emulator.machine_rig import BOOT, QUEUE, STARTED, Site, state
from tests.emulator.scaleway_rig import ZONE


def test_a_black_hole_fails_every_task_it_takes() -> None:
    site = Site(Habit(fails_tasks_after=2.0))
    site.up()
    tasks = [site.task(seconds) for seconds in (600, 1)]
    site.pass_by(10)
    assert [site.status(task) for task in tasks] == ["failed", "in_progress"]
    site.pass_by(10)
    assert [site.status(task) for task in tasks] == ["failed", "failed"]
    assert site.machines.completed == 0
    worker = site.worker()
    assert worker is not None
    assert worker.task_id is None, "it looks idle, and ready for more"


def test_a_task_may_fail_by_itself_at_its_end() -> None:
    site = Site()
    site.up()
    task = site.task(60, "failed")
    site.pass_by(30)
    assert site.status(task) == "in_progress"
    site.pass_by(60)
    assert site.status(task) == "failed"
    assert site.clearml.task(task).fields["status_reason"] == "worker execution exit code 1"
    assert site.machines.completed == 0


def test_an_agent_that_dies_leaves_its_server_its_entry_and_its_task() -> None:
    site = Site(Habit(agent_dies_after=60.0))
    server = site.up()
    task = site.task()
    site.pass_by(58)
    assert site.machines.running_task(server.id) is not None
    site.pass_by(300)
    assert site.machines.running_task(server.id) is None
    assert state(server) == "running"
    assert site.worker() is not None
    site.pass_by(600)
    assert site.worker() is None
    assert site.status(task) == "in_progress"
    site.pass_by(7200 + 900)
    assert site.status(task) == "stopped"
    assert site.clearml.task(task).fields["status_reason"] == "Forced stop (non-responsive)"
    site.cloud.act(ZONE, server.id, "poweroff")
    site.pass_by(60)
    assert site.machines.interrupted == 0


def test_an_agent_that_died_idle_takes_nothing_more() -> None:
    site = Site(Habit(agent_dies_after=60.0))
    site.up()
    site.pass_by(60)
    task = site.task()
    site.pass_by(60)
    assert list(site.clearml.queues.get(site.queue).entries) == [task]


def test_a_machine_that_dies_takes_its_server_down() -> None:
    site = Site(Habit(dies_after=60.0))
    server = site.up()
    task = site.task()
    site.pass_by(58)
    assert state(server) == "running"
    site.pass_by(2)
    assert state(server) == "stopped"
    assert site.worker() is not None
    assert site.status(task) == "in_progress"
    assert site.machines.agents == {}


def test_a_machine_also_dies_when_its_agent_is_dead_but_not_in_its_next_boot() -> None:
    habits = [Habit(agent_dies_after=1.0, dies_after=200.0), Habit()]
    site = Site(Habit())
    site.machines.habit = lambda _: habits.pop(0)
    server = site.up()
    site.pass_by(100)
    assert state(server) == "running"
    site.pass_by(101)
    assert state(server) == "stopped"
    habits[:] = [Habit(dies_after=600.0), Habit()]
    site.cloud.act(ZONE, server.id, "poweron")
    site.pass_by(STARTED + BOOT)
    site.cloud.act(ZONE, server.id, "poweroff")
    site.pass_by(60)
    site.cloud.act(ZONE, server.id, "poweron")
    site.pass_by(3600)
    assert state(server) == "running"


def test_a_machine_that_is_to_die_without_a_hypervisor_says_so() -> None:
    site = Site(Habit(dies_after=60.0))
    site.machines.crash = EmulatedMachines(site.line, site.clearml).crash
    site.up()
    with pytest.raises(LookupError, match="set `crash`"):
        site.pass_by(61)


def test_a_task_popped_by_an_agent_that_dies_is_started_by_nobody() -> None:
    site = Site(Habit(dies_after_pop=True))
    server = site.up()
    task = site.task()
    site.pass_by(10)
    assert site.clearml.queues.get(site.queue).entries == {}
    assert site.status(task) == "queued"
    site.pass_by(3600)
    assert site.status(task) == "queued"
    assert site.clearml.task(task).last_worker is None
    assert site.machines.popped_task(server.id) is None
    assert state(server) == "running"
    assert site.worker() is None


def test_what_a_machine_really_does_can_be_asked() -> None:
    site = Site(Habit(pop_to_start_seconds=10))
    server = site.up()

    def doing() -> tuple[str | None, str | None]:
        running = site.machines.running_task(server.id)
        return site.machines.popped_task(server.id), running[0] if running else None

    assert doing() == (None, None)
    task = site.task(60)
    site.pass_by(8)
    assert doing() == (task, None)
    site.pass_by(10)
    assert doing() == (None, task)
    running = site.machines.running_task(server.id)
    assert running is not None
    assert running[1] == site.clearml.task(task).fields["started"].replace(
        microsecond=running[1].microsecond
    )
    site.pass_by(60)
    assert doing() == (None, None)
    assert site.machines.running_task("another") is None
    assert site.machines.popped_task("another") is None


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("which", [None, "h100-000001"])
def test_an_entry_that_was_lost_comes_back_with_the_next_report(
    which: str | None, busy: bool
) -> None:
    site = Site()
    site.up()
    task = site.task() if busy else None
    site.pass_by(40)
    before = site.worker()
    assert before is not None
    site.clearml.workers.vanish(which)
    assert site.worker() is None
    site.pass_by(31)
    after = site.worker()
    assert after is not None
    assert after.register_time > before.register_time, "as if newly registered"
    assert (after.task_id, after.queue_ids) == (task, [site.queue])


def test_only_the_named_entries_vanish() -> None:
    site = Site()
    site.up()
    site.clearml.register(site.clearml.user, "another", [])
    site.clearml.workers.vanish("another")
    assert site.worker() is not None
    assert [w.id for w in site.clearml.workers.alive()] == ["h100-000001"]


def test_a_report_names_the_task_s_queue_only_while_there_is_a_task() -> None:
    site = Site()
    site.up()
    worker = site.worker()
    assert worker is not None
    assert worker.queue_id is None
    site.task(60)
    site.pass_by(30)
    assert worker.queue_id == site.queue
    site.pass_by(60)
    assert worker.queue_id is None


def test_a_queue_made_again_under_its_name_is_pulled_from() -> None:
    site = Site()
    site.up()
    site.clearml.delete_queue(site.queue)
    site.pass_by(30)
    site.queue = site.clearml.create_queue(QUEUE)
    task = site.task(10)
    site.pass_by(30)
    assert site.status(task) == "completed"


def test_a_machine_says_how_far_its_boot_is() -> None:
    site = Site()
    server = site.server()
    site.pass_by(STARTED)
    assert server.user_data[BOOT_REPORT_KEY] == b"installing: install_agent"
    site.pass_by(BOOT)
    assert server.user_data[BOOT_REPORT_KEY] == b"ready"


def test_a_boot_that_fails_says_so_and_no_agent_comes() -> None:
    site = Site(Habit(boot_fails="1 GPU, expected 2"))
    server = site.up()
    assert server.user_data[BOOT_REPORT_KEY] == b"failed: 1 GPU, expected 2"
    site.pass_by(3600)
    assert site.worker() is None


def test_a_machine_that_has_worked_needs_no_user_data_any_more() -> None:
    site = Site()
    server = site.up()
    del server.user_data["cloud-init"]
    site.cloud.act(ZONE, server.id, "poweroff")
    site.pass_by(60)
    site.cloud.act(ZONE, server.id, "poweron")
    site.pass_by(STARTED)
    assert server.user_data[BOOT_REPORT_KEY] == b"preflight"
    site.pass_by(BOOT)
    assert site.worker() is not None
