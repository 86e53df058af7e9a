"""Back-off: where a launch failed, why, and when the next try makes sense.

Out of stock, quota, rate limit, rejection and lost permission are different errors with different
answers. Starts of stopped instances obey a placement's back-off as creates do: a powered-off
instance has given its node back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.domain.effects import CreateInstance, Failure, Outcome, StartInstance
from gpu_autoscaler.domain.memory import Backoff
from gpu_autoscaler.domain.model import Availability, Placement
from gpu_autoscaler.policy import settings

_LADDER: Mapping[Failure, tuple[timedelta, timedelta]] = {
    Failure.OUT_OF_STOCK: (settings.OUT_OF_STOCK_FIRST, settings.OUT_OF_STOCK_MOST),
    Failure.RATE_LIMITED: (settings.RATE_LIMITED_FIRST, settings.RATE_LIMITED_MOST),
    Failure.TRANSIENT: (settings.TRANSIENT_FIRST, settings.TRANSIENT_MOST),
    Failure.NOT_FOUND: (settings.TRANSIENT_FIRST, settings.TRANSIENT_MOST),
    Failure.QUOTA: (settings.QUOTA_PAUSE, settings.QUOTA_PAUSE),
    Failure.REJECTED: (settings.REJECTED_PAUSE, settings.REJECTED_PAUSE),
    Failure.UNAUTHORIZED: (settings.UNAUTHORIZED_PAUSE, settings.UNAUTHORIZED_PAUSE),
}
"""First pause and longest pause; each failure in a row doubles it."""


class Backoffs:
    """The back-offs of all placements, while a plan is made."""

    def __init__(self, kept: Iterable[Backoff], now: datetime) -> None:
        self._now = now
        self._by_placement = {
            b.placement: b for b in kept if now < b.until + settings.BACKOFF_FORGOTTEN
        }

    def kept(self) -> tuple[Backoff, ...]:
        """For the next memory."""
        return tuple(sorted(self._by_placement.values(), key=lambda b: b.placement))

    def failed(
        self, placement: Placement, failure: Failure, message: str, *, spec: str = ""
    ) -> None:
        """A launch at this placement failed. Several at once count as one."""
        before = self._by_placement.get(placement)
        same = before is not None and before.failure is failure
        if before is not None and same and self._now < before.until:
            return
        failures = before.failures + 1 if before is not None and same else 1
        first, most = _LADDER[failure]
        # beyond the cap doubling changes nothing; bounded, so that it cannot overflow either
        pause = min(first * 2 ** min(failures - 1, 10), most)
        self._by_placement[placement] = Backoff(
            placement, failure, failures, self._now + pause, message, spec
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

    def launched(self, placement: Placement) -> None:
        """An instance runs there: the row of failures is over."""
        self._by_placement.pop(placement, None)

    def end_early(self, world: World, spec_of: Mapping[Placement, str]) -> None:
        """End back-offs whose cause is seen to be gone."""
        for placement, backoff in list(self._by_placement.items()):
            zone = world.zones.get(placement.zone)
            stock = (zone.availability or {}).get(placement.commercial_type) if zone else None
            if backoff.failure is Failure.OUT_OF_STOCK and stock is not None:
                if stock is Availability.SHORTAGE:
                    self._by_placement[placement] = replace(backoff, shortage_seen=True)
                elif backoff.shortage_seen and self._now < backoff.until:
                    # a change, not a claim: a probe that always says "available" ends nothing
                    self._by_placement[placement] = replace(
                        backoff, until=self._now, shortage_seen=False
                    )
            spec = spec_of.get(placement)
            if backoff.failure is Failure.REJECTED and spec is not None and spec != backoff.spec:
                del self._by_placement[placement]

    def of(self, placement: Placement) -> Backoff | None:
        """What keeps this placement from being tried now, or None."""
        own = self._by_placement.get(placement)
        if own is not None and self._now < own.until:
            return own
        for other in self._by_placement.values():
            # a quota is the organization's, per type, in all zones
            if (
                other.failure is Failure.QUOTA
                and other.placement.commercial_type == placement.commercial_type
                and self._now < other.until
            ):
                return other
        return None


def launches(outcomes: Iterable[Outcome]) -> Iterable[Outcome]:
    """Those outcomes that tell something about a placement."""
    return (o for o in outcomes if isinstance(o.effect, CreateInstance | StartInstance))
