"""How each kind asks for structured output, thinking, tools and eyes: field by field (C11, P2)."""

import json
from typing import Any

import pytest

from providers.adapters.airefinery import AIRefinery
from providers.adapters.anthropic import Anthropic
from providers.adapters.base import (
    Adapter,
    ChatMessage,
    Effort,
    Image,
    Parameters,
    Schema,
    Target,
    ToolCall,
)
from providers.adapters.local import Local
from providers.adapters.ollama import Ollama
from providers.adapters.openai import OpenAI
from providers.adapters.openrouter import OpenRouter

HELLO = [ChatMessage("user", "hello")]
SCHEMA = Schema("item", {"type": "object", "properties": {"a": {"type": "string"}}})
STRICT = Schema(
    "item",
    {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Looks.", "parameters": PARAMETERS},
}
IMAGE = Image("image/png", "aGVsbG8=")
ROUND = [
    ChatMessage("user", "What is this?", images=[IMAGE]),
    ChatMessage(
        "assistant", "I look.", tool_calls=[ToolCall("c1", "weather", '{"city":"Zürich"}')]
    ),
    ChatMessage("tool", "Sunny.", tool_call_id="c1"),
]
NEW, BUDGETED, OLD = "claude-opus-5", "claude-sonnet-4-5", "claude-3-5-haiku-20241022"
OPENAI_LIKE = [OpenAI, OpenRouter, Local, AIRefinery]


def body(
    adapter: type[Adapter],
    parameters: Parameters,
    messages: list[ChatMessage] = HELLO,
    model: str = "m",
    base_url: str = "http://h",
) -> dict[str, Any]:
    return adapter(Target("Conf", model, base_url)).request(messages, parameters).body


def added(
    adapter: type[Adapter], parameters: Parameters, model: str = "m", **options: Any
) -> dict[str, Any]:
    """What a request has besides what it has without these parameters."""
    without = body(adapter, Parameters(), model=model, **options)
    asked = body(adapter, parameters, model=model, **options)
    return {name: value for name, value in asked.items() if without.get(name) != value}


# ---- schemas


@pytest.mark.contract("C11")
@pytest.mark.parametrize("adapter", OPENAI_LIKE)
@pytest.mark.parametrize(("schema", "is_strict"), [(SCHEMA, False), (STRICT, True)])
def test_openai_like_kinds_are_sent_a_response_format(
    adapter: type[Adapter], schema: Schema, is_strict: bool
):
    format = added(adapter, Parameters(schema=schema))["response_format"]
    assert format["type"] == "json_schema"
    assert format["json_schema"]["name"] == schema.name
    assert format["json_schema"]["schema"] == schema.schema
    assert format["json_schema"].get("strict", False) is is_strict


@pytest.mark.contract("C11")
def test_the_responses_api_has_its_format_in_text():
    found = added(OpenAI, Parameters(schema=STRICT), base_url="http://h/v1/responses")
    told = {"type": "json_schema", "name": "item", "schema": STRICT.schema, "strict": True}
    assert found == {"text": {"format": told}}


@pytest.mark.contract("C11")
def test_ollama_is_sent_the_schema_itself():
    assert added(Ollama, Parameters(schema=SCHEMA)) == {"format": SCHEMA.schema}


@pytest.mark.contract("C11")
@pytest.mark.parametrize("model", [NEW, BUDGETED])
def test_anthropic_is_sent_an_output_format(model: str):
    format = {"type": "json_schema", "schema": SCHEMA.schema}
    assert added(Anthropic, Parameters(schema=SCHEMA), model) == {
        "output_config": {"format": format}
    }


@pytest.mark.contract("C11")
def test_an_older_anthropic_model_is_told_in_words():
    found = added(Anthropic, Parameters(schema=SCHEMA), OLD)
    assert list(found) == ["system"]
    assert json.dumps(SCHEMA.schema) in found["system"]


# ---- thinking


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("adapter", [OpenAI, Local, AIRefinery])
def test_openai_like_kinds_are_sent_an_effort(adapter: type[Adapter], effort: Effort):
    found = added(adapter, Parameters(reasoning_effort=effort))
    assert found["reasoning_effort"] == effort.value


def test_openrouter_is_sent_an_effort_or_a_number_of_tokens():
    found = added(OpenRouter, Parameters(reasoning_effort=Effort.HIGH))
    assert found["reasoning"]["effort"] == "high"
    found = added(OpenRouter, Parameters(reasoning_tokens=2_000))
    assert found["reasoning"]["max_tokens"] == 2_000


def test_the_responses_api_has_its_effort_in_reasoning():
    found = added(OpenAI, Parameters(reasoning_effort=Effort.LOW), base_url="http://h/v1/responses")
    assert found["reasoning"]["effort"] == "low"


@pytest.mark.parametrize(
    ("effort", "think"), [("none", False), ("low", "low"), ("medium", "medium"), ("high", "high")]
)
def test_ollama_is_told_to_think(effort: str, think: Any):
    assert added(Ollama, Parameters(reasoning_effort=Effort(effort))) == {"think": think}


@pytest.mark.parametrize("effort", [Effort.LOW, Effort.MEDIUM, Effort.HIGH])
def test_newer_anthropic_models_think_as_they_see_fit_with_an_effort(effort: Effort):
    assert added(Anthropic, Parameters(reasoning_effort=effort), NEW) == {
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": effort.value},
    }


@pytest.mark.parametrize("model", [NEW, BUDGETED])
def test_anthropic_models_can_be_told_not_to_think(model: str):
    found = added(Anthropic, Parameters(reasoning_effort=Effort.NONE), model)
    assert found == {"thinking": {"type": "disabled"}}


def test_older_anthropic_models_have_a_budget_which_comes_on_top_of_the_answer():
    found = added(Anthropic, Parameters(reasoning_tokens=4_000), BUDGETED)
    assert found["thinking"] == {"type": "enabled", "budget_tokens": 4_000}
    assert found["max_tokens"] > 4_000
    efforts = [
        added(Anthropic, Parameters(reasoning_effort=effort), BUDGETED)["thinking"]["budget_tokens"]
        for effort in (Effort.LOW, Effort.MEDIUM, Effort.HIGH)
    ]
    assert 1_024 <= efforts[0] < efforts[1] < efforts[2]


def test_a_budget_stays_below_the_limit_that_was_asked_for():
    asked = Parameters(reasoning_tokens=4_000, max_tokens=2_000)
    assert body(Anthropic, asked, model=BUDGETED)["thinking"]["budget_tokens"] == 1_999
    assert "thinking" not in body(
        Anthropic, Parameters(reasoning_tokens=4_000, max_tokens=1_000), model=BUDGETED
    )


# ---- tools


@pytest.mark.parametrize("adapter", OPENAI_LIKE)
def test_openai_like_kinds_are_sent_tools_as_they_are(adapter: type[Adapter]):
    found = added(adapter, Parameters(tools=[TOOL], tool_choice="required"))
    assert found["tools"] == [TOOL]
    assert found["tool_choice"] == "required"


def test_the_responses_api_has_flat_tools():
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = Parameters(tools=[TOOL], tool_choice=choice)
    found = added(OpenAI, asked, base_url="http://h/v1/responses")
    assert found["tools"] == [{"type": "function", **TOOL["function"]}]  # type: ignore[dict-item]
    assert found["tool_choice"] == {"type": "function", "name": "weather"}


def test_ollama_is_sent_tools_and_knows_no_choice():
    found = added(Ollama, Parameters(tools=[TOOL], tool_choice="required"))
    assert found == {"tools": [TOOL]}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "tool", "name": "weather"},
        ),
    ],
)
def test_anthropic_has_tools_in_its_own_form(choice: Any, told: Any):
    found = added(Anthropic, Parameters(tools=[TOOL], tool_choice=choice), NEW)
    assert found["tools"] == [
        {"name": "weather", "description": "Looks.", "input_schema": PARAMETERS}
    ]
    assert found.get("tool_choice") == told


# ---- messages


@pytest.mark.parametrize("adapter", OPENAI_LIKE)
def test_openai_like_kinds_see_images_calls_and_their_results(adapter: type[Adapter]):
    question, answer, result = body(adapter, Parameters(), ROUND)["messages"]
    text, image = question["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert image == {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    (call,) = answer["tool_calls"]
    assert call["id"] == "c1"
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Zürich"}'}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "Sunny."}


def test_the_responses_api_sees_images_calls_and_their_results():
    items = body(OpenAI, Parameters(), ROUND, base_url="http://h/v1/responses")["input"]
    question, answer, call, result = items
    assert question["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8="},
    ]
    assert answer == {"role": "assistant", "content": "I look."}
    assert call == {
        "type": "function_call",
        "call_id": "c1",
        "name": "weather",
        "arguments": '{"city":"Zürich"}',
    }
    assert result == {"type": "function_call_output", "call_id": "c1", "output": "Sunny."}


def test_ollama_sees_images_calls_and_their_results():
    question, answer, result = body(Ollama, Parameters(), ROUND)["messages"]
    assert question == {"role": "user", "content": "What is this?", "images": ["aGVsbG8="]}
    (call,) = answer["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Zürich"}}
    assert (result["role"], result["content"]) == ("tool", "Sunny.")


def test_anthropic_sees_images_calls_and_their_results():
    question, answer, result = body(Anthropic, Parameters(), ROUND, NEW)["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}
    assert question["content"] == [
        {"type": "image", "source": source},
        {"type": "text", "text": "What is this?"},
    ]
    assert answer["content"][1] == {
        "type": "tool_use",
        "id": "c1",
        "name": "weather",
        "input": {"city": "Zürich"},
    }
    assert result == {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "Sunny."}],
    }


# ---- an old Ollama


def test_an_ollama_that_cannot_chat_is_sent_one_text():
    conversation = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "one"),
        ChatMessage("assistant", "two"),
        ChatMessage("user", "three", images=[IMAGE]),
    ]
    adapter = Ollama(Target("Conf", "m", "http://h/api/generate"))
    request = adapter.request(conversation, Parameters(max_tokens=5))
    assert request.url == "http://h/api/generate"
    assert request.body == {
        "model": "m",
        "prompt": "User: one\n\nAssistant: two\n\nUser: three\n\nAssistant:",
        "system": "Be brief.",
        "images": ["aGVsbG8="],
        "stream": True,
        "options": {"num_predict": 5},
    }
    assert adapter.request(HELLO, Parameters()).body["prompt"] == "hello"
