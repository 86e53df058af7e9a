"""The life of an instance: one table, and nothing else decides what may follow what.

The state is derived anew in every cycle (`policy.state`) from the instance, its worker, its task
and what the daemon remembers. This table documents it and is the oracle of the tests. People act
on instances too: a change that is not an edge here is recorded as made from outside, never an
error.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum


class InstanceState(StrEnum):
    """What an instance is doing, as the fleet sees it."""

    PROVISIONING = "provisioning"
    """Being made: the server may exist, but lacks volumes' tags, user data or power."""
    STARTING = "starting"
    """Power-on accepted; Scaleway looks for a node."""
    INITIALIZING = "initializing"
    """The machine runs; its agent has not reported in this boot."""
    IDLE = "idle"
    """Its agent reports and has no task."""
    RUNNING_TASK = "running_task"
    """ClearML says, in any way, that a task is on it."""
    LOST = "lost"
    """It reported in this boot, and stopped to."""
    QUARANTINED = "quarantined"
    """The machine runs, and is known to fail whatever it pulls: powered off, never restarted."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """Powered off: only its volume is billed."""
    STOPPED_IN_PLACE = "stopped_in_place"
    """Suspended on its node by somebody: billed like running."""
    DELETING = "deleting"
    UNKNOWN = "unknown"
    """Locked by Scaleway, or in a state this version has no word for: hands off, billed."""
    GONE = "gone"
    """A GET answered 404."""


S = InstanceState

BILLED = frozenset(S) - {S.STOPPED, S.DELETING, S.GONE}
"""Paid by the minute: all but the stopped ones. Scaleway bills startup and standby too."""

BOOTING = frozenset({S.PROVISIONING, S.STARTING, S.INITIALIZING})
"""Will take a waiting task soon; together with the idle ones they are the capacity."""

_ANYTIME = frozenset(
    {S.STOPPING, S.STOPPED, S.STOPPED_IN_PLACE, S.UNKNOWN, S.GONE}
    | {S.PROVISIONING}  # off before its phase tag could be taken away
)
"""People, and Scaleway itself, can do these to an instance at any moment."""

TRANSITIONS: Mapping[InstanceState, frozenset[InstanceState]] = {
    S.PROVISIONING: _ANYTIME
    | {
        S.STARTING,  # power-on accepted
        S.INITIALIZING,  # ... and already running when next seen
        S.DELETING,  # half-made, its maker is dead: removed with its volumes
    },
    S.STARTING: _ANYTIME
    | {
        S.INITIALIZING,  # node found, kernel boots
        S.IDLE,  # booted and registered between two looks
        S.RUNNING_TASK,  # ... and took a task at once
        S.QUARANTINED,  # a quarantined one that somebody started
        S.DELETING,  # fell back to stopped without a word: no stock; a first boot is removed
    },
    S.INITIALIZING: _ANYTIME
    | {
        S.IDLE,  # the agent's first report
        S.RUNNING_TASK,  # took a task before we looked
        S.LOST,  # a restarted instance whose agent did not come back in time
        S.STARTING,  # stopped and started by somebody between two looks
        S.QUARANTINED,  # its third task failed at once before we looked, or somebody tagged it
    },
    S.IDLE: _ANYTIME
    | {
        S.RUNNING_TASK,  # pulled a task
        S.QUARANTINED,  # three tasks in a row failed at once on it, and on no other
        S.LOST,  # reports ceased
        S.INITIALIZING,  # rebooted by somebody
        S.STARTING,  # stopped and started by somebody between two looks
    },
    S.RUNNING_TASK: _ANYTIME
    | {
        S.IDLE,  # the task ended
        S.QUARANTINED,  # the third in a row failed at once, and the next is on it already
        S.LOST,  # reports ceased; hands off until ClearML ended the task
        S.INITIALIZING,  # rebooted by somebody
        S.STARTING,  # stopped and started by somebody between two looks
    },
    S.LOST: _ANYTIME
    | {
        S.IDLE,  # it was only silent
        S.RUNNING_TASK,  # ... and is at work
        S.QUARANTINED,  # its last tasks failed at once
        S.INITIALIZING,  # rebooted by somebody
        S.STARTING,
    },
    S.QUARANTINED: _ANYTIME
    | {
        S.IDLE,  # released: somebody took its tag off
        S.RUNNING_TASK,  # ... while it was at work
        S.LOST,  # ... while it was silent
        S.INITIALIZING,  # ... before its agent came back
        S.STARTING,  # rebooted by somebody
    },
    S.STOPPING: _ANYTIME
    | {
        S.DELETING,  # what was stopped in order to be removed
        S.RUNNING_TASK,  # the power-off was not accepted and a task is on it
        S.IDLE,  # the power-off was not accepted
        S.QUARANTINED,  # the power-off of a black hole was not accepted
        S.LOST,
        S.INITIALIZING,  # a reboot passes through stopping
        S.STARTING,
    },
    S.STOPPED: _ANYTIME
    | {
        S.STARTING,  # started again for a waiting task
        S.INITIALIZING,  # ... and running when next seen, or started by somebody
        S.QUARANTINED,  # started by somebody: off again until it is released
        S.IDLE,
        S.RUNNING_TASK,
        S.DELETING,  # retention over, or its bootstrap is out of date
    },
    S.STOPPED_IN_PLACE: _ANYTIME
    | {
        S.STARTING,  # resumed by somebody
        S.QUARANTINED,  # a quarantined one, resumed by somebody
        S.INITIALIZING,
        S.IDLE,
        S.RUNNING_TASK,
        S.LOST,
    },
    S.DELETING: frozenset(
        {
            S.GONE,  # done
            S.DELETING,  # a try failed: again
            S.PROVISIONING,  # a half-made one's removal failed
            S.STOPPED,  # the try did not take effect; decided anew
            S.STARTING,  # started by somebody meanwhile
            S.INITIALIZING,
            S.QUARANTINED,
            S.STOPPING,
            S.UNKNOWN,
        }
    ),
    S.UNKNOWN: frozenset(S),  # Scaleway unlocked it: wherever it really is
    S.GONE: frozenset(),
}

DEADLINES: Mapping[InstanceState, timedelta | None] = {
    S.PROVISIONING: timedelta(minutes=3, seconds=30),  # create deadline + listing lag
    S.STARTING: None,  # Scaleway's own: it runs or falls back to stopped
    S.INITIALIZING: timedelta(minutes=10),  # stale_timeout; per queue
    S.IDLE: timedelta(minutes=30),  # idle_timeout; per queue
    S.RUNNING_TASK: None,  # as long as the task takes
    S.LOST: timedelta(minutes=10),  # lost_timeout; per queue
    S.QUARANTINED: timedelta(0),  # powered off as soon as seen
    S.STOPPING: None,  # Scaleway's own
    S.STOPPED: timedelta(hours=24),  # stopped_retention; per queue
    S.STOPPED_IN_PLACE: timedelta(0),  # powered off as soon as seen
    S.DELETING: timedelta(minutes=10),  # orphan_timeout
    S.UNKNOWN: None,  # a person's business
    S.GONE: timedelta(0),
}
"""How long an instance may stay in a state before the policy acts; None: as long as it takes."""
