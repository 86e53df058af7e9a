"""What one cycle knows of one instance."""

from dataclasses import dataclass

from gpu_autoscaler.domain.lifecycle import BILLED, BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import REGISTERED_TAG, Instance

ON = frozenset({S.INITIALIZING, S.IDLE, S.RUNNING_TASK, S.LOST, S.QUARANTINED})
"""States in which a machine runs, whatever it does."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One instance, as this cycle knows it."""

    instance: Instance
    state: S
    memory: InstanceMemory
    previous: S | None
    """Its state a cycle ago; None when it was not known."""
    seen: bool
    """Listed in this cycle, by a zone that answered completely."""
    claims: tuple[str, ...] = ()
    """Tasks that ClearML places on it."""
    hands_off: str = ""
    """Why it is never touched; empty when it may be."""
    fell_back: bool = False
    """A power-on that was accepted ended in `stopped`: no stock, said without a word."""
    serves: bool = True
    """Its agent pulls from the queue as ClearML has it now; a queue deleted and made again
    under its name is another one, which the agent never asks."""
    abandoned: bool = False
    """Half-made, and nobody is making it any more."""
    overdue: bool = False
    """It boots for so long that nobody counts on it any more; it is paid for all the same."""

    @property
    def name(self) -> str:
        """Its name, which is its worker's id too."""
        return self.instance.name

    @property
    def registered(self) -> bool:
        """Its agent was seen in any boot."""
        return has_registered(self.instance, self.memory)

    @property
    def quarantined(self) -> bool:
        """It fails whatever it pulls, and nobody has released it."""
        return self.memory.quarantined_at is not None

    @property
    def billed(self) -> bool:
        """Paid by the minute."""
        return self.state in BILLED and not self.abandoned

    @property
    def capacity(self) -> bool:
        """Will take a waiting task of its queue, if nothing is done to it."""
        return (self.state is S.IDLE and self.serves) or (
            self.state in BOOTING and not (self.abandoned or self.quarantined or self.overdue)
        )


def has_registered(instance: Instance, known: InstanceMemory) -> bool:
    """Its agent was seen in any boot, also where the tag that says so could not be set."""
    remembered = known.has_registered or known.last_report_at is not None
    return remembered or REGISTERED_TAG in instance.tags
