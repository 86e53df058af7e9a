"""The demo's status page: in a thread and in real time, while the demo's own time flies."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta

from gpu_autoscaler.commands.emulate import LOOPBACK
from gpu_autoscaler.commands.serving import bind, served_in_thread
from gpu_autoscaler.domain.requests import Answer, Request
from gpu_autoscaler.runtime.clock import VIRTUAL_START, SystemClock
from gpu_autoscaler.runtime.loop import Cycle, Loop
from gpu_autoscaler.web.app import surface_app
from gpu_autoscaler.web.costs import Costs, Read

PATIENCE = timedelta(hours=1)
"""Of the demo's time, of which minutes pass in every real moment."""

NOT_YET = "the demo has only just begun"


class DemoPage(SystemClock):
    """Stands between the page's thread and the demo's loop; tells the demo's time."""

    def __init__(self) -> None:
        self.leads, self.interval = True, timedelta(minutes=1)
        self._shown: Loop | None = None
        self._events: asyncio.AbstractEventLoop | None = None

    def shows(self, loop: Loop) -> None:
        """From now on, this daemon; called inside the demo's event loop."""
        self._shown, self._events = loop, asyncio.get_running_loop()

    @property
    def last(self) -> Cycle | None:
        """The daemon's last cycle."""
        return self._shown.last if self._shown else None

    def now(self) -> datetime:
        """When that was."""
        return self.last.finished_at if self.last else VIRTUAL_START

    def wake(self) -> None:
        """See `Loop.wake`."""
        if self._shown is not None and self._events is not None:
            self._events.call_soon_threadsafe(self._shown.wake)

    async def ask(self, request: Request, within: timedelta) -> Answer | None:
        """See `Loop.ask`."""
        if self._shown is None or self._events is None:
            return Answer(request, False, NOT_YET)
        asked = asyncio.run_coroutine_threadsafe(self._shown.ask(request, PATIENCE), self._events)
        return await asyncio.wrap_future(asked)

    @contextlib.contextmanager
    def served(self, read: Read) -> Iterator[str]:
        """While the block runs; its address. What it cost comes from `read`."""
        costs = Costs("demo", read, self)
        app = surface_app(self, self, None, lambda: (b"", "text/plain"), costs=costs)
        with bind(LOOPBACK, 0) as listener, served_in_thread(app, listener) as port:
            yield f"http://{LOOPBACK}:{port}/"
