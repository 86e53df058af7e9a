"""Between the lines of the ledger and its records: one JSON object a line, told apart by `kind`."""

from datetime import date
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from gpu_autoscaler.domain.ledger import Page, Record, Stretch, TaskRecord

_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def parse(day: date, content: bytes, place: str) -> Page:
    """The records of a day; a line that nobody can read becomes a problem, and spoils no other."""
    stretches: list[Stretch] = []
    tasks: list[TaskRecord] = []
    problems: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record = _RECORD.validate_json(line)
        except ValidationError:
            problems.append(f"{place}:{number}: cannot be read, so it is not counted")
            continue
        if isinstance(record, Stretch):
            stretches.append(record)
        else:
            tasks.append(record)
    return Page(day, tuple(stretches), tuple(tasks), tuple(problems))


def render(page: Page) -> bytes:
    """Its records as lines."""
    return b"".join(_RECORD.dump_json(each) + b"\n" for each in page.records)
