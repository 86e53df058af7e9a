"""Renders the cloud-init user data that turns a bare instance into a worker of one queue."""

import hashlib
import hmac
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from pyhocon import ConfigFactory

from gpu_autoscaler.bootstrap.quoting import end_marker, refuse_unwritable
from gpu_autoscaler.bootstrap.worker_files import agent_command, clearml_conf, environment
from gpu_autoscaler.config.models import AgentConfig, Config
from gpu_autoscaler.config.secrets import Secrets, variable
from gpu_autoscaler.domain.model import Placement

TEMPLATE_NAME = "bootstrap.sh"

BASE_PACKAGES = ("curl", "git", "iptables", "python3-venv")
"""What the scripts and the agent need on the machine itself, besides Docker."""

SPEC_DIGITS = 12
"""Hexadecimal digits of a spec: short enough for a tag, long enough never to collide."""

MIME_SNIFF_BYTES = 4096
"""How far cloud-init looks for `MIME-Version:` before it runs user data as a script."""

MASK = "********"

_PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")
_INCLUDE = re.compile(r"\{\{ include ([\w.-]+) \}\}")
_COMMENT = re.compile(r"^ *#(?!!).*\n", re.MULTILINE)
"""A line that is nothing else. Comments stay with us: how long user data may be is not known."""
_HERE = Path(__file__).resolve().parent
_TEMPLATE_FOLDERS = (_HERE / "templates", _HERE.parents[2] / "cloud-init")
"""In an installed wheel, and in a source checkout."""


class Bootstrap:
    """Fits `runtime.ports.Bootstrap`; made anew for every configuration.

    Raises ValueError when some queue's script cannot be rendered or could not make a worker: a
    character that cannot be written, unbalanced quotes in `docker_arguments`, broken HOCON.
    """

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets
        self._template = _load(TEMPLATE_NAME)
        for queue, settings in config.queues.items():
            _refuse_unusable(queue, settings.agent, secrets)
        self._specs = {queue: self._compute_spec(queue) for queue in config.queues}
        self._own_specs: dict[tuple[str, Placement | None], str] = {
            (name, offer.place): self._compute_spec(name, offer.place)
            for name, queue in config.queues.items()
            for offer in queue.offers
            if offer.another_machine
        }

    def user_data(
        self, queue: str, instance_name: str, placement: Placement | None = None
    ) -> bytes:
        """The script for one instance, with its secrets. Raises KeyError for an unknown queue.

        Without a placement, that of one without settings of its own."""
        settings = self._config.queues[queue]
        script = self._script(
            queue,
            instance_name,
            settings.agent,
            self._secrets,
            with_scratch=settings.at(placement).scratch > 0,
        ).encode()
        if b"mime-version:" in script[:MIME_SNIFF_BYTES].lower():
            raise ValueError(f"queue {queue!r}: cloud-init takes `MIME-Version:` for an e-mail")
        return script

    def masked(self, queue: str, instance_name: str) -> str:
        """The same script for people to read, with every secret shown as `********`.

        Secrets are masked before they are quoted, so no escaped spelling of one slips through.
        """
        settings = self._config.queues[queue]
        return self._script(
            queue,
            instance_name,
            _masked_agent(settings.agent, self._secrets),
            _masked_secrets(self._secrets),
            with_scratch=settings.scratch > 0,
        )

    def spec(self, queue: str, placement: Placement | None = None) -> str:
        """Hash of all that makes an instance of this queue what it is, but its name and place.

        A placement with settings of its own has one of its own, or a change of them would make
        machines of the others useless. Keyed with ClearML's secret key: tags are public, so
        nobody may test guesses against it.
        """
        return self._own_specs.get((queue, placement), self._specs[queue])

    def _compute_spec(self, queue: str, placement: Placement | None = None) -> str:
        settings, groups = self._config.queues[queue], self._config.scaleway.security_group_ids
        places = settings.placements if placement is None else (placement,)
        made = settings.at(placement)
        machine = [
            made.image,
            made.volume.size,
            made.volume.iops,
            made.scratch,
            [groups.get(place.zone) for place in places] if groups else None,
        ]
        message = json.dumps(machine).encode() + self.user_data(queue, "", placement)
        key = self._secrets.agent_clearml_secret_key.encode()
        return hmac.new(key, message, hashlib.sha256).hexdigest()[:SPEC_DIGITS]

    def _script(
        self,
        queue: str,
        instance_name: str,
        agent: AgentConfig,
        secrets: Secrets,
        *,
        with_scratch: bool,
    ) -> str:
        scratch = self._config.queues[queue].scratch_path if with_scratch else ""
        registry = agent.registry if agent.docker else None
        contents = {
            "clearml_conf": clearml_conf(agent, scratch, secrets),
            "environment": environment(instance_name, agent, self._config.clearml, secrets),
            "agent_command": agent_command(queue, agent),
            "extra_script": agent.extra_script.rstrip("\n"),
            "registry_password": secrets.agent_registry_password or "" if registry else "",
            "ssh_key": (secrets.agent_ssh_key or "").rstrip("\n"),
        }
        ssh = ("openssh-client",) if secrets.agent_ssh_key else ()
        values = {
            **contents,
            "end_of_file": end_marker(contents.values()),
            "agent_version": shlex.quote(agent.version),
            "use_docker": "yes" if agent.docker else "no",
            "docker_image": shlex.quote(agent.docker_image or ""),
            "packages": shlex.join((*BASE_PACKAGES, *ssh, *agent.packages)),
            "registry": shlex.quote(registry or ""),
            "registry_user": shlex.quote(secrets.agent_registry_user or "" if registry else ""),
            "scratch": shlex.quote(scratch),
            "with_ssh_key": "yes" if secrets.agent_ssh_key else "no",
        }
        return _fill(self._template, values)


def _load(name: str) -> str:
    """A template with the files that it includes, and without its comments."""
    for folder in _TEMPLATE_FOLDERS:
        if folder.is_dir():
            text = _COMMENT.sub("", (folder / name).read_text(encoding="utf-8"))
            return _INCLUDE.sub(lambda found: _load(found[1]).rstrip("\n"), text)
    raise FileNotFoundError(f"no {name} in any of {', '.join(map(str, _TEMPLATE_FOLDERS))}")


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Fill in every placeholder, once: what looks like one inside a value stays as it is."""
    wanted = set(_PLACEHOLDER.findall(template))
    if wanted != values.keys():
        wrong = ", ".join(sorted(wanted ^ values.keys()))
        raise ValueError(f"{TEMPLATE_NAME}: unknown or missing placeholders: {wrong}")
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _refuse_unusable(queue: str, agent: AgentConfig, secrets: Secrets) -> None:
    """Raise ValueError, naming queue and setting but no value, if no worker could come of it.

    Such an instance would be replaced for ever, each one billed.
    """
    texts = {
        "the name": queue,
        "agent.extra_clearml_conf": agent.extra_clearml_conf,
        "agent.extra_script": agent.extra_script,
        "agent.docker_arguments": agent.docker_arguments or "",
        "agent.docker_image": agent.docker_image or "",
        **{f"agent.environment.{name}": value for name, value in agent.environment.items()},
        **{f"the secret {f.name}": getattr(secrets, f.name) or "" for f in fields(secrets)},
    }
    for name, text in texts.items():
        refuse_unwritable(f"queue {queue!r}: {name}", text)
    if agent.registry and agent.docker and not secrets.agent_registry_user:
        raise ValueError(
            f"queue {queue!r}: agent.registry needs {variable('agent_registry_user')}"
            f" and {variable('agent_registry_password')}"
        )
    try:
        content = clearml_conf(agent, "", secrets)
    except ValueError as error:
        raise ValueError(f"queue {queue!r}: agent.docker_arguments: {error}") from None
    try:
        ConfigFactory.parse_string(content, resolve=False)
    except Exception:  # pyhocon lets its parser's and its own errors through, values included
        raise ValueError(f"queue {queue!r}: agent.extra_clearml_conf is not valid HOCON") from None


def _masked_secrets(secrets: Secrets) -> Secrets:
    hidden = secrets.values()
    return replace(
        secrets, **{f.name: MASK for f in fields(secrets) if getattr(secrets, f.name) in hidden}
    )


def _masked_agent(agent: AgentConfig, secrets: Secrets) -> AgentConfig:
    """The operator's texts without known secrets, variables named like secrets among them."""
    known = sorted({*secrets.values(), *agent.secret_values}, key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in known:
            text = text.replace(secret, MASK)
        return text

    arguments = shlex.split(agent.docker_arguments or "")
    return agent.model_copy(
        update={
            "environment": {name: mask(value) for name, value in agent.environment.items()},
            "docker_arguments": shlex.join(map(mask, arguments)),
            "extra_clearml_conf": mask(agent.extra_clearml_conf),
            "extra_script": mask(agent.extra_script),
        }
    )
