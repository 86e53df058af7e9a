"""Secrets: from the environment or files it names, never from the configuration file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from gpu_autoscaler.config.machine import read_clearml_conf, read_scw_profile
from gpu_autoscaler.config.problems import ConfigError, Problem

PREFIX = "GPU_AUTOSCALER_"
"""The serverless platform reserves names that start with `SCW_`."""

MAX_SECRET_BYTES = 64 * 1024
_NO_SECRETS = ("agent_git_user", "agent_registry_user")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """Each field is named like its variable: `api_token` is `GPU_AUTOSCALER_API_TOKEN`.

    Has no readable repr(), so that it cannot end in a log by accident.
    """

    clearml_access_key: str
    clearml_secret_key: str
    scaleway_access_key: str
    scaleway_secret_key: str
    api_token: str | None
    """Asked for by the daemon's own HTTP API."""
    agent_clearml_access_key: str
    agent_clearml_secret_key: str
    """Given to instances; the daemon's own unless others are given."""
    agent_git_user: str | None
    agent_git_password: str | None
    agent_s3_access_key: str | None
    agent_s3_secret_key: str | None
    agent_registry_user: str | None = None
    agent_registry_password: str | None = None
    agent_ssh_key: str | None = None
    """A private key, several lines of text."""

    def values(self) -> tuple[str, ...]:
        """Every secret text to mask, longest first; the users' names are none."""
        found = {getattr(self, f.name) for f in fields(self) if f.name not in _NO_SECRETS}
        return tuple(sorted((text for text in found if text), key=lambda text: (-len(text), text)))


def variable(name: str) -> str:
    """The environment variable of a field of Secrets."""
    return PREFIX + name.upper()


SECRET_VARIABLES = tuple(variable(f.name) for f in fields(Secrets))


def load_secrets(env: Mapping[str, str]) -> Secrets:
    """Collect the secrets; each variable may be given as `<NAME>_FILE`, a file that holds it.

    When neither half of ClearML's or Scaleway's key is given, `clearml.conf` and the `scw`
    configuration file are asked. Raises ConfigError with everything that is missing or wrong;
    messages name variables, never values.
    """
    reading = _Reading(env)
    api_token = reading.one("api_token")
    clearml = reading.pair("clearml_access_key", "clearml_secret_key")
    scaleway = reading.pair("scaleway_access_key", "scaleway_secret_key")
    agent = reading.pair("agent_clearml_access_key", "agent_clearml_secret_key")
    git = reading.pair("agent_git_user", "agent_git_password")
    s3 = reading.pair("agent_s3_access_key", "agent_s3_secret_key")
    registry = reading.pair("agent_registry_user", "agent_registry_password")
    ssh_key = reading.one("agent_ssh_key", lines=True)
    clearml = clearml or reading.from_machine("clearml", "~/clearml.conf")
    scaleway = scaleway or reading.from_machine("scaleway", "~/.config/scw/config.yaml")
    if reading.problems or clearml is None or scaleway is None:
        raise ConfigError(reading.problems)
    return Secrets(
        *(*clearml, *scaleway, api_token, *(agent or clearml)),
        *(*(git or _NONE), *(s3 or _NONE), *(registry or _NONE), ssh_key),
    )


def api_token(env: Mapping[str, str]) -> str | None:
    """The token of the daemon's API alone: whoever only asks needs no other secret.

    Raises ConfigError.
    """
    reading = _Reading(env)
    token = reading.one("api_token")
    if reading.problems:
        raise ConfigError(reading.problems)
    return token


_NONE = (None, None)
_MACHINE = {"clearml": read_clearml_conf, "scaleway": read_scw_profile}


class _Reading:
    """Reads one secret after the other and keeps what is wrong."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.problems: list[Problem] = []

    def one(self, field: str, *, lines: bool = False) -> str | None:
        """The secret, None when it is not given, empty when what is given is no use.

        `lines`: it is a text of several lines, of which line ends and outer spaces may vary.
        """
        name = variable(field)
        value, file = self._env.get(name), self._env.get(f"{name}_FILE")
        if value and file:
            return self._refuse(name, f"set it or {name}_FILE, not both")
        if file:
            name = f"{name}_FILE"
            value = self._content(name, Path(file))
            if not value:
                return ""  # said already
        if not value:
            return None
        if lines:
            value = "\n".join(value.strip().splitlines())
        if not value.replace("\n", "" if lines else "\n").isprintable() or value != value.strip():
            return self._refuse(name, "holds a line break, a control character or outer spaces")
        return value

    def pair(self, first: str, second: str) -> tuple[str, str] | None:
        """Both or neither."""
        pair = self.one(first), self.one(second)
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1]
        for value, missing, other in zip(pair, (first, second), (second, first), strict=True):
            if value is None and pair != _NONE:
                self._refuse(variable(missing), f"not set, though {variable(other)} is")
        return None if pair == _NONE else ("", "")

    def from_machine(self, service: str, usual_place: str) -> tuple[str, str] | None:
        """The keys that another tool left on this machine."""
        try:
            found = _MACHINE[service](self._env)
        except ConfigError as error:
            self.problems += error.problems
            return None
        if "access_key" in found and "secret_key" in found:
            return found["access_key"], found["secret_key"]
        for half in ("access_key", "secret_key"):
            name = variable(f"{service}_{half}")
            where = f"set it or {name}_FILE, or keep both keys in {usual_place}"
            self._refuse(name, f"not set; {where}")
        return None

    def _content(self, name: str, path: Path) -> str:
        try:
            with path.open("rb") as stream:
                content = stream.read(MAX_SECRET_BYTES + 1)
            text = content.decode().rstrip("\r\n")
        except OSError as error:
            return self._refuse(name, f"{path} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            return self._refuse(name, f"{path} is not UTF-8 text")
        if not text or len(content) > MAX_SECRET_BYTES:
            return self._refuse(name, f"{path} is empty or far too long for a secret")
        return text

    def _refuse(self, name: str, message: str) -> str:
        self.problems.append(Problem("", None, name, message))
        return ""
