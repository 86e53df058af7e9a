"""The body of `POST /servers`: what it may hold, and what the catalog makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpu_autoscaler.domain.model import VolumeKind
from gpu_autoscaler.emulator import scaleway_errors as errors
from gpu_autoscaler.emulator.scaleway_catalog import (
    ROOT_SNAPSHOT_BYTES,
    Catalog,
    LocalImage,
    ServerType,
)

REQUIRED = ("commercial_type", "image")
TEXTS = ("name", "commercial_type", "image", "project", "security_group")


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume to be made with a server."""

    kind: VolumeKind = VolumeKind.BLOCK
    size: int | None = None
    name: str = ""
    boot: bool = False


@dataclass(frozen=True, slots=True)
class NewServer:
    """A server to be made."""

    commercial_type: str
    image: str
    """Id, or label."""
    name: str = ""
    project: str = ""
    tags: tuple[str, ...] = ()
    volumes: Mapping[str, NewVolume] = field(default_factory=dict)
    security_group: str = ""
    dynamic_ip_required: bool = True
    protected: bool = False


def parse_new_server(body: Mapping[str, Any]) -> NewServer:
    """Read a request's body; raises the instance API's `Validation Error`."""
    problems = {key: ["required key not provided"] for key in REQUIRED if not body.get(key)}
    for key in TEXTS:
        if not isinstance(body.get(key) or "", str):
            problems[key] = ["expected a string"]
    volumes = body.get("volumes") or {}
    if not isinstance(volumes, dict) or not all(isinstance(v, dict) for v in volumes.values()):
        problems["volumes"] = ["expected a dictionary of volumes"]
    if problems:
        raise errors.validation(problems)
    return NewServer(
        **{key: body.get(key) or "" for key in TEXTS},
        tags=parse_tags(body.get("tags")) or (),
        volumes={slot: _parse_volume(slot, volume) for slot, volume in volumes.items()},
        dynamic_ip_required=body.get("dynamic_ip_required") is not False,
        protected=body.get("protected") is True,
    )


def parse_tags(tags: object) -> tuple[str, ...] | None:
    """None stays None; raises `Validation Error` for anything but a list of strings."""
    if tags is None:
        return None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise errors.validation({"tags": ["expected a list of strings"]})
    return tuple(tags)


def _parse_volume(slot: str, volume: Mapping[str, Any]) -> NewVolume:
    if "id" in volume:
        raise errors.invalid_arguments(f"volumes.{slot}.id", "not emulated: only new volumes")
    kind, size = volume.get("volume_type") or VolumeKind.BLOCK, volume.get("size")
    if kind not in list(VolumeKind) or not isinstance(size, int | None):
        raise errors.validation({f"volumes.{slot}": ["invalid volume_type or size"]})
    boot = volume.get("boot") is True
    return NewVolume(VolumeKind(kind), size, str(volume.get("name") or ""), boot)


def resolve(order: NewServer, zone: str, catalog: Catalog) -> tuple[ServerType, LocalImage]:
    """The type and the image that are meant.

    Raises `invalid_arguments` or `not_found` when the zone does not have them, they do not go
    together, or the type cannot have such volumes. (No recording holds these refusals of the
    live API; a client can rely on their status and type alone.)
    """
    if zone not in catalog.zones:
        raise errors.invalid_arguments("zone", f"unknown zone {zone}")
    kind = catalog.types.get(order.commercial_type)
    if kind is None or zone not in kind.zones:
        message = f"{order.commercial_type} is not available in {zone}"
        raise errors.invalid_arguments("commercial_type", message)
    image = catalog.image(zone, order.image)
    if image is None:
        raise errors.not_found("instance_image", order.image)
    if order.commercial_type not in image.types or image.kind != "instance_sbs":
        message = f"{image.label} ({image.kind}) does not run on {order.commercial_type}"
        raise errors.invalid_arguments("image", message)
    _check_volumes(order, kind)
    return kind, image


def _check_volumes(order: NewServer, kind: ServerType) -> None:
    for slot, volume in order.volumes.items():
        if volume.kind is VolumeKind.LOCAL:
            message = f"{kind.name} has no local volumes but scratch"
            raise errors.invalid_arguments(f"volumes.{slot}.volume_type", message)
        if slot == "0" and volume.kind is not VolumeKind.BLOCK:
            raise errors.invalid_arguments("volumes.0.volume_type", "cannot boot on scratch")
        largest = kind.scratch_bytes if volume.kind is VolumeKind.SCRATCH else None
        smallest = ROOT_SNAPSHOT_BYTES if slot == "0" else 1
        # an explicit 0, which the SDK sends for a size left out, is refused as well
        size = smallest if slot == "0" and volume.size is None else volume.size or 0
        if size < smallest or (largest is not None and size > largest):
            message = f"{size} is not within {smallest} and {largest or 'any size'}"
            raise errors.invalid_arguments(f"volumes.{slot}.size", message)
    if sum(volume.kind is VolumeKind.SCRATCH for volume in order.volumes.values()) > 1:
        raise errors.invalid_arguments("volumes", "at most one scratch volume")
