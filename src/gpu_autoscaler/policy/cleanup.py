"""What is stopped, half-made, orphaned or wrongly tagged: removed or mended, with its volumes."""

from dataclasses import replace
from datetime import datetime

from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.effects import (
    DeleteInstance,
    DeleteVolume,
    Failure,
    Reason,
    RemoveBootstrap,
    SetTags,
)
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.model import (
    KEEP_TAG,
    PROVISIONING_TAG,
    QUARANTINED_TAG,
    REGISTERED_TAG,
    ServerState,
)
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.hands_off import kept_until
from gpu_autoscaler.policy.settings import FREE_VOLUME_SHARE


def note_fall_backs(fleet: Fleet) -> None:
    """A start that ended in `stopped` again met an empty shelf, without any error saying so."""
    for server_id, fact in fleet.facts.items():
        if not fact.fell_back:
            continue
        placement = fact.instance.placement
        fleet.backoffs.failed(
            placement,
            Failure.OUT_OF_STOCK,
            f"{fact.name} fell back to stopped after its power-on was accepted",
        )
        fleet.pending.pop(f"start:{server_id}", None)  # or it would count as coming
        fleet.facts[server_id] = replace(
            fact,
            memory=replace(
                fact.memory,
                start_accepted_at=None,
                delete_when_stopped=fact.memory.delete_when_stopped or not fact.registered,
            ),
        )


def delete_all(fleet: Fleet) -> None:
    """Plan the removal of every stopped instance whose time is over."""
    for fact in list(fleet.facts.values()):
        match fact.state:
            case S.PROVISIONING if fact.instance.state is ServerState.STOPPED:
                _delete_half_made(fleet, fact)
            case S.STOPPED if fleet.world.clearml.complete:
                _delete_stopped(fleet, fact)
            case _:
                pass


def _delete_half_made(fleet: Fleet, fact: Fact) -> None:
    age = fleet.now - fact.instance.created_at
    if not fact.abandoned:
        fleet.verdicts[fact.instance.id] = (Reason.BOOTING, "being made")
    elif fact.claims:
        text = f"never finished; kept while ClearML places task {fact.claims[0]} on it"
        fleet.verdicts[fact.instance.id] = (Reason.WAITING, text)
    elif not fleet.world.clearml.complete:
        # it may have run all the same, and a task's files may be on its disk
        text = "never finished; removed once ClearML says that no task is on it"
        fleet.verdicts[fact.instance.id] = (Reason.INCOMPLETE, text)
    elif fleet.touchable(fact, "delete"):
        because = f"{fact.name} was never finished ({format_duration(age)} old)"
        fleet.add(DeleteInstance(instance=fact.instance, reason=Reason.HALF_MADE, because=because))


def _delete_stopped(fleet: Fleet, fact: Fact) -> None:
    if fact.claims:
        # whoever stopped it, the run's files are on its disk until ClearML has ended the task
        text = f"stopped; kept while ClearML places task {fact.claims[0]} on it"
        fleet.verdicts[fact.instance.id] = (Reason.WAITING, text)
        return
    if not fleet.tasks_looked_at(fact):
        text = "stopped; first its tasks are looked at once more"
        fleet.verdicts[fact.instance.id] = (Reason.WAITING, text)
        return
    reason, text = _fate(fleet, fact)
    if reason is Reason.WAITING:
        fleet.verdicts.setdefault(fact.instance.id, (reason, text))
    elif fleet.touchable(fact, "delete"):
        because = f"removing {fact.name} with its volumes: {text}"
        fleet.add(DeleteInstance(instance=fact.instance, reason=reason, because=because))


def _fate(fleet: Fleet, fact: Fact) -> tuple[Reason, str]:
    """Why a stopped instance is removed now; WAITING with what it waits for when it is not."""
    queue = fleet.queue(fact.instance.queue)
    spec = fleet.spec(fact.instance.queue, fact.instance.placement)
    stopped_for = fleet.now - fact.memory.state_since
    if fact.quarantined and queue is not None:
        if stopped_for >= queue.quarantine_retention:
            return Reason.QUARANTINED, f"quarantined, and off for {format_duration(stopped_for)}"
        left = format_duration(queue.quarantine_retention - stopped_for)
        return Reason.WAITING, f"removed in {left} unless its tag `{QUARANTINED_TAG}` is taken off"
    if fact.fell_back and not fact.registered:
        return Reason.START_FELL_BACK, "no stock: its power-on ended in stopped"
    if fact.memory.delete_when_stopped:
        return Reason.IDLE_ACTION_DELETE, "stopped in order to be removed"
    if queue is None:
        return Reason.STOPPED_RETENTION, "its queue is no longer in the configuration"
    if fact.instance.spec != spec and spec:
        return Reason.SPEC_CHANGED, "its bootstrap is out of date"
    if stopped_for >= queue.stopped_retention:
        return Reason.STOPPED_RETENTION, f"stopped for {format_duration(stopped_for)}"
    left = format_duration(queue.stopped_retention - stopped_for)
    return Reason.WAITING, f"stopped; removed in {left} unless a task waits before"


def mend_tags(fleet: Fleet) -> None:
    """Plan tag changes: `registered`, `quarantined` on, a finished `phase`, an ended `keep` off."""
    for fact in fleet.facts.values():
        tags = fact.instance.tags
        add: set[str] = set()
        remove: set[str] = set()
        reason, because = Reason.REGISTERED, ""
        reports = fact.state in (S.IDLE, S.RUNNING_TASK) and fact.memory.last_report_at is not None
        if reports and REGISTERED_TAG not in tags:
            add.add(REGISTERED_TAG)
            because = f"{fact.name}'s agent has registered"
        if PROVISIONING_TAG in tags and (reports or REGISTERED_TAG in tags):
            # being powered proves nothing: a person may have done that to a half-made one
            remove.add(PROVISIONING_TAG)
            reason, because = Reason.ADOPTED, f"{fact.name} is complete: its agent has registered"
        if fact.quarantined and not fact.memory.quarantine_tagged:
            add.add(QUARANTINED_TAG)
            reason = Reason.QUARANTINED
            because = f"{fact.name} is quarantined, until somebody takes off this tag"
        until = kept_until(fact.memory, fleet.config)
        if until is not None and fleet.now >= until:
            remove |= {t for t in tags if t == KEEP_TAG or t.startswith(f"{KEEP_TAG}=")}
            reason, because = Reason.KEEP_ENDED, f"{fact.name} was kept long enough"
        verdict = fleet.verdicts.get(fact.instance.id)
        if because and not fact.hands_off and fleet.touchable(fact, "tag"):
            fleet.add(
                SetTags(
                    instance=fact.instance,
                    add=frozenset(add),
                    remove=frozenset(remove),
                    reason=reason,
                    because=because,
                )
            )
        elif verdict is not None:  # what keeps its tags from changing is no news about itself
            fleet.verdicts[fact.instance.id] = verdict


def remove_bootstraps(fleet: Fleet) -> None:
    """Plan to take away the user data of machines that have used it: it holds secrets, which
    anybody could read who may read instances."""
    for fact in fleet.facts.values():
        there = fact.memory.last_report_at is not None and not fact.memory.bootstrap_removed
        works = fact.state in (S.IDLE, S.RUNNING_TASK) and REGISTERED_TAG in fact.instance.tags
        if not (there and works) or fleet.under_way("remove_bootstrap", fact):
            continue
        verdict = fleet.verdicts.get(fact.instance.id)
        if fleet.touchable(fact, "remove_bootstrap"):
            because = f"{fact.name} has registered: its user data, with the secrets, is not needed"
            fleet.add(
                RemoveBootstrap(instance=fact.instance, reason=Reason.REGISTERED, because=because)
            )
        elif verdict is not None:  # as above
            fleet.verdicts[fact.instance.id] = verdict


def sweep_volumes(fleet: Fleet) -> dict[str, datetime]:
    """Plan the removal of volumes of ours that no server holds; returns the free ones seen."""
    if all(zone.volumes is None for zone in fleet.world.zones.values()):
        return fleet.memory.free_volumes  # not a cycle that lists volumes
    held = {ref.id for fact in fleet.facts.values() for ref in fact.instance.volumes}
    free: dict[str, datetime] = {}
    for zone in fleet.world.zones.values():
        for volume in zone.volumes or () if zone.complete else ():
            if volume.attached_to is not None or volume.id in held:
                continue
            since = free[volume.id] = fleet.memory.free_volumes.get(volume.id, fleet.now)
            ripe = fleet.now - since >= fleet.config.orphan_timeout * FREE_VOLUME_SHARE
            if ripe and f"delete_volume:{volume.id}" not in fleet.pending:
                because = f"volume {volume.name} in {volume.zone} belongs to no instance any more"
                fleet.add(DeleteVolume(volume=volume, reason=Reason.ORPHAN_VOLUME, because=because))
        if zone.volumes is None or not zone.complete:  # its part keeps what it was known for
            free |= {k: v for k, v in fleet.memory.free_volumes.items() if k not in free}
    return free
