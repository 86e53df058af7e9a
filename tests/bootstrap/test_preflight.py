"""The preflight alone, with stubs for what it looks at: which it lets pass, and what it says."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gpu_autoscaler.bootstrap.render import Bootstrap
from tests.bootstrap.machine import Machine, config, secrets

REPORT = "/usr/local/sbin/gpu-autoscaler-report"
REAL_TOOLS = ("bash", "cat", "chmod", "cut", "grep", "mkdir", "sort", "timeout")
STUB = """#!/bin/bash
printf '%s\\n' "${0##*/} $*" >>"$HERE/calls"
if [[ -e "$HERE/answers/${0##*/}" ]]; then . "$HERE/answers/${0##*/}"; fi
"""
CONF = """echo '{"id": "1", "commercial_type": "TYPE", "tags": ["queue=H100-8-80G"]}'"""


@dataclass
class Preflight:
    """What stands in the stubs' place, and what came of it."""

    folder: Path
    script: str
    answers: dict[str, str] = field(default_factory=dict)

    def run(self) -> "subprocess.CompletedProcess[str]":
        tools, answers = self.folder / "bin", self.folder / "answers"
        for path in (tools, answers):
            path.mkdir(exist_ok=True)
        stub = tools / "stub"
        stub.write_text(STUB)
        stub.chmod(0o755)
        stubs = ("curl", "iptables", "ip6tables", "docker", "lsblk", "blkid", "mount", "mountpoint")
        for tool in (*stubs, "told", "sleep", "wipefs", "mkfs.ext4", *self.answers):
            if not (tools / tool).exists():
                (tools / tool).symlink_to("stub")
        for tool in REAL_TOOLS:
            if not (tools / tool).exists():
                (tools / tool).symlink_to(shutil.which(tool) or "missing")
        for tool, answer in self.answers.items():
            (answers / tool).write_text(f"{answer}\n")
        path = self.folder / "preflight"
        path.write_text(self.script.replace(REPORT, "told"))
        (self.folder / "calls").write_text("")
        return subprocess.run(
            ["bash", str(path)],
            env={"PATH": str(tools), "HERE": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    @property
    def said(self) -> list[str]:
        return [call.removeprefix("told ") for call in self.calls if call.startswith("told ")]


def gpus(count: int) -> str:
    return f'for gpu in $(echo {" ".join(map(str, range(count)))}); do echo "GPU $gpu: H100"; done'


def preflight(folder: Path, commercial_type: str, **queue: object) -> Preflight:
    """On a good machine with two GPUs, unless its answers are changed."""
    (folder / "machine").mkdir()
    machine = Machine(folder / "machine")
    settings = {"agent": {"docker": False}, **queue}
    machine.run(Bootstrap(config(**settings), secrets()).user_data("gpu", "gpu-1"))  # type: ignore[arg-type]
    it = Preflight(folder, machine.read("usr/local/sbin/gpu-autoscaler-preflight"))
    it.answers["curl"] = CONF.replace("TYPE", commercial_type)
    it.answers["nvidia-smi"] = gpus(2)
    it.answers["nvidia-container-cli"] = (
        "printf 'NVRM: 1\\n\\nDevice Index: 0\\nDevice Index: 1\\n'"
    )
    it.answers["mountpoint"] = "exit 1"
    it.answers["blkid"] = "exit 2"
    return it


@pytest.mark.parametrize(
    ("commercial_type", "present", "said"),
    [
        ("H100-2-80G", 2, []),
        ("H100-2-80G", 1, ["failed: 1 GPU, expected 2"]),
        ("H100-2-80G", 0, ["failed: 0 GPU, expected 2"]),
        ("H100-SXM-4-80G", 2, ["failed: 2 GPU, expected 4"]),
        ("B300-SXM-8-288G", 8, []),
        ("L40S-8-48G", 8, []),
        ("RENDER-S", 1, []),
        ("RENDER-S", 0, ["failed: 0 GPU, expected 1"]),
        ("GP1-XS", 0, []),
        ("POP2-2C-8G", 0, []),
    ],
)
def test_the_gpus_are_those_of_the_type(
    tmp_path: Path, commercial_type: str, present: int, said: list[str]
) -> None:
    it = preflight(tmp_path, commercial_type)
    it.answers["nvidia-smi"] = gpus(present)
    outcome = it.run()
    assert it.said == ["preflight", *said]
    assert outcome.returncode == (1 if said else 0)
    assert (f"preflight {said[0]}" if said else "") in outcome.stderr


def test_a_driver_may_come_late(tmp_path: Path) -> None:
    it = preflight(tmp_path, "H100-2-80G")
    late = 'echo >>"$HERE/looks"; if (($(grep -c "" "$HERE/looks") > 2)); then\n{}\nfi'
    it.answers["nvidia-smi"] = late.format(gpus(2))
    assert it.run().returncode == 0
    assert it.said == ["preflight"]


@pytest.mark.parametrize(
    ("tool", "answer", "said"),
    [
        ("docker", "exit 1", "Docker does not answer"),
        ("nvidia-container-cli", "exit 1", "containers see 0 GPU, expected 2"),
        ("nvidia-container-cli", "echo 'Device Index: 0'", "containers see 1 GPU, expected 2"),
        ("iptables", "exit 1", "the metadata address cannot be closed to containers"),
        ("ip6tables", "exit 1", "the metadata address cannot be closed to containers"),
        ("curl", "exit 22", "the metadata service does not answer"),
    ],
)
def test_what_stops_a_machine_is_said(tmp_path: Path, tool: str, answer: str, said: str) -> None:
    it = preflight(tmp_path, "H100-2-80G", agent={"docker": True})
    it.answers[tool] = answer
    assert it.run().returncode == 1
    assert it.said == ["preflight", f"failed: {said}"]


def test_a_good_machine_with_docker_passes(tmp_path: Path) -> None:
    it = preflight(tmp_path, "H100-2-80G", agent={"docker": True})
    assert it.run().returncode == 0
    assert it.said == ["preflight"]
    assert "docker info" in it.calls


def test_rules_that_stand_already_are_not_doubled(tmp_path: Path) -> None:
    it = preflight(tmp_path, "GP1-XS")
    it.run()
    assert not [call for call in it.calls if " -I " in call]
    it.answers["iptables"] = it.answers["ip6tables"] = '[[ "$*" != *" -C "* ]]'
    it.run()
    assert [call for call in it.calls if " -I " in call] == [
        "iptables -w -t raw -I PREROUTING --destination 169.254.42.42 --jump DROP",
        "ip6tables -w -t raw -I PREROUTING --destination fd00:42::42 --jump DROP",
    ]


DISKS = "printf '200000000000 /dev/sda disk\\n1474560 /dev/fd0 disk\\n5000000000 /dev/sr0 rom\\n'"
SCRATCH = "printf '3000000000000 /dev/vdb disk\\n'"


def test_the_scratch_disk_is_formatted_and_mounted(tmp_path: Path) -> None:
    fast = str(tmp_path / "fast")
    it = preflight(tmp_path, "H100-2-80G", scratch="3TB", scratch_path=fast.replace("_", "-"))
    it.script = it.script.replace(fast.replace("_", "-"), fast)
    it.answers["lsblk"] = f"{DISKS}\n{SCRATCH}"
    it.answers["wipefs"] = '[[ "$1" == /dev/vdb ]] || echo dos'
    assert it.run().returncode == 0, it.said
    (mkfs,) = (call for call in it.calls if call.startswith("mkfs"))
    assert mkfs.endswith(" -L gpu-scratch -E lazy_itable_init=1,lazy_journal_init=1 /dev/vdb")
    assert f"mount -o noatime /dev/vdb {fast}" in it.calls
    assert os.stat(fast).st_mode & 0o7777 == 0o1777

    it.answers["blkid"] = "echo /dev/vdb"  # after a reboot
    assert it.run().returncode == 0
    assert not [call for call in it.calls if call.startswith("mkfs")]
    assert f"mount -o noatime /dev/vdb {fast}" in it.calls

    it.answers["mountpoint"] = "exit 0"
    assert it.run().returncode == 0
    assert not [call for call in it.calls if call.startswith("mount ")]


@pytest.mark.parametrize(
    ("wipefs", "what"),
    [("echo ext4", "something is on each disk"), ("exit 1", "a disk that cannot be read")],
)
def test_no_disk_is_formatted_that_may_hold_anything(
    tmp_path: Path, wipefs: str, what: str
) -> None:
    it = preflight(tmp_path, "H100-2-80G", scratch="3TB")
    it.answers["lsblk"] = f"{DISKS}\n{SCRATCH}"
    it.answers["wipefs"] = wipefs
    assert it.run().returncode == 1
    assert it.said == ["preflight", "failed: no scratch disk"], what
    assert not [call for call in it.calls if call.startswith("mkfs")]


@pytest.mark.parametrize(
    ("tool", "said"),
    [("mkfs.ext4", "cannot be formatted"), ("mount", "cannot be mounted")],
)
def test_a_broken_scratch_disk_is_named(tmp_path: Path, tool: str, said: str) -> None:
    it = preflight(tmp_path, "H100-2-80G", scratch="3TB", scratch_path="/tmp")
    it.answers["lsblk"] = SCRATCH
    it.answers[tool] = "exit 1"
    assert it.run().returncode == 1
    assert it.said[-1] == f"failed: scratch disk /dev/vdb {said}"


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="needs mkfs.ext4 and wipefs")
def test_the_real_tools_take_these_words(tmp_path: Path) -> None:
    """What `mkfs.ext4` is asked for works, and `wipefs` tells a raw disk from that."""
    image = tmp_path / "disk"
    with image.open("wb") as disk:
        disk.truncate(64 * 2**20)
    wipefs = ["wipefs", str(image)]
    assert subprocess.run(wipefs, capture_output=True, check=True).stdout == b""
    options = ["-E", "lazy_itable_init=1,lazy_journal_init=1"]
    words = ["mkfs.ext4", "-q", "-m", "0", "-L", "gpu-scratch", *options, str(image)]
    subprocess.run(words, check=True)
    assert b"ext4" in subprocess.run(wipefs, capture_output=True, check=True).stdout
