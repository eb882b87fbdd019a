"""A new kind of provider is one file, and nothing else has to know of it (contract P2)."""

import re
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from providers import adapters, probe
from providers.adapters import registry
from providers.models import Configuration
from tests.people import text_of
from tests.servers.provider import head, json_answer, send

DOCS = Path(__file__).parents[2] / "docs" / "providers.md"
MARKED = "sk-marked-5d1f7c"


def example():
    """The file that the docs show."""
    section = DOCS.read_text().partition("## A new kind in one file")[2]
    (code,) = re.findall(r"^```python\n(.+?)^```$", section, re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture
def shout(tmp_path, monkeypatch):
    """The kind of the docs, in a file of its own among the adapters."""
    (tmp_path / "shout.py").write_text(example())
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    registry.look_again()
    yield
    sys.modules.pop("providers.adapters.shout", None)
    monkeypatch.undo()
    registry.look_again()


def fields(**values):
    return {
        "name": "Shout",
        "slug": "shout",
        "kind": "shout",
        "model": "loud",
        "is_active": "on",
        "extra_headers": "{}",
        "extra_body": "{}",
    } | values


@pytest.mark.contract("P2")
def test_a_kind_in_a_file_of_its_own_is_found_configured_and_streams(shout, ada, provider):
    from django.contrib.auth.models import User

    assert "shout" in registry.kinds()
    admin = Client()
    admin.force_login(User.objects.create_superuser("root"))
    add = reverse("admin:providers_configuration_add")
    assert '<option value="shout">Shout</option>' in admin.get(add).text
    answer = admin.post(add, fields(base_url=provider.url, api_key=MARKED))
    assert answer.status_code == 302
    configuration = Configuration.objects.get()
    assert configuration.price_label == "price unknown"

    provider.route(*json_answer(["loud"]), path="/models")
    assert probe.run(probe.test(configuration)).code == ""
    provider.reply(
        head(200, "application/x-ndjson"),
        send('{"say": "HEL"}\n'),
        send('{"say": "LO"}\n{"end": true}\n'),
    )
    run = ada.ask(ada.new_chat(), "hello", configuration_id="shout")
    events = ada.events(run)
    assert text_of(events) == "HELLO"
    assert events[-1].type == "done"
    assert events[1].data["metadata"]["provider"] == "shout"
    asked = provider.requests[-1]
    assert asked.headers["authorization"] == f"Bearer {MARKED}"
    assert asked.json == {"model": "loud", "text": "hello"}


@pytest.mark.django_db
def test_a_new_kind_needs_no_migration(shout):
    call_command("makemigrations", "providers", check=True, dry_run=True, stdout=StringIO())


def test_a_kind_is_forgotten_with_its_file(shout):
    assert registry.adapter_class("shout").label == "Shout"


def test_there_is_no_such_kind_otherwise():
    with pytest.raises(LookupError, match="no kind 'shout'"):
        registry.adapter_class("shout")


def test_two_files_cannot_have_the_same_kind(tmp_path, shout):
    (tmp_path / "again.py").write_text(example())
    registry.look_again()
    with pytest.raises(ValueError, match="two adapters have the kind 'shout'"):
        registry.kinds()
    sys.modules.pop("providers.adapters.again", None)


def test_the_docs_list_every_kind_and_no_other():
    table = DOCS.read_text().partition("## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == registry.kinds()
