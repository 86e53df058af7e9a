"""What a check found: three levels, grouped, for people and for machines."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpu_autoscaler.domain.errors import ApiError


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """The daemon will run; a person should know."""
    BAD = "bad"
    """Something will not work."""


STYLES = {Level.OK: "green", Level.NOTE: "yellow", Level.BAD: "red"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How something was found, with what to do about it."""

    level: Level = Level.OK
    said: str = ""


GOOD = Verdict()


def good(said: str) -> Verdict:
    """It is as it should be, and this is how it is."""
    return Verdict(Level.OK, said)


def note(said: str) -> Verdict:
    """Worth knowing."""
    return Verdict(Level.NOTE, said)


def bad(said: str) -> Verdict:
    """It will not work."""
    return Verdict(Level.BAD, said)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    group: str
    what: str
    verdict: Verdict = GOOD

    @property
    def level(self) -> Level:
        """How much it matters."""
        return self.verdict.level

    @property
    def said(self) -> str:
        """How it was found, and what to do; may be empty when it is good."""
        return self.verdict.said


async def tried(group: str, what: str, probe: Callable[[], Awaitable[Verdict]]) -> Finding:
    """Ask; what the service says against it is bad."""
    try:
        return Finding(group, what, await probe())
    except (ApiError, OSError) as error:
        return Finding(group, what, bad(str(error) or type(error).__name__))


def all_good(findings: Sequence[Finding]) -> bool:
    """Whether nothing is bad."""
    return all(finding.level is not Level.BAD for finding in findings)


def as_json(findings: Sequence[Finding], **more: Any) -> str:
    """The findings for machines, and whatever else there is to tell."""
    rows = [
        {"group": f.group, "what": f.what, "level": f.level.value, "said": f.said or None}
        for f in findings
    ]
    return json.dumps({"ok": all_good(findings), "findings": rows, **more}, indent=2) + "\n"


def show(findings: Sequence[Finding], console: Console) -> None:
    """The findings for people, each under the heading of its group."""
    for group, members in groupby(findings, key=lambda finding: finding.group):
        console.print(Text(group, style="bold"))
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, min_width=len("  note"))
        table.add_column(overflow="fold")
        for finding in members:
            said = f": {finding.said}" if finding.said else ""
            mark = Text(f"  {finding.level.value}", style=STYLES[finding.level])
            table.add_row(mark, Text(f"{finding.what}{said}"))
        console.print(table)
    counts = ", ".join(
        f"{sum(finding.level is level for finding in findings)} {level.value}" for level in Level
    )
    console.print(counts)
