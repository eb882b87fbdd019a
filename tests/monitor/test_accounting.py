"""Every call to a provider makes exactly one usage row, and what checks it (D1), and the made-up
activity that shows it."""

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from conversations import accounting
from conversations.models import ChatSession, Message, ProviderCall, Run, UsageLog
from providers.models import Configuration
from tests.monitor.usage import NOON, ended, row, running, signed_in
from tests.people import Person
from tests.servers.provider import Provider, head, openai_answer, send


@pytest.fixture
def ada(make_user: Callable[..., User]) -> User:
    return make_user("ada")


@pytest.fixture
def custom(provider: Provider) -> Configuration:
    configuration = Configuration(
        name="Gateway",
        slug="gateway",
        kind="custom",
        model="g-1",
        base_url=provider.url,
        input_price="1000000",
        output_price="1000000",
        request={"path": "/ask", "body": {"text": "{{prompt}}"}},
        response={"format": "text"},
    )
    configuration.save()
    return configuration


def checked() -> str:
    """What the command says. Raises CommandError where something is wrong."""
    out = io.StringIO()
    call_command("check_accounting", stdout=out)
    return out.getvalue()


def kinds() -> list[tuple[str, int]]:
    return [(one.what, one.count) for one in accounting.check().differences]


class TestConnectionTests:
    @pytest.fixture
    def admin(self, make_user: Callable[..., User]) -> Client:
        return signed_in(make_user("root", is_staff=True, is_superuser=True))

    def press(self, admin: Client, configuration: Configuration) -> None:
        address = f"/admin/providers/configuration/{configuration.pk}/test/"
        assert admin.post(address).status_code == 302

    @pytest.mark.contract("D1")
    def test_one_that_asks_for_an_answer_is_paid_for_and_has_a_row(
        self, admin: Client, custom: Configuration, provider: Provider
    ):
        provider.reply(head(content_type="text/plain"), send(b"Hello to you."))
        self.press(admin, custom)
        usage = UsageLog.objects.get()
        assert (usage.origin, usage.status, usage.code) == ("connection_test", "done", "")
        assert (usage.username, usage.configuration) == ("root", "gateway")
        assert usage.completion_tokens == 4
        assert usage.is_estimated
        assert usage.prompt_tokens
        assert usage.cost_usd == usage.prompt_tokens + usage.completion_tokens
        assert usage.cost_source == "estimated"
        assert usage.time_to_first_chunk is not None
        assert usage.started_at <= usage.ended_at
        assert len(provider.requests) == 1
        assert checked().startswith("Ended runs: 0. Usage rows: 1")

    def test_one_that_is_refused_has_a_row_that_guesses_nothing(
        self, admin: Client, custom: Configuration, provider: Provider
    ):
        provider.reply(head(401), send(b"no"))
        self.press(admin, custom)
        usage = UsageLog.objects.get()
        assert (usage.status, usage.code) == ("error", "API_KEY_INVALID")
        assert (usage.prompt_tokens, usage.cost_usd) == (None, None)

    def test_one_that_asks_for_a_list_of_models_costs_nothing(
        self, admin: Client, openai: Configuration, provider: Provider
    ):
        self.press(admin, openai)
        assert not UsageLog.objects.exists()


@pytest.mark.contract("D1")
def test_a_run_leaves_nothing_to_find(
    ada_person: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("Hello"))
    ada_person.events(ada_person.ask(ada_person.new_chat(), "Hi"))
    assert "Ended runs: 1. Usage rows: 1" in checked()
    assert kinds() == []


@pytest.fixture
def ada_person(make_person: Callable[..., Person]) -> Person:
    return make_person("ada")


def test_rows_whose_session_or_account_is_gone_are_no_difference(
    ada: User, make_user: Callable[..., User]
):
    chat = ChatSession.objects.create(user=ada)
    ended(ada, chat=chat)
    gone = make_user("gone")
    ended(gone)
    running(ada)
    chat.delete()
    gone.delete()
    assert UsageLog.objects.count() == 2
    assert kinds() == []


def test_a_run_without_its_row_is_found_with_whether_it_was_sent(ada: User):
    sent, unsent = ended(ada), ended(ada)
    ProviderCall.objects.create(
        run_id=sent.pk,
        attempt=1,
        method="POST",
        url="http://127.0.0.1/",
        body=b"",
        body_length=0,
        body_sha256="",
        sent_at=NOON,
    )
    UsageLog.objects.all().delete()
    assert kinds() == [
        ("runs that were sent and are over without a row", 1),
        ("runs that are over without a row", 1),
    ]
    out = io.StringIO()
    with pytest.raises(CommandError) as failed:
        call_command("check_accounting", stdout=out)
    assert failed.value.returncode == 1
    assert "Difference: 2." in out.getvalue()
    assert str(sent.pk) in out.getvalue()
    assert str(unsent.pk) in out.getvalue()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda run_id: Run.objects.filter(pk=run_id).delete(), "rows of a run that is not"),
        (lambda _: UsageLog.objects.update(status="error"), "runs that ended otherwise"),
        (lambda _: Run.objects.update(status="running"), "runs that still run and have a row"),
    ],
)
def test_what_does_not_agree_is_found(ada: User, change: Callable[[Any], object], what: str):
    usage = ended(ada)
    change(usage.run_id)
    ((found, count),) = kinds()
    assert found.startswith(what)
    assert count == 1


def test_a_command_without_a_person_is_looked_for_too(ada: User):
    UsageLog.objects.bulk_create([row(None, origin="command")])
    assert kinds() == [("rows of a run that is not there", 1)]


def test_the_tile_shows_the_difference_to_whom_it_concerns(
    ada: User, make_user: Callable[..., User]
):
    now = datetime.now(UTC)
    UsageLog.objects.filter(pk=ended(ada, now).pk).delete()
    ended(other := make_user("other"), now)
    boss = make_user("boss", is_staff=True)
    shown = {
        user.username: signed_in(user).get("/monitor/").content.decode()
        for user in (ada, other, boss)
    }
    assert 'data-accounting="1"' in shown["ada"]
    assert 'data-accounting="0"' in shown["other"]
    assert 'data-accounting="1"' in shown["boss"]
    assert "1 runs that are over without a row" in shown["boss"]


def test_many_differences_are_counted_and_some_are_named(ada: User):
    UsageLog.objects.bulk_create(row(ada, NOON + timedelta(seconds=n)) for n in range(30))
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("check_accounting", stdout=out)
    assert "30 rows of a run that is not there" in out.getvalue()
    assert "and 10 more" in out.getvalue()


# ---- made-up activity


def seed(*options: str) -> str:
    out = io.StringIO()
    call_command("seed_demo_activity", "--runs=60", "--days=10", *options, stdout=out)
    return out.getvalue()


def test_made_up_activity_looks_like_what_runs_leave_and_is_made_once(
    make_user: Callable[..., User],
):
    assert "60 runs" in seed()
    assert Run.objects.count() == UsageLog.objects.count() == 60
    assert kinds() == []
    assert "Nothing was made" in seed()
    assert Run.objects.count() == 60
    now = datetime.now(UTC)
    for usage in UsageLog.objects.all():
        assert now - timedelta(days=11) < usage.started_at < usage.ended_at < now
    assert Message.objects.filter(created_at__lt=now - timedelta(minutes=5)).exists()
    assert not Configuration.objects.filter(is_active=True).exists()
    assert not User.objects.filter(password="").exists()
    browser = signed_in(make_user("boss", is_staff=True))
    for run in Run.objects.all()[:5]:
        page = browser.get(f"/monitor/runs/{run.pk}/").content.decode()
        assert run.model in page
    chat = ChatSession.objects.filter(messages__role="assistant").first()
    assert chat
    assert signed_in(chat.user).get(f"/chat/{chat.pk}/").status_code == 200


def test_made_up_activity_is_kept_apart_from_real_activity(ada: User):
    real = ended(ada)
    with pytest.raises(CommandError, match="real activity"):
        seed()
    assert Run.objects.count() == 1
    seed("--force")
    assert Run.objects.count() == 61
    assert "60 runs" in seed("--remove")
    assert list(Run.objects.values_list("pk", flat=True)) == [real.pk]
    assert list(UsageLog.objects.values_list("pk", flat=True)) == [real.pk]
    assert not Configuration.objects.exists()
    assert list(User.objects.all()) == [ada]


@pytest.mark.parametrize("option", ["--runs=0", "--runs=x", "--days=0", "--seed=-1"])
def test_a_bad_amount_is_refused(db: None, option: str):
    with pytest.raises(CommandError):
        call_command("seed_demo_activity", option)
