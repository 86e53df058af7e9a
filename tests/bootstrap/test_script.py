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
from tests.bootstrap.machine import NEEDED, Machine, config, secrets
from tests.bootstrap.systemd import environment_file, exec_words
from tests.bootstrap.test_quoting import ANY_TEXT, NASTY

UNIT = "etc/systemd/system/clearml-agent.service"
CONF = "root/clearml.conf"
ENVIRONMENT = "etc/clearml/environment"
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
PREFLIGHT_UNIT = "etc/systemd/system/gpu-autoscaler-preflight.service"
PREFLIGHT = "usr/local/sbin/gpu-autoscaler-preflight"
REPORT = "usr/local/sbin/gpu-autoscaler-report"
FILES = {
    CONF: 0o600,
    ENVIRONMENT: 0o600,
    UNIT: 0o644,
    PREFLIGHT_UNIT: 0o644,
    PREFLIGHT: 0o755,
    REPORT: 0o755,
    "root/clearml_extra_script.sh": 0o700,
    "root/.ssh/gpu-autoscaler": 0o600,
    "root/.ssh/config": 0o600,
}

PASSWORD = "a'b\"$(reboot)\\n#"
STEPS = (
    *("install_packages", "log_in_to_registry", "pull_image", "install_agent"),
    *("write_configuration", "write_units", "run_extra_script", "load_units", "preflight"),
    "start_agent",
)

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
        assert sorted(os.listdir(machine.root)) == ["etc", "root", "user-data", "usr"]
        assert _shellcheck(script_bytes) == ""


def _shellcheck(script: bytes) -> str:
    found = subprocess.run([SHELLCHECK, "-"], input=script, capture_output=True, check=False)
    return (found.stdout + found.stderr).decode()


def test_shellcheck_would_complain() -> None:
    assert "SC2086" in _shellcheck(b'#!/bin/bash\nx="$1"\nrm $x\n')


def test_files_have_their_modes_and_nothing_else_is_left(machine: Machine) -> None:
    assert machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")).returncode == 0
    folders = ("root", "root/.ssh", "etc/clearml", "etc/systemd/system", "usr/local/sbin")
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
    venv, python = f"{machine.root}/root/clearml_agent_venv", f"{machine.root.parent}/bin/python3"
    fetch, *rest = [call for call in machine.calls if not call.startswith("dpkg-query")]
    assert re.fullmatch(r"python3 \S+/pip install .* --target \S+ uv==[0-9.]+", fetch), fetch
    assert rest == [
        f"uv venv --quiet --seed --allow-existing --python {python} {venv}",
        f"uv pip install --quiet --python {venv}/bin/python clearml-agent==3.0.3",
        "systemctl daemon-reload",
        "systemctl stop clearml-agent.service gpu-autoscaler-preflight.service",
        "systemctl enable clearml-agent.service",
        "systemctl start gpu-autoscaler-preflight.service",
        "systemctl start clearml-agent.service",
    ]


@pytest.mark.parametrize("call", ["--target", "uv venv", "uv pip install"])
def test_pip_installs_the_agent_where_uv_cannot(machine: Machine, call: str) -> None:
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")
    assert machine.run(script, fail=call).returncode == 0
    pip = "python -m pip install --quiet --disable-pip-version-check clearml-agent==3.0.3"
    assert pip in machine.calls
    assert not [each for each in machine.calls if "uv pip" in each and call != "uv pip install"]


def test_it_says_how_far_it_is(machine: Machine) -> None:
    machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    assert machine.milestones == [f"installing: {step}" for step in STEPS]


def test_nobody_to_be_told_is_no_failure(machine: Machine) -> None:
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")
    outcome = machine.run(script, fail="curl --fail")
    assert outcome.returncode == 0
    assert b'could not report "installing: preflight"' in outcome.stderr
    assert len(machine.milestones) == 2 * len(STEPS), "each is tried twice"


def test_docker_logs_in_and_the_password_is_on_no_command_line(machine: Machine) -> None:
    agent = {"registry": "rg.fr-par.scw.cloud", "docker_image": "rg.fr-par.scw.cloud/a/b:1"}
    given_secrets = secrets(agent_registry_user="it's me", agent_registry_password=PASSWORD)
    assert (
        machine.run(Bootstrap(config(agent), given_secrets).user_data("gpu", "g")).returncode == 0
    )
    login, pull = (c for c in machine.calls if c.startswith(("docker", "systemd-run")))
    assert login == "docker login --username it's me --password-stdin rg.fr-par.scw.cloud"
    assert machine.told_docker == f"{PASSWORD}\n"
    assert pull.startswith("systemd-run ")
    assert pull.endswith(" docker pull --quiet rg.fr-par.scw.cloud/a/b:1")
    assert machine.calls.index(pull) < min(
        index for index, call in enumerate(machine.calls) if "uv==" in call
    )


def test_an_image_that_cannot_be_pulled_is_no_failure(machine: Machine) -> None:
    script = Bootstrap(config({"docker_image": "a/b:1"}), secrets()).user_data("gpu", "gpu-1")
    assert machine.run(script, fail="systemd-run").returncode == 0


def test_the_ssh_key_arrives_line_by_line(machine: Machine) -> None:
    key = "-----BEGIN KEY-----\nline's end\n-----END KEY-----"
    machine.run(Bootstrap(config(), secrets(agent_ssh_key=key)).user_data("gpu", "gpu-1"))
    assert machine.read("root/.ssh/gpu-autoscaler") == f"{key}\n"


def test_without_an_ssh_key_none_is_written(machine: Machine) -> None:
    machine.run(Bootstrap(config(), secrets(agent_ssh_key=None)).user_data("gpu", "gpu-1"))
    assert not (machine.root / "root/.ssh").exists()


def test_the_scratch_disk_is_in_every_container(machine: Machine) -> None:
    with_scratch = config(scratch="1TB", scratch_path="/data/fast")
    machine.run(Bootstrap(with_scratch, secrets()).user_data("gpu", "gpu-1"))
    conf = AgentSettings._read_single_file(str(machine.root / CONF), verbose=False)
    assert conf["agent.extra_docker_arguments"] == ["-v", "/data/fast:/data/fast"]


def test_only_missing_packages_are_installed_and_nothing_is_upgraded(tmp_path: Path) -> None:
    machine = Machine(tmp_path, installed="git")
    agent = {"packages": ["htop", "git"]}
    assert machine.run(Bootstrap(config(agent), secrets()).user_data("gpu", "g")).returncode == 0
    apt = [call.partition("300 ")[2] for call in machine.calls if call.startswith("apt-get")]
    assert apt == [
        "update",
        "install -y --no-install-recommends"
        " curl iptables python3-venv openssh-client htop docker.io",
    ]


def test_without_docker_nothing_of_docker_is_installed_or_asked_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, installed=NEEDED)
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
    assert machine.calls[-4:] == [
        "systemctl daemon-reload",
        "systemctl enable clearml-agent.service",
        "systemctl start gpu-autoscaler-preflight.service",
        "systemctl start clearml-agent.service",
    ]
    assert not any("uv==" in call for call in machine.calls), "it is there"


def test_a_second_run_restarts_a_running_agent_when_something_changed(machine: Machine) -> None:
    machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    machine.run(Bootstrap(config(), secrets(agent_git_user="x")).user_data("gpu", "gpu-1"))
    assert "systemctl stop clearml-agent.service gpu-autoscaler-preflight.service" in machine.calls


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
        ("docker login", "log_in_to_registry", 5),
        ("daemon-reload", "load_units", 1),
        ("enable clearml-agent", "load_units", 1),
        ("start clearml-agent", "start_agent", 1),
    ],
)
def test_a_failing_step_is_named(
    tmp_path: Path, failing_call: str, step: str, attempts: int
) -> None:
    machine = Machine(tmp_path, installed="docker")
    script = Bootstrap(config({"registry": "r.io"}), secrets()).user_data("gpu", "gpu-1")
    outcome = machine.run(script, fail=failing_call)
    assert outcome.returncode != 0
    last_line = outcome.stderr.decode().splitlines()[-1]
    assert last_line.startswith(f'bootstrap failed in step "{step}"')
    assert sum(failing_call in call for call in machine.calls) == attempts
    assert failing_call in machine.calls[-1], "went on after the failure"
    assert machine.milestones[-1].startswith(f"failed: {step} (exit code ")


@pytest.mark.parametrize("without", ["-m venv", "-m pip install"])
def test_an_agent_that_neither_can_install_is_a_failing_step(tmp_path: Path, without: str) -> None:
    machine = Machine(tmp_path)
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")
    (machine.root.parent / "bin/python3").unlink()
    (machine.root.parent / "bin/python3").write_text(
        f'#!/bin/bash\n[[ "$*" != *--target* ]] && exec {machine.root.parent}/bin/stub-python3 "$@"'
    )
    (machine.root.parent / "bin/python3").chmod(0o755)
    (machine.root.parent / "bin/stub-python3").symlink_to("stub")
    outcome = machine.run(script, fail=without)
    assert outcome.returncode != 0
    assert machine.milestones[-1].startswith("failed: install_agent (exit code ")


def test_a_failing_preflight_has_said_why_itself(machine: Machine) -> None:
    script = Bootstrap(config(), secrets()).user_data("gpu", "gpu-1")
    outcome = machine.run(script, fail="start gpu-autoscaler-preflight")
    assert outcome.returncode != 0
    assert machine.milestones[-1] == "installing: preflight"
    assert not any("start clearml-agent" in call for call in machine.calls)


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
        ("Requires", "gpu-autoscaler-preflight.service"),
        ("After", "network-online.target docker.service gpu-autoscaler-preflight.service"),
        ("UMask", "0077"),
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
def test_systemd_finds_no_fault_in_the_units(machine: Machine) -> None:
    queue = "100% $HOME; \\x41 \"é'"
    machine.run(Bootstrap(config(name=queue), secrets()).user_data(queue, "gpu-1"))
    paths = [str(machine.root / unit) for unit in (UNIT, PREFLIGHT_UNIT)]
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    names = ("clearml-agent", "gpu-autoscaler")
    ours = [line for line in found.stderr.splitlines() if any(name in line for name in names)]
    not_here = r"Command /(root|usr/local/sbin)/\S+ is not executable"
    assert [line for line in ours if not re.search(not_here, line)] == []


def test_shellcheck_finds_no_fault_in_what_is_written(machine: Machine) -> None:
    settings = {"scratch": "1TB", "agent": {"registry": "r.io", "docker_image": "a/b:1"}}
    script = Bootstrap(config(**settings), secrets()).user_data("gpu", "gpu-1")  # type: ignore[arg-type]
    machine.run(script)
    for written in (script.decode(), machine.read(PREFLIGHT), machine.read(REPORT)):
        assert _shellcheck(written.encode()) == ""


def test_a_report_is_one_line_of_ascii(machine: Machine) -> None:
    machine.run(Bootstrap(config(), secrets()).user_data("gpu", "gpu-1"))
    report = machine.root / REPORT
    machine.run(f"#!/bin/bash\n{report} 'failed: é\n{'x' * 300}'\n".encode())
    (said,) = machine.milestones
    assert said == f"failed: ???{'x' * 189}"
