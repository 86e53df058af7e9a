"""What the ledger holds, put right: each moment of a server once, and tasks as ClearML timed them.

The daemon sees a task begin and end at its next look, so a stretch is precise to a cycle. ClearML
knows both to the second, afterwards.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

from gpu_autoscaler.domain.ledger import Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S

AGREE = timedelta(minutes=2)
"""When a task's beginning or end, as the daemon saw it and as ClearML has it, are one event: it
looks every 30 seconds, a look may fail, and the two clocks differ by a little."""

Ended = Mapping[tuple[str, str], Sequence[TaskRecord]]
"""By task and instance."""


def untangled(stretches: Iterable[Stretch]) -> list[Stretch]:
    """By server and in order, no moment of a server in two of them.

    A stretch told twice counts as the longer one, or as told last; of two that overlap, as when
    memory was lost or the clock was set back, the later one begins where the earlier one ends.
    """
    told: dict[tuple[str, datetime], Stretch] = {}
    for each in stretches:
        known = told.get(each.key)
        if known is None or _extent(known) <= _extent(each):
            told[each.key] = each
    found: list[Stretch] = []
    for each in sorted(told.values(), key=lambda s: (s.server_id, s.since)):
        before = found[-1] if found else None
        if before is None or before.server_id != each.server_id or before.until <= each.since:
            found.append(each)
        elif before.until < each.until:
            found.append(replace(each, since=before.until))
    return found


def _extent(stretch: Stretch) -> tuple[datetime, float]:
    return stretch.until, stretch.rounding_seconds


def newest(tasks: Iterable[TaskRecord]) -> list[TaskRecord]:
    """Each end of each task once, as told last."""
    return list({each.key: each for each in tasks}.values())


def by_run(tasks: Iterable[TaskRecord]) -> Ended:
    """The ends of tasks by where they ran."""
    found = defaultdict(list)
    for each in tasks:
        found[each.id, each.instance].append(each)
    return found


def sharpen(stretches: Sequence[Stretch], ended: Ended) -> list[Stretch]:
    """`untangled` stretches, with tasks beginning and ending when ClearML says.

    Only the boundary between two stretches moves that follow each other in one power-on at one
    price: no server's total changes, in time or in money.
    """
    found = list(stretches)
    for n, (_, after) in enumerate(pairwise(stretches)):
        before = found[n]
        moment = _exact(before, after, ended) if _share_a_boundary(before, after) else None
        if moment is not None:
            moment = max(before.since, min(moment, after.until))
            found[n], found[n + 1] = replace(before, until=moment), replace(after, since=moment)
    return found


def _share_a_boundary(before: Stretch, after: Stretch) -> bool:
    return (
        before.server_id == after.server_id
        and before.until == after.since
        and before.powered_on_at is not None
        and before.powered_on_at == after.powered_on_at
        and before.eur_per_hour == after.eur_per_hour
        and before.storage_eur_per_hour == after.storage_eur_per_hour
        and not before.rounding_seconds
    )


def _exact(before: Stretch, after: Stretch, ended: Ended) -> datetime | None:
    """When what divides them happened; None when that is not known."""
    if before.tasks.keys() & after.tasks.keys():
        return None  # midnight: it goes on
    starts = [
        record.started_at
        for record in _of(after, ended)
        if record.started_at and abs(record.started_at - after.since) <= AGREE
    ]
    if starts:
        return min(starts)
    ends = [
        record.ended_at
        for record in _of(before, ended)
        if abs(record.ended_at - before.until) <= AGREE
    ]
    return max(ends, default=None)


def _of(stretch: Stretch, ended: Ended) -> list[TaskRecord]:
    if stretch.state is not S.RUNNING_TASK:
        return []
    return [each for task in stretch.tasks for each in ended.get((task, stretch.instance), ())]
