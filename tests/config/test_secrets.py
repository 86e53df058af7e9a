import pickle
from pathlib import Path

import pytest

from gpu_autoscaler.config.problems import ConfigError
from gpu_autoscaler.config.secrets import PREFIX, Secrets, load_secrets

GIVEN = {
    "GPU_AUTOSCALER_CLEARML_ACCESS_KEY": "clearml-access",
    "GPU_AUTOSCALER_CLEARML_SECRET_KEY": "clearml-secret",
    "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY": "scw-access",
    "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY": "scw-secret",
}
CLEARML_CONF = """
api {
    api_server: "https://api.clear.ml"
    credentials { "access_key" = "conf-access", "secret_key" = "conf-secret" }
}
"""
SCW_CONFIG = """
access_key: top-access
secret_key: top-secret
default_project_id: 11111111-2222-3333-4444-555555555555
active_profile: work
profiles:
  work: {secret_key: work-secret}
  home: {access_key: home-access, secret_key: home-secret}
"""


def problems(env: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_secrets(env)
    return [str(problem) for problem in caught.value.problems]


def machine(home: Path) -> dict[str, str]:
    """A home directory with the files of both tools."""
    (home / "clearml.conf").write_text(CLEARML_CONF)
    scw = home / ".config" / "scw" / "config.yaml"
    scw.parent.mkdir(parents=True)
    scw.write_text(SCW_CONFIG)
    return {"HOME": str(home)}


def test_what_is_not_given_is_none_or_the_daemons_own() -> None:
    secrets = load_secrets(GIVEN)
    assert secrets.clearml_access_key == secrets.agent_clearml_access_key == "clearml-access"
    assert secrets.clearml_secret_key == secrets.agent_clearml_secret_key == "clearml-secret"
    assert (secrets.scaleway_access_key, secrets.scaleway_secret_key) == (
        "scw-access",
        "scw-secret",
    )
    assert secrets.api_token is None
    assert secrets.agent_git_user is secrets.agent_git_password is None
    assert secrets.agent_s3_access_key is secrets.agent_s3_secret_key is None


def test_a_private_key_keeps_its_lines(tmp_path: Path) -> None:
    key = "-----BEGIN KEY-----\nabc\n-----END KEY-----"
    (tmp_path / "key").write_text(f"{key}\r\n".replace("\n", "\r\n"))
    file = {"GPU_AUTOSCALER_AGENT_SSH_KEY_FILE": str(tmp_path / "key")}
    variable = {"GPU_AUTOSCALER_AGENT_SSH_KEY": f"{key}\n"}
    for given in (file, variable):
        assert load_secrets(GIVEN | given).agent_ssh_key == key
    odd = {"GPU_AUTOSCALER_AGENT_SSH_KEY": "a\x00b"}
    assert "GPU_AUTOSCALER_AGENT_SSH_KEY: holds a" in problems(GIVEN | odd)[0]


def test_every_secret_has_its_variable() -> None:
    names = Secrets.__slots__
    env = {PREFIX + name.upper(): f"value-of-{name}" for name in names}
    secrets = load_secrets(env)
    assert {name: getattr(secrets, name) for name in names} == {
        name: f"value-of-{name}" for name in names
    }


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load_secrets({**GIVEN, "GPU_AUTOSCALER_API_TOKEN": ""}).api_token is None


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"from a file \xc3\xa9\r\n\n")
    env = {**GIVEN, "GPU_AUTOSCALER_API_TOKEN_FILE": str(tmp_path / "token")}
    assert load_secrets(env).api_token == "from a file é"


def test_all_problems_are_named_at_once_and_no_value(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter\xff")
    (tmp_path / "lines").write_text("hunter2\nhunter3\n")
    found = problems(
        {
            "GPU_AUTOSCALER_CLEARML_SECRET_KEY": "hunter2",
            "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY": "hunter2",
            "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY": "hunter2\n",
            "GPU_AUTOSCALER_API_TOKEN": "hunter2",
            "GPU_AUTOSCALER_API_TOKEN_FILE": str(tmp_path / "lines"),
            "GPU_AUTOSCALER_AGENT_CLEARML_ACCESS_KEY_FILE": str(tmp_path / "none"),
            "GPU_AUTOSCALER_AGENT_CLEARML_SECRET_KEY_FILE": str(tmp_path / "empty"),
            "GPU_AUTOSCALER_AGENT_GIT_USER": "git",
            "GPU_AUTOSCALER_AGENT_S3_ACCESS_KEY_FILE": str(tmp_path / "binary"),
            "GPU_AUTOSCALER_AGENT_S3_SECRET_KEY_FILE": str(tmp_path / "lines"),
        }
    )
    assert sorted(found) == [
        "GPU_AUTOSCALER_AGENT_CLEARML_ACCESS_KEY_FILE: "
        f"{tmp_path}/none cannot be read: No such file or directory",
        "GPU_AUTOSCALER_AGENT_CLEARML_SECRET_KEY_FILE: "
        f"{tmp_path}/empty is empty or far too long for a secret",
        "GPU_AUTOSCALER_AGENT_GIT_PASSWORD: not set, though GPU_AUTOSCALER_AGENT_GIT_USER is",
        f"GPU_AUTOSCALER_AGENT_S3_ACCESS_KEY_FILE: {tmp_path}/binary is not UTF-8 text",
        "GPU_AUTOSCALER_AGENT_S3_SECRET_KEY_FILE: "
        "holds a line break, a control character or outer spaces",
        "GPU_AUTOSCALER_API_TOKEN: set it or GPU_AUTOSCALER_API_TOKEN_FILE, not both",
        "GPU_AUTOSCALER_CLEARML_ACCESS_KEY: not set, though GPU_AUTOSCALER_CLEARML_SECRET_KEY is",
        "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY: "
        "holds a line break, a control character or outer spaces",
    ]
    assert "hunter" not in "".join(found)


def test_nothing_given_and_no_tools_on_the_machine() -> None:
    assert problems({}) == [
        f"GPU_AUTOSCALER_{name}: not set; set it or GPU_AUTOSCALER_{name}_FILE, "
        f"or keep both keys in {place}"
        for service, place in (
            ("CLEARML", "~/clearml.conf"),
            ("SCALEWAY", "~/.config/scw/config.yaml"),
        )
        for name in (f"{service}_ACCESS_KEY", f"{service}_SECRET_KEY")
    ]


def test_the_tools_of_the_machine_are_asked_when_nothing_is_given(tmp_path: Path) -> None:
    env = machine(tmp_path)
    secrets = load_secrets(env)
    assert (secrets.clearml_access_key, secrets.clearml_secret_key) == (
        "conf-access",
        "conf-secret",
    )
    assert secrets.agent_clearml_secret_key == "conf-secret"
    assert (secrets.scaleway_access_key, secrets.scaleway_secret_key) == (
        "top-access",
        "work-secret",
    )


@pytest.mark.parametrize(
    ("profile", "keys"),
    [("home", ("home-access", "home-secret")), ("default", ("top-access", "top-secret"))],
)
def test_the_profile_may_be_chosen(tmp_path: Path, profile: str, keys: tuple[str, str]) -> None:
    secrets = load_secrets({**machine(tmp_path), "SCW_PROFILE": profile})
    assert (secrets.scaleway_access_key, secrets.scaleway_secret_key) == keys


def test_half_a_key_is_never_completed_from_the_machine(tmp_path: Path) -> None:
    env = {**machine(tmp_path), "GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY": "other-access"}
    assert problems(env) == [
        "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY: not set, though GPU_AUTOSCALER_SCALEWAY_ACCESS_KEY is"
    ]


def test_what_is_given_makes_the_machines_files_irrelevant(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text("{{{ hunter2")
    assert load_secrets({**GIVEN, "HOME": str(tmp_path)}).clearml_access_key == "clearml-access"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("clearml.conf", "api { secret = hunter2", "cannot be read as HOCON"),
        ("clearml.conf", "api { credentials { secret_key = ${hunter2} } }", "as HOCON"),
        (".config/scw/config.yaml", "secret_key: [hunter2", "is not a scw configuration file"),
        (".config/scw/config.yaml", "hunter2", "is not a scw configuration file"),
        (".config/scw/config.yaml", "active_profile: away", "has no profile 'away'"),
    ],
)
def test_a_broken_file_of_a_tool_is_named_but_not_quoted(
    tmp_path: Path, file: str, content: str, said: str
) -> None:
    env = machine(tmp_path)
    (tmp_path / file).write_text(content)
    (found,) = problems(env)
    assert found.startswith(f"{tmp_path / file}: ")
    assert said in found
    assert "hunter2" not in found


def test_secrets_do_not_show_themselves() -> None:
    secrets = load_secrets({**GIVEN, "GPU_AUTOSCALER_API_TOKEN": "token-itself"})
    for text in (repr(secrets), str(secrets), f"{secrets}", f"{[secrets]}", f"{secrets!a}"):
        assert not [value for value in secrets.values() if value in text]
    assert pickle.loads(pickle.dumps(secrets)) == secrets


def test_all_values_can_be_masked_the_longest_first() -> None:
    env = {
        **GIVEN,
        "GPU_AUTOSCALER_API_TOKEN": "clearml-secret-and-more",
        "GPU_AUTOSCALER_AGENT_GIT_USER": "git",
        "GPU_AUTOSCALER_AGENT_GIT_PASSWORD": "pat",
    }
    assert load_secrets(env).values() == (
        "clearml-secret-and-more",
        "clearml-access",
        "clearml-secret",
        "scw-access",
        "scw-secret",
        "pat",
    )
