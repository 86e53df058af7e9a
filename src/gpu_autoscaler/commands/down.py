"""`down`: power off the idle machines, or remove the whole fleet."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from gpu_autoscaler.commands.storing import open_store
from gpu_autoscaler.commands.wiring import Services, Setup, build_loop, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.decisions import InstanceDecision
from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.errors import ApiError, StoreError, Transient
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory, PowerOff
from gpu_autoscaler.domain.model import Instance, ServerState
from gpu_autoscaler.policy.guard import claims_on
from gpu_autoscaler.runtime.execute import (
    AT_ONCE,
    WITHOUT_LEASE,
    LiveExecutor,
    Orders,
    is_failure,
)
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.runtime.ports import Store
from gpu_autoscaler.runtime.renew import renewing

POLL_SECONDS = 5.0
REPORT_SECONDS = 35.0
"""Within this every living agent reports (each 30 s)."""
RENEW_EVERY = timedelta(seconds=20)
"""Also the shortest lease outlasts a save that fails."""
OFF_WITHIN_SECONDS = 300.0
"""A power-off took 45 s when recorded."""


@dataclass(frozen=True, slots=True)
class _Machine:
    decision: InstanceDecision
    instance: Instance
    tasks: tuple[str, ...]
    """Names of what runs on it."""

    @property
    def busy(self) -> bool:
        return bool(self.tasks) or self.decision.state in (S.RUNNING_TASK, S.LOST)


async def down(
    setup: Setup,
    clock: Clock,
    console: Console,
    *,
    everything: bool,
    confirm: Callable[[str], bool],
) -> int:
    """Returns the exit code. Raises OSError when a daemon holds the state.

    `confirm` is given the question in rich's markup.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(setup, clock))
        services = await stack.enter_async_context(
            open_services(setup.config, setup.secrets, clock)
        )
        kept = await store.load()
        if not kept.ours:
            raise StoreError(
                f"a daemon acts ({kept.holder}): stop it first; if it is dead, try again when its "
                "lease has run out, some minutes after its last cycle"
            )
        before = kept.memory
        loop = build_loop(setup.watcher, setup.secrets, services, store, clock, dry_run=True)
        cycle = await loop.look(before)
        if not cycle.complete:
            console.print("[red]Nothing done:[/] not everything answered; try again.")
            return 1
        machines = _machines(cycle, everything=everything)
        if not machines:
            console.print("Nothing to take down.")
            return 0
        if not confirm(_question(machines, everything=everything)):
            console.print("Nothing done.")
            return 1
        # the question may have stood for long, and idleness takes two reports of the agent
        if not everything:
            await clock.sleep(REPORT_SECONDS)
        cycle = await loop.look(_without_effects(cycle, before))
        machines = _unchanged(machines, _machines(cycle, everything=everything), console)
        executor = LiveExecutor(
            services.clearml, services.scaleway, clock, lambda: None, store.lease_left
        )
        memory = _remembering(before, cycle, machines, clock)
        await store.save(memory)

        async def renew() -> None:
            with suppress(OSError):
                await store.save(memory)
            executor.lease_changed()

        async with renewing(renew, RENEW_EVERY, clock):
            if everything:
                removal = _Removal(services, store, clock, console)
                return await removal.remove(machines, cycle.world.zones)
            return await _power_off_idle(executor, console, machines, cycle)


def _machines(cycle: Cycle, *, everything: bool) -> list[_Machine]:
    clearml = cycle.world.clearml
    names = {task.id: task.name for task in clearml.open_tasks}
    listed = {i.name: i for zone in cycle.world.zones.values() for i in zone.instances}

    def tasks_on(machine: str) -> tuple[str, ...]:
        claims = claims_on(machine, clearml.workers, clearml.open_tasks)
        return tuple(names.get(task_id, task_id) for task_id in claims)

    return [
        _Machine(decision, listed[decision.name], tasks_on(decision.name))
        for decision in cycle.plan.instances
        if decision.name in listed and not decision.hands_off and (everything or _idles(decision))
    ]


def _idles(decision: InstanceDecision) -> bool:
    return decision.state is S.IDLE and decision.reason is not Reason.RECENTLY_BUSY


def _without_effects(cycle: Cycle, before: Memory | None) -> Memory:
    """The memory of a look whose plan was not carried out."""
    return replace(cycle.plan.memory, pending=before.pending if before else {})


def _unchanged(
    asked: Sequence[_Machine], now: Sequence[_Machine], console: Console
) -> list[_Machine]:
    """Those of the confirmed machines that are as they were when they were named."""
    named = {machine.instance.id: machine for machine in asked}
    still = {
        m.instance.id: m
        for m in now
        if m.instance.id in named and set(m.tasks) <= set(named[m.instance.id].tasks)
    }
    for server_id, machine in named.items():
        if server_id not in still:
            console.print(f"{machine.instance.name}: left alone: it changed since the question")
    return list(still.values())


def _question(machines: Sequence[_Machine], *, everything: bool) -> str:
    verb = "Remove, with their volumes" if everything else "Power off"
    lines = [f"{verb}:"]
    for machine in machines:
        state = machine.decision.state.value.replace("_", " ")
        lines.append(f"  {machine.decision.name} ({state})")
    if any(machine.tasks for machine in machines):
        lines.append("These tasks will be stopped, and not run again:")
    for machine in machines:
        lines += [f"  {escape(task)} on {machine.decision.name}" for task in machine.tasks]
    return "\n".join(lines)


def _remembering(
    before: Memory | None, cycle: Cycle, machines: Sequence[_Machine], clock: Clock
) -> Memory:
    """What we are about to stop, so that a daemon started later rescues what an idle one caught."""
    offs = {
        m.instance.name: PowerOff(m.instance.queue, clock.now() + cycle.world.clearml.skew)
        for m in machines
        if not m.busy
    }
    base = before or _without_effects(cycle, before)
    stopped = {  # by a person: their tasks are not put back, whatever `on_lost` says
        server_id: replace(known, stop_decided_at=clock.now())
        for server_id, known in base.instances.items()
        if server_id in {m.instance.id for m in machines}
    }
    return replace(
        base,
        power_offs={**base.power_offs, **offs},
        instances={**base.instances, **stopped},
    )


async def _power_off_idle(
    executor: LiveExecutor, console: Console, machines: Sequence[_Machine], cycle: Cycle
) -> int:
    known = cycle.plan.memory.instances
    effects = [
        StopInstance(
            instance=m.instance,
            guard=Guard.IDLE,
            booted_at=known[m.instance.id].booted_at,
            reason=Reason.OPERATOR,
            because="down --idle",
        )
        for m in machines
        if known[m.instance.id].first_idle_report_at != known[m.instance.id].last_report_at
    ]
    executor.submit(Orders(effects, cycle.plan.memory.queue_ids))
    await executor.finish(timedelta(seconds=OFF_WITHIN_SECONDS))
    failed = False
    for outcome in executor.take_outcomes():
        name = outcome.effect.subject
        if outcome.failure is None:
            console.print(f"{name}: powered off")
        else:
            console.print(f"{name}: left on: {escape(outcome.message)}")
            failed |= is_failure(outcome)
    return 1 if failed else 0


class _Removal:
    """Removes machines with their volumes, for as long as nobody else may act."""

    def __init__(self, services: Services, store: Store, clock: Clock, console: Console) -> None:
        self._scaleway, self._store = services.scaleway, store
        self._clock, self._console = clock, console

    async def remove(self, machines: Sequence[_Machine], zones: Iterable[str]) -> int:
        """All of these, and every free volume of the fleet; the exit code."""
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(instance: Instance) -> bool:
            async with at_once:
                return await self._machine(instance)

        removed = await asyncio.gather(*(one(machine.instance) for machine in machines))
        freed = [await self._free_volumes(zone) for zone in zones]
        return 0 if all([*removed, *freed]) else 1

    async def _machine(self, instance: Instance) -> bool:
        try:
            await self._power_off(instance)
            self._check_lease()
            await self._scaleway.delete(instance)
        except ApiError as error:
            said = escape(str(error))
            self._console.print(f"[red]{instance.name}: not removed:[/] {said}", highlight=False)
            return False
        self._console.print(f"{instance.name}: removed, with its volumes")
        return True

    async def _free_volumes(self, zone: str) -> bool:
        """What an earlier crash may have left: nobody sweeps up after the fleet is gone."""
        good, say = True, self._console.print
        try:
            free = [v for v in await self._scaleway.volumes(zone) if v.attached_to is None]
        except ApiError as error:
            say(f"[red]volumes in {zone}:[/] {escape(str(error))}", highlight=False)
            return False
        for volume in free:
            try:
                self._check_lease()
                await self._scaleway.delete_volume(volume)
                say(f"volume {escape(volume.name)}: removed")
            except ApiError as error:
                good = False
                say(f"[red]volume {volume.id}:[/] {escape(str(error))}", highlight=False)
        return good

    async def _power_off(self, instance: Instance) -> None:
        """Power it off and wait until it is off, or gone.

        Off before it is deleted: a shutdown lets the agent tell ClearML, a deletion does not.
        """
        waited, asked = 0.0, False
        while waited <= OFF_WITHIN_SECONDS:
            found = {i.id: i for i in await self._scaleway.instances(instance.zone)}
            now = found.get(instance.id)
            if now is None and not await self._scaleway.exists(instance.zone, instance.id):
                return
            if now is not None and now.state is ServerState.STOPPED:
                return
            up = now is not None and now.state in (
                ServerState.RUNNING,
                ServerState.STOPPED_IN_PLACE,
            )
            if now is not None and up and not asked:
                self._check_lease()
                await self._scaleway.stop(now)
                asked = True
            await self._clock.sleep(POLL_SECONDS)
            waited += POLL_SECONDS
        raise Transient(f"{instance.name} is not off after {OFF_WITHIN_SECONDS:.0f} s")

    def _check_lease(self) -> None:
        if self._store.lease_left() <= 0:
            raise Transient(WITHOUT_LEASE)
