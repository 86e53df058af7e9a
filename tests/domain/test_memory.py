"""The stored form: what an older version wrote still loads, with what is new at its default."""

import json
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter

from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Memory, PowerOff

NOW = datetime(2026, 9, 7, 8, 0, tzinfo=UTC)
AT = NOW.isoformat()
VERSION_1 = {
    "version": 1,
    "instances": {
        "id-m1": {
            "last_seen": {
                "id": "id-m1",
                "name": "m1",
                "zone": "fr-par-2",
                "commercial_type": "H100-1-80G",
                "state": "running",
                "created_at": AT,
                "modified_at": AT,
                "tags": ["fleet=test", "registered"],
                "volumes": [{"id": "v1", "kind": "sbs_volume"}],
                "protected": False,
                "state_detail": "",
            },
            "state": "idle",
            "state_since": AT,
            "booted_at": AT,
            "last_report_at": AT,
            "idle_since": AT,
            "first_idle_report_at": AT,
            "claimed_at": None,
            "last_task_status": "failed",
            "start_accepted_at": None,
            "stop_decided_at": None,
            "delete_when_stopped": False,
            "keep_seen_at": None,
        }
    },
    "pending": {},
    "backoffs": [],
    "power_offs": {"m2": {"queue": "H100", "decided_at": AT, "known_ended": ["t1"]}},
    "rescued": {"t1": AT},
    "planned_at": AT,
    "zones": ["fr-par-2"],
}


def test_what_version_1_wrote_loads() -> None:
    loaded = TypeAdapter(Memory).validate_json(json.dumps(VERSION_1))
    one = loaded.instances["id-m1"]
    assert (one.state, one.fast_failures, one.quarantined_at) == (S.IDLE, (), None)
    assert (loaded.breakers, loaded.requeued, loaded.waited) == ((), {}, ())
    assert loaded.power_offs["m2"] == PowerOff("H100", NOW, ("t1",), ours=True)
    assert loaded.version < SCHEMA_VERSION, "an older daemon cannot read the new state"


def test_since_when_a_power_off_is_to_blame() -> None:
    before = NOW - timedelta(minutes=1)
    assert PowerOff("q", NOW).since == NOW
    assert PowerOff("q", NOW, at_work_at=before).since == NOW, "ours: from the decision on"
    assert PowerOff("q", NOW, ours=False, at_work_at=before).since == before
