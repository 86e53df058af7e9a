"""The weekly message."""

from datetime import timedelta

import pytest

from gpu_autoscaler.domain.ledger import Page, Stretch, TaskRecord
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.report import By, Report, report
from gpu_autoscaler.reports.weekly import weekly
from tests.reports.books import START, at, page, ran, stretch

WEEK = timedelta(days=7)


def of(told: Page, week: int = 0) -> Report:
    period = Period(START + week * WEEK, START + (week + 1) * WEEK)
    return report([told], (), period, period.until, By.TASK)


def a_week(*, before: float = 0, rate: float | None = 3.0, user: str = "Ada") -> Page:
    lines: list[Stretch | TaskRecord] = [
        stretch(S.STARTING, at(0), at(0.5), rate=rate),
        stretch(S.RUNNING_TASK, at(0.5), at(10.5), tasks={"t1": "x"}, rate=rate),
        stretch(S.RUNNING_TASK, at(10.5), at(12.5), tasks={"t2": "evaluate"}, rate=rate),
        stretch(S.IDLE, at(12.5), at(13.5), rate=rate),
        stretch(S.STOPPED, at(13.5), at(37.5), storage=0.02),
        ran("t1", at(0.5), at(10.5), name="train\nresnet\x1b[31m", user=user),
    ]
    if before:
        lines.append(stretch(S.IDLE, at(-before), at(0)))
    return page(*lines)


def test_ten_lines_say_it_all() -> None:
    told = a_week(before=10)
    assert weekly(of(told), of(told, -1), "research") == (
        "research: 40.98 EUR, 2026-11-02 to 2026-11-08",
        "Spent 40.98 EUR, 37% more than the week before (30.00).\n"
        "Busy with 2 tasks: 36.00 EUR, 12.0 h\n"
        "Booting: 1.50 EUR, 0.5 h\n"
        "Idle: 3.00 EUR, 1.0 h\n"
        "Stopped, the volume alone: 0.48 EUR, 24.0 h\n"
        "Always on (1 x H100-1-80G) would have cost 504.00 EUR: 463.02 EUR saved (92%).\n"
        "Most used by (EUR): 30.00 Ada; 6.00 (unknown).\n"
        "Dearest tasks (EUR): 30.00 train resnet [31m; 6.00 evaluate.",
    )


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (0, "after nothing the week before."),
        (13.66, "as the week before (40.98)."),
        (20, "32% less than the week before (60.00)."),
    ],
)
def test_against_the_week_before(before: float, said: str) -> None:
    told = a_week(before=before)
    _, body = weekly(of(told), of(told, -1), "research")
    assert body.splitlines()[0] == f"Spent 40.98 EUR, {said}"


def test_a_week_without_machines_is_two_lines() -> None:
    title, body = weekly(of(page()), of(page(), -1), "research")
    assert title == "research: 0.00 EUR, 2026-11-02 to 2026-11-08"
    assert body == "Spent 0.00 EUR, as the week before.\nNo machine was there."


def test_what_is_unusual_is_noted_and_bounded() -> None:
    problems = tuple(f"2026-11-02.jsonl:{n}: not counted" for n in range(8))
    told = Page(START.date(), a_week(rate=None).stretches, (), problems)
    _, body = weekly(of(told), of(told, -1), "research")
    assert "Note: 13.5 h of H100-1-80G had no known price and are counted without it" in body
    assert "Note: 2026-11-02.jsonl:1: not counted" in body
    assert body.endswith("... and 6 more such notes.")


def test_a_long_name_is_cut() -> None:
    told = a_week(user="A" * 500)
    _, body = weekly(of(told), of(told, -1), "research")
    assert max(len(line) for line in body.splitlines()) < 200


def test_what_always_on_machines_would_have_saved_is_said_too() -> None:
    told = page(
        stretch(S.RUNNING_TASK, at(0), at(1)),
        stretch(S.IDLE, at(0), at(160), server="s2"),
        stretch(S.IDLE, at(0), at(160), server="s3"),
    )
    _, body = weekly(of(told), of(told, -1), "research")
    assert "would have cost 504.00 EUR: 459.00 EUR less than was spent." in body
