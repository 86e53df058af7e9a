"""What a person's own machine already knows: `clearml.conf` and the `scw` configuration file.

Read only when nothing else is given, so that the daemon starts on a laptop that has both tools.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml
from pyhocon import ConfigFactory, ConfigTree
from pyhocon.exceptions import ConfigException
from pyparsing import ParseBaseException

from gpu_autoscaler.config.problems import ConfigError, Problem

CLEARML_KEYS = {
    "access_key": "api.credentials.access_key",
    "secret_key": "api.credentials.secret_key",
    "api_host": "api.api_server",
}
"""Our word -> path in clearml.conf."""

SCW_KEYS = ("access_key", "secret_key", "default_project_id")


def clearml_conf_path(env: Mapping[str, str]) -> Path | None:
    """Where the ClearML tools look: `CLEARML_CONFIG_FILE`, or `~/clearml.conf`."""
    if chosen := env.get("CLEARML_CONFIG_FILE"):
        return Path(chosen)
    return Path(env["HOME"], "clearml.conf") if env.get("HOME") else None


def scw_config_path(env: Mapping[str, str]) -> Path | None:
    """Where the `scw` command looks: `SCW_CONFIG_PATH`, or `~/.config/scw/config.yaml`."""
    if chosen := env.get("SCW_CONFIG_PATH"):
        return Path(chosen)
    return Path(env["HOME"], ".config", "scw", "config.yaml") if env.get("HOME") else None


def read_clearml_conf(env: Mapping[str, str]) -> dict[str, str]:
    """Those of `access_key`, `secret_key` and `api_host` that clearml.conf holds.

    Empty when there is no such file; raises ConfigError when it cannot be read as HOCON. The
    parser's own words are left out: they quote the file, and the file holds keys.
    """
    path = clearml_conf_path(env)
    text = _text_of(path)
    if path is None or text is None:
        return {}
    try:
        tree: ConfigTree = ConfigFactory.parse_string(text)
        found = {word: tree.get(key, None) for word, key in CLEARML_KEYS.items()}
    except (ConfigException, ParseBaseException, ValueError, RecursionError):
        raise ConfigError([Problem(str(path), None, "", "cannot be read as HOCON")]) from None
    return {word: value for word, value in found.items() if isinstance(value, str) and value}


def read_scw_profile(env: Mapping[str, str]) -> dict[str, str]:
    """Those of `access_key`, `secret_key` and `default_project_id` that `scw` would use.

    The active profile (`SCW_PROFILE`, else `active_profile`) over the values at the top, as the
    command itself does. Empty when there is no file; raises ConfigError when it is not one.
    """
    path = scw_config_path(env)
    text = _text_of(path)
    if path is None or text is None:
        return {}
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ConfigError([Problem(str(path), None, "", "is not a scw configuration file")])
    profile = env.get("SCW_PROFILE") or content.get("active_profile") or "default"
    profiles = content.get("profiles")
    chosen = profiles.get(profile) if isinstance(profiles, dict) else None
    if profile != "default" and not isinstance(chosen, dict):
        raise ConfigError([Problem(str(path), None, "", f"has no profile {profile!r}")])
    merged = {**content, **(chosen or {})}
    return {key: merged[key] for key in SCW_KEYS if isinstance(merged.get(key), str)}


def _text_of(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise ConfigError([Problem(str(path), None, "", "cannot be read")]) from None
