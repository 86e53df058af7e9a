"""What all tests share: a machine in another time zone, and which of them may run apart."""

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
    """Those of one file stay together, for they share costly fixtures; what is marked `spread` is
    long, and keeps all cores busy."""
    for item in items:
        if item.get_closest_marker("spread") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
