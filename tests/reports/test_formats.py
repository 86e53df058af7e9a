"""CSV for a spreadsheet and JSON for programs."""

import csv
import io
import json

import pytest

from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.reports.formats import COLUMNS, as_csv, as_dict
from gpu_autoscaler.reports.report import By, Report, report
from tests.reports.books import PERIOD, TYPE, at, busy_server, page, ran, stretch


def of(*records: object, by: By = By.TASK) -> Report:
    return report([page(*records)], (), PERIOD, PERIOD.until, by)  # type: ignore[arg-type]


def a_task_named(name: str) -> Report:
    return of(
        stretch(S.RUNNING_TASK, at(0), at(1), tasks={"t1": name}),
        ran("t1", at(0), at(1), name=name, project=name, user=name),
    )


def lines(found: Report) -> list[dict[str, str]]:
    text = as_csv(found)
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def test_the_rows_of_the_csv_add_up_and_have_a_decimal_point() -> None:
    told = busy_server()
    found = of(*told.stretches, *told.tasks)
    rows = lines(found)
    assert tuple(rows[0]) == COLUMNS
    assert [(row["by"], row["name"]) for row in rows] == [
        ("task", "train t1"),
        ("overhead", "boot"),
        ("overhead", "idle"),
        ("overhead", "stopped"),
    ]
    assert [row["eur"] for row in rows] == ["3.0", "0.3", "1.53", "0.168"]
    assert sum(float(row["eur"]) for row in rows) == pytest.approx(found.total.eur)
    for row in rows:
        parts = (row[f"eur_{use}"] for use in ("busy", "boot", "idle", "stopped"))
        assert sum(map(float, parts)) == pytest.approx(float(row["eur"]))


@pytest.mark.parametrize(
    "name",
    ["=cmd()", "+1+1", "-2", "@SUM(A1)", " =1", "\t=1", "\r=1", "\n=1", "＝1", "|=1\n,=2"],
)
def test_no_name_is_a_formula(name: str) -> None:
    (row,) = lines(a_task_named(name))
    risky = name[0] != "|"
    for column in ("name", "project", "user"):
        assert row[column] == (f"'{name}" if risky else name)


@pytest.mark.parametrize("name", ['a "b", c;\nd', "résnet 50%", "t=1", "'", "a\x00b"])
def test_other_names_are_as_they_are_and_in_quotes(name: str) -> None:
    found = a_task_named(name)
    (row,) = lines(found)
    assert row["name"] == name
    assert '"{}"'.format(name.replace('"', '""')) in as_csv(found)


def test_json_has_it_all_in_plain_values() -> None:
    told = busy_server()
    found = as_dict(of(*told.stretches, *told.tasks), "research")
    assert json.loads(json.dumps(found)) == found
    (row,) = found.pop("rows")
    hours = {"busy": 1.0, "boot": 0.0, "idle": 0.0, "stopped": 0.0}
    assert row == {
        "key": "t1",
        "name": "train t1",
        "project": "vision",
        "user": "Ada",
        "tasks": 1,
        "eur": 3.0,
        "eur_by_use": {**hours, "busy": 3.0},
        "hours": hours,
    }
    assert [each["key"] for each in found.pop("overhead")] == ["boot", "idle", "stopped"]
    assert found == {
        "fleet": "research",
        "since": "2026-11-02T00:00:00+00:00",
        "until": "2026-11-06T00:00:00+00:00",
        "by": "task",
        "total": {
            "tasks": 1,
            "eur": 4.998,
            "eur_by_use": {"busy": 3.0, "boot": 0.3, "idle": 1.53, "stopped": 0.168},
            "hours": {"busy": 1.0, "boot": 0.1, "idle": 0.51, "stopped": 8.4},
        },
        "overhead_share": 0.39976,
        "hours_above_floor": 0.61,
        "always_on": {
            "machines": {TYPE: 1},
            "hours": 96.0,
            "eur": 288.0,
            "saved_eur": 283.002,
            "saved_share": 0.982646,
        },
        "unpriced_hours": {},
        "warnings": [],
    }


def test_nothing_is_zeros() -> None:
    found = as_dict(of(), "research")
    assert (found["rows"], found["overhead"], found["always_on"]) == ([], [], None)
    assert (found["total"]["eur"], found["overhead_share"]) == (0.0, 0.0)
    assert len(as_csv(of()).splitlines()) == 1
