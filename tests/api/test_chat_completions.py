"""POST /v1/chat/completions: what of a call reaches the provider, and what is told of it (A1)."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from conversations import tokens
from conversations.journal import stored_events
from conversations.models import ChatSession, Message, Run
from providers.adapters.base import JSON_INSTRUCTIONS
from providers.models import Configuration
from tests.api.conftest import call
from tests.people import Person
from tests.servers.provider import Provider, openai_answer

pytestmark = pytest.mark.usefixtures("openai")

PATH = "/v1/chat/completions"


@pytest.fixture
def asked(http: httpx.Client, provider: Provider) -> Callable[..., Any]:
    """Makes a call, and gives the body that the provider got."""

    def ask(**fields: Any) -> Any:
        provider.reply(*openai_answer("ok"))
        answer = http.post(PATH, json=call(**fields))
        assert answer.status_code == 200, answer.text
        return provider.requests[-1].json

    return ask


def told(run: Run) -> dict[str, Any]:
    """The `request_data` of a run (S5)."""
    return next(event.fields for event in stored_events(run.pk) if event.type == "request_data")


# ---- parameters


@pytest.mark.contract("A1")
def test_parameters_reach_the_provider_as_they_were_given(asked: Callable[..., Any]):
    given = {
        "temperature": 0.3,
        "top_p": 0.9,
        "stop": ["END", "STOP"],
        "seed": 0,
        "presence_penalty": -0.5,
        "frequency_penalty": 1,
        "logit_bias": {"50256": -100},
        "reasoning_effort": "high",
    }
    sent = asked(**given, max_tokens=50)
    assert {name: sent[name] for name in given} == given
    assert sent["max_completion_tokens"] == 50  # as the kind openai says it


@pytest.mark.contract("A1")
@pytest.mark.parametrize("empty", [None, ""])
def test_what_is_not_given_is_not_sent(asked: Callable[..., Any], empty: Any):
    plain = asked()
    assert set(plain) == {"model", "messages", "stream", "stream_options"}
    assert asked(temperature=empty, max_tokens=empty, stop=None, tools=None, seed=empty) == plain


def test_the_newer_name_of_a_limit_wins(asked: Callable[..., Any]):
    assert asked(max_tokens=5, max_completion_tokens=7)["max_completion_tokens"] == 7


def test_the_defaults_of_the_configuration_hold_for_what_was_not_said(
    asked: Callable[..., Any], openai: Configuration
):
    Configuration.objects.update(temperature=0.1, system_instructions="Be brief.")
    sent = asked()
    assert sent["temperature"] == 0.1
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    own = [{"role": "developer", "content": "Be long."}, {"role": "user", "content": "hi"}]
    sent = asked(messages=own, temperature=1)
    assert sent["temperature"] == 1
    assert [message["content"] for message in sent["messages"]] == ["Be long.", "hi"]


def test_a_model_is_asked_in_words_for_json_that_it_knows_no_other_way_for(
    asked: Callable[..., Any], openai: Configuration
):
    Configuration.objects.update(capabilities=["text"])
    sent = asked(response_format={"type": "json_object"})
    assert "response_format" not in sent
    assert sent["messages"][0] == {"role": "system", "content": JSON_INSTRUCTIONS}


@pytest.mark.contract("A17")
def test_where_a_request_goes_and_with_which_key_is_not_the_callers_to_say(
    http: httpx.Client, provider: Provider
):
    provider.reply(*openai_answer("ok"))
    plain = http.post(PATH, json=call())
    provider.reply(*openai_answer("ok"))
    evil: dict[str, Any] = {
        "api_base": "http://127.0.0.1:9",
        "base_url": "http://127.0.0.1:9",
        "api_key": "sk-theirs",
        "headers": {"X-Evil": "1"},
        "extra_headers": {"X-Evil": "1"},
        "extra_body": {"model": "other"},
    }
    answer = http.post(PATH, json=call(**evil))
    assert (plain.status_code, answer.status_code) == (200, 200)
    assert answer.headers["X-LLMChat-Ignored"] == ", ".join(sorted(evil))
    first, second = provider.requests
    assert (first.headers, first.body) == (second.headers, second.body)


# ---- what is told


@pytest.mark.contract("S5")
def test_what_is_told_of_the_request_is_what_was_sent(asked: Callable[..., Any]):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    sent = asked(messages=messages, seed=7)
    said = told(Run.objects.get())
    assert said["full_request_body"] == sent
    assert said["system_instructions"] == "Be brief."
    assert [message["content"] for message in said["context_messages"]] == ["one", "two"]
    assert said["current_prompt"] == "three"
    assert said["parameters"]["seed"] == 7
    assert said["parameters"]["actual_context_size"] == 2
    assert Run.objects.get().input_tokens > 0


@pytest.mark.contract("A1")
def test_a_call_is_on_the_monitor_like_any_other(
    http: httpx.Client, provider: Provider, ada_at_the_page: Person
):
    provider.reply(*openai_answer("ok"))
    answer = http.post(PATH, json=call("look at me"))
    page = ada_at_the_page.http.get(answer.headers["X-LLMChat-Inspector"])
    assert page.status_code == 200
    assert "look at me" in page.text


def test_the_answer_says_what_may_still_be_called(http: httpx.Client, provider: Provider):
    provider.route(*openai_answer("ok"))
    left = [
        http.post(PATH, json=call()).headers["x-ratelimit-remaining-requests"] for _ in range(2)
    ]
    assert left == ["59", "58"]


# ---- saved


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"X-LLMChat-Save": "true"}, {}),
        ({}, {"metadata": {"llmchat_save": "true"}}),
    ],
    ids=["by a header", "by metadata"],
)
def test_a_call_can_be_kept_as_a_session(
    http: httpx.Client,
    provider: Provider,
    ada_at_the_page: Person,
    headers: dict[str, str],
    fields: dict[str, Any],
):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "What comes after two?"},
    ]
    provider.reply(*openai_answer("three"))
    answer = http.post(PATH, json=call(**fields, messages=messages), headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "three"
    chat = ChatSession.objects.get()
    assert (chat.title, chat.system_instructions) == ("What comes after two?", "Be brief.")
    branch = list(Message.objects.order_by("pk").values_list("role", "content"))
    assert branch == [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "What comes after two?"),
        ("assistant", "three"),
    ]
    page = ada_at_the_page.http.get(answer.headers["X-LLMChat-Session"])
    assert page.status_code == 200
    assert "What comes after two?" in page.text

    # And it can be gone on with there.
    provider.reply(*openai_answer("four"))
    run = ada_at_the_page.ask(str(chat.pk), "And then?")
    assert ada_at_the_page.events(run)[-1].data["full_response"] == "four"
    sent = [message["content"] for message in provider.requests[-1].json["messages"]]
    assert sent == ["Be brief.", "one", "two", "What comes after two?", "three", "And then?"]


def test_a_call_with_the_results_of_tools_can_be_kept_and_gone_on_with(
    http: httpx.Client, provider: Provider, ada_at_the_page: Person
):
    made = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    provider.reply(*openai_answer("It is 42."))
    answer = http.post(PATH, json=call(messages=messages, metadata={"llmchat_save": "true"}))
    assert answer.status_code == 200
    page = ada_at_the_page.http.get(answer.headers["X-LLMChat-Session"])
    assert "It is 42." in page.text
    provider.reply(*openai_answer("Yes."))
    run = ada_at_the_page.ask(str(ChatSession.objects.get().pk), "Sure?")
    assert ada_at_the_page.events(run)[-1].type == "done"
    sent = provider.requests[-1].json["messages"]
    assert {message["role"] for message in sent} == {"user", "assistant"}  # no result without call


@pytest.mark.contract("G5")
def test_a_saved_call_that_is_sent_again_with_its_key_is_made_once(
    http: httpx.Client, provider: Provider
):
    provider.route(*openai_answer("all of it", pause=0.05))
    headers = {"X-LLMChat-Save": "true", "Idempotency-Key": "k-1"}
    with ThreadPoolExecutor(3) as threads:
        answers = list(
            threads.map(lambda _: http.post(PATH, json=call(), headers=headers), range(3))
        )
    answers.append(http.post(PATH, json=call(), headers=headers))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["X-LLMChat-Session"] for answer in answers}) == 1
    assert len(provider.requests) == 1
    assert (Run.objects.count(), ChatSession.objects.count()) == (1, 1)
    other = http.post(PATH, json=call("something else"), headers=headers)
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert ChatSession.objects.count() == 1


def test_nothing_is_kept_unless_it_is_asked_for(asked: Callable[..., Any]):
    asked(metadata={"llmchat_save": "false", "other": "thing"})
    assert not ChatSession.objects.exists()
    assert not Message.objects.exists()


def test_the_events_of_a_run_can_be_followed_with_the_token_that_made_it_and_no_other(
    http: httpx.Client,
    program: Callable[[str], httpx.Client],
    provider: Provider,
    user: User,
    make_user: Callable[..., User],
):
    provider.reply(*openai_answer("all of it"))
    events = http.post(PATH, json=call()).headers["X-LLMChat-Events"]
    followed = http.get(events)
    assert followed.status_code == 200
    assert '"full_response":"all of it"' in followed.text
    last = followed.text.strip().splitlines()[-2].removeprefix("id: ")
    assert http.get(events, headers={"Last-Event-ID": last}).status_code == 204
    _, others = tokens.make(make_user("bob"), "other")
    _, second = tokens.make(user, "second")
    for secret in (others, second):
        answer = program(secret).get(events)
        assert answer.status_code == 404
        assert json.loads(answer.text)["error"]["code"] == "NOT_FOUND"
