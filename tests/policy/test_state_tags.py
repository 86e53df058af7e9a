"""What people say about an instance with tags, and why it is left alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpu_autoscaler.domain.model import (
    QUARANTINED_TAG,
    Instance,
)
from gpu_autoscaler.policy.hands_off import kept_until
from tests.policy.test_state import HOUR_AGO, joined, was
from tests.policy.worlds import (
    START,
    config,
    known,
    registered,
    seconds,
)


@pytest.mark.parametrize(
    ("tags", "memory", "tagged", "since"),
    [
        ((), {}, False, None),
        ((QUARANTINED_TAG,), {}, True, START),
        ((QUARANTINED_TAG,), {"quarantined_at": HOUR_AGO}, True, HOUR_AGO),
        (
            (QUARANTINED_TAG,),
            {"quarantined_at": HOUR_AGO, "quarantine_tagged": True},
            True,
            HOUR_AGO,
        ),
        ((), {"quarantined_at": HOUR_AGO}, False, HOUR_AGO),  # not tagged yet
        # off: that listing may be old, and the next one must agree
        ((), {"quarantined_at": HOUR_AGO, "quarantine_tagged": True}, True, HOUR_AGO),
        (
            (),
            {
                "quarantined_at": HOUR_AGO,
                "quarantine_tagged": True,
                "untagged_at": START - seconds(29),
            },
            True,
            HOUR_AGO,
        ),
        (
            (),
            {
                "quarantined_at": HOUR_AGO,
                "quarantine_tagged": True,
                "untagged_at": START - seconds(30),
            },
            False,
            None,
        ),
    ],
)
def test_the_tag_quarantines_and_releases(
    tags: tuple[str, ...], memory: dict[str, Any], tagged: bool, since: datetime | None
) -> None:
    found = joined(registered("m1", "stopped", tags=tags), was("stopped", "stopped", **memory))
    assert found.memory.quarantine_tagged is tagged
    assert found.memory.quarantined_at == since
    assert found.memory.state_since == HOUR_AGO or since is None


@pytest.mark.parametrize(
    ("tags", "before", "after"),
    [
        ((), None, START),
        ((), START - seconds(9), START - seconds(9)),
        ((QUARANTINED_TAG,), START - seconds(9), None),
    ],
)
def test_since_when_listings_lack_the_tag(
    tags: tuple[str, ...], before: datetime | None, after: datetime | None
) -> None:
    memory = {"quarantined_at": HOUR_AGO, "quarantine_tagged": True, "untagged_at": before}
    found = joined(registered("m1", "stopped", tags=tags), was("stopped", "stopped", **memory))
    assert found.memory.untagged_at == after


def test_a_release_is_a_new_beginning() -> None:
    hole = was(
        "stopped",
        "stopped",
        quarantined_at=HOUR_AGO,
        quarantine_tagged=True,
        untagged_at=HOUR_AGO,
        fast_failures=(HOUR_AGO,) * 3,
        failed_tasks=("t1", "t2", "t3"),
        failures_from=HOUR_AGO,
        delete_when_stopped=True,
    )
    found = joined(registered("m1", "stopped"), hole).memory
    fresh = {
        "fast_failures": (),
        "failed_tasks": (),
        "failures_from": START,
        "delete_when_stopped": False,
        "untagged_at": None,
    }
    assert {key: getattr(found, key) for key in fresh} == fresh
    assert found.state_since == START


@pytest.mark.parametrize(
    ("tag", "seen_at", "until"),
    [
        ("keep", None, START + timedelta(hours=24)),
        ("keep", HOUR_AGO, HOUR_AGO + timedelta(hours=24)),
        ("keep=soon", None, START + timedelta(hours=24)),
        ("keep=2026-09-07T12:00:00", None, datetime(2026, 9, 7, 12, tzinfo=UTC)),
        ("keeper", None, None),
        ("", HOUR_AGO, None),
    ],
)
def test_until_when_it_is_kept(tag: str, seen_at: datetime | None, until: datetime | None) -> None:
    there = registered("m1", tags=(tag,) if tag else ())
    found = joined(there, known(keep_seen_at=seen_at))
    assert found.memory.keep_seen_at == (None if until is None else seen_at or START)
    assert kept_until(found.memory, config()) == until
    sentence = "" if until is None else f"it is kept until {until:%Y-%m-%d %H:%M} UTC"
    assert found.hands_off == sentence


def test_a_time_zone_of_its_own_is_understood() -> None:
    there = registered("m1", tags=("keep=2026-09-07T12:00:00+02:00",))
    kept = kept_until(joined(there, known()).memory, config())
    assert kept == datetime(2026, 9, 7, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (registered("m1", protected=True, tags=("keep",)), "it is protected at Scaleway"),
        (registered("m1", "locked"), "Scaleway locked it"),
        (
            registered("m1", "unknown", state_detail="resting"),
            "its state is unknown to this version (resting)",
        ),
        (registered("m1", tags=("keep=2026-09-07T08:00:00",)), ""),  # it ends now
        (
            registered("m1", tags=("keep=2026-09-07T08:00:01",)),
            "it is kept until 2026-09-07 08:00 UTC",
        ),
    ],
)
def test_why_it_is_left_alone(there: Instance, sentence: str) -> None:
    assert joined(there, known()).hands_off == sentence
