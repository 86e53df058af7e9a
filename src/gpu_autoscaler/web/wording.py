"""What a notification says."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity


@dataclass(frozen=True, slots=True)
class Piece:
    """A beginning, or, with `ended_at`, an end."""

    episode: Episode
    ended_at: datetime | None = None

    @property
    def headline(self) -> str:
        """What it is about, in a few words."""
        episode = self.episode
        what = f"{episode.kind.replace('_', ' ')}: {episode.subject}"
        return what if self.ended_at is None else f"over: {what}"

    @property
    def body(self) -> str:
        """What is wrong, since when, and what to do; or how long it lasted."""
        episode = self.episode
        since = f"{episode.since:%Y-%m-%d %H:%M} UTC"
        if self.ended_at is not None:
            # a clock that was set back meanwhile makes it nothing, not less
            lasted = format_duration(max(self.ended_at - episode.since, timedelta(0)))
            return f"Over after {lasted} (since {since})."
        if episode.kind is EpisodeKind.WEEKLY_REPORT:
            return episode.text
        text = episode.text[:1].upper() + episode.text[1:]
        return f"{text}.\nSince {since}; severity: {episode.severity}."


@dataclass(frozen=True, slots=True)
class Message:
    """As a channel gets it."""

    title: str
    body: str
    kind: str = "info"
    """As apprise tells them apart: info, success, warning or failure."""


_KINDS = {
    Severity.INFO: "info",
    Severity.WARNING: "warning",
    Severity.ERROR: "failure",
}


def message(fleet: str, pieces: Sequence[Piece]) -> Message:
    """One message for all of them, titled after the worst."""
    worst = max(pieces, key=_weight)
    title = f"[{fleet}] {worst.headline}"
    kind = "success" if worst.ended_at is not None else _KINDS[worst.episode.severity]
    if len(pieces) == 1:
        return Message(title, worst.body, kind)
    body = "\n\n".join(f"{piece.headline}\n{piece.body}" for piece in pieces)
    return Message(f"{title}, and {len(pieces) - 1} more", body, kind)


def _weight(piece: Piece) -> int:
    return -1 if piece.ended_at is not None else list(Severity).index(piece.episode.severity)
