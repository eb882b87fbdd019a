"""The list of runs: who sees which, filters, pages (M4, A3, A9, A10, A23)."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from conversations.models import ChatSession, UsageLog
from monitor import activity
from providers.models import Configuration
from tests.monitor.usage import NOON, ended, row, running, signed_in

ADDRESS = "/monitor/activity/"
MakeUser = Callable[..., User]


@pytest.fixture
def ada(make_user: MakeUser) -> User:
    return make_user("ada")


@pytest.fixture
def boss(make_user: MakeUser) -> User:
    return make_user("boss", is_staff=True)


def runs_in(page: Any) -> list[str]:
    """The ids of the runs that a page links to, in its order."""
    return re.findall(r"/monitor/runs/([0-9a-f-]{36})/", page.content.decode())


def link(page: Any, rel: str) -> str | None:
    found = re.search(rf'href="([^"]+)" hx-get="[^"]+" rel="{rel}"', page.content.decode())
    return unescape(found[1]) if found else None


def ids(*rows: UsageLog) -> list[str]:
    return [str(one.run_id) for one in rows]


@pytest.mark.contract("M4")
def test_staff_see_the_runs_of_all_and_others_their_own(ada: User, boss: User):
    of_ada, of_boss = ended(ada), ended(boss, NOON + timedelta(hours=1))
    assert runs_in(signed_in(boss).get(ADDRESS)) == ids(of_boss, of_ada)
    assert runs_in(signed_in(ada).get(ADDRESS)) == ids(of_ada)
    # Nor does a filter lead to those of others.
    assert runs_in(signed_in(ada).get(ADDRESS, {"user": "boss"})) == []
    assert Client(headers={"Accept": "text/html"}).get(ADDRESS).status_code == 302


def test_a_run_is_listed_while_it_runs_and_after_its_session_is_gone(ada: User):
    chat = ChatSession.objects.create(user=ada)
    old, run = ended(ada, chat=chat), running(ada, NOON + timedelta(hours=1))
    page = signed_in(ada).get(ADDRESS)
    assert runs_in(page) == [str(run.pk), str(old.run_id)]
    assert f"/chat/{chat.pk}/" in page.content.decode()
    chat.delete()
    page = signed_in(ada).get(ADDRESS)
    assert runs_in(page) == [str(run.pk)]  # there is nothing left to look into
    assert "double" in page.content.decode().split("</thead>")[1]
    assert page.content.decode().count("<tr>") == 3


@pytest.mark.contract("M4")
@pytest.mark.parametrize(
    "filters",
    [
        {"user": "ada"},
        {"configuration": "wanted"},
        {"status": "error"},
        {"origin": "api"},
        {"code": "time"},
        {"code": "100%_x"},
        {"from": "2026-03-10T11:30", "to": "2026-03-10T12:30"},
        {"from": "2026-03-10T14:00:00+02:00", "to": "2026-03-10T12:00:01Z"},
        {"from": "2026-03-10", "to": "2026-03-11"},
    ],
    ids=str,
)
def test_each_filter_finds_what_it_names_and_nothing_else(
    ada: User, boss: User, filters: dict[str, str]
):
    code = "100%_X" if "%" in filters.get("code", "") else "TIMEOUT"
    wanted = ended(
        ada, NOON, configuration="wanted", status="error", origin="api", code=code, cost_usd=None
    )
    ended(boss, NOON + timedelta(days=2), code="RATE_LIMIT_EXCEEDED", status="stopped")
    running(boss, NOON - timedelta(days=2))
    assert runs_in(signed_in(boss).get(ADDRESS, filters)) == ids(wanted)


def test_runs_of_one_session_and_runs_in_flight_can_be_filtered(ada: User):
    chat = ChatSession.objects.create(user=ada)
    of_chat, run = ended(ada, chat=chat), running(ada)
    browser = signed_in(ada)
    assert runs_in(browser.get(ADDRESS, {"session": str(chat.pk)})) == ids(of_chat)
    assert runs_in(browser.get(ADDRESS, {"status": "running"})) == [str(run.pk)]


def test_the_rows_of_a_deleted_account_are_found_by_its_name(make_user: MakeUser, boss: User):
    gone = make_user("gone")
    UsageLog.objects.bulk_create([row(gone)])
    gone.delete()
    page = signed_in(boss).get(ADDRESS, {"user": "gone"}).content.decode()
    assert page.count("<tr>") == 2


@pytest.mark.contract("A23")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "lost"),
        ("origin", "elsewhere"),
        ("session", "1 OR 1=1"),
        ("from", "yesterday"),
        ("from", "0001-01-01T00:00:00+23:00"),
        ("to", "9999-12-31T23:59:59-23:00"),
        ("code", "x" * 10_000),
        ("user", "a\x00b"),
        ("configuration", "c" * 101),
        ("before", "newest"),
        ("after", "0001-01-01T00:00:00+23:59_7b0c9b0e-6b1e-4c1e-9a52-3a9d0a9d7a11"),
    ],
)
def test_a_bad_value_is_named_and_never_an_error_of_the_server(ada: User, field: str, value: str):
    ended(ada)
    page = signed_in(ada).get(ADDRESS, {field: value})
    assert page.status_code == 422
    assert 'role="alert"' in page.content.decode()
    assert runs_in(page) == []


@pytest.mark.contract("A23")
@pytest.mark.parametrize("text", ["%", "_", "'", '"; --', "*", "\\", "%%%", "a" * 40])
def test_operators_of_searches_are_plain_letters(ada: User, text: str):
    ended(ada, code="TIMEOUT", status="error")
    for field in ("code", "configuration", "user"):
        page = signed_in(ada).get(ADDRESS, {field: text})
        assert (page.status_code, runs_in(page)) == (200, [])


def test_the_pages_have_every_run_once_in_both_directions(
    ada: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(activity, "PAGE", 10)
    # Many at the same moment, and some that still run among them.
    moments = [NOON + timedelta(seconds=number // 7) for number in range(40)]
    UsageLog.objects.bulk_create([row(ada, at) for at in moments])
    runs = [running(ada, at) for at in moments[::10]]
    browser = signed_in(ada)
    seen: list[activity.Row] = []
    pages: list[list[UUID]] = []
    address: str | None = ADDRESS
    while address:
        page = browser.get(address)
        found = page.context["rows"]
        assert 0 < len(found) <= 10
        seen += found
        pages.append([one.run_id for one in found])
        address = link(page, "next")
    places = [one.position for one in seen]
    assert places == sorted(places, reverse=True)
    assert {one.run_id for one in seen} == {
        *(run.pk for run in runs),
        *UsageLog.objects.values_list("pk", flat=True),
    }
    assert len(seen) == 44
    back = [pages[-1]]
    while address := link(page, "prev"):
        page = browser.get(address)
        back.append([one.run_id for one in page.context["rows"]])
    # The first page is whole again, though the last was not: pages begin where they are led to.
    assert back[-1] == pages[0]
    assert {one for ids_ in back for one in ids_} == {one for ids_ in pages for one in ids_}


def test_a_run_that_ends_while_a_page_is_read_is_there_once(
    ada: User, monkeypatch: pytest.MonkeyPatch
):
    run = running(ada)
    look = activity.running_now

    def look_too_early(*args: Any) -> list[activity.Row]:
        rows = look(*args)
        UsageLog.objects.bulk_create([row(ada, run_id=run.pk)])
        return rows

    monkeypatch.setattr(activity, "running_now", look_too_early)
    (shown,) = activity.page(ada, activity.Filters()).rows
    assert (shown.run_id, shown.status) == (run.pk, "done")


def test_a_page_skips_and_counts_no_rows(ada: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activity, "PAGE", 10)
    UsageLog.objects.bulk_create(row(ada, NOON + timedelta(seconds=n)) for n in range(40))
    browser = signed_in(ada)
    address = link(browser.get(ADDRESS), "next")
    assert address
    with CaptureQueriesContext(
        connection,
    ) as queries:
        browser.get(address)
    of_rows = [query["sql"] for query in queries if "conversations_usagelog" in query["sql"]]
    assert sum("LIMIT 11" in sql for sql in of_rows) == 1
    for sql in of_rows:
        assert "LIMIT" in sql
        assert not re.search(r"OFFSET|COUNT\(", sql)


def test_htmx_gets_the_rows_alone_and_an_address_without_empty_fields(ada: User):
    ended(ada, status="error", code="TIMEOUT")
    browser = signed_in(ada)
    answer = browser.get(
        f"{ADDRESS}?{urlencode({'user': '', 'status': 'error', 'code': ''})}",
        headers={"HX-Request": "true"},
    )
    assert answer["HX-Push-Url"] == f"{ADDRESS}?status=error"
    page = answer.content.decode()
    assert page.lstrip().startswith("<section")
    assert "TIMEOUT" in page
    assert "/monitor/activity/export.csv?status=error" in page


@pytest.mark.contract("A3")
def test_names_are_escaped(ada: User, boss: User):
    hostile = '<script>alert("1")</script>'
    ended(ada, configuration=hostile, model=hostile, code=hostile[:40])
    User.objects.filter(pk=ada.pk).update(username=hostile)
    UsageLog.objects.update(username=hostile)
    page = signed_in(boss).get(ADDRESS, {"configuration": hostile}).content.decode()
    assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in page


def test_an_empty_list_says_what_to_do(ada: User):
    page = signed_in(ada).get(ADDRESS).content.decode()
    assert "Nothing has run yet" in page
    page = signed_in(ada).get(ADDRESS, {"code": "none"}).content.decode()
    assert "No run matches these filters" in page


def test_people_choose_from_configurations_they_may_use_or_have_used(
    ada: User, boss: User, demo: Configuration
):
    Configuration.objects.create(slug="hidden", kind="demo", model="demo", is_active=False)
    ended(ada, configuration="former")

    def offered(user: User) -> list[str]:
        return signed_in(user).get(ADDRESS, {"configuration": "gone"}).context["configurations"]

    assert offered(ada) == ["demo", "former", "gone"]
    assert offered(boss) == ["demo", "gone", "hidden"]
