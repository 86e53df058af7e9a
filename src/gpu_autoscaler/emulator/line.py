"""The one seam of the in-process ports: everything they ask of a service passes through here."""

from collections import Counter
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Line(Protocol):
    """The wire between one daemon and one service: where calls take time, fail, or are cut."""

    async def carry(self, call: str, take_effect: Callable[[], T]) -> T:
        """Let one call happen and give back what it answers.

        `call` is named as over HTTP: "POST /instance/v1/zones/fr-par-2/servers", "tasks.enqueue".
        `take_effect` does everything of this one call at once, and raises a subclass of `ApiError`
        where the service refuses. It may be left out, or be followed by an error: a lost reply.
        Whatever fails here must be an `ApiError`; the adapters' deadlines run meanwhile, and
        their repetitions of reads come back here.

        The listings of each cycle answer a tuple of domain objects or a mapping by name, made for
        this call alone: a line may leave out or repeat some. Every other answer is between the
        adapter and the emulator.
        """


class DirectLine:
    """A perfect wire, which counts."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """By name."""

    async def carry(self, call: str, take_effect: Callable[[], T]) -> T:
        self.calls[call] += 1
        return take_effect()
