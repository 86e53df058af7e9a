"""Who holds a connection and gives nothing for it is hung up on; the others are served."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gpu_autoscaler.commands import serving
from gpu_autoscaler.commands.serving import bind, served, served_in_thread
from gpu_autoscaler.runtime.clock import LoopClock, run_virtual

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HUGE = 50_000_000


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    body = "x" * (HUGE if scope["path"] == "/huge" else 2)
    await PlainTextResponse(body)(scope, receive, send)


def with_server(run: Callable[[int, LoopClock], Awaitable[None]], app: ASGIApp = answers) -> None:
    async def main() -> None:
        with bind("127.0.0.1", 0) as listener:
            async with served(app, listener) as port, asyncio.timeout(1000):
                await run(port, LoopClock())

    run_virtual(main())


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASK)
    reply = await reader.readuntil(b"xx")
    writer.close()
    return reply


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server hangs up without a word."""
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_who_asks_nothing_is_hung_up_on(sent: bytes) -> None:
    async def run(port: int, clock: LoopClock) -> None:
        begun = clock.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await ended(reader)
        assert clock.monotonic() - begun <= 2 * serving.LOOK_EVERY_SECONDS
        assert (await ask(port)).startswith(b"HTTP/1.1 200")

    with_server(run)


def test_who_never_reads_the_reply_is_hung_up_on() -> None:
    sending: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sending.append(scope["path"])
        try:
            await answers({**scope, "path": "/huge"}, receive, send)
        finally:
            sending.remove(scope["path"])

    async def run(port: int, clock: LoopClock) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        await clock.sleep(serving.LOOK_EVERY_SECONDS)
        for _ in range(serving.PATIENT_LOOKS + 2):
            await clock.sleep(serving.LOOK_EVERY_SECONDS)
        assert sending == []
        writer.close()

    with_server(run, app)


def test_a_reply_that_takes_a_whole_cycle_is_waited_for() -> None:
    async def run(port: int, clock: LoopClock) -> None:
        assert b"200" in await ask(port)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await LoopClock().sleep(45)
        await answers(scope, receive, send)

    with_server(run, app)


def test_thousands_of_connections_leave_the_daemon_its_own() -> None:
    async def run(port: int, clock: LoopClock) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        others = [
            await asyncio.open_connection("127.0.0.1", port)
            for _ in range(serving.MOST_CONNECTIONS)
        ]
        await clock.sleep(1)
        assert await ended(others[-1][0])
        writer.write(ASK)  # who was there before is served
        assert b"200" in await reader.readuntil(b"xx")
        for _, each in others:
            each.close()
        await clock.sleep(2)
        assert b"200" in await ask(port)

    with_server(run)


def test_in_a_thread_it_serves_and_ends() -> None:
    with bind("127.0.0.1", 0) as listener, served_in_thread(answers, listener) as port:
        assert b"200" in asyncio.run(ask(port))
