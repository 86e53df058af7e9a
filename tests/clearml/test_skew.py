"""How far the server's clock is ahead of ours, as its answers tell."""

from datetime import timedelta

import httpx
import pytest

from gpu_autoscaler.clearml.api import ClearmlApi
from gpu_autoscaler.domain.errors import ApiError
from gpu_autoscaler.runtime.clock import LoopClock
from tests.clearml.server import NOBODY, Server, play

# virtual time begins on Mon, 07 Sep 2026 08:00:00 GMT


def dated(date: str, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=NOBODY.content, headers={"Date": date})


async def skew_after_one_look(api: ClearmlApi, _: LoopClock) -> timedelta:
    assert api.skew == timedelta(0)
    await api.workers()
    return api.skew


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Mon, 07 Sep 2026 08:00:00 GMT", timedelta(0)),
        ("Mon, 07 Sep 2026 08:05:00 GMT", timedelta(minutes=5)),
        ("Mon, 07 Sep 2026 07:59:20 GMT", timedelta(seconds=-40)),
        ("Mon, 07 Sep 2026 10:05:00 +0200", timedelta(minutes=5)),
        ("half past eight", timedelta(0)),
        ("", timedelta(0)),
    ],
)
def test_the_date_of_an_answer_tells(date: str, skew: timedelta) -> None:
    server = Server()
    server.on("workers.get_all", dated(date))
    assert play(server, skew_after_one_look)[0] == skew


def test_an_answer_without_a_date_does_not_tell() -> None:
    server = Server()
    server.on("workers.get_all", NOBODY)
    assert play(server, skew_after_one_look)[0] == timedelta(0)


def test_a_slow_answer_is_compared_with_the_time_it_came() -> None:
    async def slow(_: httpx.Request) -> httpx.Response:
        await LoopClock().sleep(8)
        return dated("Mon, 07 Sep 2026 08:00:08 GMT")

    server = Server()
    server.on("workers.get_all", slow)
    assert play(server, skew_after_one_look)[0] == timedelta(0)


def test_the_last_good_answer_counts() -> None:
    server = Server()
    server.on(
        "workers.get_all",
        dated("Mon, 07 Sep 2026 08:05:00 GMT"),
        NOBODY,
        dated("Mon, 07 Sep 2020 08:00:00 GMT", status=502),
    )

    async def story(api: ClearmlApi, _: LoopClock) -> None:
        for _look in range(2):
            await api.workers()
            assert api.skew == timedelta(minutes=5)
        with pytest.raises(ApiError):
            await api.workers()
        assert api.skew == timedelta(minutes=5)

    play(server, story)


def test_whole_seconds_do_not_move_it_and_a_clock_that_is_set_does() -> None:
    server = Server()
    server.on(
        "workers.get_all",
        dated("Mon, 07 Sep 2026 08:05:00 GMT"),
        dated("Mon, 07 Sep 2026 08:05:01 GMT"),
        dated("Mon, 07 Sep 2026 08:04:59 GMT"),
        dated("Mon, 07 Sep 2026 08:05:02 GMT"),
        dated("Mon, 07 Sep 2026 08:05:01 GMT"),
    )

    async def story(api: ClearmlApi, _: LoopClock) -> list[float]:
        found = []
        for _look in range(5):
            await api.workers()
            found.append(api.skew.total_seconds())
        return found

    assert play(server, story)[0] == [300, 300, 300, 302, 302]
