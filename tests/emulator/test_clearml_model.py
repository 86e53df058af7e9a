"""The in-process face: the server's rules, gaps and traps, one by one."""

from datetime import UTC, datetime, timedelta

import pytest

from gpu_autoscaler.emulator.clearml_model import EMULATED_USER, ClearmlModel
from gpu_autoscaler.emulator.clearml_records import User
from gpu_autoscaler.emulator.clearml_wire import RefusedError
from gpu_autoscaler.emulator.timeline import Timeline
from gpu_autoscaler.runtime.clock import RandomIds

AGENTS = User("__agents__", "agents", "AGENTSACCESSKEY", "agents-secret-key")
START = datetime(2026, 9, 7, 8, 0, 0, 123456, tzinfo=UTC)


class HandClock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the model never sleeps")

    def pass_by(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class World:
    """A model with one queue, and the clock to drive it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.model = ClearmlModel(Timeline(self.clock), RandomIds(), (EMULATED_USER, AGENTS))
        self.queue = self.model.create_queue("gpu-small")

    def waiting(self) -> list[str]:
        return list(self.model.queues.get(self.queue).entries)

    def running_task(self) -> str:
        """A task that agent w1 reported on just now."""
        task = self.model.create_task("training", self.queue)
        self.model.register(AGENTS, "w1", [self.queue])
        assert self.model.next_task(AGENTS, self.queue) == task
        self.model.started(task, "w1")
        self.model.report(AGENTS, "w1", task, self.queue, [self.queue])
        return task


@pytest.fixture
def world() -> World:
    return World()


def refused(subcode: int) -> "pytest.RaisesExc[RefusedError]":
    """The server refuses with 400 and this sub-code."""
    return pytest.RaisesExc(
        RefusedError, check=lambda error: (error.status, error.subcode) == (400, subcode)
    )


class TestEntries:
    def test_a_pop_takes_the_entry_before_anything_shows_who_has_the_task(
        self, world: World
    ) -> None:
        task = world.model.create_task("training", world.queue)
        world.model.register(AGENTS, "w1", [world.queue])
        assert world.model.next_task(AGENTS, world.queue) == task
        assert world.waiting() == []
        assert world.model.task(task).status == "queued"
        assert world.model.task(task).last_worker is None
        assert world.model.task(task).queue_id == world.queue
        assert world.model.workers.alive()[0].task_id is None

    def test_an_empty_queue_gives_nothing_and_an_unknown_one_refuses(self, world: World) -> None:
        assert world.model.next_task(AGENTS, world.queue) is None
        with refused(701):
            world.model.next_task(AGENTS, "0" * 32)

    def test_a_phantom_is_accepted_and_popped(self, world: World) -> None:
        world.model.queues.add_entry(world.queue, "f" * 32)
        assert world.model.next_task(AGENTS, world.queue) == "f" * 32

    @pytest.mark.parametrize("status", ["stopped", "failed", "completed"])
    def test_a_forced_end_leaves_the_entry(self, world: World, status: str) -> None:
        task = world.model.create_task("training", world.queue)
        world.model.finish(task, status, force=True)
        assert world.model.task(task).status == status
        assert world.waiting() == [task]

    def test_a_forced_start_leaves_the_entry(self, world: World) -> None:
        task = world.model.create_task("training", world.queue)
        world.model.started(task, force=True)
        assert world.waiting() == [task]

    @pytest.mark.parametrize("how", ["abort", "reset", "dequeue", "delete_task"])
    def test_an_orderly_end_takes_the_entry_away(self, world: World, how: str) -> None:
        task = world.model.create_task("training", world.queue)
        getattr(world.model, how)(task)
        assert world.waiting() == []

    def test_order_is_first_come_first_and_can_be_changed(self, world: World) -> None:
        first, second, third = (world.model.create_task(n, world.queue) for n in ("a", "b", "c"))
        assert world.model.queues.move_entry(world.queue, third, to_front=True) == 0
        assert world.model.queues.move_entry(world.queue, first, to_front=False) == 2
        assert world.waiting() == [third, second, first]

    def test_waiting_twice_in_a_queue_is_refused(self, world: World) -> None:
        task = world.model.create_task("training", world.queue)
        with refused(706):
            world.model.enqueue(task, world.queue)

    def test_the_refusal_changes_nothing(self, world: World) -> None:
        task = world.model.create_task("training", world.queue)
        world.model.finish(task, "stopped", force=True)
        with refused(706):
            world.model.enqueue(task, world.queue)
        assert world.model.task(task).status == "stopped"

    def test_a_popped_and_lost_task_can_be_enqueued_again(self, world: World) -> None:
        task = world.model.create_task("training", world.queue)
        world.model.next_task(AGENTS, world.queue)
        world.model.enqueue(task, world.queue)
        assert world.waiting() == [task]

    def test_queues_that_hold_something_are_deleted_by_force_only(self, world: World) -> None:
        task = world.model.create_task("training", world.queue)
        with refused(702):
            world.model.delete_queue(world.queue)
        world.model.delete_queue(world.queue, force=True)
        assert world.model.task(task).status == "created"


class TestStatusMachine:
    @pytest.mark.parametrize("status", ["stopped", "failed"])
    def test_what_stopped_or_failed_is_enqueued_without_reset(
        self, world: World, status: str
    ) -> None:
        task = world.running_task()
        started = world.model.task(task).fields["started"]
        world.model.finish(task, status, "w1", force=False)
        other = world.model.create_task("other", world.queue)
        world.clock.pass_by(60)
        world.model.enqueue(task, world.queue)
        assert world.model.task(task).status == "queued"
        assert world.waiting() == [other, task]
        world.model.started(task, "w1")
        assert world.model.task(task).fields["started"] == started  # the first start counts

    def test_what_completed_is_enqueued_by_force_only(self, world: World) -> None:
        task = world.running_task()
        world.model.finish(task, "completed", "w1", force=False)
        with refused(110):
            world.model.enqueue(task, world.queue)
        assert world.waiting() == []
        world.model.enqueue(task, world.queue, force=True)
        assert world.waiting() == [task]

    def test_a_draft_does_not_complete_without_force(self, world: World) -> None:
        task = world.model.create_task("draft")
        with refused(110):
            world.model.finish(task, "completed", force=False)

    def test_dequeue_restores_what_the_task_was_before(self, world: World) -> None:
        task = world.running_task()
        world.model.finish(task, "failed", "w1")
        world.model.enqueue(task, world.queue)
        world.model.dequeue(task)
        assert world.model.task(task).status == "failed"

    def test_reset_forgets_the_run_but_not_the_queue(self, world: World) -> None:
        task = world.running_task()
        world.model.reset(task)
        record = world.model.task(task)
        assert (record.status, record.last_worker, record.queue_id) == (
            "created",
            None,
            world.queue,
        )
        assert "started" not in record.fields

    def test_the_emulated_duration_is_kept_beside_the_document(self, world: World) -> None:
        task = world.model.task(world.model.create_task("a", duration=90.0, tags=["x"]))
        assert task.emulated_duration == 90.0
        assert task.fields["tags"] == ["x"]


class TestAbort:
    def test_a_running_task_is_only_asked_to_stop(self, world: World) -> None:
        task = world.running_task()
        world.model.abort(task)
        record = world.model.task(task)
        assert (record.status, record.fields["status_message"]) == ("in_progress", "stopping")
        assert record.stop_requested
        world.model.finish(task, "stopped", "w1")
        assert world.model.task(task).fields["status_reason"] == "task was stopped by tasks.stop"

    @pytest.mark.parametrize(("silent", "status"), [(599, "in_progress"), (600, "stopped")])
    def test_a_silent_one_is_stopped_directly(
        self, world: World, silent: float, status: str
    ) -> None:
        task = world.running_task()
        world.clock.pass_by(silent)
        world.model.abort(task)
        assert world.model.task(task).status == status

    def test_so_is_one_that_no_worker_reported_about(self, world: World) -> None:
        task = world.model.create_task("training", world.queue)
        world.model.next_task(AGENTS, world.queue)
        world.model.started(task, "w1")
        world.model.abort(task)
        assert world.model.task(task).fields["status_message"] == "Stopped by emulated"

    def test_an_agent_that_is_terminated_words_it_otherwise(self, world: World) -> None:
        task = world.running_task()
        world.model.finish(task, "stopped", "w1")
        fields = world.model.task(task).fields
        assert fields["status_reason"] == "user abort"
        assert fields["status_message"] == "Changed by clearml-agent w1"


class TestWatchdog:
    def test_silent_tasks_are_stopped_at_its_next_round(self, world: World) -> None:
        world.clock.pass_by(1)
        task = world.running_task()
        world.clock.pass_by(7199)  # the eighth round: almost silent for too long
        assert world.model.task(task).status == "in_progress"
        world.clock.pass_by(899)
        assert world.model.task(task).status == "in_progress"
        world.clock.pass_by(1)
        record = world.model.task(task)
        assert record.fields["status_reason"] == "Forced stop (non-responsive)"
        assert record.fields["status_changed"] == START.replace(microsecond=123000) + timedelta(
            seconds=8100
        )
        assert record.status == "stopped"
        assert world.waiting() == []  # nobody puts it back

    def test_a_reporting_worker_keeps_its_task_alive(self, world: World) -> None:
        task = world.running_task()
        for _ in range(30):
            world.clock.pass_by(500)
            world.model.report(AGENTS, "w1", task, world.queue)
        assert world.model.task(task).status == "in_progress"


class TestWorkers:
    def test_an_entry_outlives_its_machine_by_600_seconds_with_its_task(self, world: World) -> None:
        task = world.running_task()
        world.clock.pass_by(599.999)
        assert [worker.task_id for worker in world.model.workers.alive()] == [task]
        world.clock.pass_by(0.001)
        assert world.model.workers.alive() == []

    def test_polling_a_queue_renews_nothing(self, world: World) -> None:
        world.model.register(AGENTS, "w1", [world.queue])
        for _ in range(120):
            world.clock.pass_by(5)
            world.model.next_task(AGENTS, world.queue)
        assert world.model.workers.alive() == []

    def test_it_may_ask_for_another_lifetime(self, world: World) -> None:
        world.model.register(AGENTS, "w1", [world.queue], timeout_seconds=5)
        world.clock.pass_by(5)
        assert world.model.workers.alive() == []

    def test_a_report_registers_and_wipes_tags(self, world: World) -> None:
        world.model.register(AGENTS, "w1", [world.queue], tags=["a"])
        world.model.report(AGENTS, "w1")
        assert world.model.workers.alive()[0].tags == []
        world.model.unregister(AGENTS, "w1")
        assert world.model.workers.alive() == []
        world.model.report(AGENTS, "w1", queue_ids=[world.queue])
        assert [w.queue_ids for w in world.model.workers.alive()] == [[world.queue]]

    def test_the_first_report_time_appears_with_the_first_report(self, world: World) -> None:
        world.model.register(AGENTS, "w1", [world.queue])
        assert world.model.workers.alive()[0].last_report_time is None
        world.model.report(AGENTS, "w1")
        assert world.model.workers.alive()[0].last_report_time == START

    def test_one_id_under_two_users_is_two_entries_each_removed_by_its_own(
        self, world: World
    ) -> None:
        world.model.register(AGENTS, "w1", [world.queue])
        world.model.register(EMULATED_USER, "w1", [world.queue])
        assert len(world.model.workers.alive()) == 2
        world.model.unregister(EMULATED_USER, "w1")
        world.model.unregister(EMULATED_USER, "w1")
        assert [worker.user for worker in world.model.workers.alive()] == [AGENTS]

    def test_registering_again_drops_the_task_from_the_entry_only(self, world: World) -> None:
        task = world.running_task()
        world.model.register(AGENTS, "w1", [world.queue])
        assert world.model.workers.alive()[0].task_id is None
        assert world.model.task(task).status == "in_progress"

    def test_a_report_of_an_unknown_task_is_refused_but_renews(self, world: World) -> None:
        with refused(101):
            world.model.report(AGENTS, "w1", "0" * 32)
        worker = world.model.workers.alive()[0]
        assert (worker.task_id, worker.last_report_time) == (None, None)

    def test_a_report_marks_the_task(self, world: World) -> None:
        task = world.model.task(world.running_task())
        assert task.last_worker == "w1"
        assert task.fields["last_worker_report"] == START.replace(microsecond=123000)
