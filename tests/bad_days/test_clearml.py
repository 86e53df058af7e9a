"""ClearML on bad days: what is said, what is left alone, and that all ends well."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpu_autoscaler.domain.model import ServerState
from gpu_autoscaler.emulator import clearml_auth
from gpu_autoscaler.emulator.clearml_records import User
from tests.bad_days.world import BadDay, bad_day
from tests.policy.worlds import QUEUE, minutes

COLLEAGUE = User("colleague", "colleague", "COLLEAGUEKEY", "colleague-secret-key")


def fault(kind: str, match: str = "", **options: Any) -> Callable[[BadDay], None]:
    def begin(world: BadDay) -> None:
        world.clearml_faults.add(kind, match, **options)

    return begin


def unreachable(world: BadDay) -> None:
    world.unreachable.add("clearml.test")


def refused(world: BadDay) -> None:
    """Somebody deletes the daemon's API key, and with it what was logged in by it."""
    user = world.clearml.user
    world.clearml.users[user.access_key] = replace(user, secret_key="another")
    world.restart_clearml()


def mend(world: BadDay) -> None:
    world.clearml_faults.clear()
    world.unreachable.clear()
    world.clearml.users[world.clearml.user.access_key] = world.clearml.user


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        pytest.param(unreachable, "cannot be reached: ConnectError", id="down-for-an-hour"),
        pytest.param(fault("timeout"), "no full answer within 25 s", id="silent"),
        pytest.param(fault("slow", seconds=12.0), "no full answer within 25 s", id="slow"),
        pytest.param(fault("error"), "answered 500: Failed processing request", id="500"),
        pytest.param(fault("error", status=502), "answered 502: <html>", id="502-html"),
        pytest.param(fault("truncated"), "sent a broken answer", id="truncated"),
        pytest.param(fault("rate_limited"), "answered 429", id="429"),
        pytest.param(fault("error", "workers"), "workers.get_all", id="workers-only"),
        pytest.param(refused, "GPU_AUTOSCALER_CLEARML_SECRET_KEY", id="key-deleted"),
    ],
)
def test_without_an_answer_nothing_changes(begin: Callable[[BadDay], None], error: str) -> None:
    lasts = 60 if begin is unreachable else 20

    async def story(world: BadDay) -> None:
        short, long = world.task(hours=0.1), world.task(hours=lasts / 50)
        await world.until_done(short)
        before = world.states()
        begin(world)
        await world.cycles(minutes(lasts / 2))
        waiting = [world.task(hours=0.1) for _ in range(3)]
        await world.cycles(minutes(lasts / 2))
        assert world.states() == before, "nothing stopped, deleted or launched"
        assert set(before.values()) == {"running"}
        assert len(world.said("failing")) == len(world.said("failing", subject="clearml")) == 1
        assert error in world.said("failing")[0]["error"]
        mend(world)
        await world.cycles(minutes(2))
        (recovered,) = world.said("recovered", subject="clearml")
        assert abs(recovered["after_seconds"] - lasts * 60) < 100
        await world.ends_well(long, *waiting, created=3)

    bad_day(story, max_instances=3)


def test_a_wrong_secret_from_the_start_is_said_once_and_launches_nothing() -> None:
    async def story(world: BadDay) -> None:
        await world.kill()
        world.clearml_secret = "mistyped-secret"
        world.start_daemon()
        task = world.task(hours=0.2)
        await world.cycles(minutes(30))
        (line,) = world.said("failing", subject="clearml")
        assert "GPU_AUTOSCALER_CLEARML_SECRET_KEY" in line["error"]
        assert "mistyped" not in str(world.log)
        assert world.created() == 0
        world.clearml_secret = world.clearml.user.secret_key
        await world.restart()
        await world.ends_well(task, created=1)

    bad_day(story)


def test_tokens_that_expire_or_are_revoked_are_renewed_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clearml_auth, "TOKEN_SECONDS", 900)

    async def story(world: BadDay) -> None:
        task = world.task(hours=1)
        await world.until(lambda: world.status(task) == "in_progress")
        world.restart_clearml()
        await world.ends_well(task, created=1)
        assert world.said("failing") == []
        assert 5 <= world.clearml_calls.count("auth.login") <= 15

    bad_day(story)


def test_an_empty_worker_list_is_an_outage_and_not_a_reason_to_stop() -> None:
    async def story(world: BadDay) -> None:
        short, long = world.task(hours=0.1), world.task(hours=1)
        await world.until_done(short)
        world.clearml_faults.add("empty", "workers")
        await world.cycles(minutes(30))
        assert set(world.states().values()) == {"running"}
        said = world.said("nothing done")
        assert sorted(line["reason"] for line in said) == ["lost_worker", "outage"]
        assert any("hands off until ClearML ends the task" in line["because"] for line in said)
        world.clearml_faults.clear()
        await world.ends_well(long, created=2)

    bad_day(story)


@pytest.mark.parametrize("listing", ["queues", "workers", "tasks.get_all"])
def test_one_empty_listing_after_the_other_costs_no_task(listing: str) -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=0.5), world.task(hours=0.1)]
        await world.until(lambda: all(world.status(t) == "in_progress" for t in tasks))
        world.clearml_faults.add("empty", listing)
        tasks.append(world.task(hours=0.1))
        await world.cycles(minutes(20))
        world.clearml_faults.clear()
        await world.ends_well(*tasks, created=3, billed=2)

    bad_day(story)


def test_a_queue_deleted_while_its_task_runs() -> None:
    async def story(world: BadDay) -> None:
        task = world.task(hours=0.5)
        await world.until(lambda: world.status(task) == "in_progress")
        world.clearml.delete_queue(world.queue_ids[QUEUE], force=True)
        await world.ends_well(task, created=1)
        (line,) = world.said("nothing done", reason="queue_missing")
        assert line["because"] == f"ClearML has no queue named {QUEUE}"
        world.queue_ids[QUEUE] = world.clearml.create_queue(QUEUE)
        await world.ends_well(world.task(hours=0.1), created=2, billed=1)

    bad_day(story)


def test_a_queue_renamed_while_its_task_runs() -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=0.5)]
        await world.until(lambda: world.status(tasks[0]) == "in_progress")
        queue = world.clearml.queues.get(world.queue_ids[QUEUE])
        queue.name = "renamed"
        tasks.append(world.task(hours=0.1))
        await world.until_done(tasks[0])
        await world.until_nothing_is_left()
        assert len(world.said("nothing done", reason="queue_missing")) == 1
        assert world.status(tasks[1]) == "queued"
        queue.name = QUEUE
        await world.ends_well(*tasks, created=2, billed=1)

    bad_day(story)


@pytest.mark.parametrize("change", ["deleted", "renamed"])
def test_a_machine_whose_queue_is_gone_and_whose_agent_is_silent_is_left_its_task(
    change: str,
) -> None:
    """The task still names its machine at ClearML, though no queue of ours leads to it."""

    async def story(world: BadDay) -> None:
        task = world.task(hours=1)
        await world.until(lambda: world.status(task) == "in_progress")
        if change == "deleted":
            world.clearml.delete_queue(world.queue_ids[QUEUE], force=True)
        else:
            world.clearml.queues.get(world.queue_ids[QUEUE]).name = "renamed"
        world.clearml_faults.add("empty", "workers")
        await world.cycles(minutes(30))
        assert world.machines.interrupted == 0
        world.clearml_faults.clear()
        await world.ends_well(task, created=1)

    bad_day(story)


def phantom(world: BadDay) -> None:
    world.clearml.queues.add_entry(world.queue_ids[QUEUE], "f" * 32)


def ended_entry(world: BadDay) -> None:
    task = world.task(hours=0.1)
    world.clearml.started(task, "by hand")
    world.clearml.finish(task, "completed", "by hand")
    assert task in world.clearml.queues.get(world.queue_ids[QUEUE]).entries


@pytest.mark.parametrize("entry", [phantom, ended_entry])
def test_entries_that_are_no_waiting_tasks_launch_nothing(entry: Callable[[BadDay], None]) -> None:
    async def story(world: BadDay) -> None:
        entry(world)
        await world.cycles(minutes(15))
        assert world.created() == 0
        # the agent pulls such an entry, too, and runs an ended task again
        await world.ends_well(world.task(hours=0.1), created=2)

    bad_day(story)


def test_a_second_worker_of_the_same_id_that_idles_hides_no_task() -> None:
    async def story(world: BadDay) -> None:
        task = world.task(hours=0.5)
        await world.until(lambda: world.status(task) == "in_progress")

        def report_idle() -> None:
            world.clearml.report(COLLEAGUE, world.server().name, None, None, ())

        await world.cycles(minutes(20), each=report_idle)
        assert world.server().state is ServerState.RUNNING
        await world.ends_well(task, created=1)

    bad_day(story)


@pytest.mark.parametrize("suffix", ["", ":gpu0"])
def test_a_second_agent_on_the_machine_with_a_task_keeps_it(suffix: str) -> None:
    async def story(world: BadDay) -> None:
        first = world.task(hours=0.1)
        await world.until_done(first)
        by_hand = world.clearml.create_task("by hand")
        worker = world.server().name + suffix
        world.clearml.started(by_hand, worker, COLLEAGUE)

        def report() -> None:
            world.clearml.report(COLLEAGUE, worker, by_hand, None, ())

        report()
        await world.cycles(minutes(20), each=report)
        assert world.server().state is ServerState.RUNNING
        world.clearml.finish(by_hand, "completed", worker, COLLEAGUE)
        world.clearml.unregister(COLLEAGUE, worker)
        await world.ends_well(first, created=1)

    bad_day(story)


def test_a_crowded_server_is_read_in_as_few_calls() -> None:
    async def story(world: BadDay) -> None:
        for number in range(650):
            world.clearml.create_queue(f"{QUEUE}-{number}")
            world.clearml.register(COLLEAGUE, f"other-{number}", ())
        tasks = [world.task(hours=0.1) for _ in range(2)]
        await world.cycles(minutes(4))
        world.clearml_calls.clear()
        await world.cycles(minutes(2))
        assert world.clearml_calls.count() == 4 * 3
        await world.ends_well(*tasks, created=2)

    bad_day(story)


def test_more_waiting_tasks_than_a_page_holds() -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=1) for _ in range(502)]
        await world.cycles(minutes(2))
        assert world.loop.last is not None
        assert world.loop.last.plan.queues[0].demand == 502
        assert world.created() == 2
        for task in tasks[2:]:
            world.clearml.dequeue(task)
        await world.ends_well(*tasks[:2], created=2)

    bad_day(story)
