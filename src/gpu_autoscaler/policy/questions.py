"""What else this cycle should ask, beyond its fixed reads: only what matters to a decision."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.lifecycle import BILLED, BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Memory
from gpu_autoscaler.domain.model import (
    REGISTERED_TAG,
    Instance,
    Queue,
    ServerState,
    Task,
    Worker,
)
from gpu_autoscaler.policy.guard import claimed_machines
from gpu_autoscaler.policy.settings import CLOCK_MARGIN, PAUSED_AFTER, VOLUME_LISTING_SHARE

_MEMORYLESS_LOOK_BACK = timedelta(hours=2)
"""At least so far back the last task of each worker is looked for when memory was lost."""
_OUTAGE_LOOK_BACK = timedelta(hours=2)
"""So far back tasks are looked for that ended while ClearML did not answer."""

_ROW_LOOK_BACK = timedelta(hours=2)
"""So far back tasks are looked for that nobody saw end, and that broke a row of failures."""


def ended_tasks_since(
    memory: Memory,
    config: Config,
    workers: Sequence[Worker],
    open_tasks: Sequence[Task],
    now: datetime,
    *,
    lost_memory: bool,
    skew: timedelta = timedelta(0),
) -> datetime | None:
    """From when on ended tasks are wanted; None when none matter in this cycle.

    All in our time; `skew` is how far ClearML's clock is ahead of it.

    They matter when memory was lost (idle clocks), when a task just ended (how it ended), when an
    idle instance is about to be stopped (a task too short to be seen), after a power-off (a task
    that it caught), and while tasks wait for an instance (one that fails all of them at once looks
    idle, or at work, in every cycle). And once after a time in which nobody looked, or ClearML did
    not answer: what ended meanwhile says since when machines idle.
    """
    claimed = claimed_machines(workers, open_tasks)
    silent = {m.last_seen.name for m in memory.instances.values() if m.state is S.LOST}
    at_work = silent & claimed  # a task of a silent instance is awaited until ClearML ends it
    moments = [off.since - skew for name, off in memory.power_offs.items() if name not in at_work]
    if lost_memory or memory.unconfirmed_need is not None:
        timeouts = [queue.idle_timeout for queue in config.queues.values()]
        moments.append(now - max([_MEMORYLESS_LOOK_BACK, *timeouts]))
    elif memory.instances and memory.planned_at is not None:
        if memory.clearml_since is None:
            moments.append(memory.planned_at - _OUTAGE_LOOK_BACK)
        elif now - memory.planned_at > PAUSED_AFTER:
            moments.append(memory.planned_at)
    for known in memory.instances.values():
        moments += _moments_of(known, memory, config, claimed, now)
    up = [m for m in memory.instances.values() if m.state in (S.IDLE, S.RUNNING_TASK)]
    rows = [at - skew for known in up for at in known.fast_failures[:1]]
    if moments and rows:
        moments.append(max(min(rows), now - _ROW_LOOK_BACK))
    return min(moments) - CLOCK_MARGIN if moments else None


def _moments_of(
    known: InstanceMemory, memory: Memory, config: Config, claimed: Collection[str], now: datetime
) -> list[datetime]:
    """From when on it matters what ended on one instance."""
    if known.state not in (S.IDLE, S.RUNNING_TASK):
        return []
    moments: list[datetime] = []
    if known.last_seen.queue in memory.waited:
        moments.append(memory.planned_at or now)
    if known.state is S.RUNNING_TASK and known.last_seen.name not in claimed:
        moments.append(memory.planned_at or now)
    if known.state is S.IDLE and known.idle_since is not None:
        queue = config.queues.get(known.last_seen.queue)
        early = queue and (queue.idle_timeout_after_success or queue.idle_timeout)
        if now - known.idle_since >= (early or timedelta(0)):
            moments.append(known.idle_since)
    return moments


def queue_names(memory: Memory, config: Config) -> list[str]:
    """Every queue to read: the configured ones, those that instances of ours still serve, and
    those that a budget has held."""
    served = {known.last_seen.queue for known in memory.instances.values()}
    served |= {off.queue for off in memory.power_offs.values()}
    served |= memory.pauses.keys()
    return [*config.queues, *sorted(served - set(config.queues) - {""})]


def zones(memory: Memory, config: Config) -> tuple[str, ...]:
    """Every zone to list: where instances may be created, and where some are left."""
    return tuple(sorted({*config.zones, *memory.zones}))


def volumes_wanted(memory: Memory, config: Config, now: datetime) -> bool:
    """Whether volumes are listed in this cycle."""
    listed_at = memory.volumes_listed_at
    return listed_at is None or now - listed_at >= config.orphan_timeout * VOLUME_LISTING_SHARE


def silent_boots(memory: Memory, instances: Sequence[Instance]) -> list[Instance]:
    """Machines that run and whose agent has not come: they may say how far their boot is."""
    return [
        one
        for one in instances
        if one.state is ServerState.RUNNING and _boots(memory.instances.get(one.id), one)
    ]


def _boots(known: InstanceMemory | None, instance: Instance) -> bool:
    if known is None:  # or every machine would be asked when memory was lost
        return REGISTERED_TAG not in instance.tags
    return known.last_report_at is None


def availability_zones(memory: Memory, config: Config, queues: Sequence[Queue]) -> frozenset[str]:
    """Zones whose stock matters: a task waits for a placement there that is out of stock, or a
    launch is due that may go to one of several.

    Whether one is due is as the last plan tells: enough for what is advice. A placement out of
    stock is asked about also while something boots: what ends silently in `stopped` begins a
    back-off, and a change of stock right after it must be seen as one.
    """
    waiting = [q for q in queues if q.entries and q.name in config.queues]
    if not waiting:
        return frozenset()
    out = {b.placement for b in memory.backoffs if b.failure is Failure.OUT_OF_STOCK}
    coming, billed = _counts(memory)
    found: set[str] = set()
    for queue in waiting:
        settings = config.queues[queue.name]
        places = settings.placements
        due = len(queue.entries) > coming[queue.name] and queue.name not in memory.pauses
        allowed = billed[queue.name] < settings.max_instances
        choosing = due and allowed and len(places) > 1
        found |= {place.zone for place in places if choosing or place in out}
    return frozenset(found)


def _counts(memory: Memory) -> tuple[Counter[str], Counter[str]]:
    """By queue: machines that come for its tasks, and those that are paid for."""
    coming, billed = Counter[str](), Counter[str]()
    names = set()
    for known in memory.instances.values():
        names.add(known.last_seen.name)
        queue = known.last_seen.queue
        coming[queue] += known.state in BOOTING or known.state is S.IDLE
        billed[queue] += known.state in BILLED
    for each in memory.pending.values():
        if each.key.startswith("create:") and each.name not in names and not each.failed:
            coming[each.queue] += 1
            billed[each.queue] += 1
    return coming, billed
