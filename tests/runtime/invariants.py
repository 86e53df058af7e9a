"""What must hold after every cycle of every story, whatever the story is about."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from gpu_autoscaler.domain.effects import DeleteInstance, Effect, StopInstance
from gpu_autoscaler.domain.model import FleetTags, ServerState
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.simulation.invariants import problems_of

if TYPE_CHECKING:
    from tests.runtime.world import World


class Invariants:
    """Watches one world: call `check` after each cycle, before anything else goes on."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._paid: Mapping[str, int] = {}

    def check(self, cycle: Cycle) -> None:
        """Raises AssertionError that names what is broken."""
        self._nothing_busy_is_touched(cycle.plan.effects)
        self._bounds(cycle)
        problems = problems_of(cycle, [one.name for one in cycle.plan.instances])
        assert not problems, "; ".join(problems)

    def _nothing_busy_is_touched(self, effects: Collection[Effect]) -> None:
        agents = self._world.machines.agents
        working = {server_id for server_id, agent in agents.items() if agent._task is not None}
        for effect in effects:
            if isinstance(effect, StopInstance | DeleteInstance):
                assert effect.instance.id not in working, f"{effect.key} while it runs a task"
                tags = FleetTags(self._world.source.value.fleet)
                assert tags.owns(effect.instance.tags), f"{effect.key}: not ours"

    def _bounds(self, cycle: Cycle) -> None:
        """No more is paid for than allowed; what was there when a bound fell may go slowly."""
        paid = Counter(
            next(t.removeprefix("queue=") for t in server.tags if t.startswith("queue="))
            for server in self._world.scaleway.all_servers()
            if server.state is not ServerState.STOPPED
        )
        for queue, number in paid.items():
            settings = cycle.config.queues.get(queue)
            most = max(settings.max_instances if settings else 0, self._paid.get(queue, 0))
            assert number <= most, f"{queue}: {number} are billed, allowed are {most}"
        self._paid = paid
