"""The audit log: every act that matters for security leaves one event, and no event a secret."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.test import Client
from django.urls import reverse

from conversations import audit, tokens
from conversations.models import AuditEvent, Budget
from providers import revisions
from providers.models import Configuration

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery staple"
KEY = "planted-5d1f7c-key"


@pytest.fixture
def ada() -> User:
    user = User.objects.create_user("ada", password=PASSWORD)
    AuditEvent.objects.all().delete()
    return user


@pytest.fixture
def root(client: Client) -> Client:
    """An administrator, logged in."""
    client.force_login(User.objects.create_superuser("root", password=PASSWORD))
    AuditEvent.objects.all().delete()
    return client


def told() -> list[tuple[str, str, str, dict[str, Any]]]:
    """What was recorded, in order: action, actor, subject, details."""
    events = AuditEvent.objects.order_by("pk")
    return [(event.action, event.actor_name, event.subject, event.details) for event in events]


def log_in(client: Client, username: str, password: str = PASSWORD) -> Any:
    return client.post("/accounts/login/", {"username": username, "password": password})


# ---- Logins


def test_logins_and_logouts_are_recorded_with_their_address(client: Client, ada: User):
    log_in(client, "ada")
    client.post("/accounts/logout/")
    assert told() == [("login", "ada", "ada", {}), ("logout", "ada", "ada", {})]
    event = AuditEvent.objects.first()
    assert event is not None
    assert (event.actor, event.address) == (ada, "127.0.0.1")


@pytest.mark.contract("R11")
def test_the_address_is_the_one_that_trusted_proxies_saw(client: Client, ada: User, settings):
    settings.TRUSTED_PROXIES = 1
    client.post(
        "/accounts/login/",
        {"username": "ada", "password": PASSWORD},
        headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.4"},
    )
    assert AuditEvent.objects.get().address == "198.51.100.4"


@pytest.mark.contract("R11")
@pytest.mark.parametrize("written", ["nonsense", "fe80::1%eth0'; --", "x" * 500])
def test_an_address_that_is_none_is_left_out(client: Client, ada: User, settings, written: str):
    settings.TRUSTED_PROXIES = 1
    fields = {"username": "ada", "password": PASSWORD}
    headers = {"X-Forwarded-For": written}
    assert client.post("/accounts/login/", fields, headers=headers).status_code == 302
    assert "x" * 50 not in str(AuditEvent.objects.get().address)


@pytest.mark.contract("A13")
def test_a_failed_login_is_recorded_without_what_was_typed(client: Client, ada: User):
    log_in(client, "ada", "wrong-marked-7d1f")
    log_in(client, "my-password-marked-7d1f")
    log_in(client, "nul\0")
    assert [(action, subject) for action, _, subject, _ in told()][:2] == [
        ("login_failed", "ada"),
        ("login_failed", audit.UNKNOWN_NAME),
    ]
    assert "7d1f" not in str(list(AuditEvent.objects.values()))


def test_whoever_goes_on_trying_does_not_fill_the_log(
    client: Client, ada: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audit, "MOST_FAILURES", 3)
    for number in range(5):
        log_in(client, "ada", f"wrong {number}")
    assert len(told()) == 3


def test_a_login_that_only_renews_the_hash_is_no_new_password(client: Client, ada: User, settings):
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
        *settings.PASSWORD_HASHERS,
    ]
    former = ada.password
    log_in(client, "ada")
    ada.refresh_from_db()
    assert ada.password != former
    assert [action for action, *_ in told()] == ["login"]


# ---- People and roles


def test_a_new_password_is_recorded_whoever_sets_it(root: Client, ada: User):
    AuditEvent.objects.all().delete()
    ada.set_password("another one entirely")
    ada.save()
    fields = {
        "password1": "yet another 123",
        "password2": "yet another 123",
        "usable_password": "true",
    }
    address = reverse("admin:auth_user_password_change", args=[ada.pk])
    assert root.post(address, fields).status_code == 302
    assert told() == [
        ("password_changed", "", "ada", {}),
        ("password_changed", "root", "ada", {}),
    ]


def test_new_rights_are_recorded_with_what_they_were(ada: User):
    ada.is_staff = True
    ada.save()
    ada.save(update_fields=["is_staff"])
    ada.first_name = "Ada"
    ada.save()
    assert told() == [("role_changed", "", "ada", {"is_staff": {"was": False, "is": True}})]


def test_groups_and_permissions_are_recorded_from_either_side(ada: User):
    group = Group.objects.create(name="authors")
    permission = Permission.objects.get(codename="change_configuration")
    ada.groups.add(group)
    group.user_set.remove(ada)
    ada.user_permissions.set([permission])
    group.permissions.add(permission)
    ada.user_permissions.clear()
    name = str(permission)
    assert told() == [
        ("role_changed", "", "ada", {"of": "groups", "added": ["authors"]}),
        ("role_changed", "", "authors", {"of": "groups", "removed": ["ada"]}),
        ("role_changed", "", "ada", {"of": "user_permissions", "added": [name]}),
        ("role_changed", "", "authors", {"of": "permissions", "added": [name]}),
        ("role_changed", "", "ada", {"of": "user_permissions", "removed": ["all"]}),
    ]


def test_people_who_come_and_go_are_recorded_and_what_they_did_stays(root: Client):
    bob = User.objects.create_user("bob", is_staff=True)
    audit.record("tried", bob, "something")
    bob.delete()
    assert told() == [
        ("user_created", "", "bob", {"roles": ["is_staff"]}),
        ("tried", "bob", "something", {}),
        ("user_deleted", "", "bob", {}),
    ]


def test_what_is_rolled_back_was_never_done(ada: User):
    with transaction.atomic():
        ada.is_superuser = True
        ada.save()
        transaction.set_rollback(True)
    assert told() == []


# ---- Configurations, tokens, budgets


@pytest.fixture
def row() -> Configuration:
    made = Configuration(
        name="GPT", slug="gpt", kind="openai", model="m", base_url="https://one.example/v1"
    )
    made.set_api_key(KEY)
    made.save()
    revisions.record(made)
    return made


@pytest.mark.contract("A18")
def test_the_life_of_a_configuration_is_recorded_without_its_key(ada: User, row: Configuration):
    row.base_url = "https://two.example/v1"
    row.set_api_key(f"{KEY}-2")
    row.save()
    revisions.record(row, ada, replaced={"api_key"})
    row.set_api_key("")
    row.save()
    revisions.record(row, ada)
    row.delete()
    assert [(action, actor) for action, actor, *_ in told()] == [
        ("configuration_created", ""),
        ("key_set", ""),
        ("configuration_changed", "ada"),
        ("key_set", "ada"),
        ("url_changed", "ada"),
        ("configuration_changed", "ada"),
        ("key_removed", "ada"),
        ("configuration_deleted", ""),
    ]
    assert {subject for _, _, subject, _ in told()} == {"gpt"}
    details = [found for action, _, _, found in told() if action == "url_changed"]
    assert details == [
        {"base URL": {"was": "https://one.example/v1", "is": "https://two.example/v1"}}
    ]
    assert KEY not in str(list(AuditEvent.objects.values()))


def test_a_token_is_recorded_when_it_is_made_and_revoked_once(ada: User):
    token, secret = tokens.make(ada, "laptop")
    tokens.revoke(token)
    tokens.revoke(token)
    assert [(action, subject, details["name"]) for action, _, subject, details in told()] == [
        ("token_made", "ada", "laptop"),
        ("token_revoked", "ada", "laptop"),
    ]
    assert secret not in str(list(AuditEvent.objects.values()))


def test_budgets_are_recorded_with_what_they_were(ada: User):
    budget = Budget.objects.create(user=ada, limit_usd="5")
    budget = Budget.objects.get(pk=budget.pk)
    budget.limit_usd = 9
    budget.save()
    budget.save()
    budget.delete()
    assert [(action, subject) for action, _, subject, _ in told()] == [
        ("budget_created", f"user {ada.pk}"),
        ("budget_changed", f"user {ada.pk}"),
        ("budget_deleted", f"user {ada.pk}"),
    ]
    assert told()[1][3] == {"limit_usd": {"was": "5.0000", "is": 9}}


# ---- The events themselves


@pytest.mark.contract("G9")
def test_what_looks_like_a_key_is_masked_whoever_records_it():
    audit.record("x", None, "Bearer abcdef-123456", details={"a": ["sk-proj-0123456789", 1, None]})
    assert told() == [("x", "", "Bearer [hidden]", {"a": ["[hidden]", 1, None]})]


@pytest.mark.contract("A3")
def test_staff_with_the_permission_read_it_escaped_and_nobody_changes_it(root: Client):
    audit.record("x", None, "<script>alert(1)</script>", details={"x": {"was": "<b>", "is": "c"}})
    event = AuditEvent.objects.get()
    page = root.get(reverse("admin:conversations_auditevent_changelist")).content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "x: &lt;b&gt; → c" in page
    change = reverse("admin:conversations_auditevent_change", args=[event.pk])
    assert root.get(change).status_code == 200
    delete = reverse("admin:conversations_auditevent_delete", args=[event.pk])
    assert [root.post(at, {"action": "y"}).status_code for at in (change, delete)] == [403, 403]
    assert root.get(reverse("admin:conversations_auditevent_add")).status_code == 403
    event.refresh_from_db()
    assert event.action == "x"


@pytest.mark.contract("A10")
def test_staff_without_the_permission_and_others_do_not_read_it(client: Client, ada: User):
    address = reverse("admin:conversations_auditevent_changelist")
    client.force_login(ada)
    assert client.get(address).status_code == 302
    ada.is_staff = True
    ada.save()
    assert client.get(address).status_code == 403


def test_a_run_of_queries_does_not_grow_with_the_events(
    root: Client, django_assert_max_num_queries: Callable[..., Any]
):
    for number in range(60):
        audit.record("x", None, str(number))
    with django_assert_max_num_queries(8):
        root.get(reverse("admin:conversations_auditevent_changelist"))
