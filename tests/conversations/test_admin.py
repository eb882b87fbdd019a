"""Sessions, messages, runs and usage logs in the admin: to look at, not to change."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.urls import reverse

from conversations.models import ChatSession, EventBatch, Message, Run, UsageLog
from providers.models import Configuration

pytestmark = pytest.mark.django_db
MODELS = ["chatsession", "message", "run", "usagelog"]
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def configuration():
    return Configuration.objects.create(name="Demo", slug="demo", kind="demo", model="demo")


@pytest.fixture
def talk(configuration, django_user_model):
    """Makes a session with a question, an answer, their run and its usage log."""
    user = django_user_model.objects.create_user("ada")

    def make(title="About bees", status=Run.Status.DONE):
        chat = ChatSession.objects.create(user=user, title=title, configuration=configuration)
        question = Message.objects.create(session=chat, role="user", content=f"Why? {SCRIPT}")
        answer = Message.objects.create(
            session=chat, parent=question, role="assistant", content="Because."
        )
        run = Run.objects.create(
            user=user,
            session=chat,
            configuration=configuration,
            user_message=question,
            assistant_message=answer,
            status=status,
        )
        EventBatch.objects.create(run=run, first=1, last=1, lines="{}")
        UsageLog.objects.create(
            run=run,
            session=chat,
            user=user,
            username=user.username,
            configuration=configuration.slug,
            provider="demo",
            model="demo",
            status=status,
            cost_usd=Decimal("0.00047"),
            started_at=datetime(2026, 1, 1, tzinfo=UTC),
            ended_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        return chat

    return make


def address(model, page, *args):
    return reverse(f"admin:conversations_{model}_{page}", args=args)


def one_of(model):
    return apps.get_model("conversations", model)._default_manager.first()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("query", ["", "ada", "About", "%_'\"", "not-a-uuid", "x" * 10_000, "\x00"])
def test_each_list_can_be_browsed_and_searched(admin_client, talk, model, query):
    talk()
    assert admin_client.get(address(model, "changelist"), {"q": query}).status_code == 200


@pytest.mark.parametrize("model", ["run", "usagelog"])
def test_a_run_is_found_by_its_id(admin_client, talk, model):
    talk(), talk("Other")
    run = Run.objects.all()[0]
    for query in (str(run.pk), str(run.pk).upper()):
        page = admin_client.get(address(model, "changelist"), {"q": query})
        assert [row.pk for row in page.context["cl"].queryset] == [run.pk]


@pytest.mark.parametrize("model", MODELS)
def test_a_list_needs_no_more_queries_for_more_rows(
    admin_client, talk, model, django_assert_max_num_queries
):
    for number in range(12):
        talk(f"Chat {number}")
    with django_assert_max_num_queries(9):
        assert admin_client.get(address(model, "changelist")).status_code == 200


@pytest.mark.contract("A3")
@pytest.mark.parametrize("model", MODELS)
def test_a_page_shows_a_row_escaped_and_offers_no_change(admin_client, talk, model):
    talk(SCRIPT)
    url = address(model, "change", one_of(model).pk)
    for page in (admin_client.get(url).text, admin_client.get(address(model, "changelist")).text):
        assert "<script>alert" not in page
    assert 'name="_save"' not in admin_client.get(url).text
    assert admin_client.post(url, {"title": "New"}).status_code == 403
    assert admin_client.get(address(model, "add")).status_code == 403


@pytest.mark.parametrize("model", MODELS)
def test_the_pages_link_to_each_other_and_every_link_works(admin_client, talk, model):
    chat = talk()
    page = admin_client.get(address(model, "change", one_of(model).pk)).text
    links = {
        "chatsession": [
            f"{address('message', 'changelist')}?session__exact={chat.pk}",
            f"{address('run', 'changelist')}?session__exact={chat.pk}",
            f"{address('usagelog', 'changelist')}?session__exact={chat.pk}",
        ],
        "message": [f"{address('run', 'changelist')}?user_message__exact="],
        "run": [f"{address('usagelog', 'changelist')}?run__exact=", "/monitor/runs/"],
        "usagelog": [address("run", "change", Run.objects.get().pk)],
    }
    for link in links[model]:
        assert link in page
    for link in links["chatsession"]:
        response = admin_client.get(link)
        assert response.status_code == 200
        assert response.context["cl"].result_count > 0


@pytest.mark.contract("D1")
def test_a_usage_log_can_be_read_when_its_session_and_run_are_gone(admin_client, talk):
    chat = talk()
    run = Run.objects.get()
    chat.delete()
    page = admin_client.get(address("usagelog", "change", run.pk))
    assert page.status_code == 200
    assert str(run.pk) in page.text
    assert admin_client.get(address("usagelog", "changelist")).status_code == 200


@pytest.mark.parametrize("model", ["message", "run", "usagelog"])
def test_records_are_not_deleted_by_themselves(admin_client, talk, model):
    talk()
    row = one_of(model)
    assert admin_client.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    admin_client.post(
        address(model, "changelist"),
        {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"},
    )
    assert one_of(model) == row


def test_a_session_is_deleted_with_its_messages_and_runs_and_its_usage_stays(admin_client, talk):
    chat, other = talk(), talk("Other")
    confirmation = admin_client.get(address("chatsession", "delete", chat.pk)).text
    assert "About bees" in confirmation
    admin_client.post(address("chatsession", "delete", chat.pk), {"post": "yes"})
    assert list(ChatSession.objects.all()) == [other]
    assert (Message.objects.count(), Run.objects.count(), UsageLog.objects.count()) == (2, 1, 2)


def test_several_sessions_are_deleted_at_once(admin_client, talk):
    chats = [talk(), talk("Other")]
    admin_client.post(
        address("chatsession", "changelist"),
        {
            "action": "delete_selected",
            "_selected_action": [chat.pk for chat in chats],
            "post": "yes",
        },
    )
    assert not ChatSession.objects.exists()


@pytest.mark.contract("R6")
def test_a_session_whose_answer_is_being_written_is_not_deleted(admin_client, talk):
    chat = talk(status=Run.Status.RUNNING)
    response = admin_client.post(address("chatsession", "delete", chat.pk), {"post": "yes"})
    assert "stop it first" in response.text
    admin_client.post(
        address("chatsession", "changelist"),
        {"action": "delete_selected", "_selected_action": [chat.pk], "post": "yes"},
    )
    assert ChatSession.objects.exists()


def test_a_user_can_be_deleted_and_the_usage_stays(admin_client, talk):
    chat = talk()
    url = reverse("admin:auth_user_delete", args=[chat.user_id])
    admin_client.post(url, {"post": "yes"})
    assert not ChatSession.objects.exists()
    assert UsageLog.objects.get().username == "ada"


@pytest.mark.contract("A10")
@pytest.mark.parametrize("model", MODELS)
def test_staff_see_only_what_they_have_the_permission_for(client, django_user_model, talk, model):
    talk()
    user = django_user_model.objects.create_user("worker", is_staff=True)
    client.force_login(user)
    url = address(model, "change", one_of(model).pk)
    assert client.get(url).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename=f"view_{model}"))
    assert client.get(url).status_code == 200
    assert (
        client.post(
            address("chatsession", "delete", ChatSession.objects.get().pk), {"post": "yes"}
        ).status_code
        == 403
    )
