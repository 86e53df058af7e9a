"""Who submits what and when in a simulation: drawn from a generator, or read from a trace."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from gpu_autoscaler.config.units import MAX_DURATION, parse_duration
from gpu_autoscaler.runtime.clock import Dice

T = TypeVar("T")

Outcome = Literal["completed", "failed"]

BIG, SMALL, CLUSTER = "H100-2-80G", "H100-1-80G", "H100-SXM-4-80G"
QUEUES = (BIG, SMALL, CLUSTER)
"""The queues that `thesis` and `dense` submit to, named for the machines they need."""

TASKS_PER_MONTH = 100
MONTH_DAYS = 30
SWEEP_TASKS = (3, 5)
"""People try a handful of variants at once."""
WORKDAY = timedelta(hours=9)
"""People submit in this time after the start of each day, which is at 8 o'clock."""
SWEEP_QUEUES = {BIG: 0.7, SMALL: 0.2, CLUSTER: 0.1}
SWEEP_LASTS = timedelta(minutes=10)
"""Between the first and the last task of a sweep."""
TASK_HOURS = (6.0, 12.0)
FAILING = (0.05, 0.08)
"""Between these shares of the tasks fail: half of them early, half midway."""
EARLY_SECONDS = (60.0, 600.0)
MIDWAY = (0.2, 0.7)

BURST_TASKS = (3, 5)
BURST_LASTS = timedelta(minutes=3)
BURST_JITTER = 0.3
"""A burst begins within this share of its slot; the rest of the slot is quiet."""
SUBMITTING = 0.6
"""In this share of a dense run people submit; after it only work and clean-up are left."""
DENSE_SECONDS = (60.0, 3600.0)
CRASHING = (0.1, 0.2)
CRASH_SECONDS = (2.0, 30.0)

TIME_COLUMNS = ("timestamp", "submitted_at", "time")
DURATION_COLUMNS = ("duration",)
QUEUE_COLUMNS = ("queue", "cluster")
SHOWN_CHARACTERS = 40
"""Of a bad value, in an error."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Somebody enqueues a task."""

    at: timedelta
    """After the simulation's start."""
    queue: str
    duration: timedelta
    """From its start to its end, also when it fails."""
    outcome: Outcome = "completed"
    name: str = "task"


class WorkloadError(ValueError):
    """A trace that cannot be used; says where and what to do."""


def thesis(random: Dice, days: float) -> tuple[Submission, ...]:
    """Students before a deadline: small sweeps of long tasks, on weekdays in working hours.

    Counts on a start on a Monday at 8 o'clock (`runtime.clock.VIRTUAL_START`); `days` > 0.
    """
    end = timedelta(days=days)
    mornings = [timedelta(days=day) for day in range(math.ceil(days)) if day % 7 < 5]
    sweeps = round(days * TASKS_PER_MONTH / MONTH_DAYS / (sum(SWEEP_TASKS) / 2))

    # a sweep a day as long as the days suffice: who runs five machines waits for their results
    rounds = math.ceil(max(1, sweeps) / len(mornings))
    days_of = [day for _ in range(rounds) for day in random.sample(mornings, len(mornings))]

    def begin(morning: timedelta) -> timedelta:
        until = min(morning + WORKDAY, end) - min(SWEEP_LASTS, end / 2)
        return _between(random, morning, max(morning, until))

    found = []
    for sweep, first in enumerate(sorted(map(begin, days_of[: max(1, sweeps)]))):
        (queue,) = random.choices(tuple(SWEEP_QUEUES), tuple(SWEEP_QUEUES.values()))
        for number in range(random.randint(*SWEEP_TASKS)):
            at = min(_between(random, first, first + SWEEP_LASTS), end)
            duration = _seconds(random.uniform(*TASK_HOURS) * 3600)
            found.append(Submission(at, queue, duration, name=f"sweep {sweep + 1}.{number + 1}"))

    def broken(whole: timedelta) -> timedelta:
        if random.uniform(0, 1) < 0.5:
            return _seconds(random.uniform(*EARLY_SECONDS))
        return _seconds(whole.total_seconds() * random.uniform(*MIDWAY))

    return _with_failures(random, found, FAILING, broken)


def dense(random: Dice, hours: float) -> tuple[Submission, ...]:
    """Much in little time, for runs with injected faults: bursts of short tasks, then quiet.

    About a burst per hour (never fewer than two), all in the first part of the time; between
    them nothing comes for long enough that machines idle out. `hours` > 0.
    """
    bursts = max(2, round(hours))
    slot = timedelta(hours=hours) * SUBMITTING / bursts
    queues = random.sample(QUEUES, random.randint(2, len(QUEUES)))
    found = []
    for burst in range(bursts):
        begin = _between(random, slot * burst, slot * (burst + BURST_JITTER))
        lasts = min(BURST_LASTS, slot * BURST_JITTER)
        for number in range(random.randint(*BURST_TASKS)):
            queue = queues[random.randint(0, len(queues) - 1)]
            # each order of magnitude is as likely as the other: many short tasks, a few long
            duration = math.exp(random.uniform(*map(math.log, DENSE_SECONDS)))
            at = _between(random, begin, begin + lasts)
            name = f"burst {burst + 1}.{number + 1}"
            found.append(Submission(at, queue, _seconds(duration), name=name))

    def crashed(_: timedelta) -> timedelta:
        return _seconds(random.uniform(*CRASH_SECONDS))

    return _with_failures(random, found, CRASHING, crashed)


def read_csv(path: Path) -> tuple[Submission, ...]:
    """A trace: a header, then one line per task, in any order; the first one is at 0.

    Columns, by name: the submission (`timestamp`, `submitted_at` or `time`: ISO 8601, UTC unless
    it says otherwise, or seconds since anything), the `duration` (seconds, or like `2h30m`) and
    the `queue` (or `cluster`). Others are ignored. Raises WorkloadError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(str(path), csv.reader(file))
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror}; give the path of a CSV file") from None
    except UnicodeDecodeError:
        raise WorkloadError(f"{path}: not UTF-8 text; give a CSV file") from None


def _between(random: Dice, earliest: timedelta, latest: timedelta) -> timedelta:
    return _seconds(random.uniform(earliest.total_seconds(), latest.total_seconds()))


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def _with_failures(
    random: Dice,
    submissions: Sequence[Submission],
    shares: tuple[float, float],
    shorten: Callable[[timedelta], timedelta],
) -> tuple[Submission, ...]:
    """Let a share between `shares` of them fail; returns all in the order of their times."""
    count = round(len(submissions) * random.uniform(*shares))
    failing = frozenset(random.sample(range(len(submissions)), count))
    found = [
        Submission(each.at, each.queue, shorten(each.duration), "failed", each.name)
        if number in failing
        else each
        for number, each in enumerate(submissions)
    ]
    return tuple(sorted(found, key=lambda each: each.at))


class _Rows(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __iter__(self) -> "_Rows": ...

    def __next__(self) -> list[str]: ...


def _read(path: str, rows: _Rows) -> tuple[Submission, ...]:
    try:
        header = next(rows, None)
        if header is None:
            raise WorkloadError(f"{path}: empty; {_expected()}")
        places = _columns(f"{path}:{rows.line_num}", header)
        found = [_row(path, rows.line_num, places, row) for row in rows if row]
    except csv.Error as error:
        raise WorkloadError(f"{path}:{rows.line_num}: {error}; give a CSV file") from None
    if not found:
        raise WorkloadError(f"{path}: no tasks; add a line for each below the header")
    found.sort(key=lambda each: each[0])
    first = found[0][0]
    last, line = found[-1][0], found[-1][1]
    if last - first > MAX_DURATION.total_seconds():
        raise WorkloadError(
            f"{path}:{line}: submitted more than ten years after the first; "
            "write all times either as dates or as seconds"
        )
    return tuple(
        Submission(timedelta(seconds=at - first), queue, duration, name=f"line {line}")
        for at, line, queue, duration in found
    )


def _expected() -> str:
    names = (TIME_COLUMNS, DURATION_COLUMNS, QUEUE_COLUMNS)
    return "write a header with the columns " + ", ".join(" or ".join(each) for each in names)


def _columns(place: str, header: list[str]) -> tuple[tuple[int, str], ...]:
    """Index and name of the time's, the duration's and the queue's column."""
    present = [name.strip().lower() for name in header]
    found = []
    for names in (TIME_COLUMNS, DURATION_COLUMNS, QUEUE_COLUMNS):
        name = next((name for name in names if name in present), None)
        if name is None:
            missing, there = " or ".join(names), ", ".join(header)
            raise WorkloadError(f"{place}: no column {missing}, only {there}; {_expected()}")
        found.append((present.index(name), name))
    return tuple(found)


def _row(
    path: str, line: int, columns: tuple[tuple[int, str], ...], row: list[str]
) -> tuple[float, int, str, timedelta]:
    """Seconds since some moment, the line, the queue, the duration."""
    texts = []
    for index, name in columns:
        if index >= len(row) or not row[index].strip():
            raise WorkloadError(f"{path}:{line}: no {name}; fill it in, or remove the line")
        texts.append(row[index].strip())

    def read(column: int, parse: Callable[[str], T]) -> T:
        try:
            return parse(texts[column])
        except ValueError as error:
            place, text = f"{path}:{line}: {columns[column][1]}", texts[column][:SHOWN_CHARACTERS]
            raise WorkloadError(f"{place}: {text!r} is {error}") from None

    return read(0, _moment), line, texts[2], read(1, _duration)


def _moment(text: str) -> float:
    number = _number(text)
    if number is not None:
        return number
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not a time: write it like 2017-10-09 07:01:55, or as seconds") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _duration(text: str) -> timedelta:
    number = _number(text)
    if number is None:
        return parse_duration(text)
    if number < 0:
        raise ValueError("negative: write how long the task took")
    if number > MAX_DURATION.total_seconds():
        raise ValueError("longer than ten years: write seconds")
    return timedelta(seconds=number)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
