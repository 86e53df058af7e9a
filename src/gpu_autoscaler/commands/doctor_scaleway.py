"""The doctor at Scaleway: each zone, and in it every placement, its price, image and volumes."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from gpu_autoscaler.commands.findings import Finding, Verdict, bad, good, note, tried
from gpu_autoscaler.config.models import Config, Machine, QueueConfig
from gpu_autoscaler.config.units import format_size
from gpu_autoscaler.domain.errors import ApiError, Forbidden, NotFound, Rejected
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.wire import ZONES, CommercialType

GPU_IMAGES = (
    "ubuntu_jammy_gpu_os_12",
    "ubuntu_noble_gpu_os_12",
    "ubuntu_noble_gpu_os_13_nvidia",
)
"""Scaleway's images for GPU types, to be named instead of one that does not fit."""
GPU_IMAGE = "_gpu_os_"
RECOMMENDED_BYTES = 125 * 10**9
"""What Scaleway's documentation advises for them."""

STOCK = {
    Availability.AVAILABLE: "in stock",
    Availability.SCARCE: "nearly out of stock",
    Availability.SHORTAGE: "out of stock now",
}

NO_SECURITY_GROUP = (
    "none is configured, so the project's default one is used, which lets everything in; make one "
    "that drops what comes in, in each zone, and name them in scaleway.security_group_ids"
)

OfQueues = dict[str, list[Finding]]
"""By the queue's name."""


@dataclass
class _Zone:
    """What a zone answered."""

    name: str
    findings: list[Finding]
    error: ApiError | None = None
    """Why its servers cannot be listed."""
    types: Mapping[str, CommercialType] = field(default_factory=dict)
    stock: Mapping[str, Availability] = field(default_factory=dict)


async def of_scaleway(config: Config, scaleway: ScalewayApi) -> tuple[list[Finding], OfQueues]:
    """What is found of Scaleway itself, and of each queue.

    When no zone answers, that is said once and nothing else is asked; a zone that does not is
    asked nothing else.
    """
    group = heading(config)
    zones = await asyncio.gather(*(_look_at(zone, group, scaleway) for zone in config.zones))
    errors = [zone.error for zone in zones if zone.error]
    if len(errors) == len(zones) and not any(isinstance(error, Forbidden) for error in errors):
        return [Finding(group, "servers", bad(f"{errors[0]} (nothing else was asked)"))], {}
    findings = [finding for zone in zones for finding in zone.findings]
    usable = {zone.name: zone for zone in zones if zone.types}
    findings += await _security_groups(config, group, usable, scaleway)
    queues = {}
    for queue in config.queues.values():
        queues[queue.name] = await _of_queue(config, queue, usable, scaleway)
    return findings, queues


def heading(config: Config) -> str:
    """Of what is said of Scaleway itself."""
    return f"Scaleway at {config.scaleway.api_url}, project {config.scaleway.project_id}"


async def _look_at(zone: str, group: str, scaleway: ScalewayApi) -> _Zone:
    view = _Zone(zone, [])

    async def read_servers() -> Verdict:
        try:
            await scaleway.instances(zone)
        except ApiError as error:
            view.error = error
            raise
        return good("can be read")

    async def read_volumes() -> Verdict:
        await scaleway.volumes(zone)
        return good("can be read")

    async def read_types() -> Verdict:
        view.types = await scaleway.types(zone)
        view.stock = await scaleway.availability(zone)
        if view.types:
            return good(f"{len(view.types)} on offer")
        return bad(f"nothing is sold there: is the zone's name right? There are {', '.join(ZONES)}")

    servers = await tried(group, f"servers in {zone}", read_servers)
    view.findings = [servers]
    if view.error is None or isinstance(view.error, Forbidden):
        view.findings.append(await tried(group, f"volumes in {zone}", read_volumes))
    if view.error is None:
        view.findings.append(await tried(group, f"types in {zone}", read_types))
    return view


async def _security_groups(
    config: Config, group: str, zones: Iterable[str], scaleway: ScalewayApi
) -> list[Finding]:
    """One finding for each zone, or one that says that none is configured."""
    groups = config.scaleway.security_group_ids
    if not groups:
        return [Finding(group, "security group", note(NO_SECURITY_GROUP))]
    probes = {
        f"security group in {zone}": partial(_of_group, zone, groups[zone], scaleway)
        for zone in zones
    }
    return [await tried(group, what, probe) for what, probe in probes.items()]


async def _of_group(zone: str, group_id: str, scaleway: ScalewayApi) -> Verdict:
    try:
        policy = await scaleway.access.inbound_policy(zone, group_id)
    except NotFound:
        return bad(
            f"{group_id} is not in this zone: a security group belongs to one zone; name one that "
            "is there in scaleway.security_group_ids"
        )
    if policy == "drop":
        return good("drops what comes in")
    return note("lets in what it does not forbid; its inbound default should be drop")


async def _of_queue(
    config: Config, queue: QueueConfig, zones: Mapping[str, _Zone], scaleway: ScalewayApi
) -> list[Finding]:
    """Of its placements in zones that answered."""
    group = f"Queue {queue.name}"
    findings = []
    for where in queue.placements:
        zone = zones.get(where.zone)
        if zone is None:
            continue
        offer = zone.types.get(where.commercial_type)
        if offer is None:
            verdict = bad(await _instead_of(where, zone.types, scaleway))
            findings.append(Finding(group, str(where), verdict))
            continue
        stock = zone.stock.get(where.commercial_type)
        verdict = _of_offer(config, queue, queue.at(where), offer, stock)
        findings.append(Finding(group, str(where), verdict))
        findings.append(await _image(group, queue.at(where).image, where, scaleway))
    return [*findings, *_volumes(group, queue)]


def _volumes(group: str, queue: QueueConfig) -> list[Finding]:
    """One for the queue's own volume, and one for each placement that has another."""
    found = {}
    for where in queue.placements:
        made = queue.at(where)
        if GPU_IMAGE in made.image and made.volume.size < RECOMMENDED_BYTES:
            size, advised = format_size(made.volume.size), format_size(RECOMMENDED_BYTES)
            said = f"{size} is tight: Scaleway advises {advised} or more for its GPU images"
            what = "root volume" if made.volume == queue.volume else f"root volume of {where}"
            found[what] = Finding(group, what, note(said))
    return list(found.values())


def _of_offer(
    config: Config,
    queue: QueueConfig,
    made: Machine,
    offer: CommercialType,
    stock: Availability | None,
) -> Verdict:
    most, price = offer.scratch_max_bytes, offer.price_eur_per_hour
    if made.scratch > most:
        allowed = f"has at most {format_size(most)} of scratch" if most else "has no scratch"
        return bad(f"{allowed}; scratch is {format_size(made.scratch)}")
    if price is None:
        bounds = {
            "max_price_per_hour": made.max_price_per_hour,
            "max_eur_per_hour": config.max_eur_per_hour,
        }
        if bound := next((name for name, value in bounds.items() if value is not None), None):
            return bad(f"Scaleway names no price: under {bound} none is launched there")
        last = ", and with select: cheapest it comes last" if queue.select == "cheapest" else ""
        return note(f"Scaleway names no price: it will be missing in all sums{last}")
    if made.max_price_per_hour is not None and price > made.max_price_per_hour:
        return bad(
            f"{price:.2f} €/h is above max_price_per_hour ({made.max_price_per_hour:.2f}): none is "
            "launched there; raise that, or leave the placement out"
        )
    told = f"{price:.2f} €/h"
    return good(f"{told}, {STOCK[stock]}" if stock else told)


async def _instead_of(
    where: Placement, types: Mapping[str, CommercialType], scaleway: ScalewayApi
) -> str:
    """What there is instead of a type that the zone lacks."""
    others = [zone for zone in ZONES if zone != where.zone]
    listed = await asyncio.gather(*(_types_or_none(zone, scaleway) for zone in others))
    there = [zone for zone, found in zip(others, listed, strict=True) if _has(found, where)]
    if there:
        return f"not offered there, but in {', '.join(there)}"
    family = where.commercial_type.split("-")[0]
    near = sorted(name for name in types if name.startswith(family))
    return f"not offered there; {where.zone} has {', '.join(near) or 'nothing like it'}"


def _has(types: Iterable[str], where: Placement) -> bool:
    return where.commercial_type in types


async def _types_or_none(zone: str, scaleway: ScalewayApi) -> Sequence[str]:
    """Only a hint hangs on it."""
    try:
        return [*await scaleway.types(zone)]
    except ApiError:
        return []


async def _image(group: str, image: str, where: Placement, scaleway: ScalewayApi) -> Finding:
    async def fits(label: str) -> bool:
        try:
            await scaleway.image_fits(label, where)
        except Rejected:
            return False
        return True

    async def probe() -> Verdict:
        try:
            await scaleway.image_fits(image, where)
        except Rejected as error:
            fitting = [label for label in GPU_IMAGES if await fits(label)]
            instead = f"; {', '.join(fitting)} would" if fitting else ""
            return bad(f"{error}{instead}")
        return good("fits")

    return await tried(group, f"image {image} for {where}", probe)
