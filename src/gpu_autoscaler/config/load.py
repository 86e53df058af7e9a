"""From a file to a Config, or to every mistake in it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gpu_autoscaler.config.base import CROSS_FIELD
from gpu_autoscaler.config.document import Document, Mark, parse_document, read_bytes
from gpu_autoscaler.config.explain import report_errors, report_unknown_key
from gpu_autoscaler.config.fields import looks_secret
from gpu_autoscaler.config.machine import (
    clearml_conf_path,
    read_clearml_conf,
    read_scw_profile,
    scw_config_path,
)
from gpu_autoscaler.config.models import Config, QueueConfig
from gpu_autoscaler.config.problems import ConfigError, KeyPath, Problem
from gpu_autoscaler.config.secrets import PREFIX

__all__ = ["ConfigError", "Problem", "load_config", "parse_config"]

_STAND_INS = {"name": "defaults", "placements": [{"type": "H100-1-80G", "zone": "fr-par-2"}]}
"""What a queue adds to the defaults, so that these can be checked on their own."""

_REFERENCE = re.compile(r"\$\{\w+(:-)?\}")


def load_config(path: Path, env: Mapping[str, str]) -> Config:
    """Read the configuration file at `path`, with `env` for its variables.

    Raises ConfigError with all problems, sorted by line, when it cannot be used.
    """
    return parse_config(read_bytes(path), str(path), env)


def parse_config(content: bytes, file: str, env: Mapping[str, str]) -> Config:
    """Like `load_config`, for content from elsewhere; `file` is its name in messages."""
    document = parse_document(content, file, env)
    data = dict(document.data)
    defaults = data.pop("defaults", None) or {}
    data |= _from_machine(document, data.pop("clearml", None), env, "clearml", "api_host")
    data |= _from_machine(document, data.pop("scaleway", None), env, "scaleway", "project_id")
    _check_defaults(document, defaults)
    _check_channels(document, data.get("notifications"))
    if isinstance(data.get("queues"), dict):
        data["queues"] = {
            name: _resolve(document, name, queue, defaults)
            for name, queue in data["queues"].items()
        }
    config = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        report_errors(document, error.errors(), lambda place: _source(document, place))
    if document.problems or config is None:
        raise ConfigError(document.problems)
    return config


def _from_machine(
    document: Document, written: Any, env: Mapping[str, str], section: str, key: str
) -> dict[str, Any]:
    """A section (none when there is nothing to say in it), with its one key that this machine's
    tools may know, when it is not written."""
    settings = {} if written is None else written
    if isinstance(settings, dict) and settings.get(key) is None:
        settings = {name: value for name, value in settings.items() if name != key}
        try:
            path, value = _known_here(env, section)
        except ConfigError as error:
            document.problems += error.problems
            document.spoiled.add((section, key))
            return {section: settings}
        if value:
            document.marks[(section, key)] = Mark(str(path), None, value)
            settings[key] = value
    return {section: settings} if settings or written is not None else {}


def _known_here(env: Mapping[str, str], section: str) -> tuple[Path | None, str | None]:
    if section == "clearml":
        return clearml_conf_path(env), read_clearml_conf(env).get("api_host")
    return scw_config_path(env), read_scw_profile(env).get("default_project_id")


def _check_defaults(document: Document, defaults: Any) -> None:
    """Report what is wrong with the defaults, also where every queue overrides it."""
    if isinstance(defaults, dict):
        _check_keys(document, ("defaults",), defaults)
        defaults = {**_STAND_INS, **_without_name(defaults)}
    try:
        QueueConfig.model_validate(defaults)
    except ValidationError as error:
        alone = [each for each in error.errors() if each["type"] != CROSS_FIELD]
        report_errors(document, alone, lambda place: ("defaults", *place))


def _resolve(document: Document, name: str, queue: Any, defaults: Any) -> Any:
    """A queue with the defaults under it."""
    queue = {} if queue is None else queue
    if not isinstance(queue, dict):
        return queue
    _check_keys(document, ("queues", name), queue)
    base = _without_name(defaults) if isinstance(defaults, dict) else {}
    return {**_merged(base, _without_name(queue)), "name": name}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; everything else is replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = _merged(below or {}, value) if both else value
    return merged


def _without_name(queue: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in queue.items() if key != "name"}


def _check_keys(document: Document, path: KeyPath, queue: Mapping[str, Any]) -> None:
    """Report what the models cannot see: a queue's `name`, and secrets written out."""
    if "name" in queue:
        report_unknown_key(document, (*path, "name"))
    agent = queue.get("agent")
    environment = agent.get("environment") if isinstance(agent, dict) else None
    for variable in environment if isinstance(environment, dict) else ():
        if looks_secret(variable):
            _check_reference(document, (*path, "agent", "environment", variable), variable)


def _check_channels(document: Document, channels: Any) -> None:
    for index, channel in enumerate(channels if isinstance(channels, list) else ()):
        if isinstance(channel, dict) and "url" in channel:
            _check_reference(document, ("notifications", index, "url"), f"{PREFIX}NOTIFY_URL")


def _check_reference(document: Document, place: KeyPath, variable: str) -> None:
    """Report a secret that is written out."""
    raw = document.mark(place).raw
    if raw and _REFERENCE.fullmatch(raw) is None:
        message = f"a secret does not belong in this file; write ${{{variable}}}"
        document.report(place, f"{message} and set it in the daemon's environment")


def _source(document: Document, place: KeyPath) -> KeyPath:
    """Where a value of the merged data was written: in its queue or in the defaults."""
    if place[:1] != ("queues",) or len(place) < 3:
        return place
    if place[2] == "name":
        return place[:2]
    # lists are replaced as a whole: an item belongs to whoever wrote the list
    head = next((i for i, part in enumerate(place) if isinstance(part, int)), len(place))
    if place[:head] not in document.marks and ("defaults", *place[2:head]) in document.marks:
        return ("defaults", *place[2:])
    return place
