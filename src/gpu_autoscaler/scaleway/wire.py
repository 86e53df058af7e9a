"""Between Scaleway's JSON and our values; only this and `wire_iam` import the SDK.

The SDK's types and (un)marshalling are used where they are sound. Where its defaults lie, the raw
JSON is read or written instead, with a line that says so.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from scaleway.block.v1 import marshalling as block  # type: ignore[import-untyped]
from scaleway.block.v1 import types as block_types
from scaleway.instance.v1 import marshalling as instance_v1  # type: ignore[import-untyped]
from scaleway.instance.v1 import types as instance_types
from scaleway.marketplace.v2 import marshalling as marketplace  # type: ignore[import-untyped]
from scaleway_core.bridge import ALL_ZONES
from scaleway_core.profile import ProfileDefaults

from gpu_autoscaler.domain.errors import Transient
from gpu_autoscaler.domain.model import (
    BOOT_REPORT_LENGTH,
    PROVISIONING_TAG,
    Availability,
    CreateOrder,
    Instance,
    ServerState,
    Volume,
    VolumeKind,
    VolumeRef,
)

T = TypeVar("T")

BOOT_SLOT = "0"
"""Key of the boot volume in a server's map of volumes."""
SCRATCH_SLOT = "1"

IOPS_AT_BIRTH = 5000
"""What a volume made together with its server always gets."""

ZONES: tuple[str, ...] = tuple(ALL_ZONES)
"""Those that the SDK knows; Scaleway may have opened others since."""

_NO_DEFAULTS = ProfileDefaults()


@dataclass(frozen=True, slots=True)
class Server:
    """A server as a single GET shows it."""

    instance: Instance
    boot_volume: str | None
    """Id of the volume it boots from: the one volume that was made together with it."""


@dataclass(frozen=True, slots=True)
class BlockVolume:
    """A block volume with what decides whether it may be deleted now."""

    volume: Volume
    status: str


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image of one zone, with the commercial types it boots on."""

    id: str
    arch: str
    label: str
    commercial_types: frozenset[str]


@dataclass(frozen=True, slots=True)
class CommercialType:
    """What can be ordered in a zone."""

    price_eur_per_hour: float | None
    """Without tax; None when Scaleway does not say, which is not the same as free."""
    scratch_max_bytes: int
    """Size of the largest scratch volume; 0 when it can have none."""


def tags_of(raw: Any) -> frozenset[str]:
    """The tags of any listed thing. Raises Transient when there is no telling whose it is."""

    def read() -> frozenset[str]:
        tags = raw["tags"]
        if not isinstance(tags, list):
            raise TypeError("tags are not a list")
        return frozenset(tags)

    return readable("tags", read)


def server_of(raw: Any, zone: str) -> Server:
    """A server from its JSON. Raises Transient when it cannot be read."""

    def read() -> Server:
        server = instance_v1.unmarshal_Server(raw)
        slots = sorted(server.volumes.items(), key=lambda slot: int(slot[0]))
        refs = {slot: VolumeRef(_id(v.id), VolumeKind(v.volume_type)) for slot, v in slots}
        instance = Instance(
            id=_id(server.id),
            name=_id(server.name),
            zone=zone,
            commercial_type=_id(server.commercial_type),
            state=_state(raw.get("state")),
            created_at=moment_of(server.creation_date),
            modified_at=moment_of(server.modification_date or server.creation_date),
            tags=tags_of(raw),
            volumes=tuple(refs.values()),
            protected=server.protected,
            state_detail=server.state_detail or "",
        )
        boot = refs.get(BOOT_SLOT)
        return Server(instance, boot.id if boot else None)

    return readable("server", read)


def block_volume_of(raw: Any, zone: str) -> BlockVolume:
    """A block volume from its JSON. Raises Transient when it cannot be read."""

    def read() -> BlockVolume:
        volume = block.unmarshal_Volume(raw)
        holders = [r for r in volume.references if r.status != "detached"]
        return BlockVolume(
            Volume(
                id=_id(volume.id),
                zone=zone,
                name=volume.name or "",
                # still detaching is still held: it cannot be deleted yet
                attached_to=_id(holders[0].product_resource_id) if holders else None,
                created_at=moment_of(volume.created_at),
                tags=tags_of(raw),
            ),
            str(volume.status),
        )

    return readable("volume", read)


def local_image_of(raw: Any) -> LocalImage:
    """A marketplace image from its JSON. Raises Transient when it cannot be read."""

    def read() -> LocalImage:
        image = marketplace.unmarshal_LocalImage(raw)
        types = frozenset(image.compatible_commercial_types)
        return LocalImage(_id(image.id), str(image.arch), str(image.label), types)

    return readable("image", read)


def commercial_types_of(raw: Mapping[str, Any]) -> dict[str, CommercialType]:
    """What a zone sells, by name. Raises Transient when it cannot be read."""

    def read() -> dict[str, CommercialType]:
        listed = instance_v1.unmarshal_ListServersTypesResponse({"servers": raw}).servers
        return {
            name: CommercialType(
                # the SDK makes an unnamed price 0.0
                price_eur_per_hour=_number(raw[name].get("hourly_price")),
                scratch_max_bytes=int(offer.scratch_storage_max_size or 0),
            )
            for name, offer in listed.items()
        }

    return readable("server types", read)


def availability_of(raw: Mapping[str, Any]) -> dict[str, Availability]:
    """Stock by commercial type. Raises Transient when it cannot be read."""

    def read() -> dict[str, Availability]:
        listed = instance_v1.unmarshal_GetServerTypesAvailabilityResponse({"servers": raw})
        return {name: _stock(entry.availability) for name, entry in listed.servers.items()}

    return readable("availability", read)


def create_body(order: CreateOrder, image_id: str, project_id: str) -> dict[str, Any]:
    """What POST servers takes. Every field left at the SDK's default would be sent."""
    template = instance_types.VolumeServerTemplate
    volumes = {BOOT_SLOT: template(volume_type="sbs_volume", boot=True, size=order.volume_bytes)}
    if order.scratch_bytes:
        volumes[SCRATCH_SLOT] = template(
            volume_type="scratch",
            boot=None,
            name=f"{order.name}-scratch",
            size=order.scratch_bytes,
        )
    request = instance_types.CreateServerRequest(
        commercial_type=order.placement.commercial_type,
        protected=False,
        name=order.name,
        dynamic_ip_required=True,
        image=image_id,
        volumes=volumes,
        public_ips=None,
        tags=[*order.tags, PROVISIONING_TAG],
        security_group=order.security_group_id,
        project=project_id,
    )
    body: dict[str, Any] = instance_v1.marshal_CreateServerRequest(request, _NO_DEFAULTS)
    return body


def volume_body(
    tags: Iterable[str], *, name: str | None = None, iops: int = IOPS_AT_BIRTH
) -> dict[str, Any]:
    """What PATCH volumes takes: tags always, name and speed when they change."""
    request = block_types.UpdateVolumeRequest(
        volume_id="",
        name=name,
        size=None,
        tags=list(tags),
        perf_iops=iops if iops != IOPS_AT_BIRTH else None,
    )
    body: dict[str, Any] = block.marshal_UpdateVolumeRequest(request, _NO_DEFAULTS)
    return body


def one_line(text: str) -> str:
    """The beginning of what a machine wrote, fit for a log: anybody may be root there."""
    printable = "".join(sign if sign.isprintable() else " " for sign in text.strip())
    return printable[:BOOT_REPORT_LENGTH]


def begun_at(answer: Mapping[str, Any]) -> datetime | None:
    """When Scaleway began to do what it was asked for; None where the answer does not say that:
    it is accepted all the same."""
    try:
        return moment_of(datetime.fromisoformat(answer["task"]["started_at"]))
    except (TypeError, ValueError, LookupError):
        return None


def readable(what: str, read: Callable[[], T]) -> T:
    """What `read` makes of the JSON. Raises Transient when that cannot be read."""
    try:
        return read()
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise Transient(f"Scaleway sent an unreadable {what}: {error}") from error


def _id(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"an id or a name is missing, got {value!r}")
    return value


def moment_of(value: Any) -> datetime:
    """A moment in UTC, or TypeError."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError(f"not a moment in time: {value!r}")
    return value.astimezone(UTC)


def _state(word: Any) -> ServerState:
    """From the raw word: the SDK misspells "stopped in place" and takes silence for running."""
    try:
        return ServerState(word)
    except ValueError:
        return ServerState.UNKNOWN


def _stock(word: Any) -> Availability:
    """A word we do not know neither forbids an attempt nor calls for one."""
    try:
        return Availability(word)
    except ValueError:
        return Availability.SCARCE


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
