"""The doctor on Scaleway's key: what it may do, how long it lasts, quotas, and the clock."""

import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta

from gpu_autoscaler.commands.doctor_scaleway import heading
from gpu_autoscaler.commands.findings import Finding, Verdict, bad, good, note, tried
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import Forbidden, NotFound
from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.scaleway.access import Right
from gpu_autoscaler.scaleway.api import ScalewayApi

EXPIRY_WARNING = timedelta(days=14)
LARGE_SKEW = timedelta(seconds=5)
HARMFUL_SKEW = timedelta(seconds=60)
"""Ages of machines are told by Scaleway's moments and this clock, uncorrected: a minute is a tenth
of the default stale_timeout. From 15 minutes on object storage refuses every request."""
ASK_FOR_MORE = "ask for more in the console (Organization, Quotas)"


async def of_access(
    config: Config, secrets: Secrets, scaleway: ScalewayApi, clock: Clock
) -> list[Finding]:
    """Asks for the first placement's zone: permissions hold for a project, wherever it is."""
    group = heading(config)
    placements = {p: None for q in config.queues.values() for p in q.placements}
    first = next(iter(placements))

    async def lifetime() -> Verdict:
        return await _lifetime(config, secrets, scaleway, clock)

    async def quotas() -> Verdict:
        try:
            limits = await scaleway.access.limits(list(placements))
        except Forbidden:
            return note(
                "could not be read, for which the key needs OrganizationReadOnly on the "
                "organization; see the console (Organization, Quotas)"
            )
        return _of_limits(config, limits)

    return [
        *await _rights(group, scaleway, first),
        await tried(group, "the key's lifetime", lifetime),
        await tried(group, "quotas", quotas),
        Finding(group, "clock", _of_clock(scaleway.skew)),
    ]


async def _rights(group: str, scaleway: ScalewayApi, where: Placement) -> list[Finding]:
    """One finding for each permission set."""
    refused: Mapping[Right, bool | None] = {}

    async def ask() -> Verdict:
        nonlocal refused
        refused = await scaleway.access.refused(where)
        return good("")

    asked = await tried(group, "permissions", ask)
    if not refused:
        return [asked]
    by_set: dict[str, dict[str, bool | None]] = defaultdict(dict)
    for right, is_refused in refused.items():
        by_set[right.needs][right.doing] = is_refused
    return [Finding(group, needs, _of_set(needs, doings)) for needs, doings in by_set.items()]


def _of_set(needs: str, doings: Mapping[str, bool | None]) -> Verdict:
    missing = [doing for doing, is_refused in doings.items() if is_refused]
    untold = [doing for doing, is_refused in doings.items() if is_refused is None]
    if missing:
        return bad(
            f"may not {', '.join(missing)}: give the key's IAM application {needs} on the project "
            "(a fresh permission takes some minutes)"
        )
    if untold:
        return note(
            f"whether it may {', '.join(untold)} cannot be told without doing it; check --boot does"
        )
    return good(f"may {', '.join(doings)}, as far as can be told without doing it")


async def _lifetime(
    config: Config, secrets: Secrets, scaleway: ScalewayApi, clock: Clock
) -> Verdict:
    try:
        key = await scaleway.access.key(secrets.scaleway_access_key)
    except Forbidden:
        return note(
            "could not be read, for which the key needs IAMReadOnly on the organization; see the "
            "console (IAM, API keys)"
        )
    except NotFound:
        return bad(
            "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY is no key that IAM knows: take both halves from "
            "the same key"
        )
    if key.expires_at is not None and key.expires_at - clock.now() <= EXPIRY_WARNING:
        return note(
            f"expires on {_day(key.expires_at)}: make a new one and restart the daemon with it, "
            "or from then on machines run on and nobody stops them"
        )
    project = config.scaleway.project_id
    if config.store and key.default_project_id not in ("", project):
        return note(
            f"its preferred project is {key.default_project_id}: buckets are looked for there, "
            f"not in {project}; make a key that prefers the bucket's project"
        )
    return good(f"expires on {_day(key.expires_at)}" if key.expires_at else "does not expire")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _of_limits(config: Config, limits: Mapping[Placement, float]) -> Verdict:
    """Against the most instances that the queues may have in each placement, stopped ones too."""
    wanted: dict[Placement, int] = defaultdict(int)
    for queue in config.queues.values():
        for where in queue.placements:
            wanted[where] += queue.most_instances
    if config.max_instances is not None:
        wanted = {where: min(most, config.max_instances) for where, most in wanted.items()}
    none = [str(where) for where, most in wanted.items() if most and limits.get(where) == 0]
    if none:
        return bad(f"no {', no '.join(none)} is allowed at all: {ASK_FOR_MORE}")
    short = [
        f"{limits[where]:g} {where} of {most}"
        for where, most in wanted.items()
        if limits.get(where, math.inf) < most
    ]
    if short:
        return note(f"allow only {'; '.join(short)} that max_instances allow: {ASK_FOR_MORE}")
    unnamed = [str(where) for where in wanted if where not in limits]
    if unnamed:
        return note(f"Scaleway names none for {', '.join(unnamed)}; the others are enough")
    return good("enough for every max_instances")


def _of_clock(skew: timedelta | None) -> Verdict:
    if skew is None:
        return note("Scaleway did not say what time it is")
    if abs(skew) <= LARGE_SKEW:
        return good("as ours, to a few seconds")
    seconds = round(skew.total_seconds())
    said = (
        f"Scaleway's is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} this machine's, "
        "by which the age of machines is told; set this one by NTP"
    )
    return bad(said) if abs(skew) > HARMFUL_SKEW else note(said)
