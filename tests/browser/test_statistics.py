"""The monitor's list of runs and its statistics, as people use them (M4, M5)."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from tests.browser.chat import Chat
from tests.browser.watch import Watch
from tests.monitor.usage import ended


@pytest.mark.contract("M4")
def test_filters_change_the_list_and_the_address_and_the_way_back_is_open(
    chat: Chat, ada_user: User, watch: Watch
):
    page, now = chat.page, datetime.now(UTC)
    ended(ada_user, now - timedelta(minutes=1))
    failed = ended(ada_user, now - timedelta(minutes=2), status="error", code="TIMEOUT")
    page.get_by_role("button", name="Account and settings").click()
    page.get_by_role("link", name="Monitor").click()
    page.get_by_role("navigation", name="Monitor").get_by_role("link", name="Activity").click()
    rows = page.get_by_role("region", name="Table of runs").get_by_role("row")
    expect(rows).to_have_count(3)
    page.evaluate("() => { window.isSamePage = true }")

    page.get_by_label("Status").select_option("error")
    expect(rows).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/monitor/activity/\?status=error$"))
    expect(page.get_by_role("link", name="CSV")).to_have_attribute(
        "href", "/monitor/activity/export.csv?status=error"
    )
    watch.allow("422")
    page.get_by_label("Session").fill("nonsense")
    page.get_by_label("Session").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Session: Give the id of a session")
    page.get_by_label("Session").fill("")
    page.get_by_label("Session").press("Enter")
    expect(rows).to_have_count(2)
    assert page.evaluate("() => window.isSamePage")

    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert str(failed.run_id) in download.value.path().read_text()
    rows.last.get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"/monitor/runs/{failed.run_id}/"))
    page.go_back()
    expect(rows).to_have_count(2)
    expect(page.get_by_label("Status")).to_have_value("error")
    page.get_by_role("link", name="Clear").click()
    expect(rows).to_have_count(3)


@pytest.mark.contract("M5")
def test_a_chart_reads_out_the_day_under_the_pointer_and_by_the_arrow_keys(
    page: Page, ada_user: User
):
    now = datetime.now(UTC)
    ended(ada_user, now - timedelta(days=1))
    ended(ada_user, now, cost_usd=None)
    page.goto("/monitor/statistics/?days=7")
    chart = page.get_by_role("figure").filter(has=page.get_by_role("heading", name="Cost in USD"))
    reading, frame = chart.locator("[data-reading]"), chart.get_by_role("group")
    chart.locator("[data-day]").nth(5).hover()
    expect(reading).to_contain_text("known $0.25")
    page.get_by_role("heading", name="Statistics").hover()
    expect(reading).to_have_text("Point at a day, or use the arrow keys")
    frame.focus()
    frame.press("ArrowLeft")
    expect(reading).to_contain_text("1 unknown")
    frame.press("ArrowLeft")
    expect(reading).to_contain_text("known $0.25")
    frame.press("Home")
    expect(reading).to_contain_text("known $0")


@pytest.mark.parametrize("address", ["", "activity/", "statistics/"])
def test_nothing_leaves_the_width_of_a_phone(phone: Page, ada_user: User, address: str):
    for number in range(3):
        at = datetime.now(UTC) - timedelta(days=number)
        ended(ada_user, at, configuration="c" * 90, code="x" * 40, status="error")
    phone.goto(f"/monitor/{address}")
    expect(phone.get_by_role("heading", level=1)).to_be_visible()
    widths = phone.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] == widths[1]
