"""Says in plain words what pydantic found, at the place in the file where it was written."""

from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gpu_autoscaler.config.base import CROSS_FIELD
from gpu_autoscaler.config.document import Document
from gpu_autoscaler.config.fields import looks_secret
from gpu_autoscaler.config.hours import WindowConfig, WorkingHoursConfig
from gpu_autoscaler.config.models import (
    AgentConfig,
    Config,
    PlacementConfig,
    QueueConfig,
    VolumeConfig,
)
from gpu_autoscaler.config.money import BudgetConfig, PricesConfig
from gpu_autoscaler.config.problems import KeyPath
from gpu_autoscaler.config.secrets import PREFIX, SECRET_VARIABLES
from gpu_autoscaler.config.services import (
    ChannelConfig,
    ClearmlConfig,
    ScalewayConfig,
    StoreConfig,
    WeeklyReportConfig,
)

MAX_SHOWN_CHARACTERS = 60

_SECTIONS: dict[KeyPath, type[BaseModel]] = {
    (): Config,
    ("clearml",): ClearmlConfig,
    ("scaleway",): ScalewayConfig,
    ("store",): StoreConfig,
    ("prices",): PricesConfig,
    ("budgets", "*"): BudgetConfig,
    ("notifications", "*"): ChannelConfig,
    ("weekly_report",): WeeklyReportConfig,
    ("queues", "*"): QueueConfig,
    ("queues", "*", "placements", "*"): PlacementConfig,
    ("queues", "*", "placements", "*", "volume"): VolumeConfig,
    ("queues", "*", "budgets", "*"): BudgetConfig,
    ("queues", "*", "working_hours"): WorkingHoursConfig,
    ("queues", "*", "working_hours", "windows", "*"): WindowConfig,
    ("queues", "*", "volume"): VolumeConfig,
    ("queues", "*", "agent"): AgentConfig,
}

_REQUIRED = {
    "fleet": "a name for everything that this deployment owns",
    "placements": "a list of at least one {type: ..., zone: ...}",
    "scaleway": "with project_id, unless the scw configuration file has a default_project_id",
    "project_id": "here, or as default_project_id in the scw configuration file",
    "bucket": "the name of a bucket that exists",
    "days": "such as mon-fri, or sat,sun",
    "from": "a time such as 08:00",
    "to": "a time such as 19:00",
    "windows": "a list of {days: ..., from: ..., to: ...}",
    "eur": "how many euros the period may cost",
    "per": "day, week or month",
    "url": "where to send to, as ${GPU_AUTOSCALER_NOTIFY_URL}",
    "queues": "at least one queue",
}

_EXPECTED = {
    "int": "expected a whole number",
    "float": "expected a number",
    "finite": "expected a number",
    "bool": "expected true or false",
    "string": "expected text",
    "tuple": "expected a list",
    "model": "expected keys with values",
    "dict": "expected keys with values",
}
"""By the first word of pydantic's error type."""

_SAID: dict[str, Callable[[dict[str, Any]], str]] = {
    "value_error": lambda context: str(context["error"]),
    "literal_error": lambda context: f"expected {context['expected']}",
    "enum": lambda context: f"expected {context['expected']}",
    "greater_than": lambda context: f"must be above {context['gt']:g}",
    "less_than": lambda context: f"must be below {context['lt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']:g}",
    "too_short": lambda context: "needs at least one",
    "string_too_short": lambda context: "expected text",
}


def allowed_keys(path: KeyPath) -> list[str]:
    """The keys that may be written in the mapping at a path, in the order of the model."""
    model = _model_at(path)
    keys = [key for key in _fields(model) if key != "name"] if model else []
    return [*keys, "defaults"] if not path else keys


def report_errors(
    document: Document, errors: Sequence[ErrorDetails], source: Callable[[KeyPath], KeyPath]
) -> None:
    """Add a problem for each error that is news; `source` maps a place in the data to the file."""
    for error in errors:
        place: KeyPath = error["loc"]
        path = place if error["type"] == CROSS_FIELD else source(place)
        if _said_already(document, path) or _follows_from_another(error, errors):
            continue
        if error["type"] == "extra_forbidden":
            report_unknown_key(document, path)
        else:
            document.report(path, _message(document, path, error))


def report_unknown_key(document: Document, path: KeyPath) -> None:
    """Add the problem of a key that nobody reads: misspelt, or a secret that must not be here."""
    key = str(path[-1])
    if looks_secret(key):
        name = secret_variable(path)
        message = f"secrets are never read from this file; set {name} in the environment"
        document.report(path, message)
        return
    allowed = allowed_keys(path[:-1])
    nearest = _nearest(key, allowed)
    listed = "" if nearest else f"; allowed here: {', '.join(allowed)}"
    document.report(path, f"unknown key{listed}", nearest)


def secret_variable(path: KeyPath) -> str:
    """The environment variable that was most likely meant by a secret-looking key."""
    within_queue = path[2:] if path[0] == "queues" else path
    words = "_".join(str(part) for part in within_queue if part != "defaults")
    guess = PREFIX + words.upper().replace("-", "_")
    return get_close_matches(guess, SECRET_VARIABLES, n=1, cutoff=0.0)[0]


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    if path[:1] == ("defaults",):
        path = ("queues", "*", *path[1:])
    general = tuple(
        "*" if isinstance(part, int) or (index == 1 and path[0] == "queues") else part
        for index, part in enumerate(path)
    )
    return _SECTIONS.get(general)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """By the name that is written in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _may_be_shown(path: KeyPath) -> bool:
    key = str(path[-1])
    model = _model_at(path[:-1])
    field = _fields(model).get(key) if model else None
    # text where keys are expected may be the secret that belongs under one of them
    section = _model_at(path)
    hidden = section is not None and not all(f.repr for f in section.model_fields.values())
    return not (looks_secret(key) or hidden) and (field is None or field.repr)


def _nearest(key: str, allowed: Collection[str]) -> str | None:
    near = get_close_matches(key.lower().replace("-", "_"), allowed, n=1)
    return near[0] if near else None


def _said_already(document: Document, path: KeyPath) -> bool:
    return any(path[:length] in document.spoiled for length in range(1, len(path) + 1))


def _follows_from_another(error: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """Whether one mistake shows twice: a misspelt key is also missing, a bad item is too few."""
    place = error["loc"]
    if error["type"] == "missing":
        beside = (e["loc"] for e in errors if e["type"] == "extra_forbidden")
        return any(
            other[:-1] == place[:-1]
            and _nearest(str(other[-1]), allowed_keys(place[:-1])) == place[-1]
            for other in beside
        )
    within = (e["loc"] for e in errors if len(e["loc"]) > len(place))
    return error["type"] == "too_short" and any(loc[: len(place)] == place for loc in within)


def _message(document: Document, path: KeyPath, error: ErrorDetails) -> str:
    if error["type"] == CROSS_FIELD:
        return error["msg"]
    if error["type"] == "missing":
        hint = _REQUIRED.get(str(path[-1]))
        return f"is required: {hint}" if hint else "is required"
    say = _SAID.get(error["type"])
    expected = say(error.get("ctx", {})) if say else _EXPECTED.get(error["type"].split("_")[0])
    text = expected or error["msg"]
    if expected == _EXPECTED["model"] and (keys := allowed_keys(path)):
        text = f"{text}: {', '.join(keys)}"
    if error["input"] is None:
        return f"is empty: {text}"
    raw = document.marks[path].raw if path in document.marks else None
    if raw is None or "@" in raw or not _may_be_shown(path):
        return text
    if len(raw) > MAX_SHOWN_CHARACTERS:
        raw = raw[:MAX_SHOWN_CHARACTERS] + "..."
    return f"{raw!r}: {text}"
