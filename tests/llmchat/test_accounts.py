"""Logging in and out, and those who should not get in (A13, A14)."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client, RequestFactory

from llmchat.clients import address

PASSWORD = "correct horse battery staple"

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password=PASSWORD)


def log_in(client: Client, username: str, password: str, **extra: Any):
    fields = {"username": username, "password": password}
    return client.post("/accounts/login/", fields, **extra)


@pytest.mark.contract("A13")
def test_after_ten_wrong_passwords_the_right_one_waits_too(client: Client, ada: User):
    answers = [log_in(client, "ada", f"wrong {index}").status_code for index in range(10)]
    assert answers[:9] == [200] * 9
    assert answers[9] == 429
    assert log_in(client, "ada", PASSWORD).status_code == 429
    other_address = {"REMOTE_ADDR": "192.0.2.7"}
    assert log_in(client, "ada", PASSWORD, **other_address).status_code == 302


@pytest.mark.contract("A13")
def test_an_unknown_name_gets_the_same_answer_as_a_wrong_password(client: Client, ada: User):
    wrong = log_in(client, "ada", "wrong").content.decode()
    unknown = log_in(Client(), "bob", "wrong").content.decode()

    def without_token(page: str) -> str:
        return "\n".join(line for line in page.splitlines() if "csrf" not in line.lower())

    assert without_token(wrong).replace("ada", "bob") == without_token(unknown)


@pytest.mark.contract("A14")
def test_a_session_from_before_the_login_is_worth_nothing_after_it(client: Client, ada: User):
    client.get("/accounts/login/")
    session = client.session
    session["visited"] = True
    session.save()
    before = client.cookies["sessionid"].value if "sessionid" in client.cookies else None
    log_in(client, "ada", PASSWORD)
    after = client.cookies["sessionid"].value
    assert after != before
    assert client.cookies["sessionid"]["httponly"]
    assert client.cookies["sessionid"]["samesite"] == "Lax"
    client.post("/accounts/logout/")
    stolen = Client()
    stolen.cookies["sessionid"] = after
    assert stolen.get("/").status_code == 302
    assert stolen.get("/")["Location"].startswith("/accounts/login/")


@pytest.mark.contract("A14")
@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example/", "/\\evil.example"])
def test_a_login_leads_nowhere_else(client: Client, ada: User, target: str):
    fields = {"username": "ada", "password": PASSWORD, "next": target}
    assert client.post("/accounts/login/", fields)["Location"] == "/"


@pytest.mark.contract("H42")
def test_a_login_leads_to_the_page_that_was_asked_for(client: Client, ada: User):
    fields = {"username": "ada", "password": PASSWORD, "next": "/help/"}
    assert client.post("/accounts/login/", fields)["Location"] == "/help/"


@pytest.mark.contract("A14")
def test_a_host_that_is_not_ours_is_refused(client: Client):
    assert client.get("/accounts/login/", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "198.51.100.9", "192.0.2.1"),
        (1, "198.51.100.9", "198.51.100.9"),
        (1, "10.0.0.1, 198.51.100.9", "198.51.100.9"),
        (2, "10.0.0.1, 198.51.100.9, 203.0.113.5", "198.51.100.9"),
        (2, "198.51.100.9", "192.0.2.1"),
        (1, "", "192.0.2.1"),
        (1, "unknown", "192.0.2.1"),
        (1, "2001:DB8::1%x' --", "2001:db8::1"),
    ],
)
def test_only_trusted_proxies_are_believed(
    settings: Any, proxies: int, forwarded: str, expected: str
):
    settings.TRUSTED_PROXIES = proxies
    request = RequestFactory().get(
        "/", headers={"X-Forwarded-For": forwarded}, REMOTE_ADDR="192.0.2.1"
    )
    assert address(request) == expected
