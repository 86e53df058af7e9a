"""What must hold at every event, whatever goes wrong: DESIGN.md's rules, against the truth.

The watch sees each call of a daemon take effect and knows what the emulated world really holds:
which task runs where, who has the lease, what is billed. The first thing that is broken ends the
simulation.
"""

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Container
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.lifecycle import TRANSITIONS
from gpu_autoscaler.domain.model import (
    KEEP_TAG,
    PROVISIONING_TAG,
    FleetTags,
    ServerState,
)
from gpu_autoscaler.emulator.scaleway_order import NewServer
from gpu_autoscaler.emulator.scaleway_state import BlockVolume, Server
from gpu_autoscaler.policy.hours import in_force
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.simulation.fates import UNDER_WAY
from gpu_autoscaler.simulation.ledger import used_up

if TYPE_CHECKING:
    from gpu_autoscaler.simulation.daemon import Daemon
    from gpu_autoscaler.simulation.world import World

LAST_EVENTS = 60
"""Kept for the report of a violation."""


NEXT_CYCLE = timedelta(seconds=90)
"""Sooner than this, a cycle follows the last one."""

CLEARML_READS = 4
"""Per cycle: queues, workers, open tasks, and ended ones where they matter."""

CLOCKS_DIFFER = timedelta(minutes=12)
"""By less than this a daemon's clock is wrong, or differs from the last one's."""
CLOCK_READINGS = [n * CLOCKS_DIFFER / 4 for n in range(-8, 5)]
"""Off the true time, what a daemon that acts may take for now."""
FAST_FAILURES = 3
BLACK_HOLE_TASK = timedelta(minutes=1)
"""A task younger than this may be caught by the power-off of a black hole; it is put back."""

LOOKS = ("tasks.get_all", "queues.get_all", "workers.get_all")
"""What is read once more before a power-off."""


class Violation(AssertionError):
    """Something that must never be so. The text says what, and when."""


class Watch:
    """Sees everything; `broken` is the first violation."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.broken: Violation | None = None
        self.alarm = asyncio.Event()
        self.events: deque[str] = deque(maxlen=LAST_EVENTS)
        self.hit: dict[str, datetime] = {}
        """Machines that lost their power by no doing of ours, and when."""
        self.fast_failures: Counter[str] = Counter()
        """Tasks that really failed within a minute on each machine."""
        self.black_holes: set[str] = set()
        """Machines that fail every task."""
        self.caught = 0
        """Tasks that a power-off of ours hit, between the last look and the act."""
        self.effects: dict[str, int] = defaultdict(int)
        self._reads: dict[str, dict[str, datetime]] = defaultdict(dict)
        """By effect: when ClearML was read for it."""
        self._reasons: dict[str, Reason] = {}
        """By effect."""
        self._cycle_reads: dict[str, int] = defaultdict(int)
        self._last_cycle_at: datetime | None = None
        self._listed: frozenset[str] = frozenset()
        """Names of the instances that the last cycle saw."""
        self._people_started: list[datetime] = []
        self.undone: set[str] = set()
        """Machines that people have powered on, or deleted, since we powered them off."""
        self._kept_since: dict[str, datetime] = {}
        self._protected_since: dict[str, datetime] = {}

    # --- what is seen

    def calling(self, daemon: "Daemon", call: str) -> None:
        """A daemon sends a call."""
        if call.endswith(".get_all") and not _effect().startswith("stop:"):
            self._cycle_reads[daemon.name] += 1

    def called(self, call: str) -> None:
        """A daemon's call took effect."""
        if call in LOOKS and (effect := _effect()).startswith("stop:"):
            self._reads[effect][call] = self._world.clock.now()
            if call == LOOKS[-1]:
                self._world.after_the_last_look(effect.removeprefix("stop:"))

    def cycled(self, daemon: "Daemon", cycle: Cycle) -> None:
        """A daemon finished a cycle."""
        reads = self._cycle_reads.pop(daemon.name, 0)
        if self._world.calm_for > UNDER_WAY and reads > CLEARML_READS:  # else some are repeated
            self.violated(f"{reads} reads of ClearML in one cycle")
        for one in cycle.plan.effects if cycle.acted else ():
            self.effects[one.verb] += 1
            self._reasons[one.key] = one.reason
            self.say(f"{daemon.name}: {one.verb} {one.subject}: {one.because}")
            if not one.because.strip():
                self.violated(f"{one.key} says no why")
        for outcome in cycle.world.outcomes:
            if outcome.failure is not None:
                self.say(
                    f"{daemon.name}: {outcome.effect.verb} {outcome.effect.subject} failed: "
                    f"{outcome.failure.value} {outcome.message}"
                )
        now = self._world.clock.now()
        soon = self._last_cycle_at is not None and now - self._last_cycle_at < NEXT_CYCLE
        seen = self._listed if soon and cycle.acted else frozenset[str]()
        if cycle.acted:  # what the others see is kept nowhere
            self._last_cycle_at = now
            zones = cycle.world.zones.values()
            self._listed = frozenset(i.name for zone in zones for i in zone.instances)
        for problem in problems_of(cycle, seen):
            self.violated(problem)

    def creating(self, order: NewServer) -> None:
        """A daemon makes a server."""
        if self._world.actor is None:
            return
        self._leads("creates", order.name)
        if not FleetTags(self._world.fleet).owns(frozenset(order.tags)):
            self.violated(f"{order.name} is born without the fleet's tags")

    def acting(self, server: Server, action: str) -> None:
        """Somebody powers a server on or off, or terminates it."""
        if self._world.actor is None:
            self.undone.add(server.name)
            if action == "poweron":
                self._people_started.append(self._world.clock.now())
            return
        self._may_touch(server, action)
        match action:
            case "poweron":
                self._starting(server)
            case "poweroff":
                self._stopping(server)
            case "terminate":
                self._removing(server)

    def deleting(self, server: Server) -> None:
        """Somebody deletes a stopped server."""
        if self._world.actor is None:
            self.undone.add(server.name)
            return
        self._may_touch(server, "delete")
        self._removing(server)
        for task in self._world.clearml.tasks.all.values():
            if task.status == "in_progress" and task.last_worker == server.name:
                self.violated(f"{server.name} is deleted while task {task.id} is on it")

    def power_lost(self, server: Server) -> None:
        """A machine is about to lose its power, by whomever."""
        run = self._world.machines.running_task(server.id)
        popped = self._world.machines.popped_task(server.id)
        task_id = run[0] if run else popped
        if self._world.actor is None:
            self.hit[server.name] = self._world.clock.now()
        if task_id is None:
            return
        if self._world.actor is not None:
            self.caught += 1
            self.undone.discard(server.name)
            self._world.fates.caught(task_id, server.name)
            self.say(f"the power-off of {server.name} catches {task_id}")
        elif run is not None:
            self.say(f"task {task_id} loses its machine {server.name}, by no doing of ours")
            self._world.fates.died(task_id)

    def say(self, event: str) -> None:
        """For the report."""
        self.events.append(f"{self._world.clock.now():%a %H:%M:%S.%f}"[:-3] + f" {event}")

    def violated(self, what: str) -> None:
        """The first one counts."""
        if self.broken is None:
            self.broken = Violation(f"{self._world.clock.now():%Y-%m-%d %H:%M:%S} {what}")
            self._say_last_decisions()
            self.alarm.set()

    def _say_last_decisions(self) -> None:
        for daemon in self._world.daemons:
            cycle = daemon.loop.last
            if cycle is None or not daemon.lives:
                continue
            self.say(f"{daemon.name} at {cycle.finished_at:%H:%M:%S}, acting: {cycle.acted}")
            for queue in cycle.plan.queues:
                self.say(f"  {queue.queue}: {queue.reason.value}, {queue.because}")
            for one in cycle.plan.instances:
                self.say(f"  {one.name}: {one.state.value}, {one.reason.value}, {one.because}")

    # --- the rules

    def _may_touch(self, server: Server, action: str) -> None:
        tags = frozenset(server.tags)
        if not FleetTags(self._world.fleet).owns(tags):
            self.violated(f"{action} of {server.name}, which is not the fleet's")
        protected_since = self._protected_since.get(server.id)
        if server.protected and (
            protected_since is None or self._world.clock.now() - protected_since > UNDER_WAY
        ):
            self.violated(f"{action} of {server.name}, which is protected")
        kept = any(tag == KEEP_TAG or tag.startswith(f"{KEEP_TAG}=") for tag in tags)
        since = self._kept_since.get(server.id)
        held_for = self._world.clock.now() - since if since else timedelta(0)
        if kept and UNDER_WAY < held_for < self._world.config.keep - CLOCKS_DIFFER:
            self.violated(f"{action} of {server.name}, which is kept")
        # a creation that was cut off cleans up after itself, also when the lease is over
        if not (PROVISIONING_TAG in tags and action in ("terminate", "delete")):
            self._leads(action, server.name)

    def was_kept(self, server: Server) -> bool:
        """Whether a person has ever set the tag."""
        return server.id in self._kept_since

    def kept(self, server: Server) -> None:
        """A person set the tag."""
        self._kept_since[server.id] = self._world.clock.now()

    def protected(self, server: Server) -> None:
        """A person protected it."""
        self._protected_since[server.id] = self._world.clock.now()

    def _leads(self, deed: str, subject: str) -> None:
        world = self._world
        if not world.with_lease or world.actor is None:
            return
        blob = world.bucket.blob
        holder = json.loads(blob.content)["lease"]["holder"] if blob else ""
        if holder != world.actor.name:
            self.violated(f"{world.actor.name} {deed} {subject}; the lease is {holder or 'free'}")

    def _starting(self, server: Server) -> None:
        if not ("cloud-init" in server.user_data or self._world.machines.installed(server)):
            self.violated(f"{server.name} is powered on without its user data")
        if server.state is not ServerState.STOPPED:
            return
        now, queue = self._world.clock.now(), queue_of(server)
        billed = [s for s in self._world.servers() if s.state is not ServerState.STOPPED]
        by_people = sum(now - at < UNDER_WAY * 10 for at in self._people_started)
        ends = [since for since, _ in self._world.configs[1:]] + [now]
        recent = [
            config
            for (_, config), end in zip(self._world.configs, ends, strict=True)
            if now - end <= UNDER_WAY
        ]
        own = sum(queue_of(s) == queue for s in billed) + 1
        ever = [in_force(c, now + off) for c in recent for off in CLOCK_READINGS]
        most = max((c.queues[queue].max_instances for c in ever if queue in c.queues), default=0)
        if own > most + by_people:
            self.violated(f"{server.name} is powered on: {own} of {queue}, allowed are {most}")
        fleet_most = max((c.max_instances or 1_000_000 for c in recent), default=0)
        if len(billed) + 1 > fleet_most + by_people:
            self.violated(f"{server.name} is powered on: {len(billed) + 1} of {fleet_most} in all")
        if held := used_up(self._world, recent, queue):
            self.violated(f"{server.name} is powered on though {held}")

    def _stopping(self, server: Server) -> None:
        looked = self._reads.pop(_effect(), {})
        black_hole = self._reasons.get(_effect()) is Reason.QUARANTINED
        if black_hole and self.fast_failures[server.name] < FAST_FAILURES:
            self.violated(f"{server.name} is quarantined, and failed no three tasks at once")
        if server.state is not ServerState.RUNNING:
            return
        if missing := [call for call in LOOKS if call not in looked]:
            self.violated(f"{server.name} is powered off without {', '.join(missing)} before")
            return
        run = self._world.machines.running_task(server.id)
        if run is None:
            return
        task_id, started_at = run
        young = self._world.clock.now() - started_at < BLACK_HOLE_TASK
        if started_at < min(looked.values()) and not (young and black_hole):
            self.violated(f"{server.name} is powered off while it runs task {task_id}")

    def _removing(self, server: Server) -> None:
        if (run := self._world.machines.running_task(server.id)) is not None:
            self.violated(f"{server.name} is removed while it runs task {run[0]}")
        fleet = FleetTags(self._world.fleet)
        for volume in server.volumes.values():
            if (
                isinstance(volume, BlockVolume)
                and volume.boot
                and not fleet.owns(frozenset(volume.tags))
            ):
                self.violated(f"{server.name} is removed before its volume {volume.id} is tagged")


def problems_of(cycle: Cycle, seen_before: Container[str]) -> list[str]:
    """What is wrong in one cycle by itself: edges, reasons, decisions, intents.

    Who was not seen in the cycle before may have passed several states: its edge says nothing.
    """
    plan = cycle.plan
    found = [
        f"{one.name}: {one.previous} -> {one.state} is not in TRANSITIONS"
        for one in plan.instances
        if one.previous and one.name in seen_before and one.state not in TRANSITIONS[one.previous]
    ]
    found += [f"nothing said of {q.queue}" for q in plan.queues if not q.because.strip()]
    found += [f"nothing said of {i.name}" for i in plan.instances if not i.because.strip()]
    keys = [effect.key for effect in plan.effects]
    if len(keys) != len(set(keys)):
        found.append(f"planned twice: {keys}")
    if missing := set(keys) - set(plan.memory.pending):
        found.append(f"begun, but not remembered: {missing}")
    if sorted(q.queue for q in plan.queues) != sorted(cycle.config.queues):
        found.append("not one decision per queue")
    decided = [i.name for i in plan.instances]
    zones = cycle.world.zones.values()
    listed = {i.name for zone in zones for i in zone.instances if i.id not in zone.gone}
    if len(decided) != len(set(decided)) or listed - set(decided):
        found.append(f"not one decision per instance: {decided}")
    return found


def queue_of(server: Server) -> str:
    """The queue it serves, from its tags."""
    return next((t.removeprefix("queue=") for t in server.tags if t.startswith("queue=")), "")


def _effect() -> str:
    """The key of the effect that the running task carries out; something else for a cycle."""
    task = asyncio.current_task()
    return task.get_name() if task is not None else ""
