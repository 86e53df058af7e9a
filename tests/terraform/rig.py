"""Runs Terraform on a copy of `terraform/`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.terraform.provider import serve

ROOT = Path(__file__).parents[2]
SECRETS = {"clearml_access_key": "clearml-access-1f0c", "clearml_secret_key": "clearml-secret-9d7e"}
SUGGESTED = {"api_key_expires_at": "2099-01-01T00:00:00Z", "image_tag": "1.2.3"}


class Deployment:
    """A folder as a user has it who followed the README."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def run(self, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        """What Terraform says to a command, whatever the exit code."""
        every = {**SECRETS, **SUGGESTED, **variables}
        given = {f"TF_VAR_{name}": value for name, value in every.items() if value is not None}
        return subprocess.run(
            [sys.executable, "-m", "tests.terraform.cli", f"-chdir={self.folder}", *arguments],
            cwd=ROOT,
            env={**self.environment, **given},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def do(self, *arguments: str, **variables: str | None) -> str:
        """What Terraform says to a command that succeeds."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def replace(self, file: str, old: str, new: str) -> None:
        """Change what a file says in one place."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} says {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def complaints(self) -> list[str]:
        """All that `terraform validate` finds, warnings too."""
        said = json.loads(self.run("validate", "-json").stdout)
        return [f"{each['summary']}: {each['detail']}" for each in said["diagnostics"]]

    def changes(self, **variables: str | None) -> dict[str, list[str]]:
        """What `terraform plan` would do, by address; what stays is left out."""
        self.do("plan", "-out=plan", "-input=false", **variables)
        planned = json.loads(self.do("show", "-json", "plan"))["resource_changes"]
        actions = {each["address"]: each["change"]["actions"] for each in planned}
        return {address: each for address, each in actions.items() if each != ["no-op"]}

    def outputs(self) -> dict[str, Any]:
        """Of what was applied."""
        told = json.loads(self.do("output", "-json"))
        return {name: each["value"] for name, each in told.items()}

    def resource(self, kind: str) -> dict[str, Any]:
        """What the only resource of its kind holds, of what was applied."""
        state = json.loads(self.do("show", "-json"))["values"]["root_module"]["resources"]
        (values,) = (each["values"] for each in state if each["type"] == kind)
        held: dict[str, Any] = values
        return held


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """An initialised one in an empty folder; nothing outside it is read or written."""
    home = folder / "home"
    home.mkdir()
    shutil.copytree(ROOT / "terraform", folder / "terraform")
    shutil.copy(folder / "terraform" / "queues.example.yaml", folder / "terraform" / "queues.yaml")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CHECKPOINT_DISABLE": "1",  # or Terraform asks its makers for news
        "TF_CLI_CONFIG_FILE": os.devnull,
        "TF_CLI_ARGS": "-no-color",
        "AWS_ACCESS_KEY_ID": "of-the-state",
        "AWS_SECRET_ACCESS_KEY": "of-the-state",
    }
    with serve(folder) as provider:
        made = Deployment(folder / "terraform", {**environment, **provider})
        made.do("init")
        yield made
