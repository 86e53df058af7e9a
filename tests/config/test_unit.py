"""The systemd unit, by systemd's own eyes."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "config" / "systemd" / "gpu-autoscaler.service"
COMMAND = "/opt/gpu-autoscaler/bin/gpu-autoscaler"
MOST_EXPOSED = 20
"""Tenths, of 100, by systemd's own scale; from 50 on it speaks of `medium`."""

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze (Debian package systemd)"
)


def analysed(*words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60
    )
    return f"{done.returncode} {done.stderr}"


def test_the_unit_has_no_mistakes(tmp_path: Path) -> None:
    """As installed; the command stands for one that exists here."""
    text = UNIT.read_text()
    assert COMMAND in text
    installed = tmp_path / UNIT.name
    installed.write_text(text.replace(COMMAND, "/bin/true"))
    assert analysed("verify", "--man=no", str(installed)) == "0 "


def test_the_unit_may_do_little() -> None:
    bound = f"--threshold={MOST_EXPOSED}"
    said = analysed("security", "--offline=true", "--no-pager", bound, str(UNIT))
    assert said.startswith("0 "), said
