"""Tells people what is wrong: each episode once when it begins, and once when it is over.

What stood in the memory that a cycle began with has been told, by this daemon or by another one.
Whatever becomes of a channel, the loop is not delayed, and the other channels are not either.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from gpu_autoscaler.config.channels import scheme
from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.clock import Clock
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.channel import DEADLINE_SECONDS, Channel, Send, send_by_apprise

log = structlog.get_logger("gpu_autoscaler")

REPORT_DEADLINE_SECONDS = 120.0
REPORT_PAUSE_SECONDS = 600.0
REPORT_KEPT = timedelta(days=1)
"""A report that cannot be made, or that a channel does not take, for so long is not told."""

Weekly = Callable[[datetime], Awaitable[tuple[str, str]]]
"""What the seven days (UTC) before this day have cost: a headline, and text. Raises OSError."""


class Notifier:
    """Follows the cycles and tells every channel in the background; open it with `async with`."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        send: Send = send_by_apprise,
        weekly: Weekly | None = None,
    ) -> None:
        """Without `weekly` no report is told."""
        self._config, self._clock, self._send, self._weekly = config, clock, send, weekly
        self._reporting: set[asyncio.Task[None]] = set()
        self._channels: dict[str, Channel] = {}
        """By URL."""
        self._closing: set[asyncio.Task[None]] = set()
        self._acts: bool | None = None
        """Whether the last cycle did; None before the first one."""
        self._stalled: Episode | None = None

    async def __aenter__(self) -> "Notifier":
        self._use(self._config)
        return self

    async def __aexit__(self, *_: object) -> None:
        for reporting in self._reporting:
            reporting.cancel()
        await asyncio.gather(*self._reporting, return_exceptions=True)
        closing = (channel.close() for channel in self._channels.values())
        await asyncio.gather(*closing, *self._closing)

    def cycled(self, cycle: Cycle) -> None:
        """A cycle ended. Only one that acts knows what stands, but each says who acts."""
        self._use(cycle.config)
        if self._stalled is not None:
            self._ended(self._stalled, cycle.finished_at)
            self._stalled = None
        if self._acts is not None and cycle.acted is not self._acts:
            self._begun(_lease_changed(cycle))
        self._acts = cycle.acted
        if not cycle.acted:
            return
        before = {episode.key: episode for episode in cycle.stood_before}
        now = {episode.key: episode for episode in cycle.plan.memory.episodes}
        for key, episode in before.items():
            if key not in now:
                self._ended(episode, cycle.finished_at)
        for key, episode in now.items():
            if key not in before:
                self._begun(episode)

    def stalled(self, text: str) -> None:
        """The loop stands still, says who watches it; the next cycle ends that."""
        if self._stalled is None:
            now, kind = self._clock.now(), EpisodeKind.LOOP_STALLED
            self._stalled = Episode(kind, self._config.fleet, now, text, Severity.ERROR)
            self._begun(self._stalled)

    async def sent(self) -> None:
        """Wait until everything is told, for no longer than one try may take."""
        told = asyncio.ensure_future(self._told())
        await asyncio.wait([told], timeout=DEADLINE_SECONDS)
        told.cancel()

    async def _told(self) -> None:
        await asyncio.gather(*map(asyncio.shield, self._reporting))
        await asyncio.gather(*(channel.idle() for channel in self._channels.values()))

    async def _report(self, weekly: Weekly, event: Episode) -> None:
        """Make the report, in the background, and give it to the channels."""
        until, failing = self._clock.now() + REPORT_KEPT, False
        while self._clock.now() < until:
            try:
                async with asyncio.timeout(REPORT_DEADLINE_SECONDS):
                    headline, text = await weekly(event.since)
            except Exception as error:  # a defect of ours must not be silent either
                if not failing:
                    why = str(error) or type(error).__name__
                    log.warning("failing", subject="weekly report", error=why)
                failing = True
                await self._clock.sleep(REPORT_PAUSE_SECONDS)
            else:
                made = replace(event, subject=headline, text=text)
                for channel in self._of(made):
                    channel.begin(made, until)
                return
        log.error("given up", subject="weekly report", error="it could not be made for a day")

    def _begun(self, episode: Episode) -> None:
        if episode.kind is EpisodeKind.WEEKLY_REPORT:
            if self._weekly is not None:
                reporting = asyncio.create_task(self._report(self._weekly, episode))
                self._reporting.add(reporting)
                reporting.add_done_callback(self._reporting.discard)
            return
        for channel in self._of(episode):
            channel.begin(episode)

    def _ended(self, episode: Episode, at: datetime) -> None:
        for channel in self._of(episode) if episode.kind.recovers else ():
            channel.end(episode, at)

    def _of(self, episode: Episode) -> list[Channel]:
        """The channels that want to know it."""
        return [
            self._channels[each.url]
            for each in self._config.notifications
            if episode.severity.reaches(each.min_severity)
        ]

    def _use(self, config: Config) -> None:
        """Those of the configuration in force; what others were not told yet is dropped."""
        self._config = config
        urls = [each.url for each in config.notifications]
        for url in self._channels.keys() - set(urls):
            closing = asyncio.create_task(self._channels.pop(url).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        for number, url in enumerate(urls, start=1):
            if url not in self._channels:
                name = channel_name(number, url)
                self._channels[url] = Channel(name, url, config.fleet, self._clock, self._send)


def channel_name(number: int, url: str) -> str:
    """What a channel is called where its URL must not be shown."""
    return f"notifications {number} ({scheme(url)})"


def _lease_changed(cycle: Cycle) -> Episode:
    if cycle.acted:
        text = "this daemon holds the lease and acts from now on: nothing is to be done"
        severity = Severity.INFO
    else:
        text = (
            "this daemon has lost the lease and only observes: another one acts, or the store does "
            "not answer; its log says which"
        )
        severity = Severity.WARNING
    kind, fleet = EpisodeKind.LEASE_CHANGED, cycle.config.fleet
    return Episode(kind, fleet, cycle.finished_at, text, severity)
