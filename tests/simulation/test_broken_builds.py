"""A build that lacks one safeguard is found out: else the simulation would prove nothing."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from gpu_autoscaler.domain.errors import LeaseLost
from gpu_autoscaler.domain.memory import Kept
from gpu_autoscaler.domain.model import PROVISIONING_TAG
from gpu_autoscaler.policy import budgets, cleanup, launch
from gpu_autoscaler.runtime.execute import LiveExecutor
from gpu_autoscaler.runtime.observe import Observer
from gpu_autoscaler.scaleway import servers
from gpu_autoscaler.scaleway.wire import create_body
from gpu_autoscaler.store.lease import LeasedStore
from tests.simulation.test_seeds import played

WITHIN_SEEDS = 200

Patch = Callable[[pytest.MonkeyPatch], None]


def without_the_last_look(patch: pytest.MonkeyPatch) -> None:
    async def stop(executor: Any, effect: Any, orders: Any) -> str:
        await executor._scaleway.stop(effect.instance)
        return ""

    patch.setattr(LiveExecutor, "_stop", stop)


def without_the_lease(patch: pytest.MonkeyPatch) -> None:
    """Whoever reads the memory believes that it leads, whatever its writes come to."""
    load, save = LeasedStore.load, LeasedStore.save

    async def load_and_lead(store: LeasedStore) -> Kept:
        return Kept((await load(store)).memory)

    async def save_or_not(store: LeasedStore, memory: Any) -> None:
        with suppress(LeaseLost):
            await save(store, memory)

    patch.setattr(LeasedStore, "load", load_and_lead)
    patch.setattr(LeasedStore, "save", save_or_not)
    patch.setattr(LeasedStore, "lease_left", lambda store: float("inf"))


def missing_is_gone(patch: pytest.MonkeyPatch) -> None:
    async def gone(observer: Any, zone: str, instances: Any, memory: Any) -> frozenset[str]:
        listed = {instance.id for instance in instances}
        known = {k for k, m in memory.instances.items() if m.last_seen.zone == zone}
        return frozenset(known - listed)

    patch.setattr(Observer, "_gone", gone)


def without_the_volume_sweep(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cleanup, "sweep_volumes", lambda fleet: {})


def without_the_maximum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(launch, "_limit", lambda fleet, queue: None)


def without_budgets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budgets, "held", lambda *_: {})


def without_the_phase_tag(patch: pytest.MonkeyPatch) -> None:
    def body(*args: Any, **options: Any) -> Mapping[str, Any]:
        made = dict(create_body(*args, **options))
        made["tags"] = [tag for tag in made["tags"] if tag != PROVISIONING_TAG]
        return made

    patch.setattr(servers, "create_body", body)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (without_the_last_look, "is powered off without"),
        (without_the_lease, "the lease is"),
        (missing_is_gone, ""),
        (without_the_volume_sweep, "never go"),
        (without_the_maximum, "allowed are|in all"),
        (without_budgets, "EUR were spent by"),
        (without_the_phase_tag, ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_found_within_200_seeds(breaks: Patch, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch)
    for seed in range(WITHIN_SEEDS):
        result = played(seed)
        if result.violation is not None:
            print(f"seed {seed}: {result.violation}")
            assert re.search(told, str(result.violation))
            return
    pytest.fail(f"not found in {WITHIN_SEEDS} seeds")
