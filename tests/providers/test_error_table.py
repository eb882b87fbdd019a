"""Every row of the error map, over a real socket: code, retry, waiting time, and what to do.

The map is errors.md among the format pages; the rows here are written down anew, in its order. The
recorded bodies beside it are answered by the kind that they were recorded from. What a failure
means without a socket, in more detail, is in test_failure.
"""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from providers import client
from providers.adapters.base import Target
from providers.adapters.registry import adapter_class
from providers.client import Limits
from providers.errors import ProviderError
from providers.failure import RETRY_AFTER_MAX
from tests.providers.answers import Answer, asked
from tests.providers.test_adapters import RECORDINGS
from tests.providers.test_failure import BODIES
from tests.servers.provider import (
    OPENAI_DONE,
    Close,
    Provider,
    Step,
    close,
    end,
    hang,
    head,
    json_answer,
    ollama_line,
    openai_chunk,
    raw,
    reset,
    send,
    sse,
    wait,
)

KEY = "marked-Key-7f3a"
LIMITS = Limits(connect=2, first_chunk=5, chunk=5)
SHORT = Limits(connect=0.5, first_chunk=0.3, chunk=0.3)

pytestmark = pytest.mark.contract("P3")

# Every message has one of these: a sentence that begins with what to do.
NEXT_STEP = re.compile(
    r"[.”!?…] (Add|Ask|Change|Check|Choose|Correct|Enter|Send|Try|Wait) |An administrator has to"
)


@dataclass
class Double:
    """The double of a provider, and an event loop on which it is asked."""

    provider: Provider
    runner: asyncio.Runner

    def asked(self, kind: str, limits: Limits = LIMITS, **target: Any) -> Answer:
        values = {"name": "Conf", "model": "m", "base_url": self.provider.url, "api_key": KEY}
        adapter = adapter_class(kind)(Target(**values | target))
        answer = self.runner.run(asked(adapter, limits))
        if answer.error:
            assert_said(answer.error)
            assert answer.finish is None
        return answer

    def answered(self, kind: str, *steps: Step, limits: Limits = LIMITS) -> Answer:
        """What comes of asking the double, which answers so."""
        self.provider.reply(*steps)
        return self.asked(kind, limits)

    def failed(self, kind: str, *steps: Step, limits: Limits = LIMITS) -> ProviderError:
        error = self.answered(kind, *steps, limits=limits).error
        assert error is not None
        return error


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running
        running.run(client.aclose())


@pytest.fixture
def double(provider: Provider, runner: asyncio.Runner) -> Double:
    return Double(provider, runner)


def assert_said(error: ProviderError) -> None:
    """Who failed and what to do, without a secret."""
    assert error.message.startswith("Conf ")
    assert NEXT_STEP.search(error.message), error.message
    assert KEY not in error.message
    assert len(error.message) < 600


# ---- What was recorded


def bodies() -> list[Any]:
    if not BODIES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no {BODIES}"))]
    return [pytest.param(body, id=body["id"]) for body in json.loads(BODIES.read_text())]


@pytest.mark.parametrize("case", bodies())
def test_a_recorded_body_is_mapped_by_the_kind_that_gets_it(double, case):
    # A custom endpoint has no table of its own, no more than AI Refinery has.
    kind = {"custom": "airefinery"}.get(case["provider"], case["provider"])
    start = head(case["http_status"], case["content_type"], case["headers"])
    error = double.failed(kind, start, send(case["body"]))
    expect = case["expect"]
    assert (error.code, error.retryable) == (expect["code"], expect["retryable_before_first_chunk"])
    assert error.retry_after == expect["retry_after"]
    assert (expect["message_contains"] or "") in error.message


def recorded_errors() -> list[Any]:
    found = []
    for meta_path in sorted(RECORDINGS.glob("*.meta.json")):
        meta = json.loads(meta_path.read_text())
        if meta["format"] == "json-error":
            body = meta_path.with_name(meta_path.name.replace(".meta", ""))
            found.append(pytest.param(meta, body, id=body.stem))
    return found or [pytest.param({}, None, marks=pytest.mark.skip(reason=f"no {RECORDINGS}"))]


@pytest.mark.parametrize(("meta", "body"), recorded_errors())
def test_a_recorded_error_response_gives_what_it_was(double, meta, body):
    start = head(meta["http_status"], meta["content_type"])
    error = double.failed(meta["provider"], start, send(body.read_bytes()))
    expect = meta["expect"]["error"]
    assert (error.code, error.retryable) == (expect["code"], expect["retryable_before_first_chunk"])
    assert error.retry_after == expect["retry_after"]
    assert expect["message"][:60] in error.message


# ---- Transport

NOT_REACHED = ("PROVIDER_OFFLINE", True)
TOO_SLOW = ("TIMEOUT", False)
BROKEN = ("STREAM_INTERRUPTED", True)


@pytest.mark.parametrize(
    "base_url",
    ["http://no-such-host.invalid", "http://127.0.0.1:{free}", "https://127.0.0.1:{port}"],
    ids=["name", "refused", "TLS"],
)
def test_a_provider_that_cannot_be_connected_to_is_offline(double, base_url):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = double.provider.port
        address = base_url.format(free=free.getsockname()[1], port=port)
        answer = double.asked("local", base_url=address)
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == NOT_REACHED


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        # before the headers
        ([hang()], TOO_SLOW),
        ([close()], NOT_REACHED),
        ([raw(b""), reset()], NOT_REACHED),
        ([raw(b"HTTP/1.1 200 OK\r\nContent-Ty"), close()], NOT_REACHED),
        # headers, but no chunk yet
        ([head(), hang()], TOO_SLOW),
        ([head(), send(": ping\n\n"), hang()], TOO_SLOW),
        ([head(), send(": ping\n\n"), reset()], BROKEN),
        ([head(), send(": ping\n\n"), close()], BROKEN),
        ([head(chunked=False), close()], BROKEN),
        ([head(headers={"Content-Encoding": "gzip"}), send("no gzip")], ("PROVIDER_ERROR", False)),
        # after the first chunk
        ([head(), send(openai_chunk("a")), hang()], TOO_SLOW),
        ([head(), send(openai_chunk("a")), reset()], BROKEN),
        ([head(), send(openai_chunk("a")), close()], BROKEN),
        ([head(chunked=False), send(openai_chunk("a")), close()], BROKEN),
    ],
)
@pytest.mark.parametrize("kind", ["openrouter", "local"])
def test_a_connection_that_fails_is_told_by_how_far_it_had_come(double, kind, steps, outcome):
    answer = double.answered(kind, *steps, limits=SHORT)
    assert answer.error is not None
    assert (answer.error.code, answer.error.retryable) == outcome
    has_text = any(getattr(step, "data", b"") == openai_chunk("a") for step in steps)
    assert answer.text == ("a" if has_text else "")
    assert answer.error.recoverable is (outcome[0] != "PROVIDER_ERROR")


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"base_url": "gopher://h/"}, "INVALID_REQUEST"),
        ({"base_url": "http://127.0.0.1:99999"}, "INVALID_REQUEST"),
        ({"extra_headers": {"X-A": "a\r\nX-B: b"}}, "INVALID_REQUEST"),
        ({"api_key": f"{KEY}\nX-Evil: 1"}, "API_KEY_INVALID"),
    ],
)
def test_a_request_that_cannot_be_sent_is_invalid(double, target, code):
    error = double.asked("openrouter", **target).error
    assert error is not None
    assert (error.code, error.retryable) == (code, False)
    assert not double.provider.requests


# ---- Status, where body and message say nothing more

STATUSES = [
    *((status, "INVALID_REQUEST", False) for status in (301, 302, 307, 308)),
    *((status, "INVALID_REQUEST", False) for status in (400, 405, 406, 411, 415, 422)),
    (401, "API_KEY_INVALID", False),
    (402, "QUOTA_EXCEEDED", False),
    (403, "API_KEY_INVALID", False),
    (404, "INVALID_REQUEST", False),
    *((status, "TIMEOUT", False) for status in (408, 504, 524)),
    (409, "PROVIDER_ERROR", True),
    (413, "CONTEXT_LENGTH_EXCEEDED", False),
    (429, "RATE_LIMIT_EXCEEDED", True),
    *((status, "PROVIDER_ERROR", True) for status in (500, 507, 520)),
    (501, "PROVIDER_ERROR", False),
    *((status, "PROVIDER_OFFLINE", True) for status in (502, 521, 522, 523, 530)),
    *((status, "PROVIDER_OVERLOADED", True) for status in (503, 529)),
]


@pytest.mark.parametrize(("status", "code", "retryable"), STATUSES)
@pytest.mark.parametrize("body", ["", '{"error":{"message":"Sorry."}}'], ids=["empty", "words"])
def test_a_status_alone_decides_where_nothing_else_is_said(double, status, code, retryable, body):
    error = double.failed("airefinery", head(status, "application/json"), send(body))
    assert (error.code, error.retryable) == (code, retryable)
    if code == "TIMEOUT":
        assert error.recoverable


@pytest.mark.parametrize(
    ("kind", "status", "error", "code"),
    [
        ("local", 404, {"message": "model 'x' is not loaded"}, "MODEL_NOT_FOUND"),
        ("local", 404, {"message": "File Not Found", "type": "not_found_error"}, "INVALID_REQUEST"),
        ("openrouter", 403, {"metadata": {"reasons": ["violence"]}}, "CONTENT_FILTERED"),
        ("ollama", 403, {}, "INVALID_REQUEST"),
        ("ollama", 403, {"message": "upgrade your plan"}, "QUOTA_EXCEEDED"),
        ("openai", 429, {"type": "insufficient_quota"}, "QUOTA_EXCEEDED"),
    ],
)
def test_some_statuses_depend_on_the_body(double, kind, status, error, code):
    assert double.failed(kind, *json_answer({"error": error}, status)).code == code


def test_a_web_page_means_a_wrong_base_url(double):
    page = send("<!doctype html><title>Router</title>")
    error = double.failed("local", head(200, "text/html; charset=utf-8"), page)
    assert (error.code, error.retryable) == ("INVALID_REQUEST", False)
    assert "web page" in error.message


@pytest.mark.parametrize(
    ("status", "word", "retryable"),
    [(400, "true", True), (500, "false", False), (429, "false", False), (503, "?", True)],
)
def test_the_header_x_should_retry_has_the_last_word(double, status, word, retryable):
    start = head(status, "application/json", {"X-Should-Retry": word})
    assert double.failed("openai", start, send("{}")).retryable is retryable


# ---- By provider

BY_PROVIDER = [
    # kind, status, what `error` has, code, retry
    ("openai", 401, {"code": "invalid_api_key"}, "API_KEY_INVALID", False),
    ("openai", 403, {"code": "unsupported_country_region_territory"}, "API_KEY_INVALID", False),
    ("openai", 429, {"code": "rate_limit_exceeded"}, "RATE_LIMIT_EXCEEDED", True),
    ("openai", 429, {"code": "slow_down"}, "RATE_LIMIT_EXCEEDED", True),
    ("openai", 404, {"code": "model_not_found"}, "MODEL_NOT_FOUND", False),
    ("openai", 400, {"code": "model_not_found"}, "MODEL_NOT_FOUND", False),
    ("openai", 400, {"code": "context_length_exceeded"}, "CONTEXT_LENGTH_EXCEEDED", False),
    *(
        ("openai", 429, {"type": "insufficient_quota", "code": code}, "QUOTA_EXCEEDED", False)
        for code in (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        )
    ),
    *(
        ("openai", 400, {"code": code}, "CONTENT_FILTERED", False)
        for code in (
            "content_filter",
            "content_policy_violation",
            "invalid_prompt",
            "bio_policy",
            "misalignment_policy_violation",
        )
    ),
    *(
        ("openai", 400, {"code": code}, "INVALID_REQUEST", False)
        for code in ("unsupported_parameter", "unsupported_value", "invalid_value")
    ),
    ("openai", 503, {"code": "server_is_overloaded"}, "PROVIDER_OVERLOADED", True),
    ("openai", 500, {"type": "server_error"}, "PROVIDER_ERROR", True),
    # OpenRouter's codes are numbers, its words in the metadata.
    *(
        ("openrouter", status, {"code": status, "metadata": {"error_type": word}}, code, retry)
        for status, word, code, retry in (
            (502, "provider_unavailable", "PROVIDER_OFFLINE", True),
            (401, "authentication", "API_KEY_INVALID", False),
            (403, "permission_denied", "API_KEY_INVALID", False),
            (429, "rate_limit_exceeded", "RATE_LIMIT_EXCEEDED", True),
            (404, "not_found", "MODEL_NOT_FOUND", False),
            (408, "timeout", "TIMEOUT", False),
            (524, "timeout", "TIMEOUT", False),
            (400, "context_length_exceeded", "CONTEXT_LENGTH_EXCEEDED", False),
            (400, "token_limit_exceeded", "CONTEXT_LENGTH_EXCEEDED", False),
            (400, "max_tokens_exceeded", "CONTEXT_LENGTH_EXCEEDED", False),
            (400, "string_too_long", "CONTEXT_LENGTH_EXCEEDED", False),
            (413, "payload_too_large", "CONTEXT_LENGTH_EXCEEDED", False),
            (402, "payment_required", "QUOTA_EXCEEDED", False),
            (403, "content_policy_violation", "CONTENT_FILTERED", False),
            (403, "refusal", "CONTENT_FILTERED", False),
            (400, "invalid_prompt", "CONTENT_FILTERED", False),
            (400, "invalid_request", "INVALID_REQUEST", False),
            (422, "unprocessable", "INVALID_REQUEST", False),
            (412, "precondition_failed", "INVALID_REQUEST", False),
            (400, "invalid_image", "INVALID_REQUEST", False),
            (400, "image_too_small", "INVALID_REQUEST", False),
            (503, "provider_overloaded", "PROVIDER_OVERLOADED", True),
            (529, "provider_overloaded", "PROVIDER_OVERLOADED", True),
            (500, "server", "PROVIDER_ERROR", True),
            (500, "unmapped", "PROVIDER_ERROR", True),
        )
    ),
    (
        "openrouter",
        403,
        {"code": 403, "metadata": {"error_type": "permission_denied", "reasons": ["x"]}},
        "CONTENT_FILTERED",
        False,
    ),
    (
        "openrouter",
        402,
        {"code": 402, "metadata": {"limit_source": "openrouter_in_flight_budget"}},
        "QUOTA_EXCEEDED",
        True,
    ),
    ("anthropic", 401, {"type": "authentication_error"}, "API_KEY_INVALID", False),
    ("anthropic", 403, {"type": "permission_error"}, "API_KEY_INVALID", False),
    ("anthropic", 429, {"type": "rate_limit_error"}, "RATE_LIMIT_EXCEEDED", True),
    (
        "anthropic",
        404,
        {"type": "not_found_error", "message": "model: x"},
        "MODEL_NOT_FOUND",
        False,
    ),
    ("anthropic", 504, {"type": "timeout_error"}, "TIMEOUT", False),
    ("anthropic", 400, {"message": "prompt is too long: 9 > 5"}, "CONTEXT_LENGTH_EXCEEDED", False),
    ("anthropic", 413, {"type": "request_too_large"}, "CONTEXT_LENGTH_EXCEEDED", False),
    ("anthropic", 402, {"type": "billing_error"}, "QUOTA_EXCEEDED", False),
    *(
        (
            "anthropic",
            429,
            {"type": "rate_limit_error", "details": {"error_code": word}},
            code,
            code == "RATE_LIMIT_EXCEEDED",
        )
        for word, code in (
            ("enforced_spend_limit_reached", "QUOTA_EXCEEDED"),
            ("contract_spend_limit_reached", "QUOTA_EXCEEDED"),
            ("ramp_limit_exceeded", "RATE_LIMIT_EXCEEDED"),
        )
    ),
    ("anthropic", 400, {"message": "Your credit balance is too low"}, "QUOTA_EXCEEDED", False),
    ("anthropic", 400, {"type": "invalid_request_error"}, "INVALID_REQUEST", False),
    ("anthropic", 529, {"type": "overloaded_error"}, "PROVIDER_OVERLOADED", True),
    ("anthropic", 500, {"type": "api_error"}, "PROVIDER_ERROR", True),
    ("anthropic", 409, {"type": "conflict_error"}, "PROVIDER_ERROR", True),
    ("ollama", 502, "upstream gone", "PROVIDER_OFFLINE", True),
    ("ollama", 401, "Unauthorized", "API_KEY_INVALID", False),
    ("ollama", 429, "too many requests", "RATE_LIMIT_EXCEEDED", True),
    ("ollama", 404, "model 'x' not found", "MODEL_NOT_FOUND", False),
    ("ollama", 400, "input length exceeds the context length", "CONTEXT_LENGTH_EXCEEDED", False),
    (
        "ollama",
        400,
        '{"error":{"code":400,"message":"x","type":"exceed_context_size_error"}}',
        "CONTEXT_LENGTH_EXCEEDED",
        False,
    ),
    ("ollama", 402, "no credit", "QUOTA_EXCEEDED", False),
    ("ollama", 400, "invalid options", "INVALID_REQUEST", False),
    ("ollama", 503, "server busy, please try again", "PROVIDER_OVERLOADED", True),
    ("ollama", 500, "llama runner process has terminated", "PROVIDER_ERROR", True),
    ("local", 401, {"type": "authentication_error", "code": 401}, "API_KEY_INVALID", False),
    ("local", 401, "Unauthorized", "API_KEY_INVALID", False),
    ("local", 404, {"code": "model_not_found"}, "MODEL_NOT_FOUND", False),
    (
        "local",
        404,
        {"type": "NotFoundError", "code": 404, "message": "The model `x` does not exist."},
        "MODEL_NOT_FOUND",
        False,
    ),
    ("local", 400, "No models loaded. Load one first.", "MODEL_NOT_FOUND", False),
    (
        "local",
        400,
        {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 5},
        "CONTEXT_LENGTH_EXCEEDED",
        False,
    ),
    *(
        ("local", 400, message, "CONTEXT_LENGTH_EXCEEDED", False)
        for message in (
            "the request exceeds the available context size",
            "This model's maximum context length is 4096 tokens.",
            "Trying to keep the first 9 tokens when context the overflows.",
            "n_keep (9) >= n_ctx (5)",
            "prompt too long; exceeded max context length by 4 tokens",
        )
    ),
    ("local", 400, {"type": "invalid_request_error", "code": 400}, "INVALID_REQUEST", False),
    ("local", 501, {"type": "not_supported_error", "code": 501}, "INVALID_REQUEST", False),
    (
        "local",
        503,
        {"type": "unavailable_error", "code": 503, "message": "Loading model"},
        "PROVIDER_OVERLOADED",
        True,
    ),
    ("local", 500, {"type": "server_error", "code": 500}, "PROVIDER_ERROR", True),
    ("local", 500, "failed to decode, increasing context size", "PROVIDER_ERROR", True),
    ("airefinery", 502, "gone", "PROVIDER_OFFLINE", True),
    ("airefinery", 401, "expired", "API_KEY_INVALID", False),
    ("airefinery", 403, "forbidden", "API_KEY_INVALID", False),
    ("airefinery", 400, "Incorrect API key provided: x", "API_KEY_INVALID", False),
    ("airefinery", 429, "slow", "RATE_LIMIT_EXCEEDED", True),
    ("airefinery", 404, "no such model", "MODEL_NOT_FOUND", False),
    ("airefinery", 404, "Not Found", "INVALID_REQUEST", False),
    ("airefinery", 504, "upstream timed out", "TIMEOUT", False),
    ("airefinery", 422, "Input is too long", "CONTEXT_LENGTH_EXCEEDED", False),
    ("airefinery", 402, "pay", "QUOTA_EXCEEDED", False),
    ("airefinery", 400, "Refused by the content policy", "CONTENT_FILTERED", False),
    ("airefinery", 503, "later", "PROVIDER_OVERLOADED", True),
]


@pytest.mark.parametrize(("kind", "status", "error", "code", "retryable"), BY_PROVIDER)
def test_each_kind_has_its_own_words_for_each_code(double, kind, status, error, code, retryable):
    found = double.failed(kind, *json_answer({"error": error}, status))
    assert (found.code, found.retryable) == (code, retryable)


# ---- Message patterns, for bodies whose codes say nothing

PATTERNS = [
    ("exceeds the context_length of 5", "CONTEXT_LENGTH_EXCEEDED"),
    ("larger than the context window", "CONTEXT_LENGTH_EXCEEDED"),
    ("the Maximum Context is 5", "CONTEXT_LENGTH_EXCEEDED"),
    ("too many prompt tokens", "CONTEXT_LENGTH_EXCEEDED"),
    ("total length of all messages is too large", "CONTEXT_LENGTH_EXCEEDED"),
    ("exceed_context_size", "CONTEXT_LENGTH_EXCEEDED"),
    ("it is longer than the context", "CONTEXT_LENGTH_EXCEEDED"),
    ("insufficient balance", "QUOTA_EXCEEDED"),
    ("insufficient_credit", "QUOTA_EXCEEDED"),
    ("You exceeded your current quota", "QUOTA_EXCEEDED"),
    ("check your billing details", "QUOTA_EXCEEDED"),
    ("Invalid API-Key", "API_KEY_INVALID"),
    ("invalid x-api-key", "API_KEY_INVALID"),
    ("Authentication fails", "API_KEY_INVALID"),
    ("unauthorized", "API_KEY_INVALID"),
    ("model x not found", "MODEL_NOT_FOUND"),
    ("The model x does not exist", "MODEL_NOT_FOUND"),
    ("No endpoints found for x", "MODEL_NOT_FOUND"),
    ("x is not a valid model", "MODEL_NOT_FOUND"),
    ("stopped by the content filter", "CONTENT_FILTERED"),
    ("violates our content management rules", "CONTENT_FILTERED"),
    ("against our usage policy", "CONTENT_FILTERED"),
    ("rejected by the safety system", "CONTENT_FILTERED"),
    ("the input was flagged", "CONTENT_FILTERED"),
    ("failed moderation", "CONTENT_FILTERED"),
    ("the engine is overloaded", "PROVIDER_OVERLOADED"),
    ("server busy", "PROVIDER_OVERLOADED"),
    ("Loading model", "PROVIDER_OVERLOADED"),
]


@pytest.mark.parametrize(("words", "code"), PATTERNS)
def test_words_decide_where_no_code_does(double, words, code):
    body = {"error": {"message": words}}
    for status in (400, 413, 422, 500):
        assert double.failed("local", *json_answer(body, status)).code == code
    assert double.failed("local", send(openai_chunk("")), send(sse(body))).code == code
    # Other statuses are surer than words.
    assert double.failed("local", *json_answer(body, 429)).code == "RATE_LIMIT_EXCEEDED"


# ---- Waiting times


def in_seconds(seconds: float) -> str:
    """An HTTP date so far from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "1.5"}, 1.5, 1.5),
        ({"Retry-After": "-3"}, 0, 0),
        ({"Retry-After": "1e99"}, RETRY_AFTER_MAX, RETRY_AFTER_MAX),
        ({"retry-after-ms": "1400", "retry-after": "2"}, 1.4, 1.4),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1, 1),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360, 360),
    ],
)
def test_a_waiting_time_in_seconds_is_read_and_bounded(double, status, headers, least, most):
    error = double.failed("openai", head(status, "application/json", headers), send("{}"))
    assert error.retry_after is not None
    assert least <= error.retry_after <= most


def test_a_waiting_time_as_a_date_is_read_and_bounded(double):
    for seconds, least, most in ((90, 60, 90), (10**9, RETRY_AFTER_MAX, RETRY_AFTER_MAX)):
        headers = {"Retry-After": in_seconds(seconds)}
        error = double.failed("openrouter", head(429, "application/json", headers), send("{}"))
        assert error.retry_after is not None
        assert least <= error.retry_after <= most


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "", "Sat, 21 Nov 2015 10:00:00 GMT"])
def test_a_waiting_time_that_is_none_is_unknown(double, value):
    start = head(429, "application/json", {"Retry-After": value})
    assert double.failed("local", start, send("{}")).retry_after is None


def test_a_waiting_time_in_words_is_read(double):
    body = {"error": {"message": "Rate limit reached. Please try again in 1.4s."}}
    assert double.failed("airefinery", *json_answer(body, 429)).retry_after == 1.4


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_waiting_does_not_mend_has_no_waiting_time(double, status):
    start = head(status, "application/json", {"Retry-After": "5"})
    assert double.failed("openai", start, send("{}")).retry_after is None


# ---- Inside a stream

OPENAI_KINDS = ("openai", "openrouter", "local", "airefinery")
WORDS = {"message": "It is overloaded."}


@pytest.mark.parametrize("kind", OPENAI_KINDS)
@pytest.mark.parametrize(
    "error",
    [
        sse({"error": WORDS}),
        sse({"id": "c", "error": WORDS, "choices": [{"delta": {}, "finish_reason": "error"}]}),
        sse({"error": WORDS}, event="error"),
        sse(WORDS, event="error"),
        sse("It is overloaded.", event="error"),
        b'error: {"code":503,"message":"It is overloaded."}\n\n',
        sse({"object": "error", **WORDS}),
    ],
    ids=["data", "beside-choices", "event", "bare", "plain-words", "field", "object"],
)
def test_an_error_of_any_shape_ends_a_stream_with_its_text_kept(double, kind, error):
    answer = double.answered(kind, send(openai_chunk("One")), send(error), send(OPENAI_DONE))
    assert answer.text == "One"
    assert answer.error is not None
    assert answer.error.code == "PROVIDER_OVERLOADED"


@pytest.mark.parametrize("kind", OPENAI_KINDS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": 429, "message": "x"}, "RATE_LIMIT_EXCEEDED"),
        ({"code": "502", "message": "x"}, "PROVIDER_OFFLINE"),
        ({"status_code": 400, "message": "x"}, "INVALID_REQUEST"),
        ({"code": "server_error", "message": "x"}, "PROVIDER_ERROR"),
    ],
)
def test_a_number_in_an_error_inside_a_stream_stands_for_a_status(double, kind, error, code):
    steps = send(openai_chunk("One")), send(sse({"error": error}))
    assert double.failed(kind, *steps).code == code


def test_an_error_line_ends_a_stream_of_ollama_with_its_text_kept(double):
    lines = ollama_line("One") + b'{"error":"unexpected EOF"}\n'
    answer = double.answered("ollama", head(200, "application/x-ndjson"), send(lines))
    assert answer.text == "One"
    assert answer.error is not None
    assert answer.error.code == "PROVIDER_ERROR"


def test_an_error_event_ends_a_stream_of_anthropic(double):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    found = double.failed("anthropic", send(sse(error, event="error")))
    assert (found.code, found.retryable) == ("PROVIDER_OVERLOADED", True)


ANTHROPIC_START = sse(
    {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}, event="message_start"
)


@pytest.mark.contract("F2")
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        *((kind, openai_chunk("One")) for kind in OPENAI_KINDS),
        *((kind, openai_chunk("")) for kind in OPENAI_KINDS),
        *((kind, openai_chunk("") + OPENAI_DONE) for kind in OPENAI_KINDS),
        ("ollama", ollama_line("One")),
        ("anthropic", ANTHROPIC_START),
    ],
)
@pytest.mark.parametrize("last", [end(), close(), reset()], ids=["end", "close", "reset"])
def test_an_end_that_is_none_is_an_interruption(double, kind, body, last: Close):
    found = double.failed(kind, head(), send(body), wait(0), last)
    assert (found.code, found.retryable, found.recoverable) == ("STREAM_INTERRUPTED", True, True)


@pytest.mark.parametrize("kind", OPENAI_KINDS)
@pytest.mark.parametrize("word", ["content_filter", "refusal", "SAFETY"])
def test_a_filter_that_left_no_text_is_an_error_and_else_a_reason(double, kind, word):
    steps = send(openai_chunk(finish=word)), send(OPENAI_DONE)
    assert double.failed(kind, *steps).code == "CONTENT_FILTERED"
    answer = double.answered(kind, send(openai_chunk("One")), *steps)
    assert answer.error is None
    assert answer.finish is not None
    assert (answer.finish.reason, answer.finish.provider_reason) == ("content_filter", word)
