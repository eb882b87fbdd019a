"""What the kind `anthropic` asks for, and what its failures are. Answers: see test_adapters."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest

from providers import client, probe
from providers.adapters import registry
from providers.adapters.anthropic import DEFAULT_MAX_TOKENS, Anthropic
from providers.adapters.base import ChatMessage, Feature, ModelInfo, Parameters, Target
from providers.client import Limits
from providers.errors import InvalidRequest, ProviderError
from providers.events import Finish, FinishReason, TextDelta
from providers.models import Configuration
from tests.providers.answers import read
from tests.servers.provider import bytewise, head, json_answer, send, sse

RECORDINGS = Path(__file__).parents[2].parent / "shared" / "wire" / "recordings"
KEY = "sk-ant-marked-7f3a"
MESSAGES = [ChatMessage("system", "Be brief."), ChatMessage("user", "größe?")]
ALL = Parameters(temperature=0.5, top_p=0.9, max_tokens=100)
OLD = "claude-3-5-haiku-20241022"  # takes every parameter


def adapter(model=OLD, base_url="", **target):
    return Anthropic(Target("Conf", model, base_url, **target))


def asked(messages=MESSAGES, parameters=ALL, **target):
    return adapter(**target).request(messages, parameters).body


def recorded(name):
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


# --- where to, and with what headers


@pytest.mark.contract("P6")
@pytest.mark.parametrize(
    ("base_url", "start"),
    [
        ("", "https://api.anthropic.com/v1"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1"),
        ("http://h:1", "http://h:1/v1"),
        (" http://h:1/v1 ", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("http://h/api", "http://h/api/v1"),
        ("http://h/anthropic/v1", "http://h/anthropic/v1"),
        ("http://h/v1/messages", "http://h/v1"),
        ("http://h/v1/messages/", "http://h/v1"),
        ("http://h/v1/models", "http://h/v1"),
        ("http://h/gateway/messages", "http://h/gateway"),
    ],
)
def test_a_base_url_works_however_it_is_typed(base_url, start):
    asking = adapter(base_url=base_url)
    assert asking.request(MESSAGES, ALL).url == f"{start}/messages"
    assert asking.models_request().url == f"{start}/models?limit=1000"


def test_the_query_of_a_base_url_is_kept():
    asking = adapter(base_url="http://h/v1/messages?beta=true")
    assert asking.request(MESSAGES, ALL).url == "http://h/v1/messages?beta=true"
    assert asking.models_request().url == "http://h/v1/models?beta=true&limit=1000"


@pytest.mark.parametrize("base_url", ["h", "file:///etc/passwd", "http://", "http://[", "//h/v1"])
def test_a_base_url_that_is_none_is_refused(base_url):
    with pytest.raises(InvalidRequest, match=r"^Conf "):
        adapter(base_url=base_url).request(MESSAGES, ALL)


def test_the_key_and_the_version_go_in_headers_of_their_own():
    asking = adapter(api_key=f" {KEY}\n")
    for request in (asking.request(MESSAGES, ALL), asking.models_request()):
        assert request.headers["x-api-key"] == KEY
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert request.headers["Content-Type"] == "application/json"
        assert "Authorization" not in request.headers
        assert KEY not in repr(request)


def test_without_a_key_only_the_version_goes():
    headers = adapter().request(MESSAGES, ALL).headers
    assert "x-api-key" not in headers
    assert headers["anthropic-version"] == "2023-06-01"


def test_extra_headers_replace_ours_whatever_their_case_and_add_betas():
    extra = {"Anthropic-Version": "2099-01-01", "X-Api-Key": "own", "anthropic-beta": "a,b"}
    headers = adapter(api_key=KEY, extra_headers=extra).request(MESSAGES, ALL).headers
    ours = {"anthropic-version", "x-api-key", "anthropic-beta"}
    assert {name: value for name, value in headers.items() if name.lower() in ours} == extra


# --- the body


def test_an_older_model_is_sent_all_that_was_set():
    assert asked() == {
        "model": OLD,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "größe?"}],
        "stream": True,
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_only_the_limit_is_sent_where_nothing_was_set():
    body = asked([ChatMessage("user", "hi")], Parameters())
    assert set(body) == {"model", "messages", "stream", "max_tokens"}
    assert body["max_tokens"] == DEFAULT_MAX_TOKENS


@pytest.mark.parametrize("name", ["anthropic-text-nonascii", "anthropic-error-overloaded"])
def test_the_body_is_the_one_that_was_recorded(name):
    body = recorded(f"{name}.meta.json")["request"]["body"]
    (question,) = body["messages"]
    messages = [ChatMessage("user", question["content"])]
    parameters = Parameters(max_tokens=body["max_tokens"])
    assert asked(messages, parameters, model=body["model"]) == body


def test_system_instructions_are_apart_from_the_messages_wherever_they_stand():
    body = asked(
        [
            ChatMessage("system", "One."),
            ChatMessage("user", "hi"),
            ChatMessage("system", " "),
            ChatMessage("system", "Two."),
        ]
    )
    assert body["system"] == "One.\n\nTwo."
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert "system" not in asked([ChatMessage("system", ""), ChatMessage("user", "hi")])


def test_roles_alternate_and_blank_texts_are_left_out():
    body = asked(
        [
            ChatMessage("user", "a "),
            ChatMessage("assistant", ""),
            ChatMessage("user", "b"),
            ChatMessage("assistant", "c"),
            ChatMessage("assistant", " \n"),
            ChatMessage("user", "d"),
            ChatMessage("user", "e"),
        ]
    )
    first, second = (
        [{"type": "text", "text": one} for one in pair] for pair in (["a ", "b"], ["d", "e"])
    )
    assert body["messages"] == [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": second},
    ]


BOTH = {"temperature": 0.5, "top_p": 0.9}
ONE = {"temperature": 0.5}


@pytest.mark.parametrize(
    ("model", "sampling"),
    [
        ("claude-3-opus-20240229", BOTH),
        ("claude-3-5-haiku-20241022", BOTH),
        ("claude-3-7-sonnet-latest", BOTH),
        ("claude-sonnet-4-20250514", BOTH),
        ("claude-opus-4-0", BOTH),
        ("deepseek-chat", BOTH),
        ("claude-opus-4-1", ONE),
        ("claude-opus-4-1-20250805", ONE),
        ("claude-sonnet-4-5-20250929", ONE),
        ("claude-haiku-4-5@20251001", ONE),
        ("anthropic/claude-sonnet-4.5", ONE),
        ("us.anthropic.claude-opus-4-6-v1:0", ONE),
        ("claude-opus-4-7", {}),
        ("claude-opus-4-8-20260601", {}),
        ("claude-opus-5", {}),
        ("claude-sonnet-5-20260901", {}),
        ("claude-fable-5", {}),
        ("claude-mythos-5", {}),
    ],
)
def test_a_model_is_sent_only_the_sampling_that_it_takes(model, sampling):
    body = asked(model=model)
    assert {name: body[name] for name in ("temperature", "top_p") if name in body} == sampling


def test_top_p_goes_alone_where_there_is_no_temperature():
    body = asked(parameters=Parameters(top_p=0.0), model="claude-sonnet-4-5")
    assert body["top_p"] == 0
    assert "temperature" not in body


@pytest.mark.parametrize(("ours", "sent"), [(0.0, 0.0), (1.0, 1.0), (1.2, 1.0), (2, 1.0)])
def test_the_temperature_ends_at_one(ours, sent):
    assert asked(parameters=Parameters(temperature=ours))["temperature"] == sent


@pytest.mark.parametrize(
    ("thinking", "is_sampled"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, False),
        ({"type": "adaptive"}, False),
        ({"type": "disabled"}, True),
        (None, True),
    ],
)
def test_thinking_takes_no_sampling(thinking, is_sampled):
    body = asked(extra_body={"thinking": thinking})
    assert ("temperature" in body, "top_p" in body) == (is_sampled, is_sampled)
    assert body.get("thinking") == thinking


def test_without_a_limit_the_answer_gets_its_room_beside_the_thinking():
    extra = {"thinking": {"type": "enabled", "budget_tokens": 10_000}}
    body = asked(parameters=Parameters(), extra_body=extra)
    assert body["max_tokens"] == DEFAULT_MAX_TOKENS + 10_000
    assert asked(extra_body=extra)["max_tokens"] == 100


def test_the_extra_body_has_the_last_word():
    extra = {"temperature": 0.7, "max_tokens": 5, "stop_sequences": ["END"], "system": None}
    body = asked(model="claude-opus-5", extra_body=extra)
    assert (body["temperature"], body["max_tokens"]) == (0.7, 5)
    assert body["stop_sequences"] == ["END"]
    assert "system" not in body


# --- models


def page(*ids, has_more=False, **fields):
    data = [{"type": "model", "id": one, **fields} for one in ids]
    return {"data": data, "has_more": has_more, "first_id": ids[0], "last_id": ids[-1]}


def test_models_come_with_name_and_window_and_without_prices():
    listed = page("claude-b", display_name="Claude B", max_input_tokens=200_000, max_tokens=64_000)
    assert adapter().models(listed) == [ModelInfo("claude-b", "Claude B", 200_000)]
    assert adapter().models(page("b", "a", "b")) == [ModelInfo("a"), ModelInfo("b")]
    assert adapter().models(page("a", max_input_tokens=0)) == [ModelInfo("a")]
    wrong: list[object] = [None, 7, [], {}, {"data": "no"}, {"data": [7, {}, {"id": 7}]}]
    for nonsense in wrong:
        assert adapter().models(nonsense) == []


def test_the_next_page_of_models_is_asked_for_after_the_last_of_this_one():
    asking = adapter(base_url="http://h/v1", api_key=KEY)
    request = asking.next_models_request(page("a", "b&c", has_more=True))
    assert request is not None
    assert (request.method, request.url) == (
        "GET",
        "http://h/v1/models?limit=1000&after_id=b%26c",
    )
    assert request.headers["x-api-key"] == KEY
    ends: list[object] = [page("a"), {"has_more": True}, {"has_more": True, "last_id": 7}, None, []]
    for last in ends:
        assert asking.next_models_request(last) is None


@pytest.mark.contract("P6")
def test_the_connection_is_tested_with_the_list_of_models(provider):
    provider.reply(*json_answer(page("claude-a")))
    configuration = Configuration(
        name="Test", slug="test", kind="anthropic", model="claude-a", base_url=provider.url
    )
    configuration.set_api_key(KEY)
    result = probe.run(probe.test(configuration))
    assert (result.ok, result.code) == (True, "")
    request = provider.wait_for_request()
    assert (request.method, request.path) == ("GET", "/v1/models?limit=1000")
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"


def test_it_is_found_by_its_kind_and_can_do_everything():
    assert registry.adapter_class("anthropic") is Anthropic
    assert all(Anthropic.supports(feature) for feature in Feature)
    assert Anthropic.needs_key
    assert not Anthropic.is_free


# --- answers and failures on a real socket


def answer(*texts):
    """A whole answer. Data lines end in spaces, as Anthropic's do."""
    events: list[dict] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": one},
            }
            for one in texts
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 2},
        },
        {"type": "message_stop"},
    ]
    return b"".join(sse(event, event["type"]).replace(b"\n\n", b"   \n\n") for event in events)


def ask(provider):
    """The events of one answer, and the error that ended it."""

    async def one_answer():
        asking = adapter(base_url=provider.url, api_key=KEY)
        events, failure = [], None
        limits = Limits(connect=2, first_chunk=5, chunk=5)
        try:
            request = asking.request(MESSAGES, ALL)
            async with aclosing(client.stream(asking, request, limits)) as batches:
                async for batch in batches:
                    events += batch
        except ProviderError as error:
            failure = error
        finally:
            await client.aclose()
        return events, failure

    return asyncio.run(one_answer())


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.contract("P1")
def test_an_answer_streams_from_a_server_that_got_what_is_shown(provider):
    provider.reply(head(headers={"retry-after": "30"}), *bytewise(answer("Grö", "ße"), 7))
    events, failure = ask(provider)
    assert failure is None
    assert text_of(events) == "Größe"
    assert events[-1] == Finish(FinishReason.STOP, "end_turn")
    request = provider.wait_for_request()
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert request.json == asked()
    assert request.headers["accept"] == "text/event-stream"


@pytest.mark.contract("S8")
def test_an_error_in_the_stream_keeps_the_text_before_it(provider):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    half = answer("Half").partition(b"event: content_block_stop")[0]
    provider.reply(head(), send(half + sse(error, "error")))
    events, failure = ask(provider)
    assert text_of(events) == "Half"
    assert failure is not None
    assert failure.code == "PROVIDER_OVERLOADED"
    assert not any(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize(
    ("status", "kind", "words", "code", "is_retryable"),
    [
        (401, "authentication_error", "invalid x-api-key", "API_KEY_INVALID", False),
        (403, "permission_error", "Not allowed.", "API_KEY_INVALID", False),
        (404, "not_found_error", "model: claude-x", "MODEL_NOT_FOUND", False),
        (409, "conflict_error", "Conflict.", "PROVIDER_ERROR", True),
        (413, "request_too_large", "Request too large", "CONTEXT_LENGTH_EXCEEDED", False),
        (529, "overloaded_error", "Overloaded", "PROVIDER_OVERLOADED", True),
        (400, "invalid_request_error", "max_tokens: Field required", "INVALID_REQUEST", False),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000",
            "CONTEXT_LENGTH_EXCEEDED",
            False,
        ),
    ],
)
def test_a_refused_request_says_why(provider, status, kind, words, code, is_retryable):
    body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}
    provider.reply(*json_answer(body, status))
    events, failure = ask(provider)
    assert events == []
    assert failure is not None
    assert (failure.code, failure.retryable) == (code, is_retryable)
    assert words in failure.message
    assert KEY not in failure.message


def test_the_recorded_context_error_is_one():
    meta = recorded("anthropic-error-context.meta.json")
    body = (RECORDINGS / "anthropic-error-context.json").read_bytes()
    failure = adapter().failure(meta["http_status"], {}, meta["content_type"], body)
    expect = meta["expect"]["error"]
    assert failure.code == expect["code"]
    assert failure.retryable is expect["retryable_before_first_chunk"]
    assert expect["message"] in failure.message


def test_a_refusal_before_any_text_tells_its_explanation():
    details = {"type": "refusal", "category": "bio", "explanation": "This is not allowed."}
    refused = {
        "type": "message_delta",
        "delta": {"stop_reason": "refusal", "stop_details": details},
        "usage": {"output_tokens": 1},
    }
    result = read(adapter(), [sse(refused, "message_delta"), sse({"type": "message_stop"})])
    assert result.error is not None
    assert result.error.code == "CONTENT_FILTERED"
    assert "This is not allowed." in result.error.message
