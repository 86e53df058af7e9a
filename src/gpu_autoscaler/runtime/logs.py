"""The log: JSON lines where machines read, readable lines on a terminal, never a secret."""

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, TextIO

import structlog

MASK = "********"

SHORTEST_SECRET = 4
"""Shorter values are not masked: they would take pieces out of ordinary words."""


class SecretMask:
    """A log processor that knows the secrets' values and takes them out of every field."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len)[::-1]

    def __call__(
        self, logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        return {key: self.clean(value) for key, value in event.items()}

    def clean(self, value: Any) -> Any:
        """The value without any secret, however deep it is nested."""
        match value:
            case str():
                for secret in self._secrets:
                    value = value.replace(secret, MASK)
                return value
            case dict():
                return {self.clean(k): self.clean(v) for k, v in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.clean(v) for v in value]
            case bool() | int() | float() | None:
                return value
            case _:
                return self.clean(str(value))


def configure_logs(
    secrets: Iterable[str], *, stream: TextIO | None = None, level: int = logging.INFO
) -> None:
    """Set up logging of the whole process. Call once, before anything is logged."""
    out = stream or sys.stderr
    renderer: Any = structlog.processors.JSONRenderer(default=str)
    if out.isatty():
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    common: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        SecretMask(secrets),
    ]
    structlog.configure(
        processors=[*common, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    # what libraries say, asyncio's forgotten exceptions for one, takes the same way
    handler = logging.StreamHandler(out)
    drop_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[drop_meta, *common, renderer])
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    # at DEBUG these print request bodies, and our user data with them
    for name in ("httpx", "httpcore", "scaleway", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
