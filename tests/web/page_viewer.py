"""A person in front of the status page, in a real browser."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page

from tests.web.page_api import NOW, Served

CHROMIUM = Path("/usr/bin/chromium")

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Viewer:
    """A person in front of the page: what it shows, what it complains of, and time passing."""

    def __init__(self, browser: Browser, daemon: Served, **options: Any) -> None:
        self._context = browser.new_context(timezone_id="Europe/Paris", **options)
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.clock.install(time=NOW)
        self.page.goto(daemon.url)

    def _said(self, message: Any) -> None:
        if message.type in {"error", "warning"}:  # a violated content policy is an error too
            self.complaints.append(message.text)

    def row(self, section: str, name: str) -> Locator:
        """The row of a queue or an instance."""
        heading = self.page.get_by_role("heading", name=name, exact=True)
        return self.page.locator(f"#{section} li").filter(has=heading)

    def button(self, label: str) -> Locator:
        return self.page.get_by_role("button", name=label, exact=True)

    def wait(self, seconds: float) -> None:
        """Let so much time pass for the page's timers; the test does not wait for it."""
        self.page.clock.run_for(int(seconds * 1000))

    def ask_again(self) -> None:
        """Past the next ask of the daemon."""
        with self.page.expect_response("**/api/v1/status"):
            self.wait(5.1)

    def focused(self) -> str:
        found: str = self.page.evaluate("document.activeElement.textContent.trim()")
        return found

    def close(self) -> None:
        self._context.close()
