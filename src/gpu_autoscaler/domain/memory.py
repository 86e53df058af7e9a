"""The state map: what the daemon must remember from one cycle to the next.

Everything that is true of the world is read from the world. Memory keeps only what the world
does not tell: since when something is so, what was tried, and what is under way. Losing it costs
time, never a task and never a second machine.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.episodes import Episode
from gpu_autoscaler.domain.ledger import Stretch
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.model import Instance, Placement, TaskStatus

SCHEMA_VERSION = 2
"""Of the stored form; raised when an older daemon could not read it."""


@dataclass(frozen=True, slots=True)
class InstanceMemory:
    """What is remembered of one instance."""

    last_seen: Instance
    """As last listed: stands in while its zone does not answer."""
    state: InstanceState
    state_since: datetime
    booted_at: datetime
    """When its present (or last) boot began; worker reports from before are not its."""
    last_report_at: datetime | None = None
    """The newest worker report of this boot; None until its agent reported."""
    idle_since: datetime | None = None
    """End of its last task, or its first report when it had none; None while not idle."""
    first_idle_report_at: datetime | None = None
    """The first worker report without a task after the last one with."""
    claimed_at: datetime | None = None
    """When anything in ClearML last placed a task on it: the beginning of that look."""
    has_registered: bool = False
    """Its agent has reported in an earlier boot."""
    last_task_status: TaskStatus | None = None
    """How the last task ended, once known."""
    start_accepted_at: datetime | None = None
    """A power-on of ours was accepted then, and it has not been seen running since."""
    stop_decided_at: datetime | None = None
    """We decided to power it off then; cleared when a power-on is accepted."""
    delete_when_stopped: bool = False
    keep_seen_at: datetime | None = None
    """When a bare `keep` tag was first seen: it ends by itself."""
    boot_report: str = ""
    """What it last said of its present boot."""
    bootstrap_removed: bool = False
    """Its user data, which holds secrets, is gone from Scaleway."""
    boot_failed: bool = False
    """Its agent did not come in this boot, and the breaker of its placement knows."""
    fast_failures: tuple[datetime, ...] = ()
    """When tasks ended that failed at once, in a row: the first one, and the last three. By
    ClearML's clock: these moments must stay the same when ours is set."""
    failed_tasks: tuple[str, ...] = ()
    """Their ids, in the same order."""
    failures_from: datetime | None = None
    """What ended on it up to then, by ClearML's clock, counts no more: its last task that did not
    fail at once, its release, or our first sight of it."""
    quarantined_at: datetime | None = None
    """It is a black hole since then; None when it is none."""
    quarantine_tagged: bool = False
    """Its tag has been seen: when that is gone, somebody released it."""
    untagged_at: datetime | None = None
    """When a listing first lacked its tag since then: that one may be older than the tag."""
    volume_eur_per_hour: float = 0.0
    """Of its volume, as it was made."""
    stretch: Stretch | None = None
    """What the ledger gets of it next; its `until` is not kept up while it lasts."""
    past: tuple[tuple[InstanceState, datetime], ...] = ()
    """Its states before the present one with their beginnings, oldest first."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An effect under way: stored before it is acted on, and counted until it is over."""

    key: str
    """Of the effect."""
    name: str
    """The instance, volume or task it is done to."""
    decided_at: datetime
    expires_at: datetime
    """Its deadline plus the listing lag: after this it has either happened or it will not."""
    queue: str = ""
    placement: Placement | None = None
    done: bool = False
    """Accepted, but not yet visible in a listing."""
    failed: bool = False
    """It failed; until it expires the same is not tried again."""
    doubtful: bool = False
    """A launch whose call got no clear answer: counted until a listing would show it."""
    missed: bool = False
    """A launch whose time is over, and that one listing did not show."""
    effective_at: datetime | None = None
    """Once it is done: from when on a launched machine is billed, or when it ended."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A placement that is not tried before `until`."""

    placement: Placement
    failure: Failure
    failures: int
    """In a row."""
    failed_at: datetime
    """The last time: an instance that boots there later shows that the row is over."""
    until: datetime
    message: str
    spec: str = ""
    """Of a rejected request: it holds for this spec alone, so a changed configuration ends it."""
    shortage_seen: bool = False
    """The availability probe said `shortage` meanwhile: a change to available then ends it."""
    ended_early: bool = False
    """Such a change has ended it."""
    misled: bool = False
    """It began with the launch after such a change: no other one ends it."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """A placement where machines of one spec boot in vain, one after the other."""

    placement: Placement
    spec: str
    failures: int
    """In a row."""
    failed_at: datetime
    """The last time."""
    until: datetime
    """Nothing is launched there before; afterwards one at a time, until one registers."""
    openings: int = 0
    """How often it opened: each time for longer."""
    last_report: str = ""
    """What the last of these machines said of its boot."""


@dataclass(frozen=True, slots=True)
class PowerOff:
    """An instance that we powered off, or that went off by itself, watched for its tasks.

    Its times are ClearML's, as those of the tasks are: our clock may be set meanwhile.
    """

    queue: str
    decided_at: datetime
    """When we decided it, or noticed it."""
    known_ended: tuple[str, ...] = ()
    """Tasks that had ended on it before, and were not queued since: what people change about
    them later is no catch. And tasks that somebody asked to stop."""
    ours: bool = True
    """We decided it; otherwise it died, and its queue has `on_lost: requeue`."""
    at_work_at: datetime | None = None
    """It may have been at work until then: a task that hangs on it was caught, however old."""
    accepted: bool = False
    """Scaleway took our power-off: what ended then was caught, also if it was started again."""

    @property
    def since(self) -> datetime:
        """What ended on it before then ended for its own reasons."""
        return self.decided_at if self.ours else self.at_work_at or self.decided_at


@dataclass(frozen=True, slots=True)
class Requeue:
    """A task put back because its instance died, or its agent did."""

    count: int
    """How often."""
    at: datetime
    """The last time."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue for which nothing is launched, and from which no agent pulls."""

    since: datetime
    ending: bool = False
    """Somebody resumed it; its tag is about to go."""
    tagged: bool = False
    """Its tag has been seen: when that is gone, somebody resumed it at ClearML."""
    asked: bool = True
    """A person wants it, and not only a budget."""
    budget: str = ""
    """Why a budget holds it, and until when; empty when none does."""


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the decision log: something that was done, failed, or was asked for."""

    at: datetime
    subject: str
    queue: str
    verb: str
    reason: str
    because: str


@dataclass(frozen=True, slots=True)
class Account:
    """What this month has cost so far."""

    month: str
    """For example 2026-11, UTC."""
    since: datetime
    """When counting began in it."""
    eur: float = 0.0
    peak_eur_per_hour: float = 0.0
    """Of machines at work at once: what always-on machines would cost."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything kept between two cycles; immutable, replaced by each plan."""

    version: int = SCHEMA_VERSION
    instances: dict[str, InstanceMemory] = field(default_factory=dict)
    """By server id."""
    pending: dict[str, Pending] = field(default_factory=dict)
    """By effect key."""
    backoffs: tuple[Backoff, ...] = ()
    breakers: tuple[Breaker, ...] = ()
    power_offs: dict[str, PowerOff] = field(default_factory=dict)
    """By instance name."""
    rescued: dict[str, datetime] = field(default_factory=dict)
    """Tasks put back because a power-off caught them, by id and when: never twice."""
    requeued: dict[str, Requeue] = field(default_factory=dict)
    """Tasks put back because their instance died, by id."""
    popped_back: dict[str, Requeue] = field(default_factory=dict)
    """Tasks put back because the agent that pulled them did not start them, by id."""
    waited: tuple[str, ...] = ()
    """Queues in which tasks waited at the last look."""
    popped: dict[str, datetime] = field(default_factory=dict)
    """Tasks seen queued but in no queue, by id, with the time of the first sight."""
    free_volumes: dict[str, datetime] = field(default_factory=dict)
    """Volumes of ours that no server holds, by id, with the time of the first sight."""
    retired: dict[str, datetime] = field(default_factory=dict)
    """Names of instances that are gone: their worker entries outlive them by ten minutes."""
    planned_at: datetime | None = None
    """When the plan was made that left this memory."""
    skew: timedelta = timedelta(0)
    """How far ClearML's clock was ahead of the one that these moments are by."""
    clearml_since: datetime | None = None
    """Since when every cycle had ClearML's full answer; None while it is missing."""
    queue_ids: dict[str, str] = field(default_factory=dict)
    """Names of the fleet's queues by ClearML's ids, also of those that are gone or were made
    again: their tasks may still run."""
    volumes_listed_at: datetime | None = None
    unauthorized_since: datetime | None = None
    begun_at: datetime | None = None
    """When this daemon, or its memory, began: what was done before, no listing may show yet."""
    forgot_at: datetime | None = None
    """When a daemon found no memory at all: what was powered off before, it may have been by us."""
    unconfirmed_need: dict[str, int] | None = None
    """After memory was lost: per queue, what the last complete observation asked for (-1: there
    was none yet; -2: two agreed), until two agree for all; None when nothing is left to confirm."""
    pauses: dict[str, Pause] = field(default_factory=dict)
    """By queue name."""
    said: tuple[Said, ...] = ()
    """The last decisions, oldest first."""
    boots: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By placement, as text: the seconds that its last boots took, newest last."""
    account: Account | None = None
    """None until prices are known."""
    unbooked: tuple[Stretch, ...] = ()
    """Stretches that ended and that the ledger may lack."""
    untold: dict[str, datetime] = field(default_factory=dict)
    """Tasks that left their machines and that the ledger may lack, by id, with the moment."""
    booked_until: dict[str, datetime] = field(default_factory=dict)
    """After memory was lost: up to when the ledger knows an instance, by server id."""
    spent: dict[str, dict[str, float]] = field(default_factory=dict)
    """Euros of the stretches that ended, by day (ISO, UTC) and queue."""
    weekly_told: date | None = None
    """The day (UTC) up to which the weekly report has been told, or need not be; None: none is
    wanted."""
    zones: tuple[str, ...] = ()
    """Every zone that has not been seen empty, of servers and of volumes, since something of ours
    was there."""
    troubles: dict[str, datetime] = field(default_factory=dict)
    """Since when something is wrong that becomes an episode if it lasts, by kind and subject."""
    episodes: tuple[Episode, ...] = ()
    """What stands."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store gave when it was asked for the memory."""

    memory: Memory | None
    """The newest one; None when there is none (or none readable)."""
    ours: bool = True
    """This daemon may act: the lease (or the lock) is its own."""
    holder: str = ""
    """Who holds the lease otherwise, for people."""
