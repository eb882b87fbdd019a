"""What each kind sends of the parameters that few requests have, and what it leaves out."""

from typing import Any

import pytest

from providers.adapters import registry
from providers.adapters.base import JSON_INSTRUCTIONS, ChatMessage, Parameters, Target

QUESTION = [ChatMessage("user", "hi")]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
RARE = Parameters(
    stop=("END",),
    seed=0,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    logit_bias={"5": 1},
    tools=[TOOL],
    parallel_tool_calls=False,
)


def body(kind: str, parameters: Parameters, **options: Any) -> dict[str, Any]:
    target = Target("A", "m", "http://127.0.0.1:9", "sk-0123456789", options=options)
    return registry.adapter_class(kind)(target).request(QUESTION, parameters).body


@pytest.mark.parametrize("kind", ["openai", "openrouter", "local", "airefinery"])
def test_the_kinds_like_openai_send_them_all_under_their_own_names(kind: str):
    sent = body(kind, RARE)
    assert sent["stop"] == ["END"]
    assert (sent["seed"], sent["presence_penalty"], sent["frequency_penalty"]) == (0, 0.5, -0.5)
    assert sent["logit_bias"] == {"5": 1}
    assert sent["parallel_tool_calls"] is False


def test_ollama_has_them_among_its_options():
    sent = body("ollama", RARE)
    assert sent["options"] == {
        "stop": ["END"],
        "seed": 0,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert "logit_bias" not in str(sent)


def test_anthropic_has_texts_that_end_an_answer_and_tools_one_at_a_time():
    sent = body("anthropic", RARE)
    assert sent["stop_sequences"] == ["END"]
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert {"seed", "presence_penalty", "frequency_penalty", "logit_bias"} & set(sent) == set()


def test_the_responses_api_has_only_tools_one_at_a_time():
    sent = body("openai", RARE, uses_responses=True)
    assert sent["parallel_tool_calls"] is False
    assert {"stop", "seed", "presence_penalty", "logit_bias"} & set(sent) == set()


def test_any_json_is_asked_for_in_the_way_of_each():
    wanted = Parameters(is_json=True)
    assert body("openai", wanted)["response_format"] == {"type": "json_object"}
    responses = body("openai", wanted, uses_responses=True)
    assert responses["text"] == {"format": {"type": "json_object"}}
    assert body("ollama", wanted)["format"] == "json"
    assert body("anthropic", wanted)["system"] == JSON_INSTRUCTIONS
    assert body("demo", wanted)["schema"] == {"type": "object"}


@pytest.mark.parametrize("kind", ["openai", "ollama", "anthropic", "demo"])
def test_what_is_not_said_is_not_sent(kind: str):
    sent = body(kind, Parameters())
    rare = {"stop", "seed", "logit_bias", "options", "format", "tools", "stop_sequences"}
    assert rare & set(sent) == set()
