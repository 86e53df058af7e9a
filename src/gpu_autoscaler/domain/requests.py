"""What an operator asks of the daemon, and what became of it.

A request does not act by itself: it goes into the next plan, which obeys it or says why not.
"""

from dataclasses import dataclass
from enum import StrEnum


class RequestKind(StrEnum):
    """What may be asked."""

    PAUSE = "pause"
    """A queue: nothing is launched for it, and agents pull no further task from it."""
    RESUME = "resume"
    KEEP = "keep"
    """An instance: hands off, until the tag `keep` ends."""
    RELEASE = "release"
    """An instance: neither kept nor quarantined any more."""
    STOP = "stop"
    """An idle instance: power it off now, whatever its timeout."""


@dataclass(frozen=True, slots=True)
class Request:
    """One."""

    kind: RequestKind
    subject: str
    """Name of a queue or an instance."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the next plan made of it."""

    request: Request
    obeyed: bool
    sentence: str
    """What is done now, or why nothing is."""
