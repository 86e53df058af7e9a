"""Reads the configuration again when it changes, and keeps the last good one when it may not.

The content itself is compared on every look (a few kilobytes every half minute), not the time,
size or inode: so a replaced file, an edit within the same second and the symlink swap of a
mounted volume are all seen, and a mere `touch` is not. Content from elsewhere than a file is
read by a function that is handed in, and treated alike.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gpu_autoscaler.config.document import read_bytes
from gpu_autoscaler.config.load import parse_config
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.problems import ConfigError, Problem
from gpu_autoscaler.config.services import StoreConfig
from gpu_autoscaler.config.units import format_duration


@dataclass(frozen=True, slots=True)
class Reload:
    """News about the configuration, told once."""

    config: Config
    """The one in force: the new one, or the last good one when there is an error."""
    error: ConfigError | None = None
    """Why what is written now is not used."""
    mended: bool = False
    """It can be used again after an error that was told."""


Read = Callable[[], Awaitable[bytes]]
"""What is written now. Raises ConfigError when that cannot be read."""


class ConfigWatcher:
    """The configuration in force. Raises ConfigError at once when there is no first good one."""

    def __init__(self, place: str, content: bytes, read: Read, env: Mapping[str, str]) -> None:
        """`content` is what `read` would give now; `place` its name in messages."""
        self._place, self._read, self._env = place, read, env
        self._config = parse_config(content, place, env)
        self._seen: bytes | None = content
        """None after it could not be read."""
        self._error: ConfigError | None = None

    @classmethod
    def of_file(cls, path: Path, env: Mapping[str, str]) -> Self:
        """Of a file. Raises ConfigError."""

        async def read() -> bytes:
            return read_bytes(path)

        return cls(str(path), read_bytes(path), read, env)

    def current(self) -> Config:
        """The last good configuration."""
        return self._config

    async def refresh(self) -> Reload | None:
        """Look again; None when there is nothing to tell. Called once per cycle."""
        try:
            content = await self._read()
        except ConfigError as error:
            unreadable, self._seen = self._seen is None, None
            # a service that is down says so in many words, which are all the same news
            return None if unreadable else self._failed(error)
        if content == self._seen:
            return None
        self._seen = content
        try:
            config = parse_config(content, self._place, self._env)
            _refuse_restart_only(self._config, config, self._place)
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
