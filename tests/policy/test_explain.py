"""Every situation has its sentence: why a task waits, why a machine is on."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.domain.requests import Request, RequestKind
from gpu_autoscaler.policy.explain import Explainer, Explanation
from tests.policy.worlds import (
    OTHER_ZONE,
    QUEUE,
    TYPE,
    ZONE,
    Story,
    config,
    instance,
    minutes,
    registered,
    seconds,
    verbs,
)

BOTH = [{"type": TYPE, "zone": ZONE}, {"type": TYPE, "zone": OTHER_ZONE}]


class Told(Story):
    """Keeps the world that the last plan was made from."""

    shown: World

    def world(self) -> World:
        self.shown = super().world()
        return self.shown


def explained(story: Told, name: str) -> Explanation:
    """What the last cycle says of it."""
    assert story.last is not None
    world = story.shown
    return Explainer(world, story.last, story.config, story.now).explain(name)


def text(story: Told, name: str) -> str:
    return " ".join(explained(story, name).sentences)


def waiting(settings: dict[str, object] | None = None) -> Told:
    story = Told(config(settings or {}))
    story.enqueue("t1")
    return story


def booting() -> Told:
    """A machine is created for t1; two boots there took four minutes before."""
    story = waiting()
    story.memory = replace(story.memory, boots={f"{TYPE} in {ZONE}": (200.0, 240.0, 280.0)})
    story.done(*story.cycle().effects)
    story.cycle()
    return story


def shortage() -> Told:
    story = waiting({"placements": BOTH})
    for _ in BOTH:
        story.done(*story.cycle().effects, failure=Failure.OUT_OF_STOCK, message="none left")
    story.cycle()
    return story


def paused() -> Told:
    story = waiting()
    story.requests = [Request(RequestKind.PAUSE, QUEUE)]
    story.cycle()
    story.cycle()
    return story


def at_the_maximum() -> Told:
    story = running({"max_instances": 1})
    story.enqueue("t2")
    story.cycle()
    return story


def running(settings: dict[str, object] | None = None) -> Told:
    story = Told(config(settings or {}))
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.enqueue("t1")
    story.run("m1", "t1")
    story.cycle()
    return story


def lost_worker() -> Told:
    story = running()
    for _ in range(8):
        story.cycle(reports=False)
    return story


def backing_off() -> Told:
    story = waiting()
    story.done(*story.cycle().effects, failure=Failure.QUOTA, message="quota exceeded")
    story.cycle()
    return story


def unknown_queue() -> Told:
    story = waiting()
    story.tasks["elsewhere"] = replace(story.tasks["t1"], id="elsewhere", queue_id="q-other")
    story.cycle()
    return story


@pytest.mark.parametrize(
    ("situation", "name", "says"),
    [
        (
            booting,
            "t1",
            "number 1 of 1 in H100-1-80G|is being created|typical there: 4m|in about 4 min",
        ),
        (shortage, "t1", f"No machine is on its way|{TYPE} in {ZONE}: out of stock, next try at"),
        (shortage, "t1", f"{TYPE} in {OTHER_ZONE}: out of stock, next try at"),
        (paused, "t1", "paused since|after somebody resumes it"),
        (at_the_maximum, "t2", "1 of max_instances = 1 are billed"),
        (unknown_queue, "elsewhere", "no queue of this fleet"),
        (unknown_queue, "nobody", "No task, instance or queue|looks at the queues H100-1-80G"),
        (lost_worker, "m1", "is lost since|hands off until ClearML ends the task"),
        (lost_worker, "t1", "runs on m1|m1 is lost"),
        (backing_off, "t1", "quota exceeded, next try at"),
        (backing_off, QUEUE, "quota exceeded, next try at"),
        (running, "t1", "runs on m1 since 08:00 UTC"),
        (running, "m1", "is running task|Runs task t1|never stopped while a task runs"),
    ],
)
def test_the_situation_is_told(situation: Callable[[], Told], name: str, says: str) -> None:
    told = text(situation(), name)
    for part in says.split("|"):
        assert part in told


def test_the_estimate_follows_the_history_of_the_place() -> None:
    story = booting()
    found = explained(story, "t1")
    assert found.starts_at is not None
    assert timedelta(minutes=3) < found.starts_at - story.now < timedelta(minutes=5)


def test_a_machine_that_boots_is_named() -> None:
    story = booting()
    assert story.last is not None
    (name,) = (p.name for p in story.memory.pending.values())
    story.has(instance(name, "running", created_at=story.now, modified_at=story.now))
    story.cycle()
    assert f"{name} ({TYPE} in {ZONE}) boots since" in text(story, "t1")


def test_a_machine_elsewhere_is_explained_by_what_holds_the_better_place_back() -> None:
    places = [{"type": TYPE, "zone": zone} for zone in (ZONE, "pl-waw-2")]
    story = Told(config({"placements": places}))
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=Failure.OUT_OF_STOCK)
    story.done(*story.cycle().effects)
    story.cycle()
    held_back = f"{TYPE} in {ZONE}: out of stock, next try at"
    for name in ("t1", QUEUE):
        assert held_back in text(story, name)
    assert f"({TYPE} in pl-waw-2) is being created since" in text(story, "t1")
    own = replace(story.memory.backoffs[0], failure=Failure.REJECTED, spec="another")
    story.memory = replace(story.memory, backoffs=(own,))
    story.cycle()
    assert "next try" not in text(story, QUEUE), "its configuration has changed since"


def test_a_rejection_of_a_placement_s_own_settings_holds_until_they_change() -> None:
    place = Placement(TYPE, ZONE)
    story = Told(own_specs={(QUEUE, place): "own"})
    story.enqueue("t1")
    story.done(*story.cycle().effects, failure=Failure.REJECTED)
    story.cycle()
    assert explained(story, QUEUE).sentences[-1].startswith(f"{place}: rejected")
    story.own_specs = {(QUEUE, place): "mended"}
    story.cycle()
    assert "rejected" not in text(story, QUEUE)


def test_an_idle_machine_takes_it_at_its_next_poll() -> None:
    story = Told()
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.enqueue("t1")
    story.cycle()
    assert "m1 is idle and asks for a task every 5s" in text(story, "t1")
    assert explained(story, "t1").starts_at == story.now + seconds(5)


def test_the_second_in_line_waits_for_the_second_machine() -> None:
    story = Told(config({"max_instances": 2}))
    story.enqueue("t1", "t2", "t3")
    story.done(*story.cycle().effects)
    story.cycle()
    first, second = (explained(story, name).sentences[1] for name in ("t1", "t2"))
    assert first.split()[0] != second.split()[0]
    assert "max_instances = 2" in text(story, "t3")


def test_an_idle_machine_says_when_it_is_stopped() -> None:
    story = Told()
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.cycle()
    assert "If nothing else happens, it is powered off at 08:30 UTC" in text(story, "m1")
    made = story.wait(minutes(40))
    assert (verbs(made), f"{story.now:%H:%M}") == (["stop"], "08:30")


def test_a_task_by_its_name_and_one_of_several() -> None:
    story = waiting()
    story.enqueue("t2")
    story.tasks["t2"] = replace(story.tasks["t2"], name="task t1")
    story.cycle()
    assert "2 tasks are named task t1; this is the first: t1" in text(story, "task t1")


def test_without_clearml_nothing_is_claimed() -> None:
    story = waiting()
    story.clearml_down = True
    story.cycle()
    assert text(story, "t1") == "ClearML gave no full answer: down."


# --- whole answers


def queue_of_three() -> Told:
    """t1 to t3 wait; one machine is being created, another one boots, and a third is started."""
    story = Told(config({"max_instances": 5}))
    story.has(registered("m0", "stopped", modified_at=story.now - minutes(5)))
    story.cycle()
    story.enqueue("t1", "t2", "t3")
    made = story.cycle()
    assert sorted(verbs(made)) == ["create", "create", "start"]
    at_once = [explained(story, name).sentences[1] for name in ("t1", "t2", "t3")]
    assert sum("is being created since" in each for each in at_once) == 2
    assert (
        sum(each.startswith("m0 (") and "is being started since" in each for each in at_once) == 1
    )
    first = next(e.subject for e in made.effects if e.verb == "create")
    story.has(instance(first, "running", created_at=story.now, modified_at=story.now))
    story.boot_reports = {first: "installing the agent"}
    story.cycle()
    return story


def test_each_waits_for_a_machine_of_its_own_that_comes() -> None:
    story = queue_of_three()
    found = [explained(story, name) for name in ("t1", "t2", "t3")]
    assert [(each.kind, each.name) for each in found] == [("task", t) for t in ("t1", "t2", "t3")]
    told = sorted(each.sentences[1] for each in found)
    assert len(set(told)) == 3
    does = ("boots since", "is being created since")
    assert [sum(part in each for each in told) for part in does] == [2, 1]
    (says,) = (each for each in told if "It says" in each)
    assert says.endswith("(no boot there yet; elsewhere 4m). It says: installing the agent.")
    (started,) = (each for each in told if each.startswith("m0 ("))
    assert started.endswith("(no boot there yet; elsewhere 4m).")
    (created,) = (each for each in told if "created" in each)
    assert created.endswith("(no boot there yet; elsewhere 4m).")
    assert all(each.sentences[-1] == "It should start in about 4 min." for each in found)
    queue = explained(story, QUEUE)
    assert (queue.kind, queue.name, queue.starts_at) == ("queue", QUEUE, None)
    assert queue.sentences[1:3] == (
        "3 waiting, the first 08:00 UTC (1m30s).",
        "3 of at most 5 instances are billed, 0 work.",
    )
    assert sorted(queue.sentences[3:]) == told


def test_what_boots_for_another_queue_comes_for_nobody_here() -> None:
    story = booting()
    (pending,) = story.memory.pending.values()
    assert story.last is not None
    for change in ({"queue": "another"}, {"failed": True}):
        others = {"create:m9": replace(pending, key="create:m9", **change)}
        both = replace(story.last.memory, pending=others | story.memory.pending)
        story.last = replace(story.last, memory=both)
        coming = [each for each in explained(story, QUEUE).sentences if "created" in each]
        assert len(coming) == 1
        assert pending.name in coming[0]


def test_one_behind_those_that_idle_machines_take_waits_for_the_next_to_come() -> None:
    story = Told(config({"max_instances": 5}))
    story.has(registered("m1"))
    story.report("m1")
    story.cycle()
    story.enqueue("t1", "t2")
    story.done(*story.cycle().effects)
    story.cycle()
    assert "m1 is idle" in text(story, "t1")
    assert "is being created" in text(story, "t2")


def test_a_boot_that_should_be_over_starts_any_moment() -> None:
    story = booting()
    (name,) = (pending.name for pending in story.memory.pending.values())
    story.has(instance(name, "running", created_at=story.now, modified_at=story.now))
    story.cycle()
    story.wait(minutes(5))
    assert explained(story, "t1").sentences[-1] == "It should start any moment."


def test_one_that_runs_names_its_worker_and_says_no_more_of_it_while_it_works() -> None:
    story = running()
    assert explained(story, "t1").sentences == ("task t1 (t1) runs on m1 since 08:00 UTC (30s).",)
    story.tasks["t1"] = replace(story.tasks["t1"], last_worker=None)
    story.has(registered("m2"))
    story.cycle()
    assert "runs on an unknown worker since" in text(story, "t1")
    assert len(explained(story, "t1").sentences) == 1


def test_a_queue_in_which_nothing_waits_says_nothing_of_waiting() -> None:
    story = running()
    found = explained(story, QUEUE)
    assert "waiting, the first" not in " ".join(found.sentences)
    assert found.sentences[0].startswith(f"{QUEUE}: ")


def test_a_task_of_a_queue_that_is_read_and_not_configured_is_not_ours() -> None:
    story = waiting()
    story.cycle()
    assert story.last is not None
    story.last = replace(story.last, queues=())
    said = f"task t1 (t1) waits in {QUEUE}, which is no queue of this fleet."
    assert explained(story, "t1") == Explanation("task", "t1", (said,))
    other = unknown_queue()
    assert "waits in the queue q-other, which" in text(other, "elsewhere")


def test_what_nobody_knows_is_said_so() -> None:
    story = waiting()
    story.cycle()
    assert explained(story, "nobody") == Explanation(
        "unknown",
        "nobody",
        (
            "No task, instance or queue that this fleet knows is called nobody.",
            f"It looks at the queues {QUEUE}: is the task enqueued in one of them?",
        ),
    )
    story.clearml_down = True
    story.cycle()
    said = ("ClearML gave no full answer: down.",)
    assert explained(story, "nobody") == Explanation("unknown", "nobody", said)


def test_a_task_that_ended_says_since_when() -> None:
    story = running()
    story.end("t1")
    story.cycle()
    said = "task t1 (t1) is completed, since 08:01 UTC (30s)."
    assert explained(story, "t1") == Explanation("task", "t1", (said,))


def test_all_that_there_is_to_say_of_a_machine() -> None:
    story = running({"idle_timeout": "7m"})
    assert explained(story, "m1") == Explanation(
        "instance",
        "m1",
        (
            "m1 is running task since 08:01 UTC (0s).",
            "Runs task t1.",
            "It is never stopped while a task runs, and idles 7m first.",
        ),
    )
    story.end("t1")
    story.cycle()
    (_, _, last) = explained(story, "m1").sentences
    assert last == "If nothing else happens, it is powered off at 08:08 UTC."
    story.config = story.config.model_copy(update={"queues": {}})
    story.cycle()
    assert len(explained(story, "m1").sentences) == 2


def test_a_task_says_since_when_it_waits() -> None:
    story = waiting()
    story.cycle()
    found = explained(story, "t1").sentences[0]
    assert found == f"task t1 (t1) is number 1 of 1 in {QUEUE}, since 08:00 UTC (30s)."
