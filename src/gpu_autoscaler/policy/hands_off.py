"""What is never touched: protected, locked, kept by a person, or in a state nobody knows."""

from datetime import UTC, datetime

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.domain.memory import InstanceMemory
from gpu_autoscaler.domain.model import KEEP_TAG, Instance, ServerState


def why_hands_off(instance: Instance, known: InstanceMemory, config: Config, now: datetime) -> str:
    """Why it may not be touched now, for people; empty when it may."""
    if instance.protected:
        return "it is protected at Scaleway"
    if instance.state is ServerState.LOCKED:
        return "Scaleway locked it"
    if instance.state is ServerState.UNKNOWN:
        return f"its state is unknown to this version ({instance.state_detail})"
    until = kept_until(known, config)
    if until is not None and now < until:
        return f"it is kept until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return ""


def keep_seen(known: InstanceMemory, instance: Instance, now: datetime) -> datetime | None:
    """When its `keep` tag was first seen; None without one."""
    return (known.keep_seen_at or now) if instance.kept else None


def kept_until(known: InstanceMemory, config: Config) -> datetime | None:
    """When its `keep` tag ends; None without one. A time that cannot be read counts as none."""
    if known.keep_seen_at is None:
        return None
    try:
        until = datetime.fromisoformat(known.last_seen.tag(KEEP_TAG) or "")
    except ValueError:
        return known.keep_seen_at + config.keep
    return until if until.tzinfo is not None else until.replace(tzinfo=UTC)
