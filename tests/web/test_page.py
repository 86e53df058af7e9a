"""The status page in a real browser, against a small API that keeps its contract."""

import re

import pytest
from playwright.sync_api import expect

from tests.web.page_api import Api, Json, Served, ago, instance, nothing, queue, task
from tests.web.page_scenes import ODD, SCRIPT, decision, working_day
from tests.web.page_viewer import Viewer

pytestmark = pytest.mark.e2e

ENCODED_ODD = "team%2Fa%20%22b%22%20'c'%20%3Cb%3Ebold%3C%2Fb%3E%20%26%20100%25%20%F0%9F%9A%80%3F%23"


def test_a_sleeping_fleet_says_so(viewer: Viewer) -> None:
    page = viewer.page
    expect(page.get_by_text("No task waits. No machine runs. 0.00 EUR/h.")).to_be_visible()
    expect(
        page.get_by_text("The fleet has no instance. One is made when a task waits.")
    ).to_be_visible()
    expect(page.get_by_text("Nothing was decided yet that changed something.")).to_be_visible()
    expect(page.locator("#problems")).to_be_hidden()
    expect(page.locator("#figures")).to_contain_text("Spent in November312.50 EUR")
    expect(page.locator("#figures")).to_contain_text("Saved in November900.10 EUR")
    assert page.title() == "research GPU autoscaler"


def test_a_queue_fills_and_the_page_shows_it(viewer: Viewer, api: Api) -> None:
    row = viewer.row("queues", "H100-1-80G")
    expect(row).to_contain_text("none waits")
    filled = queue(
        "H100-1-80G",
        because="1 task waits; one instance is created",
        waiting=1,
        oldest_since=ago(minutes=4),
        tasks=[task("aa11", "bert")],
    )
    booting = instance("h100-1", "initializing", next={"what": "deleted", "at": ago(minutes=-8)})
    api.status = nothing() | {
        "queues": [filled],
        "instances": [booting],
        "decisions": [decision(1, "h100-1", "create", "demand", "1 task waits")],
    }
    viewer.ask_again()
    expect(row).to_contain_text("1 waiting oldest for 4 min")
    expect(row).to_contain_text("1 task waits; one instance is created")
    expect(viewer.row("instances", "h100-1")).to_contain_text("booting 18 min")
    expect(viewer.row("instances", "h100-1")).to_contain_text("deleted in 7 min")
    expect(viewer.page.locator("#decisions li")).to_contain_text("create h100-1 1 min ago")
    expect(viewer.page.locator("#quiet")).to_be_hidden()
    row.locator("summary").click()
    expect(row.get_by_role("link", name="bert")).to_have_attribute("rel", "noopener noreferrer")


def test_times_pass_without_asking(viewer: Viewer) -> None:
    viewer.page.route("**/api/**", lambda route: None)  # asks get no answer from now on
    looked = viewer.page.locator("#looked time")
    expect(looked).to_have_text(re.compile(r"^\d+ s ago$"))
    expect(looked).to_have_attribute("datetime", ago(seconds=8))
    expect(looked).to_have_attribute("title", re.compile("28 Nov 2026, 15:09:52"))
    viewer.wait(60)
    expect(looked).to_have_text("1 min ago")


def test_names_with_markup_stay_text(viewer: Viewer, api: Api) -> None:
    api.status = working_day()
    viewer.ask_again()
    odd = viewer.row("queues", ODD)
    expect(odd).to_be_visible()
    assert viewer.page.locator("main b", has_text="bold").count() == 0  # no element was made
    assert viewer.page.evaluate("document.scripts.length") == 1
    lost = viewer.row("instances", "h100-1-80g-77aa01")
    expect(lost.get_by_text(SCRIPT)).to_be_visible()
    expect(lost.get_by_text(SCRIPT)).not_to_have_attribute("href", re.compile(".*"))
    assert viewer.page.locator("a[href^=javascript]").count() == 0

    odd.get_by_role("button", name="Resume").click()
    dialog = viewer.page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Resume the queue {ODD}?")
    dialog.get_by_role("button", name="Resume it").click()
    result = viewer.page.locator("#result")
    expect(result).to_contain_text(f"did queues/{ODD}/resume")
    assert api.posts == [f"queues/{ENCODED_ODD}/resume"]


def explained(kind: str, *sentences: str) -> Json:
    return {"kind": kind, "name": "as asked", "sentences": list(sentences), "starts_at": None}


def test_why_is_answered_for_queue_instance_and_task(viewer: Viewer, api: Api) -> None:
    api.status = working_day()
    api.explanations = {
        ODD: explained("queue", "It is paused.", SCRIPT),
        "bb0": explained("task", "30 wait.") | {"starts_at": ago(minutes=-6)},
        "h100-1-80g-9b04d7": explained("instance", "It idles."),
    }
    viewer.ask_again()
    dialog = viewer.page.get_by_role("dialog")
    odd = viewer.row("queues", ODD)

    odd.get_by_role("button", name="Why?").first.focus()
    viewer.page.keyboard.press("Enter")
    expect(dialog.locator(".sentences")).to_have_text(f"It is paused.{SCRIPT}")
    viewer.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()

    odd.locator("summary").click()
    odd.get_by_role("button", name="Why? evaluate checkpoint 0", exact=True).click()
    expect(dialog).to_contain_text("30 wait.")
    expect(dialog).to_contain_text("Expected to start in 5 min.")
    dialog.get_by_role("button", name="Close").click()

    viewer.button("Why? h100-1-80g-9b04d7").click()
    expect(dialog).to_contain_text("It idles.")
    expect(dialog.locator(".history li").first).to_have_text("idle from 14:52 to now (18 min)")
    assert api.posts == []


def test_a_deed_asks_first_posts_and_says_what_was_done(viewer: Viewer, api: Api) -> None:
    dialog = viewer.page.get_by_role("dialog")
    viewer.button("Pause H100-1-80G").click()
    expect(dialog).to_contain_text("Pause the queue H100-1-80G?")
    expect(dialog).to_contain_text("No instance is launched for it")
    assert api.posts == []
    with viewer.page.expect_response("**/api/v1/status"):  # looks anew at once
        dialog.get_by_role("button", name="Pause it").click()
    expect(dialog).to_be_hidden()
    expect(viewer.page.locator("#result")).to_contain_text("did queues/H100-1-80G/pause")
    expect(viewer.page.get_by_role("status")).to_have_text("did queues/H100-1-80G/pause")
    assert api.posts == ["queues/H100-1-80G/pause"]
    viewer.button("Dismiss this result").click()
    expect(viewer.page.locator("#result")).to_be_hidden()


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_what_is_not_confirmed_is_not_done(viewer: Viewer, api: Api, way: str) -> None:
    viewer.button("Reconcile now").click()
    dialog = viewer.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    if way == "Escape":
        viewer.page.keyboard.press("Escape")
    else:
        dialog.get_by_role("button", name="Leave it").click()
    expect(dialog).to_be_hidden()
    expect(viewer.button("Reconcile now")).to_be_focused()
    viewer.ask_again()
    assert api.posts == []
    expect(viewer.page.locator("#result")).to_be_hidden()


def test_a_refusal_is_said_in_the_dialog_and_can_be_tried_again(viewer: Viewer, api: Api) -> None:
    api.status = nothing() | {"instances": [instance("h100-1")]}
    api.refusal = "A task came to it a moment ago."
    viewer.ask_again()
    viewer.button("Stop h100-1").click()
    dialog = viewer.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Stop it").click()
    expect(dialog.get_by_role("alert")).to_have_text("A task came to it a moment ago.")
    api.refusal = ""
    dialog.get_by_role("button", name="Stop it").click()
    expect(viewer.page.locator("#result")).to_contain_text("did instances/h100-1/stop")
    assert viewer.complaints.pop().startswith(
        "Failed to load resource"
    )  # the 409, as Chromium says


def test_the_keyboard_alone_is_enough(viewer: Viewer, api: Api) -> None:
    api.status = nothing() | {"instances": [instance("h100-1")]}
    viewer.ask_again()
    keyboard = viewer.page.keyboard
    seen = []
    while "Keep h100-1" not in seen:
        keyboard.press("Tab")
        seen.append(viewer.focused())
        assert len(seen) < 20, seen
    assert seen == [
        "Costs",
        "Reconcile now",
        "Why? H100-1-80G",
        "Pause H100-1-80G",
        "Why? h100-1",
        "Keep h100-1",
    ]
    keyboard.press("Enter")
    assert viewer.focused() == "Leave it"  # a second Enter by mistake changes nothing
    keyboard.press("Tab")
    assert viewer.focused() == "Keep it"
    kept = instance("h100-1", hands_off="it is kept until tomorrow", actions=["release", "stop"])
    api.status = nothing() | {"instances": [kept]}
    keyboard.press("Space")
    expect(viewer.page.locator("#result")).to_contain_text("did instances/h100-1/keep")
    expect(viewer.button("Keep h100-1")).to_be_hidden()
    expect(viewer.button("Why? h100-1")).to_be_focused()  # its neighbour, not the top of the page


def test_the_same_state_touches_no_node(viewer: Viewer, api: Api) -> None:
    api.status = working_day()
    viewer.ask_again()
    expect(viewer.row("instances", "h100-1-80g-3fa2c1")).to_be_visible()
    viewer.page.evaluate(
        """() => {
            window.changes = [];
            const outside = (node) => !(node.closest ? node : node.parentElement).closest("time");
            new MutationObserver((records) => {
                for (const { type, target } of records) {
                    if (outside(target)) window.changes.push(`${type} ${target.nodeName}`);
                }
            }).observe(document.body, {
                childList: true, subtree: true, attributes: true, characterData: true,
            });
        }"""
    )
    before = api.not_modified
    viewer.ask_again()
    viewer.ask_again()
    assert api.not_modified == before + 2
    assert viewer.page.evaluate("window.changes") == []


def test_a_change_keeps_rows_focus_and_open_dialogs(viewer: Viewer, api: Api) -> None:
    first, second = instance("h100-1"), instance("h100-2")
    api.status = nothing() | {"instances": [first, second]}
    viewer.ask_again()
    viewer.button("Stop h100-2").click()
    dialog = viewer.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    node = viewer.row("instances", "h100-2").element_handle()
    new = instance("h100-0", "running_task")
    busier = second | {"because": "another sentence"}
    api.status = nothing() | {"instances": [new, busier, first]}  # moved, patched, one more
    viewer.ask_again()
    expect(viewer.row("instances", "h100-2")).to_contain_text("another sentence")
    assert node is not None
    assert node.evaluate(
        "(node) => node === document.querySelectorAll('#instances ul.shown > li')[1]"
    )
    expect(dialog).to_be_visible()
    viewer.page.keyboard.press("Escape")
    expect(viewer.button("Stop h100-2")).to_be_focused()
    api.status = nothing() | {"instances": [busier, new, first]}
    viewer.ask_again()
    expect(viewer.page.locator("#instances h3").first).to_have_text("h100-2")
    expect(viewer.button("Stop h100-2")).to_be_focused()


def test_problems_stand_on_top_worst_first_and_are_read_out_once(viewer: Viewer, api: Api) -> None:
    api.status = working_day()
    viewer.ask_again()
    problems = viewer.page.locator("#problems li")
    expect(problems).to_contain_text(["error h100-1-80g-77aa01", "warning H100-1-80G in fr-par-2"])
    expect(viewer.page.get_by_role("status")).to_contain_text("error: h100-1-80g-77aa01")
    assert viewer.page.title() == "(2) research GPU autoscaler"
    api.status = working_day() | {"problems": []}
    viewer.ask_again()
    expect(viewer.page.get_by_role("status")).to_contain_text("No longer: h100-1-80g-77aa01")
    expect(viewer.page.locator("#problems")).to_be_hidden()


def test_a_daemon_that_went_away_is_told_with_the_age_of_what_is_shown(
    viewer: Viewer, api: Api, daemon: Served
) -> None:
    api.status = working_day()
    viewer.ask_again()
    daemon.stop()
    viewer.wait(5.1)
    problem = viewer.page.locator("#problems li").first
    expect(problem).to_contain_text("The daemon does not answer. What is below is the last")
    viewer.wait(125)
    expect(problem).to_contain_text("for 2 min")
    expect(viewer.page.locator("#looked")).to_contain_text("2 min ago")
    expect(viewer.row("instances", "h100-1-80g-3fa2c1")).to_be_visible()
    assert viewer.complaints
    assert all("ERR_CONNECTION_REFUSED" in text for text in viewer.complaints)
    viewer.complaints.clear()


def test_it_recovers_by_itself(viewer: Viewer, api: Api) -> None:
    viewer.page.context.set_offline(True)
    viewer.wait(5.1)
    expect(viewer.page.locator("#problems li")).to_contain_text("The daemon does not answer.")
    viewer.page.context.set_offline(False)
    viewer.ask_again()
    expect(viewer.page.locator("#problems")).to_be_hidden()
    assert all("ERR_INTERNET_DISCONNECTED" in text for text in viewer.complaints)
    viewer.complaints.clear()


def test_a_loop_that_stands_still_is_told(viewer: Viewer, api: Api) -> None:
    viewer.wait(70)
    expect(viewer.page.locator("#problems")).to_be_hidden()
    viewer.wait(20)
    expect(viewer.page.locator("#problems li")).to_contain_text("No cycle has ended lately")
    api.status = nothing() | {"at": ago(minutes=-1.6)}
    viewer.ask_again()
    expect(viewer.page.locator("#problems")).to_be_hidden()


def test_a_browser_whose_clock_is_wrong_shows_the_daemons_time(viewer: Viewer, api: Api) -> None:
    api.status = nothing() | {"at": ago(hours=2)}  # the browser is two hours ahead
    viewer.ask_again()
    expect(viewer.page.locator("#looked time")).to_have_text(re.compile(r"^\d+ s ago$"))
    expect(viewer.page.locator("#problems")).to_be_hidden()


def test_standby_and_dry_run_are_said(viewer: Viewer, api: Api) -> None:
    api.status = nothing() | {"leads": False, "dry_run": True}
    viewer.ask_again()
    expect(viewer.page.get_by_text("stands by: another daemon acts")).to_be_visible()
    expect(viewer.page.get_by_text("dry run: nothing is changed")).to_be_visible()
    viewer.button("Reconcile now").click()
    expect(viewer.page.get_by_role("dialog")).to_contain_text("it will only say what it would do")


def test_what_is_not_known_and_what_is_new_is_shown_all_the_same(viewer: Viewer, api: Api) -> None:
    money = {"eur_per_hour": None, "month": "2026-11", "spent_eur": None, "saved_eur": None}
    later = instance("h100-1", "hibernating", eur_per_hour=None)  # a state of a later version
    api.status = nothing() | {"money": money, "instances": [later]}
    viewer.ask_again()
    expect(viewer.page.locator("#figures")).to_contain_text("Nowunknown EUR/h")
    expect(viewer.row("instances", "h100-1")).to_contain_text("hibernating")


def test_a_reply_it_cannot_read_in_full_is_told_and_the_rest_shown(
    viewer: Viewer, api: Api
) -> None:
    without_timeline = {"name": "h100-1", "state": "idle"}
    filled = queue("H100-1-80G", waiting=1, oldest_since=ago(minutes=4))
    api.status = nothing() | {"queues": [filled], "instances": [without_timeline]}
    viewer.ask_again()
    expect(viewer.page.locator("#problems li")).to_contain_text("It cannot show everything")
    expect(viewer.row("queues", "H100-1-80G")).to_contain_text("1 waiting")
    assert viewer.complaints
    viewer.complaints.clear()


def test_without_the_password_it_says_what_is_wanted(viewer: Viewer) -> None:
    viewer.page.route("**/api/v1/status", lambda route: route.fulfill(status=401))
    viewer.ask_again()
    expect(viewer.page.locator("#problems li")).to_contain_text("wants the API token as password")
    assert viewer.complaints.pop().startswith("Failed to load resource")


def test_the_mouse_reads_a_time_line_and_screen_readers_its_sums(viewer: Viewer, api: Api) -> None:
    api.status = working_day()
    viewer.ask_again()
    track = viewer.row("instances", "h100-1-80g-9b04d7").locator(".track")
    expect(track).to_have_attribute(
        "aria-label", re.compile(r"^Last 12 hours: busy .*, idle .*, stopping 2 min, stopped 5 h")
    )
    box = track.bounding_box()
    assert box is not None
    track.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(track.locator("title")).to_have_text("stopped from 07:22 to 13:00 (5 h 38 min)")
