"""An ASGI app on a socket of its own, inside a loop that belongs to somebody else."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp


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


@contextlib.asynccontextmanager
async def served(app: ASGIApp, listener: socket.socket) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port."""
    # no Date header of the machine's: an emulator's clock may be another
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", date_header=False
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
