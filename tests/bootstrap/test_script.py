"""The rendered script, run on a bare machine."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from clearml_agent.backend_api.config import load
from clearml_agent.backend_config.config import Config as AgentSettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_autoscaler.bootstrap.render import Bootstrap
from tests.bootstrap.machine import Machine, config, secrets
from tests.bootstrap.systemd import environment_file, exec_words
from tests.bootstrap.test_quoting import ANY_TEXT, NASTY

UNIT = "etc/systemd/system/clearml-agent.service"
CONF = "root/clearml.conf"
ENVIRONMENT = "etc/clearml/environment"
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
FILES = {CONF: 0o600, ENVIRONMENT: 0o600, UNIT: 0o644, "root/clearml_extra_script.sh": 0o700}

LINE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20) | st.just(
    "a'b\"$(reboot)\\n# END_OF_FILE"
)
NAME = LINE.map(lambda text: f"q1 {text}|".replace(",", ""))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _unit(content: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (x.partition("=") for x in content.splitlines())]


def _exec_start(machine: Machine) -> list[str]:
    (line,) = (value for key, value in _unit(machine.read(UNIT)) if key == "ExecStart")
    return exec_words(line)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(password=ANY_TEXT.filter(bool), queue=NAME, variable=LINE, script=ANY_TEXT)
def test_any_text_arrives_exactly(password: str, queue: str, variable: str, script: str) -> None:
    agent = {"environment": {"MY_VARIABLE": variable}, "extra_script": f": <<'X'\n{script}\nX"}
    given_secrets = secrets(
        agent_clearml_secret_key=password,
        agent_git_password=password,
        agent_s3_secret_key=password,
    )
    bootstrap = Bootstrap(config(agent, name=queue), given_secrets)
    script_bytes = bootstrap.user_data(queue, "gpu-1a2b3c")
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        outcome = machine.run(script_bytes)
        assert outcome.returncode == 0, outcome.stderr.decode()
        conf = AgentSettings._read_single_file(str(machine.root / CONF), verbose=False)
        assert conf["agent.git_pass"] == password
        assert conf["sdk.aws.s3.secret"] == password
        variables = environment_file(machine.read(ENVIRONMENT))
        assert variables["CLEARML_API_SECRET_KEY"] == password
        assert variables["MY_VARIABLE"] == variable
        assert variables["CLEARML_WORKER_ID"] == "gpu-1a2b3c"
        assert _exec_start(machine)[-3:] == ["--queue", queue, "--foreground"]
        written = machine.read("root/clearml_extra_script.sh")
        assert written == agent["extra_script"].rstrip("\n") + "\n"  # type: ignore[attr-defined]
        assert sorted(os.listdir(machine.root)) == ["etc", "root", "user-data"]
        assert _shellcheck(script_bytes) == ""


def _shellcheck(script: bytes) -> str:
    found = subprocess.run([SHELLCHECK, "-"], input=script, capture_output=True, check=False)
    return (found.stdout + found.stderr).decode()


def test_shellcheck_would_complain() -> None:
    assert "SC2086" in _shellcheck(b'#!/bin/bash\nx="$1"\nrm $x\n')


def test_files_have_their_modes_and_nothing_else_is_left(machine: Machine) -> None:
    assert machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")).returncode == 0
    folders = ("root", "etc/clearml", "etc/systemd/system")
    found = {
        str(path.relative_to(machine.root)): machine.mode(str(path.relative_to(machine.root)))
        for folder in folders
        for path in (machine.root / folder).iterdir()
        if path.is_file()
    }
    assert found == FILES


def test_what_the_machine_is_asked_to_do(machine: Machine) -> None:
    outcome = machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    assert outcome.stdout.decode().splitlines()[-1] == "bootstrap: done"
    venv = f"{machine.root}/root/clearml_agent_venv"
    assert [call for call in machine.calls if not call.startswith("dpkg-query")] == [
        f"python3 -m venv {venv}",
        "python -m pip install --quiet --disable-pip-version-check clearml-agent==3.0.3",
        "systemctl daemon-reload",
        "systemctl try-restart clearml-agent.service",
        "systemctl enable --now clearml-agent.service",
    ]


def test_only_missing_packages_are_installed_and_nothing_is_upgraded(tmp_path: Path) -> None:
    machine = Machine(tmp_path, installed="git")
    agent = {"packages": ["htop", "git"]}
    assert machine.run(Bootstrap(config(agent), secrets()).user_data("gpu", "g")).returncode == 0
    apt = [call.partition("300 ")[2] for call in machine.calls if call.startswith("apt-get")]
    assert apt == [
        "update",
        "install -y --no-install-recommends python3-venv htop docker.io",
    ]


def test_without_docker_nothing_of_docker_is_installed_or_asked_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, installed="git python3-venv")
    script = Bootstrap(config({"docker": False}), secrets()).user_data("gpu", "gpu-1")
    assert machine.run(script).returncode == 0
    assert not any(call.startswith("apt-get") for call in machine.calls)
    assert "--docker" not in _exec_start(machine)


def test_a_second_run_repeats_nothing(machine: Machine) -> None:
    script = Bootstrap(config({"extra_script": "echo hello"}), secrets()).user_data("gpu", "gpu-1")
    machine.run(script)
    before = {path: machine.read(path) for path in FILES}
    second = machine.run(script)
    assert second.returncode == 0
    assert {path: machine.read(path) for path in FILES} == before
    assert {path: machine.mode(path) for path in FILES} == FILES
    assert machine.calls[-2:] == [
        "systemctl daemon-reload",
        "systemctl enable --now clearml-agent.service",
    ]


def test_a_second_run_restarts_a_running_agent_when_something_changed(machine: Machine) -> None:
    machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    machine.run(Bootstrap(config(), secrets(agent_git_user="x")).user_data("gpu", "gpu-1"))
    assert "systemctl try-restart clearml-agent.service" in machine.calls


def test_a_file_that_was_readable_by_others_is_closed(machine: Machine) -> None:
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")
    machine.run(script)
    (machine.root / CONF).chmod(0o644)
    machine.run(script)
    assert machine.mode(CONF) == 0o600


@pytest.mark.parametrize(
    ("failing_call", "step", "attempts"),
    [
        ("300 update", "install_packages", 5),
        ("300 install", "install_packages", 5),
        ("-m venv", "install_agent", 1),
        ("-m pip install", "install_agent", 5),
        ("daemon-reload", "start_agent", 1),
        ("enable --now", "start_agent", 1),
    ],
)
def test_a_failing_step_is_named(
    tmp_path: Path, failing_call: str, step: str, attempts: int
) -> None:
    machine = Machine(tmp_path, installed="docker")
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")
    outcome = machine.run(script, fail=failing_call)
    assert outcome.returncode != 0
    last_line = outcome.stderr.decode().splitlines()[-1]
    assert last_line.startswith(f'bootstrap failed in step "{step}"')
    assert sum(failing_call in call for call in machine.calls) == attempts
    assert failing_call in machine.calls[-1], "went on after the failure"


def test_a_failing_extra_script_is_named_and_no_agent_starts(machine: Machine) -> None:
    agent = {"extra_script": "true\nfalse\ntouch /not-reached"}
    outcome = machine.run(Bootstrap(config(agent), secrets()).user_data("gpu", "gpu-1"))
    assert outcome.stderr.decode() == (
        'bootstrap failed in step "run_extra_script" (exit code 1)\n'
    )
    assert not any(call.startswith("systemctl") for call in machine.calls)


def test_an_unwritable_disk_is_a_failing_step(machine: Machine) -> None:
    (machine.root / "etc").write_text("in the way")
    outcome = machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    assert b'failed in step "write_configuration"' in outcome.stderr


def test_a_broken_extra_script_does_not_break_the_bootstrap_itself() -> None:
    script = Bootstrap(config({"extra_script": "if ("}), secrets()).user_data("gpu", "gpu-1")
    bash = subprocess.run(["bash", "-n"], input=script, capture_output=True, check=False)
    assert (bash.returncode, bash.stderr) == (0, b"")


def test_the_agent_loads_the_file_over_its_own_defaults(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {
        "docker_image": "nvidia/cuda:12.6.3-runtime-ubuntu22.04",
        "docker_arguments": "--ipc=host -e 'GREETING=hello world'",
        "extra_clearml_conf": (
            "agent.git_host: git.example.com\n"
            'sdk.aws.s3.credentials: [{bucket: "data", key: ${sdk.aws.s3.key}}]\n'
        ),
    }
    script = Bootstrap(config(agent), secrets(agent_git_password=NASTY)).user_data("gpu", "gpu-1")
    assert machine.run(script).returncode == 0
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(machine.root / CONF))
    conf = load()
    assert conf.get("agent.git_user") == "agent_git_user-value"
    assert conf.get("agent.git_pass") == NASTY
    assert conf.get("agent.git_host") == "git.example.com"
    assert conf.get("agent.default_docker.image") == agent["docker_image"]
    arguments = conf.get("agent.default_docker.arguments")
    assert arguments == ["--ipc=host", "-e", "GREETING=hello world"]
    assert conf.get("agent.docker_install_opencv_libs") is False
    assert conf.get("agent.package_manager.type") == "pip", "the agent's default is gone"
    assert conf.get("sdk.aws.s3.key") == "agent_s3_access_key-value"
    assert conf.get("sdk.aws.s3.secret") == "agent_s3_secret_key-value"
    assert conf.get("sdk.aws.s3.credentials")[0]["key"] == "agent_s3_access_key-value"


def test_the_agents_environment(machine: Machine) -> None:
    agent = {"polling_interval": "30s", "environment": {"CLEARML_API_HOST": "x", "EMPTY": ""}}
    assert (
        machine.run(Bootstrap(config(agent), secrets()).user_data("gpu", "gpu-1")).returncode == 0
    )
    assert environment_file(machine.read(ENVIRONMENT)) == {
        "CLEARML_API_HOST": "https://api.clear.ml",
        "CLEARML_WEB_HOST": "https://app.clear.ml",
        "CLEARML_FILES_HOST": "https://files.clear.ml",
        "CLEARML_API_ACCESS_KEY": "agent_clearml_access_key-value",
        "CLEARML_API_SECRET_KEY": "agent_clearml_secret_key-value",
        "CLEARML_WORKER_ID": "gpu-1",
        "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "30",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("queue", "arguments"),
    [
        ("H100-1-80G", ["--queue", "H100-1-80G"]),
        ("100% $HOME; \\x41 \"é'", ["--queue", "100% $HOME; \\x41 \"é'"]),
        ("-evil", ["--queue=-evil"]),
        ("@/etc/passwd", ["--queue=@/etc/passwd"]),
    ],
)
def test_the_agents_command(machine: Machine, queue: str, arguments: list[str]) -> None:
    machine.run(Bootstrap(config(name=queue), secrets()).user_data(queue, "gpu-1"))
    assert _exec_start(machine) == [
        "/root/clearml_agent_venv/bin/clearml-agent",
        "--config-file",
        "/root/clearml.conf",
        "daemon",
        "--docker",
        "--create-queue",
        *arguments,
        "--foreground",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "simple"),
        ("After", "network-online.target docker.service"),
        ("EnvironmentFile", "/etc/clearml/environment"),
        ("Restart", "always"),
        ("SuccessExitStatus", "254"),
        ("ExecStartPre", "/bin/sh -c 'rm -f /tmp/.clearmlagent_*'"),
        ("WantedBy", "multi-user.target"),
    ],
)
def test_what_the_unit_says(machine: Machine, key: str, value: str) -> None:
    machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    assert (key, value) in _unit(machine.read(UNIT))


def test_the_unit_shares_the_hosts_tmp(machine: Machine) -> None:
    machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    assert "PrivateTmp" not in machine.read(UNIT)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_no_fault_in_the_unit(machine: Machine) -> None:
    queue = "100% $HOME; \\x41 \"é'"
    machine.run(Bootstrap(config(name=queue), secrets()).user_data(queue, "gpu-1"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(machine.root / UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in found.stderr.splitlines() if "clearml-agent" in line]
    not_here = r"Command \S*/clearml-agent is not executable"
    assert [line for line in ours if not re.search(not_here, line)] == []
