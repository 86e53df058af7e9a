"""What can be ordered: server types with prices, and marketplace images, per zone.

The GPU types are those of the live product listing of 2026-07-30, figures included (`facts`,
section C). The CPU types are there to make the listing as long as the real one, so that a client
that reads its first page alone misses half the GPU types; their figures are invented.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

GIB = 1024**3
MIB = 1024**2
TB = 10**12
ZONES = (
    *("fr-par-1", "fr-par-2", "fr-par-3"),
    *("nl-ams-1", "nl-ams-2", "nl-ams-3"),
    *("pl-waw-1", "pl-waw-2", "pl-waw-3"),
)
FILLER_EUR_PER_CORE_HOUR = 0.02
FILLER_GIB_PER_CORE = 4
ROOT_SNAPSHOT_BYTES = 20 * 10**9
"""Size of a GPU image's snapshot: the smallest root volume, and the default one."""


@dataclass(frozen=True, slots=True)
class ServerType:
    """A commercial type."""

    name: str
    eur_per_hour: float
    cores: int
    ram_gib: int
    zones: tuple[str, ...] = ZONES
    gpus: int = 0
    gpu_name: str = ""
    gpu_gib: int = 0
    scratch_bytes: int = 0
    """Largest scratch volume; 0 when it has none."""
    internet_gbps: float = 1.0
    block_mib_per_s: int = 200


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image as it exists in one zone."""

    id: str
    name: str
    label: str
    zone: str
    kind: str
    """`instance_sbs` (boots from block storage, as GPU types do) or `instance_local`."""
    arch: str
    types: tuple[str, ...]
    """Commercial types it is said to run on, a few of which cannot be ordered."""

    @property
    def snapshot_id(self) -> str:
        return _fixed_id("snapshot", self.id)


class Catalog:
    """All types and images; immutable."""

    def __init__(self, types: Iterable[ServerType], images: Iterable[LocalImage]) -> None:
        self.types: Mapping[str, ServerType] = {
            kind.name: kind for kind in sorted(types, key=lambda kind: kind.name)
        }
        self.images = tuple(images)
        self.zones = frozenset(zone for kind in self.types.values() for zone in kind.zones)
        self._by_zone = {
            zone: [kind for kind in self.types.values() if zone in kind.zones]
            for zone in self.zones
        }

    def in_zone(self, zone: str) -> list[ServerType]:
        """The types of a zone by name, the order in which the API lists them."""
        return self._by_zone.get(zone, [])

    def image(self, zone: str, id_or_label: str) -> LocalImage | None:
        """An image of a zone: any by its id, the one on block storage by its label."""
        for image in self.images:
            if image.zone == zone and (
                image.id == id_or_label
                or (image.label == id_or_label and image.kind == "instance_sbs")
            ):
                return image
        return None


_PAR2 = ("fr-par-2",)
_PAR2_WAW2 = ("fr-par-2", "pl-waw-2")
_L4_ZONES = ("fr-par-1", "fr-par-2", "pl-waw-2")

# name, €/h, vCPU, RAM GiB, zones, GPUs, GPU, GPU GiB, scratch bytes, Gb/s, block MiB/s
_GPU_TYPES = (
    ServerType(
        "H100-1-80G", 2.8665, 24, 240, _PAR2_WAW2, 1, "H100-PCIe", 80, 3 * TB, 10, 2000
    ),
    ServerType("H100-2-80G", 5.733, 48, 480, _PAR2_WAW2, 2, "H100-PCIe", 80, 6 * TB, 20, 4000),
    *(
        ServerType(
            f"H100-SXM-{n}-80G", price, 16 * n, ram, _PAR2, n, "H100-SXM", 80,
            n * 16 * TB // 10, 20, 5000,
        )
        for n, price, ram in ((2, 6.6198, 240), (4, 12.771, 480), (8, 25.3308, 960))
    ),
    *(
        ServerType(
            f"B300-SXM-{n}-288G", price, 28 * n, 480 * n, _PAR2, n, "B300-SXM", 288,
            3 * n * TB, 20, 5000,
        )
        for n, price in ((2, 18.96), (4, 34.08), (8, 60.0))
    ),
    *(
        ServerType(
            f"L40S-{n}-48G", round(n * 1.469916, 6), 8 * n, 96 * n, _PAR2_WAW2, n, "L40S", 48,
            n * 16 * TB // 10, 2.5 * n, mibps,
        )
        for n, mibps in ((1, 1000), (2, 1500), (4, 2500), (8, 5000))
    ),
    *(
        ServerType(
            f"L4-{n}-24G", n * 0.7875, 8 * n, 48 * n, _L4_ZONES, n, "L4", 24, 0, 2.5 * n, mibps
        )
        for n, mibps in ((1, 1000), (2, 1500), (4, 2500), (8, 5000))
    ),
    ServerType("RENDER-S", 1.221, 10, 42, ("fr-par-1", "fr-par-2"), 1, "P100", 16, 0, 2, 2048),
)  # fmt: skip

_FILLER_CORES = (1, 2, 4, 6, 8, 16, 24, 32, 48, 64)
_FILLER_FAMILIES = (
    *("BASIC2-A", "BASIC3-X", "COPARM1-", "ENT1-"),
    *("PLAY2-", "POP2-", "POP2-HC-", "POP2-HM-", "POP2-HN-", "STANDARD2-A", "STANDARD3-X"),
)
_FILLER_BY_SIZE = (("DEV1", ("S", "M", "L", "XL")), ("PRO2", ("XXS", "XS", "S", "M")))

_NOT_ORDERABLE = ("H100-1-M", "H100-2-M", "H100-SXM-1-80G", "B300-SXM-1-288G")
_GPU_IMAGES = {
    "ubuntu_jammy_gpu_os_12": "Ubuntu Jammy GPU OS 12 passthrough",
    "ubuntu_noble_gpu_os_12": "Ubuntu Noble GPU OS 12 passthrough",
    "ubuntu_noble_gpu_os_13_nvidia": "Ubuntu Noble GPU OS 13 (Nvidia)",
}
_CPU_IMAGES = {
    "ubuntu_jammy": "Ubuntu 22.04 Jammy Jellyfish",
    "ubuntu_noble": "Ubuntu 24.04 Noble Numbat",
}


def _filler(name: str, cores: int) -> ServerType:
    return ServerType(
        name, round(cores * FILLER_EUR_PER_CORE_HOUR, 6), cores, cores * FILLER_GIB_PER_CORE
    )


def _fillers() -> Iterable[ServerType]:
    for family in _FILLER_FAMILIES:
        for cores in _FILLER_CORES:
            yield _filler(f"{family}{cores}C-{cores * FILLER_GIB_PER_CORE}G", cores)
    for family, sizes in _FILLER_BY_SIZE:
        for doublings, size in enumerate(sizes):
            yield _filler(f"{family}-{size}", 2**doublings)


def _fixed_id(*parts: str) -> str:
    """The same id for the same thing in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(parts)))


def _images(cpu_types: tuple[str, ...], gpu_types: tuple[str, ...]) -> Iterable[LocalImage]:
    def image(zone: str, label: str, kind: str, arch: str = "x86_64") -> LocalImage:
        name = _GPU_IMAGES.get(label) or _CPU_IMAGES[label]
        types = gpu_types if label in _GPU_IMAGES else cpu_types
        image_id = _fixed_id("image", zone, label, kind, arch)
        return LocalImage(image_id, name, label, zone, kind, arch, types)

    for zone in ZONES:
        for label in _GPU_IMAGES:
            yield image(zone, label, "instance_sbs")
        for label in _CPU_IMAGES:
            yield image(zone, label, "instance_local")
            yield image(zone, label, "instance_sbs")


@cache
def default_catalog() -> Catalog:
    """The catalog of 2026-07-30."""
    fillers = tuple(_fillers())
    gpu_names = (*(kind.name for kind in _GPU_TYPES), *_NOT_ORDERABLE)
    return Catalog(
        (*_GPU_TYPES, *fillers), _images(tuple(kind.name for kind in fillers), gpu_names)
    )
