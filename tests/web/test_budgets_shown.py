"""Budgets, where people and Prometheus look."""

import pytest

from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.metrics import Metrics
from gpu_autoscaler.web.status import status
from tests.policy.worlds import QUEUE, Story, config, registered
from tests.web.cycles import series


def test_a_budget_is_shown_with_what_is_spent_of_it() -> None:
    day = [{"eur": 3, "per": "day"}]
    story = Story(config({"budgets": day}, budgets=[{"eur": 1200, "per": "week"}]))
    story.prices = {"H100-1-80G": 6.0}
    story.has(registered("m1"))
    story.report("m1")
    for _ in range(61):
        story.report("m1")
        made = story.cycle()
    cycle = Cycle(story.now, story.world(), made, story.config)
    fleet, queue = status(cycle).budgets
    assert (fleet.queue, fleet.per, fleet.eur, fleet.holds) == ("", "week", 1200, False)
    assert (queue.queue, queue.per, queue.eur, queue.holds) == (QUEUE, "day", 3, True)
    assert fleet.spent_eur == queue.spent_eur >= 3
    assert fleet.projected_eur > queue.projected_eur > queue.spent_eur
    metrics = Metrics()
    metrics.cycled(cycle)
    assert series(metrics, "budget_euros") == {("week", ""): 1200, ("day", QUEUE): 3}
    shares = series(metrics, "budget_spent_ratio")
    assert shares["day", QUEUE] == pytest.approx(400 * shares["week", ""])
    assert shares["day", QUEUE] >= 1
