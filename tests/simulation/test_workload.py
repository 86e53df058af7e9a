"""Drawn workloads look like what they stand for; traces are read, or refused with a reason."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_autoscaler.config.units import format_duration
from gpu_autoscaler.runtime.clock import VIRTUAL_START, Dice, seeded
from gpu_autoscaler.simulation.workload import (
    BIG,
    QUEUES,
    Submission,
    WorkloadError,
    dense,
    read_csv,
    thesis,
)

Draw = Callable[[Dice, float], tuple[Submission, ...]]

SEEDS = range(20)
HOUR = timedelta(hours=1)


def trace(directory: Path, text: str | bytes) -> Path:
    path = directory / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("draw", [thesis, dense])
@pytest.mark.parametrize(("seed", "other"), [(7, 8), ("7/a", "7/b")])
def test_the_same_seed_draws_the_same(draw: Draw, seed: int | str, other: int | str) -> None:
    assert draw(seeded(seed), 5) == draw(seeded(seed), 5)
    assert draw(seeded(seed), 5) != draw(seeded(other), 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_month_of_a_thesis(seed: int) -> None:
    tasks = thesis(seeded(seed), 30)
    assert 80 <= len(tasks) <= 120
    assert list(tasks) == sorted(tasks, key=lambda task: task.at)
    for task in tasks:
        moment = VIRTUAL_START + task.at
        assert moment.weekday() < 5, task
        assert 8 <= moment.hour < 18, task
        assert task.at <= timedelta(days=30)
        if task.outcome == "completed":
            assert 6 * HOUR <= task.duration <= 12 * HOUR, task
        else:
            assert timedelta(minutes=1) <= task.duration < 9 * HOUR, task
    failed = sum(task.outcome == "failed" for task in tasks)
    assert 0.04 < failed / len(tasks) < 0.09
    big = sum(task.queue == BIG for task in tasks)
    assert {task.queue for task in tasks} <= set(QUEUES)
    assert len(tasks) / 3 < big < len(tasks)


def test_a_sweep_is_a_handful_of_tasks_of_one_queue_within_minutes() -> None:
    sweeps: dict[str, list[Submission]] = {}
    for task in thesis(seeded(1), 30):
        sweeps.setdefault(task.name.partition(".")[0], []).append(task)
    assert len(sweeps) > 20
    for tasks in sweeps.values():
        assert 3 <= len(tasks) <= 5
        assert len({task.queue for task in tasks}) == 1
        assert tasks[-1].at - tasks[0].at <= timedelta(minutes=10)


@pytest.mark.parametrize("days", [0.02, 0.5, 1, 5.5, 12])
def test_nobody_submits_after_the_end(days: float) -> None:
    for seed in SEEDS:
        tasks = thesis(seeded(seed), days)
        assert len(tasks) >= 3
        assert all(timedelta(0) <= task.at <= timedelta(days=days) for task in tasks)


@pytest.mark.parametrize("seed", SEEDS)
def test_four_dense_hours(seed: int) -> None:
    tasks = dense(seeded(seed), 4)
    assert 10 <= len(tasks) <= 20
    assert list(tasks) == sorted(tasks, key=lambda task: task.at)
    assert tasks[-1].at <= 0.6 * 4 * HOUR
    assert len({task.queue for task in tasks}) in (2, 3)
    lasted = [task.duration for task in tasks if task.outcome == "completed"]
    assert all(timedelta(minutes=1) <= duration <= HOUR for duration in lasted)
    crashed = [task.duration for task in tasks if task.outcome == "failed"]
    assert crashed
    assert all(duration <= timedelta(seconds=30) for duration in crashed)
    gaps = [after.at - task.at for task, after in itertools.pairwise(tasks)]
    assert sum(gap >= timedelta(minutes=15) for gap in gaps) == 3, "quiet between four bursts"
    assert sum(gap <= timedelta(minutes=3) for gap in gaps) == len(tasks) - 4


LINE = "2017-10-09 07:01:55,66.0,small"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            f"timestamp,duration,queue\n{LINE}\n2017-10-09 07:01:45,3600,big\n",
            [(0, "big", 3600), (10, "small", 66)],
            id="in any order, the first at 0",
        ),
        pytest.param(
            "cluster,time,gpus,duration\nq1,100.5,8,2h30m\nq2,101,1,0\n",
            [(0, "q1", 9000), (0.5, "q2", 0)],
            id="seconds, other names, other columns",
        ),
        pytest.param(
            "submitted_at,duration,queue\n"
            "2017-10-09T07:00:00Z,1,a\n2017-10-09T09:00:05+02:00,1,b\n2017-10-09T07:00:09,1,c\n",
            [(0, "a", 1), (5, "b", 1), (9, "c", 1)],
            id="offsets; UTC without one",
        ),
        pytest.param(
            "\ufeffTimestamp, Duration ,QUEUE\r\n0,90s,a b\r\n\r\n",
            [(0, "a b", 90)],
            id="byte order mark, CRLF, blanks and capitals",
        ),
        pytest.param(
            'timestamp,note,duration,queue,cluster\n5,"two\nlines",1,q,c\n',
            [(0, "q", 1)],
            id="quotes; a queue before a cluster",
        ),
    ],
)
@pytest.mark.usefixtures("far_east")
def test_traces(tmp_path: Path, text: str, expected: list[tuple[float, str, float]]) -> None:
    found = read_csv(trace(tmp_path, text))
    seconds = [(t.at.total_seconds(), t.queue, t.duration.total_seconds()) for t in found]
    assert seconds == expected
    assert {task.outcome for task in found} == {"completed"}


HEADER = "timestamp,duration,queue\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", [": empty", "timestamp or submitted_at or time, duration, queue or cluster"]),
        (HEADER, [": no tasks; add a line"]),
        ("when,duration,queue\n", [":1: no column timestamp or submitted_at or time, only when,"]),
        ("time;duration;queue\n", [":1: no column timestamp", "only time;duration;queue"]),
        ("time,queue\n", [":1: no column duration, only time, queue;"]),
        (f"{HEADER}0,1,q\n0,x,q\n", [":3: duration: 'x' is not a duration: write it like 90s"]),
        (f"{HEADER}0,-1,q\n", [":2: duration: '-1' is negative"]),
        (f"{HEADER}0,nan,q\n", [":2: duration: 'nan' is not a duration"]),
        (f"{HEADER}0,1e300,q\n", [":2: duration: '1e300' is longer than ten years"]),
        (f"{HEADER}0,9999d,q\n", [":2: duration: '9999d' is longer than 3650d"]),
        (f"{HEADER}soon,1,q\n", [":2: timestamp: 'soon' is not a time: write it like 2017-"]),
        (f"{HEADER}09/10/2017,1,q\n", [":2: timestamp: '09/10/2017' is not a time"]),
        (f"{HEADER}{'x' * 99},1,q\n", [":2: timestamp: '" + "x" * 40 + "' is"]),
        (f"{HEADER}0,1, \n", [":2: no queue; fill it in"]),
        (f"{HEADER}0\n", [":2: no duration; fill it in"]),
        (f"{HEADER}0,1,q\n{LINE}\n", [":3: submitted more than ten years after the first"]),
        (f"{HEADER}0,1,{'q' * 200_000}\n", [":2: field larger than"]),
        (b"\xff\xfe\x00", [": not UTF-8 text"]),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, text: str | bytes, told: list[str]
) -> None:
    path = trace(tmp_path, text)
    with pytest.raises(WorkloadError) as caught:
        read_csv(path)
    assert str(caught.value).startswith(str(path))
    for words in told:
        assert words in str(caught.value)


@pytest.mark.parametrize(("name", "told"), [("none.csv", "No such file"), ("", "Is a directory")])
def test_a_file_that_is_none(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(WorkloadError, match=f"{told}.*; give the path of a CSV file"):
        read_csv(tmp_path / name)


SUBMISSIONS = st.builds(
    Submission,
    at=st.timedeltas(timedelta(0), timedelta(days=365)).map(
        lambda at: timedelta(seconds=round(at.total_seconds()))
    ),
    queue=st.text("abcß -,\"'\n", min_size=1).filter(lambda name: name == name.strip() != ""),
    duration=st.integers(0, 10**8).map(lambda seconds: timedelta(seconds=seconds)),
)


@given(st.lists(SUBMISSIONS, min_size=1, max_size=10), st.booleans(), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[Submission], dates: bool, units: bool
) -> None:
    def row(task: Submission) -> str:
        at = str(VIRTUAL_START + task.at) if dates else f"{task.at.total_seconds():f}"
        length = format_duration(task.duration) if units else f"{task.duration.total_seconds():f}"
        quoted = task.queue.replace('"', '""')
        return f'{at},{length},"{quoted}"\n'

    path = trace(tmp_path_factory.mktemp("trace"), HEADER + "".join(map(row, tasks)))
    first = min(task.at for task in tasks)
    expected = sorted(tasks, key=lambda task: task.at)
    assert [(t.at, t.queue, t.duration) for t in read_csv(path)] == [
        (task.at - first, task.queue, task.duration) for task in expected
    ]
