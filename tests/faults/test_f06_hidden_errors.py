"""F6: an error inside a 200 is the error that it would be with its own status."""

import json
from typing import Any

import pytest

from conversations.models import Message
from providers.models import Configuration
from tests.faults.checks import watch
from tests.people import Person
from tests.servers.provider import (
    Provider,
    Step,
    close,
    head,
    json_answer,
    openai_chunk,
    raw,
    send,
    sse,
)

pytestmark = pytest.mark.usefixtures("invariants")

KEY = "sk-marked-key-0123456789"  # of the configuration
LONG = f"Incorrect API key provided: {KEY}. " + "What a pity. " * 1_000
BODIES: list[tuple[int, dict[str, Any]]] = [
    (401, {"error": {"message": LONG, "type": "authentication_error", "code": "invalid_api_key"}}),
    (429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}),
    (429, {"error": {"message": "Quota exceeded", "type": "insufficient_quota"}}),
    (404, {"error": {"message": "No such model", "code": "model_not_found"}}),
    (400, {"error": {"message": "Too long", "code": "context_length_exceeded"}}),
    (503, {"error": {"message": "Overloaded", "type": "overloaded_error"}}),
    (500, {"error": {"message": "It broke", "type": "server_error"}}),
]


def ways(body: dict[str, Any]) -> list[list[Step]]:
    """The same error inside a 200, as providers send it."""
    return [
        json_answer(body),
        [head(), send(sse(body))],
        [head(), send(sse(body, event="error"))],
        [head(), send(openai_chunk(role="assistant", content="")), send(sse(body))],
    ]


@pytest.mark.contract("F6")
@pytest.mark.parametrize(("status", "body"), BODIES, ids=[str(body)[:60] for _, body in BODIES])
def test_an_error_inside_a_success_is_the_error_that_it_would_be_outside(
    ada: Person,
    openai: Configuration,
    provider: Provider,
    settings: Any,
    status: int,
    body: dict[str, Any],
):
    settings.MAX_ATTEMPTS = 1
    provider.reply(*json_answer(body, status))
    outside = watch(ada).end
    for steps in ways(body):
        provider.reply(*steps)
        inside = watch(ada).end
        for name in ("type", "code", "recoverable", "retry_after"):
            assert inside[name] == outside[name], (name, steps)
        assert inside["type"] == "error"
        assert inside["message"].startswith("Double")
        assert KEY not in json.dumps(inside)
        assert "marked" not in inside["message"]
        assert len(inside["message"]) < 600
    assert not Message.objects.filter(role="assistant").exists()


@pytest.mark.contract("F6")
@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([head(200, "text/html"), send("<html><body>Welcome!</body></html>")], "INVALID_REQUEST"),
        ([head()], "STREAM_INTERRUPTED"),
        ([head(), send(": nothing\n\n")], "STREAM_INTERRUPTED"),
        ([head(200, "application/json"), send("{}")], "STREAM_INTERRUPTED"),
        ([head(204, "", chunked=False)], "STREAM_INTERRUPTED"),
        ([send(sse("[DONE]"))], "STREAM_INTERRUPTED"),
        ([raw(b"not http at all\r\n\r\n"), close()], "PROVIDER_OFFLINE"),
    ],
    ids=["web page", "nothing", "a comment", "empty object", "204", "only the end", "no http"],
)
def test_what_is_no_answer_is_never_an_empty_one(
    ada: Person, openai: Configuration, provider: Provider, steps: list[Step], code: str
):
    provider.route(*steps, model="double-1")
    watched = watch(ada)
    assert (watched.end["type"], watched.end["code"]) == ("error", code)
    assert "<" not in watched.end["message"]
    assert not Message.objects.filter(role="assistant").exists()


@pytest.mark.contract("F6")
def test_an_error_in_the_middle_of_an_answer_keeps_what_came_before_it(
    ada: Person, openai: Configuration, provider: Provider
):
    error = sse({"error": {"message": f"Overloaded, {KEY}", "type": "overloaded_error"}})
    provider.reply(head(), send(openai_chunk("kept")), send(error))
    watched = watch(ada)
    assert (watched.end["code"], watched.text) == ("PROVIDER_OVERLOADED", "kept")
    assert KEY not in watched.end["message"]
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == ("kept", "failed")
    assert len(provider.requests) == 1
