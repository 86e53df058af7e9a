"""Whatever the network, the clocks and the daemons do: never two that may act."""

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import event, given, settings
from hypothesis import strategies as st

from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.store.lease import LeasedStore


@dataclass(frozen=True)
class Step:
    """What one daemon does next, and what the network makes of it."""

    pause: float
    """Seconds before it."""
    act: str
    there: float
    """Seconds until its calls take effect; the deadline is ten."""
    back: float
    """Seconds until the replies arrive."""
    fails: str
    """Which reply is an error though the call took effect, or which call never arrives."""
    wall_jump: float
    """Seconds by which its wall clock is set."""


DELAYS = st.sampled_from([0] * 8 + [1, 5, 9, 11, 40, 200])
STEPS = st.builds(
    Step,
    pause=st.sampled_from([0, 1, 2, 5, 5, 5, 10, 10, 20, 41]),
    act=st.sampled_from(["turn"] * 10 + ["release", "crash"]),
    there=DELAYS,
    back=DELAYS,
    fails=st.sampled_from([""] * 8 + ["before get", "after get", "before put", "after put"]),
    wall_jump=st.sampled_from([0] * 8 + [50, -50, 3600, -3600]),
)
LENGTHS = st.sampled_from([15, 30, 60])
PLANS = st.lists(
    st.tuples(LENGTHS, st.lists(STEPS, min_size=15, max_size=30)), min_size=2, max_size=3
)

NOW_DOING: ContextVar[Step] = ContextVar("step")


class OwnClock(LoopClock):
    """A wall clock of its own, and a monotonic one that began at another moment."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset, self.ahead = offset, timedelta(0)

    def monotonic(self) -> float:
        return super().monotonic() + self.offset

    def now(self) -> datetime:
        return super().now() + self.ahead


class Field:
    """The daemons, the object, and who may act."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.bucket = InMemoryBucket(self.clock, self.before, self.after)
        self.stores: list[LeasedStore] = []
        self.acted: set[str] = set()

    async def before(self, call: str) -> None:
        await self.way(f"before {call}", NOW_DOING.get().there)

    async def after(self, call: str) -> None:
        await self.way(f"after {call}", NOW_DOING.get().back)

    async def way(self, part: str, seconds: float) -> None:
        await self.clock.sleep(seconds)
        if NOW_DOING.get().fails == part:
            raise StoreError(part)

    async def daemon(self, number: int, lasts: float, steps: list[Step]) -> None:
        clock = OwnClock(offset=1000.0 * number)
        store = self.start(clock, f"{number}-0", lasts)
        for index, step in enumerate(steps, start=1):
            NOW_DOING.set(step)
            clock.ahead += timedelta(seconds=step.wall_jump)
            self.check()
            await self.clock.sleep(step.pause)
            self.check()
            with suppress(OSError):
                await self.act(store, step)
            self.check()
            if step.act == "crash":
                # the old one is still counted: it may have been cut off in the middle of an act
                store = self.start(clock, f"{number}-{index}", lasts)

    def start(self, clock: OwnClock, holder: str, lasts: float) -> LeasedStore:
        lasting = timedelta(seconds=lasts)
        self.stores.append(LeasedStore(self.bucket, clock, holder=holder, lasts=lasting))
        return self.stores[-1]

    async def act(self, store: LeasedStore, step: Step) -> None:
        if step.act == "release":
            await store.release()
        elif store.lease_left() > 0:
            await store.save(Memory())
        elif step.act == "turn":
            await store.load()

    def check(self) -> None:
        acting = [store for store in self.stores if store.lease_left() > 0]
        assert len(acting) <= 1
        self.acted.update(store._holder for store in acting)


@settings(max_examples=300, deadline=None)
@given(plans=PLANS)
def test_never_two_that_may_act(plans: list[tuple[float, list[Step]]]) -> None:
    async def play() -> int:
        field = Field()
        async with asyncio.TaskGroup() as group:
            for number, (lasts, steps) in enumerate(plans):
                group.create_task(field.daemon(number, lasts, steps))
        return len(field.acted)

    event(f"{run_virtual(play())} held the lease")
