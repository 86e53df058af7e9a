"""Small worlds for policy tests: say what differs from the ordinary, the rest is filled in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import Plan, World
from gpu_autoscaler.domain.effects import Effect, Outcome, RemoveBootstrap
from gpu_autoscaler.domain.lifecycle import InstanceState
from gpu_autoscaler.domain.memory import InstanceMemory, Memory
from gpu_autoscaler.domain.model import (
    MANAGED_BY_TAG,
    REGISTERED_TAG,
    Availability,
    ClearmlView,
    Entry,
    Instance,
    Placement,
    Queue,
    ServerState,
    Task,
    TaskStatus,
    Volume,
    VolumeKind,
    VolumeRef,
    Worker,
    ZoneView,
)
from gpu_autoscaler.domain.requests import Request
from gpu_autoscaler.policy.breaker import Breakers
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.fleet import Fleet
from gpu_autoscaler.policy.plan import plan
from gpu_autoscaler.policy.questions import ended_tasks_since
from gpu_autoscaler.policy.stock import Backoffs

START = datetime(2026, 9, 7, 8, 0, tzinfo=UTC)
ZONE = "fr-par-2"
OTHER_ZONE = "pl-waw-2"
TYPE = "H100-1-80G"
QUEUE = "H100-1-80G"
QUEUE_ID = "q-1"
SPEC = "abc123abc123"


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def config(queue: Mapping[str, Any] | None = None, **fleet: Any) -> Config:
    """One queue with one placement; `queue` and `fleet` override."""
    one = {"name": QUEUE, "placements": [{"type": TYPE, "zone": ZONE}], **(queue or {})}
    queues = fleet.pop("queues", {QUEUE: one})
    return Config.model_validate(
        {
            "fleet": "test",
            "scaleway": {"project_id": "11111111-2222-3333-4444-555555555555"},
            "queues": queues,
            **fleet,
        }
    )


def instance(name: str = "h100-1-80g-000001", state: str = "running", **changes: Any) -> Instance:
    tags = changes.pop("tags", ())
    queue = changes.pop("queue", QUEUE)
    spec = changes.pop("spec", SPEC)
    plain = Instance(
        id=f"id-{name}",
        name=name,
        zone=ZONE,
        commercial_type=TYPE,
        state=ServerState(state),
        created_at=START - timedelta(hours=1),
        modified_at=START - timedelta(hours=1),
        tags=frozenset({MANAGED_BY_TAG, "fleet=test", f"queue={queue}", f"spec={spec}", *tags}),
        volumes=(VolumeRef(f"vol-{name}", VolumeKind.BLOCK),),
    )
    return replace(plain, **changes)


def registered(name: str = "h100-1-80g-000001", state: str = "running", **changes: Any) -> Instance:
    return instance(name, state, tags=(REGISTERED_TAG, *changes.pop("tags", ())), **changes)


def task(
    name: str = "t1", status: str = "queued", worker: str | None = None, **changes: Any
) -> Task:
    plain = Task(
        id=name,
        name=f"task {name}",
        status=TaskStatus(status),
        queue_id=QUEUE_ID,
        status_changed_at=START - timedelta(minutes=5),
        last_worker=worker,
    )
    return replace(plain, **changes)


def known(name: str = "m1", state: str = "idle", **changes: Any) -> InstanceMemory:
    """What memory holds of a registered instance that came an hour ago."""
    plain = InstanceMemory(
        last_seen=registered(name),
        state=InstanceState(state),
        state_since=START - timedelta(hours=1),
        booted_at=START - timedelta(hours=1),
    )
    return replace(plain, **changes)


def fact(name: str = "m1", state: str = "idle", **changes: Any) -> Fact:
    """A registered instance as this cycle knows it; `memory` overrides what is remembered."""
    now = InstanceState(state)
    memory = known(name, state, **changes.pop("memory", {}))
    there = changes.pop("instance", registered(name, _SERVER_STATES.get(now, "running")))
    plain = Fact(there, now, replace(memory, last_seen=there), previous=now, seen=True)
    return replace(plain, **changes)


_SERVER_STATES = {
    InstanceState.STOPPED: "stopped",
    InstanceState.STOPPING: "stopping",
    InstanceState.STARTING: "starting",
    InstanceState.STOPPED_IN_PLACE: "stopped in place",
    InstanceState.PROVISIONING: "stopped",
}


def fleet(
    *facts: Fact,
    memory: Memory | None = None,
    settings: Config | None = None,
    complete: bool = True,
    **world: Any,
) -> Fleet:
    """The fleet at START, where both APIs have answered; `world` overrides ClearML's or its own."""
    memory = memory or Memory(planned_at=START - seconds(30))
    settings = settings or config()
    shown = {
        "queues": {QUEUE: Queue(QUEUE_ID, QUEUE)},
        "ended_tasks": (),
        **{key: world.pop(key) for key in list(world) if hasattr(ClearmlView, key)},
    }
    zones = {z: ZoneView(z, complete=True, observed_at=START) for z in (ZONE, OTHER_ZONE)}
    return Fleet(
        settings,
        World(
            **{
                "clearml": ClearmlView(complete=complete, observed_at=START, **shown),
                "zones": zones,
                "specs": {QUEUE: SPEC},
                **world,
            }
        ),
        memory,
        START,
        {each.instance.id: each for each in facts},
        Backoffs(memory.backoffs, START),
        Breakers(memory.breakers, START),
        dict(memory.pending),
    )


@dataclass
class Story:
    """A run of cycles over a world that a test changes by hand between them."""

    config: Config = field(default_factory=config)
    now: datetime = START
    memory: Memory = field(default_factory=lambda: Memory(planned_at=START - seconds(30)))
    instances: dict[str, Instance] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)
    ended: list[Task] | None = field(default_factory=list)
    volumes: list[Volume] | None = None
    availability: dict[str, Availability] | None = None
    gone: set[str] = field(default_factory=set)
    dark_zones: set[str] = field(default_factory=set)
    clearml_down: bool = False
    queue_exists: bool = True
    queue_tags: tuple[str, ...] = ()
    prices: dict[str, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    specs: dict[str, str] = field(default_factory=lambda: {QUEUE: SPEC})
    own_specs: dict[tuple[str, Placement], str] = field(default_factory=dict)
    lost_memory: bool = False
    requests: list[Request] = field(default_factory=list)
    """What operators ask before the next cycle."""
    skew: timedelta = timedelta(0)
    """How far ClearML's clock is ahead of ours; the times here are corrected already."""
    last: Plan | None = None
    honest: bool = False
    """Ended tasks are shown only when the policy asks for them, as the loop does it."""
    removes_bootstraps: bool = True
    """By itself: every machine that works loses its user data, and few tests are about that."""
    boot_reports: dict[str, str] = field(default_factory=dict)
    """What machines say of their boots, by name."""

    def enqueue(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = task(name)
            self.entries.append(name)

    def has(self, *instances: Instance) -> None:
        for each in instances:
            self.instances[each.name] = each

    def report(self, name: str, task_id: str | None = None, **changes: Any) -> None:
        """The agent of this machine reports now."""
        known = self.workers.get(name)
        worker = Worker(
            id=name,
            registered_at=known.registered_at if known else self.now,
            last_report_at=self.now,
            task_id=task_id,
            queue_ids=(QUEUE_ID,),
        )
        self.workers[name] = replace(worker, **changes)

    def run(self, name: str, task_id: str) -> None:
        """The agent pulls and starts a task."""
        if task_id in self.entries:
            self.entries.remove(task_id)
        known = self.tasks.get(task_id)
        began = (known.started_at if known else None) or self.now
        times = {"status_changed_at": self.now, "started_at": began}
        self.tasks[task_id] = task(task_id, "in_progress", name, **times)
        self.report(name, task_id)

    def end(self, task_id: str, status: str = "completed") -> None:
        """The task ends and its agent says so at once."""
        done = replace(
            self.tasks.pop(task_id), status=TaskStatus(status), status_changed_at=self.now
        )
        if self.ended is not None:
            self.ended.append(done)
        assert done.last_worker is not None
        self.report(done.last_worker)

    def burn(self, name: str, *task_ids: str, status: str = "failed") -> None:
        """The machine ends these tasks at once, one after the other, 5 s each."""
        for task_id in task_ids:
            self.run(name, task_id)
            self.now += seconds(5)
            self.end(task_id, status)

    def set_clock(self, forward: timedelta) -> None:
        """Our clock is set; ClearML's is not, so all its times are now told otherwise."""
        self.now += forward
        self.skew -= forward
        for name, worker in self.workers.items():
            came, heard = worker.registered_at + forward, worker.last_report_at + forward
            self.workers[name] = replace(worker, registered_at=came, last_report_at=heard)
        self.tasks = {name: _moved(each, forward) for name, each in self.tasks.items()}
        if self.ended is not None:
            self.ended = [_moved(each, forward) for each in self.ended]

    def world(self) -> World:
        by_zone: dict[str, list[Instance]] = {
            z: [] for z in {*self.config.zones, *self.memory.zones}
        }
        for each in self.instances.values():
            by_zone.setdefault(each.zone, []).append(each)
        return World(
            clearml=ClearmlView(
                complete=not self.clearml_down,
                observed_at=self.now,
                queues={} if self.clearml_down else self._queues(),
                workers=() if self.clearml_down else tuple(self.workers.values()),
                open_tasks=() if self.clearml_down else tuple(self.tasks.values()),
                ended_tasks=self._ended(),
                skew=self.skew,
                error="down" if self.clearml_down else "",
            ),
            zones={zone: self._zone(zone, found) for zone, found in by_zone.items()},
            specs=self.specs,
            own_specs=self.own_specs,
            prices=self.prices,
            prices_read_at=START if self.prices else None,
            outcomes=tuple(self.outcomes),
            lost_memory=self.lost_memory,
            requests=tuple(self.requests),
        )

    def _ended(self) -> tuple[Task, ...] | None:
        if self.ended is None or not self.honest:
            return None if self.ended is None else tuple(self.ended)
        since = ended_tasks_since(
            self.memory,
            self.config,
            tuple(self.workers.values()),
            tuple(self.tasks.values()),
            self.now,
            lost_memory=self.lost_memory,
            skew=self.skew,
        )
        if since is None:
            return None
        return tuple(t for t in self.ended if t.status_changed_at >= since)

    def _queues(self) -> dict[str, Queue]:
        if not self.queue_exists:
            return {}
        entries = tuple(Entry(name, START) for name in self.entries)
        return {QUEUE: Queue(QUEUE_ID, QUEUE, entries, self.queue_tags)}

    def _zone(self, zone: str, found: list[Instance]) -> ZoneView:
        if zone in self.dark_zones:
            return ZoneView(zone, complete=False, observed_at=self.now, error="502")
        mine = None if self.volumes is None else tuple(v for v in self.volumes if v.zone == zone)
        return ZoneView(
            zone,
            complete=True,
            observed_at=self.now,
            instances=tuple(found),
            boot_reports={f"id-{name}": said for name, said in self.boot_reports.items()},
            volumes=mine,
            availability=self.availability,
            gone=frozenset(self.gone),
        )

    def cycle(self, after: timedelta = timedelta(seconds=30), *, reports: bool = True) -> Plan:
        """Let time pass, every running registered agent report, and plan."""
        self.now += after
        if reports:
            for name, worker in list(self.workers.items()):
                self.workers[name] = replace(worker, last_report_at=self.now - seconds(1))
        self.last = plan(self.world(), self.memory, self.config, self.now)
        if self.removes_bootstraps:
            self.last = _bootstraps_removed(self.last)
        self.memory, self.outcomes, self.lost_memory = self.last.memory, [], False
        self.requests = []
        return self.last

    def wait(self, duration: timedelta) -> Plan:
        """Cycle every 30 s for so long; returns the first plan with effects, or the last."""
        end = self.now + duration
        made = self.cycle()
        while self.now < end and not made.effects:
            made = self.cycle()
        return made

    def done(self, *effects: Effect, failure: Any = None, message: str = "") -> None:
        """These effects ended: the next plan hears of it."""
        self.outcomes += [Outcome(e, self.now, failure, message) for e in effects]


def _bootstraps_removed(made: Plan) -> Plan:
    """As if that had been done in the moment in which it was planned."""
    done = {e.instance.id: e.key for e in made.effects if isinstance(e, RemoveBootstrap)}
    memory = made.memory
    return replace(
        made,
        effects=tuple(e for e in made.effects if not isinstance(e, RemoveBootstrap)),
        memory=replace(
            memory,
            pending={k: p for k, p in memory.pending.items() if k not in done.values()},
            instances={
                i: replace(m, bootstrap_removed=True) if i in done else m
                for i, m in memory.instances.items()
            },
        ),
    )


def _moved(one: Task, by: timedelta) -> Task:
    began = one.started_at and one.started_at + by
    return replace(one, status_changed_at=one.status_changed_at + by, started_at=began)


def verbs(made: Plan) -> list[str]:
    return [effect.verb for effect in made.effects]


def reasons(made: Plan) -> list[str]:
    return [effect.reason.value for effect in made.effects]


def subjects(effects: Iterable[Effect]) -> list[str]:
    return [effect.subject for effect in effects]
