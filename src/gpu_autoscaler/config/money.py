"""Settings about money: prices that the API does not tell, and budgets. Euros, without tax."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gpu_autoscaler.config.base import Settings
from gpu_autoscaler.config.fields import Duration
from gpu_autoscaler.config.units import format_duration

MIN_BILLING_UNIT = timedelta(seconds=1)
MAX_BILLING_UNIT = timedelta(hours=1)
"""Scaleway once billed most machines so."""


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Of euros; nothing is an amount, too."""

Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Share = Annotated[float, Field(gt=0, lt=100, allow_inf_nan=False)]


class PricesConfig(Settings):
    """What Scaleway's API does not say about money. Euros, without tax."""

    volume_eur_per_gb_hour: Amount = 0.000118
    """Of a root volume: 8.6 cents per GB and month. An assumption: look at your invoice."""
    address_eur_per_hour: Amount = 0.004
    """Of the public address that a machine has while it is on (Scaleway's price of 2025)."""
    billing_unit: Duration = timedelta(minutes=1)
    """A power-on is billed in whole ones."""

    @field_validator("billing_unit")
    @classmethod
    def _longer_than_nothing(cls, unit: timedelta) -> timedelta:
        if not MIN_BILLING_UNIT <= unit <= MAX_BILLING_UNIT:
            bounds = map(format_duration, (MIN_BILLING_UNIT, MAX_BILLING_UNIT))
            raise ValueError(" to ".join(bounds) + " is allowed")
        return unit


class BudgetConfig(Settings):
    """What a day, a week or a month may cost. Euros, without tax; periods begin at midnight UTC."""

    eur: float = Field(gt=0, allow_inf_nan=False)
    per: Literal["day", "week", "month"]
    alert_at: tuple[Share, ...] = (80,)
    """Percent of it at which people are told; they are told at the cap as well."""
    at_cap: Literal["block", "alert"] = "block"
    """Nothing is launched and no task pulled until the next period; or people are told alone."""


def one_for_each_period(budgets: tuple[BudgetConfig, ...]) -> tuple[BudgetConfig, ...]:
    """The same. Raises ValueError when two are for one period."""
    periods = [budget.per for budget in budgets]
    if len(set(periods)) < len(periods):
        raise ValueError("two budgets for the same period: the smaller one alone would count")
    return budgets
