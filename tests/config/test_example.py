"""The example is the documentation of the file: it must load, be complete and tell the truth."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from gpu_autoscaler.config.hours import WindowConfig, WorkingHoursConfig
from gpu_autoscaler.config.load import load_config
from gpu_autoscaler.config.models import (
    AgentConfig,
    Config,
    PlacementConfig,
    QueueConfig,
    VolumeConfig,
)
from gpu_autoscaler.config.money import BudgetConfig, PricesConfig
from gpu_autoscaler.config.secrets import SECRET_VARIABLES
from gpu_autoscaler.config.services import (
    ChannelConfig,
    ClearmlConfig,
    ScalewayConfig,
    StoreConfig,
    WeeklyReportConfig,
)

FOLDER = Path(__file__).parents[2] / "config"
EXAMPLE = FOLDER / "queues.example.yaml"
ENV = {"GPU_AUTOSCALER_PROJECT_ID": "11111111-2222-3333-4444-555555555555"}


def test_the_example_covers_the_four_queues() -> None:
    config = load_config(EXAMPLE, ENV)
    assert list(config.queues) == ["H100-1-80G", "H100-2-80G", "H100-SXM-4-80G", "H100-SXM-8-80G"]
    for name, queue in config.queues.items():
        assert {placement.commercial_type for placement in queue.placements} == {name}
    assert config.zones == ("fr-par-2", "pl-waw-2")


def test_the_values_shown_are_the_defaults() -> None:
    config = load_config(EXAMPLE, ENV)
    shown = config.queues["H100-SXM-4-80G"]
    assert shown == QueueConfig(name=shown.name, placements=shown.offers)
    assert config == Config(fleet="research", scaleway=config.scaleway, queues=config.queues)
    assert config.scaleway == ScalewayConfig(project_id=ENV["GPU_AUTOSCALER_PROJECT_ID"])


def test_every_line_that_is_commented_out_can_be_used(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    whole = re.sub(r"^( *)# (?=[a-z_]+: [^ ]*( --\S+ \S+)?$)", r"\1", text, flags=re.MULTILINE)
    whole = re.sub(r"^# (store:|  [a-z]+: \S+)$", r"\1", whole, flags=re.MULTILINE)
    groups = r"^  # (security_group_ids:|  [a-z0-9-]+: [0-9a-f-]{36})$"
    whole = re.sub(groups, r"  \1", whole, flags=re.MULTILINE)
    channels = r"^# (notifications:|  - url: \S+|    min_severity: \w+)$"
    whole = re.sub(channels, r"\1", whole, flags=re.MULTILINE)
    whole = re.sub(r"^( +)# (- \{type|   scratch)", r"\1\2", whole, flags=re.MULTILINE)
    path = tmp_path / "whole.yaml"
    path.write_text(whole)
    urls = {
        "GPU_AUTOSCALER_HEARTBEAT_URL": "https://hc.org/ping",
        "GPU_AUTOSCALER_NOTIFY_URL": "json://hooks.org/x",
    }
    config = load_config(path, {**ENV, **urls})
    assert config.notifications == (ChannelConfig(url="json://hooks.org/x"),), "the default"
    assert config.max_eur_per_hour is not None
    own = config.queues["H100-1-80G"].offers[-1]
    assert own.another_machine
    assert own.max_price_per_hour is not None
    assert all(queue.max_price_per_hour for queue in config.queues.values())
    assert config.heartbeat_url == "https://hc.org/ping"
    assert config.store is not None
    shown = load_config(EXAMPLE, ENV)
    short = Config.model_validate({**dict(shown), "store": {"bucket": config.store.bucket}})
    assert config.store == short.store, "the values shown are the defaults"
    assert set(config.scaleway.security_group_ids) == set(config.zones)
    assert all(queue.agent.docker_arguments for queue in config.queues.values())
    assert all(queue.idle_timeout_after_success for queue in config.queues.values())


@pytest.mark.parametrize(
    "model",
    [
        Config,
        ClearmlConfig,
        ScalewayConfig,
        StoreConfig,
        QueueConfig,
        PlacementConfig,
        VolumeConfig,
        AgentConfig,
        ChannelConfig,
        PricesConfig,
        BudgetConfig,
        WorkingHoursConfig,
        WindowConfig,
        WeeklyReportConfig,
    ],
)
def test_every_key_is_documented(model: type[BaseModel]) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    fields = {field.alias or name for name, field in model.model_fields.items()}
    keys = sorted(fields - {"name"})
    missing = [
        key for key in keys if not re.search(rf"(^[ #-]*|{{|, ){key}: ?", text, re.MULTILINE)
    ]
    assert missing == []


def test_every_secret_is_documented() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in SECRET_VARIABLES if f"`{name}`" not in readme] == []
