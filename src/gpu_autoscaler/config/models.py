"""The configuration as the rest of the house sees it: complete, checked, frozen.

A value may be given as it stands in YAML (`"30m"`, `"200GB"`) or as what it becomes (a timedelta,
a number of bytes).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gpu_autoscaler.config.base import CROSS_FIELD, Settings
from gpu_autoscaler.config.fields import (
    Count,
    Duration,
    FullUrl,
    Iops,
    Line,
    Name,
    QueueName,
    Size,
    Variables,
    looks_secret,
    matching,
)
from gpu_autoscaler.config.hours import WorkingHoursConfig, most_at_once
from gpu_autoscaler.config.money import BudgetConfig, Price, PricesConfig, one_for_each_period
from gpu_autoscaler.config.services import (
    KEY,
    ChannelConfig,
    ClearmlConfig,
    ScalewayConfig,
    StoreConfig,
    WeeklyReportConfig,
    Zone,
)
from gpu_autoscaler.config.units import format_duration, format_size
from gpu_autoscaler.domain.model import Placement

MIN_VOLUME_BYTES = 20 * 10**9
"""Size of the GPU images' own snapshot: a smaller root volume is refused by Scaleway."""

MAX_VOLUME_BYTES = 10 * 10**12
"""Largest block volume: a larger number is a slip that would cost money or never boot."""

MIN_POLL_INTERVAL = timedelta(seconds=1)
MAX_POLL_INTERVAL = timedelta(minutes=10)
"""Rarer than this, and the daemon would miss what it has to react to."""


MIN_POLLS_PER_LEASE = 4
"""Its holder trusts two thirds of a lease: then one save may fail, and the next is in time."""


class VolumeConfig(Settings):
    """The block volume that an instance boots from."""

    size: Size = 200 * 10**9
    """Bytes."""
    iops: Iops = 5000

    @field_validator("size")
    @classmethod
    def _within_bounds(cls, size: int) -> int:
        if not MIN_VOLUME_BYTES <= size <= MAX_VOLUME_BYTES:
            bounds = f"{format_size(MIN_VOLUME_BYTES)} to {format_size(MAX_VOLUME_BYTES)}"
            raise ValueError(f"a root volume has {bounds} (125GB or more for GPU images)")
        return size


ImageLabel = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a label looks like ubuntu_jammy_gpu_os_12")
]


class PlacementConfig(Settings):
    """A placement, with what differs there from what its queue says; None: nothing."""

    type: Annotated[str, matching(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)+", "a type looks like H100-1-80G")]
    zone: Zone
    image: ImageLabel | None = None
    volume: VolumeConfig | None = None
    """Key by key: what is not written stays as the queue says."""
    scratch: Size | None = None
    max_price_per_hour: Price | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_domain(cls, value: object) -> object:
        if isinstance(value, Placement):
            return {"type": value.commercial_type, "zone": value.zone}
        return value

    @property
    def place(self) -> Placement:
        """What tells it from every other one."""
        return Placement(commercial_type=self.type, zone=self.zone)

    @property
    def another_machine(self) -> bool:
        """Whether an instance there differs from what its queue says."""
        return (self.image, self.volume, self.scratch) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Machine:
    """What an instance of a queue is made of in one placement."""

    image: str
    volume: VolumeConfig
    scratch: int
    max_price_per_hour: float | None
    """EUR; None: it may cost anything."""


class AgentConfig(Settings):
    """How the clearml-agent on an instance is installed and run."""

    version: Annotated[
        str, matching(r"\d+(\.\d+){1,3}((a|b|rc)\d+)?", "a version looks like 3.0.3")
    ] = "3.0.3"
    """Of clearml-agent, pinned: agents of one queue never differ by the day they booted."""
    polling_interval: Duration = timedelta(seconds=5)
    """How often an idle agent asks ClearML for a task."""
    docker: bool = True
    """Each task runs in a container; otherwise in a virtual environment on the machine."""
    docker_image: Annotated[str, matching(r"\S+", "expected an image without spaces")] | None = None
    """For tasks that name none; pulled while the machine boots."""
    registry: (
        Annotated[
            str,
            matching(
                r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[A-Za-z0-9._-]+)*",
                "a registry looks like rg.fr-par.scw.cloud",
            ),
        ]
        | None
    ) = None
    """Where Docker logs in, with the credentials that are among the secrets."""
    docker_arguments: Line | None = Field(default=None, repr=False)
    packages: tuple[
        Annotated[str, matching(r"[a-z0-9][a-z0-9+.-]+(=[^\s'\"$`;&|]+)?", "not a package name")],
        ...,
    ] = ()
    """Installed with apt."""
    environment: Variables = Field(default={}, repr=False)
    """Variables of the agent; not in repr(), as values may be secrets."""
    extra_clearml_conf: str = Field(default="", repr=False)
    """HOCON, appended to the instance's clearml.conf."""
    extra_script: str = Field(default="", repr=False)
    """Shell, run as root before the agent starts."""

    @property
    def secret_values(self) -> tuple[str, ...]:
        """Values of variables whose name says they are secret, to be masked where text is shown."""
        return tuple(v for k, v in self.environment.items() if v and looks_secret(k))


class QueueConfig(Settings):
    """One queue with the defaults merged in."""

    name: QueueName
    offers: tuple[PlacementConfig, ...] = Field(alias="placements", min_length=1)
    """Where its instances may be created, best first, with what differs there."""
    select: Literal["preference", "cheapest"] = "preference"
    """Which placement is tried first: in the order of the list, or by price and then by it."""
    max_price_per_hour: Price | None = None
    """EUR for one instance: dearer placements are left out; None: it may cost anything."""
    min_instances: Count = 0
    max_instances: Count = 2
    """Bounds billed instances; 0 drains the queue: what runs finishes, nothing is launched."""
    idle_timeout: Duration = timedelta(minutes=30)
    idle_timeout_after_success: Duration | None = None
    """Instead of `idle_timeout` when the last task completed; None: no difference."""
    stale_timeout: Duration = timedelta(minutes=10)
    """How long a boot may take until its worker registers."""
    lost_timeout: Duration = timedelta(minutes=10)
    """How long an idle worker may be silent before its instance is powered off."""
    on_lost: Literal["leave", "requeue"] = "leave"
    """What becomes of a task whose instance died by itself."""
    max_requeues: Count = 1
    """How often a task is put back for that: one that kills machines must not go on for ever."""
    stopped_retention: Duration = timedelta(hours=24)
    quarantine_retention: Duration = timedelta(hours=24)
    """How long a machine that failed whatever it pulled is kept, powered off, to be looked at."""
    idle_action: Literal["stop", "delete"] = "stop"
    budgets: tuple[BudgetConfig, ...] = ()
    """For this queue alone."""
    working_hours: WorkingHoursConfig | None = None
    """When other bounds and timeouts are in force."""
    volume: VolumeConfig = VolumeConfig()
    scratch: Size = 0
    """Bytes of fast local storage, emptied at every stop; 0 for none."""
    scratch_path: Annotated[
        str, matching(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+", "a path looks like /scratch")
    ] = "/scratch"
    """Where it is mounted, on the machine and in each task's container."""
    image: ImageLabel = "ubuntu_jammy_gpu_os_12"
    agent: AgentConfig = AgentConfig()

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where its instances may be created, best first."""
        return tuple(offer.place for offer in self.offers)

    def at(self, placement: Placement | None) -> Machine:
        """What an instance there is made of; None: where the placement says nothing of its own."""
        own = next((offer for offer in self.offers if offer.place == placement), None)
        if own is None:
            return Machine(self.image, self.volume, self.scratch, self.max_price_per_hour)
        written = own.volume.model_dump(exclude_unset=True) if own.volume is not None else {}
        most = own.max_price_per_hour
        return Machine(
            image=own.image or self.image,
            volume=self.volume.model_copy(update=written),
            scratch=self.scratch if own.scratch is None else own.scratch,
            max_price_per_hour=self.max_price_per_hour if most is None else most,
        )

    @field_validator("offers")
    @classmethod
    def _distinct(cls, offers: tuple[PlacementConfig, ...]) -> tuple[PlacementConfig, ...]:
        places = [offer.place for offer in offers]
        for index, place in enumerate(places):
            if place in places[:index]:
                raise ValueError(f"{place} is listed twice")
        return offers

    @field_validator("budgets")
    @classmethod
    def _one_per_period(cls, budgets: tuple[BudgetConfig, ...]) -> tuple[BudgetConfig, ...]:
        return one_for_each_period(budgets)

    @field_validator("max_instances")
    @classmethod
    def _not_below_min(cls, maximum: int, info: ValidationInfo) -> int:
        minimum = info.data.get("min_instances", 0)
        if maximum < minimum:
            raise PydanticCustomError(
                CROSS_FIELD,
                "max_instances ({maximum}) is below min_instances ({minimum})",
                {"maximum": maximum, "minimum": minimum},
            )
        return maximum

    @field_validator("working_hours")
    @classmethod
    def _bounds_fit(
        cls, hours: WorkingHoursConfig | None, info: ValidationInfo
    ) -> WorkingHoursConfig | None:
        for window in hours.windows if hours else ():
            least = window.min_instances
            least = info.data.get("min_instances", 0) if least is None else least
            most = window.max_instances
            most = info.data.get("max_instances", least) if most is None else most
            if most < least:
                raise PydanticCustomError(
                    CROSS_FIELD,
                    "in {window}, max_instances ({most}) is below min_instances ({least})",
                    {"window": str(window), "most": most, "least": least},
                )
        return hours

    @property
    def most_instances(self) -> int:
        """The largest max_instances that is ever in force."""
        windows = self.working_hours.windows if self.working_hours else ()
        return max(self.max_instances, *(each.max_instances or 0 for each in windows), 0)


class Config(Settings):
    """Everything one deployment of the daemon was told."""

    fleet: Name
    """Written on every instance and volume; never change it while they exist."""
    poll_interval: Duration = timedelta(seconds=30)
    max_instances: Count | None = None
    """Bounds billed instances of all queues together."""
    max_eur_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Bounds the price of all billed instances together."""
    orphan_timeout: Duration = timedelta(minutes=10)
    """How long something that carries the fleet's tags may stay without a purpose."""
    keep: Duration = timedelta(hours=24)
    """How long a bare `keep` tag holds."""
    state_dir: Annotated[str, Field(min_length=1)] = "state"
    """Directory of the memory, relative to the working directory."""
    store: StoreConfig | None = None
    """Where the memory is instead."""
    prices: PricesConfig = PricesConfig()
    budgets: tuple[BudgetConfig, ...] = ()
    """For all queues together."""
    heartbeat_url: FullUrl | None = Field(default=None, repr=False)
    """Called after each good cycle; whoever knows it can call it, so it is treated as a secret."""
    notifications: tuple[ChannelConfig, ...] = Field(default=(), repr=False)
    weekly_report: WeeklyReportConfig = WeeklyReportConfig()
    clearml: ClearmlConfig = ClearmlConfig()
    scaleway: ScalewayConfig
    queues: Mapping[str, QueueConfig] = Field(min_length=1)
    """By name, in the order of the file."""

    @field_validator("budgets")
    @classmethod
    def _one_per_period(cls, budgets: tuple[BudgetConfig, ...]) -> tuple[BudgetConfig, ...]:
        return one_for_each_period(budgets)

    @field_validator("poll_interval")
    @classmethod
    def _often_enough(cls, interval: timedelta) -> timedelta:
        if not MIN_POLL_INTERVAL <= interval <= MAX_POLL_INTERVAL:
            bounds = map(format_duration, (MIN_POLL_INTERVAL, MAX_POLL_INTERVAL))
            raise ValueError(" to ".join(bounds) + " is allowed")
        return interval

    @field_validator("store")
    @classmethod
    def _of_this_fleet(cls, store: StoreConfig | None, info: ValidationInfo) -> StoreConfig | None:
        if store is None:
            return None
        poll_interval = info.data.get("poll_interval", timedelta(0))
        if store.lease < MIN_POLLS_PER_LEASE * poll_interval:
            given, least = map(format_duration, (store.lease, MIN_POLLS_PER_LEASE * poll_interval))
            raise ValueError(
                f"lease ({given}) is below {MIN_POLLS_PER_LEASE} times poll_interval ({least}): "
                "each poll renews it, and one may fail"
            )
        if store.key is not None or "fleet" not in info.data:
            return store
        key = f"gpu-autoscaler/{info.data['fleet']}.json"
        if re.fullmatch(KEY, key, re.ASCII) is None:
            raise ValueError("needs a key: the fleet's name is not fit for one")
        return store.model_copy(update={"key": key})

    @field_validator("notifications")
    @classmethod
    def _told_once(cls, channels: tuple[ChannelConfig, ...]) -> tuple[ChannelConfig, ...]:
        urls = [channel.url for channel in channels]
        if len(set(urls)) < len(urls):
            raise ValueError("a url is listed twice: everything would be told twice there")
        return channels

    @property
    def zones(self) -> tuple[str, ...]:
        """Every zone that a placement names, sorted."""
        return tuple(sorted({p.zone for q in self.queues.values() for p in q.placements}))

    @field_validator("queues")
    @classmethod
    def _within_the_fleet(
        cls, queues: Mapping[str, QueueConfig], info: ValidationInfo
    ) -> Mapping[str, QueueConfig]:
        limit = info.data.get("max_instances")
        groups = info.data["scaleway"].security_group_ids if "scaleway" in info.data else {}
        for queue in queues.values():
            for placement in queue.placements if groups else ():
                if placement.zone not in groups:  # it would be open to the world, silently
                    raise ValueError(
                        f"{queue.name} has a placement in {placement.zone}, which "
                        "scaleway.security_group_ids does not name: add its group"
                    )
        wanted = most_at_once((q.min_instances, q.working_hours) for q in queues.values())
        if limit is not None and wanted > limit:
            raise ValueError(
                f"min_instances add up to {wanted}, above the fleet's max_instances ({limit})"
            )
        return queues
