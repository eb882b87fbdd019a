"""The pages as the server writes them: what they show, escape, refuse and send along."""

import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import path

from conversations.models import ChatSession, Message, Preferences, Run, UsageLog
from llmchat import urls as site
from providers.models import Configuration
from tests.conftest import PASSWORD
from tests.people import Person
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, reset, send

HTML = "text/html,application/xhtml+xml"
HOSTILE = '</title></textarea><script>alert("1")</script><img src=x onerror=alert(1)>&amp;\'"'


@pytest.fixture
def ada_user(make_user: Callable[..., User]) -> User:
    return make_user("ada")


@pytest.fixture
def browser(ada_user: User) -> Client:
    """A browser in which Ada is signed in: it asks for HTML."""
    return signed_in(ada_user)


def signed_in(user: User, **headers: str) -> Client:
    client = Client(headers={"Accept": HTML, **headers})
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def text_of(response: Any) -> str:
    return response.content.decode()


def without_token(response: Any) -> str:
    """The page but for its CSRF token, which is masked anew each time."""
    return re.sub(r"[\w]{64}", "", text_of(response))


def make_turn(chat: ChatSession, question: str, answer: str) -> tuple[Message, Message]:
    """A question and its answer at the end of `chat`, as a run would have left them."""
    last = chat.messages.last()
    asked = Message.objects.create(session=chat, parent=last, role="user", content=question)
    said = Message.objects.create(session=chat, parent=asked, role="assistant", content=answer)
    return asked, said


def make_run(chat: ChatSession, asked: Message, said: Message | None, **usage: Any) -> Run:
    run = Run.objects.create(
        user=chat.user,
        session=chat,
        user_message=asked,
        assistant_message=said,
        configuration_slug="double",
        provider="openai",
        model="double-1",
        status=usage.get("status", "done"),
    )
    moment = run.started_at
    fields = {
        "model": "double-1",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_usd": "0.25",
        "status": "done",
    }
    UsageLog.objects.create(
        run=run,
        session=chat,
        user=chat.user,
        configuration="double",
        provider="openai",
        started_at=moment,
        ended_at=moment,
        **{**fields, **usage},
    )
    return run


class TestTheChatPage:
    def test_an_empty_chat_invites_to_ask(self, browser: Client, demo: Configuration):
        chat = ChatSession.objects.create(user=User.objects.get())
        answer = browser.get(f"/chat/{chat.pk}/")
        assert answer.status_code == 200
        page = text_of(answer)
        assert "<title>New chat · llmchat</title>" in page
        assert "What would you like to know?" in page
        assert "Ask Demo." in page
        assert 'lang="en"' in page

    def test_without_any_model_it_says_what_to_do(self, browser: Client, ada_user: User):
        page = text_of(browser.get("/", follow=True))
        assert "No model is ready to answer" in page
        assert "Ask your administrator" in page
        ada_user.is_staff = ada_user.is_superuser = True
        ada_user.save()
        assert "/admin/providers/configuration/add/" in text_of(browser.get("/", follow=True))

    def test_an_administrator_with_only_the_demo_is_led_to_a_real_provider(
        self, browser: Client, ada_user: User, demo: Configuration
    ):
        hint = "Only the built-in demo answers so far."
        assert hint not in text_of(browser.get("/", follow=True))
        ada_user.is_staff = ada_user.is_superuser = True
        ada_user.save()
        assert hint in text_of(browser.get("/", follow=True))
        Configuration.objects.create(name="x", slug="x", kind="ollama", model="m")
        assert hint not in text_of(browser.get("/", follow=True))

    def test_home_leads_to_the_last_chat_or_makes_a_first_one(
        self, browser: Client, ada_user: User, demo: Configuration
    ):
        first = browser.get("/")
        chat = ChatSession.objects.get()
        assert (chat.user, first["Location"]) == (ada_user, f"/chat/{chat.pk}/")
        newer = ChatSession.objects.create(user=ada_user, title="newer")
        assert browser.get("/")["Location"] == f"/chat/{newer.pk}/"
        assert ChatSession.objects.count() == 2

    def test_home_never_leads_to_somebody_elses_chat(
        self, browser: Client, make_user: Callable[..., User]
    ):
        theirs = ChatSession.objects.create(user=make_user("bob"))
        assert browser.get("/")["Location"] != f"/chat/{theirs.pk}/"

    def test_messages_are_shown_in_order_with_model_tokens_and_cost(
        self, browser: Client, ada_user: User
    ):
        chat = ChatSession.objects.create(user=ada_user, title="Prices")
        make_run(chat, *make_turn(chat, "What *is* it?", "It is **0.25**."))
        asked, said = make_turn(chat, "And now?", "Unknown.")
        make_run(chat, asked, said, cost_usd=None, is_estimated=True)
        page = text_of(browser.get(f"/chat/{chat.pk}/"))
        shown = ("What <em>is</em> it?", "<strong>0.25</strong>", "And now?", "Unknown.")
        places = [page.index(text) for text in shown]
        assert places == sorted(places)
        assert "10 in" in page
        assert "$0.25" in page
        assert "≈10 in" in page
        assert "cost unknown" in page

    @pytest.mark.contract("A9")
    def test_somebody_elses_chat_is_like_one_that_is_not_there(
        self, browser: Client, make_user: Callable[..., User]
    ):
        theirs = ChatSession.objects.create(user=make_user("bob"), title="their secret")
        missing = browser.get(f"/chat/{uuid4()}/")
        strange = browser.get(f"/chat/{theirs.pk}/")
        assert (strange.status_code, missing.status_code) == (404, 404)
        assert without_token(strange) == without_token(missing)

    @pytest.mark.contract("C7")
    def test_a_failed_run_is_still_shown_with_its_code(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        chat = ada.new_chat()
        provider.reply(head(401, "application/json"), send("{}"))
        ada.events(ada.ask(chat, "no key"))
        provider.reply(head(), send(openai_chunk("some text")), reset())
        ada.events(ada.ask(chat, "cut off"))
        page = page_of(ada, chat)
        assert "API_KEY_INVALID" in page
        assert "STREAM_INTERRUPTED" in page
        assert "some text" in page
        assert len(re.findall("<chat-answer", page)) == 2 + 1  # and the one to copy
        assert page.count("data-retry-label") == 1  # only where it can help

    def test_the_page_costs_the_same_number_of_queries_however_long_the_chat(
        self, browser: Client, ada_user: User, django_assert_max_num_queries: Any
    ):
        chat = ChatSession.objects.create(user=ada_user)
        for number in range(30):
            make_run(chat, *make_turn(chat, f"question {number}", "answer"))
        for number in range(30):
            ChatSession.objects.create(user=ada_user, title=f"chat {number}")
        with django_assert_max_num_queries(16):
            assert browser.get(f"/chat/{chat.pk}/").status_code == 200


class TestNewChats:
    def test_the_button_gives_an_untouched_chat_that_is_there_already(
        self, browser: Client, ada_user: User
    ):
        untouched = ChatSession.objects.create(user=ada_user)
        used = ChatSession.objects.create(user=ada_user)
        make_turn(used, "a", "b")
        assert browser.post("/chat/")["Location"] == f"/chat/{untouched.pk}/"
        # It is the latest now, where the person looks for it.
        assert browser.get("/")["Location"] == f"/chat/{untouched.pk}/"
        assert ChatSession.objects.count() == 2

    @pytest.mark.parametrize("why", ["renamed", "used", "somebody else's"])
    def test_a_chat_that_means_something_is_not_given_again(
        self, browser: Client, ada_user: User, make_user: Callable[..., User], why: str
    ):
        chat = ChatSession.objects.create(user=ada_user)
        if why == "renamed":
            ChatSession.objects.update(is_renamed=True, title="Plans")
        elif why == "used":
            make_turn(chat, "a", "b")
        else:
            ChatSession.objects.update(user=make_user("bob"))
        location = browser.post("/chat/")["Location"]
        assert location != f"/chat/{chat.pk}/"
        assert ChatSession.objects.get(pk=location.split("/")[2]).user == ada_user

    def test_a_program_always_gets_a_new_one(self, ada_user: User):
        program = signed_in(ada_user, Accept="application/json")
        told = [program.post("/chat/") for _ in range(2)]
        assert [answer.status_code for answer in told] == [201, 201]
        first, second = (answer.json() for answer in told)
        assert first["session_id"] != second["session_id"]
        assert first["url"] == f"/chat/{first['session_id']}/"


class TestTitles:
    def rename(self, client: Client, chat: ChatSession, title: Any, **headers: str) -> Any:
        return client.post(f"/chat/{chat.pk}/rename/", {"title": title}, headers=headers)

    def test_a_title_is_kept_with_its_white_space_tidied(self, browser: Client, ada_user: User):
        chat = ChatSession.objects.create(user=ada_user)
        answer = self.rename(browser, chat, "  two \t words\n")
        assert answer["Location"] == f"/chat/{chat.pk}/"
        chat.refresh_from_db()
        assert (chat.title, chat.is_renamed) == ("two words", True)
        part = self.rename(browser, chat, "x" * 200, **{"HX-Request": "true"})
        assert part.status_code == 200
        assert text_of(part).lstrip().startswith('<div class="title"')
        assert "x" * 200 in text_of(part)

    @pytest.mark.parametrize("title", ["", "   ", "\n\t", "x" * 201, "nul \0"])
    def test_a_bad_title_is_refused_and_changes_nothing(
        self, browser: Client, ada_user: User, title: str
    ):
        chat = ChatSession.objects.create(user=ada_user, title="before")
        answer = self.rename(browser, chat, title, **{"HX-Request": "true"})
        assert answer.status_code == 422
        assert list(answer.json()["errors"]) == ["title"]
        chat.refresh_from_db()
        assert (chat.title, chat.is_renamed) == ("before", False)

    @pytest.mark.parametrize("title", [True, ["x"], {"a": 1}, None])
    def test_a_title_that_is_no_text_is_refused(self, browser: Client, ada_user: User, title: Any):
        chat = ChatSession.objects.create(user=ada_user, title="before")
        body = json.dumps({"title": title})
        answer = browser.post(f"/chat/{chat.pk}/rename/", body, content_type="application/json")
        assert answer.status_code == 422
        chat.refresh_from_db()
        assert chat.title == "before"

    @pytest.mark.contract("A24")
    def test_fields_that_are_not_offered_are_ignored(
        self, browser: Client, ada_user: User, make_user: Callable[..., User]
    ):
        chat = ChatSession.objects.create(user=ada_user)
        fields = {"title": "ok", "user": make_user("bob").pk, "system_instructions": "evil"}
        browser.post(f"/chat/{chat.pk}/rename/", fields)
        chat.refresh_from_db()
        assert (chat.user, chat.system_instructions) == (ada_user, "")


def page_of(person: Person, chat: str) -> str:
    answer = person.http.get(f"/chat/{chat}/", headers={"Accept": HTML})
    assert answer.status_code == 200
    return answer.text


class TestSending:
    """What a browser posts, with and without HTMX."""

    HTMX = {"HX-Request": "true", "Accept": "*/*"}

    def post(self, person: Person, chat: str, headers: dict[str, str], **fields: str) -> Any:
        return person.post(f"/chat/{chat}/messages/", data=fields, headers=headers)

    @pytest.mark.contract("§8")
    def test_htmx_gets_the_two_bubbles(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(), send(openai_chunk("some text")), hang())
        chat = ada.new_chat()
        answer = self.post(ada, chat, self.HTMX, prompt="Is *this* it?")
        assert answer.status_code == 200
        assert "<html" not in answer.text
        assert answer.text.count("<article") == 2
        assert "<em>this</em>" in answer.text
        run = Run.objects.get()
        assert f'data-events-url="/runs/{run.pk}/events/?view=html"' in answer.text
        assert 'data-status="running"' in answer.text
        ada.post(f"/runs/{run.pk}/stop/")

    @pytest.mark.contract("S12")
    def test_htmx_gets_the_form_back_with_the_errors_and_the_text(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        chat = ada.new_chat()
        answer = self.post(ada, chat, self.HTMX, prompt="my text", temperature="9", max_tokens="0")
        assert answer.status_code == 422
        assert answer.text.lstrip().startswith("<chat-composer")
        assert "my text</textarea>" in answer.text
        assert answer.text.count('aria-invalid="true"') == 2
        assert 'value="9"' in answer.text
        long = "x" * 5_001
        answer = self.post(ada, chat, self.HTMX, prompt=long)
        assert answer.status_code == 422
        assert "5,001 characters" in answer.text
        assert f"{long}</textarea>" in answer.text
        assert not Message.objects.exists()

    def test_a_prompt_in_the_form_keeps_its_first_line_break(
        self, ada: Person, openai: Configuration
    ):
        answer = self.post(ada, ada.new_chat(), self.HTMX, prompt="\n\ntext", temperature="9")
        # The parser of HTML drops one line break after <textarea>.
        assert re.search(r"<textarea[^>]*>\n\n\ntext</textarea>", answer.text)

    def test_a_plain_form_works_without_scripts(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer("fine"))
        chat = ada.new_chat()
        form = {"Accept": HTML}
        answer = self.post(ada, chat, form, prompt="hello")
        assert (answer.status_code, answer.headers["Location"]) == (302, f"/chat/{chat}/")
        ada.events({"events_url": f"/runs/{Run.objects.get().pk}/events/"})
        assert "fine" in page_of(ada, chat)
        refused = self.post(ada, chat, form, prompt="my text", temperature="9")
        assert refused.status_code == 422
        assert "<html" in refused.text
        assert "my text</textarea>" in refused.text
        assert 'id="errors-temperature"><li>' in refused.text
        assert "hello" in refused.text  # the conversation is still there

    @pytest.mark.contract("C8")
    def test_who_has_streaming_off_gets_the_finished_bubbles(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        assert ada.post("/preferences/", data={}).status_code == 204
        provider.reply(*openai_answer("all **at once**"))
        chat = ada.new_chat()
        answer = self.post(ada, chat, self.HTMX, prompt="hello")
        assert 'data-status="done"' in answer.text
        assert "<strong>at once</strong>" in answer.text
        assert "data-events-url" not in answer.text
        assert blocks_in(answer.text) == blocks_in(page_of(ada, chat))

    def test_the_finished_answer_of_a_run_is_what_the_page_shows(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer("# A\n\n- b\n\n```py\nx\n```\n"))
        chat = ada.new_chat()
        run = ada.ask(chat, "hello")
        ada.events(run)
        result = ada.http.get(f"/runs/{run['run_id']}/result/", headers=self.HTMX)
        assert result.status_code == 200
        assert blocks_in(result.text) == blocks_in(page_of(ada, chat))

    def test_the_result_of_a_run_that_kept_nothing_is_empty(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(), hang())
        run = ada.ask(ada.new_chat(), "hello")
        ada.stop(run)
        assert ada.http.get(f"/runs/{run['run_id']}/result/").status_code == 204


def blocks_in(page: str) -> list[str]:
    return re.findall(
        r'<div class="block" data-block="\d+">(.*?)</div>(?=<div class="block"|</div>)', page, re.S
    )


class TestParts:
    def test_the_list_of_chats_is_ones_own_by_day_with_the_current_one_marked(
        self, browser: Client, ada_user: User, make_user: Callable[..., User]
    ):
        ChatSession.objects.create(user=make_user("bob"), title="not mine")
        old = ChatSession.objects.create(user=ada_user, title="from last year")
        ChatSession.objects.update(last_activity_at="2020-01-01T00:00:00Z")
        new = ChatSession.objects.create(user=ada_user, title="from today")
        part = text_of(browser.get(f"/chat/sidebar/?current={new.pk}"))
        assert "<html" not in part
        assert "not mine" not in part
        places = [part.index(text) for text in ("Today", "from today", "Older", "from last year")]
        assert places == sorted(places)
        assert part.count('aria-current="page"') == 1
        marked = re.search(r'<a [^>]*href="([^"]+)"[^>]*aria-current="page"', part)
        assert marked
        assert marked[1] == f"/chat/{new.pk}/"
        assert f"/chat/{old.pk}/" in part

    @pytest.mark.parametrize("current", ["", "x", "%00", "../../etc", str(uuid4())])
    def test_the_list_takes_any_current_chat(self, browser: Client, current: str):
        assert browser.get("/chat/sidebar/", {"current": current}).status_code == 200

    @pytest.mark.contract("H10")
    def test_a_chat_at_work_is_marked_in_the_list(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(), hang())
        run = ada.ask(ada.new_chat(), "busy")
        ada.new_chat()
        assert ada.http.get("/chat/sidebar/").text.count("data-running") == 1
        ada.stop(run)
        assert "data-running" not in ada.http.get("/chat/sidebar/").text

    def test_totals_are_those_of_all_runs_of_the_chat(self, browser: Client, ada_user: User):
        chat = ChatSession.objects.create(user=ada_user)
        other = ChatSession.objects.create(user=ada_user)

        def totals() -> str:
            page = text_of(browser.get(f"/chat/{chat.pk}/"))
            found = re.search(r'<p class="totals".*?</p>', page, re.DOTALL)
            assert found
            return " ".join(re.sub(r"<[^>]+>", " ", unescape(found[0])).split())

        assert totals() == "0 tokens $0"
        make_run(chat, *make_turn(chat, "a", "b"), prompt_tokens=1_200, cost_usd="0.00047")
        make_run(other, *make_turn(other, "a", "b"), prompt_tokens=9_999)
        assert totals() == "1,205 tokens $0.00047"
        asked, _ = make_turn(chat, "c", "d")
        make_run(chat, asked, None, status="error", completion_tokens=None, cost_usd=None)
        assert totals() == "1,215 tokens $0.00047"
        make_run(chat, *make_turn(chat, "e", "f"), cost_usd=None)
        assert totals() == "1,230 tokens at least $0.00047"

    @pytest.mark.contract("C2")
    def test_the_context_tells_what_would_be_sent_and_what_not_and_why(
        self, browser: Client, ada_user: User, demo: Configuration
    ):
        chat = ChatSession.objects.create(user=ada_user)
        turns = [make_turn(chat, f"question {n}", f"answer {n}") for n in range(3)]
        ids = [message.pk for turn in turns for message in turn]
        Message.objects.filter(pk__in=ids[2:4]).update(status="failed")

        def context(**query: Any) -> Any:
            return browser.get(f"/chat/{chat.pk}/context/", query)

        told = context().json()
        assert told["included"] == [*ids[:2], *ids[4:]]
        assert told["left_out"] == [{"id": pk, "reason": "failed"} for pk in ids[2:4]]
        assert told["input_tokens"] > 0
        assert context(context_limit=0).json()["included"] == []
        limited = context(context_limit="1").json()
        assert limited["included"] == ids[-1:]
        assert {"id": ids[0], "reason": "limit"} in limited["left_out"]
        demo.context_window = 10
        demo.save()
        small = context().json()
        assert small["context_window"] == 10
        assert {entry["reason"] for entry in small["left_out"]} == {"failed", "window"}
        assert context(context_limit=101).status_code == 422
        assert context(configuration_id="nope").status_code == 404

    def test_preferences_are_kept_for_each_person(
        self, browser: Client, ada_user: User, make_user: Callable[..., User], demo: Any
    ):
        def is_checked(client: Client) -> bool:
            page = text_of(client.get("/", follow=True))
            return bool(re.search(r'name="streams_answers"[^>]* checked', page))

        bob = signed_in(make_user("bob"))
        assert is_checked(browser)
        assert browser.post("/preferences/", {})["Location"] == "/"
        assert not is_checked(browser)
        assert is_checked(bob)
        part = browser.post("/preferences/", {"streams_answers": "on"}, headers={"HX-Request": "1"})
        assert part.status_code == 204
        assert is_checked(browser)
        assert Preferences.objects.filter(user=ada_user).count() == 1

    @pytest.mark.contract("H34")
    @pytest.mark.parametrize(
        ("cookie", "theme"),
        [("dark", "dark"), ("light", "light"), ('"><script>alert(1)</script>', None), ("", None)],
    )
    def test_the_theme_comes_with_the_page(
        self, browser: Client, demo: Configuration, cookie: str, theme: str | None
    ):
        browser.cookies["theme"] = cookie
        page = text_of(browser.get("/", follow=True))
        assert "<script>alert" not in page
        if theme:
            assert f'data-theme="{theme}"' in page
            assert f'<meta name="color-scheme" content="{theme}">' in page
        else:
            assert '<meta name="color-scheme" content="light dark">' in page


class TestDeleting:
    def test_what_followed_a_deleted_message_follows_the_one_before_it(
        self, browser: Client, ada_user: User
    ):
        chat = ChatSession.objects.create(user=ada_user)
        first, first_answer = make_turn(chat, "one question", "one answer")
        second, _ = make_turn(chat, "second question", "second answer")
        answer = browser.post(f"/messages/{first_answer.pk}/delete/")
        assert answer["Location"] == f"/chat/{chat.pk}/"
        second.refresh_from_db()
        assert second.parent == first
        browser.post(f"/messages/{first.pk}/delete/", headers={"HX-Request": "true"})
        second.refresh_from_db()
        assert second.parent is None
        page = text_of(browser.get(f"/chat/{chat.pk}/"))
        assert "one question" not in page
        assert "one answer" not in page
        assert page.index("second question") < page.index("second answer")

    @pytest.mark.contract("D1")
    def test_a_deleted_chat_takes_its_messages_and_leaves_its_usage(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer("fine"))
        chat = ada.new_chat()
        ada.events(ada.ask(chat, "hello"))
        assert ada.post(f"/chat/{chat}/delete/").status_code == 204
        assert not Message.objects.exists()
        assert not ChatSession.objects.exists()
        assert UsageLog.objects.get().completion_tokens == 7
        plain = ada.post(f"/chat/{ada.new_chat()}/delete/", headers={"Accept": HTML})
        assert (plain.status_code, plain.headers["Location"]) == (302, "/")

    @pytest.mark.contract("R6")
    def test_deleting_a_chat_at_work_stops_it_first(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(), send(openai_chunk("some text")), hang())
        chat = ada.new_chat()
        run = ada.ask(chat, "hello")
        with ada.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
        assert ada.post(f"/chat/{chat}/delete/").status_code == 204
        provider.wait_for_close()
        assert UsageLog.objects.get().status == "stopped"

    def test_nothing_is_deleted_from_under_an_answer_that_is_written(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(), hang())
        run = ada.ask(ada.new_chat(), "hello")
        answer = ada.post(f"/messages/{run['user_message_id']}/delete/")
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "RUN_IN_PROGRESS"
        ada.stop(run)

    @pytest.mark.parametrize("method", ["get", "head", "put", "delete", "patch"])
    def test_what_changes_something_is_done_by_post_alone(
        self, browser: Client, ada_user: User, method: str
    ):
        chat = ChatSession.objects.create(user=ada_user)
        message, _ = make_turn(chat, "a", "b")
        for address in (
            f"/chat/{chat.pk}/delete/",
            f"/chat/{chat.pk}/rename/",
            f"/chat/{chat.pk}/stop/",
            f"/messages/{message.pk}/delete/",
            f"/messages/{message.pk}/retry/",
            "/preferences/",
        ):
            assert getattr(browser, method)(address).status_code == 405, address
        assert Message.objects.count() == 2


class TestRaw:
    def test_a_message_is_given_as_it_was_written_and_never_as_a_page(
        self, browser: Client, ada_user: User
    ):
        chat = ChatSession.objects.create(user=ada_user)
        _, said = make_turn(chat, "a", "<script>alert(1)</script>\r\n日本")
        answer = browser.get(f"/messages/{said.pk}/raw/")
        assert answer.content.decode() == "<script>alert(1)</script>\r\n日本"
        assert answer["Content-Type"] == "text/plain; charset=utf-8"
        assert answer["X-Content-Type-Options"] == "nosniff"


class TestTheInspector:
    @pytest.fixture
    def run_id(self, ada: Person, openai: Configuration, provider: Provider) -> str:
        openai.system_instructions = HOSTILE
        openai.save()
        provider.reply(*openai_answer("fine"))
        run = ada.ask(ada.new_chat(), f"secret {HOSTILE}", temperature=0.5)
        ada.events(run)
        return str(run["run_id"])

    @pytest.mark.contract("M2")
    def test_ones_own_run_is_shown_as_a_page_and_as_a_part(
        self, ada: Person, run_id: str, provider: Provider
    ):
        page = ada.http.get(f"/monitor/runs/{run_id}/", headers={"Accept": HTML}).text
        part = ada.http.get(f"/monitor/runs/{run_id}/", headers={"HX-Request": "true"}).text
        assert "<html" in page
        assert "<html" not in part
        for shown in (page, part):
            assert re.findall("<details.*?<h3>(.*?)</h3>", shown, re.DOTALL)[:6] == [
                "Metadata",
                "Parameters",
                "System instructions",
                "Context messages",
                "Current prompt",
                "Full request body",
            ]
            assert '<script>alert("1")' not in shown
            assert "<img" not in shown.replace('<img src="/static/', "")
            copied = re.search(r'data-copy-text="body">(.*?)</div>', shown, re.DOTALL)
            assert copied
            assert unescape(copied[1]).encode() == provider.requests[0].body
            assert "marked-key" not in shown

    @pytest.mark.contract("M4")
    @pytest.mark.contract("A9")
    def test_staff_see_the_runs_of_others_and_strangers_do_not(
        self, run_id: str, make_user: Callable[..., User]
    ):
        staff = signed_in(make_user("sue", is_staff=True))
        eve = signed_in(make_user("eve"))
        assert "secret" in text_of(staff.get(f"/monitor/runs/{run_id}/"))
        strange, missing = eve.get(f"/monitor/runs/{run_id}/"), eve.get(f"/monitor/runs/{uuid4()}/")
        assert (strange.status_code, missing.status_code) == (404, 404)
        assert without_token(strange) == without_token(missing)
        nobody = Client(headers={"Accept": HTML}).get(f"/monitor/runs/{run_id}/")
        assert nobody["Location"] == f"/accounts/login/?next=/monitor/runs/{run_id}/"

    @pytest.mark.contract("C5")
    def test_the_receipt_of_a_stop_and_a_mismatch_are_shown(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(), send(openai_chunk("kept")), hang())
        run = ada.ask(ada.new_chat(), "hi")
        with ada.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
        address = f"/monitor/runs/{run['run_id']}/"
        assert "Stop receipt" not in ada.http.get(address).text
        receipt = ada.stop(run)["receipt"]
        assert "differed" not in ada.http.get(address).text
        Run.objects.update(mismatches=2)
        page = ada.http.get(address).text
        for told in ("Stop receipt", receipt["stopped_at"], "<dd>ada</dd>", "<dd>3</dd>"):
            assert told in page
        assert "differed from what is stored, 2 times" in page
        chat = ada.http.get(f"/chat/{ChatSession.objects.get().pk}/").text
        assert 'title="After event 3. The connection to the provider was closed in ' in chat
        assert "Stopped by you" in chat

    def test_the_way_back_leads_to_ones_own_chat_and_never_to_a_404(
        self, ada: Person, run_id: str, make_user: Callable[..., User]
    ):
        back = f'href="/chat/{ChatSession.objects.get().pk}/"'
        staff = signed_in(make_user("sue", is_staff=True))
        assert back not in text_of(staff.get(f"/monitor/runs/{run_id}/"))
        assert back in ada.http.get(f"/monitor/runs/{run_id}/", headers={"Accept": HTML}).text


class TestEscaping:
    @pytest.mark.contract("A3")
    def test_what_people_and_providers_say_is_text_on_every_page(
        self, ada_user: User, browser: Client, demo: Configuration
    ):
        ada_user.first_name = HOSTILE[:150]
        ada_user.save()
        demo.name = HOSTILE[:100]
        demo.save()
        chat = ChatSession.objects.create(user=ada_user, title=HOSTILE)
        asked, said = make_turn(chat, HOSTILE, HOSTILE)
        said.reasoning = HOSTILE
        said.tool_calls = [{"id": "1", "name": HOSTILE, "arguments": HOSTILE}]
        said.save()
        run = make_run(chat, asked, None, status="error", model=HOSTILE)
        Run.objects.update(
            error_code="PROVIDER_ERROR", error_message=HOSTILE, is_recoverable=True, status="error"
        )
        for address in (
            f"/chat/{chat.pk}/",
            f"/chat/sidebar/?current={chat.pk}",
            f"/runs/{run.pk}/result/",
            f"/monitor/runs/{run.pk}/",
        ):
            page = text_of(browser.get(address))
            assert "&lt;script&gt;alert(" in page or "&lt;/title&gt;" in page, address
            assert "<script>alert" not in page, address
            assert "<img src=x" not in page, address
            assert "</title></textarea>" not in page, address

    @pytest.mark.contract("A3")
    def test_a_refused_prompt_comes_back_as_text(self, ada_user: User, browser: Client, demo: Any):
        chat = ChatSession.objects.create(user=ada_user)
        fields = {"prompt": HOSTILE, "temperature": "9", "configuration_id": HOSTILE * 2}
        answer = browser.post(f"/chat/{chat.pk}/messages/", fields)
        assert answer.status_code == 422
        assert "<script>alert" not in text_of(answer)
        shown = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", text_of(answer), re.DOTALL)
        assert shown
        assert unescape(shown[1]) == HOSTILE


def fail(request: Any) -> HttpResponse:
    raise RuntimeError("secret detail")


class WithAFailingPage:
    """The site's addresses, and one whose view fails."""

    urlpatterns = [*site.urlpatterns, path("fails/", fail)]
    handler400, handler403, handler404, handler500 = (
        site.handler400,
        site.handler403,
        site.handler404,
        site.handler500,
    )


@pytest.mark.contract("A5")
class TestHeaders:
    POLICY = {
        "default-src": "'self'",
        "img-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "form-action": "'self'",
    }

    def check(self, answer: Any, address: str) -> None:
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer["Content-Security-Policy"].split(";")
            if part.strip()
        )
        for name, value in self.POLICY.items():
            assert policy[name] == value, (address, name)
        assert "unsafe" not in answer["Content-Security-Policy"], address
        assert answer["X-Content-Type-Options"] == "nosniff", address
        assert answer["Referrer-Policy"] == "same-origin", address
        assert "Server" not in answer, address

    def check_text(self, page: str, address: str) -> None:
        """Nothing inline, and nothing from elsewhere."""
        assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>\s*\S", page), address
        assert "<style" not in page, address
        assert not re.search(r"<[^>]+\sstyle=", page), address
        assert not re.search(r"<[^>]+\son\w+=", page), address
        for source in re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="([^"]+)"', page):
            assert source.startswith(("/static/", "/admin/jsi18n/")), (address, source)

    def test_every_page_has_them(self, ada_user: User, demo: Configuration):
        ada_user.is_staff = ada_user.is_superuser = True
        ada_user.save()
        browser = signed_in(ada_user)
        chat = ChatSession.objects.create(user=ada_user)
        asked, said = make_turn(chat, "a", "b")
        run = make_run(chat, asked, said)
        for address in (
            f"/chat/{chat.pk}/",
            "/chat/sidebar/",
            f"/monitor/runs/{run.pk}/",
            f"/messages/{said.pk}/raw/",
            "/help/",
            "/healthz",
            "/admin/",
            "/admin/providers/configuration/",
            f"/admin/providers/configuration/{demo.pk}/change/",
            "/admin/conversations/run/",
            "/admin/nothing/",
            "/nothing/",
            f"/chat/{uuid4()}/",
        ):
            answer = browser.get(address, follow=True)
            self.check(answer, address)
            if answer["Content-Type"].startswith("text/html"):
                self.check_text(text_of(answer), address)

    def test_the_login_and_refusals_have_them(self, ada_user: User, settings: Any):
        settings.AXES_FAILURE_LIMIT = 1
        browser = Client(headers={"Accept": HTML}, enforce_csrf_checks=True)
        self.check(browser.get("/accounts/login/"), "login")
        self.check_text(text_of(browser.get("/accounts/login/")), "login")
        csrf = browser.post("/accounts/login/", {"username": "ada", "password": PASSWORD})
        assert csrf.status_code == 403
        self.check(csrf, "csrf")
        self.check_text(text_of(csrf), "csrf")
        lenient = Client(headers={"Accept": HTML})
        for _ in range(2):
            locked = lenient.post("/accounts/login/", {"username": "ada", "password": "wrong"})
        assert locked.status_code in (403, 429)
        self.check(locked, "locked")
        host = browser.get("/accounts/login/", headers={"Host": "evil.example"})
        assert host.status_code == 400
        self.check(host, "bad host")

    def test_a_page_that_fails_has_them_and_tells_no_detail(
        self, browser: Client, settings: Any, caplog: Any
    ):
        settings.ROOT_URLCONF = WithAFailingPage
        browser.raise_request_exception = False
        answer = browser.get("/fails/")
        assert answer.status_code == 500
        self.check(answer, "500")
        self.check_text(text_of(answer), "500")
        assert "secret detail" not in text_of(answer)
        assert "Traceback" not in text_of(answer)
        program = browser.get("/fails/", headers={"Accept": "application/json"})
        assert program.json()["error"]["code"] == "INTERNAL_ERROR"
        assert "secret detail" in caplog.text

    def test_json_and_streams_have_them_too(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer("fine"))
        chat = ada.new_chat()
        run = ada.ask(chat, "hello")
        for answer in (
            ada.get(run["events_url"]),
            ada.get(f"/chat/{chat}/context/"),
            ada.get("/nothing/"),
            ada.post(f"/chat/{chat}/messages/", json={"prompt": ""}),
        ):
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]

    def test_what_is_private_is_not_kept_in_caches(
        self, browser: Client, ada_user: User, demo: Configuration
    ):
        chat = ChatSession.objects.create(user=ada_user)
        _, said = make_turn(chat, "a", "b")
        for address in (f"/chat/{chat.pk}/", "/chat/sidebar/", f"/messages/{said.pk}/raw/"):
            assert "no-store" in browser.get(address)["Cache-Control"], address


def test_a_stranger_is_sent_to_the_login_and_back(client: Client, ada_user: User):
    chat = ChatSession.objects.create(user=ada_user)
    stranger = Client(headers={"Accept": HTML})
    answer = stranger.get(f"/chat/{chat.pk}/")
    assert answer["Location"] == f"/accounts/login/?next=/chat/{chat.pk}/"
    form = stranger.get(answer["Location"])
    assert f'name="next" value="/chat/{chat.pk}/"' in text_of(form)
    fields = {"username": "ada", "password": PASSWORD, "next": f"/chat/{chat.pk}/"}
    assert stranger.post("/accounts/login/", fields)["Location"] == f"/chat/{chat.pk}/"


@pytest.mark.contract("A14")
def test_a_login_page_repeats_no_hostile_address(client: Client, ada_user: User):
    page = text_of(client.get("/accounts/login/", {"next": '"><script>alert(1)</script>'}))
    assert "<script>alert" not in page
