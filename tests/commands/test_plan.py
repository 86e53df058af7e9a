"""`plan`: the same decision as the daemon's, printed; nothing is changed by asking."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_autoscaler.commands import plan as planning
from gpu_autoscaler.commands.plan import as_dict
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.runtime.loop import Cycle
from tests.commands.site import QUEUE, Site
from tests.policy.worlds import QUEUE as STORY_QUEUE
from tests.policy.worlds import START, Story, config, minutes, registered


def cycle_of(story: Story) -> Cycle:
    made = story.cycle()
    return Cycle(story.now, story.world(), made, story.config)


def test_the_dictionary_tells_everything_in_plain_values() -> None:
    story = Story(config=config({"max_instances": 3}))
    story.has(registered())
    story.report(registered().name)
    story.enqueue("t0", "t1")
    story.run(registered().name, "t0")
    told = as_dict(cycle_of(story))
    assert json.loads(json.dumps(told)) == told
    assert (told["complete"], told["errors"]) == (True, {})
    (effect,) = told["effects"]
    assert (effect["do"], effect["reason"]) == ("create", "demand")
    assert effect["subject"].startswith("h100-1-80g-")
    assert effect["because"]
    (queue,) = told["queues"]
    assert queue == {
        "queue": STORY_QUEUE,
        "waiting": 1,
        "busy": 1,
        "capacity": 0,
        "billed": 1,
        "launch": 1,
        "reason": "demand",
        "because": queue["because"],
    }
    (instance,) = told["instances"]
    assert (instance["name"], instance["queue"]) == (registered().name, STORY_QUEUE)
    assert (instance["state"], instance["reason"]) == ("running_task", "busy")
    assert instance["since"] == (START + minutes(0.5)).isoformat(timespec="seconds")


def test_the_dictionary_names_who_did_not_answer() -> None:
    story = Story()
    story.clearml_down, story.dark_zones = True, {"fr-par-2"}
    told = as_dict(cycle_of(story))
    assert told["complete"] is False
    assert told["errors"] == {"clearml": "down", "scaleway fr-par-2": "502"}
    assert told["effects"] == []
    assert told["queues"][0]["reason"] == "incomplete_observation"


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def go(run: Callable[[Site], Awaitable[None]]) -> None:
        async def main() -> None:
            await run(Site(tmp_path, planning, monkeypatch))

        run_virtual(main())

    return go


def test_without_memory_two_looks_agree_and_nothing_is_changed(planned: Any) -> None:
    async def run(site: Site) -> None:
        site.task()
        site.calls.clear()
        assert await planning.plan(site.setup, site.clock, site.console, as_json=True) == 0
        told = json.loads(site.said)
        assert [effect["do"] for effect in told["effects"]] == ["create"]
        assert site.servers() == {}
        assert not site.directory.exists(), "no state of a daemon that never ran"
        assert site.calls.count("queues.get_all") == 2
        assert site.calls.count("^(PATCH|DELETE|PUT)|/action|POST /instance") == 0

    planned(run)


def test_the_table_says_what_would_be_done_and_why(planned: Any) -> None:
    async def run(site: Site) -> None:
        site.task()
        assert await planning.plan(site.setup, site.clock, site.console, as_json=False) == 0
        assert QUEUE in site.said
        assert f"would create {QUEUE}-" in site.said
        assert "1 waiting" in site.said

    planned(run)


def test_nothing_to_do_is_said(planned: Any) -> None:
    async def run(site: Site) -> None:
        assert await planning.plan(site.setup, site.clock, site.console, as_json=False) == 0
        assert "Nothing to do." in site.said

    planned(run)


def test_who_does_not_answer_is_named_and_the_code_says_so(planned: Any) -> None:
    async def run(site: Site) -> None:
        site.break_off("/servers")
        assert await planning.plan(site.setup, site.clock, site.console, as_json=False) == 1
        assert "scaleway fr-par-2 gave no full answer:" in site.said

    planned(run)
