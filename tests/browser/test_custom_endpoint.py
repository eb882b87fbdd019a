"""An administrator describes an endpoint in the admin and tries it at once (contract P1, P6)."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Locator, Page, expect

from providers.models import Configuration
from tests.servers.provider import Provider, send


@pytest.fixture
def admin_page(open_browser: Callable[..., BrowserContext], make_user: Callable[..., User]) -> Page:
    """A page of someone who may do everything."""
    return open_browser(make_user("root", is_staff=True, is_superuser=True)).new_page()


def box(page: Page, name: str) -> Locator:
    return page.locator(f"#id_{name}")


def test_the_form_shows_what_the_kind_and_the_format_need(admin_page: Page):
    admin_page.goto("/admin/providers/configuration/add/")
    box(admin_page, "kind").select_option("openai")
    expect(box(admin_page, "request_body")).to_be_hidden()
    box(admin_page, "kind").select_option("custom")
    expect(box(admin_page, "request_body")).to_be_visible()
    expect(box(admin_page, "request_auth_name")).to_be_hidden()
    box(admin_page, "request_auth").select_option("query")
    expect(box(admin_page, "request_auth_name")).to_be_visible()
    expect(box(admin_page, "response_text_path")).to_be_hidden()
    box(admin_page, "response_format").select_option("ndjson")
    expect(box(admin_page, "response_text_path")).to_be_visible()
    expect(box(admin_page, "response_cumulative")).to_be_visible()


def test_an_endpoint_is_described_tried_and_mended(
    admin_page: Page, provider: Provider, make_user: Callable[..., User]
):
    provider.route(send('{"piece": "Hello"}\n'), send('{"piece": "!", "why": "stop"}\n'))
    admin_page.goto("/admin/providers/configuration/add/")
    for name, text in {
        "name": "Echo",
        "slug": "echo",
        "model": "m",
        "base_url": provider.url,
    }.items():
        box(admin_page, name).fill(text)
    box(admin_page, "kind").select_option("custom")
    box(admin_page, "request_path").fill("/ask")
    box(admin_page, "request_body").fill('{"question": "{{question}}"}')
    box(admin_page, "response_format").select_option("ndjson")
    box(admin_page, "response_text_path").fill("text")
    save = admin_page.get_by_role("button", name="Save and continue editing")
    save.click()
    expect(admin_page.get_by_text("{{question}} is unknown")).to_be_visible()
    assert not Configuration.objects.exists()

    box(admin_page, "request_body").fill('{"question": "{{prompt}}"}')
    save.click()
    admin_page.get_by_role("button", name="Test connection").click()
    expect(admin_page.get_by_text("no text was found")).to_be_visible()
    expect(admin_page.get_by_text('Line 1: {"piece": "Hello"}')).to_be_visible()

    box(admin_page, "response_text_path").fill("piece")
    box(admin_page, "response_finish_path").fill("why")
    save.click()
    admin_page.get_by_role("button", name="Test connection").click()
    expect(admin_page.get_by_text("The endpoint answers.")).to_be_visible()
    expect(admin_page.get_by_text("Text: Hello!")).to_be_visible()
    assert set(provider.requests[-1].json) == {"question"}
