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
    terminal = out.isatty()
    renderers: list[Any] = [structlog.processors.JSONRenderer(default=str)]
    if terminal:
        renderers = [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            SecretMask(secrets),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=out, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s"
    )
    # at DEBUG these print request bodies, and our user data with them
    for name in ("httpx", "httpcore", "scaleway"):
        logging.getLogger(name).setLevel(logging.WARNING)
