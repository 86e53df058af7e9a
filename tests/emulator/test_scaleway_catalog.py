"""What can be ordered."""

from gpu_autoscaler.emulator.scaleway_catalog import default_catalog

PAGE = 50


def test_half_of_the_gpu_types_stand_on_the_second_page() -> None:
    names = [kind.name for kind in default_catalog().in_zone("fr-par-2")]
    assert len(names) == 135
    assert names == sorted(names)
    assert (names[0], names[PAGE - 1]) == ("B300-SXM-2-288G", "H100-SXM-2-80G")
    assert names[PAGE : PAGE + 2] == ["H100-SXM-4-80G", "H100-SXM-8-80G"]


def test_gpu_types_are_only_where_they_were_seen() -> None:
    catalog = default_catalog()
    gpus = {
        zone: {kind.name for kind in catalog.in_zone(zone) if kind.gpus}
        for zone in ("fr-par-1", "nl-ams-1", "pl-waw-2")
    }
    assert gpus["nl-ams-1"] == set()
    assert {"H100-1-80G", "L40S-1-48G"} <= gpus["pl-waw-2"]
    assert "H100-SXM-2-80G" not in gpus["pl-waw-2"]
    assert not any(name.startswith("H100") for name in gpus["fr-par-1"])


def test_gpu_images_run_on_gpu_types_alone_and_plain_ones_never() -> None:
    catalog = default_catalog()
    gpu_os = catalog.image("fr-par-2", "ubuntu_noble_gpu_os_13_nvidia")
    plain = catalog.image("fr-par-2", "ubuntu_jammy")
    assert gpu_os is not None
    assert plain is not None
    assert {"H100-1-80G", "H100-SXM-8-80G", "L4-1-24G"} <= set(gpu_os.types)
    assert "DEV1-S" in plain.types
    assert not any(catalog.types[name].gpus for name in plain.types)
