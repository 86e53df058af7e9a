"""The ledger's lines: what is written is read again, and a bad line costs only itself."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.store.pages import parse, render

DAY = date(2026, 11, 3)
NINE = datetime(2026, 11, 3, 9, tzinfo=UTC)
PLACE = "state/ledger/2026-11-03.jsonl"
STRETCH = Stretch(
    server_id="5a0c",
    instance="h100-1-80g-4ac1f0",
    queue="H100-1-80G",
    commercial_type="H100-1-80G",
    zone="fr-par-2",
    state=S.RUNNING_TASK,
    since=NINE,
    until=NINE + timedelta(hours=1),
    powered_on_at=NINE - timedelta(minutes=4),
    eur_per_hour=2.8665,
    storage_eur_per_hour=0.0194,
    tasks={"t1": 'train, "résnet"\n'},
)
TASK = TaskRecord(
    id="t1",
    name="train",
    project="Vision/ImageNet",
    user="Ada",
    queue="H100-1-80G",
    instance=STRETCH.instance,
    status="completed",
    started_at=NINE,
    ended_at=NINE + timedelta(hours=1, seconds=4.25),
)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
AMOUNTS = st.floats(0, 1e4)


@st.composite
def _stretches(draw: st.DrawFn) -> Stretch:
    since = draw(TIMES)
    return Stretch(
        server_id=draw(st.text()),
        instance=draw(st.text()),
        queue=draw(st.text()),
        commercial_type=draw(st.text()),
        zone=draw(st.text()),
        state=draw(st.sampled_from(S)),
        since=since,
        until=since + draw(st.timedeltas(timedelta(0), timedelta(days=1))),
        powered_on_at=draw(st.none() | TIMES),
        eur_per_hour=draw(st.none() | AMOUNTS),
        storage_eur_per_hour=draw(AMOUNTS),
        tasks=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        rounding_seconds=draw(AMOUNTS),
    )


TASKS = st.builds(TaskRecord, started_at=st.none() | TIMES, ended_at=TIMES)


@given(st.lists(_stretches(), max_size=4), st.lists(TASKS, max_size=4))
def test_what_is_written_is_read_again(stretches: list[Stretch], tasks: list[TaskRecord]) -> None:
    page = Page(DAY, tuple(stretches), tuple(tasks))
    content = render(page)
    assert content.count(b"\n") == len(stretches) + len(tasks)
    assert parse(DAY, content, PLACE) == page


def test_nothing_is_an_empty_page() -> None:
    assert parse(DAY, b"", PLACE) == Page(DAY) == parse(DAY, b"\n \r\n", PLACE)


@given(st.integers(1, len(render(Page(DAY, (STRETCH,)))) - 2))
def test_a_line_cut_short_anywhere_is_named_and_costs_only_itself(end: int) -> None:
    content = render(Page(DAY, (STRETCH,), (TASK,))) + render(Page(DAY, (STRETCH,)))[:end]
    assert parse(DAY, content, PLACE) == Page(
        DAY,
        (STRETCH,),
        (TASK,),
        (f"{PLACE}:3: not counted, the line cannot be read (cut short)",),
    )


def line(**changes: object) -> bytes:
    return json.dumps(json.loads(render(Page(DAY, (STRETCH,)))) | changes).encode() + b"\n"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\x00\xff{garbage\n", "Invalid JSON"),
        (b"[1]\n", "Input should be an object"),
        (b'{"kind": "stretch"}\n', "server_id: Field required"),
        (line(kind="volume"), "'volume'"),
        (line(state="dreaming"), "state: Input should be 'provisioning'"),
        (line(since="2026-11-03T09:00:00"), "a time without a zone"),
        (line(until="2026-11-03T08:59:59Z"), "it ends before it begins"),
        (line(eur_per_hour=-1), "an amount below zero"),
        (line(storage_eur_per_hour=float("nan")), "an amount below zero or without end"),
        (line(rounding_seconds=float("inf")), "an amount below zero or without end"),
    ],
)
def test_a_bad_line_among_good_ones_is_named(bad: bytes, why: str) -> None:
    content = render(Page(DAY, (STRETCH,))) + bad + render(Page(DAY, (), (TASK,)))
    page = parse(DAY, content, PLACE)
    assert (page.stretches, page.tasks) == ((STRETCH,), (TASK,))
    (problem,) = page.problems
    assert problem.startswith(f"{PLACE}:2: not counted")
    assert why in problem


def test_fields_of_a_newer_version_are_ignored() -> None:
    page = parse(DAY, line(gpu_hours=3, tasks={}), PLACE)
    assert page == Page(DAY, (replace(STRETCH, tasks={}),))
