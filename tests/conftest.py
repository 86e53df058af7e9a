"""Which tests may run apart: those of one file stay together, unless they say otherwise."""

import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's own time zone is not UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "FAR-12")
        time.tzset()
        yield
    time.tzset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files share costly fixtures; tests marked `spread` are long, and keep all cores busy."""
    for item in items:
        if item.get_closest_marker("spread") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
