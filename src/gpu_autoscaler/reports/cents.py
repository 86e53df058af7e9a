"""Euros as they are shown: whole cents, that add up.

Rounded one by one, rows would add up to a cent or two less or more than their total. So the total
is rounded, and its cents are shared out by the largest remainder: no shown figure is off by a cent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_autoscaler.domain.ledger import Use
from gpu_autoscaler.reports.pieces import UNITS_PER_EUR, apportion
from gpu_autoscaler.reports.report import WORK, Report

_UNITS_PER_CENT = UNITS_PER_EUR // 100


@dataclass(frozen=True, slots=True)
class Cents:
    """Of one report; `rows` and `overhead` add up to `total`, and so do `uses`."""

    total: int
    uses: Mapping[Use, int]
    rows: Sequence[int]
    overhead: Sequence[int]


def cents(report: Report) -> Cents:
    """In the order of the report."""
    total = (report.total.total_cost + _UNITS_PER_CENT // 2) // _UNITS_PER_CENT
    shares = apportion(total, [report.total.cost[use] for use in Use])
    uses = dict(zip(Use, shares if report.total.total_cost else [0] * len(Use), strict=True))
    whole = uses[Use.BUSY] if report.by in WORK else total
    rows = apportion(whole, [row.spent.total_cost for row in report.rows])
    return Cents(total, uses, rows, [uses[Use(row.key)] for row in report.overhead])


def eur(count: int) -> str:
    """Cents as euros, with both decimals."""
    return f"{count / 100:,.2f}"
