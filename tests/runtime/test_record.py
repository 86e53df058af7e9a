"""One line per decision that changes something; failures and standing reasons on the edge only."""

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from gpu_autoscaler.domain.decisions import Plan
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.errors import Transient
from gpu_autoscaler.runtime.record import Recorder
from tests.policy.worlds import (
    QUEUE,
    START,
    ZONE,
    Story,
    config,
    instance,
    minutes,
    registered,
    seconds,
)

NAME = registered().name


class Logged(Story):
    """A story whose cycles are recorded."""

    def __init__(self, *, dry_run: bool = False, **story: Any) -> None:
        super().__init__(**story)
        self.recorder = Recorder(dry_run=dry_run)

    def lines(self, after: timedelta = timedelta(seconds=30)) -> list[dict[str, Any]]:
        """What one more cycle says."""
        outcomes = tuple(self.outcomes)
        made: Plan = self.cycle(after)
        self.outcomes = list(outcomes)
        world = self.world()
        self.outcomes = []
        with capture_logs() as lines:
            self.recorder.record(world, made, self.now)
        return [dict(line) for line in lines]


def events(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in lines]


def test_a_quiet_cycle_says_nothing() -> None:
    story = Logged()
    assert story.lines() == []
    story.has(registered())
    story.report(NAME)
    story.lines()
    assert story.lines() == []


def test_each_effect_is_one_line_with_its_why() -> None:
    story = Logged(config=config({"max_instances": 3}))
    story.enqueue("t1", "t2")
    lines = story.lines()
    assert events(lines) == ["create", "create"]
    for line, effect in zip(lines, story.last.effects, strict=True):  # type: ignore[union-attr]
        assert line == {
            "event": "create",
            "log_level": "info",
            "subject": effect.subject,
            "queue": QUEUE,
            "zone": ZONE,
            "reason": "demand",
            "because": effect.because,
        }
    assert story.lines() == [], "they are under way: nothing new"


def test_what_is_done_to_an_instance_says_where_it_is() -> None:
    story = Logged()
    story.has(instance(state="stopped in place"))
    (line,) = story.lines()
    assert (line["event"], line["subject"], line["queue"], line["zone"]) == (
        *("stop", NAME),
        *(QUEUE, ZONE),
    )


def test_a_dry_run_says_would() -> None:
    story = Logged(dry_run=True)
    story.enqueue("t1")
    assert events(story.lines()) == ["would create"]


def test_an_outage_of_clearml_is_said_when_it_begins_and_when_it_ends() -> None:
    story = Logged()
    story.clearml_down = True
    (begun,) = story.lines()
    assert (begun["event"], begun["subject"], begun["error"]) == ("failing", "clearml", "down")
    assert begun["log_level"] == "warning"
    assert [story.lines() for _ in range(5)] == [[]] * 5
    story.clearml_down = False
    (ended,) = story.lines()
    assert (ended["event"], ended["subject"], ended["after_seconds"]) == (
        *("recovered", "clearml"),
        180,
    )
    assert story.lines() == []


def test_zones_fail_and_mend_each_for_itself() -> None:
    story = Logged()
    story.dark_zones = {ZONE}
    assert [(x["event"], x["subject"]) for x in story.lines()] == [
        ("failing", f"scaleway {ZONE}"),
    ]
    story.clearml_down = True
    assert [(x["event"], x["subject"]) for x in story.lines()] == [("failing", "clearml")]
    story.dark_zones = set()
    assert [(x["event"], x["subject"]) for x in story.lines()] == [
        ("recovered", f"scaleway {ZONE}"),
    ]


def test_another_error_of_the_same_subject_is_not_another_edge() -> None:
    recorder = Recorder()
    with capture_logs() as lines:
        recorder.failing("store", OSError("disk full"), START)
        recorder.failing("store", OSError("read-only"), START + seconds(30))
        recorder.failing("store", None, START + minutes(2))
        recorder.failing("store", None, START + minutes(3))
        recorder.failing("store", Transient("again"), START + minutes(4))
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("failing", "disk full"),
        ("recovered", None),
        ("failing", "again"),
    ]


@pytest.mark.parametrize(
    ("failure", "event", "level"),
    [
        (Failure.OUT_OF_STOCK, "failed", "warning"),
        (Failure.TRANSIENT, "failed", "warning"),
        (Failure.GUARD, "left undone", "info"),
    ],
)
def test_an_effect_that_failed_is_said_once(failure: Failure, event: str, level: str) -> None:
    story = Logged()
    story.has(instance(state="stopped in place"))
    story.lines()
    assert story.last is not None
    story.done(*story.last.effects, failure=failure, message="words of the API")
    line, *rest = story.lines()
    assert (line["event"], line["log_level"]) == (event, level)
    assert (line["effect"], line["subject"]) == ("stop", NAME)
    assert "words of the API" in (line.get("error"), line.get("because"))
    assert event not in events(rest)
    assert event not in events(story.lines())


def test_an_effect_that_went_well_is_not_said_again() -> None:
    story = Logged()
    story.enqueue("t1")
    story.lines()
    assert story.last is not None
    story.done(*story.last.effects)
    assert story.lines() == []


def test_a_standing_reason_is_said_when_it_begins_and_when_it_changes() -> None:
    story = Logged(config=config({"max_instances": 0}))
    story.enqueue("t1")
    (line,) = story.lines()
    assert (line["event"], line["subject"], line["reason"]) == (
        *("nothing done", QUEUE),
        "max_instances",
    )
    assert line["because"] == "0 of max_instances = 0 are billed"
    assert story.lines() == []
    story.queue_exists = False
    assert [x["reason"] for x in story.lines()] == ["queue_missing"]
    story.queue_exists = True
    assert [x["reason"] for x in story.lines()] == ["max_instances"], "it began anew"


def test_hands_off_and_lost_are_said_once() -> None:
    story = Logged()
    story.has(registered(protected=True))
    assert story.lines() == [], "an instance at work is nobody's news"
    other = "h100-1-80g-000002"
    story.has(registered(other))
    story.report(other)
    story.lines()
    del story.workers[other]
    said = [line for _ in range(6) for line in story.lines()]
    assert [(x["event"], x["subject"], x["reason"]) for x in said] == [
        ("nothing done", other, "lost_worker"),
    ]


def test_an_ordinary_reason_for_doing_nothing_is_not_said() -> None:
    story = Logged()
    story.enqueue("t1")
    story.has(registered())
    story.report(NAME)
    assert story.lines() == []
    assert story.last is not None
    assert story.last.queues[0].reason.value == "satisfied"


def test_what_a_machine_says_of_its_boot_is_said_when_it_changes() -> None:
    story = Logged()
    story.has(instance())
    story.lines()
    story.boot_reports[NAME] = "installing: install_agent"
    (line,) = story.lines()
    assert (line["event"], line["subject"]) == ("booting", NAME)
    assert (line["says"], line["log_level"]) == ("installing: install_agent", "info")
    assert story.lines() == []
    story.boot_reports[NAME] = "failed: no GPU"
    assert [line["log_level"] for line in story.lines() if "says" in line] == ["warning"]
