"""How a machine's boot goes, and what is wrong with it: drawn anew for each."""

from collections import Counter

from gpu_autoscaler.emulator.machines import Habit
from gpu_autoscaler.runtime.clock import Dice
from gpu_autoscaler.simulation.faults import BootFaults

BOOT_SECONDS = (120.0, 300.0)
SLOW_BOOT_SECONDS = (300.0, 1200.0)
SLOW_POP_SECONDS = (1.0, 20.0)
DIES_WITHIN = 1.5 * 3600.0


def boot(random: Dice, rates: BootFaults, happened: Counter[str]) -> Habit:
    """How one boot of one machine goes."""

    def hit(name: str) -> bool:
        drawn: bool = random.random() < getattr(rates, name)
        happened[f"boot_{name}"] += drawn
        return drawn

    slow = hit("slow")
    return Habit(
        boot_seconds=random.uniform(*(SLOW_BOOT_SECONDS if slow else BOOT_SECONDS)),
        registers=not hit("never"),
        boot_fails="1 GPU, expected 2" if hit("fails") else None,
        pop_to_start_seconds=random.uniform(*SLOW_POP_SECONDS) if hit("slow_pop") else 0.04,
        fails_tasks_after=random.uniform(2, 40) if hit("black_hole") else None,
        agent_dies_after=random.uniform(0, DIES_WITHIN) if hit("agent_dies") else None,
        dies_after=random.uniform(0, DIES_WITHIN) if hit("dies") else None,
        dies_after_pop=hit("dies_after_pop"),
    )
