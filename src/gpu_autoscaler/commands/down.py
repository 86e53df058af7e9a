"""`down`: power off the idle machines, or remove the whole fleet."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from gpu_autoscaler.commands.removing import OFF_WITHIN_SECONDS, Removal
from gpu_autoscaler.commands.storing import open_store
from gpu_autoscaler.commands.wiring import Setup, build_loop, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.decisions import InstanceDecision
from gpu_autoscaler.domain.effects import Guard, Reason, StopInstance
from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory, PowerOff
from gpu_autoscaler.domain.model import Instance
from gpu_autoscaler.policy.guard import claims_on
from gpu_autoscaler.runtime.execute import (
    LiveExecutor,
    Orders,
    is_failure,
)
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.runtime.renew import renewing

REPORT_SECONDS = 35.0
"""Within this every living agent reports (each 30 s)."""
RENEW_EVERY = timedelta(seconds=20)
"""Also the shortest lease outlasts a save that fails."""


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
                removal = Removal(services.scaleway, clock, console, store.lease_left)
                instances = [machine.instance for machine in machines]
                return 0 if await removal.remove(instances, cycle.world.zones) else 1
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
