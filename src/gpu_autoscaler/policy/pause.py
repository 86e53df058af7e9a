"""Paused queues: nothing is launched for them, and a tag at ClearML keeps agents from pulling.

Refusing to launch alone does not stop work: agents pull by themselves. The tag is the truth, and
outlives our memory: a queue that is found with it is paused, whoever set it, until somebody resumes
it here or takes the tag off there. Launching for it would only make machines that idle.
"""

from dataclasses import replace
from datetime import datetime

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Reason, TagQueue
from gpu_autoscaler.domain.memory import Memory, Pause
from gpu_autoscaler.domain.model import PAUSE_TAG
from gpu_autoscaler.domain.requests import RequestKind
from gpu_autoscaler.policy.fleet import Fleet


def pauses(world: World, memory: Memory, config: Config, now: datetime) -> dict[str, Pause]:
    """Those that hold now, with what was asked for and what people did at ClearML."""
    asked = {each.subject: each.kind for each in world.requests}
    found: dict[str, Pause] = {}
    for name in config.queues:
        pause, queue = memory.pauses.get(name), world.clearml.queues.get(name)
        if queue is not None and PAUSE_TAG in queue.tags:
            pause = replace(pause or Pause(now), tagged=True)
        elif queue is not None and pause is not None and (pause.ending or pause.tagged):
            pause = None  # the tag is gone, by us or by somebody else
        if asked.get(name) is RequestKind.PAUSE:
            pause = replace(pause or Pause(now), ending=False)
        elif asked.get(name) is RequestKind.RESUME and pause is not None:
            pause = replace(pause, ending=True)
        if pause is not None:
            found[name] = pause
    return found


def tag_queues(fleet: Fleet) -> None:
    """Plan the tag of every queue that lacks it, or has it too long."""
    for name, pause in fleet.memory.pauses.items():
        queue = fleet.world.clearml.queues.get(name)
        if queue is None or f"tag_queue:{queue.id}" in fleet.pending:
            continue
        if (PAUSE_TAG in queue.tags) is pause.ending:
            what = "resumed: agents may pull again" if pause.ending else "paused: no agent pulls"
            because = f"queue {name} is {what} (its tag `{PAUSE_TAG}`)"
            paused = not pause.ending
            fleet.add(TagQueue(queue=queue, paused=paused, reason=Reason.OPERATOR, because=because))
