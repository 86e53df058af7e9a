"""`plan`: what one cycle would do now, as a table, with reasons; changes nothing."""

import json
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpu_autoscaler.commands.storing import read_only_store
from gpu_autoscaler.commands.wiring import Setup, build_loop, open_services
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.runtime.loop import Cycle


async def look(setup: Setup, clock: Clock) -> Cycle:
    """Observe and decide once, from the memory that there is; nothing is changed."""
    async with open_services(setup.config, setup.secrets, clock) as services:
        store = read_only_store(setup.config, setup.secrets)
        loop = build_loop(setup.watcher, setup.secrets, services, store, clock, dry_run=True)
        memory = (await store.load()).memory
        cycle = await loop.look(memory)
        if memory is None:
            # what a daemon would do once a second observation has agreed with the first
            cycle = await loop.look(replace(cycle.plan.memory, unconfirmed_need=None))
    return cycle


async def plan(setup: Setup, clock: Clock, console: Console, *, as_json: bool) -> int:
    """Observe, decide, and print. 1 when something did not answer."""
    cycle = await look(setup, clock)
    if as_json:
        console.print_json(json.dumps(as_dict(cycle)))
    else:
        _print(cycle, console)
    return 0 if cycle.complete else 1


def as_dict(cycle: Cycle) -> dict[str, Any]:
    """The plan in plain values."""
    return {
        "complete": cycle.complete,
        "errors": _errors(cycle),
        "effects": [
            {"do": e.verb, "subject": e.subject, "reason": e.reason.value, "because": e.because}
            for e in cycle.plan.effects
        ],
        "queues": [
            {
                "queue": q.queue,
                "waiting": q.demand,
                "busy": q.busy,
                "capacity": q.capacity,
                "billed": q.billed,
                "launch": q.launched,
                "reason": q.reason.value,
                "because": q.because,
            }
            for q in cycle.plan.queues
        ],
        "instances": [
            {
                "name": i.name,
                "queue": i.queue,
                "state": i.state.value,
                "since": i.state_since.isoformat(timespec="seconds"),
                "reason": i.reason.value,
                "because": i.because,
            }
            for i in cycle.plan.instances
        ],
    }


def _errors(cycle: Cycle) -> dict[str, str]:
    found = {"clearml": cycle.world.clearml.error}
    found |= {f"scaleway {zone.zone}": zone.error for zone in cycle.world.zones.values()}
    return {subject: error for subject, error in found.items() if error}


def _print(cycle: Cycle, console: Console) -> None:
    for subject, error in _errors(cycle).items():
        console.print(f"[red]{subject} gave no full answer:[/] {escape(error)}", highlight=False)
    queues = Table("Queue", "Waiting", "Busy", "Idle or booting", "Billed", "Why", title="Queues")
    for q in cycle.plan.queues:
        queues.add_row(
            escape(q.queue),
            str(q.demand),
            str(q.busy),
            str(q.capacity),
            str(q.billed),
            escape(q.because),
        )
    console.print(queues)
    if cycle.plan.instances:
        table = Table("Instance", "Queue", "State", "Why", title="Instances")
        for i in cycle.plan.instances:
            state = i.state.value.replace("_", " ")
            table.add_row(i.name, escape(i.queue), state, escape(i.because))
        console.print(table)
    if not cycle.plan.effects:
        console.print("Nothing to do.")
    for effect in cycle.plan.effects:
        verb = effect.verb.replace("_", " ")
        said = escape(f"{effect.subject}: {effect.because}")
        console.print(f"[bold]would {verb}[/] {said}", highlight=False)
