"""The stored form of a day of the ledger: JSON lines, of which a bad one costs only itself."""

import math
from datetime import date, datetime
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord

_RECORD: TypeAdapter[Stretch | TaskRecord] = TypeAdapter(
    Annotated[Stretch | TaskRecord, Field(discriminator="kind")]
)


def parse(day: date, content: bytes, place: str) -> Page:
    """The page that this content holds; `place` is where it was found, for people.

    Fields that this version does not know are ignored. A line that cannot be read becomes a
    problem that names it: one cut short by a crash, a damaged one, one of a newer kind.
    """
    stretches: list[Stretch] = []
    tasks: list[TaskRecord] = []
    problems: list[str] = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _RECORD.validate_json(line)
        except ValidationError as error:
            # each line ends with a line feed: what stands behind the last one was cut short
            why = "cut short" if number == len(lines) else _first_of(error)
        else:
            why = _nonsense(record)
            if not why and isinstance(record, Stretch):
                stretches.append(record)
            elif not why and isinstance(record, TaskRecord):
                tasks.append(record)
        if why:
            problems.append(f"{place}:{number}: not counted, the line cannot be read ({why})")
    return Page(day, tuple(stretches), tuple(tasks), tuple(problems))


def render(page: Page) -> bytes:
    """The lines of its records; those behind its problems are not among them."""
    records: list[Stretch | TaskRecord] = [*page.stretches, *page.tasks]
    return b"".join(_RECORD.dump_json(each) + b"\n" for each in records)


def _nonsense(record: Stretch | TaskRecord) -> str:
    """What no daemon would have written, and no report could reckon with."""
    if isinstance(record, TaskRecord):
        times: tuple[datetime | None, ...] = (record.started_at, record.ended_at)
        amounts: tuple[float, ...] = ()
    else:
        times = (record.since, record.until, record.powered_on_at)
        money = (record.eur_per_hour or 0.0, record.storage_eur_per_hour)
        amounts = (*money, record.rounding_seconds)
    if any(each is not None and each.tzinfo is None for each in times):
        return "a time without a zone"
    if any(not math.isfinite(each) or each < 0 for each in amounts):
        return "an amount below zero or without end"
    first, last = times[:2]
    if isinstance(record, Stretch) and first and last and last < first:
        return "it ends before it begins"
    return ""


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(each) for each in first["loc"][1:])
    return f"{where}: {first['msg']}" if where else first["msg"]
