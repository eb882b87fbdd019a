"""What the kinds ask for: addresses, bodies, headers, lists of models."""

import pytest

from providers.adapters import registry
from providers.adapters.base import Adapter, ChatMessage, ModelInfo, Parameters, Target
from providers.adapters.demo import Demo
from providers.adapters.ollama import Ollama
from providers.adapters.openai import OpenAI
from providers.client import encode_body
from providers.errors import InvalidRequest

MESSAGES = [ChatMessage("system", "Be brief."), ChatMessage("user", "größe?")]
ALL = Parameters(temperature=0.5, top_p=0.9, max_tokens=100)


@pytest.mark.parametrize(
    ("base_url", "chat", "models"),
    [
        ("", "https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1/models"),
        ("http://h:1", "http://h:1/v1/chat/completions", "http://h:1/v1/models"),
        ("http://h:1/", "http://h:1/v1/chat/completions", "http://h:1/v1/models"),
        (" http://h/v1 ", "http://h/v1/chat/completions", "http://h/v1/models"),
        ("http://h/v1/", "http://h/v1/chat/completions", "http://h/v1/models"),
        ("http://h/api/v1", "http://h/api/v1/chat/completions", "http://h/api/v1/models"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions", "http://h/v1/models"),
        ("http://h/v1/chat/completions/", "http://h/v1/chat/completions", "http://h/v1/models"),
        ("http://h/chat/completions", "http://h/chat/completions", "http://h/models"),
        ("http://h/v1/responses", "http://h/v1/responses", "http://h/v1/models"),
        ("http://h/inference", "http://h/inference/v1/chat/completions", "http://h/inference/v1/models"),
        ("http://h/v1beta/openai", "http://h/v1beta/openai/chat/completions", "http://h/v1beta/openai/models"),
        ("http://h/api/paas/v4", "http://h/api/paas/v4/chat/completions", "http://h/api/paas/v4/models"),
        ("http://h/d/chat/completions?v=1", "http://h/d/chat/completions?v=1", "http://h/d/models?v=1"),
    ],
)  # fmt: skip
def test_an_openai_base_url_works_however_it_is_typed(base_url, chat, models):
    adapter = OpenAI(Target("Conf", "m", base_url))
    assert adapter.request(MESSAGES, ALL).url == chat
    assert adapter.models_request().url == models


@pytest.mark.parametrize("end", ["", "/", "/api", "/api/", "/v1", "/v1/", "/api/chat"])
@pytest.mark.parametrize("start", ["http://h:11434", "https://h/prefix"])
def test_an_ollama_base_url_works_however_it_is_typed(start, end):
    adapter = Ollama(Target("Conf", "m", start + end))
    assert adapter.request(MESSAGES, ALL).url == f"{start}/api/chat"
    assert adapter.models_request().url == f"{start}/api/tags"
    assert adapter.model_request("m").url == f"{start}/api/show"


def test_without_a_base_url_a_kind_has_its_own():
    assert Ollama(Target("Conf", "m")).models_request().url == "http://localhost:11434/api/tags"


@pytest.mark.parametrize("base_url", ["h", "file:///etc/passwd", "http://", "http://[", "//h/v1"])
@pytest.mark.parametrize("adapter_class", [OpenAI, Ollama])
def test_a_base_url_that_is_none_is_refused(adapter_class, base_url):
    with pytest.raises(InvalidRequest, match=r"^Conf "):
        adapter_class(Target("Conf", "m", base_url)).request(MESSAGES, ALL)


def test_openai_is_sent_what_was_set():
    body = OpenAI(Target("Conf", "m")).request(MESSAGES, ALL).body
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "größe?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 100,
    }


def test_openai_is_not_sent_what_was_not_set():
    body = OpenAI(Target("Conf", "m")).request(MESSAGES, Parameters()).body
    assert set(body) == {"model", "messages", "stream", "stream_options"}


def test_a_value_of_zero_was_set():
    parameters = Parameters(temperature=0.0, top_p=0.0)
    body = OpenAI(Target("Conf", "m")).request(MESSAGES, parameters).body
    assert (body["temperature"], body["top_p"]) == (0, 0)


@pytest.mark.parametrize(
    ("base_url", "options"),
    [
        ("https://api.openai.com/v1/responses", {}),
        ("https://api.openai.com/v1", {"uses_responses": True}),
        ("", {"uses_responses": True}),
    ],
)
def test_the_responses_api_is_asked_in_its_own_way(base_url, options):
    target = Target("Conf", "m", base_url, options=options)
    request = OpenAI(target).request(MESSAGES, ALL)
    assert request.url == "https://api.openai.com/v1/responses"
    assert request.body == {
        "model": "m",
        "input": [{"role": "user", "content": "größe?"}],
        "instructions": "Be brief.",
        "stream": True,
        "store": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 100,
    }


def test_ollama_is_sent_its_parameters_as_options():
    body = Ollama(Target("Conf", "m")).request(MESSAGES, ALL).body
    assert body["options"] == {"temperature": 0.5, "top_p": 0.9, "num_predict": 100}
    assert body["stream"] is True
    assert "options" not in Ollama(Target("Conf", "m")).request(MESSAGES, Parameters()).body


def test_the_extra_body_is_merged_over_and_null_takes_a_field_out():
    extra = {"options": {"num_ctx": 8192, "temperature": 1}, "think": False, "keep_alive": 0}
    body = Ollama(Target("Conf", "m", extra_body=extra)).request(MESSAGES, ALL).body
    assert body["options"] == {
        "temperature": 1, "top_p": 0.9, "num_predict": 100, "num_ctx": 8192,
    }  # fmt: skip
    assert (body["think"], body["keep_alive"]) == (False, 0)
    extra = {"stream_options": None, "temperature": None, "seed": 1}
    body = OpenAI(Target("Conf", "m", extra_body=extra)).request(MESSAGES, ALL).body
    assert {"stream_options", "temperature"}.isdisjoint(body)
    assert body["seed"] == 1


def test_the_extra_body_of_a_configuration_is_not_changed_by_a_request():
    extra = {"options": {"num_ctx": 8192}}
    Ollama(Target("Conf", "m", extra_body=extra)).request(MESSAGES, ALL)
    assert extra == {"options": {"num_ctx": 8192}}


def test_an_extra_header_replaces_ours_whatever_its_case():
    target = Target("Conf", "m", api_key="k", extra_headers={"authorization": "Own x"})
    headers = OpenAI(target).request(MESSAGES, ALL).headers
    assert [v for n, v in headers.items() if n.lower() == "authorization"] == ["Own x"]


def test_without_a_key_no_authorization_is_sent():
    assert "Authorization" not in OpenAI(Target("Conf", "m")).request(MESSAGES, ALL).headers


def test_the_key_is_in_no_representation():
    target = Target("Conf", "m", api_key="marked-key", extra_headers={"X": "marked-key"})
    assert "marked-key" not in repr(target)
    assert "marked-key" not in repr(OpenAI(target).request(MESSAGES, ALL))


def test_a_body_is_sent_as_compact_utf_8():
    assert encode_body({"a": ["größe", 1.5]}) == '{"a":["größe",1.5]}'.encode()


def test_models_are_sorted_once_each_and_without_what_is_no_model():
    adapter = OpenAI(Target("Conf", "m"))
    listed = {"data": [{"id": "b"}, {"id": "a"}, {"id": "b"}, {"id": 7}, {}, None, "x"]}
    assert [model.id for model in adapter.models(listed)] == ["a", "b"]
    assert adapter.models([{"id": "a"}]) == [ModelInfo("a")]
    for nonsense in (None, 7, "x", {}, {"data": "no"}):
        assert adapter.models(nonsense) == []


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ({"max_model_len": 8192}, 8192),
        ({"context_length": 200_000}, 200_000),
        ({"max_context_length": 4096}, 4096),
        ({"meta": {"n_ctx_train": 32_768}}, 32_768),
        ({"context_length": 0, "meta": "no"}, None),
        ({}, None),
    ],
)
def test_a_context_window_is_read_wherever_a_server_puts_it(model, window):
    (found,) = OpenAI(Target("Conf", "m")).models({"data": [{"id": "a", **model}]})
    assert found.context_window == window


def test_ollama_models_are_listed_and_told_about():
    adapter = Ollama(Target("Conf", "m"))
    listed = {"models": [{"name": "qwen3:8b"}, {"model": "llama3"}, {"name": None}]}
    assert [model.id for model in adapter.models(listed)] == ["llama3", "qwen3:8b"]
    about: dict[str, object] = {
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960}
    }
    assert adapter.model("qwen3:8b", about) == ModelInfo("qwen3:8b", context_window=40960)
    about["parameters"] = 'stop "<|x|>"\nnum_ctx                        4096'
    assert adapter.model("qwen3:8b", about).context_window == 4096
    assert adapter.model("m", None) == ModelInfo("m")


def test_the_registry_finds_the_kinds_by_their_name():
    assert registry.adapter_class("openai") is OpenAI
    assert registry.adapter_class("ollama") is Ollama
    assert registry.adapter_class("demo") is Demo
    assert registry.kinds() == sorted(registry.kinds())
    for kind in registry.kinds():
        assert registry.adapter_class(kind).kind == kind
        assert registry.adapter_class(kind).label


def test_an_unknown_kind_is_named_together_with_the_known_ones():
    with pytest.raises(LookupError, match=r"'nope'.*openai"):
        registry.adapter_class("nope")


def test_two_adapters_of_one_kind_are_refused(monkeypatch):
    class Second(Adapter):
        kind = "openai"

    Second.__module__ = "providers.adapters.ollama"
    monkeypatch.setattr("providers.adapters.ollama.Second", Second, raising=False)
    registry._classes.cache_clear()
    try:
        with pytest.raises(ValueError, match="two adapters have the kind 'openai'"):
            registry.kinds()
    finally:
        registry._classes.cache_clear()
