"""When the weekly report is due: once for each week, by whoever acts, also across restarts."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gpu_autoscaler.config.models import Config
from gpu_autoscaler.config.services import WeeklyReportConfig
from gpu_autoscaler.domain.episodes import Episode, EpisodeKind, Severity
from gpu_autoscaler.domain.memory import Memory

WEEK = timedelta(days=7)

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def look(memory: Memory, config: Config, now: datetime) -> tuple[date | None, tuple[Episode, ...]]:
    """The day up to which all has been told then; and the event of a report that is due.

    It is about the seven days (UTC) before the day of the event. After a pause of weeks the last
    one alone is told. Who begins to report has nothing to tell of the time before.
    """
    wanted = config.weekly_report
    if wanted.day == "never" or not config.notifications:
        return None, ()
    moment = last_moment(wanted, now)
    day, told = moment.date(), memory.weekly_told
    if told is None or told > now.date() + WEEK:  # a clock that ran ahead must not end it
        return day, ()
    if day <= told:
        return told, ()
    about = f"{day - WEEK} to {day - timedelta(days=1)}"
    text = f"what {about} (UTC) has cost"
    kind = EpisodeKind.WEEKLY_REPORT
    return day, (Episode(kind, about, moment, text, Severity.INFO),)


def last_moment(wanted: WeeklyReportConfig, now: datetime) -> datetime:
    """The last one (UTC) of those that are configured; `now` counts. An hour that the clocks skip
    is the one after it, one that comes twice the first."""
    zone, weekday = ZoneInfo(wanted.timezone), _DAYS.index(wanted.day)
    local = now.astimezone(zone).date()
    day = local - timedelta(days=(local.weekday() - weekday) % 7)
    moment = _at(day, wanted.hour, zone)
    return moment if moment <= now else _at(day - WEEK, wanted.hour, zone)


def _at(day: date, hour: int, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(hour), zone).astimezone(UTC)
