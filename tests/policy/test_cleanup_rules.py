"""What is removed or mended, rule by rule, and the sentence that says why (not)."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.effects import DeleteInstance, DeleteVolume, Failure, Reason, SetTags
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Memory, Pending, PowerOff
from gpu_autoscaler.domain.model import (
    PROVISIONING_TAG,
    QUARANTINED_TAG,
    REGISTERED_TAG,
    Volume,
    VolumeKind,
    VolumeRef,
    ZoneView,
)
from gpu_autoscaler.policy.cleanup import delete_all, mend_tags, note_fall_backs, sweep_volumes
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from tests.policy.worlds import (
    OTHER_ZONE,
    START,
    ZONE,
    config,
    fact,
    fleet,
    instance,
    known,
    minutes,
    registered,
)

HOUR_AGO = START - timedelta(hours=1)
NEW_SPEC = {"specs": {"H100-1-80G": "def456def456"}}


def off(off_for: timedelta = timedelta(hours=1), **changes: Any) -> Fact:
    """m1 is stopped for so long."""
    memory = {"state_since": START - off_for, **changes.pop("memory", {})}
    return fact("m1", "stopped", memory=memory, **changes)


def half_made(**changes: Any) -> Fact:
    born = instance("m1", "stopped", tags=(PROVISIONING_TAG,), created_at=START - minutes(4))
    return fact("m1", "provisioning", **{"instance": born, "abandoned": True, **changes})


def failed(key: str) -> Memory:
    """This was tried, and is tried again in a minute."""
    return Memory(pending={key: Pending(key, "m1", START, START + minutes(1), failed=True)})


GONE: Mapping[str, Any] = {"instance": registered("m1", "stopped", queue="old")}
OF_GONE = Memory(instances={"x": known(last_seen=registered(queue="old"))})
HOLE: Mapping[str, Any] = {"quarantined_at": HOUR_AGO, "quarantine_tagged": True}


@pytest.mark.parametrize(
    ("one", "world", "reason", "because"),
    [
        (half_made(), {}, Reason.HALF_MADE, "m1 was never finished (4m old)"),
        (off(timedelta(hours=24)), {}, Reason.STOPPED_RETENTION, "stopped for 1d"),
        (off(), NEW_SPEC, Reason.SPEC_CHANGED, "its bootstrap is out of date"),
        (
            off(memory={"delete_when_stopped": True}),
            {},
            Reason.IDLE_ACTION_DELETE,
            "stopped in order to be removed",
        ),
        (
            off(fell_back=True, instance=instance("m1", "stopped")),
            {},
            Reason.START_FELL_BACK,
            "no stock: its power-on ended in stopped",
        ),
        (
            off(**GONE),
            {"memory": OF_GONE},
            Reason.STOPPED_RETENTION,
            "its queue is no longer in the configuration",
        ),
        (
            off(timedelta(hours=24), memory=HOLE),
            {},
            Reason.QUARANTINED,
            "quarantined, and off for 1d",
        ),
        (
            off(memory=HOLE, **GONE),
            {"memory": OF_GONE},
            Reason.STOPPED_RETENTION,
            "its queue is no longer in the configuration",
        ),
    ],
)
def test_why_an_instance_is_removed(
    one: Fact, world: dict[str, Any], reason: Reason, because: str
) -> None:
    there = fleet(one, **world)
    delete_all(there)
    sentence = (
        because if one.state is S.PROVISIONING else f"removing m1 with its volumes: {because}"
    )
    assert there.effects == [DeleteInstance(instance=one.instance, reason=reason, because=sentence)]
    assert there.verdicts == {}


def test_without_clearml_nobody_knows_that_a_half_made_one_never_ran_a_task() -> None:
    there = fleet(half_made(), complete=False)
    delete_all(there)
    text = "never finished; removed once ClearML says that no task is on it"
    assert (there.effects, there.verdicts) == ([], {"id-m1": (Reason.INCOMPLETE, text)})


@pytest.mark.parametrize(
    ("one", "world", "reason", "because"),
    [
        (half_made(abandoned=False), {}, Reason.BOOTING, "being made"),
        (
            off(timedelta(hours=23)),
            {},
            Reason.WAITING,
            "stopped; removed in 1h unless a task waits before",
        ),
        (
            off(timedelta(hours=23), memory=HOLE),
            NEW_SPEC,
            Reason.WAITING,
            "removed in 1h unless its tag `quarantined` is taken off",
        ),
        (
            off(timedelta(hours=48), claims=("t1", "t2")),
            {},
            Reason.WAITING,
            "stopped; kept while ClearML places task t1 on it",
        ),
        (
            off(timedelta(hours=48), previous=S.STOPPING),
            {"memory": Memory(power_offs={"m1": PowerOff("q", HOUR_AGO)})},
            Reason.WAITING,
            "stopped; first its tasks are looked at once more",
        ),
        (
            off(timedelta(hours=48), hands_off="a person's"),
            {},
            Reason.HANDS_OFF,
            "hands off: a person's",
        ),
        (half_made(hands_off="a person's"), {}, Reason.HANDS_OFF, "hands off: a person's"),
        (
            half_made(),
            {"memory": failed("delete:id-m1")},
            Reason.IN_FLIGHT,
            "delete failed, tried again at 08:01:00",
        ),
    ],
)
def test_why_a_stopped_instance_is_kept(
    one: Fact, world: dict[str, Any], reason: Reason, because: str
) -> None:
    there = fleet(one, **world)
    delete_all(there)
    assert there.effects == []
    assert there.verdicts == {"id-m1": (reason, because)}


@pytest.mark.parametrize(
    ("one", "world", "removed"),
    [
        (off(timedelta(hours=48)), {"complete": False}, False),
        (off(), {"specs": {}}, False),  # nobody knows what it would be made with now
        (off(fell_back=True), {}, False),  # it has worked before: only this start failed
        (fact("m1", "idle"), NEW_SPEC, False),
        (half_made(instance=instance("m1", "stopping", tags=(PROVISIONING_TAG,))), {}, False),
    ],
)
def test_what_is_not_removed(one: Fact, world: dict[str, Any], removed: bool) -> None:
    there = fleet(one, **world)
    delete_all(there)
    assert bool(there.effects) is removed


def test_what_is_known_better_of_one_that_waits_stays_said() -> None:
    there = fleet(off())
    there.verdicts["id-m1"] = Reason.IN_FLIGHT, "start failed"
    delete_all(there)
    assert there.verdicts["id-m1"] == (Reason.IN_FLIGHT, "start failed")


@pytest.mark.parametrize(
    ("decided", "tagged", "removed"),
    [(False, True, False), (True, True, True), (False, False, True)],
)
def test_a_fall_back_rests_the_placement_and_a_first_boot_is_removed(
    decided: bool, tagged: bool, removed: bool
) -> None:
    there_is = registered("m1", "stopped") if tagged else instance("m1", "stopped")
    memory = {"start_accepted_at": HOUR_AGO, "delete_when_stopped": decided}
    one = off(fell_back=True, instance=there_is, memory=memory)
    other = fact("m2", "stopped", memory=memory)
    there = fleet(other, one)
    note_fall_backs(there)
    ended = replace(one.memory, start_accepted_at=None, delete_when_stopped=removed)
    assert there.facts == {"id-m1": replace(one, memory=ended), "id-m2": other}
    (backoff,) = there.backoffs.kept()
    assert (backoff.placement, backoff.failure) == (one.instance.placement, Failure.OUT_OF_STOCK)
    assert backoff.message == "m1 fell back to stopped after its power-on was accepted"


# --- tags


def mended(one: Fact, **world: Any) -> Fleet:
    there = fleet(one, **world)
    mend_tags(there)
    return there


REPORTS: Mapping[str, Any] = {"last_report_at": START}


@pytest.mark.parametrize(
    ("one", "add", "remove", "reason", "because"),
    [
        (
            fact(instance=instance("m1"), memory=REPORTS),
            {REGISTERED_TAG},
            set(),
            Reason.REGISTERED,
            "m1's agent has registered",
        ),
        (
            fact(state="running_task", instance=instance("m1"), memory=REPORTS),
            {REGISTERED_TAG},
            set(),
            Reason.REGISTERED,
            "m1's agent has registered",
        ),
        (
            fact(instance=instance("m1", tags=(PROVISIONING_TAG,)), memory=REPORTS),
            {REGISTERED_TAG},
            {PROVISIONING_TAG},
            Reason.ADOPTED,
            "m1 is complete: its agent has registered",
        ),
        (
            fact(state="lost", instance=registered("m1", tags=(PROVISIONING_TAG,))),
            set(),
            {PROVISIONING_TAG},
            Reason.ADOPTED,
            "m1 is complete: its agent has registered",
        ),
        (
            off(memory={"quarantined_at": HOUR_AGO}),
            {QUARANTINED_TAG},
            set(),
            Reason.QUARANTINED,
            "m1 is quarantined, until somebody takes off this tag",
        ),
        (
            fact(
                instance=registered("m1", tags=("keep=2026-09-07T08:00:00", "keep", "keeper")),
                memory={"keep_seen_at": HOUR_AGO},
            ),
            set(),
            {"keep", "keep=2026-09-07T08:00:00"},
            Reason.KEEP_ENDED,
            "m1 was kept long enough",
        ),
    ],
)
def test_which_tags_change(
    one: Fact, add: set[str], remove: set[str], reason: Reason, because: str
) -> None:
    assert mended(one).effects == [
        SetTags(
            instance=one.instance,
            add=frozenset(add),
            remove=frozenset(remove),
            reason=reason,
            because=because,
        )
    ]


@pytest.mark.parametrize(
    "one",
    [
        fact(memory=REPORTS),
        fact(instance=instance("m1")),
        fact(state="lost", instance=instance("m1"), memory=REPORTS),
        fact(state="initializing", instance=instance("m1", tags=(PROVISIONING_TAG,))),
        off(memory=HOLE, instance=registered("m1", "stopped", tags=(QUARANTINED_TAG,))),
        fact(
            instance=registered("m1", tags=("keep=2026-09-07T08:00:01",)),
            memory={"keep_seen_at": HOUR_AGO},
        ),
        fact(instance=instance("m1"), memory=REPORTS, hands_off="a person's"),
    ],
)
def test_otherwise_tags_stay(one: Fact) -> None:
    there = mended(one)
    assert (there.effects, there.verdicts) == ([], {})


def test_several_things_may_be_mended_at_once() -> None:
    tags = (PROVISIONING_TAG, "keep=2026-09-07T07:59:00")
    one = fact(instance=instance("m1", tags=tags), memory={**REPORTS, "keep_seen_at": HOUR_AGO})
    (effect,) = mended(one).effects
    assert isinstance(effect, SetTags)
    assert (effect.add, effect.remove) == (frozenset({REGISTERED_TAG}), frozenset(tags))


@pytest.mark.parametrize("done", [False, True])
def test_what_keeps_its_tags_from_changing_is_no_news_about_itself(done: bool) -> None:
    under_way = Pending("tag:id-m1", "m1", START, START + minutes(1), done=done)
    one = fact(instance=instance("m1"), memory=REPORTS)
    there = fleet(one, memory=Memory(pending={under_way.key: under_way}))
    there.verdicts["id-m1"] = Reason.WAITING, "idle"
    mend_tags(there)
    assert there.effects == []
    assert there.verdicts == {"id-m1": (Reason.WAITING, "idle")}


# --- volumes


def volume(name: str, **changes: Any) -> Volume:
    return replace(Volume(name, ZONE, f"{name}-root", None, HOUR_AGO), **changes)


def view(
    *volumes: Volume, zone: str = ZONE, complete: bool = True, listed: bool = True
) -> dict[str, ZoneView]:
    return {zone: ZoneView(zone, complete, START, volumes=volumes if listed else None)}


@pytest.mark.parametrize(
    ("since", "removed"), [(minutes(5), True), (minutes(4.9), False), (None, False)]
)
def test_a_volume_is_removed_after_half_the_orphan_timeout(
    since: timedelta | None, removed: bool
) -> None:
    seen: dict[str, datetime] = {} if since is None else {"v1": START - since}
    there = fleet(memory=Memory(free_volumes=seen), zones=view(volume("v1")))
    assert sweep_volumes(there) == {"v1": START - (since or timedelta(0))}
    because = "volume v1-root in fr-par-2 belongs to no instance any more"
    wanted = DeleteVolume(volume=volume("v1"), reason=Reason.ORPHAN_VOLUME, because=because)
    assert there.effects == ([wanted] if removed else [])


def test_every_free_volume_is_removed_and_no_other() -> None:
    one = fact(instance=replace(registered("m1"), volumes=(VolumeRef("v2", VolumeKind.BLOCK),)))
    volumes = [volume("v1", attached_to="id-m9"), volume("v2"), volume("v3"), volume("v4")]
    seen = {f"v{n}": HOUR_AGO for n in range(1, 6)}
    under_way = Pending("delete_volume:v3", "v3", START, START + minutes(1))
    memory = Memory(free_volumes=seen, pending={under_way.key: under_way})
    there = fleet(one, memory=memory, zones=view(*volumes))
    assert sweep_volumes(there) == {"v3": HOUR_AGO, "v4": HOUR_AGO}
    assert [e.subject for e in there.effects] == ["v4"]


@pytest.mark.parametrize(
    ("zones", "left", "removed"),
    [
        (view(listed=False), {"v1", "v2"}, []),
        (view(complete=False), {"v1", "v2"}, []),
        (view(volume("v1"), complete=False), {"v1", "v2"}, []),
        (view(volume("v1")), {"v1"}, ["v1"]),
        (view(volume("v1")) | view(zone=OTHER_ZONE, listed=False), {"v1", "v2"}, ["v1"]),
        (view(volume("v1")) | view(zone=OTHER_ZONE, complete=False), {"v1", "v2"}, ["v1"]),
        (view(zone=OTHER_ZONE, listed=False) | view(volume("v1")), {"v1", "v2"}, ["v1"]),
    ],
)
def test_where_nobody_looked_what_was_known_stays_known(
    zones: dict[str, ZoneView], left: set[str], removed: list[str]
) -> None:
    memory = Memory(free_volumes={"v1": HOUR_AGO, "v2": HOUR_AGO})
    there = fleet(memory=memory, zones=zones)
    assert sweep_volumes(there) == dict.fromkeys(left, HOUR_AGO)
    assert [e.subject for e in there.effects] == removed


def test_a_volume_s_time_is_a_share_of_the_orphan_timeout() -> None:
    memory = Memory(free_volumes={"v1": START - minutes(10)})
    settings = config(orphan_timeout="30m")
    there = fleet(memory=memory, settings=settings, zones=view(volume("v1")))
    sweep_volumes(there)
    assert there.effects == []
