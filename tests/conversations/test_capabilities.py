"""What a model cannot do is not asked of it, and what it refuses is not sent (issue 4, P5)."""

import json
from typing import Any

import pytest

from providers.models import AnswerSchema, Configuration
from tests.people import Person
from tests.servers.provider import Provider, openai_answer

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def sent(
    ada: Person, provider: Provider, configuration: Configuration, **fields: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The body that the provider got, what `request_data` says, and the end."""
    configuration.save()
    provider.reply(*openai_answer('{"a": 1}'))
    events = ada.events(ada.ask(ada.new_chat(), "hello", **fields))
    body = json.loads(provider.requests[-1].body)
    assert events[1].data["full_request_body"] == body
    return body, events[1].data, events[-1].data


@pytest.mark.contract("C11")
def test_a_model_without_schemas_is_told_in_words_and_its_answer_is_held_against_the_schema(
    ada: Person, openai: Configuration, provider: Provider
):
    AnswerSchema.objects.create(name="Item", slug="item", schema=SCHEMA)
    openai.capabilities = ["text", "tools"]
    body, told, end = sent(ada, provider, openai, schema="item")
    assert "response_format" not in body
    assert json.dumps(SCHEMA) in body["messages"][0]["content"]
    assert json.dumps(SCHEMA) in told["system_instructions"]
    assert end["structured"]["valid"] is True


@pytest.mark.contract("C11")
def test_a_model_with_schemas_is_sent_it_in_the_providers_way(
    ada: Person, openai: Configuration, provider: Provider
):
    AnswerSchema.objects.create(name="Item", slug="item", schema=SCHEMA)
    openai.capabilities = ["text", "json_schema"]
    body, told, _ = sent(ada, provider, openai, schema="item")
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert told["system_instructions"] == ""
    assert told["parameters"]["schema"] == "item"


def test_thinking_is_asked_for_only_of_models_that_can_think(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.reasoning_effort = "low"
    body, told, _ = sent(ada, provider, openai)
    assert body["reasoning_effort"] == told["parameters"]["reasoning_effort"] == "low"
    openai.capabilities = ["text"]
    body, told, _ = sent(ada, provider, openai)
    assert "reasoning_effort" not in body
    assert "reasoning_effort" not in told["parameters"]


@pytest.mark.contract("P5")
def test_a_parameter_that_a_model_refuses_is_not_sent_and_not_shown_as_sent(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.refused_parameters = ["temperature", "top_p"]
    openai.temperature = 0.5
    body, told, _ = sent(ada, provider, openai, top_p=0.9, max_tokens=50)
    assert not {"temperature", "top_p"} & set(body)
    assert told["parameters"]["temperature"] is None
    assert 50 in body.values()
