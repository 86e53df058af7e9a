"""The kinds of value that settings are made of, each with the sentence said when it is wrong.

Messages never repeat the offending value: it may have come from the environment;
`config.explain` adds it when that is safe.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from gpu_autoscaler.config.channels import open_channel
from gpu_autoscaler.config.units import parse_duration, parse_size

MAX_NAME_LENGTH = 100
"""Of fleet and queue names: they travel in tags, metrics and log lines."""

MAX_SLUG_LENGTH = 56
"""A host name has 63 characters at most, and ours end in `-` and six digits."""

RESERVED_VARIABLES = frozenset({"CLEARML_WORKER_ID", "CLEARML_WORKER_NAME"})
"""Set by the bootstrap: the worker's id is how an instance and its worker find each other."""

_SECRET_KEY = re.compile(
    r"(secret|password|passwd|(^|[_-])(pass|token|credentials?)"
    r"|(secret|access|api|private)[_-]?key([_-]id)?)$",
    re.IGNORECASE,
)


def looks_secret(key: str) -> bool:
    """Whether a key's name says that its value is a secret (`HF_TOKEN`, `secret_key`)."""
    return _SECRET_KEY.search(key) is not None


def slug(name: str) -> str:
    """A queue's name as the first part of host names: lower-case ASCII letters, digits, `-`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_SLUG_LENGTH].rstrip("-")


def matching(pattern: str, expected: str) -> AfterValidator:
    """A check that the whole text fits an ASCII pattern; `expected` is said when it does not."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _written_as(kind: type, parse: Callable[[str], Any], example: str) -> BeforeValidator:
    def read(value: object) -> object:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, kind):
            return value
        raise ValueError(f"expected {example}")

    return BeforeValidator(read)


def _name(value: str) -> str:
    if not value.isprintable() or "," in value or value != value.strip():
        raise ValueError("no commas, control characters or outer spaces: names travel in tags")
    if not value or len(value) > MAX_NAME_LENGTH:
        raise ValueError(f"a name has 1 to {MAX_NAME_LENGTH} characters")
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _queue_name(value: str) -> str:
    if len(_name(value)) < 3:
        raise ValueError("ClearML wants at least 3 characters in a queue's name")
    if not slug(value):
        raise ValueError("needs an ASCII letter or digit: instances are named after their queue")
    return value


def _full_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not value.isprintable():
        raise ValueError("expected a URL such as https://api.clear.ml")
    return value


def _url(value: str) -> str:
    parts = urlsplit(_full_url(value))
    if "@" in parts.netloc or parts.query or parts.fragment or " " in value:
        raise ValueError("a URL without user, password, spaces, ? or #")
    return value.rstrip("/")


def _channel_url(value: str) -> str:
    if open_channel(value) is None:
        raise ValueError("not a URL that apprise understands, such as mailto://user:pass@host")
    return value


def _whole_number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _variables(value: Mapping[str, str]) -> Mapping[str, str]:
    wrong = []
    for name, text in value.items():
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
            wrong.append(f"{name!r} is not the name of an environment variable")
        if name in RESERVED_VARIABLES:
            wrong.append(f"{name} is set by the daemon: it is the instance's name")
        if not text.isprintable():
            wrong.append(f"the value of {name} holds a line break or control character")
    if wrong:
        raise ValueError("; ".join(wrong))
    return value


Duration = Annotated[
    timedelta,
    _written_as(timedelta, parse_duration, "a duration such as 30s or 30m"),
    AfterValidator(_positive),
]
Size = Annotated[int, _written_as(int, parse_size, "a size such as 200GB"), Field(ge=0)]
Name = Annotated[str, AfterValidator(_name)]
QueueName = Annotated[str, AfterValidator(_queue_name)]
Variables = Annotated[Mapping[str, str], AfterValidator(_variables)]
Iops = Annotated[Literal[5000, 15000], BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=0)]
Url = Annotated[str, AfterValidator(_url)]
FullUrl = Annotated[str, AfterValidator(_full_url)]
"""Kept as it is written, a query and a last slash included."""
ChannelUrl = Annotated[str, AfterValidator(_channel_url)]
Uuid = Annotated[
    str,
    matching(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "expected a UUID"),
    AfterValidator(str.lower),
]
Line = Annotated[str, matching(r"[^\x00-\x1f\x7f]*", "expected a single line of text")]
