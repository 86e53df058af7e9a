"""What comes next for an instance if nothing else happens, and when: for people, not for plans."""

from dataclasses import dataclass
from datetime import datetime
from statistics import median

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import InstanceDecision, Plan
from gpu_autoscaler.domain.effects import Reason
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory, Memory
from gpu_autoscaler.policy.hands_off import kept_until
from gpu_autoscaler.policy.stop import idle_timeout

USUAL_BOOT_SECONDS = 240.0
"""Of a GPU machine with its agent, where there is no history yet: two to five minutes."""

WHILE_IDLE = (Reason.WAITING, Reason.RECENTLY_BUSY)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that will be done."""

    what: str
    """For example `powered off`."""
    at: datetime


def by_name(plan: Plan) -> dict[str, InstanceMemory]:
    """What is remembered of each instance."""
    return {known.last_seen.name: known for known in plan.memory.instances.values()}


def next_step(one: InstanceDecision, known: InstanceMemory, config: Config) -> Step | None:
    """The next thing to happen to an instance by the clock alone; None when none is due."""
    queue, since = config.queues.get(one.queue), known.state_since
    if one.hands_off:
        until = kept_until(known, config)
        return Step("no longer kept", until) if until is not None else None
    if queue is None:
        return None
    match one.state:
        case S.IDLE if one.reason in WHILE_IDLE and known.idle_since is not None:
            return Step("powered off", known.idle_since + idle_timeout(queue, known))
        case S.INITIALIZING if not known.has_registered:
            return Step("removed, unless its agent registers", since + queue.stale_timeout)
        case S.LOST if not known.claimed_at or known.claimed_at < since:
            return Step("powered off, unless its agent reports", since + queue.lost_timeout)
        case S.STOPPED if known.quarantined_at is not None:
            return Step("removed with its volumes", since + queue.quarantine_retention)
        case S.STOPPED if not known.delete_when_stopped:
            return Step("removed with its volumes", since + queue.stopped_retention)
        case _:
            return None


def typical_boot(memory: Memory, placement: str) -> tuple[float, bool]:
    """Seconds that a boot of this placement takes, and whether that is its own history."""
    own = memory.boots.get(placement)
    if own:
        return median(own), True
    others = [seconds for each in memory.boots.values() for seconds in each]
    return (median(others) if others else USUAL_BOOT_SECONDS), False
