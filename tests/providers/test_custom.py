"""The kind `custom`: what it asks by its template, and what it reads by its paths (contract P1).

Recordings (real, read in place) are in ../shared/wire beside the repository.
"""

import json
import random
import re
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers import client
from providers.adapters.base import ChatMessage, Parameters, Target
from providers.adapters.custom import Custom
from providers.adapters.custom_settings import BadSettings, RequestSettings, ResponseSettings
from providers.client import Limits
from providers.errors import InvalidRequest, ProviderError
from providers.events import Event, Finish, FinishReason, Usage
from providers.models import Configuration
from tests.people import text_of
from tests.providers.answers import SPLITS, Answer, read, split
from tests.providers.test_adapters import changed
from tests.servers.provider import close, head, json_answer, reset, send, wait

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT.parent / "shared" / "wire" / "recordings"
MARKED = "sk/marked+5d1f7c"

MESSAGES = [
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "größe?"),
    ChatMessage("assistant", "100 m"),
    ChatMessage("user", "und {{model}}?"),
]
ALL = Parameters(temperature=0.5, top_p=0.9, max_tokens=100)
NONE = Parameters()


def custom(response=None, request=None, base_url="https://h/ask", **values):
    options = {"request": request or {}, "response": response or {}}
    return Custom(Target("Conf", "m", base_url, options=options, **values))


def body(template, messages=MESSAGES, parameters=ALL, shape="openai"):
    request = {"body": template, "messages": shape}
    return custom(request=request).request(messages, parameters).body


# ---- Recordings


def recordings() -> list[Any]:
    found = []
    for meta_path in sorted(RECORDINGS.glob("*.meta.json")):
        meta = json.loads(meta_path.read_text())
        if meta["provider"] == "custom":
            name = meta_path.name.removesuffix(".meta.json")
            found.append(pytest.param(name, meta, id=name))
    return found or [
        pytest.param("", {}, marks=pytest.mark.skip(reason=f"no recordings in {RECORDINGS}"))
    ]


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize(("name", "meta"), recordings())
def test_a_recording_gives_the_same_events_however_its_bytes_are_split(name, meta, how):
    adapter = custom(meta.get("custom_response", {"format": "openai"}))
    answer = read(adapter, split((RECORDINGS / f"{name}.sse").read_bytes(), how))
    expect = meta["expect"]
    assert answer.text == expect["text"]
    assert answer.reasoning == (expect["reasoning_text"] or "")
    for count in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"):
        assert getattr(answer.usage, count) == expect[count]
    assert answer.tool_calls == []
    if error := expect["error"]:
        assert answer.error is not None
        assert answer.error.code == error["code"]
        assert error["message"][:60] in answer.error.message
    else:
        assert answer.error is None
        assert answer.finish == Finish(
            FinishReason(expect["finish_normalized"]), expect["finish_reason"]
        )


GEMINI = RECORDINGS / "custom-gemini-crlf.sse"


@pytest.mark.skipif(not GEMINI.exists(), reason=f"no recording {GEMINI}")
def test_the_example_of_the_docs_reads_what_gemini_sends():
    page = (ROOT / "docs" / "providers.md").read_text().partition("### An example: Gemini")[2]
    typed = dict(re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", page, re.MULTILINE))
    (template,) = re.findall(r"^```json\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    adapter = custom(
        {
            "format": "sse",
            "text_path": typed["Text"],
            "finish_path": typed["Finish reason"],
            "prompt_tokens_path": typed["Input tokens"],
            "completion_tokens_path": typed["Output tokens"],
        },
        {
            "path": typed["Path"],
            "auth": "header",
            "auth_name": typed["Header or parameter"],
            "messages": "contents",
            "body": template,
        },
        typed["Base URL"],
        api_key=MARKED,
    )
    request = adapter.request([ChatMessage("user", "hi")], Parameters(max_tokens=5))
    assert request.url.endswith("googleapis.com/v1beta/models/m:streamGenerateContent?alt=sse")
    assert request.headers["x-goog-api-key"] == MARKED
    assert request.body == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"maxOutputTokens": 5},
    }
    answer = read(adapter, [GEMINI.read_bytes()])
    assert answer.text == "The capital of France is Paris.\n"
    assert answer.finish == Finish(FinishReason.STOP, "STOP")
    assert answer.usage == Usage(prompt_tokens=13, completion_tokens=8)


# ---- What is read

SSE = {"format": "sse", "text_path": "delta"}
LINES = {"format": "ndjson", "text_path": "response"}
PLAIN = {"format": "text"}


def sse(*values, end="\n\n"):
    said = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return "".join(f"data: {value}{end}" for value in said)


def lines(*values, end="\n"):
    said = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return "".join(f"{value}{end}" for value in said)


STOP = Finish(FinishReason.STOP, "stop")
NO_WORD = Finish(None, None)
# name: settings, body, text, finish, other expectations
ANSWERS: dict[str, tuple[dict, str, str, Finish | None, dict]] = {
    "sse-ends-with-the-body": (
        SSE,
        ": hi\n\n" + sse({"delta": "Hé"}, {"other": 1}, {"delta": None}, {"delta": "llo"}),
        "Héllo",
        NO_WORD,
        {},
    ),
    "sse-crlf-and-no-blank-line-at-the-end": (
        SSE,
        sse({"delta": "a\u2028b"}, {"delta": "😀"}, end="\r\n\r\n").removesuffix("\r\n\r\n"),
        "a\u2028b😀",
        NO_WORD,
        {},
    ),
    "sse-end-marker": (
        SSE | {"end_marker": "[END]"},
        sse({"delta": "a"}, "[END]", {"delta": "after"}),
        "a",
        NO_WORD,
        {},
    ),
    "sse-common-end-marker-unasked": (
        SSE,
        sse({"delta": "a"}, " [DONE] ", "what follows is not even JSON"),
        "a",
        NO_WORD,
        {},
    ),
    "sse-end-marker-missing": (
        SSE | {"end_marker": "[END]"},
        sse({"delta": "a"}),
        "a",
        None,
        {"error": "STREAM_INTERRUPTED"},
    ),
    "sse-end-is-an-event-name": (
        SSE | {"end_marker": "done", "completion_tokens_path": "n"},
        sse({"delta": "a"}) + 'event: done\ndata: {"n": 3}\n\n',
        "a",
        NO_WORD,
        {"usage": Usage(completion_tokens=3)},
    ),
    "sse-end-is-an-event-name-with-any-data": (
        SSE | {"end_marker": "done"},
        sse({"delta": "a"}) + "event: done\ndata: bye\n\n",
        "a",
        NO_WORD,
        {},
    ),
    "sse-end-path": (
        SSE | {"end_path": "is_done"},
        sse({"delta": "a", "is_done": False}, {"delta": "b", "is_done": True}, {"delta": "after"}),
        "ab",
        NO_WORD,
        {},
    ),
    "sse-end-path-never-true": (
        SSE | {"end_path": "is_done"},
        sse({"delta": "a", "is_done": False}),
        "a",
        None,
        {"error": "STREAM_INTERRUPTED"},
    ),
    "sse-finish-before-usage": (
        SSE | {"finish_path": "why", "prompt_tokens_path": "u.in", "completion_tokens_path": "u.1"},
        sse({"delta": "a", "why": "null", "u": {"in": 9}}, {"why": "MAX_TOKENS"}, {"u": {"in": 4}}),
        "a",
        Finish(FinishReason.LENGTH, "MAX_TOKENS"),
        {"usage": Usage(prompt_tokens=4)},
    ),
    "sse-finish-word-missing": (
        SSE | {"finish_path": "why"},
        sse({"delta": "a"}),
        "a",
        None,
        {"error": "STREAM_INTERRUPTED"},
    ),
    "sse-finish-word-unknown": (
        SSE | {"finish_path": "why"},
        sse({"delta": "a", "why": "Bored"}),
        "a",
        Finish(None, "Bored"),
        {},
    ),
    "sse-filtered-without-text": (
        SSE | {"finish_path": "why"},
        sse({"why": "PROHIBITED_CONTENT"}),
        "",
        None,
        {"error": "CONTENT_FILTERED"},
    ),
    "sse-filtered-after-text": (
        SSE | {"finish_path": "why"},
        sse({"delta": "a"}, {"why": "SAFETY"}),
        "a",
        Finish(FinishReason.CONTENT_FILTER, "SAFETY"),
        {},
    ),
    "sse-cumulative": (
        SSE | {"cumulative": True, "reasoning_path": "thinking"},
        sse(
            {"thinking": "Hm"},
            {"thinking": "Hmm.", "delta": "The"},
            {"thinking": "Hmm.", "delta": "The end"},
            {"delta": "The end"},
            {"delta": "The end."},
        ),
        "The end.",
        NO_WORD,
        {"reasoning": "Hmm."},
    ),
    "sse-not-cumulative-after-all": (
        SSE | {"cumulative": True},
        sse({"delta": "The"}, {"delta": " end"}),
        "The",
        None,
        {"error": "PROVIDER_ERROR"},
    ),
    "sse-parts-and-numbers": (
        {"format": "sse", "text_path": "0.parts", "reasoning_path": "0.n"},
        sse([{"parts": [{"text": "a"}, "b", {"image": 1}, 5]}], [{"n": 7}], [{"n": 1.5}]),
        "ab",
        NO_WORD,
        {"reasoning": "71.5"},
    ),
    "sse-neither-objects-nor-booleans-are-text": (
        SSE,
        sse({"delta": {"text": "no"}}, {"delta": True}, {"delta": "a"}, "[]", '"x"'),
        "a",
        NO_WORD,
        {},
    ),
    "sse-one-json-object-in-place-of-a-stream": (
        {"format": "sse", "text_path": "answer"},
        json.dumps({"answer": "all of it"}, indent=1),
        "all of it",
        NO_WORD,
        {},
    ),
    "sse-no-text-at-the-path": (
        SSE,
        sse({"content": "a"}),
        "",
        None,
        {"error": "PROVIDER_ERROR", "says": "no text was found"},
    ),
    "sse-nothing": (SSE, "", "", None, {"error": "STREAM_INTERRUPTED"}),
    "sse-only-an-end": (SSE, sse("[DONE]"), "", None, {"error": "STREAM_INTERRUPTED"}),
    "sse-broken-line": (
        SSE,
        sse({"delta": "a"}, '{"delta": ', {"delta": "b"}),
        "a",
        None,
        {"error": "PROVIDER_ERROR"},
    ),
    "sse-error-object": (
        SSE,
        sse({"delta": "a"}, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
        "a",
        None,
        {"error": "RATE_LIMIT_EXCEEDED", "says": "slow down"},
    ),
    "sse-error-event-that-is-no-json": (
        SSE,
        sse({"delta": "a"}) + "event: error\ndata: the model is overloaded\n\n",
        "a",
        None,
        {"error": "PROVIDER_OVERLOADED"},
    ),
    "sse-error-field": (SSE, "error: it broke\n\n", "", None, {"error": "PROVIDER_ERROR"}),
    "sse-error-path": (
        SSE | {"error_path": "status.why"},
        sse({"delta": "a", "status": {"why": ""}}, {"status": {"why": "maximum context exceeded"}}),
        "a",
        None,
        {"error": "CONTEXT_LENGTH_EXCEEDED", "says": "maximum context"},
    ),
    "sse-error-path-with-a-code-beside-it": (
        SSE | {"error_path": "why"},
        sse({"why": "try later", "code": 429}),
        "",
        None,
        {"error": "RATE_LIMIT_EXCEEDED", "says": "try later"},
    ),
    "ndjson": (
        LINES | {"end_path": "done", "finish_path": "done_reason"},
        lines(
            {"response": "He", "done": False},
            {"response": "llo", "done": True, "done_reason": "stop"},
            {"response": "after"},
        ),
        "Hello",
        STOP,
        {},
    ),
    "ndjson-crlf-and-a-text-as-end-marker": (
        LINES | {"end_marker": "END"},
        lines({"response": "a\u0085b"}, "", "END", end="\r\n"),
        "a\u0085b",
        NO_WORD,
        {},
    ),
    "ndjson-without-a-line-end": (LINES, '{"response": "a"}', "a", NO_WORD, {}),
    "ndjson-broken-line": (
        LINES,
        lines({"response": "a"}, "<html>"),
        "a",
        None,
        {"error": "PROVIDER_ERROR"},
    ),
    "ndjson-error": (
        LINES,
        lines({"error": "model x not found"}),
        "",
        None,
        {"error": "MODEL_NOT_FOUND"},
    ),
    "text": (PLAIN, "  Grüße,\r\n\r\n日本 {1}", "  Grüße,\r\n\r\n日本 {1}", NO_WORD, {}),
    "text-nothing": (PLAIN, "", "", None, {"error": "STREAM_INTERRUPTED"}),
    "text-that-is-an-error": (
        PLAIN,
        '{\n "error": {"message": "no credit", "type": "insufficient_quota"}}',
        "",
        None,
        {"error": "QUOTA_EXCEEDED"},
    ),
    "text-that-looks-like-an-error": (
        PLAIN,
        '{"error": null, "a": 1}',
        '{"error": null, "a": 1}',
        NO_WORD,
        {},
    ),
    "text-that-begins-like-an-error": (PLAIN, '{"erroneous": 1', '{"erroneous": 1', NO_WORD, {}),
    "openai": (
        {},
        sse({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}, "[DONE]"),
        "a",
        STOP,
        {},
    ),
    "openai-broken-off": (
        {"format": "openai"},
        sse({"choices": [{"delta": {"content": "a"}}]}),
        "a",
        None,
        {"error": "STREAM_INTERRUPTED"},
    ),
}


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_read_as_the_settings_say_however_its_bytes_are_split(name, how):
    response, said, expected, finish, more = ANSWERS[name]
    answer = read(custom(response), split(said.encode(), how))
    assert answer.text == expected
    assert answer.reasoning == more.get("reasoning", "")
    assert answer.finish == finish
    assert answer.usage == more.get("usage", Usage())
    assert (answer.error.code if answer.error else None) == more.get("error")
    if answer.error:
        assert more.get("says", "") in answer.error.message


@pytest.mark.parametrize("name", ANSWERS)
def test_nonsense_from_an_endpoint_is_an_error_of_the_endpoint_at_worst(name):
    response, said, *_ = ANSWERS[name]
    chance = random.Random(name)
    for _ in range(50):
        nonsense = []
        for line in said.split("\n"):
            prefix = "data: " if line.startswith("data: ") else ""
            try:
                value = json.loads(line[len(prefix) :])
            except ValueError:
                nonsense.append(line)
            else:
                nonsense.append(prefix + json.dumps(changed(value, chance)))
        read(custom(response), ["\n".join(nonsense).encode()])


def test_a_piece_of_plain_text_is_given_on_at_once():
    adapter = custom(PLAIN)
    assert [len(list(adapter.read(piece))) for piece in (b"a", b"b", b"\xc3", b"\xa4")] == [
        1,
        1,
        0,
        1,
    ]


# ---- What is asked


def test_without_settings_an_endpoint_is_asked_as_openai_is():
    request = custom(api_key=MARKED).request(MESSAGES, NONE)
    assert (request.method, request.url) == ("POST", "https://h/ask")
    assert request.headers["Authorization"] == f"Bearer {MARKED}"
    assert request.body == {
        "model": "m",
        "messages": [{"role": m.role, "content": m.content} for m in MESSAGES],
        "stream": True,
    }
    assert custom().request(MESSAGES, ALL).body | {"messages": []} == {
        "model": "m",
        "messages": [],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 100,
        "stream": True,
    }


def test_a_place_as_a_whole_text_gets_the_value_and_one_inside_a_text_its_text():
    template = {
        "messages": "{{messages}}",
        "whole": [" {{stream}}", "{{ stream }}", "{{temperature}}", 5, None, True],
        "inside": "{{model}}: {{prompt}} ({{stream}}, {{max_tokens}}, {{temperature}})",
    }
    filled = body(template)
    assert filled["whole"] == [" true", True, 0.5, 5, None, True]
    assert filled["inside"] == "m: und {{model}}? (true, 100, 0.5)"


@pytest.mark.contract("R12")
def test_what_a_person_writes_is_never_taken_for_a_place():
    assert body({"a": "{{prompt}}", "b": "<{{prompt}}>"}) == {
        "a": "und {{model}}?",
        "b": "<und {{model}}?>",
    }


def test_what_has_no_value_is_left_out_and_what_that_empties_too():
    template = {
        "prompt": "{{system}}{{prompt}}",
        "options": {"t": "{{temperature}}", "n": "{{max_tokens}}"},
        "instruction": {"parts": [{"text": "{{system}}"}]},
        "kept": {"empty": {}, "none": [], "null": None},
        "some": {"t": "{{temperature}}", "k": 1},
    }
    assert body(template, [ChatMessage("user", "hi")], NONE) == {
        "prompt": "hi",
        "kept": {"empty": {}, "none": [], "null": None},
        "some": {"k": 1},
    }


def test_messages_come_in_the_shape_that_is_asked_for():
    template = {"x": "{{messages}}"}
    assert body(template)["x"][:2] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "größe?"},
    ]
    assert body(template, shape="contents")["x"][1:3] == [
        {"role": "user", "parts": [{"text": "größe?"}]},
        {"role": "model", "parts": [{"text": "100 m"}]},
    ]
    assert body({"x": "> {{messages}}"}, shape="text")["x"] == (
        "> Be brief.\n\nUser: größe?\n\nAssistant: 100 m\n\nUser: und {{model}}?\n\nAssistant:"
    )


def test_instructions_with_a_place_of_their_own_are_not_among_the_messages():
    filled = body({"m": "{{messages}}", "s": "{{system}}"})
    assert filled["s"] == "Be brief."
    assert [message["role"] for message in filled["m"]] == ["user", "assistant", "user"]


def test_extra_headers_and_extra_body_hold_for_it_too():
    adapter = custom(extra_headers={"X-A": "1"}, extra_body={"stream": None, "seed": 7})
    request = adapter.request(MESSAGES, NONE)
    assert request.headers["X-A"] == "1"
    assert (request.body["seed"], "stream" in request.body) == (7, False)


@pytest.mark.parametrize(
    ("base_url", "path", "url"),
    [
        ("https://h/ask", "", "https://h/ask"),
        ("https://h/ask/", "", "https://h/ask/"),
        ("https://h/", "/v1/{{model}}:go", "https://h/v1/m%20%C3%BC/1:go"),
        ("https://h/a?x=1", "/b?m={{model}}", "https://h/a/b?x=1&m=m%20%C3%BC/1"),
        ("https://h/a", "?alt=sse", "https://h/a?alt=sse"),
        ("http://h:8080", "/a", "http://h:8080/a"),
        ("https://h", "//evil.example/a", "https://h//evil.example/a"),
        ("https://h", "/@evil.example", "https://h/@evil.example"),
    ],
)
def test_the_path_comes_after_the_base_url_with_the_model_in_it(base_url, path, url):
    target = Target("Conf", "m ü/1", base_url, options={"request": {"path": path}})
    assert Custom(target).request(MESSAGES, NONE).url == url


@pytest.mark.parametrize("base_url", ["", "h", "file:///etc/passwd", "http://", "http://["])
def test_a_base_url_that_is_none_is_refused(base_url):
    with pytest.raises(InvalidRequest, match=r"^Conf "):
        custom(base_url=base_url).request(MESSAGES, NONE)


def test_a_key_goes_where_it_is_said_to():
    def asked(**request):
        return custom(request=request, api_key=MARKED).request(MESSAGES, NONE)

    header = asked(auth="header", auth_name="x-api-key").headers
    assert (header["x-api-key"], "Authorization" in header) == (MARKED, False)
    token = asked(auth="header", auth_name="Authorization: Token").headers
    assert token["Authorization"] == f"Token {MARKED}"
    query = asked(auth="query", auth_name="key")
    assert (dict(query.secret_query), "Authorization" in query.headers) == ({"key": MARKED}, False)
    none = asked(auth="none")
    assert not none.secret_query
    assert MARKED not in str(none.headers)


def test_without_a_key_none_is_sent():
    for request in (
        {},
        {"auth": "header", "auth_name": "x"},
        {"auth": "query", "auth_name": "key"},
    ):
        asked = custom(request=request).request(MESSAGES, NONE)
        assert asked.secret_query == {}
        assert not {"Authorization", "x"} & set(asked.headers)


# ---- What is refused


@pytest.mark.contract("R12")
@pytest.mark.parametrize(
    ("request_settings", "key", "says"),
    [
        ({"body": {"m": "{{question}}", "p": "{{prompt}}"}}, "body", "{{question}} is unknown"),
        ({"body": {"p": "{{prompt}}", "x": "{{api_key}}"}}, "body", "{{api_key}} is unknown"),
        ({"body": {"p": "{{prompt.__class__}}"}}, "body", "unknown"),
        ({"body": {"p": "{{prompt|upper}}"}}, "body", "unknown"),
        ({"body": {"p": "{{}} {{prompt}}"}}, "body", "unknown"),
        ({"body": {"p": "{{prompt}} {{model}"}}, "body", "without a name"),
        ({"body": {"{{prompt}}": "{{prompt}}"}}, "body", "is a key"),
        ({"body": {"p": "ask: {{messages}}"}}, "body", "stand alone"),
        ({"body": {"p": "{{system}}"}}, "body", "nothing would be asked"),
        ({"body": {}}, "body", "nothing would be asked"),
        ({"body": "{"}, "body", "no JSON"),
        ({"body": "[1]"}, "body", "Write an object"),
        ({"body": '{"p": "{{prompt}}", "x": NaN}'}, "body", "NaN"),
        ({"body": '{"p": "{{prompt}}", "x": 1e999}'}, "body", "1e999"),
        ({"body": '{"p": "{{prompt}}", "x": "\\u0000"}'}, "body", "cannot be stored"),
        ({"body": '{"p": "{{prompt}}", "\\ud800": 1}'}, "body", "cannot be stored"),
        ({"body": "[" * 100_000}, "body", "at most"),
        ({"body": "[" * 40_000}, "body", "nested"),
        ({"body": '{"a":' * 60 + '"{{prompt}}"' + "}" * 60}, "body", "50 levels"),
        ({"method": "GET"}, "method", "POST or PUT"),
        ({"path": "v1"}, "path", "Begin with /"),
        ({"path": "https://other.example/"}, "path", "Begin with /"),
        ({"path": "/{{prompt}}"}, "path", "unknown"),
        ({"path": "/a?key=1"}, "path", "holds a key"),
        ({"path": "/a b"}, "path", "space"),
        ({"path": "/a#b"}, "path", "#"),
        ({"auth": "basic"}, "auth", "bearer, header, query, none"),
        ({"auth": "header"}, "auth_name", "which header"),
        ({"auth": "query"}, "auth_name", "which header"),
        ({"auth": "query", "auth_name": "a&b"}, "auth_name", "parameter"),
        ({"auth": "header", "auth_name": "a b"}, "auth_name", "header"),
        ({"auth": "header", "auth_name": "X\r\nY: 1"}, "auth_name", "header"),
        ({"auth": "header", "auth_name": "Host"}, "auth_name", "itself"),
        ({"auth_name": "x-api-key"}, "auth_name", "no such setting"),
        ({"messages": "yaml"}, "messages", "openai, contents, text"),
        ({"command": "ls"}, "command", "no such setting"),
        ({"path": ["/"]}, "path", "Write a text"),
    ],
)
def test_request_settings_that_are_wrong_are_refused_with_a_sentence(request_settings, key, says):
    with pytest.raises(BadSettings) as refused:
        RequestSettings.read(request_settings)
    assert list(refused.value.problems) == [key]
    assert says in refused.value.problems[key]


@pytest.mark.parametrize(
    ("response_settings", "key", "says"),
    [
        ({"format": "xml"}, "format", "openai, sse, ndjson, text"),
        ({"format": "sse"}, "text_path", "where the text stands"),
        ({"format": "sse", "text_path": "a..b"}, "text_path", "joined by dots"),
        ({"format": "sse", "text_path": "a b"}, "text_path", "joined by dots"),
        ({"format": "sse", "text_path": 1}, "text_path", "Write a text"),
        ({"format": "sse", "text_path": "a", "error_path": "." * 300}, "error_path", "at most"),
        ({"format": "ndjson", "text_path": "a", "cumulative": "yes"}, "cumulative", "true or"),
        ({"format": "text", "text_path": "a"}, "text_path", "no such setting"),
        ({"format": "openai", "end_marker": "x"}, "end_marker", "no such setting"),
        ({"format": ["sse"]}, "format", "Write one of"),
        ([], "settings", "Write an object"),
    ],
)
def test_response_settings_that_are_wrong_are_refused_with_a_sentence(response_settings, key, says):
    with pytest.raises(BadSettings) as refused:
        ResponseSettings.read(response_settings)
    assert key in refused.value.problems
    assert says in refused.value.problems[key]


def test_settings_that_cannot_be_used_are_an_error_for_people():
    with pytest.raises(InvalidRequest, match=r"^Conf was not asked: .* format: Write one of"):
        custom({"format": "xml"})


# ---- Over the network


async def asked(adapter: Custom, parameters: Parameters = NONE) -> Answer:
    answer = Answer()
    request = adapter.request(MESSAGES, parameters)
    try:
        async with aclosing(client.stream(adapter, request, Limits())) as reads:
            async for events in reads:
                answer.events.extend(events)
    except ProviderError as error:
        answer.error = error
    finally:
        await client.aclose()
    return answer


def said(events: list[Event]) -> list[str]:
    return [event.text for event in events if hasattr(event, "text")]


@pytest.mark.parametrize(
    ("response", "pieces"),
    [
        (SSE, [sse({"delta": "one "}), sse({"delta": "two"})]),
        (LINES, [lines({"response": "one "}), lines({"response": "two"})]),
        (PLAIN, ["one ", "two"]),
    ],
)
async def test_each_piece_is_given_on_when_it_arrives(provider, response, pieces):
    provider.reply(head(200, "text/plain"), send(pieces[0]), wait(0.05), send(pieces[1]))
    answer = await asked(custom(response, base_url=provider.url))
    assert said(answer.events) == ["one ", "two"]
    assert answer.finish == NO_WORD


@pytest.mark.contract("A18")
async def test_a_key_in_the_query_is_sent_and_nowhere_to_be_seen(provider, caplog):
    caplog.set_level("DEBUG")
    provider.reply(
        *json_answer({"error": {"message": f"bad key in /ask?alt=sse&key={MARKED}"}}, 401)
    )
    settings = {"path": "?alt=sse", "auth": "query", "auth_name": "key"}
    adapter = custom(SSE, settings, f"{provider.url}/ask", api_key=MARKED)
    answer = await asked(adapter)
    assert provider.requests[0].path == "/ask?alt=sse&key=sk/marked%2B5d1f7c"
    assert answer.error is not None
    assert answer.error.code == "API_KEY_INVALID"
    request = adapter.request(MESSAGES, NONE)
    shown = [answer.error.message, repr(request), request.url, str(request.body), caplog.text]
    shown += [repr(answer.error.__cause__), repr(adapter.target)]
    for text in shown:
        assert MARKED not in text
        assert "marked%2B" not in text


@pytest.mark.contract("A18")
def test_a_key_in_the_query_is_in_no_event_and_on_no_page(ada, provider):
    configuration = Configuration(
        name="C", slug="c", kind="custom", model="m", base_url=provider.url,
        request={"path": "/ask?alt=sse", "auth": "query", "auth_name": "key"},
        response={"format": "text"},
    )  # fmt: skip
    configuration.set_api_key(MARKED)
    configuration.save()
    provider.reply(head(200, "text/plain"), send("Hel"), wait(0.05), send("lo"))
    run = ada.ask(ada.new_chat(), "hello", configuration_id="c")
    events = ada.events(run)
    assert text_of(events) == "Hello"
    assert provider.requests[0].path == "/ask?alt=sse&key=sk/marked%2B5d1f7c"
    assert events[1].data["metadata"]["endpoint"] == f"{provider.url}/ask?alt=sse"
    assert events[1].data["full_request_body"] == provider.requests[0].json
    page = ada.http.get(f"/monitor/runs/{run['run_id']}/")
    assert page.status_code == 200
    assert "/ask?alt=sse" in page.text
    for seen in (str([event.data for event in events]), page.text):
        assert "5d1f7c" not in seen


@pytest.mark.contract("F2")
@pytest.mark.parametrize("response", [SSE, LINES, PLAIN])
@pytest.mark.parametrize("cut", [close, reset])
async def test_a_broken_connection_is_no_end_even_where_the_end_of_the_body_is_one(
    provider, response, cut
):
    piece = {"sse": sse({"delta": "a"}), "ndjson": lines({"response": "a"}), "text": "a"}
    provider.reply(head(200, "text/plain"), send(piece[response["format"]]), wait(0.05), cut())
    answer = await asked(custom(response, base_url=provider.url))
    assert answer.text == "a"
    assert answer.error is not None
    assert answer.error.code == "STREAM_INTERRUPTED"


async def test_a_web_page_is_a_wrong_address(provider):
    provider.reply(head(200, "text/html"), send("<h1>Router</h1>"))
    answer = await asked(custom(PLAIN, base_url=provider.url))
    assert answer.error is not None
    assert answer.error.code == "INVALID_REQUEST"


async def test_put_is_put(provider):
    provider.reply(head(200, "text/plain"), send("a"))
    await asked(custom(PLAIN, {"method": "PUT"}, provider.url))
    assert provider.requests[0].method == "PUT"
