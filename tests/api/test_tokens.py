"""API tokens: made on a page and shown once, listed, revoked, and kept as hashes (A12)."""

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from conversations import tokens
from conversations.models import ApiToken, AuditEvent, Budget
from conversations.views import streams
from providers.models import Configuration
from tests.api.conftest import call
from tests.faults.checks import wait_for_ends
from tests.servers.provider import Provider, hang, head, openai_chunk, send

HTML = {"Accept": "text/html"}


@pytest.fixture
def ada(transactional_db: None) -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def page(ada: User) -> Client:
    """Ada's browser."""
    browser = Client(headers=HTML)
    browser.force_login(ada)
    return browser


def made(browser: Client, **fields: Any) -> str:
    """Makes a token on the page, and gives the secret that the page shows."""
    answer = browser.post("/accounts/tokens/", {"name": "laptop", "days": "90", **fields})
    assert answer.status_code == 201
    found = re.search(r'data-copy-text="secret">([^<]+)<', answer.content.decode())
    assert found
    return found[1]


# ---- the verbs


@pytest.mark.contract("A12")
def test_of_a_secret_only_its_hash_is_kept(ada: User):
    token, secret = tokens.make(ada, "laptop")
    row = ApiToken.objects.values().get(pk=token.pk)
    assert secret not in str(row)
    assert secret[20:] not in str(row)
    assert secret.startswith(row["prefix"])
    assert len(secret) - len(row["prefix"]) > 32  # characters that nobody can know from it
    found = tokens.find(secret)
    assert found == token


def test_two_tokens_are_never_the_same(ada: User):
    assert len({tokens.make(ada, "one")[1] for _ in range(20)}) == 20


def test_a_use_is_noted_but_not_each_one(ada: User, django_assert_num_queries: Any):
    token, secret = tokens.make(ada, "laptop")
    before = timezone.now()
    tokens.find(secret)
    token.refresh_from_db()
    noted = token.last_used_at
    assert noted is not None
    assert noted >= before
    with django_assert_num_queries(1):  # only looked up
        tokens.find(secret)
    token.refresh_from_db()
    assert token.last_used_at == noted
    ApiToken.objects.update(last_used_at=noted - timedelta(minutes=2))
    tokens.find(secret)
    token.refresh_from_db()
    assert token.last_used_at >= noted


def test_what_was_revoked_stays_revoked_since_then(ada: User):
    token, secret = tokens.make(ada, "laptop")
    tokens.revoke(token)
    token.refresh_from_db()
    since = token.revoked_at
    tokens.revoke(token)
    token.refresh_from_db()
    assert (token.revoked_at, token.state) == (since, "revoked")
    assert tokens.find(secret) is None
    assert AuditEvent.objects.filter(action="token_revoked").count() == 1


# ---- the page


def test_a_secret_is_shown_once_and_works(page: Client, ada: User):
    secret = made(page)
    again = page.get("/accounts/tokens/")
    assert secret not in again.content.decode()
    assert "laptop" in again.content.decode()
    assert "no-store" in again["Cache-Control"]
    token = tokens.find(secret)
    assert token is not None
    assert (token.user, token.name, token.is_limited) == (ada, "laptop", False)
    assert token.expires_at is not None
    assert timedelta(days=89) < token.expires_at - timezone.now() <= timedelta(days=90)
    event = AuditEvent.objects.get(action="token_made")
    assert secret not in str(event.details)


def test_a_token_can_be_for_some_models_without_end_and_with_a_budget(
    page: Client, demo: Configuration, openai: Configuration
):
    secret = made(page, configurations=["demo"], days="", monthly_usd="2.50")
    token = tokens.find(secret)
    assert token is not None
    assert token.expires_at is None
    assert [one.slug for one in token.usable_configurations] == ["demo"]
    budget = Budget.objects.get(token=token)
    assert (budget.limit_usd, budget.period) == (Decimal("2.50"), "month")
    shown = page.get("/accounts/tokens/").content.decode()
    assert "$2.5 a month" in shown


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"days": "soon"}, "days"),
        ({"monthly_usd": "-1"}, "monthly_usd"),
        ({"monthly_usd": "NaN"}, "monthly_usd"),
        ({"configurations": ["off"]}, "configurations"),
    ],
)
def test_a_bad_value_makes_no_token(ada: User, fields: dict[str, Any], field: str):
    Configuration.objects.create(name="Off", slug="off", kind="demo", model="demo", is_active=False)
    program = Client(headers={"Accept": "application/json"})
    program.force_login(ada)
    answer = program.post("/accounts/tokens/", {"name": "laptop", **fields})
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [field]
    assert not ApiToken.objects.exists()
    browser = Client(headers=HTML)
    browser.force_login(ada)
    assert browser.post("/accounts/tokens/", {"name": "laptop", **fields}).status_code == 422


def test_a_program_can_make_one_too(ada: User):
    program = Client(headers={"Accept": "application/json"})
    program.force_login(ada)
    answer = program.post("/accounts/tokens/", {"name": "job"}, content_type="application/json")
    assert answer.status_code == 201
    assert tokens.find(answer.json()["token"]) is not None


def test_a_token_is_revoked_on_the_page(page: Client):
    secret = made(page)
    token = ApiToken.objects.get()
    assert page.post(f"/accounts/tokens/{token.pk}/revoke/").status_code == 302
    assert tokens.find(secret) is None
    assert "revoked" in page.get("/accounts/tokens/").content.decode()


@pytest.mark.contract("A9")
def test_the_tokens_of_others_are_neither_seen_nor_revoked(page: Client, ada: User):
    bob = User.objects.create_user("bob")
    token, secret = tokens.make(bob, "bobs-secret-project")
    assert "bobs-secret-project" not in page.get("/accounts/tokens/").content.decode()
    assert page.post(f"/accounts/tokens/{token.pk}/revoke/").status_code == 404
    assert page.post("/accounts/tokens/999999/revoke/").status_code == 404
    assert tokens.find(secret) is not None


def test_staff_see_all_tokens_without_their_secrets_and_may_revoke_if_they_may_change_them(
    page: Client, ada: User
):
    User.objects.update(is_staff=True)
    bob = User.objects.create_user("bob")
    token, secret = tokens.make(bob, "bobs-job")
    shown = page.get("/accounts/tokens/").content.decode()
    assert "bobs-job" in shown
    assert secret not in shown
    assert page.post(f"/accounts/tokens/{token.pk}/revoke/").status_code == 404
    ada.user_permissions.add(Permission.objects.get(codename="change_apitoken"))
    assert page.post(f"/accounts/tokens/{token.pk}/revoke/").status_code == 302
    assert tokens.find(secret) is None


@pytest.mark.contract("A10")
def test_strangers_are_sent_to_the_login(transactional_db: None):
    stranger = Client(headers=HTML)
    assert stranger.get("/accounts/tokens/")["Location"].startswith("/accounts/login/")
    program = Client(headers={"Accept": "application/json"})
    assert program.post("/accounts/tokens/", {"name": "x"}).status_code == 401


@pytest.mark.contract("A6")
def test_a_token_is_made_and_revoked_with_a_csrf_token_only(ada: User):
    token, _ = tokens.make(ada, "laptop")
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ada)
    assert browser.post("/accounts/tokens/", {"name": "x"}).status_code == 403
    assert browser.post(f"/accounts/tokens/{token.pk}/revoke/").status_code == 403
    assert ApiToken.objects.get().state == "active"


@pytest.mark.contract("A12")
def test_a_stream_ends_soon_after_its_token_was_revoked(
    program: Callable[[str], httpx.Client],
    openai: Configuration,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(streams, "RIGHTS_INTERVAL", 0)
    user = User.objects.create_user("eve")
    token, secret = tokens.make(user, "laptop")
    provider.reply(head(), send(openai_chunk("some words")), hang())
    path = "/v1/chat/completions"
    with program(secret).stream("POST", path, json=call(stream=True)) as response:
        read = ""
        for text in response.iter_text():
            read += text
            if "some words" in text:
                tokens.revoke(token)
    assert '"code":"invalid_api_key"' in read
    assert read.endswith("data: [DONE]\n\n")
    provider.wait_for_close()
    wait_for_ends()
