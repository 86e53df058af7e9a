"""The daemon's clock jumps, and people edit its configuration while it runs."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from gpu_autoscaler.config.watch import ConfigWatcher
from tests.bad_days.world import BadDay, bad_day
from tests.policy.worlds import QUEUE, TYPE, ZONE, minutes
from tests.runtime.world import PROJECT

TEXT = """\
fleet: test
clearml: {{api_host: "http://clearml.test"}}
scaleway: {{project_id: {project}, api_url: "http://scaleway.test"}}
defaults:
  idle_timeout: 2m
  stopped_retention: 3m
queues:
  {queue}:
    max_instances: {most}
    volume: {{size: {size}GB}}
    placements: [{{type: {type}, zone: {zone}}}]
"""


def text(most: int = 2, size: int = 200) -> str:
    return TEXT.format(project=PROJECT, queue=QUEUE, type=TYPE, zone=ZONE, most=most, size=size)


class ConfigFile:
    """The file that people edit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, content: str) -> None:
        self.path.write_text(content)

    def remove(self) -> None:
        self.path.unlink()


FileStory = Callable[[BadDay, ConfigFile], Awaitable[None]]


def file_day(directory: Path, story: FileStory, most: int = 2) -> None:
    """Live through a story with a configuration file that is edited."""
    file = ConfigFile(directory / "queues.yaml")
    file.write(text(most))

    async def told(world: BadDay) -> None:
        await world.kill()
        world.watched = ConfigWatcher.of_file(file.path, {})
        world.start_daemon()
        await story(world, file)

    bad_day(told)


@pytest.mark.parametrize("hours", [1, -1], ids=["forward", "backward"])
@pytest.mark.parametrize("moment", ["booting", "busy", "idle", "stopping", "stopped"])
def test_the_clock_jumps_by_an_hour(hours: int, moment: str) -> None:
    async def story(world: BadDay) -> None:
        task = world.task(hours=0.2)
        when = {
            "booting": lambda: "running" in world.states().values(),
            "busy": lambda: world.status(task) == "in_progress",
            "idle": lambda: world.status(task) == "completed",
            "stopping": lambda: "stopping" in world.states().values(),
            "stopped": lambda: "stopped" in world.states().values(),
        }
        await world.until(lambda: bool(world.states()) and when[moment]())
        world.timepiece.ahead += timedelta(hours=hours)
        await world.cycles(minutes(3))
        other = world.task(hours=0.2)
        await world.ends_well(task, other, created=3, billed=2)

    bad_day(story)


def test_the_clock_is_set_back_and_forth_again_and_again() -> None:
    async def story(world: BadDay) -> None:
        tasks = [world.task(hours=1), world.task(hours=0.5)]
        await world.until(lambda: all(world.status(t) == "in_progress" for t in tasks))
        for ahead in (1, -1, 2, -2, 0):
            world.timepiece.ahead = timedelta(hours=ahead)
            await world.cycles(minutes(4))
        await world.ends_well(*tasks, created=2)

    bad_day(story)


def test_max_lowered_below_what_runs(tmp_path: Path) -> None:
    async def story(world: BadDay, file: ConfigFile) -> None:
        tasks = [world.task(hours=0.3), world.task(hours=1), world.task(hours=0.1)]
        await world.until(lambda: all(world.status(t) == "in_progress" for t in tasks))
        tasks.append(world.task(hours=0.1))
        file.write(text(most=1))
        await world.ends_well(*tasks, created=3)
        assert len(world.said("configuration loaded")) == 1
        assert len(world.said("stop", reason="above_max")) == 2

    file_day(tmp_path, story, most=3)


def test_a_queue_removed_while_its_task_runs(tmp_path: Path) -> None:
    async def story(world: BadDay, file: ConfigFile) -> None:
        task = world.task(hours=0.5)
        await world.until(lambda: world.status(task) == "in_progress")
        file.write(text().replace(f"  {QUEUE}:", "  another:"))
        await world.ends_well(task, created=1)
        assert len(world.said("stop", reason="above_max")) == 1
        assert len(world.said("delete", reason="idle_action_delete")) == 1

    file_day(tmp_path, story)


def test_a_file_that_breaks_is_said_once_and_the_last_good_one_serves(tmp_path: Path) -> None:
    async def story(world: BadDay, file: ConfigFile) -> None:
        task = world.task(hours=0.5)
        await world.until(lambda: world.status(task) == "in_progress")
        file.write(text(most=1).replace("idle_timeout", "idle_timeuot"))
        await world.cycles(minutes(10))
        (line,) = world.said("configuration not used")
        assert "idle_timeuot" in line["error"]
        assert f"{file.path}:5" in line["error"]
        other = world.task(hours=0.1)
        await world.until_done(other)
        assert world.created() == 2, "max_instances is still 2"
        file.remove()
        await world.cycles(minutes(3))
        file.write(text(most=2))
        await world.ends_well(task, other, created=2)
        assert len(world.said("configuration not used")) == 2
        (loaded,) = world.said("configuration loaded")
        assert loaded["mended"] is True

    file_day(tmp_path, story)


def test_what_needs_a_restart_is_refused(tmp_path: Path) -> None:
    async def story(world: BadDay, file: ConfigFile) -> None:
        task = world.task(hours=0.3)
        await world.until(lambda: world.status(task) == "in_progress")
        file.write(text().replace("fleet: test", "fleet: another"))
        await world.ends_well(task, created=1)
        (line,) = world.said("configuration not used")
        assert "fleet" in line["error"]
        assert "restart it" in line["error"]

    file_day(tmp_path, story)


def test_a_larger_volume_replaces_the_stopped_and_spares_the_busy(tmp_path: Path) -> None:
    async def story(world: BadDay, file: ConfigFile) -> None:
        tasks = [world.task(hours=0.1), world.task(hours=1)]
        await world.until_done(tasks[0])
        await world.until(lambda: "stopped" in world.states().values())
        file.write(text(size=300))
        await world.cycles(minutes(1))
        assert len(world.said("delete", reason="spec_changed")) == 1
        tasks.append(world.task(hours=0.1))
        await world.until_done(tasks[2])
        sizes = sorted(v.size // 10**9 for v in world.scaleway.block.by_id.values())
        assert sizes == [200, 300]
        await world.ends_well(*tasks, created=3, billed=2)

    file_day(tmp_path, story)


@pytest.mark.parametrize(
    "agent",
    ['docker_arguments: "--env \'unbalanced"', 'extra_clearml_conf: "sdk { broken"'],
    ids=["docker-arguments", "hocon"],
)
def test_an_edit_that_no_bootstrap_can_be_made_of_is_not_used(tmp_path: Path, agent: str) -> None:
    async def story(world: BadDay, file: ConfigFile) -> None:
        task = world.task(hours=0.1)
        await world.until(lambda: world.status(task) == "in_progress")
        file.write(text().replace("    max_inst", f"    agent: {{{agent}}}\n    max_inst"))
        await world.ends_well(task, created=1)
        (line,) = world.said("configuration not used")
        assert QUEUE in line["error"]

    file_day(tmp_path, story)
