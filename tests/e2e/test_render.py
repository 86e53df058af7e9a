"""`gpu-autoscaler render`: the script of an instance, masked for people, and as it is."""

from pathlib import Path

import pytest
from clearml_agent.backend_config.config import Config as AgentSettings

from tests.bootstrap.machine import Machine
from tests.e2e.support import (
    TOOLS,
    Ended,
    clean_environment,
    daemon_environment,
    gpu_autoscaler,
    in_real_time,
    process,
)

pytestmark = pytest.mark.e2e

QUEUE = "H100-2-80G"
EXAMPLE = Path(__file__).parents[2] / "config" / "queues.example.yaml"
PASSWORD = "a'b\"$(reboot)\\n#"
SECRETS = {
    "CLEARML_ACCESS_KEY": "access-of-clearml",
    "CLEARML_SECRET_KEY": "secret-of-clearml",
    "AGENT_GIT_USER": "somebody",
    "AGENT_GIT_PASSWORD": PASSWORD,
    "AGENT_S3_ACCESS_KEY": "access-of-storage",
    "AGENT_S3_SECRET_KEY": "secret-of-storage",
    "PROJECT_ID": "11111111-2222-3333-4444-555555555555",
}
HIDDEN = [value for name, value in SECRETS.items() if name.endswith(("KEY", "PASSWORD"))]


async def render(home: Path, *options: str) -> str:
    words = ("render", QUEUE, "--config", str(EXAMPLE), *options)
    ended = await gpu_autoscaler(*words, env=daemon_environment(home, **SECRETS))
    assert (ended.code, ended.err) == (0, "")
    return ended.out


async def lint(script: str, home: Path, *words: str) -> Ended:
    """What a checker says of a script on its standard input."""
    environment = clean_environment(home)
    return await process(*words, environment=environment, stdin=script.encode())


@pytest.mark.parametrize("options", [(), ("--unmask",)], ids=["masked", "unmasked"])
@in_real_time
async def test_bash_and_shellcheck_find_no_fault(tmp_path: Path, options: tuple[str, ...]) -> None:
    script = await render(tmp_path, *options)
    assert await lint(script, tmp_path, "bash", "-n") == Ended(0, "", "")
    assert await lint(script, tmp_path, str(TOOLS / "shellcheck"), "-") == Ended(0, "", "")


@in_real_time
async def test_secrets_are_masked_and_the_rest_is_not(tmp_path: Path) -> None:
    masked = await render(tmp_path)
    assert not [secret for secret in HIDDEN if secret in masked]
    assert "reboot" not in masked
    assert 'agent.git_user: "somebody"' in masked
    assert f"--queue {QUEUE}" in masked
    assert 'CLEARML_API_SECRET_KEY="********"' in masked


@in_real_time
async def test_the_unmasked_script_writes_exactly_the_password(tmp_path: Path) -> None:
    script = await render(tmp_path, "--unmask")
    machine = Machine(tmp_path)
    outcome = machine.run(script.encode())
    assert outcome.returncode == 0, outcome.stderr.decode()
    conf = str(machine.root / "root/clearml.conf")
    assert AgentSettings._read_single_file(conf, verbose=False)["agent.git_pass"] == PASSWORD


@in_real_time
async def test_an_unknown_queue_is_bad_usage_and_names_the_known_ones(tmp_path: Path) -> None:
    words = ("render", "H100-3-80G", "--config", str(EXAMPLE))
    ended = await gpu_autoscaler(*words, env=daemon_environment(tmp_path, **SECRETS))
    assert (ended.code, ended.out) == (2, "")
    assert "no queue 'H100-3-80G'" in ended.err
    assert QUEUE in ended.err
