"""What can go wrong, and how often: one table, three columns.

Calls go wrong with a probability each; everything else happens at random moments, so many times
per virtual hour. `all` is far worse than any real day: each fault several times in four hours.
"""

from dataclasses import dataclass, fields
from enum import StrEnum


class Level(StrEnum):
    """How bad the world is."""

    NONE = "none"
    SOME = "some"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class CallFaults:
    """Probabilities, of each call of the daemon to either service."""

    error: float
    """5xx, a timeout or garbage instead of an answer; the call had no effect."""
    lost_reply: float
    """The call took effect, and nobody is told."""
    rate_limited: float
    slow: float
    """Takes up to 20 s."""
    row_missing: float
    """Of a listing of servers or volumes: one row is not there."""
    row_repeated: float
    empty: float
    """The listing comes without its rows."""
    pulled_at_the_last_moment: float
    """Of the last looks before a power-off: an agent takes a task right after it."""


@dataclass(frozen=True, slots=True)
class Happenings:
    """Times per hour."""

    stock_changes: float
    """A placement's stock comes or goes; in some cases the probe tells something else."""
    quota_changes: float
    listing_lags: float
    """Listings show the world of up to 30 s ago, for some minutes."""
    clearml_outage: float
    scaleway_outage: float
    """One zone does not answer, for some minutes."""
    store_outage: float
    permission_lost: float
    """For a minute, sometimes for an hour."""
    person_stops: float
    person_deletes: float
    person_starts: float
    person_keeps: float
    person_protects: float
    boots_broken: float
    """For an hour no machine of a placement registers: its image, or its network, is broken."""
    person_aborts: float
    machine_dies: float
    machine_stands_by: float
    """The guest powers itself down: stopped in place, billed in full."""
    agent_dies: float
    worker_vanishes: float
    workers_vanish: float
    daemon_killed: float
    memory_lost: float
    """The daemon is killed, and its memory with it."""
    daemon_paused: float
    """Stands still for up to five minutes."""
    redeployed: float
    """A second daemon starts, with a wrong clock; the first ends up to two minutes later."""
    clock_jumps: float
    config_edited: float
    queue_removed: float


@dataclass(frozen=True, slots=True)
class BootFaults:
    """Probabilities, of each boot of a machine."""

    never: float
    """Boots, and its agent never registers."""
    fails: float
    """Something is missing, and it says so before its agent would have come."""
    slow: float
    """Takes up to 20 minutes."""
    black_hole: float
    """Every task fails within seconds."""
    agent_dies: float
    """Some time after it registered."""
    dies: float
    """The whole machine, some time after its agent registered."""
    dies_booting: float
    """Powers itself off before its agent registers."""
    dies_after_pop: float
    """Its agent takes a task, and dies before it starts it."""
    slow_pop: float
    """Seconds between pop and start: the moment in which a power-off catches a task."""


@dataclass(frozen=True, slots=True)
class Rates:
    """All of it."""

    calls: CallFaults
    hourly: Happenings
    boots: BootFaults


def _all(kind: type, value: float) -> dict[str, float]:
    return {field.name: value for field in fields(kind)}


NONE = Rates(
    CallFaults(**_all(CallFaults, 0.0)),
    Happenings(**_all(Happenings, 0.0)),
    BootFaults(**_all(BootFaults, 0.0)),
)
ALL = Rates(
    CallFaults(
        error=0.02,
        lost_reply=0.02,
        rate_limited=0.01,
        slow=0.02,
        row_missing=0.02,
        row_repeated=0.01,
        empty=0.01,
        pulled_at_the_last_moment=0.15,
    ),
    Happenings(
        stock_changes=3.0,
        quota_changes=0.3,
        listing_lags=1.0,
        clearml_outage=0.3,
        scaleway_outage=0.7,
        store_outage=0.5,
        permission_lost=0.4,
        person_stops=0.5,
        person_deletes=0.4,
        person_starts=0.4,
        person_keeps=0.3,
        person_protects=0.2,
        boots_broken=0.25,
        person_aborts=0.7,
        machine_dies=0.4,
        machine_stands_by=0.3,
        agent_dies=0.3,
        worker_vanishes=0.7,
        workers_vanish=0.4,
        daemon_killed=2.0,
        memory_lost=0.7,
        daemon_paused=0.7,
        redeployed=0.7,
        clock_jumps=0.5,
        config_edited=0.7,
        queue_removed=0.2,
    ),
    BootFaults(
        never=0.06,
        fails=0.04,
        slow=0.06,
        black_hole=0.05,
        agent_dies=0.05,
        dies=0.05,
        dies_booting=0.05,
        dies_after_pop=0.05,
        slow_pop=0.3,
    ),
)


def _scaled(rates: Rates, by: float) -> Rates:
    def less(part: object) -> dict[str, float]:
        return {f.name: getattr(part, f.name) * by for f in fields(part)}  # type: ignore[arg-type]

    return Rates(
        CallFaults(**less(rates.calls)),
        Happenings(**less(rates.hourly)),
        BootFaults(**less(rates.boots)),
    )


SOME_SHARE = 0.2
RATES = {Level.NONE: NONE, Level.SOME: _scaled(ALL, SOME_SHARE), Level.ALL: ALL}
