"""What the OpenAI-compatible kinds ask for, and what they make of lists of models.

How they read answers is in test_adapters, with the recordings and the samples.
"""

import json
from decimal import Decimal

import pytest

from providers import probe
from providers.adapters import registry
from providers.adapters.airefinery import AIRefinery
from providers.adapters.base import (
    ChatMessage,
    Effort,
    Feature,
    ModelInfo,
    Parameters,
    Schema,
    Target,
)
from providers.adapters.local import Local
from providers.adapters.openai import OpenAI
from providers.adapters.openrouter import OpenRouter
from providers.client import Limits
from providers.errors import ApiKeyInvalid, InvalidRequest
from providers.models import Configuration
from tests.providers.answers import ask
from tests.servers.provider import head, json_answer, openai_answer, send, sse

KEY = "marked-Key-7f3a"
MESSAGES = [ChatMessage("system", "Be brief."), ChatMessage("user", "größe?")]
ALL = Parameters(temperature=0.5, top_p=0.9, max_tokens=100)
KINDS = [OpenAI, OpenRouter, Local, AIRefinery]
NEW_KINDS = [OpenRouter, Local, AIRefinery]
LIMITS = Limits(connect=2, first_chunk=5, chunk=5)


def made(kind, base_url="", **target):
    return kind(Target("Conf", "m", base_url, KEY, **target))


def body(kind, parameters=Parameters(), messages=MESSAGES, **target):  # noqa: B008 - frozen
    return made(kind, **target).request(messages, parameters).body


# ---- Addresses


@pytest.mark.contract("P6")
@pytest.mark.parametrize(
    ("kind", "base_url", "chat"),
    [
        (OpenRouter, "", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "https://openrouter.ai", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "https://openrouter.ai/", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "https://openrouter.ai/api", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "https://openrouter.ai/v1/", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "https://eu.openrouter.ai/v1", "https://eu.openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, " https://openrouter.ai/api/v1/ ", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "https://openrouter.ai/api/v1/chat/completions", "https://openrouter.ai/api/v1/chat/completions"),
        (OpenRouter, "http://gate/v1", "http://gate/v1/chat/completions"),
        (OpenRouter, "http://gate/or", "http://gate/or/v1/chat/completions"),
        (Local, "", "http://localhost:8080/v1/chat/completions"),
        (Local, "http://h:1234", "http://h:1234/v1/chat/completions"),
        (Local, "http://h:1234/v1/", "http://h:1234/v1/chat/completions"),
        (Local, "http://h:1234/api", "http://h:1234/v1/chat/completions"),
        (Local, "http://h:1234/api/v0/", "http://h:1234/v1/chat/completions"),
        (Local, "http://h:8000/api/v1", "http://h:8000/api/v1/chat/completions"),
        (Local, "http://h/llm", "http://h/llm/v1/chat/completions"),
        (AIRefinery, "", "https://api.airefinery.accenture.com/v1/chat/completions"),
        (AIRefinery, "https://legacy-api.airefinery.accenture.com", "https://legacy-api.airefinery.accenture.com/v1/chat/completions"),
        (AIRefinery, "https://h/inference", "https://h/inference/v1/chat/completions"),
        (AIRefinery, "https://h/inference/v1/", "https://h/inference/v1/chat/completions"),
    ],
)  # fmt: skip
def test_a_base_url_works_however_it_is_typed(kind, base_url, chat):
    adapter = made(kind, base_url)
    assert adapter.request(MESSAGES, ALL).url == chat
    models = chat.replace("/chat/completions", "/models")
    assert adapter.models_request().url == models


@pytest.mark.parametrize("base_url", ["h", "file:///etc/passwd", "http://", "http://[", "//h/v1"])
@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_base_url_that_is_none_is_refused(kind, base_url):
    with pytest.raises(InvalidRequest, match=r"^Conf "):
        made(kind, base_url).request(MESSAGES, ALL)
    with pytest.raises(InvalidRequest, match=r"^Conf "):
        made(kind, base_url).models_request()


# ---- Bodies


@pytest.mark.contract("P1")
@pytest.mark.parametrize("kind", NEW_KINDS)
def test_they_are_sent_what_was_set_under_the_older_name_of_max_tokens(kind):
    assert body(kind, ALL) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "größe?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 100,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_not_sent_what_was_not_set(kind):
    assert set(body(kind)) == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_the_extra_body_is_merged_over_and_null_takes_a_field_out(kind):
    extra = {"stream_options": None, "temperature": 1, "top_k": 40}
    sent = body(kind, ALL, extra_body=extra)
    assert "stream_options" not in sent
    assert (sent["temperature"], sent["top_k"]) == (1, 40)


# How schemas, tools, images and thinking are asked for is in test_spelling; here is what two kinds
# need besides.


def test_a_local_server_is_told_in_two_ways_not_to_think():
    sent = body(Local, Parameters(reasoning_effort=Effort.NONE))
    assert sent["reasoning_effort"] == "none"
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in body(Local, Parameters(reasoning_effort=Effort.LOW))


@pytest.mark.parametrize(
    ("effort", "reasoning"),
    [(Effort.HIGH, {"max_tokens": 500}), (Effort.NONE, {"effort": "none"})],
)
def test_openrouter_takes_an_effort_or_a_number_but_not_both(effort, reasoning):
    parameters = Parameters(reasoning_effort=effort, reasoning_tokens=500)
    assert body(OpenRouter, parameters)["reasoning"] == reasoning


@pytest.mark.contract("C11")
def test_openrouter_asks_only_upstreams_that_know_schemas_beside_its_own_routing():
    parameters = Parameters(schema=Schema("s", {}))
    assert body(OpenRouter, parameters)["provider"] == {"require_parameters": True}
    extra = {"provider": {"sort": "price"}}
    sent = body(OpenRouter, parameters, extra_body=extra)
    assert sent["provider"] == {"require_parameters": True, "sort": "price"}
    assert "provider" not in body(OpenRouter)


# ---- Headers


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_the_key_goes_as_a_bearer_token_and_is_in_no_body(kind):
    request = made(kind).request(MESSAGES, ALL)
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Accept"] == "text/event-stream"
    assert KEY not in json.dumps(request.body)
    assert KEY not in repr(request)


def test_a_local_server_is_asked_without_a_key():
    headers = Local(Target("Conf", "m")).request(MESSAGES, ALL).headers
    assert "Authorization" not in headers


def test_openrouter_is_told_the_title_but_not_the_address_of_this_site():
    headers = made(OpenRouter).request(MESSAGES, ALL).headers
    assert headers["X-OpenRouter-Title"] == "llmchat"
    assert "HTTP-Referer" not in headers
    own = {"x-openrouter-title": "Our chat", "HTTP-Referer": "https://chat.example"}
    headers = made(OpenRouter, extra_headers=own).request(MESSAGES, ALL).headers
    titles = [value for name, value in headers.items() if name.lower() == "x-openrouter-title"]
    assert titles == ["Our chat"]
    assert headers["HTTP-Referer"] == "https://chat.example"


def test_ai_refinery_gets_the_headers_of_its_own_client():
    headers = made(AIRefinery).request(MESSAGES, ALL).headers
    assert headers["Cache-Control"] == "no-cache"


def test_a_key_that_no_header_can_hold_is_refused():
    with pytest.raises(ApiKeyInvalid):
        OpenRouter(Target("Conf", "m", api_key="a\nb")).request(MESSAGES, ALL)


# ---- What they are


@pytest.mark.contract("P7")
def test_the_kinds_are_found_and_say_what_they_are():
    for kind, needs_key, is_free in (
        (OpenRouter, True, False),
        (Local, False, True),
        (AIRefinery, True, False),
    ):
        found = registry.adapter_class(kind.kind)
        assert (found, found.needs_key, found.is_free) == (kind, needs_key, is_free)
        assert all(found.supports(feature) for feature in Feature)


# ---- Models


def openrouter_model(**more):
    return {"id": "a/b", "name": "A: B", "context_length": 200_000, **more}


@pytest.mark.contract("P6")
@pytest.mark.parametrize(
    ("pricing", "prices"),
    [
        (
            {"prompt": "0.000003", "completion": "0.000015", "input_cache_read": "0.0000003"},
            {"input": "3", "cached_input": "0.3", "output": "15"},
        ),
        ({"prompt": "0.00000007159", "completion": "1e-7"}, {"input": "0.07159", "output": "0.1"}),
        ({"prompt": "0.0001", "completion": "0"}, {"input": "100", "output": "0"}),
        ({"prompt": "0.00000000012345678"}, {"input": "0.000123"}),
        # Routers: the price is that of the model which is chosen.
        ({"prompt": "-1", "completion": "-1"}, None),
        ({"prompt": "nan", "completion": "1e999999999"}, None),
        ({"prompt": None, "completion": ["1"]}, None),
        ({}, None),
        ("free", None),
        (None, None),
    ],
)
def test_prices_of_openrouter_are_per_million_tokens_and_exact(pricing, prices):
    (model,) = made(OpenRouter).models({"data": [openrouter_model(pricing=pricing)]})
    assert model == ModelInfo("a/b", "A: B", 200_000, prices)


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ({"context_length": 1_000_000, "top_provider": {"context_length": 200_000}}, 200_000),
        ({"context_length": 128_000, "top_provider": {"context_length": None}}, 128_000),
        ({"context_length": None, "top_provider": {"context_length": 4096}}, 4096),
        ({"context_length": None, "top_provider": None}, None),
    ],
)
def test_the_window_at_openrouter_is_that_of_the_upstream_asked_by_default(model, window):
    (found,) = made(OpenRouter).models({"data": [openrouter_model(**model)]})
    assert found.context_window == window


def configuration(kind, base_url, model="m"):
    row = Configuration(name="Test", slug="test", kind=kind, model=model, base_url=base_url)
    row.set_api_key("")
    return row


@pytest.mark.contract("P6")
def test_the_models_of_openrouter_come_with_windows_and_prices(provider):
    listed = [
        openrouter_model(pricing={"prompt": "0.000001", "completion": "0.000002"}),
        {"id": "openrouter/auto", "context_length": 2_000_000, "pricing": {"prompt": "-1"}},
    ]
    provider.route(*json_answer({"data": listed}), path="/api/v1/models")
    assert probe.run(probe.models(configuration("openrouter", provider.url))) == [
        ModelInfo("a/b", "A: B", 200_000, {"input": "1", "output": "2"}),
        ModelInfo("openrouter/auto", "", 2_000_000, None),
    ]


@pytest.mark.contract("P6")
@pytest.mark.parametrize("end", ["", "/v1", "/api"])
def test_llama_server_tells_the_window_that_it_was_started_with(provider, end):
    entry = {"id": "qwen3", "owned_by": "llamacpp", "meta": {"n_ctx_train": 40_960}}
    provider.route(*json_answer({"data": [entry]}), path="/v1/models")
    provider.route(*json_answer({"default_generation_settings": {"n_ctx": 8192}}), path="/props")
    found = probe.run(probe.models(configuration("local", provider.url + end)))
    assert found == [ModelInfo("qwen3", context_window=8192)]
    assert [request.path for request in provider.requests] == ["/v1/models", "/props"]


def test_a_llama_server_that_keeps_its_settings_to_itself_still_tells_the_models_window(provider):
    entry = {"id": "qwen3", "owned_by": "llamacpp", "meta": {"n_ctx_train": 40_960}}
    provider.route(*json_answer({"data": [entry]}), path="/v1/models")
    provider.route(*json_answer({"error": {"message": "no", "code": 403}}, 403), path="/props")
    found = probe.run(probe.models(configuration("local", provider.url)))
    assert found == [ModelInfo("qwen3", context_window=40_960)]


def test_lm_studio_tells_its_windows_beside_the_list(provider):
    names = ["loaded", "other", "silent"]
    listed = [{"id": name, "object": "model", "owned_by": "organization_owner"} for name in names]
    provider.route(*json_answer({"data": listed}), path="/v1/models")
    told = [
        {"id": "loaded", "max_context_length": 131_072, "loaded_context_length": 4096},
        {"id": "other", "max_context_length": 32_768, "state": "not-loaded"},
    ]
    provider.route(*json_answer({"data": told}), path="/api/v0/models")
    found = probe.run(probe.models(configuration("local", f"{provider.url}/v1")))
    windows = {model.id: model.context_window for model in found}
    assert windows == {"loaded": 4096, "other": 32_768, "silent": None}


def test_vllm_tells_all_in_its_list(provider):
    entry = {"id": "m", "owned_by": "vllm", "max_model_len": 16_384}
    provider.route(*json_answer({"object": "list", "data": [entry]}), path="/v1/models")
    found = probe.run(probe.models(configuration("local", provider.url)))
    assert found == [ModelInfo("m", context_window=16_384)]
    assert len(provider.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nonsense", [None, 7, "x", {}, {"data": "no"}, {"data": [{}, 7, None]}])
def test_a_list_that_is_none_has_no_models(kind, nonsense):
    adapter = made(kind)
    assert adapter.models(nonsense) == []
    assert adapter.model_request("m") is None
    assert adapter.model("m", nonsense) == ModelInfo("m")


# ---- Over a socket


@pytest.mark.contract("P1")
@pytest.mark.parametrize("kind", NEW_KINDS)
def test_an_answer_arrives_over_a_socket(kind, provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    answer = ask(made(kind, provider.url), LIMITS)
    assert (answer.reasoning, answer.text, answer.error) == ("hm", "Hello there", None)
    assert answer.usage.prompt_tokens == 11
    request = provider.wait_for_request()
    assert request.path.endswith("/v1/chat/completions")
    assert request.json == made(kind).request([ChatMessage("user", "hi")], Parameters()).body


@pytest.mark.contract("P7")
def test_the_cost_that_openrouter_reports_is_exact(provider):
    last = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 7.159e-05},
    }
    provider.reply(head(), send(": OPENROUTER PROCESSING\n\n"), send(sse(last)))
    answer = ask(made(OpenRouter, provider.url), LIMITS)
    assert answer.usage.cost_usd == Decimal("0.00007159")
