"""Starting a run: what is asked is checked first, and one send makes one run (S11, S12, C1, C9)."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group

from conversations.models import ChatSession, Message, Run
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import Provider, hang, head, openai_answer, send


@pytest.mark.contract("S11")
def test_a_send_answers_at_once_with_the_ids_and_addresses_of_its_run(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(hang())
    chat = ada.new_chat()
    answer = ada.send(chat, "hello")
    assert answer.status_code == 201
    run = answer.json()
    assert run == {
        "run_id": str(Run.objects.get().pk),
        "user_message_id": Message.objects.get().pk,
        "events_url": f"/runs/{run['run_id']}/events/",
        "stop_url": f"/runs/{run['run_id']}/stop/",
    }
    ada.stop(run)


@pytest.mark.contract("S11")
def test_a_repeated_key_never_makes_a_second_message_or_run(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("once", pause=0.05), model="double-1")
    chat = ada.new_chat()
    key = str(uuid4())
    with ThreadPoolExecutor(20) as threads:
        answers = list(
            threads.map(lambda _: ada.send(chat, "hello", idempotency_key=key), range(20))
        )
    assert sorted({answer.status_code for answer in answers}) == [200, 201]
    assert [answer.status_code for answer in answers].count(201) == 1
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    run = answers[0].json()
    assert text_of(ada.events(run)) == "once"
    assert ada.send(chat, "hello", idempotency_key=key).json() == run
    assert (Message.objects.count(), Run.objects.count()) == (2, 1)
    assert len(provider.requests) == 1


@pytest.mark.contract("S11")
def test_a_key_that_stands_for_another_request_is_refused(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("fine"), model="double-1")
    chat = ada.new_chat()
    run = ada.ask(chat, "hello", idempotency_key="k")
    ada.events(run)
    for fields in ({"prompt": "other"}, {"prompt": "hello", "temperature": 1}):
        answer = ada.post(f"/chat/{chat}/messages/", json={**fields, "idempotency_key": "k"})
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert Run.objects.count() == 1


def test_the_same_key_of_two_people_makes_two_runs(
    make_person: Any, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("fine"), model="double-1")
    ada, bob = make_person("ada"), make_person("bob")
    for person in (ada, bob):
        person.events(person.ask(person.new_chat(), "hello", idempotency_key="k"))
    assert Run.objects.count() == 2


@pytest.mark.contract("C9")
def test_a_second_send_in_a_session_is_refused_while_the_first_runs(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(hang())
    chat = ada.new_chat()
    run = ada.ask(chat, "first")
    answer = ada.send(chat, "second")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "RUN_IN_PROGRESS"
    assert Message.objects.count() == 1
    ada.stop(run)


@pytest.mark.contract("C9")
def test_of_sends_that_race_in_a_session_exactly_one_starts(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(head(), hang(), model="double-1")
    chat = ada.new_chat()
    barrier = threading.Barrier(6)

    def send_one(index: int) -> int:
        barrier.wait(10)
        return ada.send(chat, f"message {index}").status_code

    with ThreadPoolExecutor(6) as threads:
        statuses = sorted(threads.map(send_one, range(6)))
    assert statuses == [201, 409, 409, 409, 409, 409]
    assert Message.objects.count() == 1
    ada.post(f"/chat/{chat}/stop/")


def test_a_person_can_have_only_so_many_runs_at_a_time(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.RUNS_PER_USER = 2
    provider.route(head(), hang(), model="double-1")
    runs = [ada.ask(ada.new_chat(), "hello") for _ in range(2)]
    answer = ada.send(ada.new_chat(), "one too many")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    for run in runs:
        ada.stop(run)


BAD_VALUES = [
    ("prompt", ""),
    ("prompt", "   \n "),
    ("prompt", "x" * 5001),
    ("prompt", None),
    ("prompt", True),
    ("prompt", ["x"]),
    ("prompt", {"a": 1}),
    ("prompt", "nul \0 byte"),
    ("prompt", "half a pair \ud800"),
    ("temperature", 2.1),
    ("temperature", "-0.1"),
    ("temperature", "warm"),
    ("temperature", "NaN"),
    ("temperature", "Infinity"),
    ("temperature", "1e999"),
    ("temperature", True),
    ("temperature", [1]),
    ("top_p", 1.01),
    ("max_tokens", 0),
    ("max_tokens", 128_001),
    ("max_tokens", 1.5),
    ("max_tokens", "1e3"),
    ("max_tokens", False),
    ("context_limit", -1),
    ("context_limit", 101),
    ("context_limit", "10 messages"),
    ("idempotency_key", "x" * 201),
    ("idempotency_key", ["k"]),
]


@pytest.mark.contract("C1")
@pytest.mark.contract("S12")
def test_a_bad_value_is_named_and_nothing_is_stored(
    ada: Person, openai: Configuration, provider: Provider
):
    chat = ada.new_chat()
    for field, value in BAD_VALUES:
        body = json.dumps({"prompt": "hello", field: value})
        answer = ada.post(
            f"/chat/{chat}/messages/",
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422, (field, value, answer.text)
        assert list(answer.json()["errors"]) == [field], (field, value)
        assert answer.json()["errors"][field][0]
    assert not Message.objects.exists()
    assert not provider.requests


@pytest.mark.contract("C1")
def test_json_with_nan_is_refused_too(ada: Person, openai: Configuration):
    chat = ada.new_chat()
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        answer = ada.post(
            f"/chat/{chat}/messages/",
            content=f'{{"prompt":"x","temperature":{number}}}',
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422
        assert list(answer.json()["errors"]) == ["temperature"]


@pytest.mark.contract("S12")
@pytest.mark.parametrize("body", ["{", "", "[]", '"text"', b"\xff\xfe", "[" * 90_000])
def test_a_body_that_cannot_be_read_is_400(ada: Person, openai: Configuration, body: Any):
    answer = ada.post(
        f"/chat/{ada.new_chat()}/messages/",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "UNREADABLE"


@pytest.mark.contract("S12")
def test_a_body_that_is_too_large_is_413(ada: Person, openai: Configuration):
    answer = ada.send(ada.new_chat(), "x" * 2_000_000)
    assert answer.status_code == 413


@pytest.mark.contract("C1")
def test_numbers_may_come_as_texts_and_blank_ones_mean_the_default(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.max_tokens = 77
    openai.save()
    provider.reply(*openai_answer("ok"))
    run = ada.ask(
        ada.new_chat(), "hello", temperature="0.25", top_p="", max_tokens=None, context_limit=" 3 "
    )
    parameters = ada.events(run)[1].data["parameters"]
    assert parameters["temperature"] == 0.25
    assert parameters["top_p"] is None
    assert parameters["max_tokens"] == 77
    assert parameters["context_limit"] == 3
    body = provider.wait_for_request().json
    assert body["temperature"] == 0.25
    assert "top_p" not in body


@pytest.mark.contract("C1")
def test_a_form_is_taken_like_json_and_its_line_breaks_are_those_that_were_typed(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("ok"))
    chat = ada.new_chat()
    answer = ada.post(f"/chat/{chat}/messages/", data={"prompt": "a\r\nb", "temperature": "1"})
    assert answer.status_code == 201
    ada.events(answer.json())
    assert provider.wait_for_request().json["messages"][-1]["content"] == "a\nb"


@pytest.mark.contract("C1")
@pytest.mark.contract("P5")
def test_a_configuration_that_may_not_be_used_is_404(
    ada: Person, openai: Configuration, demo: Configuration, provider: Provider
):
    closed = Configuration.objects.create(name="c", slug="closed", kind="demo", model="demo")
    closed.allowed_groups.add(Group.objects.create(name="others"))
    inactive = Configuration.objects.create(
        name="i", slug="inactive", kind="demo", model="demo", is_active=False
    )
    chat = ada.new_chat()
    for name in ("nope", "999999", closed.slug, str(closed.pk), inactive.slug, str(inactive.pk)):
        answer = ada.send(chat, "hello", configuration_id=name)
        assert answer.status_code == 404, name
        assert answer.json()["error"]["code"] == "NOT_FOUND"
    assert not Message.objects.exists()


@pytest.mark.contract("P5")
def test_a_configuration_is_found_by_id_or_slug(
    ada: Person, openai: Configuration, demo: Configuration, provider: Provider
):
    chat = ada.new_chat()
    for name in (demo.pk, str(demo.pk), demo.slug):
        events = ada.events(ada.ask(chat, "/demo echo hi", configuration_id=name))
        assert events[1].data["metadata"]["configuration"] == "demo"


@pytest.mark.contract("C1")
def test_someone_elses_session_run_and_message_are_404_like_unknown_ones(
    make_person: Any, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("secret answer"))
    ada, eve = make_person("ada"), make_person("eve", is_staff=True)
    chat = ada.new_chat()
    run = ada.ask(chat, "hello")
    ada.events(run)
    message = run["user_message_id"]
    other = uuid4()
    for mine, unknown in [
        (f"/chat/{chat}/", f"/chat/{other}/"),
        (f"/chat/{chat}/context/", f"/chat/{other}/context/"),
        (run["events_url"], f"/runs/{other}/events/"),
        (f"/runs/{run['run_id']}/result/", f"/runs/{other}/result/"),
        (f"/messages/{message}/raw/", "/messages/987654/raw/"),
    ]:
        strange, missing = eve.get(mine), eve.get(unknown)
        assert (strange.status_code, missing.status_code) == (404, 404), mine
        assert strange.json() == missing.json()
    for mine in (
        f"/chat/{chat}/messages/",
        f"/chat/{chat}/rename/",
        f"/chat/{chat}/delete/",
        f"/chat/{chat}/stop/",
        f"/messages/{message}/delete/",
        f"/messages/{message}/retry/",
    ):
        assert eve.post(mine, json={"prompt": "x", "title": "x"}).status_code == 404, mine
    assert make_person("bob").post(run["stop_url"]).status_code == 404  # staff may stop any
    assert ChatSession.objects.get(pk=chat).title == "hello"


@pytest.mark.contract("C1")
def test_without_a_login_pages_redirect_and_the_rest_is_401(app: Any, ada: Person):
    import httpx

    chat = ada.new_chat()
    with httpx.Client(base_url=app.url, trust_env=False) as stranger:
        page = stranger.get(f"/chat/{chat}/", headers={"Accept": "text/html"})
        assert page.status_code == 302
        assert page.headers["Location"] == f"/accounts/login/?next=/chat/{chat}/"
        for path in (f"/runs/{uuid4()}/events/", f"/chat/{chat}/context/"):
            answer = stranger.get(path, headers={"Accept": "text/event-stream"})
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "NOT_SIGNED_IN"


@pytest.mark.contract("A6")
def test_a_post_without_a_token_stores_nothing(ada: Person, openai: Configuration):
    chat = ada.new_chat()
    for headers in ({}, {"X-CSRFToken": "x" * 32}):
        answer = ada.http.post(
            f"/chat/{chat}/messages/",
            json={"prompt": "x"},
            headers={"Accept": "application/json", **headers},
        )
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "CSRF_FAILED"
    assert not Message.objects.exists()


class TestTheOneRequestForm:
    """`GET /chat/stream/`, for plain EventSource clients."""

    OWN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"}

    def stream(self, ada: Person, headers: dict[str, str], **params: Any):
        return ada.http.get("/chat/stream/", params=params, headers=headers)

    @pytest.mark.contract("S11")
    def test_it_starts_a_run_and_follows_it(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer("Hello"))
        answer = self.stream(
            ada,
            self.OWN,
            session_id=ada.new_chat(),
            prompt="hi",
            configuration_id="double",
            temperature="0.5",
        )
        assert answer.status_code == 200
        assert '"type":"metadata"' in answer.text
        assert '"full_response":"Hello"' in answer.text
        assert Message.objects.count() == 2

    @pytest.mark.contract("S11")
    def test_an_event_source_that_reconnects_resumes_its_run_and_sends_nothing_again(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer("Hel", "lo", pause=0.02))
        params = {"session_id": ada.new_chat(), "prompt": "hi"}
        first = self.stream(ada, self.OWN, **params)
        ids = [line[4:] for line in first.text.split("\n") if line.startswith("id: ")]
        again = self.stream(ada, {**self.OWN, "Last-Event-ID": ids[2]}, **params)
        assert [line[4:] for line in again.text.split("\n") if line.startswith("id: ")] == ids[3:]
        ended = self.stream(ada, {**self.OWN, "Last-Event-ID": ids[-1]}, **params)
        assert ended.status_code == 204
        assert self.stream(ada, {**self.OWN, "Last-Event-ID": "x"}, **params).status_code == 400
        assert (Run.objects.count(), len(provider.requests)) == (1, 1)

    @pytest.mark.contract("A7")
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty"},
            {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"},
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"},
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "image"},
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "script"},
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "iframe"},
            {"Sec-Fetch-Site": "same-origin"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {**OWN, "Origin": "https://evil.example"},
        ],
    )
    def test_a_request_that_is_not_shown_to_be_our_own_is_refused(
        self, ada: Person, openai: Configuration, provider: Provider, headers: dict[str, str]
    ):
        answer = self.stream(ada, headers, session_id=ada.new_chat(), prompt="hi")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "FORBIDDEN"
        assert not Message.objects.exists()
        assert not provider.requests

    def test_bad_values_are_named(self, ada: Person, openai: Configuration):
        answer = self.stream(ada, self.OWN, session_id=ada.new_chat(), prompt="", temperature="9")
        assert answer.status_code == 422
        assert set(answer.json()["errors"]) == {"prompt", "temperature"}
        assert self.stream(ada, self.OWN, prompt="x").status_code == 422
        for unknown in (str(uuid4()), "x"):
            assert self.stream(ada, self.OWN, session_id=unknown, prompt="x").status_code == 404


class TestRetry:
    @pytest.mark.contract("C7")
    def test_a_failed_question_can_be_asked_again_and_counts_as_context_then(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(head(401, "application/json"), send("{}"))
        chat = ada.new_chat()
        failed = ada.ask(chat, "hello")
        ada.events(failed)
        assert Message.objects.get().status == "failed"
        provider.reply(*openai_answer("now it works"))
        answer = ada.post(f"/messages/{failed['user_message_id']}/retry/")
        assert answer.status_code == 201
        assert text_of(ada.events(answer.json())) == "now it works"
        assert answer.json()["user_message_id"] == failed["user_message_id"]
        provider.reply(*openai_answer("ok"))
        ada.events(ada.ask(chat, "and now"))
        contents = [m["content"] for m in provider.wait_for_request(3).json["messages"]]
        assert contents == ["hello", "now it works", "and now"]

    def test_a_failed_turn_is_left_out_of_the_next_request(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        chat = ada.new_chat()
        provider.reply(*openai_answer("fine"))
        ada.events(ada.ask(chat, "first"))
        provider.reply(*openai_answer("half of", finish=None, usage=None, done=False))
        assert ada.events(ada.ask(chat, "second"))[-1].type == "error"
        provider.reply(*openai_answer("ok"))
        events = ada.events(ada.ask(chat, "third"))
        contents = [m["content"] for m in provider.wait_for_request(3).json["messages"]]
        assert contents == ["first", "fine", "third"]
        assert [left["reason"] for left in events[1].data["left_out"]] == ["failed", "failed"]


@pytest.mark.contract("C1")
def test_programs_that_take_anything_are_answered_in_json(
    app: Any, ada: Person, openai: Configuration, provider: Provider
):
    import httpx

    provider.reply(*openai_answer("ok"))
    chat = ada.new_chat()
    token = {"X-CSRFToken": ada.http.cookies["csrftoken"], "Accept": "*/*"}
    answer = ada.http.post(f"/chat/{chat}/messages/", json={"prompt": "hi"}, headers=token)
    assert answer.status_code == 201
    ada.events(answer.json())
    with httpx.Client(base_url=app.url, trust_env=False) as stranger:
        for path in (answer.json()["events_url"], "/chat/stream/?prompt=x"):
            refused = stranger.get(path, headers={"Sec-Fetch-Site": "same-origin"})
            assert refused.headers["Content-Type"] == "application/json"
            assert refused.status_code in (401, 403)
        assert stranger.get("/").status_code == 302
        assert stranger.get(f"/chat/{chat}/").status_code == 302


@pytest.mark.contract("C2")
def test_room_is_kept_for_the_answer_that_a_kind_allows_by_itself(ada: Person, provider: Provider):
    """Anthropic has to be told a limit: what the request leaves free is that, not a guess."""
    configuration = Configuration(
        name="Claude",
        slug="claude",
        kind="anthropic",
        model="double-1",
        base_url=provider.url,
        context_window=20_000,
    )
    configuration.set_api_key("sk-ant-0123456789")
    configuration.save()
    chat = ada.new_chat()
    session = ChatSession.objects.get(pk=chat)
    parent = None
    for number in range(4):
        role = "assistant" if number % 2 else "user"
        parent = Message.objects.create(
            session=session, parent=parent, role=role, content="x", tokens=4_500
        )
    looked_at = ada.get(f"/chat/{chat}/context/").json()
    assert len(looked_at["included"]) == 2  # not the four that fit beside 1,024 tokens
    provider.reply(hang())
    run = ada.ask(chat, "hi")
    assert len(provider.wait_for_request(1).json["messages"]) == 3
    ada.stop(run)
