"""The real client against a real server on this machine: the conditions hold on the wire."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest

from gpu_autoscaler.domain.errors import LeaseLost, StateRefused, StoreError
from gpu_autoscaler.domain.memory import SCHEMA_VERSION, Kept, Memory
from gpu_autoscaler.runtime.clock import LoopClock, SystemClock
from gpu_autoscaler.store.bucket import Conflict
from gpu_autoscaler.store.lease import LeasedStore, ReadOnlyLeasedStore
from gpu_autoscaler.store.ledger import BucketSheets, DayLedger
from gpu_autoscaler.store.s3 import S3Bucket
from tests.store import server as storage
from tests.store.server import BUCKET, REGION
from tests.store.test_ledger import DAY, stretch, task

T = TypeVar("T")

ACCESS, SECRET = "SCWACCESSHIDDEN", "secret-hidden"
FIRST, SECOND = Memory(zones=("fr-par-1",)), Memory(zones=("fr-par-2",))
LASTS = timedelta(minutes=3)


server, endpoint = storage.server, storage.endpoint


def bucket(endpoint: str, name: str = BUCKET, key: str = "gpu-autoscaler/lab.json") -> S3Bucket:
    return S3Bucket(
        name, key, region=REGION, endpoint=endpoint, access_key=ACCESS, secret_key=SECRET
    )


def leased(endpoint: str, holder: str) -> LeasedStore:
    return LeasedStore(bucket(endpoint), SystemClock(), holder=holder, lasts=LASTS)


def test_conditions_hold(endpoint: str) -> None:
    async def scene() -> None:
        first, second = bucket(endpoint), bucket(endpoint)
        assert await first.get() is None
        version = await first.put(b"one", None)
        with pytest.raises(Conflict, match=r"s3://memory/gpu-autoscaler/lab\.json: changed by"):
            await second.put(b"two", None)
        newer = await second.put(b"two", version)
        with pytest.raises(Conflict):
            await first.put(b"three", version)
        found = await first.get()
        assert found is not None
        assert (found.content, found.version) == (b"two", newer)
        assert newer != version
        with pytest.raises(Conflict):
            await bucket(endpoint, key="none.json").put(b"four", version)

    asyncio.run(scene())


def test_a_life_of_the_lease(endpoint: str) -> None:
    async def scene() -> None:
        old, new = leased(endpoint, "old"), leased(endpoint, "new")
        assert await old.load() == Kept(None)
        await old.save(FIRST)
        assert await new.load() == Kept(FIRST, ours=False, holder="old")
        await old.save(SECOND)
        assert 100 < old.lease_left() <= 120
        age = await new.age()
        assert age is not None
        assert timedelta(0) <= age < timedelta(minutes=1)
        await old.release()
        age = await new.age()
        assert age is not None, "by whomever: a daemon was here"
        assert timedelta(0) <= age < timedelta(minutes=1)
        assert await new.load() == Kept(SECOND)
        with pytest.raises(LeaseLost):
            await old.save(FIRST)
        assert await ReadOnlyLeasedStore(bucket(endpoint)).load() == Kept(SECOND)

    asyncio.run(scene())


class LaterClock(LoopClock):
    """Time that passes when it is told to."""

    passed = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.passed


def test_a_dead_holder_is_followed(endpoint: str) -> None:
    async def scene() -> None:
        dead, clock = leased(endpoint, "dead"), LaterClock()
        next_one = LeasedStore(bucket(endpoint), clock, holder="next", lasts=LASTS)
        await dead.load()
        await dead.save(FIRST)
        assert not (await next_one.load()).ours
        clock.passed = 180.0
        assert await next_one.load() == Kept(replace(FIRST, unconfirmed_need={}))
        with pytest.raises(LeaseLost, match="its holder is now next"):
            await dead.save(SECOND)

    asyncio.run(scene())


def test_what_cannot_be_read_is_set_aside(endpoint: str) -> None:
    async def scene() -> None:
        clock = LaterClock()
        store = LeasedStore(bucket(endpoint), clock, holder="a", lasts=LASTS)
        await bucket(endpoint).put(b"{", None)
        await store.load()
        clock.passed = 180.0
        assert await store.load() == Kept(None)
        aside = await bucket(endpoint, key="gpu-autoscaler/lab.json.unreadable").get()
        assert aside is not None
        assert aside.content == b"{"

    asyncio.run(scene())


def test_what_a_newer_daemon_wrote_is_left_alone(endpoint: str) -> None:
    async def scene() -> None:
        newer = json.dumps({"version": SCHEMA_VERSION + 1}).encode()
        await bucket(endpoint).put(newer, None)
        with pytest.raises(StateRefused, match=r"s3://memory/.*newer version"):
            await leased(endpoint, "a").load()
        found = await bucket(endpoint).get()
        assert found is not None
        assert found.content == newer

    asyncio.run(scene())


async def said(call: Awaitable[T]) -> str:
    """The sentence of a failure."""
    with pytest.raises(StoreError) as caught:
        await call
    assert not isinstance(caught.value, Conflict)
    assert caught.value.__suppress_context__, "the client's own words may repeat keys"
    return str(caught.value)


CALLS: list[Callable[[S3Bucket], Awaitable[object]]] = [
    lambda there: there.get(),
    lambda there: there.put(b"x", None),
    lambda there: there.put(b"x", '"abc"'),
    lambda there: there.set_aside(b"x", ".y"),
    lambda there: there.service_time(),
]


@pytest.mark.parametrize("call", CALLS, ids=["get", "create", "replace", "aside", "time"])
def test_a_bucket_that_is_not_there_is_a_sentence(
    endpoint: str, call: Callable[[S3Bucket], Awaitable[object]]
) -> None:
    text = asyncio.run(said(call(bucket(endpoint, name="nowhere"))))
    assert "HTTP 404, NoSuchBucket); make the bucket first" in text


@pytest.mark.parametrize("call", CALLS, ids=["get", "create", "replace", "aside", "time"])
def test_a_server_that_is_gone_is_a_sentence(call: Callable[[S3Bucket], Awaitable[object]]) -> None:
    text = asyncio.run(said(call(bucket("http://127.0.0.1:1"))))
    assert "(no connection, or no answer that makes sense)" in text


@asynccontextmanager
async def answering(status: int, body: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says the same to everything; counts how often."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "SignatureDoesNotMatch", "(HTTP 403, SignatureDoesNotMatch); the Scaleway key needs"),
        (401, "", "(HTTP 401); the Scaleway key needs"),
        (400, "InvalidArgument", "(HTTP 400, InvalidArgument)"),
        (503, "SlowDown", "(HTTP 503, SlowDown)"),
        (200, "", "(no connection, or no answer that makes sense)"),
    ],
)
def test_a_refusal_is_a_sentence_without_secrets(status: int, code: str, sentence: str) -> None:
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>{ACCESS}</AWSAccessKeyId></Error>"

    async def scene() -> None:
        async with answering(status, body if code else "") as (address, asked):
            text = await said(bucket(address).put(b"x", None))
        assert sentence in text
        assert ACCESS not in text
        assert SECRET not in text
        assert len(asked) == (3 if status == 503 else 1)
        assert ACCESS.encode() in asked[0], "signed with the key that was given"
        assert b"of another account" not in asked[0]

    asyncio.run(scene())


def test_a_race_on_the_server_is_a_conflict() -> None:
    async def scene() -> None:
        body = "<Error><Code>ConditionalRequestConflict</Code></Error>"
        async with answering(409, body) as (address, _):
            for replaces in (None, '"abc"'):
                with pytest.raises(Conflict):
                    await bucket(address).put(b"x", replaces)

    asyncio.run(scene())


def test_it_does_not_show_its_keys(endpoint: str) -> None:
    there = bucket(endpoint)
    assert "hidden" not in f"{there!r} {vars(there)!r} {there._store.config}".lower()


def test_the_ledger_is_beside_the_memory(endpoint: str) -> None:
    def ledger() -> DayLedger:
        memory = bucket(endpoint)
        return DayLedger(BucketSheets(lambda name: memory.at(f"gpu-autoscaler/lab/{name}")))

    async def scene() -> None:
        one, other = ledger(), ledger()
        await one.add([stretch()], [])
        await other.add([stretch(1)], [task()])
        await one.add([stretch(2)], [])  # what it read last is not the newest any more
        page = await ledger().read(DAY)
        assert page.stretches == tuple(map(stretch, range(3)))
        assert (page.tasks, page.problems) == ((task(),), ())
        assert (await ledger().read(DAY + timedelta(days=1))).records == ()

    asyncio.run(scene())
