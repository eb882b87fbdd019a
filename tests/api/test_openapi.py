"""The OpenAPI description: that it is one, that it describes every address, and that the running
app does what it says."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conversations.models import Message
from llmchat.openapi import description
from providers.models import Configuration
from tests.api.conftest import DEADLINE
from tests.people import Person, parse
from tests.servers.app import AppServer

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
SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION)
SCHEMA.config.generation.update(with_security_parameters=False)
OPERATIONS = {
    found.ok().definition.raw["operationId"]: found.ok() for found in SCHEMA.get_all_operations()
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
    there = {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in parts[kind]}
    assert there <= refs
    ways = {name for *_, told in operations() for way in told["security"] for name in way}
    assert ways == set(parts["securitySchemes"])


def test_each_operation_has_a_name_of_its_own():
    names = [told["operationId"] for *_, told in operations()]
    assert len(names) == len(set(names)) == len(OPERATIONS)


def test_its_examples_are_what_their_schemas_allow():
    shown = 0
    for one in walk(DESCRIPTION):
        if "example" in one and "schema" in one and "x-event-data" not in one:
            validator(one["schema"]).validate(one["example"])
            shown += 1
    assert shown > 10


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
    assert PAGES <= set(known.values())


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


@pytest.fixture
def known(
    app: AppServer,
    user: User,
    secret: str,
    demo: Configuration,
    ada_at_the_page: Person,
    settings: Any,
) -> dict[str, Any]:
    """What there is to ask for, by the name of the parameter."""
    settings.API_REQUESTS_PER_MINUTE = 10_000
    settings.RUNS_PER_USER = 1_000
    chat = ada_at_the_page.new_chat()
    run = ada_at_the_page.ask(chat, "/demo echo Hello there")
    ada_at_the_page.events(run)
    asked = Message.objects.get(pk=run["user_message_id"])
    return {
        "session_id": chat,
        "run_id": run["run_id"],
        "message_id": asked.pk,
        "slug": "demo",
        "model": "demo",
        "messages": [{"role": "user", "content": "/demo echo Hello there"}],
    }


@pytest.fixture
def program_session(ada_at_the_page: Person, secret: str) -> Iterator[Callable[..., Any]]:
    """A session of `requests` that is signed in, and the headers for an operation."""
    with requests.Session() as session:
        session.trust_env = False
        session.cookies.update(dict(ada_at_the_page.http.cookies))
        yield session


def headers_for(told: dict[str, Any], page: Person, secret: str) -> dict[str, str]:
    """What the first way that an operation names needs, and what pages of the app send."""
    way = told["security"][0]
    headers = {"Accept": "application/json, text/event-stream, */*;q=0.1"}
    headers |= {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
    if "token" in way:
        headers["Authorization"] = f"Bearer {secret}"
    if "csrf" in way:
        headers["X-CSRFToken"] = page.http.cookies["csrftoken"]
    return headers


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_app_answers_as_described(
    app: AppServer,
    known: dict[str, Any],
    program_session: requests.Session,
    ada_at_the_page: Person,
    secret: str,
    name: str,
):
    operation = OPERATIONS[name]
    headers = headers_for(operation.definition.raw, ada_at_the_page, secret)

    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), is_real=st.sampled_from([True, True, False]))
    def answers(case: schemathesis.Case, is_real: bool) -> None:
        if is_real:
            for part in (case.path_parameters, case.query, case.body):
                for field in part if isinstance(part, dict) else ():
                    if field in known:
                        value = known[field]
                        part[field] = json.dumps(value) if part is case.query and isinstance(value, list) else value
        response = case.call(
            base_url=app.url, session=program_session, headers=headers, timeout=DEADLINE
        )
        print(case.operation.label, response.status_code, flush=True)
        case.validate_response(response, checks=CHECKS)

    answers()
