"""Ledgers to report on: by hand, and drawn."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import strategies as st

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.pieces import MICROSECOND, price

START = datetime(2026, 11, 2, tzinfo=UTC)
"""A Monday."""
TYPE = "H100-1-80G"
DAYS = 4
PERIOD = Period(START, START + timedelta(days=DAYS))
STATES = (S.STARTING, S.RUNNING_TASK, S.IDLE, S.STOPPED, S.DELETING, S.PROVISIONING, S.LOST)
TASKS = ("t1", "t2", "t3")


def at(hours: float, seconds: float = 0) -> datetime:
    """So long after the start."""
    return START + timedelta(hours=hours, seconds=seconds)


def stretch(
    state: S,
    since: datetime,
    until: datetime,
    *,
    server: str = "s1",
    on: datetime | None = START,
    tasks: Mapping[str, str] | None = None,
    rate: float | None = 3.0,
    storage: float = 0.0,
    kind: str = TYPE,
    rounding: float = 0.0,
    queue: str = "gpu",
) -> Stretch:
    """Of a machine for 3 euros an hour, on since the start."""
    off = state is S.STOPPED
    return Stretch(
        server_id=server,
        instance=f"machine-{server}",
        queue=queue,
        commercial_type=kind,
        zone="fr-par-2",
        state=state,
        since=since,
        until=until,
        powered_on_at=None if off else on,
        eur_per_hour=0.0 if off else rate,
        storage_eur_per_hour=storage,
        tasks=tasks or {},
        rounding_seconds=rounding,
    )


def ran(
    task: str,
    since: datetime | None,
    until: datetime,
    *,
    server: str = "s1",
    name: str = "",
    project: str = "vision",
    user: str = "Ada",
) -> TaskRecord:
    """A task that ended, as ClearML has it."""
    return TaskRecord(
        id=task,
        name=name or f"train {task}",
        project=project,
        user=user,
        queue="gpu",
        instance=f"machine-{server}",
        status="completed",
        started_at=since,
        ended_at=until,
    )


def page(*records: Stretch | TaskRecord, problems: tuple[str, ...] = ()) -> Page:
    """All on one page: a report does not care."""
    return Page(
        START.date(),
        tuple(each for each in records if isinstance(each, Stretch)),
        tuple(each for each in records if isinstance(each, TaskRecord)),
        problems,
    )


def cost_of(each: Stretch) -> int:
    """In the units of `pieces`, and told again in another way: at once, from its ends."""
    length = (each.until - each.since) // MICROSECOND
    rounding = round(each.rounding_seconds * 10**6) if each.powered else 0
    return price(each) * length + round((each.eur_per_hour or 0.0) * 10**9) * rounding


def busy_server() -> Page:
    """Boots for 6 minutes, t1 for an hour, idle for half of one, stopped until 10:00."""
    return page(
        stretch(S.STARTING, at(0), at(0.1)),
        stretch(S.RUNNING_TASK, at(0.1), at(1.1), tasks={"t1": "train t1"}),
        stretch(S.IDLE, at(1.1), at(1.6), rounding=36),
        stretch(S.STOPPED, at(1.6), at(10), storage=0.02),
        ran("t1", at(0.1), at(1.1)),
    )


MOMENTS = st.integers(0, DAYS * 24 * 120).map(lambda n: START + timedelta(seconds=30 * n))
RATES = st.sampled_from((None, 0.0, 0.79, 2.8665, 24.99)) | st.floats(0, 40)


@st.composite
def servers(draw: st.DrawFn, number: int) -> list[Stretch]:
    """One server's life, without a gap; prices are those of the power-on, days are cut."""
    moments = sorted(draw(st.sets(MOMENTS, min_size=2, max_size=8)))
    kind = draw(st.sampled_from(("H100-1-80G", "L4-1-24G")))
    queue = draw(st.sampled_from(("small", "large")))
    storage = draw(st.sampled_from((0.0, 0.0194)))
    rate, on = draw(RATES), moments[0]
    found = []
    for since, until in pairwise(moments):
        state = draw(st.sampled_from(STATES))
        tasks = draw(st.lists(st.sampled_from(TASKS), unique=True, max_size=3))
        off = state is S.STOPPED
        if off:
            on, rate = until, draw(RATES)
        found.append(
            Stretch(
                server_id=f"s{number}",
                instance=f"machine-s{number}",
                queue=queue,
                commercial_type=kind,
                zone="fr-par-2",
                state=state,
                since=since,
                until=until,
                powered_on_at=None if off else on,
                eur_per_hour=0.0 if off else rate,
                storage_eur_per_hour=storage,
                tasks={each: f"train {each}" for each in tasks} if state is S.RUNNING_TASK else {},
                rounding_seconds=draw(st.sampled_from((0.0, 0.0, 17.25))),
            )
        )
    return found


@st.composite
def ledgers(draw: st.DrawFn) -> Page:
    """A few servers' lives, and ends of tasks near the boundaries, or anywhere, or unknown."""
    stretches = [each for n in range(draw(st.integers(0, 3))) for each in draw(servers(n))]
    ends = [moment for each in stretches for moment in (each.since, each.until)] or [START]
    near = st.builds(
        lambda moment, seconds: moment + timedelta(seconds=seconds),
        st.sampled_from(ends),
        st.floats(-150, 150),
    )
    tasks = []
    for _ in range(draw(st.integers(0, 5))):
        since, until = draw(st.none() | near), draw(near)
        who = draw(st.sampled_from(("Ada", "Bo", "")))
        where = draw(st.sampled_from(("", "vision", "speech")))
        tasks.append(
            ran(
                draw(st.sampled_from(TASKS)),
                since,
                until,
                server=f"s{draw(st.integers(0, 2))}",
                project=where,
                user=who,
            )
        )
    return Page(START.date(), tuple(stretches), tuple(tasks))
