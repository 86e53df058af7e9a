"""Reads the configuration again when it changes, and keeps the last good one when it may not.

The content itself is compared on every look (a few kilobytes every half minute), not the time,
size or inode: so a replaced file, an edit within the same second and the symlink swap of a
mounted volume are all seen, and a mere `touch` is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpu_autoscaler.config.document import read_bytes
from gpu_autoscaler.config.load import parse_config
from gpu_autoscaler.config.models import Config, StoreConfig
from gpu_autoscaler.config.problems import ConfigError, Problem
from gpu_autoscaler.config.units import format_duration


@dataclass(frozen=True, slots=True)
class Reload:
    """News about the configuration, told once."""

    config: Config
    """The one in force: the new one, or the last good one when there is an error."""
    error: ConfigError | None = None
    """Why what the file holds now is not used."""
    mended: bool = False
    """The file can be used again after an error that was told."""


class ConfigWatcher:
    """The configuration in force. Raises ConfigError at once when there is no first good one."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self._path = path
        self._env = env
        content = read_bytes(path)
        self._config = parse_config(content, str(path), env)
        self._seen: bytes | None = content
        self._error: ConfigError | None = None

    def current(self) -> Config:
        """The last good configuration."""
        return self._config

    def refresh(self) -> Reload | None:
        """Look at the file; None when there is nothing to tell. Called once per cycle."""
        try:
            content = read_bytes(self._path)
        except ConfigError as error:
            self._seen = None
            return self._failed(error)
        if content == self._seen:
            return None
        self._seen = content
        try:
            config = parse_config(content, str(self._path), self._env)
            _refuse_restart_only(self._config, config, str(self._path))
        except ConfigError as error:
            return self._failed(error)
        return self._succeeded(config)

    def _failed(self, error: ConfigError) -> Reload | None:
        told = self._error is not None and self._error.problems == error.problems
        self._error = error
        return None if told else Reload(self._config, error)

    def _succeeded(self, config: Config) -> Reload | None:
        mended, changed = self._error is not None, config != self._config
        self._config, self._error = config, None
        return Reload(config, mended=mended) if mended or changed else None


def _refuse_restart_only(old: Config, new: Config, file: str) -> None:
    """Refuse a change of what the running daemon was built around.

    With another fleet or project it would no longer see, and never stop, what it has running.
    """
    pairs = {
        "fleet": (old.fleet, new.fleet),
        "state_dir": (old.state_dir, new.state_dir),
        "store": (_written(old.store), _written(new.store)),
        "clearml.api_host": (old.clearml.api_host, new.clearml.api_host),
        "scaleway.project_id": (old.scaleway.project_id, new.scaleway.project_id),
        "scaleway.api_url": (old.scaleway.api_url, new.scaleway.api_url),
    }
    message = "cannot change while the daemon runs (now {!r}); restart it to use {!r}"
    problems = [
        Problem(file, None, key, message.format(before, after))
        for key, (before, after) in pairs.items()
        if before != after
    ]
    if problems:
        raise ConfigError(problems)


def _written(store: StoreConfig | None) -> str:
    if store is None:
        return ""
    place = f"s3://{store.bucket}/{store.key} at {store.endpoint} ({store.region})"
    return f"{place}, lease {format_duration(store.lease)}"
