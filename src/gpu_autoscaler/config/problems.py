"""What is wrong with a configuration, in a form that names every place at once."""

from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""Keys and list indexes from the root of a document."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is and what is allowed there. Never holds a secret."""

    file: str
    """Path as the operator gave it; empty for environment variables."""
    line: int | None
    """Counted from 1; None when the mistake has no line."""
    key_path: str
    """For example `queues.H100-1-80G.placements[0].zone`, or a variable's name; may be empty."""
    message: str
    suggestion: str | None = None
    """The nearest allowed key, when one is near."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = ": ".join(part for part in (place, self.key_path, self.message) if part)
        return f"{text}; did you mean {self.suggestion}?" if self.suggestion else text


class ConfigError(Exception):
    """Settings or secrets that cannot be used; `problems` holds all that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        by_place = sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line or 0))
        self.problems = tuple(by_place)
        super().__init__("\n".join(map(str, self.problems)))


def format_key_path(path: KeyPath) -> str:
    """Write a path like `queues.H100-1-80G.placements[0]`; odd keys are quoted in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and part.replace("-", "").replace("_", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text
