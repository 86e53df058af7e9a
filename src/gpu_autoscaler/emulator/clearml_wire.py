"""How ClearML's API spells things: errors, times, listings. Knows no state."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]

MAX_PAGE = 500
"""The server cuts every listing here, silently, and larger page sizes as well."""

RANGE = re.compile(r"(>=|<=|>|<)?(.+)")
COMPARE: Mapping[str | None, Callable[[datetime, datetime], bool]] = {
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    None: lambda a, b: a == b,
}

Range = tuple[str, str | None, datetime]
"""A field, how to compare it, and with what."""


class RefusedError(Exception):
    """The server says no: an HTTP status, ClearML's own sub-code, and a sentence."""

    def __init__(self, status: int, subcode: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.subcode = subcode
        self.message = message


def iso(moment: datetime) -> str:
    """A time with microseconds and offset, the way every reply has it."""
    return moment.isoformat(timespec="microseconds")


def stored(moment: datetime) -> datetime:
    """What is left of a time once the server's database had it: whole milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def plain(value: Any) -> Any:
    """A document with its times spelled out."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


def required(request: Json, field: str, kind: type[T]) -> T:
    """A field without which the request is refused (400/12)."""
    value = request.get(field)
    if isinstance(value, kind):
        return value
    if value is not None:
        wrong = f"('value is wrong, expected type \"{kind.__name__}\"', {value!r})"
        problem = f"error for field '{field}': {wrong}."
    elif field in request:
        problem = f"error for field '{field}': field is required!."
    else:
        problem = f"error for field '{field}'. field is required!"
    raise RefusedError(400, 12, f"Validation error ({problem})")


def whole_number(value: Any) -> int:
    """An integer, or a string that spells one; anything else is refused (400/12)."""
    try:
        return int(value)
    except (TypeError, ValueError) as problem:
        raise RefusedError(400, 12, f"Validation error ({problem})") from None


def several(value: Any) -> list[str]:
    """A filter's values, each once: the API takes one string for a list of one."""
    return [value] if isinstance(value, str) else list(dict.fromkeys(value or ()))


def name_pattern(request: Json) -> re.Pattern[str] | None:
    """The `name` filter: a regular expression found anywhere in the name, case matters."""
    name = request.get("name")
    if not name:
        return None
    if not isinstance(name, str):
        raise RefusedError(500, 0, f"unhashable type: '{type(name).__name__}'")
    try:
        return re.compile(name)
    except re.error as problem:
        message = f"Malformed regular expression: err={problem}, extra_info=None"
        raise RefusedError(400, 21, message) from None


def time_ranges(request: Json, fields: Iterable[str]) -> list[Range]:
    """Filters like `"status_changed": [">=2026-01-01T00:00:00"]`; all of them must hold."""
    ranges = []
    for field in fields:
        for text in several(request.get(field)):
            spelled = RANGE.fullmatch(text)
            try:
                moment = datetime.fromisoformat(spelled[2].strip() if spelled else text)
            except ValueError as problem:
                raise RefusedError(400, 12, f"Validation error ({problem})") from None
            aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            ranges.append((field, spelled[1] if spelled else None, aware))
    return ranges


def has_tags(tags: list[str], wanted: list[str]) -> bool:
    """The tag filter: any of the plain ones, none of those that begin with a minus."""
    plus = [tag for tag in wanted if not tag.startswith("-")]
    minus = {tag[1:] for tag in wanted if tag.startswith("-")}
    return minus.isdisjoint(tags) and (not plus or not set(plus).isdisjoint(tags))


def page_of(items: list[T], request: Json) -> list[T]:
    """The part of a listing that the server is willing to show."""
    page, size = request.get("page") or 0, request.get("page_size") or MAX_PAGE
    if not (isinstance(page, int) and isinstance(size, int)):
        raise RefusedError(500, 0, "'<' not supported between instances of 'str' and 'int'")
    if page < 0 or size < 0:
        raise RefusedError(400, 12, "Validation error (negative paging)")
    size = min(size, MAX_PAGE)
    return items[page * size : (page + 1) * size]


def fields_of(request: Json, known: frozenset[str]) -> list[str]:
    """The `only_fields` of a request; an unknown one is refused (400/14)."""
    fields = several(request.get("only_fields"))
    for field in fields:
        if field.split(".", 1)[0] not in known:
            problem = "Lookup error (probably an invalid field name or unsupported nested field)"
            raise RefusedError(400, 14, f'{problem}: err=Cannot resolve field "{field}"')
    return fields


def only(document: Json, fields: list[str]) -> Json:
    """The asked-for fields of a document, dotted ones nested; all of them when none is asked."""
    if not fields:
        return document
    chosen: Json = {}
    for field in fields:
        *parents, leaf = field.split(".")
        source, target = document, chosen
        for parent in parents:
            source = source.get(parent) or {}
            target = target.setdefault(parent, {})
        if leaf in source:
            target[leaf] = source[leaf]
    return chosen
