"""What the two APIs know, as plain values: the world is made of these and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

MANAGED_BY_TAG = "managed-by=gpu-autoscaler"
CHECKED_BY_TAG = "managed-by=gpu-autoscaler-check"
"""On what `check --boot` makes, instead: no daemon takes it for its own."""
PROVISIONING_TAG = "phase=provisioning"
REGISTERED_TAG = "registered"
QUARANTINED_TAG = "quarantined"
"""On a black hole, so that it survives a loss of memory; a person releases it by removing this."""
PAUSE_TAG = "force_workers:off"
"""On a ClearML queue: no agent pulls from it, from its next poll on."""
BUDGET_TAG = "budget-used-up"
"""Beside it where nobody asked for the pause: it ends by itself, also if memory is lost."""
PAUSE_TAGS = frozenset({PAUSE_TAG, BUDGET_TAG})
BOOT_REPORT_KEY = "gpu-autoscaler-boot"
"""Of the user data in which a booting machine says how far it is, one line: a step, `ready`, or
what `BOOT_FAILED` begins. It needs no credentials for that (cloud-init/README.md)."""
BOOT_FAILED = "failed: "
BOOT_REPORT_LENGTH = 200
"""Characters that are read of it: root on the machine may write anything there."""
KEEP_TAG = "keep"
"""`keep` alone, or `keep=<UTC time>`: hands off until then (set by a person or by the API)."""


@dataclass(frozen=True, slots=True, order=True)
class Placement:
    """Where an instance may be created: a commercial type in a zone."""

    commercial_type: str
    zone: str

    def __str__(self) -> str:
        return f"{self.commercial_type} in {self.zone}"


class ServerState(StrEnum):
    """A Scaleway server's state as the API really spells it ("stopped in place", with spaces)."""

    RUNNING = "running"
    STOPPED = "stopped"
    STOPPED_IN_PLACE = "stopped in place"
    STARTING = "starting"
    STOPPING = "stopping"
    LOCKED = "locked"
    UNKNOWN = "unknown"
    """A word the API has added since: treated as billed and hands-off."""


class VolumeKind(StrEnum):
    """Which API a volume lives in, and whether it outlives its server."""

    BLOCK = "sbs_volume"
    LOCAL = "l_ssd"
    SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """A volume as a server names it."""

    id: str
    kind: VolumeKind


@dataclass(frozen=True, slots=True)
class Instance:
    """One listed Scaleway server that carries the fleet's tags."""

    id: str
    name: str
    """Also the host name and the ClearML worker id."""
    zone: str
    commercial_type: str
    state: ServerState
    created_at: datetime
    modified_at: datetime
    tags: frozenset[str] = frozenset()
    volumes: tuple[VolumeRef, ...] = ()
    protected: bool = False
    state_detail: str = ""

    @property
    def placement(self) -> Placement:
        """Where it stands."""
        return Placement(self.commercial_type, self.zone)

    @property
    def queue(self) -> str:
        """The queue it serves, from its tags; empty when the tag is missing."""
        return self.tag("queue") or ""

    @property
    def spec(self) -> str:
        """Hash of the bootstrap it was created with, from its tags."""
        return self.tag("spec") or ""

    @property
    def kept(self) -> bool:
        """Somebody put the tag `keep` on it; whether its time is over is another question."""
        return KEEP_TAG in self.tags or self.tag(KEEP_TAG) is not None

    def tag(self, key: str) -> str | None:
        """Value of the tag `key=value`, or None."""
        prefix = f"{key}="
        for tag in self.tags:  # asked some twenty times per instance and cycle: no generator
            if tag.startswith(prefix):
                return tag[len(prefix) :]
        return None


@dataclass(frozen=True, slots=True)
class Volume:
    """One listed block volume that carries the fleet's tags."""

    id: str
    zone: str
    name: str
    attached_to: str | None
    """Id of the server that holds it, or None when it is free."""
    created_at: datetime
    tags: frozenset[str] = frozenset()


class Availability(StrEnum):
    """Scaleway's advisory stock level of a placement."""

    AVAILABLE = "available"
    SCARCE = "scarce"
    SHORTAGE = "shortage"


@dataclass(frozen=True, slots=True)
class Entry:
    """A task waiting in a queue."""

    task_id: str
    added_at: datetime


@dataclass(frozen=True, slots=True)
class Queue:
    """A ClearML queue with what waits in it, oldest first."""

    id: str
    name: str
    entries: tuple[Entry, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Worker:
    """A clearml-agent as ClearML knows it."""

    id: str
    registered_at: datetime
    last_report_at: datetime
    """Its last status report; before the first one, its registration."""
    task_id: str | None = None
    queue_ids: tuple[str, ...] = ()

    @property
    def machine(self) -> str:
        """The part of the id before the first colon: ours have the instance's name there."""
        return self.id.split(":", 1)[0]


class TaskStatus(StrEnum):
    """ClearML's task statuses, as far as the daemon tells them apart."""

    CREATED = "created"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"
    OTHER = "other"

    @property
    def ended(self) -> bool:
        """True when nobody runs it any more."""
        return self in (TaskStatus.STOPPED, TaskStatus.COMPLETED, TaskStatus.FAILED)


@dataclass(frozen=True, slots=True)
class Task:
    """A ClearML task of one of our queues."""

    id: str
    name: str
    status: TaskStatus
    queue_id: str
    status_changed_at: datetime
    last_worker: str | None = None
    stop_requested: bool = False
    """Somebody pressed abort: the agent has not obeyed yet, or it ended by that."""
    started_at: datetime | None = None
    """The first start since it was created or reset: putting it in a queue again keeps it."""

    @property
    def machine(self) -> str | None:
        """The instance it last ran on (its worker's id without a suffix)."""
        return self.last_worker.split(":", 1)[0] if self.last_worker else None


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """Everything the cloud must know to make one instance, without its secrets."""

    name: str
    queue: str
    placement: Placement
    image: str
    """Marketplace label, for example `ubuntu_jammy_gpu_os_12`."""
    volume_bytes: int
    volume_iops: int
    tags: tuple[str, ...]
    """Without `phase=provisioning`, which the adapter adds and takes away."""
    security_group_id: str | None = None
    scratch_bytes: int = 0

    @property
    def spec(self) -> str:
        """Hash of all that it is made with, from its tags; empty where they lack it."""
        found = (tag.removeprefix("spec=") for tag in self.tags if tag.startswith("spec="))
        return next(found, "")


@dataclass(frozen=True, slots=True)
class FleetTags:
    """The tags by which a fleet knows its own."""

    fleet: str
    manager: str = MANAGED_BY_TAG

    @property
    def membership(self) -> tuple[str, str]:
        """Both must be present on a server or a volume before it is touched."""
        return (self.manager, f"fleet={self.fleet}")

    def owns(self, tags: frozenset[str]) -> bool:
        """Whether something with these tags belongs to the fleet."""
        return tags.issuperset(self.membership)

    def of_volume(self, queue: str) -> tuple[str, ...]:
        """Tags of a volume that serves a queue."""
        return (*self.membership, f"queue={queue}")

    def of_instance(self, queue: str, spec: str) -> tuple[str, ...]:
        """Tags an instance of a queue is born with."""
        return (*self.of_volume(queue), f"spec={spec}")


@dataclass(frozen=True, slots=True)
class ZoneView:
    """What one zone answered in one cycle."""

    zone: str
    complete: bool
    observed_at: datetime
    instances: tuple[Instance, ...] = ()
    volumes: tuple[Volume, ...] | None = None
    """None when volumes were not asked for, or not answered, in this cycle."""
    availability: Mapping[str, Availability] | None = None
    """By commercial type; None when not asked for or not answered."""
    boot_reports: Mapping[str, str] = field(default_factory=dict)
    """By server id: what machines that boot last said of it, where they said anything."""
    gone: frozenset[str] = frozenset()
    """Ids of servers whose absence a GET confirmed with a 404."""
    error: str = ""
    """Why it is not complete."""
    refused: bool = False
    """It is not complete because the credentials were refused."""
    volumes_error: str = ""
    """Why volumes were asked for in vain."""


@dataclass(frozen=True, slots=True)
class ClearmlView:
    """What ClearML answered in one cycle."""

    complete: bool
    observed_at: datetime
    queues: Mapping[str, Queue] = field(default_factory=dict)
    """By name; a configured queue that is missing here does not exist."""
    workers: tuple[Worker, ...] = ()
    open_tasks: tuple[Task, ...] = ()
    """Queued or in progress, of our queues."""
    ended_tasks: tuple[Task, ...] | None = None
    """Recently ended ones of our queues; None when not asked for or not answered."""
    begun_at: datetime | None = None
    """When its reads began; None when they took no time."""
    skew: timedelta = timedelta(0)
    """By how much its times were corrected: ClearML's clock is ahead of ours by this."""
    error: str = ""
    """Why it is not complete."""
    refused: bool = False
    """It is not complete because the credentials were refused."""
    ended_error: str = ""
    """Why ended tasks were asked for in vain."""
