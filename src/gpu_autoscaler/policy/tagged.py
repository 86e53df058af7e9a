"""The tag `quarantined` is a person's word: put on, it quarantines; taken off, it releases."""

from dataclasses import replace
from datetime import datetime

from gpu_autoscaler.domain.effects import LISTING_LAG
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import QUARANTINED_TAG, Instance


def tagged(
    known: InstanceMemory, listed: Instance, now: datetime, clearml_now: datetime
) -> InstanceMemory:
    """What is known of an instance after this listing of it, at this moment on both clocks."""
    if QUARANTINED_TAG in listed.tags:
        if known.quarantine_tagged and known.untagged_at is None:
            return known
        since = known.quarantined_at or now
        return replace(known, quarantine_tagged=True, quarantined_at=since, untagged_at=None)
    if not known.quarantine_tagged:
        return known
    if known.untagged_at is None:
        return replace(known, untagged_at=now)  # this listing may be older than the tag
    if now - known.untagged_at < LISTING_LAG:
        return known
    return replace(
        known,
        quarantine_tagged=False,
        untagged_at=None,
        quarantined_at=None,
        fast_failures=(),
        failed_tasks=(),
        failures_from=clearml_now,
        delete_when_stopped=False,
        state_since=now,  # it has its whole time again, stopped or not
    )
