"""Types, prices, stock and images."""

from typing import Any

import httpx
import pytest

from gpu_autoscaler.domain.errors import Rejected, Transient
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.runtime.clock import LoopClock
from gpu_autoscaler.scaleway.api import ScalewayApi
from gpu_autoscaler.scaleway.wire import CommercialType
from tests.scaleway.cloud import ORDER, ZONE, Cloud, image_json, play

LABEL = "ubuntu_jammy_gpu_os_12"


def type_json(**changes: Any) -> dict[str, Any]:
    return {
        "alt_names": [],
        "arch": "x86_64",
        "ncpus": 24,
        "ram": 257698037760,
        "gpu": 1,
        "gpu_info": {
            "gpu_manufacturer": "NVIDIA",
            "gpu_name": "H100-PCIe",
            "gpu_memory": 85899345920,
        },
        "mig_profile": None,
        "volumes_constraint": {"min_size": 0, "max_size": 0},
        "per_volume_constraint": {"l_ssd": {"min_size": 0, "max_size": 0}},
        "scratch_storage_max_size": 3000000000000,
        "scratch_storage_max_volumes_count": 1,
        "monthly_price": 2092.545,
        "hourly_price": 2.8665,
        "capabilities": {"boot_types": ["local"], "placement_groups": True, "block_storage": True},
        "network": {"ipv6_support": True, "interfaces": []},
        "block_bandwidth": 2097152000,
        "end_of_service": False,
    } | changes


def page(servers: dict[str, Any], total: int) -> httpx.Response:
    return httpx.Response(200, json={"servers": servers}, headers={"X-Total-Count": str(total)})


def test_types_and_prices_of_every_page() -> None:
    cloud = Cloud()
    filler = {f"DEV-{n}": type_json(hourly_price=0.01) for n in range(100)}
    pages = [page(filler, 101), page({"H100-1-80G": type_json()}, 101)]
    cloud.fail("GET product", *pages, *pages)

    prices = play(cloud, lambda api: api.prices(ZONE))
    assert len(prices) == 101
    assert prices["H100-1-80G"] == 2.8665
    types = play(cloud, lambda api: api.types(ZONE))
    assert types["H100-1-80G"] == CommercialType(2.8665, 3_000_000_000_000)


def test_a_type_without_a_price_is_not_free() -> None:
    cloud = Cloud()
    cloud.fail("GET product", page({"A": type_json(hourly_price=None), "B": type_json()}, 2))
    assert play(cloud, lambda api: api.prices(ZONE)) == {"B": 2.8665}


def test_stock_of_every_page() -> None:
    cloud = Cloud()
    words = ["available", "scarce", "shortage", "on_the_moon"]
    first = {f"DEV-{n}": {"availability": "available"} for n in range(100)}
    second = {word: {"availability": word} for word in words}
    cloud.fail("GET product", page(first, 104), page(second, 104))

    found = play(cloud, lambda api: api.availability(ZONE))
    assert len(found) == 104
    assert [found[word] for word in words] == [
        Availability.AVAILABLE,
        Availability.SCARCE,
        Availability.SHORTAGE,
        Availability.SCARCE,
    ]


@pytest.mark.parametrize("servers", [{"A": None}, {"A": "available"}])
def test_unreadable_stock_is_no_stock(servers: dict[str, Any]) -> None:
    cloud = Cloud()
    cloud.fail("GET product", page(servers, 1))
    with pytest.raises(Transient, match="unreadable"):
        play(cloud, lambda api: api.availability(ZONE))


def images(*entries: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"local_images": entries, "total_count": len(entries)})


def test_the_image_is_the_one_that_boots_the_type() -> None:
    cloud = Cloud()
    cloud.fail(
        "GET images",
        images(
            image_json(id="arm", arch="arm64"),
            image_json(id="cpu", compatible_commercial_types=["DEV1-S"]),
            image_json(id="right"),
        ),
    )
    play(cloud, lambda api: api.create(ORDER, b""))

    assert cloud.body("POST servers")["image"] == "right"
    assert dict(cloud.requests[0].url.params) == {
        "image_label": LABEL,
        "zone": ZONE,
        "type": "instance_sbs",
        "page_size": "100",
        "page": "1",
    }


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([image_json()], "image .* does not fit DEV1-S in fr-par-2: it is for H100-1-80G, L40S"),
        ([], "there is no such image in this zone"),
        ([image_json(arch="arm64")], "there is no such image in this zone"),
    ],
)
def test_an_image_that_does_not_fit(entries: list[dict[str, Any]], words: str) -> None:
    cloud = Cloud()
    cloud.fail("GET images", images(*entries))
    with pytest.raises(Rejected, match=words):
        play(cloud, lambda api: api.image_fits(LABEL, Placement("DEV1-S", ZONE)))


def test_an_image_is_looked_up_once_per_placement_for_ten_minutes() -> None:
    cloud = Cloud()

    async def scene(api: ScalewayApi) -> list[int]:
        counts = []
        for wait in (0, 599, 2):
            await LoopClock().sleep(wait)
            await api.image_fits(LABEL, ORDER.placement)
            counts.append(len(cloud.steps))
        await api.image_fits(LABEL, Placement("L40S-1-48G", ZONE))
        return [*counts, len(cloud.steps)]

    assert play(cloud, scene) == [1, 1, 2, 3]
