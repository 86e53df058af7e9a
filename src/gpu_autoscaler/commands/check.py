"""`check`: is the configuration right, and, online, does everything it names exist."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.markup import escape

from gpu_autoscaler.commands.storing import conditions_hold, read_only_store
from gpu_autoscaler.commands.wiring import Services, Setup, open_services
from gpu_autoscaler.config.models import Config, QueueConfig
from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.config.units import format_size
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.domain.model import Placement


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    what: str
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return not self.error


async def check(
    setup: Setup, clock: Clock, console: Console, *, online: bool, json_only: bool
) -> int:
    """Say what is right and wrong; the exit code."""
    findings = [Finding(f"{len(setup.config.queues)} queues, no mistakes in the configuration")]
    if online:
        findings += await check_online(setup, clock)
    if json_only:
        console.file.write(as_json(findings))
    else:
        show(findings, console)
    return 0 if all(finding.good for finding in findings) else 1


async def check_online(setup: Setup, clock: Clock) -> list[Finding]:
    """Try everything the daemon will need: with reads alone, but for the probe of the bucket."""
    async with open_services(setup.config, setup.secrets, clock) as services:
        probes = [*_Probes(setup.config, services).all(), *_of_store(setup)]
        return list(await asyncio.gather(*(_try(what, probe) for what, probe in probes)))


def of_problems(error: ConfigError) -> list[Finding]:
    """What is wrong with the configuration, in the same form."""
    return [Finding("configuration", str(problem)) for problem in error.problems]


def as_json(findings: list[Finding]) -> str:
    """The findings for machines."""
    rows = [{"what": f.what, "error": f.error or None} for f in findings]
    return json.dumps({"ok": all(f.good for f in findings), "findings": rows}, indent=2) + "\n"


def show(findings: list[Finding], console: Console) -> None:
    """The findings for people."""
    for finding in findings:
        mark = "[green]ok[/]  " if finding.good else "[red]bad[/] "
        detail = f": {finding.error}" if finding.error else ""
        said = escape(f"{finding.what}{detail}")
        console.print(f"{mark} {said}", highlight=False, soft_wrap=True)


Probe = Callable[[], Awaitable[str]]
"""Returns what is wrong, or an empty text; may raise ApiError or a store's OSError."""


class _Probes:
    """The questions, one method each."""

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._clearml, self._scaleway = services.clearml, services.scaleway

    def all(self) -> list[tuple[str, Probe]]:
        """Every question with its name."""
        config = self._config
        probes: list[tuple[str, Probe]] = [
            (f"ClearML login at {config.clearml.api_host}", self._login)
        ]
        for zone in config.zones:
            probes.append((f"Scaleway servers in {zone}", partial(self._servers, zone)))
            probes.append((f"Scaleway volumes in {zone}", partial(self._volumes, zone)))
        for each in config.queues.values():
            probes.append((f"queue {each.name}", partial(self._queue, each.name)))
            for where in each.placements:
                probes.append((f"{each.name}: {where}", partial(self._placement, each, where)))
                what = f"{each.name}: image {each.image} for {where}"
                probes.append((what, partial(self._image, each.image, where)))
        return probes

    async def _login(self) -> str:
        await self._clearml.current_user()
        return ""

    async def _queue(self, name: str) -> str:
        found = await self._clearml.queues([name])
        return "" if name in found else "ClearML has no queue of this name; create it, or rename"

    async def _servers(self, zone: str) -> str:
        await self._scaleway.instances(zone)
        return ""

    async def _volumes(self, zone: str) -> str:
        await self._scaleway.volumes(zone)
        return ""

    async def _placement(self, queue: QueueConfig, where: Placement) -> str:
        types = await self._scaleway.types(where.zone)
        if offer := types.get(where.commercial_type):
            most = offer.scratch_max_bytes
            if queue.scratch <= most:
                return ""
            return f"has at most {format_size(most)} of scratch" if most else "has no scratch"
        family = where.commercial_type.split("-")[0]
        near = sorted(name for name in types if name.startswith(family))
        return f"not offered there; {where.zone} has {', '.join(near) or 'nothing like it'}"

    async def _image(self, label: str, where: Placement) -> str:
        await self._scaleway.image_fits(label, where)
        return ""


def _of_store(setup: Setup) -> list[tuple[str, Probe]]:
    settings = setup.config.store
    if settings is None:
        return []

    async def read() -> str:
        await read_only_store(setup).load()
        return ""

    async def probe() -> str:
        if await conditions_hold(setup, settings):
            return ""
        return (
            "a write that named a wrong version was not refused: two daemons could act at once; "
            "use a service that honours If-Match and If-None-Match, as Scaleway's does"
        )

    where = f"bucket {settings.bucket} at {settings.endpoint}"
    return [(f"memory in {where}", read), (f"conditional writes in {where}", probe)]


async def _try(what: str, probe: Probe) -> Finding:
    try:
        return Finding(what, await probe())
    except (ApiError, OSError) as error:
        return Finding(what, str(error) or type(error).__name__)
