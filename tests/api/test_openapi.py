"""The OpenAPI description: that it is one, that it describes every address, and that the running
app does what it says."""

import io
import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any
from uuid import UUID

import httpx
import pytest
import requests
import schemathesis
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from llmchat.openapi import description
from llmchat.openapi.chat import STREAM_EXAMPLE
from providers.models import Configuration
from tests.api.conftest import DEADLINE
from tests.people import Person, lines_of
from tests.servers.app import AppServer

EXAMPLES = 6  # of each operation
METHODS = ("get", "post")
# Addresses that answer people only, with pages and parts of pages, and what leads to them.
PAGES = {
    "activity",
    "api_docs",
    "chat",
    "help",
    "help_page",
    "home",
    "login",
    "logout",
    "monitor",
    "monitor_live",
    "replay_column",
    "run_difference",
    "run_inspector",
    "run_replay_form",
    "run_replays",
    "run_result",
    "run_wire",
    "sidebar",
    "statistics",
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DESCRIPTION = description()
SCHEMA = schemathesis.openapi.from_dict(deepcopy(DESCRIPTION))
SCHEMA.config.generation.update(with_security_parameters=False)
OPERATIONS = {
    operation.definition.raw["operationId"]: operation
    for operation in (found.ok() for found in SCHEMA.get_all_operations())  # type: ignore[union-attr]
}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from walk(inner)


def resolved(ref: str) -> Any:
    found: Any = DESCRIPTION
    for name in ref.removeprefix("#/").split("/"):
        found = found[name]
    return found


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema in the description, whose `$ref`s it can follow."""
    return Draft202012Validator({**schema, "components": DESCRIPTION["components"]})


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DESCRIPTION["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


# ---- the document


def test_the_description_is_an_openapi_document():
    SCHEMA.validate()
    for one in walk(DESCRIPTION):
        if isinstance(one.get("schema"), dict):
            Draft202012Validator.check_schema(one["schema"])
    for schema in DESCRIPTION["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_all_that_it_refers_to_is_there_and_all_that_is_there_is_used():
    refs = {one["$ref"] for one in walk(DESCRIPTION) if isinstance(one.get("$ref"), str)}
    for ref in refs:
        resolved(ref)
    parts = DESCRIPTION["components"]
    there = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in parts[kind]
    }
    assert there <= refs
    ways = {name for *_, told in operations() for way in told["security"] for name in way}
    assert ways == set(parts["securitySchemes"])


def test_each_operation_has_a_name_of_its_own():
    names = [told["operationId"] for *_, told in operations()]
    assert len(names) == len(set(names)) == len(OPERATIONS)


def test_its_examples_are_what_their_schemas_allow():
    shown = 0
    for one in walk(DESCRIPTION):
        if "example" in one and "schema" in one and one["example"] != STREAM_EXAMPLE:
            validator(one["schema"]).validate(one["example"])
            shown += 1
    assert shown > 10


def test_its_bounds_are_those_that_hold(settings: Any):
    settings.PROMPT_MAX_CHARACTERS = 77
    fields = description()["components"]["schemas"]["Message"]["properties"]
    assert (fields["prompt"]["minLength"], fields["prompt"]["maxLength"]) == (1, 77)
    assert (fields["max_tokens"]["minimum"], fields["max_tokens"]["maximum"]) == (1, 128_000)


# ---- all addresses, and no others


def routes(
    resolver: URLResolver | None = None, before: str = ""
) -> Iterator[tuple[str, str | None]]:
    """The path of each address as OpenAPI writes it, and its name."""
    for entry in (resolver or get_resolver()).url_patterns:
        path = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            if entry.namespace != "admin":
                yield from routes(entry, path)
        elif isinstance(entry, URLPattern):
            yield "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path), entry.name


def test_every_address_for_programs_is_described_and_no_other():
    known = dict(routes())
    unnamed = {path for path, name in known.items() if name is None}
    assert unnamed == {"/v1/{rest}"}  # what is no address of that API
    wanted = {path for path, name in known.items() if name not in PAGES} - unnamed
    assert set(DESCRIPTION["paths"]) == wanted
    assert set(known.values()) >= PAGES


def test_the_parameters_of_a_path_are_described():
    for path, item in DESCRIPTION["paths"].items():
        told = {one["name"] for one in item.get("parameters", []) if one["in"] == "path"}
        assert told == set(re.findall(r"{(\w+)}", path))


# ---- as it is served


def test_the_document_is_open_to_all_and_may_be_kept():
    answer = Client().get("/api/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == json.loads(json.dumps(DESCRIPTION))
    assert "public" in answer["Cache-Control"]
    assert not answer.cookies
    again = Client().get("/api/openapi.json", headers={"If-None-Match": answer["ETag"]})
    assert again.status_code == 304


def test_the_help_leads_to_the_page():
    assert 'href="/api/docs"' in Client().get("/help/").content.decode()


@pytest.mark.contract("A5")
def test_the_page_shows_each_operation_and_schema_and_loads_nothing_from_elsewhere():
    answer = Client().get("/api/docs")
    assert answer.status_code == 200
    html = answer.content.decode()
    for path, _, told in operations():
        assert f'id="operation-{told["operationId"]}"' in html
        assert f">{path}</code>" in html
    targets = set(re.findall(r'href="#([\w-]+)"', html))
    assert targets <= set(re.findall(r' id="([\w-]+)"', html))
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|<style", html)


# ---- the running app

NO_HTTP = b"Invalid HTTP request received."  # says the server before the app sees it
SUCCESSES = {200, 201, 204}
METRICS_TOKEN = "a token for the figures, long enough"
# Those go on for a minute or for ever.
FIRST_EVENT_ONLY = ("live_events", "delivery_test")
# What the message has to be that these operations are about: an answer to this.
ABOUT = {
    "continue": {"prompt": "/demo cut"},
    "message_json": {"prompt": "A city?", "schema": '{"properties": {"name": {}}}'},
}
HEADERS = {
    # What pages of the app send by themselves.
    "Accept": "application/json, text/event-stream",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Dest": "empty",
}


@pytest.fixture
def known(demo: Configuration, ada_at_the_page: Person, settings: Any, name: str) -> dict[str, Any]:
    """What there is to ask for, by the name of the parameter or field."""
    settings.API_REQUESTS_PER_MINUTE = 10_000
    settings.RUNS_PER_USER = 1_000
    settings.METRICS_TOKEN = METRICS_TOKEN
    path, page = OPERATIONS[name].path, ada_at_the_page
    found: dict[str, Any] = {
        "slug": "demo",
        "model": "demo",
        "configuration_id": "demo",
        "prompt": "/demo echo Hello there",
        "messages": [{"role": "user", "content": "/demo echo Hello there"}],
        "session_id": page.new_chat(),
    }
    if name == "complete":  # in whose query string they are JSON
        found["messages"] = json.dumps(found["messages"])
        found["options"] = '{"model": "demo"}'
    if "{run_id}" in path or "{message_id}" in path or "{session_id}" in path:
        asked = ABOUT.get(name, {"prompt": "/demo echo Hello there"})
        run = page.ask(found["session_id"], **asked)
        answer = page.events(run)[-1].data["assistant_message_id"]
        found["run_id"] = run["run_id"]
        found["message_id"] = answer if name in ABOUT else run["user_message_id"]
    if "{attachment_id}" in path:
        image = page.post("/attachments/", files={"file": ("dot.png", png(), "image/png")})
        found["attachment_id"] = image.json()["id"]
    if "{token_id}" in path:
        made = page.post("/accounts/tokens/", json={"name": "another"})
        found["token_id"] = made.json()["id"]
    return found


def png() -> bytes:
    """A small image."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def browser(ada_at_the_page: Person) -> Iterator[requests.Session]:
    """A session of the client that Schemathesis sends with, signed in."""
    with requests.Session() as session:
        session.trust_env = False
        session.cookies.update(dict(ada_at_the_page.http.cookies))
        yield session


@pytest.fixture
def credentials(ada_at_the_page: Person, secret: str) -> Callable[[Any], dict[str, str]]:
    """Makes the headers that an operation needs, in the first of the ways that it names."""

    def make(operation: Any) -> dict[str, str]:
        way = operation.definition.raw["security"][0]
        headers = dict(HEADERS)
        if "token" in way:
            headers["Authorization"] = f"Bearer {secret}"
        if "metrics" in way:
            headers["Authorization"] = f"Bearer {METRICS_TOKEN}"
        if "csrf" in way:
            headers["X-CSRFToken"] = ada_at_the_page.http.cookies["csrftoken"]
        return headers

    return make


def fill_in(case: Any, known: dict[str, Any]) -> None:
    """Puts what there is in place of what was made up."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: known[name] for name in part.keys() & known.keys()})


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_app_answers_as_described(
    app: AppServer,
    known: dict[str, Any],
    browser: requests.Session,
    credentials: Callable[[Any], dict[str, str]],
    name: str,
):
    operation = OPERATIONS[name]
    SCHEMA.config.max_stream_events = 1 if name in FIRST_EVENT_ONLY else 100
    made_up = operation.as_strategy(GenerationMode.POSITIVE)
    if operation.definition.raw.get("parameters") or operation.body:
        made_up |= operation.as_strategy(GenerationMode.NEGATIVE)
    statuses = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=made_up, is_filled_in=st.sampled_from([True, True, False]))
    def answers(case: schemathesis.Case, is_filled_in: bool) -> None:
        if is_filled_in:
            fill_in(case, known)
        response = case.call(
            base_url=app.url, session=browser, headers=credentials(operation), timeout=DEADLINE
        )
        assume(response.content != NO_HTTP)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    answers()
    # If all were refused, this would say little of the operation.
    assert statuses & SUCCESSES


# ---- streams

TOOL = {"name": "get_weather", "parameters": {"type": "object"}}
# What each kind of event comes of: text, thinking, tool calls, the ends, and an error half-way.
PROMPTS = (
    "/demo echo Hello there",
    "/demo reasoning",
    "/demo tools",
    "/demo length",
    "/demo error PROVIDER_ERROR after 3",
)


def asked(name: str, prompt: str) -> dict[str, Any]:
    """The body of a call for a stream."""
    messages = [{"role": "user", "content": prompt}]
    call = {"model": "demo", "stream": True, "messages": messages}
    match name:
        case "responses":
            return {
                "model": "demo",
                "stream": True,
                "input": prompt,
                "tools": [{"type": "function", **TOOL}],
            }
        case "messages":
            tool = {"name": TOOL["name"], "input_schema": TOOL["parameters"]}
            thinking = {"type": "adaptive"}
            return {**call, "max_tokens": 1_000, "tools": [tool], "thinking": thinking}
        case "complete_post":
            return {"messages": messages}
    options = {"include_usage": True}
    return {**call, "stream_options": options, "tools": [{"type": "function", "function": TOOL}]}


@pytest.mark.parametrize("name", ["chat_completions", "responses", "messages", "complete_post"])
def test_the_streams_for_programs_have_the_events_described(
    app: AppServer,
    known: dict[str, Any],
    browser: requests.Session,
    credentials: Callable[[Any], dict[str, str]],
    name: str,
):
    operation = OPERATIONS[name]
    for prompt in PROMPTS:
        case = operation.Case(body=asked(name, prompt), media_type="application/json")
        response = case.call(
            base_url=app.url, session=browser, headers=credentials(operation), timeout=DEADLINE
        )
        assert response.status_code == 200, response.text
        case.validate_response(response, checks=CHECKS)


@pytest.mark.parametrize("name", ["run_events"])
def test_the_events_of_a_run_are_those_described(
    app: AppServer,
    known: dict[str, Any],
    browser: requests.Session,
    credentials: Callable[[Any], dict[str, str]],
    ada_at_the_page: Person,
    name: str,
):
    operation = OPERATIONS[name]
    for prompt in PROMPTS:
        run = ada_at_the_page.ask(known["session_id"], prompt)
        ada_at_the_page.events(run)
        for query in ({}, {"view": "html"}, {"poll": "1"}):
            case = operation.Case(path_parameters={"run_id": run["run_id"]}, query=query)
            response = case.call(
                base_url=app.url, session=browser, headers=credentials(operation), timeout=DEADLINE
            )
            assert response.status_code == 200, response.text
            case.validate_response(response, checks=CHECKS)


def test_the_delivery_test_and_the_live_board_send_the_events_described(
    demo: Configuration, ada_at_the_page: Person
):
    page = ada_at_the_page
    answer = page.get("/monitor/test/delivery/?events=2&interval=0&silence=0")
    probes = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data")]
    assert [probe["type"] for probe in probes] == ["probe", "probe", "probe_end"]
    for probe in probes:
        data_of("/monitor/test/delivery/").validate(probe)
    run = page.ask(page.new_chat(), "/demo silent")
    with page.http.stream("GET", "/monitor/live/events/") as response:
        lines = (json.loads(line[6:]) for line in lines_of(response) if line.startswith("data"))
        # The board looks once a second: it may have done so just before the run.
        board = next(told for told in lines if told["runs"])
    page.stop(run)
    assert [entry["run_id"] for entry in board["runs"]] == [run["run_id"]]
    data_of("/monitor/live/events/").validate(board)


def data_of(path: str) -> Draft202012Validator:
    """Of the JSON in the events of a stream."""
    media = DESCRIPTION["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
    return validator(media["schema"]["properties"]["data"]["contentSchema"])


# ---- strangers


@pytest.mark.contract("A10")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("health", "openapi")])
def test_a_stranger_is_refused_as_described(app: AppServer, name: str):
    operation = OPERATIONS[name]
    nobody = {"session_id": UUID(int=0), "run_id": UUID(int=0), "attachment_id": UUID(int=0)}
    path = operation.path.format(**nobody, message_id=1, token_id=1, slug="demo")
    answer = httpx.request(
        operation.method, app.url + path, headers=HEADERS, json={}, trust_env=False
    )
    assert answer.status_code in (401, 403)
    told = operation.definition.raw["responses"][str(answer.status_code)]
    schema = resolved(told["$ref"])["content"]["application/json"]["schema"]
    validator(schema).validate(answer.json())
