"""The loop keeps its promises when the store, the services, the configuration or we fail."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.watch import ConfigWatcher, Reload
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity
from gpu_autoscaler.domain.errors import OutOfStock, StateRefused, Transient
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.domain.model import Entry, Queue
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, run_virtual
from gpu_autoscaler.runtime.execute import LiveExecutor
from gpu_autoscaler.runtime.loop import CONFIRM_AFTER, FINISH_WITHIN, SHORTEST_PAUSE, Loop
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.runtime.record import Recorder
from tests.policy.worlds import QUEUE, QUEUE_ID, TYPE, ZONE, config, seconds, task
from tests.runtime.fakes import FakeClearml, FakeScaleway, Wire
from tests.runtime.world import FixedConfig, KeptMemory, PlainBootstrap

T = TypeVar("T")
NOW = VIRTUAL_START


class Told(FixedConfig):
    """A configuration with news."""

    def __init__(self, value: Config) -> None:
        super().__init__(value)
        self.news: list[Reload | None] = []

    async def refresh(self) -> Reload | None:
        return self.news.pop(0) if self.news else None


class Daemon:
    """A loop over fakes, which remembers that it ran before."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.wire = Wire(self.clock)
        self.clearml, self.scaleway = FakeClearml(self.wire), FakeScaleway(self.wire)
        self.source = Told(config())
        self.store = KeptMemory()
        self.store.memory = Memory(planned_at=NOW - seconds(30))
        self.bootstraps: list[Config] = []
        self.executor = LiveExecutor(self.clearml, self.scaleway, self.clock, self._wake)
        self.loop = Loop(
            self.source,
            Observer(self.clearml, self.scaleway, self.clock),
            self.executor,
            self.store,
            self._bootstrap,
            self.clock,
            Recorder(),
        )

    def _wake(self) -> None:
        self.loop.wake()

    def _bootstrap(self, made_for: Config) -> PlainBootstrap:
        self.bootstraps.append(made_for)
        return PlainBootstrap()

    def waits(self, *names: str) -> None:
        """These tasks wait in the queue."""
        entries = tuple(Entry(name, NOW) for name in names)
        self.clearml.known = {QUEUE: Queue(QUEUE_ID, QUEUE, entries)}
        self.clearml.open = [task(name) for name in names]

    async def run_for(self, duration: timedelta) -> list[float]:
        """Run the loop for so long; when each cycle began, in seconds."""
        begun: list[float] = []
        queues = self.clearml.queues

        async def noted(names: object) -> object:
            begun.append((self.clock.now() - NOW).total_seconds())
            return await queues(names)  # type: ignore[arg-type]

        self.clearml.queues = noted  # type: ignore[method-assign,assignment]
        await self.loop.prepare()
        running = asyncio.create_task(self.loop.run())
        await self.clock.sleep(duration.total_seconds())
        self.loop.stop()
        await running
        return begun


def ran(run: Callable[[Daemon], Awaitable[T]]) -> T:
    async def main() -> T:
        return await run(Daemon())

    return run_virtual(main())


# --- pace


def test_it_cycles_every_poll_interval() -> None:
    assert ran(lambda daemon: daemon.run_for(seconds(100))) == [0, 30, 60, 90]


def test_without_memory_the_second_look_follows_when_listings_show_all() -> None:
    async def run(daemon: Daemon) -> list[float]:
        daemon.store.memory = None
        return await daemon.run_for(seconds(50))

    assert seconds(30) < CONFIRM_AFTER < seconds(35)
    assert ran(run) == [0, 31]


def test_a_wake_shortens_the_pause() -> None:
    async def run(daemon: Daemon) -> list[float]:
        async def wake() -> None:
            await daemon.clock.sleep(10)
            daemon.loop.wake()

        waking = asyncio.create_task(wake())
        begun = await daemon.run_for(seconds(45))
        await waking
        return begun

    assert ran(run) == [0, 10, 40]


def test_a_cycle_tells_how_long_it_took() -> None:
    async def run(daemon: Daemon) -> list[float]:
        daemon.wire.slow[f"instances {ZONE}"] = 4
        await daemon.clock.sleep(7)
        cycle = await daemon.loop.cycle()
        return [cycle.ended - cycle.began, daemon.clock.monotonic() - cycle.ended]

    assert ran(run) == [4, 0]


def test_failing_fast_is_not_asking_fast() -> None:
    """Each failure wakes the loop; the pause never falls below the shortest."""

    async def run(daemon: Daemon) -> list[float]:
        async def nag() -> None:
            while True:
                daemon.loop.wake()
                await daemon.clock.sleep(0.1)

        nagging = asyncio.create_task(nag())
        begun = await daemon.run_for(seconds(10))
        nagging.cancel()
        return begun

    begun = ran(run)
    gaps = [b - a for a, b in itertools.pairwise(begun)]
    assert len(gaps) >= 3
    assert min(gaps) >= SHORTEST_PAUSE.total_seconds()


def test_an_empty_shelf_wakes_it_for_the_next_placement() -> None:
    async def run(daemon: Daemon) -> list[float]:
        places = [{"type": TYPE, "zone": z} for z in (ZONE, "pl-waw-2")]
        daemon.source.value = config({"placements": places})
        daemon.waits("t1")
        daemon.wire.errors["create"] = OutOfStock("none")
        begun = await daemon.run_for(seconds(20))
        assert daemon.wire.count("create") == 2
        return begun

    assert ran(run) == [0, 2, 4]


# --- the store


def test_a_failing_store_begins_nothing_and_loses_no_outcome() -> None:
    async def run(daemon: Daemon) -> None:
        daemon.waits("t1")
        await daemon.loop.prepare()
        daemon.wire.errors["create"] = OutOfStock("none")
        await daemon.loop.cycle()
        await daemon.clock.sleep(1)
        assert daemon.wire.count("create") == 1
        kept = daemon.store.memory
        daemon.store.error = OSError("disk full")
        with capture_logs() as lines:
            for _ in range(3):
                await daemon.loop.cycle()
                await daemon.clock.sleep(30)
        said = [(line["event"], line.get("error")) for line in lines]
        assert said == [("failing", "disk full"), ("standing by", None)]
        assert daemon.wire.count("create") == 1
        daemon.store.error = None
        with capture_logs() as lines:
            await daemon.loop.cycle()
        said_then = [line["event"] for line in lines]
        assert said_then == ["recovered", "leading", "failed", "nothing done"]
        assert daemon.store.memory is not kept
        assert daemon.store.memory is not None
        assert [b.failure for b in daemon.store.memory.backoffs] == [Failure.OUT_OF_STOCK]

    ran(run)


def test_memory_is_stored_before_anything_is_begun() -> None:
    async def run(daemon: Daemon) -> None:
        save = daemon.store.save

        async def saved(memory: Memory) -> None:
            daemon.wire.calls.append("save")
            await save(memory)

        daemon.store.save = saved  # type: ignore[method-assign]
        daemon.waits("t1")
        await daemon.loop.prepare()
        await daemon.loop.cycle()
        await daemon.clock.sleep(1)
        saving, creating = (
            next(i for i, call in enumerate(daemon.wire.calls) if call.startswith(name))
            for name in ("save", "create")
        )
        assert saving < creating

    ran(run)


def test_a_memory_that_may_not_be_used_ends_the_daemon_before_it_begins() -> None:
    async def run(daemon: Daemon) -> None:
        async def refuse() -> Kept:
            raise StateRefused("written by a newer version")

        daemon.store.load = refuse  # type: ignore[method-assign]
        with pytest.raises(OSError, match="newer"):
            await daemon.loop.prepare()

    ran(run)


# --- the end


def test_told_to_stop_while_it_looks_it_begins_nothing() -> None:
    async def run(daemon: Daemon) -> None:
        daemon.waits("t1")
        before = daemon.store.memory
        daemon.wire.slow["queues"] = 10
        await daemon.run_for(seconds(5))
        assert daemon.wire.count("create") == 0
        assert daemon.store.memory is before

    ran(run)


def test_told_to_stop_it_waits_for_no_configuration_that_does_not_come() -> None:
    class Hanging(Told):
        async def refresh(self) -> Reload | None:
            await LoopClock().sleep(1000)
            return None

    async def run(daemon: Daemon) -> None:
        daemon.loop._source = Hanging(config())
        assert await daemon.run_for(seconds(5)) == []
        assert daemon.clock.now() - NOW == seconds(5)

    ran(run)


def test_told_to_stop_in_a_pause_it_stops_without_another_cycle() -> None:
    async def run(daemon: Daemon) -> None:
        assert await daemon.run_for(seconds(10)) == [0]
        assert daemon.clock.now() - NOW == seconds(10)

    ran(run)


def test_the_end_waits_for_calls_in_flight_and_remembers_how_they_ended() -> None:
    async def run(daemon: Daemon) -> None:
        daemon.waits("t1")
        daemon.wire.slow["create"] = 15
        daemon.wire.errors["create"] = OutOfStock("none")
        await daemon.run_for(seconds(5))
        assert daemon.clock.now() - NOW == seconds(15)
        assert daemon.store.memory is not None
        assert daemon.store.memory.pending == {}, "the next process need not wait for it"

    ran(run)


def test_the_end_does_not_wait_for_ever() -> None:
    async def run(daemon: Daemon) -> None:
        daemon.waits("t1")
        daemon.wire.slow["create"] = 150
        await daemon.run_for(seconds(5))
        assert daemon.clock.now() - NOW == seconds(5) + FINISH_WITHIN
        assert daemon.store.memory is not None
        assert len(daemon.store.memory.pending) == 1, "nobody knows: it counts until it lapses"

    ran(run)


@pytest.mark.parametrize(("error", "slow"), [("", 0), ("502", 0), ("", 150)])
def test_finish_tells_whether_all_was_done(error: str, slow: float) -> None:
    async def run(daemon: Daemon) -> bool:
        daemon.waits("t1", "t2")
        await daemon.loop.prepare()
        daemon.wire.slow["create"] = slow
        if error:
            daemon.wire.errors["create"] = Transient(error)
        await daemon.loop.settled_cycle()
        return await daemon.loop.finish(seconds(20))

    assert ran(run) is (not error and not slow)


def test_what_failed_at_the_end_is_backed_off_from_by_the_next_process() -> None:
    async def run(daemon: Daemon) -> None:
        daemon.waits("t1")
        await daemon.loop.prepare()
        daemon.wire.errors["create"] = OutOfStock("none")
        await daemon.loop.cycle()
        await daemon.loop.finish(seconds(20))
        assert daemon.store.memory is not None
        assert [b.failure for b in daemon.store.memory.backoffs] == [Failure.OUT_OF_STOCK]

    ran(run)


# --- our own defects


def test_a_cycle_that_breaks_does_not_end_the_daemon() -> None:
    async def run(daemon: Daemon) -> list[float]:
        daemon.wire.errors["workers"] = ZeroDivisionError()
        with capture_logs() as lines:
            begun = await daemon.run_for(seconds(70))
        assert [line["event"] for line in lines] == ["leading", *["cycle failed"] * 3]
        assert daemon.loop.last is None, "and health can say so"
        return begun

    assert ran(run) == [0, 30, 60]


def test_the_last_finished_cycle_is_told_with_its_end() -> None:
    async def run(daemon: Daemon) -> datetime:
        daemon.wire.slow["instances"] = 7
        await daemon.loop.prepare()
        await daemon.loop.cycle()
        assert daemon.loop.last is not None
        return daemon.loop.last.finished_at

    assert ran(run) == NOW + seconds(7)


# --- configuration


def test_news_of_the_configuration_are_told_and_used() -> None:
    async def run(daemon: Daemon) -> None:
        await daemon.loop.prepare()
        await daemon.loop.cycle()
        await daemon.loop.cycle()
        assert len(daemon.bootstraps) == 1, "rendered once per configuration"
        daemon.source.value = config({"max_instances": 5}, poll_interval="10s")
        daemon.source.news = [Reload(daemon.source.value)]
        with capture_logs() as lines:
            cycle = await daemon.loop.cycle()
        assert [line["event"] for line in lines] == ["configuration loaded"]
        assert cycle.config.queues[QUEUE].max_instances == 5
        assert len(daemon.bootstraps) == 2
        assert daemon.loop.interval == seconds(10)

    ran(run)


YAML = """\
fleet: test
scaleway: {{project_id: 11111111-2222-3333-4444-555555555555}}
queues:
  {queue}: {{placements: [{{type: H100-1-80G, zone: fr-par-2}}], max_instances: {most}}}
"""


def test_a_broken_file_is_said_once_however_long_it_stays_broken(tmp_path: Path) -> None:
    async def run(daemon: Daemon) -> None:
        file = tmp_path / "queues.yaml"
        file.write_text(YAML.format(queue=QUEUE, most=2))
        watcher = ConfigWatcher.of_file(file, {})
        daemon.loop._source = watcher
        await daemon.loop.prepare()
        with capture_logs() as lines:
            await daemon.loop.cycle()
            file.write_text(YAML.format(queue=QUEUE, most="many"))
            for _ in range(3):
                await daemon.loop.cycle()
            assert watcher.current().queues[QUEUE].max_instances == 2
            file.write_text(YAML.format(queue=QUEUE, most=4))
            await daemon.loop.cycle()
        assert [line["event"] for line in lines] == [
            "configuration not used",
            "configuration loaded",
        ]
        assert watcher.current().queues[QUEUE].max_instances == 4

    ran(run)


def test_a_look_keeps_says_and_begins_nothing() -> None:
    async def run(daemon: Daemon) -> None:
        daemon.waits("t1")
        before = daemon.store.memory
        with capture_logs() as lines:
            cycle = await daemon.loop.look(Memory())
            await daemon.clock.sleep(60)
        assert [effect.verb for effect in cycle.plan.effects] == ["create"]
        assert daemon.wire.count("create") == 0
        assert daemon.store.memory is before
        assert lines == []
        assert daemon.loop.last is None

    ran(run)


def test_a_cycle_knows_what_stood_before_it() -> None:
    """Whoever tells people compares that with what stands now."""

    async def run(daemon: Daemon) -> None:
        gone = Episode(EpisodeKind.LOST_WORKER, "m1", NOW, "m1 fell silent", Severity.WARNING)
        daemon.store.memory = Memory(planned_at=NOW - seconds(30), episodes=(gone,))
        await daemon.loop.prepare()
        for before in ((gone,), ()):
            cycle = await daemon.loop.cycle()
            assert (cycle.stood_before, cycle.plan.memory.episodes) == (before, ())

    ran(run)
