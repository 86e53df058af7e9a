"""An ASGI app on a socket of its own: inside somebody else's event loop, or in a thread."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SHUTDOWN_SECONDS = 2
"""A client that never reads does not keep the process from ending."""


LOOK_EVERY_SECONDS = 20.0
PATIENT_LOOKS = 3
"""So many times a reply under way may look the same: one waits for a whole cycle."""
MOST_CONNECTIONS = 400
"""More are hung up on: each takes a file descriptor, of which the daemon needs some itself."""


class _Connection(H11Protocol):
    """Hangs up on who connects and asks nothing, asks too slowly, or never reads the reply."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._look_later(None, looks=0)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if (looking := getattr(self, "_looking", None)) is not None:
            looking.cancel()

    def _look_later(self, seen: object, looks: int) -> None:
        self._looking = self.loop.call_later(LOOK_EVERY_SECONDS, self._look, seen, looks)

    def _look(self, seen: object, looks: int) -> None:
        under_way = getattr(self.cycle, "response_complete", True) is False
        same = self.cycle is seen
        if same and (not under_way or looks >= PATIENT_LOOKS):
            self.transport.abort()
        else:
            self._look_later(self.cycle, looks + 1 if same else 1)


class _Server(uvicorn.Server):
    """Leaves signals to the daemon, whose business they are."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError with a sentence when the port cannot be had."""
    try:
        return socket.create_server((host, port), reuse_port=False)
    except OSError as error:
        why = os.strerror(error.errno or 0)  # `error.strerror` repeats the address
        raise OSError(
            error.errno, f"cannot listen on {host}:{port} ({why}); set another PORT"
        ) from None


def _settings(app: ASGIApp) -> uvicorn.Config:
    # no Date header of the machine's: an emulator's clock may be another
    return uvicorn.Config(
        app,
        http=_Connection,
        log_config=None,
        access_log=False,
        lifespan="off",
        date_header=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


@contextlib.asynccontextmanager
async def served(app: ASGIApp, listener: socket.socket) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port."""
    server = _Server(_settings(app))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@contextlib.contextmanager
def served_in_thread(app: ASGIApp, listener: socket.socket) -> Iterator[int]:
    """Serve while the block runs, in real time, whatever time the caller's loop believes in."""
    server = _Server(_settings(app))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
