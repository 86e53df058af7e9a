"""A story whose cycles are told to metrics, and what Prometheus would read of them."""

from dataclasses import dataclass, field
from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from gpu_autoscaler.domain.decisions import World
from gpu_autoscaler.runtime.loop import Cycle
from gpu_autoscaler.web.metrics import Metrics
from tests.policy.worlds import START, Story, seconds

INTERVAL = seconds(30)
Series = dict[tuple[str, ...], float]


@dataclass
class Told(Story):
    """Each step is one cycle of a loop that took two seconds."""

    metrics: Metrics = field(default_factory=Metrics)
    seen: World | None = None

    def world(self) -> World:
        self.seen = super().world()
        return self.seen

    def step(
        self, after: timedelta = INTERVAL, *, acted: bool = True, reports: bool = True
    ) -> Cycle:
        made = self.cycle(after, reports=reports)
        assert self.seen is not None
        ended = (self.now - START).total_seconds()
        cycle = Cycle(self.now, self.seen, made, self.config, acted, ended - 2, ended)
        self.metrics.cycled(cycle)
        return cycle

    def series(self, name: str) -> Series:
        """Samples of this name by the values of their labels, in the order of the labels' names."""
        return series(self.metrics, name)

    def value(self, name: str, *labels: str) -> float | None:
        """One sample; None where there is none."""
        return self.series(name).get(labels)


def series(metrics: Metrics, name: str) -> Series:
    body, _ = metrics.exposition()
    return {
        tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == f"gpu_autoscaler_{name}"
    }
