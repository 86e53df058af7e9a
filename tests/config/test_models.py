from datetime import timedelta

import pytest
from pydantic import ValidationError

from gpu_autoscaler.config.fields import looks_secret, slug
from gpu_autoscaler.config.models import (
    AgentConfig,
    Config,
    Machine,
    PlacementConfig,
    QueueConfig,
    VolumeConfig,
)
from gpu_autoscaler.config.services import ClearmlConfig, ScalewayConfig, StoreConfig
from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.model import Placement
from tests.policy.worlds import config

PROJECT = "11111111-2222-3333-4444-555555555555"
H100 = Placement("H100-1-80G", "fr-par-2")
HERE = PlacementConfig(type="H100-1-80G", zone="fr-par-2")


def test_a_config_can_be_built_from_values() -> None:
    queue = QueueConfig(
        name="train",
        placements=(
            PlacementConfig(type="H100-1-80G", zone="fr-par-2"),
            PlacementConfig(type="H100-1-80G", zone="pl-waw-2"),
        ),
        idle_timeout=timedelta(minutes=5),
        volume=VolumeConfig(size=125 * 10**9, iops=15000),
    )
    config = Config(
        fleet="lab", scaleway=ScalewayConfig(project_id=PROJECT), queues={"train": queue}
    )
    assert config.queues["train"].placements[0] is not None
    assert config.queues["train"].placements == (H100, Placement("H100-1-80G", "pl-waw-2"))
    assert config.zones == ("fr-par-2", "pl-waw-2")


def test_a_placement_says_what_differs_there() -> None:
    own = PlacementConfig(
        type="L4-1-24G",
        zone="fr-par-1",
        image="other",
        volume=VolumeConfig(iops=15000),
        scratch=0,
        max_price_per_hour=2.5,
    )
    plain = PlacementConfig(type="L4-1-24G", zone="fr-par-2", max_price_per_hour=1)
    queue = QueueConfig(
        name="train",
        placements=(HERE, own, plain),
        volume=VolumeConfig(size=300 * 10**9),
        scratch=10**12,
        image="theirs",
        max_price_per_hour=9,
    )
    volume = VolumeConfig(size=300 * 10**9)
    fast = VolumeConfig(size=300 * 10**9, iops=15000)
    assert queue.at(H100) == Machine("theirs", volume, 10**12, 9)
    assert queue.at(own.place) == Machine("other", fast, 0, 2.5)
    assert queue.at(plain.place) == Machine("theirs", volume, 10**12, 1)
    assert queue.at(Placement("B300-SXM-2-288G", "fr-par-2")) == queue.at(H100), "as the queue says"
    assert [offer.another_machine for offer in queue.offers] == [False, True, False]


def test_a_config_cannot_be_changed() -> None:
    queue = QueueConfig(name="train", placements=(HERE,))
    with pytest.raises(ValidationError, match="frozen"):
        queue.max_instances = 9


def test_the_defaults_are_those_of_the_design() -> None:
    queue = QueueConfig(name="train", placements=(HERE,))
    assert (queue.min_instances, queue.max_instances, queue.idle_action) == (0, 2, "stop")
    assert (queue.idle_timeout, queue.idle_timeout_after_success) == (timedelta(minutes=30), None)
    assert queue.stale_timeout == queue.lost_timeout == timedelta(minutes=10)
    assert queue.stopped_retention == timedelta(hours=24)
    assert (queue.volume.size, queue.volume.iops, queue.scratch) == (200 * 10**9, 5000, 0)
    assert queue.image == "ubuntu_jammy_gpu_os_12"
    assert (queue.agent.version, queue.agent.polling_interval) == ("3.0.3", timedelta(seconds=5))


@pytest.mark.parametrize(
    ("api", "web", "files"),
    [
        ("https://api.clear.ml", "https://app.clear.ml", "https://files.clear.ml"),
        ("https://api.lab.org/", "https://app.lab.org", "https://files.lab.org"),
        ("http://box:8008", "http://box:8080", "http://box:8081"),
        ("http://[::1]:8008", "http://[::1]:8080", "http://[::1]:8081"),
        ("http://127.0.0.1:45321", None, None),
    ],
)
def test_the_other_hosts_follow_from_the_api(api: str, web: str | None, files: str | None) -> None:
    config = ClearmlConfig(api_host=api)
    assert (config.web_host, config.files_host) == (web, files)
    assert not config.api_host.endswith("/")


def test_a_written_host_is_not_derived() -> None:
    config = ClearmlConfig(api_host="https://api.lab.org", web_host="https://ui.lab.org/")
    assert config.web_host == "https://ui.lab.org"
    assert config.files_host == "https://files.lab.org"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H100-1-80G", "h100-1-80g"),
        ("  GPU / Küche_2", "gpu-k-che-2"),
        ("日本語", ""),
        ("a" * 80, "a" * 56),
        ("a" * 55 + "-b", "a" * 55),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_names_that_hold_secrets_are_known() -> None:
    secret = ("HF_TOKEN", "WANDB_API_KEY", "secret_key", "git_pass", "AWS_ACCESS_KEY_ID")
    harmless = ("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "COMPASS", "KEY", "SECRET_FILE")
    assert [key for key in (*secret, *harmless) if looks_secret(key)] == list(secret)


def test_an_agents_variables_stay_out_of_repr_and_its_secrets_can_be_masked() -> None:
    agent = AgentConfig(environment={"HF_TOKEN": "hf-hidden", "LOG": "debug-too"})
    assert "hidden" not in repr(agent)
    assert "debug-too" not in str(agent)
    assert agent.secret_values == ("hf-hidden",)


def test_a_validation_error_does_not_show_what_it_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        ScalewayConfig(project_id="hunter2")
    assert "hunter2" not in str(caught.value)


def config_with(store: StoreConfig | None, **more: object) -> Config:
    queue = QueueConfig(name="train", placements=(HERE,))
    project = ScalewayConfig(project_id=PROJECT)
    whole = {"fleet": "lab", "scaleway": project, "queues": {"train": queue}, **more}
    return Config.model_validate({**whole, "store": store})


def test_where_the_object_is_follows_from_fleet_and_region() -> None:
    store = config_with(StoreConfig(bucket="my-bucket", region="nl-ams")).store
    assert store is not None
    assert (store.bucket, store.key) == ("my-bucket", "gpu-autoscaler/lab.json")
    assert (store.region, store.endpoint) == ("nl-ams", "https://s3.nl-ams.scw.cloud")
    assert store.lease == timedelta(minutes=3)
    written = StoreConfig(bucket="my-bucket", key="my/own", endpoint="http://127.0.0.1:5000/")
    store = config_with(written, fleet="Dr. Who & co").store
    assert store is not None
    assert (store.key, store.endpoint) == ("my/own", "http://127.0.0.1:5000")


def test_a_fleet_whose_name_makes_no_key_needs_one() -> None:
    with pytest.raises(ValidationError, match="needs a key"):
        config_with(StoreConfig(bucket="my-bucket"), fleet="Dr. Who & co")


def test_a_lease_lasts_for_four_polls() -> None:
    interval = timedelta(minutes=1)
    enough = StoreConfig(bucket="my-bucket", lease=timedelta(minutes=4))
    assert config_with(enough, poll_interval=interval).store is not None
    with pytest.raises(
        ValidationError, match=r"lease \(3m\) is below 4 times poll_interval \(4m\)"
    ):
        config_with(StoreConfig(bucket="my-bucket"), poll_interval=interval)


@pytest.mark.parametrize(
    ("lease", "good"), [("89s", False), ("90s", True), ("1h", True), ("3601s", False)]
)
def test_a_lease_is_neither_too_short_nor_too_long(lease: str, good: bool) -> None:
    given = {"bucket": "my-bucket", "lease": lease}
    if good:
        assert format_duration(StoreConfig.model_validate(given).lease) in ("1m30s", "1h")
        return
    with pytest.raises(ValidationError, match="1m30s to 1h is allowed"):
        StoreConfig.model_validate(given)


def test_whether_the_directory_was_chosen_can_be_told() -> None:
    assert "state_dir" not in config_with(None).model_fields_set
    assert "state_dir" in config_with(None, state_dir="state").model_fields_set


def test_a_heartbeat_url_is_kept_as_it_is_and_to_itself() -> None:
    url = "https://push.example.org/api/push/hidden/?status=up"
    config = config_with(None, heartbeat_url=url)
    assert config.heartbeat_url == url
    assert "hidden" not in f"{config!r} {config}"


def test_a_zone_without_its_security_group_is_a_mistake_once_others_have_one() -> None:
    """Its machines would be open to the world, and nobody told."""
    groups = {"fr-par-2": "11111111-2222-3333-4444-555555555555"}
    scaleway = {"project_id": "11111111-2222-3333-4444-555555555555", "security_group_ids": groups}
    here = {"type": "H100-1-80G", "zone": "fr-par-2"}
    there = {"type": "H100-1-80G", "zone": "pl-waw-2"}
    assert config({"placements": [here]}, scaleway=scaleway).scaleway.security_group_ids == groups
    with pytest.raises(ValidationError, match=r"pl-waw-2, which scaleway\.security_group_ids"):
        config({"placements": [here, there]}, scaleway=scaleway)
