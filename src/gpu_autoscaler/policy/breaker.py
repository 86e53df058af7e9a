"""The breaker: where machines boot in vain one after the other, no more are paid for.

Kept per placement and spec: a mended configuration is another spec, and a new start. Three boots
in a row whose agent never came, given up or ended by themselves, open it. Then one launch at a
time is tried, further and further apart, until an agent registers there.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from gpu_autoscaler.domain.lifecycle import BOOTING
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Breaker, Memory
from gpu_autoscaler.domain.model import Placement
from gpu_autoscaler.policy.fact import Fact
from gpu_autoscaler.policy.settings import (
    BREAKER_FAILURES,
    BREAKER_FIRST,
    BREAKER_FORGOTTEN,
    BREAKER_MOST,
)

_REGISTERED = frozenset({S.IDLE, S.RUNNING_TASK, S.QUARANTINED})


class Breakers:
    """The breakers of all placements, while a plan is made."""

    def __init__(self, kept: Iterable[Breaker], now: datetime) -> None:
        self._now = now
        self._all = {(b.placement, b.spec): b for b in kept if now < b.until + BREAKER_FORGOTTEN}
        self._trying: set[tuple[Placement, str]] = set()
        """Where something boots whose agent may still come."""

    def kept(self) -> tuple[Breaker, ...]:
        """For the next memory."""
        return tuple(self._all[key] for key in sorted(self._all))

    def watch(self, facts: Iterable[Fact], memory: Memory) -> None:
        """Close the breakers of placements that work, and note where something boots."""
        if not self._all:
            return
        for fact in facts:
            if (fact.instance.placement, fact.instance.spec) not in self._all:
                continue
            if fact.state in _REGISTERED and fact.memory.last_report_at is not None:
                before = memory.instances.get(fact.instance.id)
                self._registered(fact, after_all=before is not None and before.boot_failed)
            elif _may_register(fact):
                self.launched(fact.instance.placement, fact.instance.spec)

    def _registered(self, fact: Fact, *, after_all: bool) -> None:
        """An agent came; `after_all`: in a boot that had been given up."""
        key = fact.instance.placement, fact.instance.spec
        if key in self._all and (after_all or fact.memory.booted_at > self._all[key].failed_at):
            del self._all[key]

    def launched(self, placement: Placement, spec: str) -> None:
        """Something boots there."""
        self._trying.add((placement, spec))

    def failed(self, placement: Placement, spec: str, report: str = "") -> None:
        """A boot there ended, or was given up, and its agent never came; it said so much."""
        key = placement, spec
        before = self._all.get(key) or Breaker(placement, spec, 0, self._now, self._now)
        now_ = replace(
            before, failures=before.failures + 1, failed_at=self._now, last_report=report
        )
        if now_.failures >= BREAKER_FAILURES and self._now >= before.until:
            # beyond the cap doubling changes nothing; bounded, so that it cannot overflow either
            pause = min(BREAKER_FIRST * 2 ** min(before.openings, 10), BREAKER_MOST)
            now_ = replace(now_, until=self._now + pause, openings=before.openings + 1)
        elif now_.failures < BREAKER_FAILURES:
            now_ = replace(now_, until=self._now)
        self._all[key] = now_

    def of(self, placement: Placement, spec: str) -> Breaker | None:
        """The boots in vain there since an agent last came; None when there are none."""
        return self._all.get((placement, spec))

    def refusal(self, placement: Placement, spec: str) -> str | None:
        """Why nothing is launched there now, as a sentence; None when it may be."""
        breaker = self._all.get((placement, spec))
        if breaker is None or breaker.failures < BREAKER_FAILURES:
            return None
        row = f"{placement}: {breaker.failures} in a row booted and never registered"
        if self._now < breaker.until:
            return f"{row}, next try at {breaker.until:%H:%M:%S}"
        if (placement, spec) in self._trying:
            return f"{row}, one more is being tried"
        return None


def _may_register(fact: Fact) -> bool:
    silent = fact.state is S.LOST and fact.memory.last_report_at is None
    boots = (fact.state in BOOTING and not (fact.abandoned or fact.overdue)) or silent
    return boots and not fact.memory.boot_failed and not fact.hands_off and not fact.quarantined
