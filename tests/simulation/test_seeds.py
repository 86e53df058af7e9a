"""Every seed is a day on which everything goes wrong: no rule may break on any of them."""

from collections import Counter
from dataclasses import fields

import pytest

from gpu_autoscaler.simulation.faults import BootFaults, CallFaults, Happenings, Level
from gpu_autoscaler.simulation.play import Result, play
from gpu_autoscaler.simulation.scenario import DENSE, scenario

SEEDS = 500
CHUNK = 10
HOURS = 4
ALL_FAULTS = [
    *(field.name for field in fields(CallFaults)),
    *(field.name for field in fields(Happenings)),
    *(f"boot_{field.name}" for field in fields(BootFaults)),
]


def played(seed: int, level: Level = Level.ALL) -> Result:
    """Four dense hours."""
    return play(scenario(seed, HOURS / 24, DENSE, level))


@pytest.mark.spread
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_rule_breaks(first: int) -> None:
    broken = {seed: play_or_say(seed) for seed in range(first, first + CHUNK)}
    assert not any(broken.values()), "\n".join(filter(None, broken.values()))


def play_or_say(seed: int) -> str:
    """What broke, with the events before it and the command that shows it again."""
    result = played(seed)
    if result.violation is None:
        return ""
    again = f"gpu-autoscaler simulate --workload {DENSE} --days {HOURS / 24:g} --faults all"
    events = "\n".join(result.world.watch.events)
    return f"{events}\nseed {seed}: {result.violation}\n{again} --seed {seed}"


def test_the_faults_really_happen() -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    happened = sum((played(seed).world.happened for seed in range(20)), start=Counter[str]())
    assert [name for name in ALL_FAULTS if not happened[name]] == []


def test_without_faults_every_task_ends_as_it_should() -> None:
    for seed in range(5):
        result = played(seed, Level.NONE)
        assert result.violation is None
        assert not result.world.happened.total()
        assert set(result.figures.tasks_by_status) <= {"completed", "failed"}
        assert result.left == sum(
            queue.min_instances for queue in result.world.config.queues.values()
        )
