"""What must hold after every cycle of every story, whatever the story is about."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from gpu_autoscaler.domain.effects import DeleteInstance, Effect, StopInstance
from gpu_autoscaler.domain.lifecycle import TRANSITIONS
from gpu_autoscaler.domain.model import FleetTags, ServerState
from gpu_autoscaler.runtime.loop import Cycle

if TYPE_CHECKING:
    from tests.runtime.world import World


class Invariants:
    """Watches one world: call `check` after each cycle, before anything else goes on."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._paid: Mapping[str, int] = {}

    def check(self, cycle: Cycle) -> None:
        """Raises AssertionError that names what is broken."""
        self._edges(cycle)
        self._reasons(cycle)
        self._pending(cycle)
        self._everything_has_its_decision(cycle)
        self._nothing_busy_is_touched(cycle.plan.effects)
        self._bounds(cycle)

    def _edges(self, cycle: Cycle) -> None:
        for one in cycle.plan.instances:
            if one.previous is not None:
                edge = f"{one.name}: {one.previous} -> {one.state}"
                assert one.state in TRANSITIONS[one.previous], f"not in TRANSITIONS: {edge}"

    def _reasons(self, cycle: Cycle) -> None:
        for effect in cycle.plan.effects:
            assert effect.because.strip(), f"{effect.key} says no why"
        for queue in cycle.plan.queues:
            assert queue.because.strip(), f"nothing said of {queue}"
        for instance in cycle.plan.instances:
            assert instance.because.strip(), f"nothing said of {instance}"

    def _pending(self, cycle: Cycle) -> None:
        pending = cycle.plan.memory.pending
        assert all(key == each.key for key, each in pending.items())
        keys = [effect.key for effect in cycle.plan.effects]
        assert len(keys) == len(set(keys)), f"planned twice: {keys}"
        if cycle.plan.memory is self._world.store.memory:
            assert set(keys) <= set(pending), "begun, but not stored before"

    def _everything_has_its_decision(self, cycle: Cycle) -> None:
        assert sorted(q.queue for q in cycle.plan.queues) == sorted(cycle.config.queues)
        listed = [i.name for zone in cycle.world.zones.values() for i in zone.instances]
        decided = Counter(i.name for i in cycle.plan.instances)
        assert set(listed) <= set(decided), f"no decision: {set(listed) - set(decided)}"
        assert set(decided.values()) <= {1}, f"decided twice: {decided}"

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
