"""`cost`: from the ledger's files to what people, spreadsheets and programs read."""

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from gpu_autoscaler import cli
from gpu_autoscaler.commands import cost as costing
from gpu_autoscaler.commands.cost import Sources, reckon
from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.domain.memory import Kept, Memory
from gpu_autoscaler.reports.report import By
from gpu_autoscaler.runtime.clock import SystemClock, run_virtual
from gpu_autoscaler.store.directory import ReadOnlyStore
from gpu_autoscaler.store.pages import render
from tests.commands.site import ENV, YAML
from tests.policy.worlds import known
from tests.reports.books import PERIOD, START, at, ran, stretch

NOW = at(24 * 20)


class Then(SystemClock):
    """It is the 22nd of November."""

    def now(self) -> datetime:
        return NOW


@dataclass
class Desk:
    """A directory with a configuration and a ledger, and no credentials anywhere."""

    directory: Path
    env: dict[str, str] = field(default_factory=dict)

    def write(self, *records: Stretch | TaskRecord) -> None:
        """Each on the page of its day."""
        days = defaultdict[date, list[Stretch | TaskRecord]](list)
        for each in records:
            moment = each.until if isinstance(each, Stretch) else each.ended_at
            days[(moment - timedelta(microseconds=1)).date()].append(each)
        for day, theirs in days.items():
            stretches = tuple(each for each in theirs if isinstance(each, Stretch))
            tasks = tuple(each for each in theirs if isinstance(each, TaskRecord))
            self.file(day).parent.mkdir(parents=True, exist_ok=True)
            self.file(day).write_bytes(render(Page(day, stretches, tasks)))

    def file(self, day: date) -> Path:
        return self.directory / "state" / "ledger" / f"{day}.jsonl"

    def cost(self, *options: str) -> Result:
        env = {"HOME": str(self.directory), **self.env}
        words = ["cost", "--config", str(self.directory / "queues.yaml"), *options]
        return CliRunner().invoke(cli.app, words, env=env)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in ENV:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "SystemClock", Then)
    monkeypatch.setattr(cli, "out", Console(width=130))
    known = {"state": tmp_path / "state", "project": "11111111-2222-3333-4444-555555555555"}
    text = YAML.format(**known, queue="gpu", type="H100-1-80G", zone="fr-par-2")
    (tmp_path / "queues.yaml").write_text(text)
    return Desk(tmp_path)


def two_days(desk: Desk) -> None:
    """Ada's task over midnight, Bo's after it."""
    desk.write(
        stretch(S.STARTING, at(20), at(21)),
        stretch(S.RUNNING_TASK, at(21), at(24), tasks={"t1": "train"}),
        stretch(S.RUNNING_TASK, at(24), at(26), tasks={"t1": "train"}),
        stretch(S.RUNNING_TASK, at(26), at(27), tasks={"t2": "[b]=evil()\x1b[2J"}),
        stretch(S.IDLE, at(27), at(28)),
        stretch(S.STOPPED, at(28), at(38), storage=0.02),
        ran("t1", at(21), at(26)),
        ran("t2", at(26), at(27), name="[b]=evil()\x1b[2J", user="Bo", project="speech"),
    )


def columns(line: str) -> list[str]:
    return [each.strip() for each in line.strip("│ \n").split("│")]


def test_a_team_lead_sees_it_at_first_sight(desk: Desk) -> None:
    two_days(desk)
    result = desk.cost()
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:4] == [
        "test, 2026-11-01 to 2026-11-30, so far (UTC)",
        "Spent 24.20 EUR, 26% of it overhead: busy 18.00, boot 3.00, idle 3.00, stopped 0.20.",
        "On for 8.0 h: busy 6.0, boot 1.0, idle 1.0 (2.0 h above the floor of active hours); "
        "stopped 10.0 h.",
        "Saved 1,355.80 EUR (98%) against always on: 1,380.00 EUR for 460.0 h of 1 x H100-1-80G.",
    ]
    rows = [columns(line) for line in result.output.splitlines() if line.startswith("│")]
    assert rows == [
        ["gpu", "24.20", "100%", "6.0", "1.0", "1.0", "10.0", "26%", "2"],
        ["Total", "24.20", "100%", "6.0", "1.0", "1.0", "10.0", "26%", "2"],
    ]


def test_by_task_overhead_stands_apart_and_names_are_only_names(desk: Desk) -> None:
    two_days(desk)
    result = desk.cost("--by", "task", "--since", "2026-11-02..2026-11-03")
    assert "\x1b" not in result.output
    rows = [columns(line) for line in result.output.splitlines() if line.startswith("│")]
    assert rows == [
        ["train t1", "vision", "Ada", "15.00", "62%", "5.0"],
        ["[b]=evil() [2J", "speech", "Bo", "3.00", "12%", "1.0"],
        ["Overhead: booting", "", "", "3.00", "12%", "1.0"],
        ["Overhead: idle", "", "", "3.00", "12%", "1.0"],
        ["Overhead: stopped, disk only", "", "", "0.20", "1%", "10.0"],
        ["Total", "", "", "24.20", "100%", "18.0"],
    ]


def test_a_table_has_an_end_and_csv_has_all(desk: Desk) -> None:
    desk.write(
        *(
            stretch(S.RUNNING_TASK, at(n), at(n + 1), tasks={f"t{n}": f"run {n}"}, rate=1 + n / 7)
            for n in range(40)
        )
    )
    rows = [
        columns(line)
        for line in desk.cost("--by", "task").output.splitlines()
        if line.startswith("│")
    ]
    assert len(rows) == 25 + 2
    assert rows[0][:3] == ["run 39", "-", "-"]
    assert rows[-2] == ["(15 others)", "", "", "30.00", "20%", "15.0"]
    assert rows[-1][3] == "151.43"
    assert sum(float(row[3]) for row in rows[:-1]) == pytest.approx(151.43)
    told = csv.DictReader(io.StringIO(desk.cost("--by", "task", "--format", "csv").stdout))
    assert len(list(told)) == 40


def test_csv_is_utf8_with_line_ends_of_its_own(desk: Desk) -> None:
    desk.write(stretch(S.RUNNING_TASK, at(0), at(1), tasks={"t1": "=résumé"}))
    content = desk.cost("--by", "task", "--format", "csv").stdout_bytes
    assert content.startswith(b'\xef\xbb\xbf"by","key","name"')
    assert '"\'=résumé"'.encode() in content
    assert content.count(b"\r\n") == 2 == content.count(b"\n")


def test_json_is_one_object(desk: Desk) -> None:
    two_days(desk)
    found = json.loads(desk.cost("--by", "user", "--format", "json").stdout)
    assert {row["name"]: row["eur"] for row in found["rows"]} == {"Ada": 15.0, "Bo": 3.0}
    assert (found["fleet"], found["total"]["eur"]) == ("test", 24.2)


def test_saved_is_against_the_size_that_is_asked_for(desk: Desk) -> None:
    two_days(desk)
    found = json.loads(desk.cost("--always-on", "3", "--format", "json").stdout)
    assert found["always_on"]["machines"] == {"H100-1-80G": 3}
    assert found["always_on"]["eur"] == 3 * 1380


@pytest.mark.parametrize("options", [(), ("--since", "today"), ("--since", "2024")])
def test_without_a_ledger_it_says_so_kindly(desk: Desk, options: tuple[str, ...]) -> None:
    result = desk.cost(*options)
    assert result.exit_code == 0
    assert "Spent 0.00 EUR" in result.output
    assert "Nothing was used in this time, as far as the ledger knows" in result.output
    found = json.loads(desk.cost("--format", "json", *options).stdout)
    assert (found["total"]["eur"], found["rows"]) == (0.0, [])


def test_a_page_cut_short_is_a_note_with_its_place(desk: Desk) -> None:
    two_days(desk)
    file = desk.file(START.date())
    file.write_bytes(file.read_bytes() + b'{"kind": "stret')
    result = desk.cost()
    assert "Spent 24.20 EUR" in result.output
    said = " ".join(result.output.split())
    assert f"{file.name}:3: not counted, the line cannot be read (cut short)" in said
    assert "note:" not in desk.cost("--since", "2026-11-03").output


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "yesterday"),
        ("--since", "2026-12"),
        ("--by", "cat"),
        ("--format", "xml"),
        ("--always-on", "0"),
    ],
)
def test_bad_usage_is_two_with_what_is_allowed(desk: Desk, options: tuple[str, ...]) -> None:
    result = desk.cost(*options)
    assert result.exit_code == 2
    assert options[0] in result.output
    assert "Traceback" not in result.output


def test_what_cannot_be_read_is_a_sentence(desk: Desk) -> None:
    desk.file(START.date()).mkdir(parents=True)
    result = desk.cost()
    assert result.exit_code == 1
    assert "2026-11-02.jsonl: cannot be read (Is a directory)" in " ".join(result.output.split())


def test_object_storage_needs_its_key_and_says_which(desk: Desk) -> None:
    config = desk.directory / "queues.yaml"
    config.write_text(config.read_text() + "store: {bucket: my-bucket}\n")
    result = desk.cost()
    assert result.exit_code == 1
    assert "GPU_AUTOSCALER_SCALEWAY_SECRET_KEY" in result.output


def test_a_wrong_configuration_is_named(desk: Desk) -> None:
    config = desk.directory / "queues.yaml"
    config.write_text(config.read_text() + "budjet: 3\n")
    result = desk.cost()
    assert result.exit_code == 1
    assert "budjet" in result.output


class Shelf:
    """Remembers which days were asked for."""

    def __init__(self, broken: date | None = None) -> None:
        self.days: list[date] = []
        self._broken = broken

    async def read(self, day: date) -> Page:
        self.days.append(day)
        if day == self._broken:
            raise StoreError("my-bucket: does not answer")
        return Page(day)


def test_days_around_the_period_are_read_each_once(tmp_path: Path) -> None:
    shelf = Shelf()
    sources = Sources("test", shelf, ReadOnlyStore(tmp_path))
    run_virtual(reckon(sources, PERIOD, Then().now(), By.DAY, None))
    first = START.date() - costing.LOOK_BACK
    # until the 6th, and fourteen days, in which tasks end that ran then
    assert sorted(shelf.days) == [first + timedelta(days=n) for n in range(7 + 4 + 14 + 1)]


def test_what_lasts_is_in_the_memory_and_counts(tmp_path: Path) -> None:
    lasting = stretch(S.IDLE, at(1), at(3))

    class Remembering(ReadOnlyStore):
        async def load(self) -> Kept:
            one = replace(known("m1"), stretch=lasting)
            return Kept(Memory(instances={"s1": one}, planned_at=at(3)))

    sources = Sources("test", Shelf(), Remembering(tmp_path))
    assert run_virtual(reckon(sources, PERIOD, Then().now(), By.DAY, None)).total.eur == 6.0


def test_a_ledger_that_does_not_answer_is_raised(tmp_path: Path) -> None:
    sources = Sources("test", Shelf(broken=START.date()), ReadOnlyStore(tmp_path))
    with pytest.raises(StoreError, match="does not answer"):
        run_virtual(reckon(sources, PERIOD, Then().now(), By.DAY, None))
