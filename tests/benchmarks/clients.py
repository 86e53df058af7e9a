"""Twenty people look at the status page, for `test_surface`: a process of its own.

python -m tests.benchmarks.clients URL, then `go` and `stop` lines on standard input. At its end it
prints how long each reply took, in seconds, as JSON.
"""

import asyncio
import json
import sys

import httpx

from gpu_autoscaler.runtime.clock import SystemClock

CLIENTS = 20
POLL_SECONDS = 2.0
"""More often than the page does it."""


async def _poll(url: str, number: int, going: asyncio.Event, took: list[float]) -> None:
    clock, tag = SystemClock(), ""
    await clock.sleep(POLL_SECONDS * number / CLIENTS)  # people do not move in step
    async with httpx.AsyncClient(timeout=30) as client:
        while True:
            await going.wait()
            begun = clock.monotonic()
            reply = await client.get(url, headers={"If-None-Match": tag})
            took.append(clock.monotonic() - begun)
            tag = reply.headers["etag"]
            await clock.sleep(POLL_SECONDS)


async def main(url: str) -> None:
    """Entry point."""
    going, took = asyncio.Event(), list[float]()
    polling = [asyncio.create_task(_poll(url, n, going, took)) for n in range(CLIENTS)]
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "go":
            going.set()
        else:
            going.clear()
    for each in polling:
        each.cancel()
    await asyncio.gather(*polling, return_exceptions=True)
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
