"""What a zone sells: commercial types, their prices and stock, and the images they boot."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.errors import Rejected
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.scaleway.transport import Transport
from gpu_autoscaler.scaleway.wire import (
    CommercialType,
    LocalImage,
    availability_of,
    commercial_types_of,
    local_image_of,
)

IMAGE_KEPT_FOR = timedelta(minutes=10)
"""Scaleway publishes new builds of an image under the same label and withdraws old ones."""

NAMED = 20
"""Types that a message names; an image for CPU types is for more than a hundred."""

ARCH = "x86_64"
IMAGE_TYPE = "instance_sbs"
"""The builds for a block boot volume, the only kind that GPU types have."""


class Catalog:
    """Scaleway's product lists, page by page (135 types in fr-par-2, of which 50 come at once)."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._images: dict[tuple[str, Placement], tuple[str, datetime]] = {}

    async def types(self, zone: str) -> Mapping[str, CommercialType]:
        """Every commercial type of a zone, by name."""
        path = f"/instance/v1/zones/{zone}/products/servers"
        return commercial_types_of(await self._transport.listing(path, "servers", {}))

    async def availability(self, zone: str) -> Mapping[str, Availability]:
        """Stock of every commercial type in a zone, as far as Scaleway's advice goes."""
        path = f"/instance/v1/zones/{zone}/products/servers/availability"
        return availability_of(await self._transport.listing(path, "servers", {}))

    async def image_id(self, label: str, placement: Placement) -> str:
        """The image behind a label for one placement. Raises Rejected when there is none."""
        now = self._clock.now()
        image_id, until = self._images.get((label, placement), ("", now))
        if until <= now:
            image_id = _fitting(await self._local_images(label, placement.zone), label, placement)
            self._images[label, placement] = (image_id, now + IMAGE_KEPT_FOR)
        return image_id

    async def _local_images(self, label: str, zone: str) -> list[LocalImage]:
        params = {"image_label": label, "zone": zone, "type": IMAGE_TYPE}
        listed = await self._transport.listing(
            "/marketplace/v2/local-images", "local_images", params, size_param="page_size"
        )
        return [local_image_of(raw) for raw in listed.values()]


def _fitting(images: list[LocalImage], label: str, placement: Placement) -> str:
    bootable = [image for image in images if image.arch == ARCH]
    for image in bootable:
        if placement.commercial_type in image.commercial_types:
            return image.id
    types = sorted({name for image in bootable for name in image.commercial_types})
    hint = "there is no such image in this zone"
    if types:
        rest = f" and {len(types) - NAMED} others" if len(types) > NAMED else ""
        hint = f"it is for {', '.join(types[:NAMED])}{rest}"
    raise Rejected(f"image {label!r} does not fit {placement}: {hint}")
