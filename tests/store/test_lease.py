"""One object, one lease: who may act, for how long, and how the next one comes to it."""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from gpu_autoscaler.domain.errors import LeaseLost, StateRefused, StoreError
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Kept, Memory
from gpu_autoscaler.emulator.bucket import InMemoryBucket
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual
from gpu_autoscaler.store.bucket import Conflict
from gpu_autoscaler.store.lease import LeasedStore, ReadOnlyLeasedStore

LASTS = timedelta(minutes=3)
TRUSTED = 120.0
"""Two thirds of it, in seconds."""
FIRST, SECOND = Memory(zones=("fr-par-1",)), Memory(zones=("fr-par-2",))
FIRST_OF_A_DEAD = replace(FIRST, unconfirmed_need={})
"""Two looks must agree before it is trusted with a launch."""


class WrongClock(LoopClock):
    """A wall clock that can be set; the other one runs as ever."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


class Site:
    """A bucket and the daemons that share it."""

    def __init__(self) -> None:
        self.clock = WrongClock()
        self.bucket = InMemoryBucket(self.clock)

    def store(self, holder: str, lasts: timedelta = LASTS) -> LeasedStore:
        return LeasedStore(self.bucket, self.clock, holder=holder, lasts=lasts)

    async def holding(self, holder: str, memory: Memory = FIRST) -> LeasedStore:
        """A daemon that has the lease and has kept something."""
        store = self.store(holder)
        assert (await store.load()).ours
        await store.save(memory)
        return store

    @property
    def document(self) -> dict[str, Any]:
        assert self.bucket.blob is not None
        found: dict[str, Any] = json.loads(self.bucket.blob.content)
        return found

    def lose_replies(self, of: str, count: int = 1) -> None:
        """The next calls take effect, and nobody is told."""
        left = [count]

        async def lose(call: str) -> None:
            if call == of and left[0]:
                left[0] -= 1
                raise StoreError("the reply was lost")

        self.bucket.after = lose

    def hang(self, of: str, seconds: float) -> None:
        """From now on such calls take effect so much later."""

        async def wait(call: str) -> None:
            if call == of:
                await self.clock.sleep(seconds)

        self.bucket.before = wait


def virtual(scene: Callable[[Site], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that plays in virtual time, at a site of its own."""

    async def play() -> None:
        await scene(Site())

    def test() -> None:
        run_virtual(play())

    test.__doc__ = scene.__doc__
    return test


@virtual
async def test_the_first_daemon_takes_what_nobody_has(site: Site) -> None:
    store = site.store("a")
    assert store.lease_left() == 0.0
    assert await store.load() == Kept(None)
    assert store.lease_left() == TRUSTED
    assert site.document["lease"] == {
        "holder": "a",
        "epoch": 1,
        "serial": 1,
        "lasts_seconds": 180.0,
    }
    assert (site.document["version"], site.document["memory"]) == (SCHEMA_VERSION, None)


@virtual
async def test_a_save_keeps_and_renews(site: Site) -> None:
    store = await site.holding("a")
    await site.clock.sleep(100)
    assert store.lease_left() == pytest.approx(20)
    await store.save(SECOND)
    assert store.lease_left() == TRUSTED
    assert site.document["lease"]["serial"] == 3
    assert (await site.store("b").load()).memory == SECOND


@virtual
async def test_the_lease_is_counted_from_before_the_write(site: Site) -> None:
    store = await site.holding("a")
    site.hang("put", 7)
    await store.save(SECOND)
    assert store.lease_left() == pytest.approx(TRUSTED - 7)


@virtual
async def test_another_daemon_stands_by_and_knows_why(site: Site) -> None:
    holder, other = await site.holding("a"), site.store("b")
    for _ in range(20):
        assert await other.load() == Kept(FIRST, ours=False, holder="a")
        assert other.lease_left() == 0.0
        with pytest.raises(LeaseLost, match="does not hold the lease"):
            await other.save(SECOND)
        await site.clock.sleep(30)
        await holder.save(FIRST)


@virtual
async def test_a_dead_holder_is_followed_when_its_lease_has_run_out(site: Site) -> None:
    dead, next_one = await site.holding("a"), site.store("b")
    await site.clock.sleep(100)
    assert not (await next_one.load()).ours
    await site.clock.sleep(179)
    assert not (await next_one.load()).ours, "watched for less than it lasts"
    assert dead.lease_left() == 0.0
    await site.clock.sleep(1)
    assert await next_one.load() == Kept(FIRST_OF_A_DEAD)
    assert next_one.lease_left() == TRUSTED
    assert (site.document["lease"]["epoch"], site.document["lease"]["holder"]) == (2, "b")
    with pytest.raises(LeaseLost, match="its holder is now b"):
        await dead.save(SECOND)
    kept = await site.store("c").load()
    assert kept.memory == FIRST_OF_A_DEAD, "nothing of the late one was kept"


@pytest.mark.parametrize(("silent", "taken"), [(100, False), (182, False), (183, True)])
def test_who_has_just_begun_asks_how_long_the_holder_has_been_silent(
    silent: float, taken: bool
) -> None:
    @virtual
    async def scene(site: Site) -> None:
        await site.holding("a")
        await site.clock.sleep(silent)
        new = site.store("b")
        assert (await new.load()).ours is taken
        assert (new.lease_left() > 0) is taken

    scene()


@virtual
async def test_it_asks_once_and_then_watches(site: Site) -> None:
    asked: list[datetime] = []
    service_time = site.bucket.service_time

    async def counted() -> datetime:
        asked.append(site.clock.now())
        return await service_time()

    site.bucket.service_time = counted  # type: ignore[method-assign]
    holder, other = await site.holding("a"), site.store("b")
    for _ in range(5):
        assert not (await other.load()).ours
        await site.clock.sleep(30)
        await holder.save(FIRST)
    assert len(asked) == 1


@virtual
async def test_a_service_that_does_not_tell_the_time_delays_it_and_no_more(site: Site) -> None:
    async def no_time() -> datetime:
        raise StoreError("no answer")

    site.bucket.service_time = no_time  # type: ignore[method-assign]
    await site.holding("a")
    other = site.store("b")
    with pytest.raises(StoreError):
        await other.load()
    await site.clock.sleep(180)
    assert (await other.load()).ours


@virtual
async def test_what_a_dead_one_left_stays_doubtful_through_a_quick_handover(site: Site) -> None:
    await site.holding("a")
    await site.clock.sleep(200)
    passing = site.store("b")
    await passing.load()
    await passing.release()
    assert await site.store("c").load() == Kept(FIRST_OF_A_DEAD)


@virtual
async def test_the_holders_own_length_counts(site: Site) -> None:
    long = site.store("a", lasts=timedelta(hours=1))
    await long.load()
    short = site.store("b", lasts=timedelta(minutes=1))
    await short.load()
    await site.clock.sleep(3599)
    assert not (await short.load()).ours
    await site.clock.sleep(1)
    assert (await short.load()).ours
    assert short.lease_left() == 40.0


@virtual
async def test_a_lease_that_was_given_back_is_free_at_once(site: Site) -> None:
    old, new = await site.holding("a"), site.store("b")
    assert not (await new.load()).ours
    await old.release()
    assert old.lease_left() == 0.0
    assert site.document["lease"]["holder"] == ""
    assert await new.load() == Kept(FIRST)
    with pytest.raises(LeaseLost):
        await old.save(SECOND)
    await old.release()
    assert new.lease_left() == TRUSTED, "giving back what is another's changes nothing"


@virtual
async def test_of_two_that_take_at_once_one_is_refused(site: Site) -> None:
    both = [site.store("a"), site.store("b")]
    kept = await asyncio.gather(*(store.load() for store in both))
    assert [each.ours for each in kept] == [True, False]
    assert [store.lease_left() for store in both] == [TRUSTED, 0.0]
    assert (await both[1].load()).holder == "a"


@virtual
async def test_a_lost_reply_is_no_lost_lease(site: Site) -> None:
    store = await site.holding("a")
    await site.clock.sleep(60)
    site.lose_replies("put")
    with pytest.raises(StoreError, match="the reply was lost"):
        await store.save(SECOND)
    assert store.lease_left() == pytest.approx(TRUSTED - 60), "what is not known does not count"
    await store.save(FIRST)
    assert store.lease_left() == TRUSTED
    assert (await site.store("b").load()).memory == FIRST


@virtual
async def test_a_lost_reply_when_taking_is_found_to_be_ours(site: Site) -> None:
    store = site.store("a")
    site.lose_replies("put")
    with pytest.raises(StoreError):
        await store.load()
    assert store.lease_left() == 0.0
    assert (await store.load()).ours
    assert site.document["lease"]["epoch"] == 1


@virtual
async def test_a_lost_reply_does_not_keep_it_from_being_given_back(site: Site) -> None:
    store = await site.holding("a")
    site.lose_replies("put")
    with pytest.raises(StoreError):
        await store.save(SECOND)
    await store.release()
    assert await site.store("b").load() == Kept(SECOND)


@virtual
async def test_the_newest_memory_is_handed_over_also_when_its_save_failed(site: Site) -> None:
    """What it says is under way may be under way: the next one must know it."""
    store = await site.holding("a")

    async def down(call: str) -> None:
        raise StoreError("no answer")

    site.bucket.before, well = down, site.bucket.before
    with pytest.raises(StoreError):
        await store.save(SECOND)
    site.bucket.before = well
    await store.release()
    assert await site.store("b").load() == Kept(SECOND)


@virtual
async def test_who_may_have_given_it_back_does_not_act(site: Site) -> None:
    store = await site.holding("a")
    site.lose_replies("put")
    with pytest.raises(StoreError):
        await store.release()
    assert store.lease_left() == 0.0
    assert (await site.store("b").load()).ours


@virtual
async def test_a_lease_that_ran_out_is_renewed_when_nobody_took_it(site: Site) -> None:
    store = await site.holding("a")
    await site.clock.sleep(10_000)
    assert store.lease_left() == 0.0
    await store.save(SECOND)
    assert store.lease_left() == TRUSTED


@virtual
async def test_a_service_that_hangs_is_a_sentence_after_its_deadline(site: Site) -> None:
    store = await site.holding("a")
    site.hang("put", 300)
    begun = site.clock.monotonic()
    with pytest.raises(StoreError, match="no answer within 10 s"):
        await store.save(SECOND)
    assert site.clock.monotonic() - begun == 10
    site.hang("get", 300)
    with pytest.raises(StoreError, match="memory://bucket/object: no answer within 10 s"):
        await site.store("b").load()
    with pytest.raises(StoreError, match="no answer within 10 s"):
        await ReadOnlyLeasedStore(site.bucket).load()


@virtual
async def test_a_write_that_arrives_after_all_is_ours_too(site: Site) -> None:
    store = await site.holding("a")
    site.hang("put", 50)
    with pytest.raises(StoreError):
        await store.save(SECOND)
    site.hang("put", 0)
    await site.clock.sleep(60)
    assert site.document["memory"]["zones"] == ["fr-par-2"]
    await store.save(FIRST)
    assert store.lease_left() == TRUSTED


@pytest.mark.parametrize(
    ("hours", "left"), [(1, 0.0), (-1, 110.0), (0, 110.0)], ids=["forward", "back", "right"]
)
def test_a_wall_clock_can_shorten_the_lease_but_not_lengthen_it(hours: int, left: float) -> None:
    @virtual
    async def scene(site: Site) -> None:
        store = await site.holding("a")
        await site.clock.sleep(10)
        site.clock.ahead = timedelta(hours=hours)
        assert store.lease_left() == pytest.approx(left)

    scene()


@virtual
async def test_an_object_that_a_person_removed_is_written_anew(site: Site) -> None:
    store = await site.holding("a")
    site.bucket.blob = None
    await store.save(SECOND)
    assert site.document["memory"]["zones"] == ["fr-par-2"]


@virtual
async def test_an_object_that_is_removed_does_not_end_a_lease_that_is_watched(site: Site) -> None:
    holder, other = await site.holding("a"), site.store("b")
    assert not (await other.load()).ours
    site.bucket.blob = None
    for _ in range(2):
        assert not (await other.load()).ours
        await site.clock.sleep(90)
    assert holder.lease_left() == 0.0
    assert await other.load() == Kept(None)
    assert site.document["lease"]["epoch"] == 2


UNREADABLE = [
    b"",
    b"[]",
    b"\xff",
    b'{"version": 1}',
    b'{"lease": {"holder": "a", "epoch": 1, "serial": 1, "lasts_seconds": 0}, "memory": null}',
    b'{"lease": {"holder": "", "epoch": 1, "serial": 1, "lasts_seconds": 9}, "memory": []}',
]


@pytest.mark.parametrize("content", UNREADABLE)
def test_what_cannot_be_read_is_waited_out_set_aside_and_said(content: bytes) -> None:
    @virtual
    async def scene(site: Site) -> None:
        site.bucket.write(content)
        store = site.store("b")
        kept = await store.load()
        assert (kept.memory, kept.ours) == (None, False), "a living daemon may hold it"
        assert "cannot be read" in kept.holder
        assert site.bucket.aside == {}
        assert await ReadOnlyLeasedStore(site.bucket).load() == Kept(None)
        assert await store.age() == timedelta(0)
        await site.clock.sleep(180)
        with capture_logs() as lines:
            assert await store.load() == Kept(None)
        assert site.bucket.aside == {".unreadable": content}
        assert lines == [
            {
                "event": "memory unreadable",
                "log_level": "error",
                "set_aside": "memory://bucket/object.unreadable",
                "then": "starting without memory",
            }
        ]
        await store.save(FIRST)
        assert await ReadOnlyLeasedStore(site.bucket).load() == Kept(FIRST)

    scene()


@virtual
async def test_what_cannot_be_set_aside_is_not_overwritten(site: Site) -> None:
    async def full(content: bytes, suffix: str) -> str:
        raise StoreError("no room")

    site.bucket.write(b"?")
    site.bucket.set_aside, well = full, site.bucket.set_aside  # type: ignore[method-assign]
    await site.clock.sleep(200)
    store = site.store("b")
    with pytest.raises(StoreError, match="no room"):
        await store.load()
    assert site.bucket.blob is not None
    assert site.bucket.blob.content == b"?"
    site.bucket.set_aside = well  # type: ignore[method-assign]
    await site.clock.sleep(180)
    assert (await store.load()).ours


@virtual
async def test_a_holder_whose_object_was_spoilt_stops(site: Site) -> None:
    store = await site.holding("a")
    site.bucket.write(b"?")
    with pytest.raises(LeaseLost, match="cannot be read"):
        await store.save(SECOND)
    assert store.lease_left() == 0.0


@virtual
async def test_what_a_newer_daemon_wrote_is_refused_and_left_alone(site: Site) -> None:
    store = await site.holding("a")
    newer = json.dumps({"version": SCHEMA_VERSION + 1, "lease": "nobody here knows"}).encode()
    site.bucket.write(newer)
    with pytest.raises(LeaseLost, match="a newer version of the daemon"):
        await store.save(SECOND)
    assert store.lease_left() == 0.0
    for waited in (0, 1000):
        await site.clock.sleep(waited)
        for refusing in (store.load, store.age, ReadOnlyLeasedStore(site.bucket).load):
            with pytest.raises(StateRefused, match=f"newer version .*schema {SCHEMA_VERSION + 1}"):
                await refusing()
    assert site.bucket.blob is not None
    assert site.bucket.blob.content == newer


@virtual
async def test_the_age_is_that_of_the_last_renewal(site: Site) -> None:
    reader = site.store("b")
    assert await reader.age() is None
    holder = await site.holding("a")
    await site.clock.sleep(75)
    assert await reader.age() == timedelta(seconds=75)
    await holder.save(FIRST)
    assert await reader.age() == timedelta(0)
    await site.clock.sleep(7)
    await holder.release()
    await site.clock.sleep(5)
    assert await reader.age() == timedelta(seconds=5), "a daemon was here, whoever has it now"


@virtual
async def test_asking_for_the_age_takes_nothing(site: Site) -> None:
    await site.holding("a")
    await site.clock.sleep(1000)
    before = site.bucket.blob
    await site.store("b").age()
    assert site.bucket.blob is before


@virtual
async def test_a_dry_run_reads_and_leaves_no_trace(site: Site) -> None:
    reader = ReadOnlyLeasedStore(site.bucket)
    assert await reader.load() == Kept(None)
    assert site.bucket.blob is None
    await site.holding("a")
    before = site.bucket.blob
    assert await reader.load() == Kept(FIRST)
    await reader.save(SECOND)
    await reader.release()
    assert reader.lease_left() == math.inf
    assert site.bucket.blob is before


@virtual
async def test_a_conflict_that_repeats_is_left_to_the_next_cycle(site: Site) -> None:
    store = await site.holding("a")

    async def touch(call: str) -> None:
        assert site.bucket.blob is not None
        site.bucket.write(site.bucket.blob.content + b" ")

    site.bucket.before = site.bucket.after = touch
    with pytest.raises(Conflict, match="changed by somebody else"):
        await store.save(SECOND)
    assert store.lease_left() == TRUSTED, "it may still be ours"
