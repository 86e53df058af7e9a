"""Back-off: where a launch failed, why, and when the next try makes sense.

Out of stock, quota, rate limit, rejection and lost permission are different errors with different
answers. Starts of stopped instances obey a placement's back-off as creates do: a powered-off
instance has given its node back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import Failure, Outcome
from gpu_autoscaler.domain.memory import Backoff
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.policy import settings

_LADDER: Mapping[Failure, tuple[timedelta, timedelta]] = {
    Failure.OUT_OF_STOCK: (settings.OUT_OF_STOCK_FIRST, settings.OUT_OF_STOCK_MOST),
    Failure.RATE_LIMITED: (settings.RATE_LIMITED_FIRST, settings.RATE_LIMITED_MOST),
    Failure.TRANSIENT: (settings.TRANSIENT_FIRST, settings.TRANSIENT_MOST),
    Failure.NOT_FOUND: (settings.TRANSIENT_FIRST, settings.TRANSIENT_MOST),
    Failure.QUOTA: (settings.QUOTA_PAUSE, settings.QUOTA_PAUSE),
    Failure.REJECTED: (settings.REJECTED_FIRST, settings.REJECTED_MOST),
    Failure.UNAUTHORIZED: (settings.UNAUTHORIZED_PAUSE, settings.UNAUTHORIZED_PAUSE),
}
"""First pause and longest pause; each failure in a row doubles it."""


class Backoffs:
    """The back-offs of all placements, while a plan is made."""

    def __init__(self, kept: Iterable[Backoff], now: datetime) -> None:
        self._now = now
        self._all = {_key(b): b for b in kept if now < b.until + settings.BACKOFF_FORGOTTEN}

    def kept(self) -> tuple[Backoff, ...]:
        """For the next memory."""
        return tuple(self._all[key] for key in sorted(self._all))

    def failed(
        self, placement: Placement, failure: Failure, message: str, *, spec: str = ""
    ) -> None:
        """A launch at this placement failed. Several at once count as one."""
        key = (placement, spec if failure is Failure.REJECTED else "")
        before = self._all.get(key)
        if before is not None and self._now < before.until:
            if before.failure is failure:
                return
            failures = 1
        else:
            same = before is not None and before.failure is failure
            failures = before.failures + 1 if before is not None and same else 1
        first, most = _LADDER[failure]
        # beyond the cap doubling changes nothing; bounded, so that it cannot overflow either
        until = self._now + min(first * 2 ** min(failures - 1, 10), most)
        if before is None or until > before.until:
            misled = failures > 1 and before is not None and before.ended_early
            self._all[key] = Backoff(
                placement, failure, failures, self._now, until, message, key[1], misled=misled
            )

    def learn(self, outcome: Outcome, spec: str, unauthorized_since: datetime | None) -> None:
        """Draw the consequences of one ended launch."""
        placement = outcome.placement
        if placement is None or outcome.failure is None:
            return
        if outcome.failure is Failure.GUARD:
            return
        if outcome.failure is Failure.UNAUTHORIZED and (
            unauthorized_since is None
            or self._now - unauthorized_since < settings.UNAUTHORIZED_PATIENCE
        ):
            return  # tried again in the next cycle: a fresh permission needs a while to spread
        self.failed(placement, outcome.failure, outcome.message, spec=spec)

    def booted(self, placement: Placement, spec: str, at: datetime) -> None:
        """An instance began to boot there: failures from before are over."""
        for key, backoff in list(self._all.items()):
            if key[0] == placement and key[1] in ("", spec) and at > backoff.failed_at:
                del self._all[key]

    def end_early(self, world: World) -> None:
        """End back-offs whose cause is seen to be gone."""
        for key, backoff in list(self._all.items()):
            zone = world.zones.get(backoff.placement.zone)
            stocks = (zone.availability or {}) if zone else {}
            stock = stocks.get(backoff.placement.commercial_type)
            if backoff.failure is not Failure.OUT_OF_STOCK or stock is None:
                continue
            if backoff.misled:
                continue  # or a probe that goes to and fro would make and remove without end
            if stock is Availability.SHORTAGE:
                self._all[key] = replace(backoff, shortage_seen=True)
            elif backoff.shortage_seen and self._now < backoff.until:
                # a change, not a claim: a probe that always says "available" ends nothing
                self._all[key] = replace(
                    backoff, until=self._now, shortage_seen=False, ended_early=True
                )

    def was_empty(self, placement: Placement) -> bool:
        """Whether the last launch there met an empty shelf, and nothing has booted since."""
        backoff = self._all.get((placement, ""))
        return backoff is not None and backoff.failure is Failure.OUT_OF_STOCK

    def met(self, placement: Placement, spec: str) -> Backoff | None:
        """What the last launch met there, also when its time is over; None when one booted since,
        or when nobody remembers."""
        own = (self._all.get((placement, "")), self._all.get((placement, spec)))
        found = [backoff for backoff in own if backoff is not None]
        found += [other for other in self._all.values() if _shares_quota(other, placement)]
        return max(found, key=lambda backoff: backoff.until) if found else None

    def of(self, placement: Placement, spec: str) -> Backoff | None:
        """What keeps a launch with this spec from being tried here now, or None."""
        for backoff in (self._all.get((placement, "")), self._all.get((placement, spec))):
            if backoff is not None and self._now < backoff.until:
                return backoff
        for other in self._all.values():
            if _shares_quota(other, placement) and self._now < other.until:
                return other
        return None


def holds_back(backoff: Backoff, now: datetime) -> str:
    """What a launch met, and when the next one is tried."""
    until = backoff.until
    when = f"{until:%H:%M:%S}" if until.date() == now.date() else f"{until:%Y-%m-%d %H:%M}"
    what = backoff.failure.replace("_", " ")
    if backoff.failure is Failure.REJECTED:
        what = f"{what} ({backoff.message}) until its settings change"
    return f"{what}, next try at {when}"


def _shares_quota(other: Backoff, placement: Placement) -> bool:
    """A quota is the organization's, per type, in all zones."""
    same_type = other.placement.commercial_type == placement.commercial_type
    return other.failure is Failure.QUOTA and same_type


def _key(backoff: Backoff) -> tuple[Placement, str]:
    """A rejected request is a configuration's fault, everything else the placement's."""
    return backoff.placement, backoff.spec
