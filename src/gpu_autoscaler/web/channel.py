"""One channel of notifications: what it was not told yet, and the patience to tell it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from gpu_autoscaler.config.channels import open_channel
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.episodes import Episode
from gpu_autoscaler.web.wording import Message, Piece, message

log = structlog.get_logger("gpu_autoscaler")

DEADLINE_SECONDS = 20.0
"""Then a try has failed, whatever becomes of it."""

GIVEN_UP_SECONDS = 3600.0
"""A call that hangs longer is not waited for: one thread an hour is lost to a service that never
answers. Before, what arrives late has arrived, and is not sent a second time."""

FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 900.0
"""After a failed try, doubling from the first: a channel that is mended hears of it soon."""

MOST_WAITING = 100
"""Pieces that are kept for a channel that takes none; the oldest go first."""

Send = Callable[[str, Message], Awaitable[bool]]
"""To the channel with this URL; whether it was accepted. May raise anything."""


@dataclass(slots=True, eq=False)
class _News:
    """A beginning or an end that the channel has not been told."""

    episode: Episode
    told: bool
    """Its beginning was: what is left to tell is its end."""
    ended_at: datetime | None = None
    until: datetime | None = None
    """Then it is no news any more."""


class Channel:
    """Tells one channel, in order, in the background; `close` it."""

    def __init__(self, name: str, url: str, fleet: str, clock: Clock, send: Send) -> None:
        self._name, self._url, self._fleet = name, url, fleet
        self._clock, self._send = clock, send
        self._news: list[_News] = []
        self._being_told: tuple[_News, ...] = ()
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._failing = False
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Tell nothing more. Does not wait for a service."""
        self._working.cancel()
        await asyncio.wait([self._working])

    async def idle(self) -> None:
        """Until everything is told."""
        await self._idle.wait()

    def begin(self, episode: Episode, until: datetime | None = None) -> None:
        """To be told, by then at the latest."""
        self._add(_News(episode, told=False, until=until))

    def end(self, episode: Episode, at: datetime) -> None:
        """To be told as well, unless its beginning was not: what nobody heard of, and is over, is
        no news for anybody; the log has it."""
        for news in self._news:
            if news.episode.key == episode.key and not news.told:
                if news in self._being_told:
                    news.ended_at = at
                else:
                    self._news.remove(news)
                return
        self._add(_News(episode, told=True, ended_at=at))

    def _add(self, news: _News) -> None:
        self._news = [*self._news, news][-MOST_WAITING:]
        self._idle.clear()
        self._wake.set()

    async def _work(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._wake.wait()
            now = self._clock.now()
            self._news = [each for each in self._news if each.until is None or now < each.until]
            self._being_told = tuple(self._news)
            accepted = not self._being_told or await self._deliver(self._being_told)
            self._settle(accepted=accepted)
            if not self._news:
                self._wake.clear()
                self._idle.set()
            if accepted:
                pause = FIRST_PAUSE_SECONDS
            else:
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _settle(self, *, accepted: bool) -> None:
        """Strike out what was told, and what ended while it could not be."""
        for news in self._being_told:
            if not accepted:
                over = news.ended_at is not None and not news.told
            else:
                over = news.told or news.ended_at is None
                news.told = True
            if over and news in self._news:
                self._news.remove(news)
        self._being_told = ()

    async def _deliver(self, told: Sequence[_News]) -> bool:
        pieces = [Piece(news.episode, news.ended_at) for news in told]
        sending = asyncio.ensure_future(self._send(self._url, message(self._fleet, pieces)))
        try:
            if not (await asyncio.wait([sending], timeout=DEADLINE_SECONDS))[0]:
                self._edge(f"no answer within {DEADLINE_SECONDS:.0f} s")
                await asyncio.wait([sending], timeout=GIVEN_UP_SECONDS)
            if not sending.done():
                return False
            error = refusal(sending)
            self._edge(error)
            return not error
        finally:
            sending.cancel()

    def _edge(self, error: str) -> None:
        """Say when it begins to fail and when it works again; never where it is."""
        if error and not self._failing:
            log.warning("failing", subject=self._name, error=error)
        elif self._failing and not error:
            log.info("recovered", subject=self._name)
        self._failing = bool(error)


def refusal(sent: asyncio.Future[bool]) -> str:
    """Why a message that is no longer under way was not taken; empty when it was."""
    error = sent.exception()
    if error is not None:
        return type(error).__name__  # its text may hold the address
    return "" if sent.result() else "not accepted, or not reached"


async def send_by_apprise(url: str, message: Message) -> bool:
    """Whether the channel took it.

    In a thread of its own: the library's calls block, and its asynchronous ones use threads that
    keep the process from ending until the last service has answered.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()

    def finish(accepted: bool) -> None:
        if not done.done():
            done.set_result(accepted)

    def work() -> None:
        accepted = False
        try:
            accepted = _call(url, message)
        except Exception:  # noqa: S110 - its text may hold the address; it was not accepted
            pass
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, accepted)

    threading.Thread(target=work, name="notification", daemon=True).start()
    return await done


def _call(url: str, message: Message) -> bool:
    sender = open_channel(url)
    if sender is None:
        return False
    title, body, kind = message.title, message.body, message.kind
    return bool(sender.notify(title=title, body=body, notify_type=kind, body_format="text"))
