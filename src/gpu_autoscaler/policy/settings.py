"""The policy's own numbers: what no operator needs to set, each with its reason."""

from collections.abc import Mapping
from datetime import timedelta

from gpu_autoscaler.domain.effects import CREATE_DEADLINE, LISTING_LAG, Failure

WORKER_FRESH = timedelta(seconds=90)
"""A worker reports every 30 s; one whose last report is younger than three of them is alive."""

WORKER_LOST = timedelta(seconds=120)
"""Silent for longer, an instance's agent is lost (four reports missed)."""

GRACE_AFTER_TASK = timedelta(minutes=2)
"""After a task, people and pipelines often send the next: no stop so soon, whatever the timeout."""

POPPED_STUCK = timedelta(minutes=3)
"""An agent starts a popped task within a second; after this its agent died in between."""

POPPED_RETURNS = 3
"""So often a task goes back that was pulled and not started: its pull may be what kills agents."""

RESCUE_WATCH = timedelta(minutes=15)
"""For so long after a power-off, its tasks are looked at: past the 600 s of a worker entry."""

CLOCK_MARGIN = timedelta(seconds=5)
"""What is left between our clock and ClearML's after the correction by its `Date` header, which
counts whole seconds. Safe: what we stop had no task for far longer."""

GOING_OFF = timedelta(seconds=110)
"""From the decision to power an instance off until its last task has ended and listings show it
off. Shorter than the grace after a task: what ended before that decision is not meant."""

HANGING_AFTER = timedelta(seconds=90)
"""A task still in progress so long after its machine was powered off runs nowhere."""

FAST_FAILURE = timedelta(minutes=1)
"""A task that failed so soon after its start has met a broken machine, or was broken itself."""

FAST_FAILURES = 3
"""In a row on one instance: a machine without a working docker ended so many in 16 s."""

ROW_WITHIN = timedelta(minutes=10)
"""From the first to the last of these ends: three of up to a minute each, with as long again to
be pulled in. What fails farther apart are a person's tries, on a machine that works."""

COMMON_FAILURES = 2
"""Of one other instance: a single one is anybody's typo, while a broken script that two instances
take turns with has failed twice on either when the third comes."""

COMMON_CAUSE = timedelta(minutes=30)
"""Fast failures of two instances so close to each other are the tasks' fault."""

RETIRED_FOR = timedelta(minutes=11)
"""A worker entry outlives its machine by 600 s."""

START_SETTLE = timedelta(seconds=60)
"""An accepted power-on shows in listings after 30 s at the latest; twice that is a fall-back."""

START_PATIENCE = timedelta(minutes=10)
"""By then Scaleway has found a node or falls back to stopped; nobody counts on it any longer."""

HALF_MADE_AFTER = CREATE_DEADLINE + LISTING_LAG
"""Older than this, nobody is making a server any more: not us before a crash, nor a second
daemon."""

OUTAGE_WINDOW = timedelta(minutes=2)
"""Workers that fall silent within this of each other have a common cause."""

OUTAGE_HOLD = timedelta(hours=1)
"""How long a common cause is believed in: it must not bill for ever."""

ZONE_PATIENCE = timedelta(hours=1)
"""For so long after memory was lost, a zone that does not answer is waited for: it may hide
all that `max_instances` allows. Most outages are over by then; the other zones must go on."""

FREE_VOLUME_SHARE = 0.5
"""Of orphan_timeout: how long a volume must be seen free before it is removed. The rest of
the timeout is for the listing interval and the removal itself."""

VOLUME_LISTING_SHARE = 0.25
"""Of orphan_timeout: how often volumes are listed."""

OUT_OF_STOCK_FIRST = timedelta(minutes=5)
OUT_OF_STOCK_MOST = timedelta(minutes=60)
TRANSIENT_FIRST = timedelta(seconds=30)
TRANSIENT_MOST = timedelta(minutes=5)
RATE_LIMITED_FIRST = timedelta(minutes=1)
RATE_LIMITED_MOST = timedelta(minutes=10)
QUOTA_PAUSE = timedelta(minutes=30)
"""A quota is raised by people; asking oftener changes nothing."""
REJECTED_FIRST = timedelta(hours=1)
"""A wrong request stays wrong until the configuration changes, which ends this pause."""
REJECTED_MOST = timedelta(hours=24)
"""It is tried again all the same: the error may have been misread, or the cause elsewhere."""
UNAUTHORIZED_PATIENCE = timedelta(minutes=2)
"""Scaleway's IAM is eventually consistent: a granted permission can be refused for a while."""
UNAUTHORIZED_PAUSE = timedelta(minutes=5)
LAUNCH_FAILING_PATIENCE = timedelta(minutes=15)
"""For so long tasks wait in vain before people are told: an empty shelf is often full again by
then."""
OBSERVATION_PATIENCE = timedelta(minutes=10)
"""The same for a service that gives no full answer: restarts and short outages are over."""
BREAKER_FAILURES = 3
"""Boots in a row whose agent never came: by then it is no accident any more."""
BREAKER_FIRST = timedelta(minutes=30)
BREAKER_MOST = timedelta(hours=4)
BREAKER_FORGOTTEN = timedelta(hours=24)
"""So long after its end, a breaker no longer counts: a day may have mended it."""
FAILED_EFFECT_PAUSE: Mapping[Failure, timedelta] = {
    Failure.TRANSIENT: START_SETTLE,  # it may have taken effect: see first
    Failure.RATE_LIMITED: timedelta(minutes=1),
    Failure.UNAUTHORIZED: timedelta(minutes=2),
    Failure.REJECTED: timedelta(minutes=10),
}
"""How long a failed stop, removal, tag or rescue is not tried again; other failures at once."""
PAUSED_AFTER = timedelta(minutes=2)
"""A cycle so long after the last one cannot tell what stood still meanwhile."""
BACKOFF_FORGOTTEN = timedelta(hours=2)
"""So long after its end, a back-off no longer counts as the previous one in a row."""
