"""Paused queues: nothing is launched for them, and a tag at ClearML keeps agents from pulling.

Refusing to launch alone does not stop work: agents pull by themselves. The tag is the truth, and
outlives our memory: a queue that is found with it is paused, whoever set it, until somebody resumes
it here or takes the tag off there. Launching for it would only make machines that idle. A queue
that leaves the configuration keeps a person's tag, and loses that of a budget.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Reason, TagQueue
from gpu_autoscaler.domain.memory import Memory, Pause
from gpu_autoscaler.domain.model import BUDGET_TAG, PAUSE_TAG, PAUSE_TAGS, Queue
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
        pause = _by_budget(_seen(before, queue, now), held.get(name), now)
        if asked.get(name) is RequestKind.PAUSE:
            pause = replace(pause or Pause(now), ending=False, asked=True)
        elif asked.get(name) is RequestKind.RESUME and pause is not None:
            pause = replace(pause, ending=not pause.budget, asked=pause.asked and not pause.budget)
        if pause is not None:
            found[name] = pause
    for name in sorted(memory.pauses.keys() - config.queues.keys()):
        pause = _left(memory.pauses[name], world, name, now)
        if pause is not None:
            found[name] = pause
    return found


def _left(pause: Pause, world: World, name: str, now: datetime) -> Pause | None:
    """That of a queue that is not configured any more."""
    queue = world.clearml.queues.get(name)
    if pause.asked or (queue is None and world.clearml.complete):
        return None
    return _seen(replace(pause, budget="", ending=True), queue, now)


def _seen(pause: Pause | None, queue: Queue | None, now: datetime) -> Pause | None:
    """With what the queue's tags at ClearML tell."""
    if queue is None:
        return pause
    if PAUSE_TAG in queue.tags:
        return replace(pause or Pause(now, asked=BUDGET_TAG not in queue.tags), tagged=True)
    if pause is not None and (pause.ending or pause.tagged):
        return None  # the tag is gone, by us or by somebody else
    return pause


def _by_budget(pause: Pause | None, standing: Standing | None, now: datetime) -> Pause | None:
    """Begins, goes on and ends with the budget; what a person asked for stays."""
    if standing is not None:
        pause = pause or Pause(now, asked=False)
        asked = pause.asked and not pause.ending
        return replace(pause, budget=standing.held, ending=False, asked=asked)
    if pause is not None and (pause.budget or not pause.asked):
        return replace(pause, budget="", ending=not pause.asked)
    return pause


def tag_queues(fleet: Fleet) -> None:
    """Plan the tags of every queue that lacks them, or has them too long."""
    for name, queue in fleet.world.clearml.queues.items():
        pause, present = fleet.memory.pauses.get(name), PAUSE_TAGS.intersection(queue.tags)
        if pause is None and BUDGET_TAG not in present:
            continue
        wanted = _tags(pause)
        if present == wanted or f"tag_queue:{queue.id}" in fleet.pending:
            continue
        what = "paused: no agent pulls" if wanted else "resumed: agents may pull again"
        because = f"queue {name} is {what} (its tag `{PAUSE_TAG}`)"
        because += f"; {pause.budget}" if pause and pause.budget else ""
        operator = pause and pause.asked and not pause.budget
        reason = Reason.OPERATOR if operator else Reason.BUDGET
        fleet.add(TagQueue(queue=queue, tags=wanted, reason=reason, because=because))


def _tags(pause: Pause | None) -> frozenset[str]:
    if pause is None or pause.ending:
        return frozenset()
    return frozenset({PAUSE_TAG}) if pause.asked else PAUSE_TAGS
