"""`run`: who acts, when a single cycle is right, and that no way out keeps the lease."""

import asyncio
import itertools
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gpu_autoscaler import cli
from gpu_autoscaler.commands import run as running
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity
from gpu_autoscaler.domain.errors import StateInUse, StoreError
from gpu_autoscaler.domain.memory import Memory
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.runtime import loop as looping
from gpu_autoscaler.runtime.clock import run_virtual
from gpu_autoscaler.store.directory import DirectoryStore
from gpu_autoscaler.web.heartbeat import DEADLINE_SECONDS, Heartbeat
from gpu_autoscaler.web.notify import Notifier
from gpu_autoscaler.web.wording import Message
from tests.commands.site import ENV, Site, a_daemon_was_here, holder_of

TEN_MINUTES = timedelta(minutes=10)
URL = "https://ping.example/x"


class Run(Site):
    """A site with a memory in a bucket, or, if asked, in a directory."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, *, in_bucket: bool) -> None:
        super().__init__(directory, running, patch)
        self.file.write_text(f"{self.file.read_text()}heartbeat_url: {URL}\n")
        if in_bucket:
            self.bucket = self.use_bucket(patch)
        self.pings: list[float] = []
        patch.setattr(running, "Heartbeat", lambda: Heartbeat(httpx.MockTransport(self._ping)))
        self.file.write_text(f"{self.file.read_text()}notifications:\n- url: ${{NOTIFY}}\n")
        patch.setitem(ENV, "NOTIFY", "json://team.example/x")
        self.told: list[str] = []
        patch.setattr(
            running, "Notifier", lambda config, clock, weekly: Notifier(config, clock, self._tell)
        )

    bucket: InMemoryBucket

    async def _ping(self, _: httpx.Request) -> httpx.Response:
        await self.clock.sleep(2)
        self.pings.append(self.clock.monotonic())
        return httpx.Response(200)

    async def _tell(self, _: str, message: Message) -> bool:
        await self.clock.sleep(3)
        self.told.append(message.title)
        return True

    async def once(self, **options: Any) -> int:
        given = {"dry_run": False, "once": True, "port": 0, **options}
        return await running.run(self.setup, self.clock, **given)


Scene = Callable[[Run], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def go(scene: Scene, *, in_bucket: bool = True) -> None:
        async def main() -> None:
            await scene(Run(tmp_path, monkeypatch, in_bucket=in_bucket))

        run_virtual(main())

    return go


Play = Callable[..., None]


def test_a_single_cycle_follows_a_dead_daemon_and_gives_the_lease_back(play: Play) -> None:
    async def scene(site: Run) -> None:
        await a_daemon_was_here(site.bucket, site.clock)
        assert await site.once() == 1, "it may live"
        await site.clock.sleep(3600)
        assert await site.once() == 0
        assert holder_of(site.bucket) == ""

    play(scene)


def test_a_defect_does_not_keep_the_lease(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(site: Run) -> None:
        monkeypatch.setattr(looping, "plan", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await site.once()
        assert holder_of(site.bucket) == ""

    play(scene)


def test_a_port_that_is_taken_takes_no_lease(play: Play) -> None:
    async def scene(site: Run) -> None:
        with socket.create_server(("0.0.0.0", 0)) as taken, pytest.raises(OSError, match="listen"):
            await site.once(once=False, port=taken.getsockname()[1])
        assert site.bucket.blob is None

    play(scene)


@pytest.mark.parametrize("once", [True, False])
def test_sigterm_ends_it_in_order(play: Play, once: bool) -> None:
    async def scene(site: Run) -> None:
        site.task()

        async def terminate() -> None:
            while not site.servers():
                await site.clock.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)

        ending = asyncio.create_task(terminate())
        await site.once(once=once)
        await ending
        assert holder_of(site.bucket) == ""
        (server,) = site.servers().values()
        assert "phase=provisioning" not in server.tags, "what was under way came to its end"

    play(scene)


def test_a_farewell_that_fails_is_said_and_no_more(play: Play) -> None:
    async def scene(site: Run) -> None:
        puts = []

        async def before(call: str) -> None:
            if call == "put":
                puts.append(call)
                if len(puts) > 3:
                    raise StoreError("no answer")

        site.bucket.before = before
        with capture_logs() as lines:
            assert await site.once() == 0
        assert [e["error"] for e in lines if e["event"] == "lease not given back"] == ["no answer"]

    play(scene)


def test_a_single_cycle_says_why_the_store_does_not_answer(play: Play) -> None:
    async def scene(site: Run) -> None:
        async def forbidden(_: str) -> None:
            raise StoreError("s3://x: cannot be read (HTTP 403)")

        site.bucket.before = forbidden
        for dry_run in (False, True):
            with pytest.raises(StoreError, match="HTTP 403"):
                await site.once(dry_run=dry_run)

    play(scene)


@pytest.mark.parametrize("farewell", [True, False])
def test_a_cleaner_waits_until_a_daemon_has_been_gone_for_long(play: Play, farewell: bool) -> None:
    async def scene(site: Run) -> None:
        daemon = await a_daemon_was_here(site.bucket, site.clock)
        if farewell:
            await daemon.release()
        await site.clock.sleep(560)
        with capture_logs() as lines:
            assert await site.once(if_lease_older_than=TEN_MINUTES) == 0
        assert [(e["event"], e.get("because")) for e in lines] == [
            ("nothing done", "a daemon was here 9m20s ago")
        ]
        await site.clock.sleep(40)
        assert await site.once(if_lease_older_than=TEN_MINUTES) == 0
        assert site.bucket.blob is not None
        assert site.bucket.blob.written_at >= site.clock.now() - timedelta(minutes=1), "it acted"
        assert site.pings == [], "it must not cover for the dead"

    play(scene)


def test_a_cleaner_beside_a_daemon_of_this_machine_does_nothing(play: Play) -> None:
    async def scene(site: Run) -> None:
        with DirectoryStore(site.directory) as daemon:
            await daemon.save(Memory())
            hour_ago = (site.directory / "memory.json").stat().st_mtime - 3600
            os.utime(site.directory / "memory.json", (hour_ago, hour_ago))
            with capture_logs() as lines:
                assert await site.once(if_lease_older_than=TEN_MINUTES) == 0
            assert [e["event"] for e in lines] == ["nothing done"]
            with pytest.raises(StateInUse):
                await site.once()

    play(scene, in_bucket=False)


def test_a_single_cycle_is_told_to_the_heartbeat_before_it_leaves(play: Play) -> None:
    async def scene(site: Run) -> None:
        for count in (1, 2):
            begun = site.clock.monotonic()
            assert await site.once() == 0
            assert len(site.pings) >= count
            assert site.clock.monotonic() - begun < 60 + DEADLINE_SECONDS
            site.pings[count:] = []

    play(scene)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ["[test] over: lost worker: m1"]),
        ({"dry_run": True}, []),
        ({"if_lease_older_than": TEN_MINUTES}, []),
    ],
    ids=["once", "dry run", "covering for a daemon"],
)
def test_a_single_cycle_tells_what_is_over_before_it_leaves(
    play: Play, options: dict[str, Any], told: list[str]
) -> None:
    async def scene(site: Run) -> None:
        daemon = await a_daemon_was_here(site.bucket, site.clock)
        now, lost = site.clock.now(), EpisodeKind.LOST_WORKER
        stands = Episode(lost, "m1", now, "m1 fell silent", Severity.WARNING)
        await daemon.save(Memory(planned_at=now, episodes=(stands,)))
        await daemon.release()
        await site.clock.sleep(3600)
        assert await site.once(**options) == 0
        assert site.told == told

    play(scene)


def test_a_dry_run_leads_nothing_and_beats_for_nobody(play: Play) -> None:
    async def scene(site: Run) -> None:
        site.task()
        with capture_logs() as lines:
            assert await site.once(dry_run=True) == 0
        assert {e["event"] for e in lines} == {"would create"}
        assert (site.pings, site.bucket.blob) == ([], None)

    play(scene)


def test_its_lease_is_renewed_while_its_one_decision_is_carried_out(play: Play) -> None:
    async def scene(site: Run) -> None:
        site.task()
        site.faults.add("slow", r"PATCH .*/user_data/", seconds=100.0)
        puts: list[float] = []

        async def note(call: str) -> None:
            if call == "put":
                puts.append(site.clock.monotonic())

        site.bucket.after = note
        with capture_logs() as lines:
            await site.once()
        assert not [e for e in lines if "lease ran out" in str(e)]
        waits = [later - earlier for earlier, later in itertools.pairwise(puts)]
        assert max(waits) < 45

    play(scene)


@pytest.mark.parametrize(
    "words",
    [
        "run --if-lease-older-than 10m",
        "run --once --dry-run --if-lease-older-than 10m",
        "run --once --if-lease-older-than 0s",
        "run --once --if-lease-older-than 10",
        "run --once --if-lease-older-than ",
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(words: str) -> None:
    ended = CliRunner().invoke(cli.app, words.split(" "))
    assert ended.exit_code == 2
    assert re.search("--if-lease-older-than", ended.output)
