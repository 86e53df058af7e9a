"""What a plan may ask for: plain values, each with its reason, carried out by one executor."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gpu_autoscaler.domain.model import CreateOrder, Instance, Placement, Queue, Task, Volume


class Reason(StrEnum):
    """Why something is done, or not done. A closed set: metrics and tests count by it."""

    DEMAND = "demand"
    MIN_INSTANCES = "min_instances"
    IDLE_TIMEOUT = "idle_timeout"
    ABOVE_MAX = "above_max"
    NEVER_REGISTERED = "never_registered"
    BOOT_FAILED = "boot_failed"
    LOST_WORKER = "lost_worker"
    STOPPED_IN_PLACE = "stopped_in_place"
    STOPPED_RETENTION = "stopped_retention"
    SPEC_CHANGED = "spec_changed"
    START_FELL_BACK = "start_fell_back"
    HALF_MADE = "half_made"
    ORPHAN_VOLUME = "orphan_volume"
    IDLE_ACTION_DELETE = "idle_action_delete"
    QUARANTINED = "quarantined"
    REGISTERED = "registered"
    ADOPTED = "adopted"
    KEEP_ENDED = "keep_ended"
    CAUGHT_TASK = "caught_task"
    POPPED_TASK = "popped_task"
    LOST_TASK = "lost_task"
    OPERATOR = "operator"
    # why nothing is done
    SATISFIED = "satisfied"
    NO_DEMAND = "no_demand"
    BOOTING = "booting"
    BUSY = "busy"
    RECENTLY_BUSY = "recently_busy"
    MAX_INSTANCES = "max_instances"
    FLEET_MAX_INSTANCES = "fleet_max_instances"
    FLEET_MAX_EUR = "fleet_max_eur_per_hour"
    MAX_PRICE = "max_price_per_hour"
    NO_PLACEMENT = "no_placement"
    BREAKER_OPEN = "breaker_open"
    INCOMPLETE = "incomplete_observation"
    UNCONFIRMED = "unconfirmed_observation"
    UNSEEN = "unseen"
    HANDS_OFF = "hands_off"
    OUTAGE = "outage"
    QUEUE_MISSING = "queue_missing"
    PAUSED = "paused"
    BUDGET = "budget"
    IN_FLIGHT = "in_flight"
    WAITING = "waiting"


class Guard(StrEnum):
    """What must still hold right before an instance is powered off."""

    IDLE = "idle"
    """Its agent reports, twice, no task; no task names it."""
    NEVER_REGISTERED = "never_registered"
    """No worker of its name, no task that names it."""
    SILENT = "silent"
    """Its agent does not report, no task names it."""
    QUARANTINE = "quarantine"
    """No task has run on it for more than a moment: whatever it pulls fails."""
    NONE = "none"
    """It cannot be running anything (stopped in place), or a person confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing to do, with the reason for machines and a sentence for people."""

    reason: Reason
    because: str

    @property
    def key(self) -> str:
        """Names the deed and its subject: no two effects with one key at the same time."""
        return f"{self.verb}:{self.subject_id}"

    @property
    def subject_id(self) -> str:
        """What tells the subject from every other one."""
        return self.subject

    @property
    def verb(self) -> str:
        """The deed, for example `create`."""
        return _VERBS[type(self)]

    @property
    def subject(self) -> str:
        """The instance, volume or task it is done to."""
        raise NotImplementedError

    @property
    def deadline(self) -> timedelta:
        """After this, the executor gives up on it."""
        return SHORT_DEADLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateInstance(Effect):
    """Make a new instance and power it on."""

    order: CreateOrder

    @property
    def subject(self) -> str:
        return self.order.name

    @property
    def deadline(self) -> timedelta:
        return CREATE_DEADLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class OnInstance(Effect):
    """Something done to an existing instance."""

    instance: Instance

    @property
    def subject(self) -> str:
        return self.instance.name

    @property
    def subject_id(self) -> str:
        return self.instance.id


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInstance(OnInstance):
    """Power on a stopped instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopInstance(OnInstance):
    """Power off, unless a last look shows that the guard no longer holds."""

    guard: Guard
    booted_at: datetime
    """Worker reports from before this moment are of an earlier boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteInstance(OnInstance):
    """Remove a stopped instance with its volumes."""

    @property
    def deadline(self) -> timedelta:
        return DELETE_DEADLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTags(OnInstance):
    """Add and take away tags of an instance; others, which people may have set, stay."""

    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveBootstrap(OnInstance):
    """Take the user data, with its secrets, away from a machine that has used it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVolume(Effect):
    """Remove a free volume that no instance knows."""

    volume: Volume

    @property
    def subject(self) -> str:
        return self.volume.id


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueTask(Effect):
    """Put a task back at the head of its queue."""

    task: Task

    @property
    def subject(self) -> str:
        return self.task.id


@dataclass(frozen=True, slots=True, kw_only=True)
class TagQueue(Effect):
    """Give a queue these of `PAUSE_TAGS`, and none of the others."""

    queue: Queue
    tags: frozenset[str]

    @property
    def subject(self) -> str:
        return self.queue.name

    @property
    def subject_id(self) -> str:
        return self.queue.id


_VERBS: dict[type[Effect], str] = {
    CreateInstance: "create",
    StartInstance: "start",
    StopInstance: "stop",
    DeleteInstance: "delete",
    SetTags: "tag",
    RemoveBootstrap: "remove_bootstrap",
    DeleteVolume: "delete_volume",
    RescueTask: "rescue",
    TagQueue: "tag_queue",
}


def queue_of(effect: Effect, queue_ids: Mapping[str, str]) -> str:
    """Name of the queue it is done for; empty where nothing names it. `queue_ids`: names by id."""
    match effect:
        case CreateInstance(order=order):
            return order.queue
        case OnInstance(instance=instance):
            return instance.queue
        case TagQueue(queue=queue):
            return queue.name
        case RescueTask(task=task):
            return queue_ids.get(task.queue_id, "")
        case DeleteVolume(volume=volume):
            tags = (tag.partition("=") for tag in volume.tags)
            return next((value for key, _, value in tags if key == "queue"), "")
        case _:
            return ""


def placement_of(effect: Effect) -> Placement | None:
    """Where a launch takes place; None for what launches nothing."""
    match effect:
        case CreateInstance(order=order):
            return order.placement
        case StartInstance(instance=instance):
            return instance.placement
        case _:
            return None


CREATE_DEADLINE = timedelta(minutes=3)
"""Six calls, of which the slowest took seconds when recorded, and their clean-up on failure."""
DELETE_DEADLINE = timedelta(minutes=5)
"""Server gone after 16 s and volume free after 66 s when recorded (facts, B2), with room."""
SHORT_DEADLINE = timedelta(minutes=1)
LISTING_LAG = timedelta(seconds=30)
"""For so long after a call took effect, a listing may still show the world before it."""


class Failure(StrEnum):
    """The kinds of `domain.errors`, as a value that memory can keep."""

    OUT_OF_STOCK = "out_of_stock"
    QUOTA = "quota_exceeded"
    RATE_LIMITED = "rate_limited"
    REJECTED = "rejected"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    TRANSIENT = "transient"
    GUARD = "guard"
    """Not an error: the last look showed that the effect must not happen."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an effect ended. The next plan learns from it."""

    effect: Effect
    at: datetime
    failure: Failure | None = None
    message: str = ""
    powered_on_at: datetime | None = None
    """From when on a launched machine is billed, where the cloud said so: by its clock."""

    @property
    def placement(self) -> Placement | None:
        """Where a launch was tried."""
        return placement_of(self.effect)
