"""The page of costs in a real browser, filled with two weeks of a small team."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.web.costs_scene import costs_of_two_weeks
from tests.web.page_api import Api, Json, Served
from tests.web.page_viewer import Viewer

pytestmark = pytest.mark.e2e


@pytest.fixture
def spent(browser: Browser, daemon: Served, api: Api) -> Iterator[Viewer]:
    api.costs = costs_of_two_weeks
    api.status["budgets"] = [
        {"name": "150.00 EUR a day for the fleet", "queue": "", "per": "day", "eur": 150.0,
         "spent_eur": 161.5, "projected_eur": 180.0, "until": "2026-11-29T00:00:00Z", "holds": True}
    ]  # fmt: skip
    someone = Viewer(browser, daemon, viewport={"width": 1280, "height": 900})
    yield someone
    someone.close()
    assert someone.complaints == []


def test_one_looks_at_two_weeks(spent: Viewer, tmp_path: Path) -> None:
    page = spent.page
    expect(page.locator("#budgets")).to_contain_text(
        "Budget of 150.00 EUR a day for the fleet: 161.50 spent, 180.00 by its end if all goes on"
        "; used up: nothing is launched, what runs finishes"
    )
    page.get_by_role("link", name="Costs").click()
    expect(page.locator("#tasks tfoot")).to_contain_text("Total")
    total = costs_of_two_weeks("day")["total"]["eur"]
    expect(page.locator("#headline")).to_contain_text(f"Spent{total:,.2f} EUR")
    expect(page.locator("#tasks tfoot")).to_contain_text(f"{total:,.2f}")
    chart = page.get_by_role("img", name=re.compile("^Euros a day from 2026-11-14 to 2026-11-28"))
    expect(chart).to_be_visible()
    assert chart.locator("rect.fill-busy").count() == 14
    expect(chart.locator(".budget-name")).to_have_text("budget 150.00 a day")
    # names are text, overhead is apart
    users = page.locator("#shares section").filter(has_text="By user")
    expect(users).to_contain_text("<b>Cy</b> & sons")
    expect(users).to_contain_text("overhead")
    assert page.locator("#shares b").count() == 0
    page.locator("#days summary").click()
    expect(page.locator("#days tbody tr")).to_have_count(15)
    expect(page.locator("#days tfoot")).to_contain_text(f"{total:,.2f}")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    page.locator("#days summary").click()
    page.set_viewport_size({"width": 360, "height": 800})
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("link", name="Last month").click()
    expect(page.locator("nav [aria-current]")).to_have_text("Last month")
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#fleet")).to_have_text("research")


def test_nothing_spent_and_nothing_to_read_are_said(spent: Viewer, api: Api) -> None:
    page = spent.page
    nothing: Json = {"rows": [], "overhead": [], "always_on": None}
    api.costs = lambda by: costs_of_two_weeks(by) | nothing | {"warnings": ["a line was cut short"]}
    page.goto(page.url + "costs")
    expect(page.locator("#notes")).to_contain_text("a line was cut short")
    api.costs = lambda by: {}
    page.goto(page.url + "?since=nonsense")
    expect(page.locator("#trouble")).to_have_text("since: write today")
    spent.complaints = [each for each in spent.complaints if "400 (Bad Request)" not in each]
