"""What a failure means: the shared error bodies, waiting times, and what a message may say."""

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers import errors
from providers.adapters.base import Target
from providers.adapters.openai import OpenAI
from providers.failure import (
    RETRY_AFTER_MAX,
    Source,
    masked,
    reported_failure,
    response_failure,
)

BODIES = Path(__file__).parents[2].parent / "shared" / "wire" / "error-bodies.json"
NOW = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)
KEY = "marked/Key+7f3a"


def bodies() -> list[object]:
    if not BODIES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no {BODIES}"))]
    return [pytest.param(body, id=body["id"]) for body in json.loads(BODIES.read_text())]


def failed(status=429, headers=None, body="", kind="", content_type="application/json"):
    body = body if isinstance(body, str) else json.dumps(body)
    source = Source("Conf", kind, [KEY])
    return response_failure(source, status, headers or {}, content_type, body.encode(), now=NOW)


@pytest.mark.parametrize("case", bodies())
def test_a_recorded_error_gets_its_code_its_retry_and_its_words(case):
    error = response_failure(
        Source("Conf", case["provider"]),
        case["http_status"],
        case["headers"],
        case["content_type"],
        case["body"].encode(),
        now=NOW,
    )
    expect = case["expect"]
    assert error.code == expect["code"]
    assert error.retryable == expect["retryable_before_first_chunk"]
    assert error.retry_after == expect["retry_after"]
    assert (expect["message_contains"] or "") in error.message
    assert error.message.startswith("Conf ")
    assert len(error.message) < 600


@pytest.mark.parametrize(
    ("headers", "words", "seconds"),
    [
        ({}, "", None),
        ({"retry-after": "7"}, "", 7),
        ({"Retry-After": "7"}, "", 7),
        ({"retry-after-ms": "1400", "retry-after": "2"}, "", 1.4),
        ({"retry-after-ms": "0", "retry-after": "1"}, "", 1),
        ({"retry-after": "0"}, "", 0),
        ({"retry-after": "-5"}, "", 0),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "1e300"}, "", RETRY_AFTER_MAX),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, "", 30),
        ({"retry-after": "Sat, 21 Nov 2026 09:59:30 GMT"}, "", None),
        ({"retry-after": "Sat, 21 Nov 9999 10:00:30 GMT"}, "", RETRY_AFTER_MAX),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"}, "", 0.012),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, "", 360),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"}, "", None),
        (
            {
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1.5s",
            },
            "",
            1.5,
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-21T10:00:31Z",
            },
            "",
            31,
        ),
        ({}, "Please try again in 1.4s.", 1.4),
        ({}, "Try again in 1m30s", 90),
        ({"retry-after": "3"}, "try again in 9s", 3),
        ({}, "try again in a while", None),
    ],
)
def test_the_waiting_time_follows_its_order(headers, words, seconds):
    error = failed(429, headers, {"error": {"message": words}})
    assert error.retry_after == seconds
    assert error.retry_after is None or math.isfinite(error.retry_after)


def test_an_error_that_waiting_does_not_mend_has_no_waiting_time():
    assert failed(401, {"retry-after": "5"}).retry_after is None


@pytest.mark.parametrize(
    ("status", "should_retry", "retryable"),
    [(400, "true", True), (500, "false", False), (503, "false", False), (503, "maybe", True)],
)
def test_x_should_retry_decides_whatever_the_table_says(status, should_retry, retryable):
    assert failed(status, {"x-should-retry": should_retry}).retryable is retryable


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (409, "PROVIDER_ERROR", True),
        (500, "PROVIDER_ERROR", True),
        (501, "PROVIDER_ERROR", False),
        (520, "PROVIDER_ERROR", True),
        (418, "PROVIDER_ERROR", False),
        (413, "CONTEXT_LENGTH_EXCEEDED", False),
        (404, "INVALID_REQUEST", False),
        (204, "PROVIDER_ERROR", False),
    ],
)
def test_a_status_that_says_nothing_more_follows_the_table(status, code, retryable):
    error = failed(status)
    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error": {"message": "x", "type": "overloaded_error"}}, "PROVIDER_OVERLOADED"),
        ({"error": {"message": "x", "code": 429}}, "RATE_LIMIT_EXCEEDED"),
        ({"error": {"message": "x", "code": "502"}}, "PROVIDER_OFFLINE"),
        ({"error": {"message": "x", "type": "invalid_request_error"}}, "INVALID_REQUEST"),
        ({"error": {"message": "server busy"}}, "PROVIDER_OVERLOADED"),
        ({"error": "unauthorized"}, "API_KEY_INVALID"),
        ({"message": "model x not found"}, "MODEL_NOT_FOUND"),
        ("the prompt is too long", "CONTEXT_LENGTH_EXCEEDED"),
        ('{"code":400,"type":"exceed_context_size_error"}', "CONTEXT_LENGTH_EXCEEDED"),
        ("try again, increasing context size", "PROVIDER_ERROR"),
        ([{"error": {"code": 400, "message": "API key not valid"}}], "INVALID_REQUEST"),
        ({"error": {"type": "image_too_large"}}, "INVALID_REQUEST"),
        ({"error": {"code": "rate_limit_error", "type": "insufficient_quota"}}, "QUOTA_EXCEEDED"),
        ({"error": {"metadata": "no", "details": 7, "message": ["x"]}}, "PROVIDER_ERROR"),
        ({"error": {"code": True, "status_code": 10**30}}, "PROVIDER_ERROR"),
        (None, "PROVIDER_ERROR"),
        (7, "PROVIDER_ERROR"),
        ([], "PROVIDER_ERROR"),
        ("", "PROVIDER_ERROR"),
    ],
)
def test_an_error_inside_a_stream_is_mapped_like_one_before_it(error, code):
    assert reported_failure(Source("Conf"), error).code == code


def test_a_server_error_inside_a_stream_may_be_tried_again():
    error = reported_failure(Source("Conf"), {"error": {"message": "x", "type": "server_error"}})
    assert (error.code, error.retryable) == ("PROVIDER_ERROR", True)


def test_an_error_inside_an_error_is_found():
    inner = json.dumps({"error": {"message": "Too much", "code": "rate_limit_exceeded"}})
    error = failed(500, body={"error": {"message": inner, "code": "500"}})
    assert error.code == "RATE_LIMIT_EXCEEDED"
    assert "“Too much”" in error.message


def test_a_message_has_no_tags_no_control_characters_and_an_end():
    words = "<b>Bad</b>\r\nthing\x00\x1b[31m\u2028\ud800 <script>alert(1)</script>" + "x" * 5_000
    message = failed(400, body={"error": {"message": words}}).message
    assert "<" not in message
    assert message.isprintable()
    assert len(message) < 500


@pytest.mark.parametrize(
    "words",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Incorrect API key provided: {KEY.replace('/', '%2F').replace('+', '%2B')}.",
        f"Authorization: Bearer {KEY}",
        "x" * 290 + f" {KEY}",  # cut in the middle of the key
        json.dumps({"error": {"message": f"no {KEY}"}}),
    ],
)
def test_the_key_does_not_come_back(words):
    message = failed(401, body={"error": {"message": words}}).message
    assert KEY not in message
    assert "7f3a" not in message
    assert "marked" not in message


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdef123456",
        "sk-abc***xyz1",
        "sk-ant-api03-AAAA_bbb",
        "gsk_abcdefghijkl",
        "AIzaSyA1234567890",
        "Bearer eyJhbGciOi.J9",
        "bearer abcdef",
    ],
)
def test_what_looks_like_a_key_is_masked(secret):
    text = masked(f"Your key {secret} is wrong")
    assert secret.split()[-1] not in text
    assert text.endswith("is wrong")


def test_a_very_short_key_does_not_tear_words_apart():
    assert masked("a cat sat: a", ["a"]) == "[hidden] cat sat: [hidden]"


def test_headers_of_the_configuration_are_secrets_too():
    target = Target("Conf", "m", extra_headers={"X-Auth": "own-secret-1"})
    error = OpenAI(target).failure(400, {}, "", b'{"error":"you sent own-secret-1"}')
    assert "own-secret-1" not in error.message


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://example.com/v1?key=abc", "https://example.com"),
        ("//example.com/x", "example.com"),
        ("/v1/", "another address"),
        ("", "another address"),
        ("http://[bad", "another address"),
        ("https://u:secret@example.com/", "https://example.com"),
    ],
)
def test_a_redirect_says_where_it_points_and_no_more(location, where):
    error = failed(301, {"Location": location})
    assert error.code == "INVALID_REQUEST"
    assert where in error.message
    assert "key=" not in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "body",
    ["model " * 10_000, "<" * 60_000, "<title" * 10_000, "{" * 60_000, "n_keep " * 9_000],
)
def test_a_hostile_body_costs_no_time(body):
    started_at = time.perf_counter()
    failed(400, body=body)
    failed(400, body={"error": {"message": body}})
    failed(400, body=body, content_type="text/html")
    assert time.perf_counter() - started_at < 1


def test_every_error_class_has_words_and_a_code_of_its_own():
    classes = errors.ProviderError.__subclasses__()
    assert len({c.code for c in classes}) == len(classes)
    for error_class in classes:
        error = OpenAI(Target("Conf", "m")).error(error_class)
        assert error.message.startswith("Conf ")
        assert error.message.endswith(".")
