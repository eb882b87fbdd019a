"""A provider's key on its way through a run: it goes to the provider, and nowhere else (G9)."""

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet

from providers.models import Configuration
from tests.people import Person
from tests.servers.provider import Provider, openai_answer


@pytest.mark.contract("A18")
def test_the_key_is_sent_to_the_provider_and_found_nowhere_else(
    ada: Person, openai: Configuration, provider: Provider, capfd: Any, caplog: Any
):
    caplog.set_level("DEBUG")
    provider.reply(*openai_answer("fine"))
    chat = ada.new_chat()
    run = ada.ask(chat, "hello")
    events = ada.events(run)
    assert provider.wait_for_request().headers["authorization"] == "Bearer sk-marked-key-0123456789"
    pages = [
        ada.get(path, headers={"Accept": "text/html"}).text
        for path in (f"/chat/{chat}/", f"/monitor/runs/{run['run_id']}/")
    ]
    said = "".join([*pages, json.dumps([event.data for event in events]), caplog.text])
    said += "".join(capfd.readouterr())
    said += repr(list(Configuration.objects.values())) + repr(openai.__dict__)
    assert "marked-key" not in said


@pytest.mark.contract("A19")
def test_a_key_that_can_no_longer_be_decrypted_ends_the_run_and_says_what_to_do(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    chat = ada.new_chat()
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    events = ada.events(ada.ask(chat, "hello"))
    assert [event.type for event in events] == ["metadata", "request_data", "error"]
    assert events[-1].data["code"] == "API_KEY_INVALID"
    assert "enter it again" in events[-1].data["message"]
    assert events[1].data["full_request_body"]["messages"][-1]["content"] == "hello"
    assert not provider.requests
    assert ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).status_code == 200
