"""The status page on phone and wall, light and dark, and with a thousand instances."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.web.page_api import PAGE, Api, Served
from tests.web.page_scenes import a_thousand, working_day
from tests.web.page_viewer import Viewer

pytestmark = pytest.mark.e2e


def test_a_thousand_instances_stay_quick(viewer: Viewer, api: Api) -> None:
    api.status = a_thousand()
    viewer.ask_again()
    expect(viewer.row("instances", "machine-0007")).to_be_visible()
    folded = viewer.page.locator("#queues .folded summary")
    expect(folded).to_have_text("100 more queues, where no task waits")
    expect(viewer.page.locator("#instances .folded summary")).to_have_text("400 stopped instances")
    assert viewer.page.locator("#instances li.instance").count() == 600  # folded ones are not made
    viewer.page.evaluate(
        """() => {
            window.longest = 0;
            new PerformanceObserver((list) => {
                for (const { duration } of list.getEntries())
                    window.longest = Math.max(window.longest, duration);
            }).observe({ type: "longtask", buffered: true });
        }"""
    )
    changed = a_thousand()
    changed["instances"][7]["because"] = "something else"
    changed["instances"][7]["task"] = None
    api.status = changed
    viewer.ask_again()
    expect(viewer.row("instances", "machine-0006")).to_be_visible()
    longest: float = viewer.page.evaluate("window.longest")
    assert longest < 2000  # ms to build it all on a busy machine
    viewer.page.locator("#instances .folded summary").click()
    expect(viewer.page.locator("#instances li.instance")).to_have_count(1000)


@pytest.mark.parametrize(
    ("look", "width", "height", "scheme"),
    [
        ("light", 1440, 900, "light"),
        ("dark", 1440, 900, "dark"),
        ("phone", 360, 800, "light"),
        ("wall", 3840, 2160, "dark"),
    ],
)
def test_it_fits_phone_and_wall(
    browser: Browser,
    api: Api,
    daemon: Served,
    tmp_path: Path,
    look: str,
    width: int,
    height: int,
    scheme: str,
) -> None:
    api.status = working_day()
    viewer = Viewer(
        browser, daemon, viewport={"width": width, "height": height}, color_scheme=scheme
    )
    page = viewer.page
    expect(viewer.row("instances", "h100-2-80g-ee19f0")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    page.screenshot(path=tmp_path / f"{look}.png", full_page=look != "wall")
    size = page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)")
    assert size >= (30 if look == "wall" else 15)
    axis = page.locator("#instances .axis .track").bounding_box()
    track = viewer.row("instances", "h100-1-80g-3fa2c1").locator(".track").bounding_box()
    assert axis is not None
    assert track is not None
    assert abs(axis["x"] - track["x"]) < 1  # the hours stand above what they measure
    assert abs(axis["width"] - track["width"]) < 1
    viewer.close()
    assert viewer.complaints == []


RATIO = """(scheme) => {
    const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => {
            const part = v / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const probe = document.body.appendChild(document.createElement("i"));
    const value = (name) => {
        probe.style.color = `var(--${name})`;
        return light(getComputedStyle(probe).color);
    };
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const found = {};
    for (const ground of ["ground", "panel"]) {
        for (const name of ["ink", "soft", "accent", "error", "warning"])
            found[`text ${name} on ${ground}`] = ratio(value(name), value(ground));
    }
    for (const name of ["busy", "idle", "booting", "leaving", "off", "trouble"])
        found[`mark ${name}`] = ratio(value(name), value("panel"));
    probe.remove();
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(browser: Browser, daemon: Served, scheme: str) -> None:
    viewer = Viewer(browser, daemon, color_scheme=scheme)
    ratios: dict[str, float] = viewer.page.evaluate(RATIO)
    viewer.close()
    weak = {k: v for k, v in ratios.items() if v < (4.5 if k.startswith("text") else 3)}
    assert weak == {}


def test_nothing_of_the_page_writes_markup_or_asks_others() -> None:
    for file in PAGE.iterdir():
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        # the one address is the name of SVG
        assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text), file  # nothing inline
