"""The status page of a running demo in a real browser: a day of a small team, and a person."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.support import TOOLS
from tests.web.conftest import browser
from tests.web.page_viewer import CHROMIUM

__all__ = ["browser"]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]

SPEED = 600
"""Ten minutes in a second: the first task waits after some seconds, and ends within a minute."""
PATIENCE_MS = 120_000


@pytest.fixture
def demo() -> Iterator[str]:
    """Its address."""
    command = [str(TOOLS / "gpu-autoscaler"), "demo", "--no-browser", "--speed", str(SPEED)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    try:
        assert running.stdout is not None
        said = next(line for line in running.stdout if "http://" in line)
        found = re.search(r"http://\S+", said)
        assert found is not None
        yield found[0]
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context.new_page()
    context.close()


def row(page: Page, section: str, name: str) -> Locator:
    return page.locator(f"#{section} li").filter(
        has=page.get_by_role("heading", name=name, exact=True)
    )


def test_a_person_watches_a_day_and_pauses_a_queue(demo: str, page: Page, tmp_path: Path) -> None:
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.goto(demo)
    # somebody enqueues; a machine boots for it, works, idles, and is stopped
    expect(page.locator("#decisions")).to_contain_text("waiting in H100-2-80G: creating one")
    machine = page.locator("#instances li").filter(has_text="busy").first
    expect(machine).to_be_visible()
    name = machine.get_by_role("heading").inner_text()
    machine.get_by_role("button", name="Why?").click()
    why = page.locator("#why")
    expect(why).to_contain_text("never stopped while a task runs")
    expect(why).to_contain_text("booting")
    page.keyboard.press("Escape")
    expect(why).to_be_hidden()
    expect(page.locator("#decisions")).to_contain_text("stop h100")
    expect(page.locator("#instances")).to_contain_text("stopped")
    # a person pauses a queue, and resumes it
    queue = row(page, "queues", "H100-1-80G")
    for word, said in (("Pause", "is paused"), ("Resume", "is resumed")):
        queue.locator("button", has_text=word).click()
        page.locator("#confirm button.yes").click()
        expect(page.locator("#result")).to_contain_text(f"H100-1-80G {said}")
    expect(page.locator("#decisions")).to_contain_text("resume H100-1-80G")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 360, "height": 800})
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert complaints == []
    assert name
