"""People are told each thing once and its end once, whatever the channels make of it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from gpu_autoscaler.commands.serving import bind, served
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.decisions import Plan, World
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.domain.model import ClearmlView
from gpu_autoscaler.runtime.clock import VIRTUAL_START, LoopClock, ScaledClock, run_virtual
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.channel import (
    DEADLINE_SECONDS,
    FIRST_PAUSE_SECONDS,
    GIVEN_UP_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MOST_WAITING,
)
from gpu_autoscaler.web.notify import Notifier
from gpu_autoscaler.web.wording import Message
from tests.policy.worlds import config

SECRET = "hunter2"
URL, OTHER = f"json://team/{SECRET}", f"xml://on-call/{SECRET}"
HANG = "hang"
NOW = VIRTUAL_START


def channels(*urls: str, **severities: str) -> Config:
    """Channels with these URLs; the severity of each by its scheme."""
    return config(
        notifications=[
            {"url": url, "min_severity": severities.get(url.split(":")[0], "info")} for url in urls
        ]
    )


def episode(
    subject: str = "m1",
    kind: EpisodeKind = EpisodeKind.LOST_WORKER,
    severity: Severity = Severity.WARNING,
) -> Episode:
    return Episode(kind, subject, NOW - timedelta(minutes=5), f"{subject} fell silent", severity)


class Service:
    """Everything that is sent, and what becomes of it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        """One by one: accepted or not, an error, HANG, or seconds until it is accepted."""
        self.said: dict[str, list[Message]] = {}
        self.tried: dict[str, list[float]] = {}
        self.hanging: set[str] = set()

    async def __call__(self, url: str, message: Message) -> bool:
        clock = LoopClock()
        self.tried.setdefault(url, []).append(clock.monotonic())
        answer = self.answers.pop(0) if self.answers and url == URL else True
        if answer == HANG or url in self.hanging:
            await clock.sleep(1e9)
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, bool):
            await clock.sleep(answer)
            answer = True
        if answer:
            self.said.setdefault(url, []).append(message)
        return answer

    def titles(self, url: str = URL) -> list[str]:
        return [message.title.removeprefix("[test] ") for message in self.said.get(url, [])]


class Following:
    """A notifier, and cycles in which episodes begin and end."""

    def __init__(self, notifier: Notifier, config_: Config) -> None:
        self.notifier, self.config = notifier, config_
        self.stands: tuple[Episode, ...] = ()
        self.begun_at = LoopClock().monotonic()

    def cycle(self, *now: Episode, acted: bool = True) -> None:
        memory = Memory(episodes=now if acted else ())
        clearml = ClearmlView(complete=True, observed_at=NOW)
        at = NOW + timedelta(seconds=LoopClock().monotonic() - self.begun_at)
        plan = Plan((), memory, (), ())
        world = World(clearml, {}, {})
        cycle = Cycle(at, world, plan, self.config, acted, stood_before=self.stands)
        self.notifier.cycled(cycle)
        if acted:
            self.stands = now

    async def cycles(self, *now: Episode, seconds: float = 60) -> None:
        """The same for so long, a cycle every 30 seconds."""
        for _ in range(int(seconds / 30)):
            self.cycle(*now)
            await LoopClock().sleep(30)


Scene = Callable[[Following], Coroutine[Any, Any, None]]


def play(service: Service, scene: Scene, config_: Config | None = None) -> list[Any]:
    """In virtual time; returns what was logged."""
    chosen = config_ or channels(URL)

    async def main() -> None:
        async with Notifier(chosen, LoopClock(), service) as notifier:
            await scene(Following(notifier, chosen))

    with capture_logs() as lines:
        run_virtual(main())
    assert SECRET not in str(lines)
    return lines


BEGUN, OVER = "lost worker: m1", "over: lost worker: m1"


def test_each_is_told_once_and_its_end_once() -> None:
    service = Service()

    async def scene(following: Following) -> None:
        await following.cycles()
        await following.cycles(episode(), seconds=3600)
        await following.cycles(seconds=3600)
        await following.cycles(episode())

    play(service, scene)
    assert service.titles() == [BEGUN, OVER, BEGUN]
    begun, over = service.said[URL][:2]
    assert begun.title == "[test] lost worker: m1"
    assert begun.body == "M1 fell silent.\nSince 2026-09-07 07:55 UTC; severity: warning."
    assert over.body == "Over after 1h6m (since 2026-09-07 07:55 UTC)."
    assert (begun.kind, over.kind) == ("warning", "success")


@pytest.mark.parametrize("trouble", [False, ConnectionError(URL)])
def test_each_is_told_once_also_when_the_first_three_posts_fail(trouble: Any) -> None:
    service = Service(trouble, trouble, trouble)

    async def scene(following: Following) -> None:
        await following.cycles(episode(), seconds=600)
        await following.cycles(seconds=600)

    lines = play(service, scene)
    assert service.titles() == [BEGUN, OVER]
    assert service.tried[URL] == [0, 10, 30, 70, 600]
    assert [line["event"] for line in lines] == ["failing", "recovered"]
    assert lines[0]["subject"] == "notifications 1 (json)"


def test_the_pauses_grow_up_to_a_bound_and_begin_anew_after_a_success() -> None:
    service = Service(*[False] * 12, True, False)

    async def scene(following: Following) -> None:
        await following.cycles(episode(), seconds=3 * 3600)
        await following.cycles(seconds=600)

    play(service, scene)
    tried = service.tried[URL]
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses[:3] == [10, 20, 40]
    assert pauses[7:12] == [LONGEST_PAUSE_SECONDS] * 5
    assert pauses[-1] == FIRST_PAUSE_SECONDS
    assert service.titles() == [BEGUN, OVER]


def test_what_is_over_before_it_could_be_told_is_not_told() -> None:
    service = Service(False, False)

    async def scene(following: Following) -> None:
        await following.cycles(episode(), seconds=30)
        await following.cycles(episode("m2"), seconds=600)

    play(service, scene)
    assert service.titles() == ["lost worker: m2"]


@pytest.mark.parametrize(("answer", "said"), [(15, [BEGUN, OVER]), (HANG, []), (False, [])])
def test_what_is_over_while_it_is_told(answer: Any, said: list[str]) -> None:
    """Whoever was told hears of the end, and nobody else."""
    service = Service(answer)

    async def scene(following: Following) -> None:
        following.cycle(episode())
        await LoopClock().sleep(1 if answer else 0)
        following.cycle()
        await LoopClock().sleep(2 * GIVEN_UP_SECONDS)

    play(service, scene)
    assert service.titles() == said


def test_what_stood_in_the_memory_has_been_told_but_not_its_end() -> None:
    service = Service()

    async def scene(following: Following) -> None:
        following.stands = (episode(), episode("m2"))
        await following.cycles(episode())
        await following.cycles()

    play(service, scene)
    assert service.titles() == ["over: lost worker: m2", OVER]


def test_what_one_cycle_brings_is_one_message_titled_after_the_worst() -> None:
    service = Service()
    worst = episode("h100", EpisodeKind.LAUNCH_FAILING, Severity.ERROR)

    async def scene(following: Following) -> None:
        following.stands = (episode("m0"),)
        await following.cycles(episode("m1"), worst, episode("m2"))

    play(service, scene)
    assert service.titles() == ["launch failing: h100, and 3 more"]
    message = service.said[URL][0]
    assert message.kind == "failure"
    assert [part.splitlines()[0] for part in message.body.split("\n\n")] == [
        "over: lost worker: m0",
        BEGUN,
        "launch failing: h100",
        "lost worker: m2",
    ]


def test_what_begins_comes_before_what_is_over_in_a_title() -> None:
    service = Service()

    async def scene(following: Following) -> None:
        following.stands = (episode("m0", severity=Severity.ERROR),)
        await following.cycles(episode("v1", EpisodeKind.ORPHAN_REMOVED, Severity.INFO))

    play(service, scene)
    assert service.titles() == ["orphan removed: v1, and 1 more"]
    assert service.said[URL][0].kind == "info"


def test_a_channel_hears_of_what_matters_enough_and_of_its_end() -> None:
    service = Service()
    matters = episode("h100", EpisodeKind.LAUNCH_FAILING, Severity.ERROR)

    async def scene(following: Following) -> None:
        await following.cycles(episode(), matters)
        await following.cycles()

    play(service, scene, channels(URL, OTHER, xml="error"))
    assert service.titles(OTHER) == ["launch failing: h100", "over: launch failing: h100"]
    assert len(service.titles(URL)) == 2
    assert service.titles(URL)[0] == "launch failing: h100, and 1 more"


def test_a_channel_that_hangs_delays_neither_the_others_nor_the_end() -> None:
    service = Service()
    service.hanging = {URL}

    async def scene(following: Following) -> None:
        await following.cycles(episode())
        await following.cycles()
        assert LoopClock().monotonic() == 120

    lines = play(service, scene, channels(URL, OTHER))
    assert service.titles(OTHER) == [BEGUN, OVER]
    assert service.tried[URL] == [0]
    assert [line["error"] for line in lines] == [f"no answer within {DEADLINE_SECONDS:.0f} s"]


def test_what_arrives_late_is_not_sent_twice() -> None:
    service = Service(DEADLINE_SECONDS * 3)

    async def scene(following: Following) -> None:
        await following.cycles(episode(), seconds=600)

    lines = play(service, scene)
    assert service.titles() == [BEGUN]
    assert service.tried[URL] == [0]
    assert [line["event"] for line in lines] == ["failing", "recovered"]


def test_what_hangs_for_an_hour_is_given_up_and_tried_again() -> None:
    service = Service(HANG)

    async def scene(following: Following) -> None:
        await following.cycles(episode(), seconds=2 * GIVEN_UP_SECONDS)

    play(service, scene)
    again = DEADLINE_SECONDS + GIVEN_UP_SECONDS + FIRST_PAUSE_SECONDS
    assert service.tried[URL] == [0, again]
    assert service.titles() == [BEGUN]


def test_order_is_kept_however_long_it_takes() -> None:
    service = Service(25, False, False, 7)

    async def scene(following: Following) -> None:
        await following.cycles(episode("m1"), seconds=30)
        await following.cycles(episode("m1"), episode("m2"), seconds=30)
        await following.cycles(episode("m2"), episode("m3"), seconds=600)

    play(service, scene)
    assert service.titles()[0] == BEGUN
    rest = service.said[URL][1].body
    assert rest.index("lost worker: m2") < rest.index(OVER) < rest.index("lost worker: m3")
    assert len(service.titles()) == 2


def test_a_cycle_that_does_not_act_tells_nothing_but_that() -> None:
    service = Service()

    async def scene(following: Following) -> None:
        following.stands = (episode(),)
        for acted in (False, False, True, True, False, False):
            following.cycle(*((episode(), episode("m2")) if acted else ()), acted=acted)
            await LoopClock().sleep(30)

    play(service, scene)
    assert len(service.titles()) == 2
    assert service.titles()[0] == "lost worker: m2, and 1 more"
    assert "acts from now on" in service.said[URL][0].body
    assert service.titles()[1] == "lease changed: test"
    assert "has lost the lease" in service.said[URL][1].body
    assert service.said[URL][1].kind == "warning"


def test_an_event_has_no_end() -> None:
    service = Service()

    async def scene(following: Following) -> None:
        await following.cycles(episode("v1", EpisodeKind.ORPHAN_REMOVED, Severity.INFO))
        await following.cycles()

    play(service, scene)
    assert service.titles() == ["orphan removed: v1"]


def test_an_event_is_told_also_when_its_time_is_over() -> None:
    service = Service(False, False)

    async def scene(following: Following) -> None:
        await following.cycles(episode("v1", EpisodeKind.ORPHAN_REMOVED, Severity.INFO))
        await following.cycles(seconds=600)

    play(service, scene)
    assert service.titles() == ["orphan removed: v1"]


def test_a_stalled_loop_is_told_once_until_it_turns_again() -> None:
    service = Service()

    async def scene(following: Following) -> None:
        for _ in range(3):
            following.notifier.stalled("the loop stands still")
            await LoopClock().sleep(60)
        following.cycle(acted=False)
        await LoopClock().sleep(60)
        following.notifier.stalled("the loop stands still")
        await LoopClock().sleep(60)

    play(service, scene)
    begun = "loop stalled: test"
    assert service.titles() == [begun, f"over: {begun}", begun]
    assert service.said[URL][1].body.startswith("Over after 3m ")


def test_a_changed_configuration_changes_the_channels() -> None:
    service = Service()
    service.hanging = {URL}

    async def scene(following: Following) -> None:
        await following.cycles(episode("m1"))
        following.config = channels(OTHER)
        await following.cycles(episode("m1"), episode("m2"))
        following.config = config()
        await following.cycles()
        await following.notifier.sent()
        following.config = channels(OTHER)
        await following.cycles(episode("m3"))

    play(service, scene)
    assert service.titles(OTHER) == ["lost worker: m2", "lost worker: m3"]
    assert service.tried[URL] == [0]


def test_a_channel_that_takes_nothing_keeps_the_newest() -> None:
    service = Service(*[False] * 20)

    async def scene(following: Following) -> None:
        many = [episode(f"m{number}") for number in range(MOST_WAITING + 5)]
        await following.cycles(*many, seconds=24 * 3600)

    play(service, scene)
    body = service.said[URL][0].body
    assert body.count("fell silent") == MOST_WAITING
    assert "M4 fell silent" not in body
    assert "M104 fell silent" in body


@pytest.mark.parametrize(
    ("answers", "seconds"), [([], 0), ([3], 3), ([False], 10), ([HANG], DEADLINE_SECONDS)]
)
def test_who_leaves_waits_for_what_is_under_way_within_a_bound(
    answers: list[Any], seconds: float
) -> None:
    async def scene(following: Following) -> None:
        await following.notifier.sent()
        following.cycle(episode())
        await following.notifier.sent()
        assert LoopClock().monotonic() == seconds

    play(Service(*answers), scene)


def test_an_address_is_in_no_repr() -> None:
    async def scene(following: Following) -> None:
        following.cycle(episode())
        channel = next(iter(following.notifier._channels.values()))
        assert SECRET not in f"{following.notifier!r} {channel!r} {following.config!r}"
        assert SECRET not in str(asyncio.all_tasks())

    play(Service(), scene)


# --- with the library itself, in real time


class Webhook:
    """A receiver that refuses some posts first."""

    def __init__(self, refuses: int) -> None:
        self.refuses = refuses
        self.posts: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    async def post(self, request: Request) -> Response:
        self.news.set()
        if self.refuses:
            self.refuses -= 1
            return Response(status_code=500)
        self.posts.append(json.loads(await request.body()))
        return Response()

    async def until(self, count: int) -> None:
        while len(self.posts) < count:
            await self.news.wait()
            self.news.clear()
            await LoopClock().sleep(0.01)


@pytest.mark.parametrize("refuses", [0, 3])
def test_a_webhook_gets_each_event_once_and_its_end_once(
    refuses: int, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> list[dict[str, Any]]:
        hook = Webhook(refuses)
        app = Starlette(routes=[Route(f"/{SECRET}", hook.post, methods=["POST"])])
        with bind("127.0.0.1", 0) as listener:
            async with served(app, listener) as port:
                chosen = channels(f"json://127.0.0.1:{port}/{SECRET}")
                async with Notifier(chosen, ScaledClock(1000)) as notifier:
                    following = Following(notifier, chosen)
                    for _ in range(3):
                        following.cycle(episode())
                    await hook.until(1)
                    for _ in range(3):
                        following.cycle()
                    await hook.until(2)
                    await notifier.sent()
        return hook.posts

    with capture_logs() as lines:
        posts = asyncio.run(main())
    assert [post["title"] for post in posts] == [f"[test] {BEGUN}", f"[test] {OVER}"]
    assert [post["type"] for post in posts] == ["warning", "success"]
    assert "M1 fell silent." in posts[0]["message"]
    assert [line["event"] for line in lines] == (["failing", "recovered"] if refuses else [])
    assert SECRET not in f"{lines} {capfd.readouterr()}"


def test_a_channel_that_cannot_be_reached_is_a_failure_that_keeps_its_secret(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with bind("127.0.0.1", 0) as taken:
            port = taken.getsockname()[1]
        chosen = channels(f"json://{SECRET}:{SECRET}@127.0.0.1:{port}/{SECRET}")
        async with Notifier(chosen, ScaledClock(1000)) as notifier:
            Following(notifier, chosen).cycle(episode())
            for _ in range(500):
                await LoopClock().sleep(0.01)
                if lines:
                    break

    with capture_logs() as lines:
        asyncio.run(main())
    assert [line["event"] for line in lines] == ["failing"]
    assert lines[0]["error"] == "not accepted, or not reached"
    assert caplog.records == [], "the library names hosts"
    assert SECRET not in f"{lines} {capfd.readouterr()}"


ENDS = """
import asyncio
from gpu_autoscaler.web.channel import send_by_apprise
from gpu_autoscaler.web.wording import Message

async def main():
    sending = asyncio.ensure_future(send_by_apprise({url!r}, Message("a", "b")))
    await asyncio.wait([sending], timeout=3)
    assert not sending.done()

asyncio.run(main())
print("over")
"""


def test_a_service_that_never_answers_does_not_keep_the_process_from_ending() -> None:
    with bind("127.0.0.1", 0) as deaf:
        url = f"json://127.0.0.1:{deaf.getsockname()[1]}/?rto=600"
        ended = subprocess.run(
            [sys.executable, "-c", ENDS.format(url=url)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "over\n", "")


class Weekly:
    """Makes the report, after as many failures as a test wants."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.asked = list(failures), 0

    async def __call__(self, moment: datetime) -> tuple[str, str]:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "41.00 EUR, 2026-08-31 to 2026-09-06", "Spent 41.00 EUR."


REPORT = Episode(EpisodeKind.WEEKLY_REPORT, "2026-08-31 to 2026-09-06", NOW, "due", Severity.INFO)
TOLD_SO = ["weekly report: 41.00 EUR, 2026-08-31 to 2026-09-06"]


def play_week(
    service: Service, weekly: Weekly, seconds: float, chosen: Config | None = None
) -> list[Any]:
    """The report is due in the second cycle."""
    chosen = chosen or channels(URL)

    async def main() -> None:
        async with Notifier(chosen, LoopClock(), service, weekly) as notifier:
            following = Following(notifier, chosen)
            following.cycle()
            following.cycle(REPORT)
            await following.cycles(seconds=seconds)

    with capture_logs() as lines:
        run_virtual(main())
    return lines


def test_the_weekly_report_is_told_once_and_has_no_end() -> None:
    service, weekly = Service(False, False), Weekly()
    play_week(service, weekly, 3600)
    assert service.titles() == TOLD_SO
    assert service.said[URL][0].body == "Spent 41.00 EUR."
    assert service.said[URL][0].kind == "info"
    assert weekly.asked == 1


def test_a_report_that_cannot_be_made_is_said_once_and_tried_again() -> None:
    service, weekly = Service(), Weekly(OSError("the bucket is gone"), ValueError("?"))
    lines = play_week(service, weekly, 3600)
    assert service.titles() == TOLD_SO
    assert [line["error"] for line in lines if line["event"] == "failing"] == ["the bucket is gone"]


def test_a_report_is_no_news_after_a_day() -> None:
    service, weekly = Service(*[False] * 110), Weekly()
    play_week(service, weekly, 3 * 86_400)
    assert service.titles() == []
    assert len(service.tried[URL]) < 110
    never = Weekly(*[OSError("gone")] * 1000)
    lines = play_week(Service(), never, 2 * 86_400)
    assert lines[-1]["event"] == "given up"


def test_a_channel_for_errors_alone_gets_no_report() -> None:
    service = Service()
    chosen = channels(URL, **{URL.split(":", maxsplit=1)[0]: "error"})
    play_week(service, Weekly(), 3600, chosen)
    assert service.said == {}


def test_who_stands_by_tells_no_report() -> None:
    service, weekly = Service(), Weekly()
    chosen = channels(URL)

    async def main() -> None:
        async with Notifier(chosen, LoopClock(), service, weekly) as notifier:
            following = Following(notifier, chosen)
            following.cycle(acted=False)
            following.cycle(REPORT, acted=False)
            await following.cycles(seconds=60)

    run_virtual(main())
    assert weekly.asked == 0
