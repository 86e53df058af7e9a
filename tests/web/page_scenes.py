"""Fleets to look at: a working day with everything at once, and one of a thousand instances."""

from typing import Any

from tests.web.page_api import Json, ago, instance, nothing, queue, task

ODD = "team/a \"b\" 'c' <b>bold</b> & 100% 🚀?#"
"""A queue's name that is an attack on paths, attributes and markup at once."""

SCRIPT = "<script>alert(1)</script>"


def timeline(*states: tuple[str, float]) -> list[Json]:
    """(state, since so many minutes ago), oldest first."""
    return [{"state": state, "since": ago(minutes=minutes)} for state, minutes in states]


def lived(name: str, *states: tuple[str, float], **values: Any) -> Json:
    """An instance whose present state is the last one of its time line."""
    state, minutes = states[-1]
    return instance(name, state, since=ago(minutes=minutes), timeline=timeline(*states), **values)


def in_future(minutes: float) -> str:
    return ago(minutes=-minutes)


def working_day() -> Json:
    """Every kind of state, a problem of each severity, a pause, a shortage, hostile names."""
    status = nothing()
    status["problems"] = [
        {
            "severity": "warning",
            "subject": "H100-1-80G in fr-par-2",
            "text": "Scaleway is out of stock; tried again at 14:21.",
            "since": ago(minutes=34),
        },
        {
            "severity": "error",
            "subject": "h100-1-80g-77aa01",
            "text": "Its agent fell silent while a task was on it; hands off until that ends.",
            "since": ago(minutes=6),
        },
    ]
    status["money"] = {
        "eur_per_hour": 41.36,
        "month": "2026-11",
        "spent_eur": 3120.5,
        "saved_eur": 9001.1,
    }
    status["queues"] = [
        queue(
            "H100-1-80G",
            reason="no_placement",
            because="2 tasks wait; out of stock in fr-par-2 until 14:21, and pl-waw-2 is tried now",
            waiting=2,
            oldest_since=ago(minutes=12),
            busy=2,
            capacity=1,
            billed=4,
            max_instances=6,
            tasks=[
                task("aa11", "resnet50 sweep 14/20"),
                task("aa12", SCRIPT, url="javascript:alert(1)"),
            ],
        ),
        queue("H100-SXM-8-80G", busy=1, billed=1, max_instances=1, because="its task runs"),
        queue(
            ODD,
            reason="operator",
            because="paused by hand",
            waiting=31,
            oldest_since=ago(hours=3),
            paused_since=ago(hours=2, minutes=5),
            tasks=[task(f"bb{i}", f"evaluate checkpoint {i}") for i in range(20)],
        ),
        queue("H100-2-80G"),
    ]
    busy = {"actions": ["keep"], "reason": "busy", "because": "a task is on it"}
    status["instances"] = [
        lived(
            "h100-1-80g-3fa2c1",
            ("provisioning", 388), ("starting", 386), ("initializing", 385), ("running_task", 382),
            ("idle", 190), ("running_task", 176), ("idle", 60), ("running_task", 42),
            task=task("t1", "bert-large pretraining, seed 7", since=ago(minutes=42)),
            **busy,
        ),
        lived(
            "h100-1-80g-9b04d7",
            ("running_task", 900), ("idle", 500), ("stopping", 470), ("stopped", 468),
            ("starting", 130), ("initializing", 127), ("running_task", 124), ("idle", 18),
            next={"what": "powered off", "at": in_future(12)},
        ),
        lived(
            "h100-1-80g-77aa01",
            ("initializing", 300), ("running_task", 296), ("lost", 6),
            task=task("t2", SCRIPT, url="javascript:alert(1)", since=ago(minutes=296)),
            hands_off="hands off until ClearML ends the task", actions=["release"],
        ),
        lived(
            "h100-1-80g-c0ffee",
            ("provisioning", 4), ("starting", 3), ("initializing", 2),
            because="booting, for 10 min at most",
            next={"what": "deleted if it never registers", "at": in_future(8)}, actions=[],
        ),
        lived(
            "h100-sxm-8-80g-51e0aa",
            ("idle", 700), ("stopped", 640), ("starting", 250), ("initializing", 246),
            ("running_task", 243), queue="H100-SXM-8-80G", type="H100-SXM-8-80G",
            eur_per_hour=25.33, **busy,
            task=task("t3", "llm finetune 70B, 8 GPU", since=ago(minutes=243)),
        ),
        lived(
            "h100-2-80g-0b5e55",
            ("running_task", 600), ("idle", 260), ("running_task", 200), ("idle", 33),
            ("stopping", 1), queue="H100-2-80G", type="H100-2-80G", because="idle for 30 min",
            actions=[],
        ),
        lived(
            "h100-2-80g-dead00",
            ("running_task", 420), ("quarantined", 75), ("stopped", 74), queue="H100-2-80G",
            type="H100-2-80G", because="three tasks in a row failed at once on it",
            next={"what": "deleted", "at": in_future(22 * 60)}, eur_per_hour=None,
            actions=["release"],
        ),
        lived(
            "h100-2-80g-ee19f0",
            ("running_task", 420), ("idle", 300), ("stopped", 270), queue="H100-2-80G",
            type="H100-2-80G", because="stopped, and kept for a day",
            next={"what": "deleted", "at": in_future(50)}, eur_per_hour=None, actions=["keep"],
        ),
    ]  # fmt: skip
    status["decisions"] = [
        decision(1, "h100-2-80g-0b5e55", "stop", "idle_timeout", "idle for 30 min, nothing waits"),
        decision(4, "h100-1-80g-c0ffee", "create", "demand", "2 tasks wait, 1 instance boots"),
        decision(34, "H100-1-80G", "back off", "no_placement", "out of stock there for 5 min"),
        decision(75, "h100-2-80g-dead00", "stop", "quarantined", "three tasks failed at once"),
        decision(125, ODD, "pause", "operator", "somebody paused it on the status page"),
    ]  # fmt: skip
    return status


def decision(minutes: float, subject: str, verb: str, reason: str, because: str) -> Json:
    return {
        "at": ago(minutes=minutes),
        "subject": subject,
        "queue": "H100-1-80G",
        "verb": verb,
        "reason": reason,
        "because": because,
    }


def a_thousand() -> Json:
    """1,000 instances, 600 of them on, and 100 queues."""
    status = nothing()
    status["queues"] = [
        queue(f"queue-{i:03}", busy=6, billed=6, max_instances=10) for i in range(100)
    ]
    day = [
        (s, float(m))
        for m in range(700, 100, -60)
        for s, m in (("running_task", m), ("idle", m - 25))
    ]
    status["instances"] = [
        lived(f"machine-{i:04}", *day, ("running_task", 9 + i % 80), task=task(f"t{i}", f"job {i}"))
        if i % 5 < 3
        else lived(f"machine-{i:04}", *day, ("stopped", 30.0))
        for i in range(1000)
    ]
    return status
