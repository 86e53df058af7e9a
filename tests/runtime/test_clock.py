"""Virtual time jumps when nothing else can happen, and only then."""

import asyncio
import selectors
from datetime import UTC, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_autoscaler.runtime import clock as clocks
from gpu_autoscaler.runtime.clock import (
    VIRTUAL_START,
    LoopClock,
    RandomIds,
    ScaledClock,
    Stopwatch,
    SystemClock,
    run_virtual,
)


class Wall:
    """A wall clock that moves only while somebody waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 100.0
        self.waited: list[float] = []
        select = selectors.DefaultSelector.select

        def wait(selector: Any, timeout: float | None = None) -> Any:
            if timeout:
                self.waited.append(timeout)
                self.seconds += timeout
            return select(selector, 0)

        monkeypatch.setattr(clocks, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        monkeypatch.setattr(selectors.DefaultSelector, "select", wait)


def test_a_thousand_hours_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)

    async def run() -> timedelta:
        clock = LoopClock()
        await clock.sleep(3600 * 1000)
        return clock.now() - VIRTUAL_START

    assert run_virtual(run()) == timedelta(hours=1000)
    assert wall.waited == []


def test_timers_go_off_in_their_order_and_at_their_times() -> None:
    async def run() -> list[tuple[str, float]]:
        clock, seen = LoopClock(), []

        async def one(name: str, *pauses: float) -> None:
            for pause in pauses:
                await clock.sleep(pause)
                seen.append((name, (clock.now() - VIRTUAL_START).total_seconds()))

        await asyncio.gather(one("a", 10, 10), one("b", 15), one("c", 1, 30))
        return seen

    assert run_virtual(run()) == [("c", 1), ("a", 10), ("b", 15), ("a", 20), ("c", 31)]


def test_timeouts_are_virtual_too() -> None:
    async def run() -> timedelta:
        clock = LoopClock()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await asyncio.Event().wait()
        return clock.now() - VIRTUAL_START

    assert run_virtual(run()) == timedelta(minutes=10)


def test_real_sockets_answer_before_time_jumps() -> None:
    """A reply on loopback beats every timeout, however short in virtual time."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    async def run() -> tuple[list[bytes], timedelta]:
        clock, replies = LoopClock(), []
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            before = clock.now()
            for number in range(20):
                writer.write(b"%d\n" % number)
                async with asyncio.timeout(0.5):
                    replies.append(await reader.readline())
            took = clock.now() - before
            writer.close()
            await writer.wait_closed()
        return replies, took

    replies, took = run_virtual(run())
    assert replies == [b"%d\n" % number for number in range(20)]
    assert took < timedelta(seconds=10), "time did not run ahead of the replies"


def test_paced_it_is_never_ahead_of_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)

    async def run() -> None:
        clock = LoopClock()
        for _ in range(4):
            await clock.sleep(30)
            assert wall.seconds - 100.0 >= (clock.now() - VIRTUAL_START).total_seconds() / 60 - 1e-9

    run_virtual(run(), speed=60)
    assert sum(wall.waited) == pytest.approx(2.0)


def test_a_slow_machine_catches_up_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)

    async def run() -> None:
        wall.seconds += 10  # 600 virtual seconds' worth of work
        await LoopClock().sleep(300)

    run_virtual(run(), speed=60)
    assert wall.waited == []


def test_a_scaled_clock_runs_that_much_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)
    clock = ScaledClock(60)
    before = clock.now()
    wall.seconds += 2
    assert clock.now() - before == timedelta(minutes=2)


def test_a_scaled_sleep_is_that_much_shorter() -> None:
    async def run() -> float:
        await ScaledClock(60).sleep(60)
        return asyncio.get_running_loop().time()

    assert run_virtual(run()) == 1


def test_the_system_clock_knows_its_zone_and_sleeps_on_the_loop() -> None:
    async def run() -> float:
        assert SystemClock().now().tzinfo is UTC
        await SystemClock().sleep(3600)
        return asyncio.get_running_loop().time()

    assert run_virtual(run()) == 3600


def test_a_stopwatch_measures_real_seconds_in_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall(monkeypatch)

    async def run() -> float:
        watch = Stopwatch()
        await LoopClock().sleep(3600)
        wall.seconds += 3
        return watch.seconds()

    assert run_virtual(run()) == 3


@pytest.mark.parametrize("digits", [1, 6, 7, 32])
def test_ids_have_as_many_digits_as_asked(digits: int) -> None:
    ids = {RandomIds().hex(digits) for _ in range(20)}
    assert {len(each) for each in ids} == {digits}
    assert all(set(each) <= set("0123456789abcdef") for each in ids)
    assert digits < 6 or len(ids) == 20
