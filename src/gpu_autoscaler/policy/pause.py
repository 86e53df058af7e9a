"""Paused queues: nothing is launched for them, and a tag at ClearML keeps agents from pulling.

Refusing to launch alone does not stop work: agents pull by themselves. The tag is the truth, and
outlives our memory: a queue that is found with it is paused, whoever set it, until somebody resumes
it here or takes the tag off there. Launching for it would only make machines that idle.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Reason, TagQueue
from gpu_autoscaler.domain.memory import Memory, Pause
from gpu_autoscaler.domain.model import PAUSE_TAG, Queue
from gpu_autoscaler.domain.requests import RequestKind
from gpu_autoscaler.policy.budgets import Standing
from gpu_autoscaler.policy.fleet import Fleet


def pauses(
    world: World, memory: Memory, config: Config, now: datetime, held: Mapping[str, Standing]
) -> dict[str, Pause]:
    """Those that hold now, with what was asked for, what people did at ClearML, and the budgets
    that are used up, by queue."""
    asked = {each.subject: each.kind for each in world.requests}
    found: dict[str, Pause] = {}
    for name in config.queues:
        before, queue = memory.pauses.get(name), world.clearml.queues.get(name)
        pause = _by_budget(_seen(before, queue, now, name in held), held.get(name), now)
        if asked.get(name) is RequestKind.PAUSE:
            pause = replace(pause or Pause(now), ending=False, asked=True)
        elif asked.get(name) is RequestKind.RESUME and pause is not None:
            pause = replace(pause, ending=not pause.budget, asked=False)
        if pause is not None:
            found[name] = pause
    return found


def _seen(pause: Pause | None, queue: Queue | None, now: datetime, held: bool) -> Pause | None:
    """With what the queue's tags at ClearML tell."""
    if queue is None:
        return pause
    if PAUSE_TAG in queue.tags:
        # found without memory, while a budget is used up, it is most likely ours
        return replace(pause or Pause(now, asked=not held), tagged=True)
    if pause is not None and (pause.ending or pause.tagged):
        return None  # the tag is gone, by us or by somebody else
    return pause


def _by_budget(pause: Pause | None, standing: Standing | None, now: datetime) -> Pause | None:
    """Begins, goes on and ends with the budget; what a person asked for stays."""
    if standing is not None:
        pause = pause or Pause(now, asked=False)
        return replace(pause, budget=standing.held, ending=False)
    if pause is not None and pause.budget:
        return replace(pause, budget="", ending=not pause.asked)
    return pause


def tag_queues(fleet: Fleet) -> None:
    """Plan the tag of every queue that lacks it, or has it too long."""
    for name, pause in fleet.memory.pauses.items():
        queue = fleet.world.clearml.queues.get(name)
        if queue is None or f"tag_queue:{queue.id}" in fleet.pending:
            continue
        if (PAUSE_TAG in queue.tags) is pause.ending:
            what = "resumed: agents may pull again" if pause.ending else "paused: no agent pulls"
            because = f"queue {name} is {what} (its tag `{PAUSE_TAG}`)"
            because += f"; {pause.budget}" if pause.budget else ""
            reason = Reason.BUDGET if pause.budget or not pause.asked else Reason.OPERATOR
            fleet.add(
                TagQueue(queue=queue, paused=not pause.ending, reason=reason, because=because)
            )
