"""What operators asked for, made part of the plan; or why it is not done."""

from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.effects import Guard, Reason, SetTags
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import KEEP_TAG, QUARANTINED_TAG
from gpu_autoscaler.domain.requests import Answer, Request, RequestKind
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.stop import stop

NOT_NOW = "its tags are just being changed, or its zone does not answer; try again"
ENDED = "it was kept long enough, and its tag is being taken off; try again in a minute"


def obey_all(fleet: Fleet, stuck: frozenset[str]) -> tuple[Answer, ...]:
    """Plan what was asked of instances; say what becomes of every request."""
    return tuple(_answer(fleet, each, stuck) for each in fleet.world.requests)


def _answer(fleet: Fleet, request: Request, stuck: frozenset[str]) -> Answer:
    if request.kind in (RequestKind.PAUSE, RequestKind.RESUME):
        return _of_queue(fleet, request)
    server_id = fleet.by_name.get(request.subject)
    if server_id is None:
        there = ", ".join(sorted(fleet.by_name)) or "none at all"
        return Answer(request, False, f"no instance is named {request.subject} (there is {there})")
    fact = fleet.facts[server_id]
    match request.kind:
        case RequestKind.KEEP:
            return _keep(fleet, request, fact)
        case RequestKind.RELEASE:
            return _release(fleet, request, fact)
        case _:
            return _stop(fleet, request, fact, stuck)


def _of_queue(fleet: Fleet, request: Request) -> Answer:
    name = request.subject
    if name not in fleet.config.queues:
        there = ", ".join(fleet.config.queues)
        return Answer(request, False, f"no queue {name} is configured (there is {there})")
    pause = fleet.memory.pauses.get(name)
    later = "" if name in fleet.world.clearml.queues else ", once ClearML answers"
    if request.kind is RequestKind.RESUME:
        if pause is not None and pause.budget:
            return Answer(request, False, f"{name} is held: {pause.budget}, or when it is raised")
        if pause is None:
            return Answer(request, True, f"{name} was not paused")
        return Answer(request, True, f"{name} is resumed{later}")
    sentence = f"{name} is paused: what runs goes on, nothing is launched, no agent pulls{later}"
    return Answer(request, True, sentence)


def _keep(fleet: Fleet, request: Request, fact: Fact) -> Answer:
    if fact.instance.kept and not fact.hands_off:
        return Answer(request, False, f"{fact.name}: {ENDED}")
    if fact.instance.kept:
        return Answer(request, True, f"{fact.name}: {fact.hands_off}")
    if fact.hands_off:
        return Answer(request, False, f"{fact.name}: hands off: {fact.hands_off}")
    if not _taggable(fleet, fact):
        return Answer(request, False, f"{fact.name}: {NOT_NOW}")
    keep = format_duration(fleet.config.keep)
    _tag(fleet, fact, f"{fact.name} is kept, as asked", add=frozenset({KEEP_TAG}))
    return Answer(request, True, f"{fact.name} is kept for {keep}: hands off")


def _release(fleet: Fleet, request: Request, fact: Fact) -> Answer:
    tags = fact.instance.tags
    held = {t for t in tags if t in (KEEP_TAG, QUARANTINED_TAG) or t.startswith(f"{KEEP_TAG}=")}
    if not held:
        return Answer(request, True, f"{fact.name} was neither kept nor quarantined")
    if not _taggable(fleet, fact):
        return Answer(request, False, f"{fact.name}: {NOT_NOW}")
    _tag(fleet, fact, f"{fact.name} is released, as asked", remove=frozenset(held))
    return Answer(request, True, f"{fact.name} is released: the rules apply to it again")


def _stop(fleet: Fleet, request: Request, fact: Fact, stuck: frozenset[str]) -> Answer:
    if fact.state is not S.IDLE:
        state = fact.state.value.replace("_", " ")
        return Answer(request, False, f"{fact.name} is {state}: only an idle instance is stopped")
    because = f"{fact.name} is idle, and somebody asked to stop it"
    if stop(fleet, fact, Reason.OPERATOR, because, Guard.IDLE, stuck):
        return Answer(request, True, f"{fact.name} is powered off after a last look at its tasks")
    return _refused(fleet, request, fact)


def _refused(fleet: Fleet, request: Request, fact: Fact) -> Answer:
    _, why = fleet.verdicts[fact.instance.id]
    return Answer(request, False, f"{fact.name}: {why}")


def _taggable(fleet: Fleet, fact: Fact) -> bool:
    """Once a change of its tags was accepted, the next one need not wait to see it: it adds."""
    tagging = fleet.pending.get(f"tag:{fact.instance.id}")
    return fact.seen and (tagging is None or tagging.done)


def _tag(
    fleet: Fleet,
    fact: Fact,
    because: str,
    *,
    add: frozenset[str] = frozenset(),
    remove: frozenset[str] = frozenset(),
) -> None:
    effect = SetTags(
        instance=fact.instance, add=add, remove=remove, reason=Reason.OPERATOR, because=because
    )
    fleet.add(effect)
