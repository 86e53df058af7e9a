"""What a period cost: examples to reckon by hand, and what holds for every ledger."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_autoscaler.domain.ledger import Page, Use
from gpu_autoscaler.domain.lifecycle import InstanceState as S
from gpu_autoscaler.reports.cents import cents, eur
from gpu_autoscaler.reports.period import Period
from gpu_autoscaler.reports.pieces import UNITS_PER_EUR, apportion
from gpu_autoscaler.reports.report import UNKNOWN, By, Report, report
from gpu_autoscaler.reports.timeline import untangled
from tests.reports.books import (
    DAYS,
    MOMENTS,
    PERIOD,
    TYPE,
    at,
    busy_server,
    cost_of,
    ledgers,
    page,
    ran,
    stretch,
)

NOW = at(24 * DAYS)


def of(told: Page, by: By = By.TASK, period: Period = PERIOD, **options: int) -> Report:
    return report([told], (), period, NOW, by, **options)


def test_one_server_s_day_by_hand() -> None:
    found = of(busy_server())
    (row,), total = found.rows, found.total
    assert (row.key, row.name, row.project, row.user) == ("t1", "train t1", "vision", "Ada")
    assert (row.spent.eur, row.spent.hours_of(Use.BUSY), row.tasks) == (3.0, 1.0, 1)
    # idle: half an hour, and 36 seconds of the begun minute
    overhead = {each.key: (each.spent.eur, each.spent.total_cost) for each in found.overhead}
    assert {name: round(cost, 9) for name, (cost, _) in overhead.items()} == {
        "boot": 0.3,
        "idle": 1.53,
        "stopped": 0.168,
    }
    assert total.eur == pytest.approx(4.998)
    assert total.hours_of(Use.BOOT, Use.IDLE) == pytest.approx(0.61) == total.hours_above_floor
    assert total.hours_of(Use.STOPPED) == pytest.approx(8.4)
    assert total.overhead_share == pytest.approx(1.998 / 4.998)
    assert found.tasks == 1


def test_always_on_is_the_most_machines_that_worked_at_once() -> None:
    told = page(
        stretch(S.RUNNING_TASK, at(0), at(2), tasks={"t1": ""}),
        stretch(S.RUNNING_TASK, at(1), at(3), tasks={"t2": ""}, server="s2"),
        stretch(S.RUNNING_TASK, at(3), at(4), tasks={"t3": ""}, server="s3"),
        stretch(S.IDLE, at(0), at(4), server="s4"),
        stretch(S.RUNNING_TASK, at(0), at(1), server="s5", kind="L4", rate=0.79, storage=0.01),
    )
    on = of(told).always_on
    assert on is not None
    assert on.machines == {TYPE: 2, "L4": 1}
    assert on.hours == 96
    assert on.eur == pytest.approx(96 * (2 * 3 + 0.8))
    assert on.saved_eur == pytest.approx(on.eur - 9 * 3 - 0.8)
    assert on.saved_share == pytest.approx(on.saved_eur / on.eur)
    five = of(told, always_on=5).always_on
    assert five is not None
    assert (five.machines, five.eur) == ({TYPE: 5}, 96 * 15)


def test_always_on_counts_from_the_ledger_s_beginning_to_now() -> None:
    told = page(stretch(S.RUNNING_TASK, at(30), at(32)))
    on = report([told], (), PERIOD, at(40), By.QUEUE).always_on
    assert on is not None
    assert on.hours == 10
    earlier = page(stretch(S.STOPPED, at(-50), at(-49)), *told.stretches)
    on = report([earlier], (), PERIOD, at(40), By.QUEUE).always_on
    assert on is not None
    assert on.hours == 40


def test_always_on_costs_what_the_type_cost_last_in_the_period() -> None:
    told = page(
        stretch(S.IDLE, at(-2), at(-1), server="s3", rate=9.0),
        stretch(S.IDLE, at(3), at(4), server="s0", rate=2.0),
        stretch(S.RUNNING_TASK, at(0), at(2), rate=1.0),
        stretch(S.IDLE, at(4), at(5), server="s5", rate=None),
        stretch(S.IDLE, at(97), at(98), server="s2", rate=5.0),
    )
    on = of(told).always_on
    assert on is not None
    assert (on.hours, on.eur) == (96, 96 * 2.0)


def test_without_work_nothing_is_compared() -> None:
    assert of(page(stretch(S.IDLE, at(0), at(1)))).always_on is None
    assert of(page()).always_on is None


def test_a_task_without_a_record_keeps_its_name() -> None:
    told = page(
        stretch(S.RUNNING_TASK, at(0), at(2), tasks={"t1": "train"}),
        stretch(S.RUNNING_TASK, at(2), at(3), tasks={"t2": ""}),
        stretch(S.RUNNING_TASK, at(3), at(3.5)),
    )
    named = [(row.key, row.name, row.project, row.user) for row in of(told).rows]
    assert named == [("t1", "train", "", ""), ("t2", "t2", "", ""), ("", UNKNOWN, "", "")]
    (row,) = of(told, By.USER).rows
    assert (row.key, row.tasks, row.spent.eur) == (UNKNOWN, 2, 10.5)


def test_a_record_without_a_user_has_its_project() -> None:
    told = page(
        stretch(S.RUNNING_TASK, at(0), at(2), tasks={"t1": "train"}),
        ran("t1", at(0), at(2), user=""),
    )
    assert [row.key for row in of(told, By.USER).rows] == [UNKNOWN]
    assert [row.key for row in of(told, By.PROJECT).rows] == ["vision"]


def test_the_end_of_a_task_after_the_period_names_its_user() -> None:
    told = page(
        stretch(S.RUNNING_TASK, at(0), at(2), tasks={"t1": "train"}), ran("t1", at(0), at(50))
    )
    short = Period(at(0), at(2))
    assert [row.key for row in of(told, By.USER, short).rows] == ["Ada"]


@pytest.mark.parametrize(
    ("records", "hours"),
    [
        ([], {"t1": 1.0, "t2": 1.0}),  # equal parts
        ([ran("t1", at(0), at(0.5)), ran("t2", at(0.5), at(2))], {"t1": 0.5, "t2": 1.5}),
        ([ran("t1", at(0), at(0.5))], {"t1": 0.5, "t2": 1.5}),  # the other one has the rest
        ([ran("t1", at(0), at(2)), ran("t2", at(0), at(2))], {"t1": 1.0, "t2": 1.0}),  # both on it
        ([ran("t1", at(-5), at(0.5)), ran("t2", at(0.5), at(9))], {"t1": 0.5, "t2": 1.5}),
        ([ran("t1", None, at(0.5)), ran("t2", at(0.5), at(9))], {"t1": 0.5, "t2": 1.5}),
        ([ran("t1", at(8), at(9)), ran("t2", at(8), at(9))], {"t1": 1.0, "t2": 1.0}),  # nonsense
    ],
)
def test_a_stretch_of_two_tasks_is_shared_out(records: list[object], hours: object) -> None:
    told = page(stretch(S.RUNNING_TASK, at(0), at(2), tasks={"t1": "", "t2": ""}), *records)  # type: ignore[arg-type]
    assert {row.key: row.spent.hours_of(Use.BUSY) for row in of(told).rows} == hours


def test_three_tasks_of_which_one_is_known() -> None:
    names = {"t1": "", "t2": "", "t3": ""}
    told = page(stretch(S.RUNNING_TASK, at(0), at(2), tasks=names), ran("t1", at(0), at(0.5)))
    hours = {row.key: row.spent.hours_of(Use.BUSY) for row in of(told).rows}
    assert hours == {"t1": 0.5, "t2": 0.75, "t3": 0.75}


def test_what_is_billed_after_the_end_is_no_task_s_and_in_one_period() -> None:
    told = page(stretch(S.RUNNING_TASK, at(0), at(24), tasks={"t1": ""}, rounding=1800))
    first, second = (Period(at(24 * n), at(24 * n + 24)) for n in range(2))
    assert of(told, By.TASK, first).rows[0].spent.eur == 72.0
    assert of(told, By.TASK, first).total.hours_of(Use.IDLE) == 0.5
    assert [row.key for row in of(told, By.DAY).rows] == ["2026-11-02"]
    assert of(told, By.DAY, second).total.eur == 0.0


def test_days_are_utc_and_in_their_order() -> None:
    told = page(stretch(S.IDLE, at(30), at(49)), stretch(S.IDLE, at(1), at(2), server="s2"))
    rows = [(row.key, row.spent.eur) for row in of(told, By.DAY).rows]
    assert rows == [("2026-11-02", 3.0), ("2026-11-03", 54.0), ("2026-11-04", 3.0)]


def test_queues_and_types_hold_their_overhead() -> None:
    told = page(
        *busy_server().stretches,
        stretch(S.RUNNING_TASK, at(0), at(5), server="s2", queue="large", kind="H100-8"),
    )
    for by, names in ((By.QUEUE, ["large", "gpu"]), (By.TYPE, ["H100-8", TYPE])):
        found = of(told, by)
        assert [row.key for row in found.rows] == names
        assert not found.overhead
        assert found.rows[1].spent.eur == pytest.approx(4.998)


def test_an_unknown_price_is_said_with_its_hours() -> None:
    told = page(
        stretch(S.RUNNING_TASK, at(0), at(2.5), rate=None, storage=0.1, tasks={"t1": ""}),
        replace(stretch(S.STOPPED, at(3), at(9)), eur_per_hour=None),
        problems=("2026-11-02.jsonl:7: not counted",),
    )
    found = of(told)
    assert found.total.eur == pytest.approx(0.25)
    assert found.unpriced_hours == {TYPE: 2.5}
    assert found.warnings == [
        f"2.5 h of {TYPE} had no known price and are counted without it",
        "2026-11-02.jsonl:7: not counted",
    ]
    assert found.always_on is not None
    assert found.always_on.eur == 0


def test_what_lasts_counts_and_not_twice_when_it_is_written_too() -> None:
    told = stretch(S.IDLE, at(0), at(1))
    lasting = replace(told, until=at(2))
    for pages in ([page()], [page(told)], [page(lasting)]):
        assert report(pages, [lasting], PERIOD, NOW, By.DAY).total.eur == 6.0


def test_what_is_paid_for_is_never_called_stopped() -> None:
    assert stretch(S.DELETING, at(0), at(1)).use is Use.IDLE
    assert stretch(S.PROVISIONING, at(0), at(1)).use is Use.BOOT
    assert stretch(S.DELETING, at(0), at(1), on=None).use is Use.STOPPED
    assert stretch(S.STARTING, at(0), at(1), on=None).use is Use.STOPPED


def test_a_clock_set_back_over_a_month_s_end_counts_nothing_twice() -> None:
    edge = Period(at(24), at(48))
    told = page(
        stretch(S.RUNNING_TASK, at(23), at(24), tasks={"t1": ""}),
        stretch(S.RUNNING_TASK, at(24), at(24.5), tasks={"t1": ""}),
        stretch(S.RUNNING_TASK, at(23.75), at(24), tasks={"t1": ""}),
        stretch(S.IDLE, at(24), at(25)),
    )
    assert of(told, By.DAY).total.hours_of(Use.BUSY, Use.IDLE) == 2.0
    assert of(told, By.DAY, edge).total.hours_of(Use.BUSY, Use.IDLE) == 1.0


@settings(max_examples=60)
@given(ledgers(), st.sampled_from(By), st.randoms(use_true_random=False))
def test_tasks_and_overhead_are_what_the_instances_cost(told: Page, by: By, dice: object) -> None:
    found = of(told, by)
    rows = [*found.rows, *found.overhead]
    assert sum(row.spent.total_cost for row in rows) == found.total.total_cost
    instances = sum(cost_of(each) for each in untangled(told.stretches))
    assert found.total.total_cost == instances
    for use in Use:
        assert sum(row.spent.cost[use] for row in rows) == found.total.cost[use]
        assert sum(row.spent.microseconds[use] for row in rows) == (found.total.microseconds[use])
    again = [*told.stretches, *told.stretches[::2]]
    dice.shuffle(again)  # type: ignore[attr-defined]
    assert of(replace(told, stretches=tuple(again)), by).total == found.total


@settings(max_examples=40)
@given(ledgers(), MOMENTS, st.sampled_from(By))
def test_parts_of_a_period_add_up_to_it(told: Page, moment: object, by: By) -> None:
    assert isinstance(moment, type(PERIOD.since))
    parts = [Period(PERIOD.since, moment), Period(moment, PERIOD.until)]
    costs = [of(told, by, part).total.total_cost for part in parts]
    assert sum(costs) == of(told, by).total.total_cost


@settings(max_examples=40)
@given(ledgers(), st.sampled_from(By))
def test_shown_cents_add_up_and_none_is_off_by_one(told: Page, by: By) -> None:
    found = of(told, by)
    shown = cents(found)
    assert sum(shown.rows) + sum(shown.overhead) == shown.total == sum(shown.uses.values())
    assert abs(shown.total - Fraction(found.total.total_cost * 100, UNITS_PER_EUR)) <= 0.5
    for row, share in zip(found.rows, shown.rows, strict=True):
        # of the total, which is rounded itself
        assert abs(share - Fraction(row.spent.total_cost * 100, UNITS_PER_EUR)) < 2.5


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**20), min_size=1, max_size=9))
def test_apportioned_parts_add_up(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    if any(weights):
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - Fraction(total * weight, sum(weights))) < 1


def test_a_third_each_of_a_cent() -> None:
    hours = timedelta(hours=1)
    told = page(
        *(
            stretch(S.RUNNING_TASK, at(n), at(n) + hours, rate=0.01 / 3, tasks={f"t{n}": ""})
            for n in range(3)
        )
    )
    shown = cents(of(told))
    assert (shown.total, sorted(shown.rows)) == (1, [0, 0, 1])
    assert eur(123456) == "1,234.56"
