"""`check --boot QUEUE`: one real instance, its worker, a task that prints nvidia-smi, then nothing.

It listens to a queue of its own, so it takes no real task, and carries tags of its own, so no
daemon adopts or removes it. Everything made here is named after the check; what a killed check
left behind is found by these names and tags, and offered for removal, by the next one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gpu_autoscaler.bootstrap.render import MASK, Bootstrap
from gpu_autoscaler.commands.boot_steps import PREFIX, TASK_PATIENCE, Boot
from gpu_autoscaler.commands.findings import Finding, all_good, as_json, bad, good, show
from gpu_autoscaler.commands.removing import OFF_WITHIN_SECONDS, Removal
from gpu_autoscaler.commands.wiring import Services, Setup, open_services
from gpu_autoscaler.config.models import Config, QueueConfig
from gpu_autoscaler.domain.clock import Clock, Ids
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.domain.model import CHECKED_BY_TAG, FleetTags, Instance, Volume

Confirm = Callable[[str], bool]
"""Is given a question in rich's markup."""

USUAL_SECONDS = 600.0
"""From the order to the removal: a boot with its installations, a pulled image, a power-off."""
HOUR = 3600.0


async def check_boot(
    setup: Setup,
    queue: str,
    clock: Clock,
    ids: Ids,
    console: Console,
    *,
    confirm: Confirm,
    json_to: TextIO | None = None,
) -> int:
    """The exit code: 0 when the instance did its work and nothing of it is left.

    However it ends, also by a cancellation, what was made is removed.
    """
    name = f"{PREFIX}{ids.hex(6)}"
    config = _for_the_check(setup.config, queue, name)
    fleet = FleetTags(config.fleet, CHECKED_BY_TAG)
    findings: list[Finding] = []
    output = ""
    try:
        async with open_services(config, setup.secrets, clock, fleet=fleet) as services:
            await _offer_leftovers(setup.config, services, clock, console, confirm)
            if not confirm(await _question(config.queues[name], queue, services)):
                console.print("Nothing done.")
                return 1
            boot = Boot(services, config, Bootstrap(config, setup.secrets), name, clock, console)
            findings, output = await _boot(boot, f"Boot of queue {queue}")
    except ApiError as error:
        findings.append(Finding(f"Boot of queue {queue}", "before it", bad(str(error))))
    output = _masked(output, setup, queue)
    if json_to is not None:
        json_to.write(as_json(findings, output=output))
    else:
        console.print(Text(output.rstrip("\n")))
        show(findings, console)
    return 0 if all_good(findings) else 1


async def _boot(boot: Boot, group: str) -> tuple[list[Finding], str]:
    """Whatever happens, also a cancellation, what was made is removed."""
    findings, output = [], ""
    try:
        output = await boot.run()
        findings.append(Finding(group, boot.step, good("nvidia-smi printed what is above")))
    except ApiError as error:
        output = boot.output
        findings.append(Finding(group, boot.step, bad(str(error))))
    finally:
        left = await boot.remove()
    if left:
        said = f"{'; '.join(left)}: the next check --boot offers to remove it"
        findings.append(Finding(group, "removal", bad(said)))
    else:
        findings.append(Finding(group, "removal", good("nothing of it is left")))
    return findings, output


def _masked(output: str, setup: Setup, queue: str) -> str:
    """A task's console may repeat the settings of its agent."""
    hidden = {*setup.secrets.values(), *setup.config.queues[queue].agent.secret_values}
    for secret in sorted(hidden, key=len, reverse=True):
        output = output.replace(secret, MASK)
    return output


def _for_the_check(config: Config, queue: str, name: str) -> Config:
    """The queue's own settings under another name: its worker listens to the check's queue."""
    settings = config.queues[queue].model_copy(update={"name": name})
    return config.model_copy(update={"queues": {name: settings}})


async def _question(settings: QueueConfig, queue: str, services: Services) -> str:
    """What is about to be bought. Raises ApiError when a zone does not say its prices."""
    lines = [f"Boot one instance as queue {escape(queue)} would, run nvidia-smi there, remove it:"]
    dearest: float | None = 0.0
    for where in settings.placements:
        price = (await services.scaleway.prices(where.zone)).get(where.commercial_type)
        dearest = None if price is None or dearest is None else max(dearest, price)
        lead = "  " if len(lines) == 1 else "  or, when that is out of stock, "
        said = "whose price Scaleway does not name" if price is None else f"{price:.2f} €/h"
        lines.append(f"{lead}{where}, {said}")
    if dearest is not None:
        most = settings.stale_timeout.total_seconds() + TASK_PATIENCE + OFF_WITHIN_SECONDS
        usual, worst = dearest * USUAL_SECONDS / HOUR, dearest * most / HOUR
        lines.append(
            f"About {usual:.2f} € for {USUAL_SECONDS / 60:.0f} minutes, at most {worst:.2f} € for "
            f"{most / 60:.0f}; {dearest:.2f} € if a whole hour is the least that is billed."
        )
    lines.append("It takes no task of yours, and counts in no max_instances.")
    return "\n".join(lines)


# --- what an earlier check left behind


@dataclass(frozen=True, slots=True)
class _Leftovers:
    instances: list[Instance]
    volumes: list[Volume]
    queues: dict[str, str]

    def lines(self) -> list[str]:
        def since(moment: datetime) -> str:
            return f"since {moment:%Y-%m-%d %H:%M} UTC"

        free = [volume for volume in self.volumes if volume.attached_to is None]
        return [
            *(f"  instance {i.name} in {i.zone}, {since(i.created_at)}" for i in self.instances),
            *(f"  volume {escape(v.name)} in {v.zone}, {since(v.created_at)}" for v in free),
            *(f"  queue {name} at ClearML" for name in self.queues),
        ]


async def _offer_leftovers(
    config: Config, services: Services, clock: Clock, console: Console, confirm: Confirm
) -> None:
    """Ask about what a killed check left, in every zone of the configuration."""
    found = _Leftovers([], [], dict(await services.clearml.checks.queues_called(PREFIX)))
    for zone in config.zones:
        found.instances.extend(await services.scaleway.instances(zone))
        found.volumes.extend(await services.scaleway.volumes(zone))
    lines = found.lines()
    if not lines:
        return
    head = "An earlier check left this behind, unless one runs at this moment. Remove it?"
    if not confirm("\n".join([head, *lines])):
        return
    removal = Removal(services.scaleway, clock, console)
    await removal.remove(found.instances, config.zones)
    for task in await services.clearml.open_tasks(list(found.queues.values())):
        await services.clearml.checks.delete_task(task.id)
    for name, queue_id in found.queues.items():
        await services.clearml.checks.delete_queue(queue_id)
        console.print(f"queue {name}: removed")
