"""Test connection and Load models, against a provider on a real socket (contract P6)."""

import socket

import pytest

from providers import probe
from providers.errors import ApiKeyInvalid, InvalidRequest
from providers.fields import EncryptedText
from providers.models import Configuration
from tests.servers.provider import hang, head, json_answer, send

MARKED = "sk-marked-5d1f7c"


def configuration(kind="openai", model="m", key=MARKED, **values):
    made = Configuration(name="Test", slug="test", kind=kind, model=model, **values)
    made.set_api_key(key)
    return made


def openai_models(*ids):
    return json_answer({"object": "list", "data": [{"id": one, "object": "model"} for one in ids]})


def free_port():
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def test_the_demo_always_works():
    result = probe.run(probe.test(configuration("demo", "demo", "")))
    assert (result.ok, result.code) == (True, "")


def test_a_provider_that_lists_the_model_works_and_got_the_key(provider):
    provider.route(*openai_models("m", "n"), path="/v1/models")
    result = probe.run(probe.test(configuration(base_url=provider.url)))
    assert (result.ok, result.code) == (True, "")
    assert 0 < result.seconds < 5
    request = provider.wait_for_request()
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert request.headers["authorization"] == f"Bearer {MARKED}"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_base_url_may_be_typed_in_any_form(provider, end):
    provider.route(*openai_models("m"), path="/v1/models")
    assert probe.run(probe.test(configuration(base_url=provider.url + end))).ok


def test_a_model_that_is_not_in_the_list_is_a_warning(provider):
    provider.route(*openai_models("n"), path="/v1/models")
    result = probe.run(probe.test(configuration(base_url=provider.url)))
    assert (result.ok, result.code) == (True, "MODEL_NOT_FOUND")


def test_ollama_means_the_latest_version_of_a_model_without_one(provider):
    provider.route(*json_answer({"models": [{"name": "llama3:latest"}]}), path="/api/tags")
    result = probe.run(probe.test(configuration("ollama", "llama3", base_url=provider.url)))
    assert (result.ok, result.code) == (True, "")


@pytest.mark.contract("A15")
@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "API_KEY_INVALID"), (429, "RATE_LIMIT_EXCEEDED"), (404, "INVALID_REQUEST")],
)
def test_a_failure_is_told_as_a_code_without_a_word_of_the_provider(provider, status, code):
    said = f"internal page of 10.0.0.7, key {MARKED}"
    provider.route(*json_answer({"error": {"message": said}}, status))
    result = probe.run(probe.test(configuration(base_url=provider.url)))
    assert (result.ok, result.code) == (False, code)
    assert "10.0.0.7" not in result.message
    assert MARKED not in repr(result)


def test_a_web_page_is_no_provider(provider):
    provider.route(head(200, "text/html"), send("<h1>Router</h1>"))
    result = probe.run(probe.test(configuration(base_url=provider.url)))
    assert (result.ok, result.code) == (False, "INVALID_REQUEST")


def test_nobody_at_the_address_is_offline():
    base_url = f"http://127.0.0.1:{free_port()}"
    result = probe.run(probe.test(configuration(base_url=base_url)))
    assert (result.ok, result.code) == (False, "PROVIDER_OFFLINE")


def test_a_provider_that_hangs_is_given_up_at_the_configurations_own_limit(provider):
    provider.route(hang())
    result = probe.run(probe.test(configuration(base_url=provider.url, first_chunk_timeout=0.2)))
    assert (result.ok, result.code) == (False, "TIMEOUT")


@pytest.mark.contract("A16")
def test_a_redirect_is_not_followed(provider):
    provider.route(head(302, "text/plain", {"Location": f"{provider.url}/elsewhere"}))
    result = probe.run(probe.test(configuration(base_url=provider.url)))
    assert (result.ok, result.code) == (False, "INVALID_REQUEST")
    assert len(provider.requests) == 1


@pytest.mark.contract("A19")
def test_a_key_that_can_no_longer_be_decrypted_is_an_invalid_one(provider):
    lost = configuration(base_url=provider.url)
    lost.api_key = EncryptedText("nonsense")
    assert probe.run(probe.test(lost)).code == "API_KEY_INVALID"
    with pytest.raises(ApiKeyInvalid):
        probe.run(probe.models(lost))
    assert provider.requests == []


def test_a_kind_that_is_gone_is_a_wrong_request():
    with pytest.raises(InvalidRequest):
        probe.run(probe.models(configuration("gone")))


def test_the_models_of_ollama_come_with_their_windows(provider):
    names = [{"name": f"m{number}:latest"} for number in range(7)]
    provider.route(*json_answer({"models": names}), path="/api/tags")
    about = {"general.architecture": "llama", "llama.context_length": 4096}
    provider.route(*json_answer({"model_info": about}), path="/api/show")
    provider.route(*json_answer({"error": "gone"}, 404), path="/api/show", model="m3:latest")
    found = probe.run(probe.models(configuration("ollama", key="", base_url=provider.url)))
    windows = {model.id: model.context_window for model in found}
    assert windows == {
        name["name"]: None if name["name"] == "m3:latest" else 4096 for name in names
    }


def test_a_model_that_does_not_tell_its_window_in_time_hides_none_of_the_others(
    provider, monkeypatch
):
    monkeypatch.setattr(probe, "DETAILS_SECONDS", 0.5)
    provider.route(*json_answer({"models": [{"name": "a"}, {"name": "b"}]}), path="/api/tags")
    about = {"general.architecture": "llama", "llama.context_length": 4096}
    provider.route(*json_answer({"model_info": about}), path="/api/show", model="a")
    provider.route(hang(), path="/api/show", model="b")
    found = probe.run(probe.models(configuration("ollama", key="", base_url=provider.url)))
    assert [(model.id, model.context_window) for model in found] == [("a", 4096), ("b", None)]


@pytest.mark.contract("P6")
def test_openrouters_key_is_tested_though_its_list_is_open_to_all(provider):
    provider.route(*json_answer({"data": [{"id": "m"}]}), path="/models")
    refusal = {"error": {"code": 401, "message": "User not found."}}
    provider.route(*json_answer(refusal, 401), path="/key")
    row = Configuration(name="T", slug="t", kind="openrouter", model="m", base_url=provider.url)
    row.set_api_key("sk-marked")
    assert probe.run(probe.test(row)).code == "API_KEY_INVALID"
    provider.route(*json_answer({"data": {"label": "x"}}), path="/key")
    assert probe.run(probe.test(row)).ok
