"""The rendered script as a value: its hash, its masked form, what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_autoscaler.bootstrap.render as render_module
from gpu_autoscaler.bootstrap.render import Bootstrap
from gpu_autoscaler.config.secrets import Secrets
from gpu_autoscaler.domain.model import Placement
from tests.bootstrap.machine import config, secrets
from tests.bootstrap.test_quoting import NASTY

MAX_BYTES = 16 * 1024


def test_it_is_a_small_script_for_cloud_init() -> None:
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1a2b3c")
    assert script.startswith(b"#!/bin/bash\n")
    print(f"user data: {len(script)} bytes")
    assert len(script) < 0.75 * MAX_BYTES, "a quarter is left to what operators add"
    assert not re.search(rb"^ *#(?!!)", script, re.MULTILINE), "comments stay at home"


def test_an_unknown_queue_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Bootstrap(config(), secrets()).user_data("other", "gpu-1")


@pytest.mark.parametrize(
    "change",
    [
        {"image": "ubuntu_noble_gpu_os_13"},
        {"volume": {"size": "300GB"}},
        {"volume": {"iops": 15000}},
        {"scratch": "100GB"},
        {"scratch": "100GB", "scratch_path": "/data"},
        {"agent": {"version": "3.0.2"}},
        {"agent": {"polling_interval": "10s"}},
        {"agent": {"docker": False}},
        {"agent": {"docker_image": "nvidia/cuda:12"}},
        {"agent": {"registry": "rg.fr-par.scw.cloud"}},
        {"agent": {"docker_arguments": "--ipc=host"}},
        {"agent": {"packages": ["htop"]}},
        {"agent": {"environment": {"A": "1"}}},
        {"agent": {"extra_clearml_conf": "agent.a: 1"}},
        {"agent": {"extra_script": "true"}},
        {"name": "other"},
    ],
    ids=str,
)
def test_the_spec_changes_with_the_machine(change: dict[str, Any]) -> None:
    before = Bootstrap(config(), secrets()).spec("gpu")
    after = Bootstrap(config(**change), secrets()).spec(change.get("name", "gpu"))
    assert after != before


HERE, THERE = Placement("L4-1-24G", "fr-par-1"), Placement("L4-1-24G", "fr-par-2")


def specs(own: dict[str, Any] | None, **change: Any) -> tuple[str, str]:
    """Of the queue's two placements; the second has settings of its own."""
    places = [{"type": p.commercial_type, "zone": p.zone} for p in (HERE, THERE)]
    placements = [places[0], {**places[1], **(own or {})}]
    bootstrap = Bootstrap(config(placements=placements, **change), secrets())
    return bootstrap.spec("gpu", HERE), bootstrap.spec("gpu", THERE)


@pytest.mark.parametrize(
    "own",
    [
        {"image": "ubuntu_noble_gpu_os_13"},
        {"volume": {"size": "300GB"}},
        {"volume": {"iops": 15000}},
        {"scratch": "100GB"},
    ],
    ids=str,
)
def test_a_placement_s_own_settings_change_its_spec_and_no_other(own: dict[str, Any]) -> None:
    here, there = specs(None)
    assert here == there, "the same machine, wherever it is"
    assert specs(own)[0] == here
    assert specs(own)[1] != there
    assert specs({**own, "max_price_per_hour": 3}) == specs(own), "a bound is no machine"
    assert len({*specs(own), *specs(own, agent={"docker": False})}) == 4, "as the agent changes"


def test_a_placement_mounts_scratch_where_it_has_some() -> None:
    place = {"type": HERE.commercial_type, "zone": HERE.zone}
    own = {"type": THERE.commercial_type, "zone": THERE.zone, "scratch": "0GB"}
    bootstrap = Bootstrap(config(placements=[place, own], scratch="100GB"), secrets())
    plain = Bootstrap(config(placements=[place]), secrets())
    assert bootstrap.user_data("gpu", "gpu-1", THERE) == plain.user_data("gpu", "gpu-1")
    assert bootstrap.user_data("gpu", "gpu-1", HERE) == bootstrap.user_data("gpu", "gpu-1")
    assert b"/scratch" in bootstrap.user_data("gpu", "gpu-1", HERE)


@pytest.mark.parametrize("name", [n for n in Secrets.__dataclass_fields__ if "agent_" in n])
def test_the_spec_changes_with_an_instances_secret(name: str) -> None:
    agent = {"registry": "r.io"}
    before = Bootstrap(config(agent), secrets()).spec("gpu")
    assert Bootstrap(config(agent), secrets(**{name: "another"})).spec("gpu") != before


@pytest.mark.parametrize(
    ("change", "changed_secrets"),
    [
        ({"max_instances": 7, "idle_timeout": "5m"}, {}),
        ({"placements": [{"type": "H100-1-80G", "zone": "pl-waw-2"}]}, {}),
        ({}, {"scaleway_secret_key": "x", "api_token": "x", "clearml_secret_key": "x"}),
    ],
)
def test_the_spec_stays_when_no_instance_would_differ(
    change: dict[str, Any], changed_secrets: dict[str, str]
) -> None:
    before = Bootstrap(config(), secrets()).spec("gpu")
    assert Bootstrap(config(**change), secrets(**changed_secrets)).spec("gpu") == before


def test_the_spec_is_twelve_digits_for_a_tag() -> None:
    spec = Bootstrap(config(), secrets()).spec("gpu")
    assert len(spec) == 12
    assert set(spec) <= set("0123456789abcdef")


def test_the_spec_of_the_same_script_differs_under_another_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or whoever reads the tag could test guesses of the other secrets."""
    monkeypatch.setattr(render_module, "environment", lambda *_: "")
    specs = {Bootstrap(config(), secrets(agent_clearml_secret_key=key)).spec("gpu") for key in "ab"}
    assert len(specs) == 2


USERS = ("agent_git_user", "agent_registry_user")
SECRET_NAMES = [n for n in Secrets.__dataclass_fields__ if n not in USERS]


@settings(deadline=None)
@given(st.lists(st.text('ab"\\\n$`%', min_size=3, max_size=12), min_size=7, max_size=7))
def test_no_spelling_of_a_secret_is_left_in_the_masked_script(texts: list[str]) -> None:
    """Differential: whatever the secrets are, the masked script is the same."""
    names = [n for n in SECRET_NAMES if n.startswith("agent_")]
    agent = {"registry": "r.io"}
    marked = {n: f"<{n}{t}>" for n, t in zip(names, texts, strict=True)}
    shown = Bootstrap(config(agent), secrets(**marked)).masked("gpu", "gpu-1")
    assert shown == Bootstrap(config(agent), secrets()).masked("gpu", "gpu-1")


def test_the_masked_script_differs_from_the_real_one_in_its_secrets_alone() -> None:
    bootstrap = Bootstrap(config({"registry": "r.io"}), secrets())
    real = bootstrap.user_data("gpu", "gpu-1").decode()
    for name in sorted(SECRET_NAMES, key=len, reverse=True):
        real = real.replace(f"{name}-value", "********")
    assert bootstrap.masked("gpu", "gpu-1") == real
    assert real.count("********") == 7


def test_a_secret_that_is_not_given_is_not_shown_as_given() -> None:
    shown = Bootstrap(config(), secrets(agent_s3_secret_key=None)).masked("gpu", "gpu-1")
    assert "sdk.aws.s3.secret" not in shown


def test_secrets_in_the_operators_own_texts_are_masked() -> None:
    agent = {
        "environment": {"HF_TOKEN": "hf_abc", "PLAIN": "visible", "PROXY": "http://u:s3cret@p"},
        "docker_arguments": "-e TOKEN=hf_abc -e 'A=s3cret'",
        "extra_clearml_conf": 'agent.extra: "s3cret"',
        "extra_script": "login --password s3cret hf_abc",
    }
    given_secrets = secrets(agent_git_password="s3cret")
    shown = Bootstrap(config(agent), given_secrets).masked("gpu", "gpu-1")
    assert "visible" in shown
    assert "hf_abc" not in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("agent", "given_secrets", "message"),
    [
        ({"extra_script": "a\0b"}, {}, r"agent\.extra_script holds the character U\+0000"),
        ({}, {"agent_git_password": "hunter2\0"}, "the secret agent_git_password holds"),
        ({"docker_arguments": "-e 'hunter2"}, {}, r"agent\.docker_arguments: No closing quot"),
        ({"extra_clearml_conf": "a { b: hunter2"}, {}, r"agent\.extra_clearml_conf is not valid"),
        ({"packages": ["mime=Mime-Version:1"]}, {}, "MIME-Version"),
        ({"registry": "r.io"}, {"agent_registry_user": None}, "AGENT_REGISTRY_USER"),
    ],
)
def test_what_could_make_no_worker_is_refused_at_once(
    agent: dict[str, object], given_secrets: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Bootstrap(config(agent), secrets(**given_secrets))
    assert "queue 'gpu'" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_placeholder_in_a_value_stays_as_it_is() -> None:
    agent = {"extra_script": "echo '{{ environment }}'"}
    assert b"echo '{{ environment }}'" in Bootstrap(config(agent), secrets()).user_data("gpu", "g")


@pytest.mark.parametrize("text", ["{{ nonsense }}", ""])
def test_an_edited_template_must_use_every_placeholder_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "bootstrap.sh").write_text(f"#!/bin/bash\n{text}\n")
    monkeypatch.setattr(render_module, "_TEMPLATE_FOLDERS", (tmp_path,))
    with pytest.raises(ValueError, match=r"bootstrap\.sh: unknown or missing placeholders"):
        Bootstrap(config(), secrets())


def test_nothing_secret_shows_in_a_repr() -> None:
    bootstrap = Bootstrap(config(), replace(secrets(), agent_git_password=NASTY))
    assert "value" not in repr(bootstrap)
