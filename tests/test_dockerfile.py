"""The Dockerfile by itself, where no image can be built."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")


def test_the_dockerfile_is_as_the_linter_wants_it() -> None:
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, "")


def test_the_image_has_the_packages_version() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = re.findall(r"^ARG VERSION=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found == [package]
