"""GET and POST /api/v1/llm/complete/stream (contract A2)."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from conversations.models import Run, UsageLog
from providers.models import Configuration
from tests.faults.checks import wait_for_ends
from tests.people import Person
from tests.servers.provider import (
    Provider,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    send,
)

pytestmark = [pytest.mark.contract("A2"), pytest.mark.usefixtures("openai")]

PATH = "/api/v1/llm/complete/stream"
OWN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
MESSAGES = [{"role": "user", "content": "hello"}]


def query(messages: Any = MESSAGES, **options: Any) -> dict[str, str]:
    return {"messages": json.dumps(messages), "options": json.dumps(options)}


def read(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each of which is `data` and mostly an `id`."""
    return [
        json.loads(line.removeprefix("data: "))
        for line in text.split("\n")
        if line.startswith("data: ")
    ]


def test_each_event_is_a_text_and_the_last_says_done(http: httpx.Client, provider: Provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    answer = http.get(PATH, params=query(model="double", temperature=0.5, max_tokens=9))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-cache"
    events = read(answer.text)
    assert "".join(event["text"] for event in events[:-1]) == "Hello there"
    assert events[-1]["text"] == "[DONE]"
    for event in events:
        assert set(event) == {"text", "metadata"}
        assert set(event["metadata"]) == {"model", "provider", "timestamp"}
        assert (event["metadata"]["model"], event["metadata"]["provider"]) == (
            "double-1",
            "openai",
        )
        assert datetime.fromisoformat(event["metadata"]["timestamp"]).tzinfo
    sent = provider.requests[0].json
    assert (sent["temperature"], sent["max_completion_tokens"]) == (0.5, 9)
    assert UsageLog.objects.get().origin == "api"


def test_without_a_model_the_default_one_answers(
    http: httpx.Client, provider: Provider, demo: Configuration
):
    Configuration.objects.filter(slug="double").update(is_default=True)
    provider.reply(*openai_answer("ok"))
    assert http.get(PATH, params={"messages": json.dumps(MESSAGES)}).status_code == 200
    assert len(provider.requests) == 1


def test_the_same_can_be_posted_as_json(http: httpx.Client, provider: Provider):
    provider.reply(*openai_answer('{"a":1}'))
    options = {"model": "double", "response_format": {"type": "json_object"}}
    answer = http.post(PATH, json={"messages": MESSAGES, "options": options})
    assert "".join(event["text"] for event in read(answer.text)) == '{"a":1}[DONE]'
    assert provider.requests[0].json["response_format"] == {"type": "json_object"}


def test_a_failure_before_the_first_text_is_the_status_of_the_answer(
    http: httpx.Client, provider: Provider, settings: Any
):
    settings.MAX_ATTEMPTS = 1
    provider.reply(*json_answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "9"}))
    answer = http.get(PATH, params=query(model="double"))
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    assert answer.headers["Retry-After"] == "9"


def test_a_failure_after_that_is_said_before_the_end(http: httpx.Client, provider: Provider):
    provider.reply(head(), send(openai_chunk("half")), send(b"data: {oops\n\n"))
    events = read(http.get(PATH, params=query(model="double")).text)
    assert [event["text"] for event in events] == ["half", "", "[DONE]"]
    assert events[1]["error"]["code"] == "PROVIDER_ERROR"


@pytest.mark.contract("A3")
def test_the_run_ends_with_its_client(http: httpx.Client, provider: Provider):
    provider.reply(head(), send(openai_chunk("some words")), hang())
    with http.stream("GET", PATH, params=query(model="double")) as response:
        next(response.iter_raw())
    provider.wait_for_close()
    wait_for_ends()
    assert UsageLog.objects.get().status == "stopped"


@pytest.mark.contract("S11")
def test_who_comes_back_gets_the_rest_and_asks_nothing_again(
    http: httpx.Client, provider: Provider
):
    provider.reply(*openai_answer("one ", "two"))
    first = http.get(PATH, params=query(model="double"))
    run = Run.objects.get()
    rest = http.get(PATH, params=query(model="double"), headers={"Last-Event-ID": f"{run.pk}:2"})
    told = [event["text"] for event in read(rest.text)]
    assert "".join(told) == "one two[DONE]"
    last = [line for line in first.text.split("\n") if line.startswith("id: ")][-1][4:]
    over = http.get(PATH, params=query(model="double"), headers={"Last-Event-ID": last})
    assert over.status_code == 204
    bad = http.get(PATH, params=query(model="double"), headers={"Last-Event-ID": "nonsense"})
    assert bad.status_code == 400
    assert len(provider.requests) == 1


# ---- who may


@pytest.mark.contract("A7")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"},
        {"Origin": "https://evil.example"},
    ],
)
def test_the_login_cookie_opens_it_from_the_apps_own_page_only(
    ada_at_the_page: Person, provider: Provider, headers: dict[str, str]
):
    answer = ada_at_the_page.get(PATH, params=query(model="double"), headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "FORBIDDEN"
    assert not Run.objects.exists()


def test_a_page_of_the_app_uses_it_with_the_login_cookie(
    ada_at_the_page: Person, provider: Provider
):
    provider.route(*openai_answer("ok"))
    got = ada_at_the_page.get(PATH, params=query(model="double"), headers=OWN)
    assert read(got.text)[-1]["text"] == "[DONE]"
    body = {"messages": MESSAGES, "options": {"model": "double"}}
    assert ada_at_the_page.post(PATH, json=body).status_code == 200
    run = Run.objects.first()
    assert run is not None
    assert (run.origin, run.api_token) == ("api", None)


@pytest.mark.contract("A6")
def test_a_post_with_the_login_cookie_needs_the_csrf_token(
    ada_at_the_page: Person, provider: Provider
):
    body = {"messages": MESSAGES, "options": {"model": "double"}}
    for headers in ({}, {"X-CSRFToken": "x" * 64}):
        answer = ada_at_the_page.http.post(PATH, json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "CSRF_FAILED"
    assert not Run.objects.exists()


def test_strangers_and_bad_tokens_get_nothing(
    program: Callable[[str], httpx.Client], provider: Provider
):
    assert program("").get(PATH, params=query(), headers=OWN).status_code == 401
    assert program("llmchat-wrong").get(PATH, params=query()).status_code == 401
    assert program("").delete(PATH).status_code == 405


@pytest.mark.contract("A20")
@pytest.mark.parametrize(
    ("params", "status", "field"),
    [
        ({}, 422, "messages"),
        ({"messages": "[]"}, 422, "messages"),
        ({"messages": "{"}, 400, ""),
        ({"messages": json.dumps(MESSAGES), "options": "[]"}, 422, "options"),
        ({"messages": json.dumps(MESSAGES), "options": "nope"}, 400, ""),
        (query(temperature=9), 422, "options.temperature"),
        (query(max_tokens="many"), 422, "options.max_tokens"),
        (query(model="none"), 404, ""),
        (query([{"role": "x"}]), 422, "messages[0].role"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(
    http: httpx.Client, params: dict[str, str], status: int, field: str
):
    answer = http.get(PATH, params=params)
    assert answer.status_code == status, answer.text
    if field:
        assert list(answer.json()["errors"]) == [field]
    else:
        assert answer.json()["error"]["message"]
    assert not Run.objects.exists()
