"""`check`: is the configuration right, and, online, will everything it needs be there.

`check --boot` is in `check_boot`.
"""

import asyncio
from collections.abc import Iterable

from rich.console import Console

from gpu_autoscaler.commands.doctor_access import of_access
from gpu_autoscaler.commands.doctor_clearml import of_clearml
from gpu_autoscaler.commands.doctor_scaleway import OfQueues, of_scaleway
from gpu_autoscaler.commands.findings import (
    Finding,
    Verdict,
    all_good,
    as_json,
    bad,
    good,
    show,
    tried,
)
from gpu_autoscaler.commands.storing import conditions_hold, read_only_store
from gpu_autoscaler.commands.wiring import Services, Setup, open_agents_clearml, open_services
from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.domain.clock import Clock


async def check(
    setup: Setup, clock: Clock, console: Console, *, online: bool, json_only: bool
) -> int:
    """Say what is right and wrong; the exit code, 1 when something is bad."""
    count = len(setup.config.queues)
    queues = "1 queue" if count == 1 else f"{count} queues"
    findings = [Finding("Configuration", queues, good("no mistakes"))]
    if online:
        findings += await check_online(setup, clock)
    if json_only:
        console.file.write(as_json(findings))
    else:
        show(findings, console)
    return 0 if all_good(findings) else 1


async def check_online(setup: Setup, clock: Clock) -> list[Finding]:
    """Try everything the daemon will need, harmlessly: with reads, with changes of things that do
    not exist, and with an object beside the memory in the bucket."""
    config, secrets = setup.config, setup.secrets
    async with (
        open_services(config, secrets, clock) as services,
        open_agents_clearml(config, secrets, clock) as agents,
    ):
        (clearml, of_names), (scaleway, of_queues), store = await asyncio.gather(
            of_clearml(config, secrets, services.clearml, agents),
            _at_scaleway(setup, services, clock),
            _of_store(setup),
        )
    queues = [*_by_queue(of_names, of_queues, config.queues)]
    return [*clearml, *scaleway, *store, *queues]


async def _at_scaleway(
    setup: Setup, services: Services, clock: Clock
) -> tuple[list[Finding], OfQueues]:
    findings, queues = await of_scaleway(setup.config, services.scaleway)
    if queues:
        access = await of_access(setup.config, setup.secrets, services.scaleway, clock)
        findings = [*findings, *access]
    return findings, queues


def _by_queue(
    names: dict[str, Finding], placements: OfQueues, queues: Iterable[str]
) -> Iterable[Finding]:
    for queue in queues:
        if queue in names:
            yield names[queue]
        yield from placements.get(queue, ())


def of_problems(error: ConfigError) -> list[Finding]:
    """What is wrong with the configuration, in the same form."""
    return [Finding("Configuration", "mistake", bad(str(problem))) for problem in error.problems]


async def _of_store(setup: Setup) -> list[Finding]:
    settings = setup.config.store
    if settings is None:
        return []
    group = f"Store: bucket {settings.bucket} at {settings.endpoint}"

    async def read() -> Verdict:
        await read_only_store(setup.config, setup.secrets).load()
        return good("can be read")

    async def write() -> Verdict:
        if await conditions_hold(setup, settings):
            return good("are honoured")
        return bad(
            "a write that named a wrong version was not refused: two daemons could act at once; "
            "use a service that honours If-Match and If-None-Match, as Scaleway's does"
        )

    return [
        await tried(group, "memory", read),
        await tried(group, "conditional writes", write),
    ]
