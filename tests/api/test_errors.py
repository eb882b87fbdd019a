"""What callers of the API are refused, and how they are told."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Group, User
from django.utils import timezone

from conversations import tokens
from conversations.models import ApiToken, Budget, ChatSession, Run
from providers.models import Configuration
from tests.api.conftest import call, problem
from tests.people import Person
from tests.servers.provider import Provider

pytestmark = pytest.mark.usefixtures("openai")

PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def nothing_happened(transactional_db: None, provider: Provider) -> Iterator[None]:
    """What is refused stores nothing and asks nobody."""
    yield
    assert not Run.objects.exists()
    assert not ChatSession.objects.exists()
    assert provider.requests == []


# ---- who calls


@pytest.mark.contract("A12")
@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer llmchat-",
        "Bearer ' OR 1=1 --",
        f"Bearer llmchat-{'a' * 43}",
        f"Bearer {'a' * 50_000}",
        "Basic YWRhOmFkYQ==",
    ],
)
def test_a_token_that_is_none_is_refused(
    program: Callable[[str], httpx.Client], header: str, user: User
):
    stranger = program("")
    headers = {"Authorization": header} if header else {}
    for path in ("/v1/models", "/v1/models/double"):
        assert problem(stranger.get(path, headers=headers), 401)["code"] == "invalid_api_key"
    error = problem(stranger.post(PATH, json=call(), headers=headers), 401)
    assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")


@pytest.mark.contract("A12")
def test_a_token_counts_in_the_header_for_it_and_nowhere_else(
    program: Callable[[str], httpx.Client], secret: str
):
    stranger = program("")
    for more in ({"x-api-key": secret}, {"Cookie": f"token={secret}"}):
        problem(stranger.post(PATH, json=call(), headers=more), 401)
    problem(stranger.post(f"{PATH}?api_key={secret}&token={secret}", json=call()), 401)
    problem(stranger.post(PATH, json=call(api_key=secret)), 401)


@pytest.mark.contract("A12")
def test_a_token_that_was_cut_revoked_or_has_expired_is_refused(
    program: Callable[[str], httpx.Client], secret: str, token: ApiToken, user: User
):
    assert program(secret).get("/v1/models").status_code == 200
    problem(program(secret[:-1]).get("/v1/models"), 401)
    tokens.revoke(token)
    problem(program(secret).get("/v1/models"), 401)
    _, old = tokens.make(user, "old", expires_at=timezone.now() - timedelta(seconds=1))
    problem(program(old).get("/v1/models"), 401)


@pytest.mark.contract("A12")
def test_the_token_of_somebody_who_may_no_longer_sign_in_is_refused(http: httpx.Client, user: User):
    User.objects.update(is_active=False)
    problem(http.get("/v1/models"), 401)


@pytest.mark.contract("A6")
def test_the_login_cookie_opens_nothing_here(ada_at_the_page: Person):
    problem(ada_at_the_page.post(PATH, json=call()), 401)
    problem(ada_at_the_page.get("/v1/models"), 401)


@pytest.mark.contract("A9")
def test_an_address_or_a_method_that_there_is_not_is_told_as_the_api_tells_it(
    http: httpx.Client,
):
    assert problem(http.get("/v1/nothing"), 404)["code"] == "unknown_url"
    assert problem(http.post("/v1/embeddings", json={}), 404)["code"] == "unknown_url"
    answer = http.get(PATH)
    assert problem(answer, 405)["code"] == "METHOD_NOT_ALLOWED"
    assert answer.headers["Allow"] == "POST"
    problem(http.post("/v1/models", json={}), 405)


# ---- what for


@pytest.mark.contract("A11")
def test_a_configuration_that_may_not_be_used_is_as_if_there_were_none(
    http: httpx.Client, program: Callable[[str], httpx.Client], user: User, demo: Configuration
):
    closed = Configuration.objects.create(
        name="Off", slug="off", kind="demo", model="demo", is_active=False
    )
    group = Configuration.objects.create(name="Team", slug="team", kind="demo", model="demo")
    group.allowed_groups.add(Group.objects.create(name="team"))
    _, narrow = tokens.make(user, "narrow", [demo])
    unknown = problem(http.post(PATH, json=call(model="none")), 404)
    for model in (closed.slug, group.slug, str(demo.pk)):
        error = problem(http.post(PATH, json=call(model=model)), 404)
        assert error == {**unknown, "message": unknown["message"].replace("none", model)}
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        problem(http.get(f"/v1/models/{model}"), 404)
    problem(program(narrow).post(PATH, json=call(model="double")), 404)
    listed = [model["id"] for model in program(narrow).get("/v1/models").json()["data"]]
    assert listed == ["demo"]
    demo.delete()  # the last that it was for: it opens nothing else now
    assert program(narrow).get("/v1/models").json()["data"] == []


@pytest.mark.contract("A20")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 128_001}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": {"a": 1}}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": [{"type": "magic"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"metadata": []}, "metadata"),
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]},
            "messages[0].tool_call_id",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(
    http: httpx.Client, fields: dict[str, Any], param: str
):
    answer = http.post(PATH, content=json.dumps({**call(), **fields}))
    error = problem(answer, 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.contract("A20")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(http: httpx.Client, number: str):
    body = json.dumps(call(temperature=1)).replace('"temperature": 1', f'"temperature": {number}')
    assert problem(http.post(PATH, content=body), 400)["param"] == "temperature"


@pytest.mark.contract("A20")
@pytest.mark.parametrize(
    "body", ["", "{", "[]", "7", '"a"', "\xff", "[" * 50_000, f'{{"seed": {"9" * 5_000}}}']
)
def test_a_body_that_cannot_be_read_is_refused(http: httpx.Client, body: str):
    assert problem(http.post(PATH, content=body.encode("latin-1")), 400)["code"] == "UNREADABLE"


@pytest.mark.parametrize(
    "url",
    ["https://example.org/cat.png", "file:///etc/passwd", "data:image/png;base64,%%", "data:,"],
)
def test_an_image_has_to_come_with_the_call(http: httpx.Client, url: str):
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = http.post(PATH, json=call(messages=[{"role": "user", "content": [part]}]))
    assert problem(answer, 400)["param"] == "messages[0].content[0].image_url.url"


def test_a_file_that_is_no_image_is_refused(http: httpx.Client):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    answer = http.post(PATH, json=call(messages=[{"role": "user", "content": [part]}]))
    assert problem(answer, 400)["param"] == "messages[0].content[0].image_url.url"


def test_what_a_model_cannot_do_is_told_before_it_is_asked(http: httpx.Client):
    Configuration.objects.update(capabilities=["text"])
    tool = {"type": "function", "function": {"name": "f"}}
    assert problem(http.post(PATH, json=call(tools=[tool])), 400)["param"] == "tools"
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    answer = http.post(PATH, json=call(messages=[{"role": "user", "content": [part]}]))
    assert problem(answer, 400)["param"] == "messages"


# ---- how much


@pytest.mark.contract("A21")
@pytest.mark.parametrize("says_its_length", [True, False])
def test_a_body_that_is_too_large_is_refused(
    http: httpx.Client, settings: Any, says_its_length: bool
):
    settings.API_BODY_MAX_BYTES = 100_000
    body = json.dumps(call("x" * 200_000)).encode()

    def pieces() -> Iterator[bytes]:
        yield body

    content: Any = body if says_its_length else pieces()
    assert problem(http.post(PATH, content=content), 413)["code"] == "TOO_LARGE"


@pytest.mark.contract("A21")
def test_a_body_of_very_many_values_is_refused(http: httpx.Client):
    many = [{"role": "user", "content": "hi"}] * 100_000
    assert problem(http.post(PATH, json=call(messages=many)), 413)["code"] == "TOO_LARGE"
    some = [{"role": "user", "content": "hi"}] * 10_001
    assert problem(http.post(PATH, json=call(messages=some)), 400)["param"] == "messages"


def test_a_budget_that_is_used_up_is_told_as_a_quota(
    http: httpx.Client, token: ApiToken, provider: Provider
):
    Budget.objects.create(token=token, limit_tokens=1)
    answer = http.post(PATH, json=call())
    error = problem(answer, 429)
    assert (error["code"], error["type"]) == ("BUDGET_EXCEEDED", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
