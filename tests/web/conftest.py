"""The browser, the small API it talks to, and somebody who looks."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.web.page_api import Api, Served
from tests.web.page_viewer import CHROMIUM, QUIET, Viewer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("no browser: install Debian's chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def daemon(api: Api) -> Iterator[Served]:
    with Served(api) as served:
        yield served


@pytest.fixture
def viewer(browser: Browser, daemon: Served) -> Iterator[Viewer]:
    someone = Viewer(browser, daemon, viewport={"width": 1440, "height": 900})
    expect(someone.page.locator("#fleet")).to_have_text("research")
    yield someone
    someone.close()
    assert someone.complaints == []
