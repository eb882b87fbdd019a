"""A recorded request is sent again: it costs, it is logged, and the chat does not see it (M2)."""

import base64
import hashlib
import json
from typing import Any

import pytest

from conversations.models import ChatSession, Message, ProviderCall, Run, UsageLog
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import Provider, openai_answer

pytestmark = pytest.mark.contract("M2")


@pytest.fixture
def run(ada: Person, openai: Configuration, provider: Provider) -> dict[str, Any]:
    """An answered second question of a chat."""
    provider.route(*openai_answer("fine"), model="double-1")
    chat = ada.new_chat()
    ada.events(ada.ask(chat, "first"))
    run = ada.ask(chat, "second 🎉", temperature=0.7)
    ada.events(run)
    return run


def replay(person: Person, run: dict[str, Any], **fields: Any) -> Any:
    return person.post(f"/runs/{run['run_id']}/replay/", json=fields)


def test_unchanged_the_provider_receives_the_same_bytes(
    ada: Person, run: dict[str, Any], provider: Provider
):
    answer = replay(ada, run, how="same")
    assert answer.status_code == 201
    assert answer.json()["comparison_url"] == f"/monitor/runs/{run['run_id']}/replays/"
    assert text_of(ada.events(answer.json())) == "fine"
    _, original, again = provider.requests
    assert again.body == original.body
    hashes = ProviderCall.objects.filter(run__in=[run["run_id"], answer.json()["run_id"]])
    assert set(hashes.values_list("body_sha256", flat=True)) == {
        hashlib.sha256(original.body).hexdigest()
    }


def test_it_is_logged_and_stays_out_of_the_chat(ada: Person, run: dict[str, Any]):
    messages = Message.objects.count()
    answer = replay(ada, run, how="same").json()
    ada.events(answer)
    assert (Message.objects.count(), ChatSession.objects.count()) == (messages, 1)
    usage = UsageLog.objects.get(run=answer["run_id"])
    assert (usage.origin, usage.session_id, usage.status) == ("replay", None, "done")
    assert usage.cost_usd is not None
    assert str(Run.objects.get(pk=answer["run_id"]).replay_of_id) == run["run_id"]


def test_with_an_edited_body_that_is_what_is_sent(
    ada: Person, run: dict[str, Any], provider: Provider
):
    body = {**provider.requests[-1].json, "temperature": 0.1, "note": "grüße"}
    answer = replay(ada, run, how="edited", body=json.dumps(body))
    events = ada.events(answer.json())
    assert provider.requests[-1].json == body
    assert events[1].data["full_request_body"] == body


@pytest.mark.parametrize(
    "body", ["", "{", "[1]", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_refused(
    body: str, ada: Person, run: dict[str, Any], provider: Provider
):
    answer = replay(ada, run, how="edited", body=body)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == ["body"]
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    ("fields", "name"), [({}, "how"), ({"how": "x"}, "how"), ({"how": "other"}, "configuration_id")]
)
def test_what_is_missing_is_named(
    fields: dict[str, str], name: str, ada: Person, run: dict[str, Any]
):
    answer = replay(ada, run, **fields)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [name]


def test_another_configuration_gets_the_same_conversation_in_its_own_way(
    ada: Person, run: dict[str, Any], provider: Provider
):
    other = Configuration.objects.create(
        name="Other", slug="other", kind="anthropic", model="other-1", base_url=provider.url
    )
    other.set_api_key("sk-other-key-0123456789")
    other.save()
    answer = replay(ada, run, how="other", configuration_id="other").json()
    events = ada.events(answer)
    sent = provider.requests[-1].json
    assert sent["model"] == "other-1"
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["temperature"] == 0.7
    assert "second 🎉" in json.dumps(sent, ensure_ascii=False)
    assert events[1].data["metadata"]["configuration"] == "other"
    assert [message["content"] for message in events[1].data["context_messages"]] == [
        "first",
        "fine",
    ]


def test_images_go_with_it_to_who_can_see_and_are_named_to_others(
    ada: Person, openai: Configuration, provider: Provider
):
    from tests.conversations.test_attachments import file_of, noise, upload

    provider.route(*openai_answer("fine"), model="double-1")
    told = upload(ada, file_of(noise(30, 30), "PNG"))
    run = ada.ask(ada.new_chat(), "look", attachments=told["id"])
    ada.events(run)
    seeing, blind = (
        Configuration.objects.create(
            name=slug, slug=slug, kind="local", model="double-1", base_url=provider.url, **fields
        )
        for slug, fields in (("seeing", {}), ("blind", {"capabilities": ["text"]}))
    )
    for configuration in (seeing, blind):
        ada.events(replay(ada, run, how="other", configuration_id=configuration.slug).json())
    original, seen, unseen = (request.body.decode() for request in provider.requests)
    image = original.partition("base64,")[2].partition('"')[0]
    assert base64.b64decode(image)
    assert image in seen
    assert image not in unseen
    assert told["name"] in unseen


@pytest.mark.contract("A9")
def test_nobody_replays_a_strangers_request_but_staff(
    make_person: Any, run: dict[str, Any], provider: Provider
):
    assert replay(make_person("eve"), run, how="same").status_code == 404
    staff = make_person("staff", is_staff=True)
    answer = replay(staff, run, how="same")
    assert answer.status_code == 201
    staff.events(answer.json())
    assert Run.objects.filter(pk=answer.json()["run_id"], user__username="staff").exists()


@pytest.mark.contract("A11")
def test_a_configuration_that_may_not_be_used_is_not_asked_again(
    ada: Person, run: dict[str, Any], provider: Provider
):
    Configuration.objects.update(is_active=False)
    for fields in ({"how": "same"}, {"how": "other", "configuration_id": "double"}):
        assert replay(ada, run, **fields).status_code == 404
    assert len(provider.requests) == 2


def test_the_results_are_shown_side_by_side(ada: Person, run: dict[str, Any], provider: Provider):
    provider.clear()
    provider.reply(*openai_answer("<b>other</b> words"))
    again = replay(ada, run, how="same").json()
    ada.events(again)
    page = ada.get(again["comparison_url"], headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert "fine" in page.text
    assert "<b>other</b>" not in page.text
    assert "same body" in page.text
    form = ada.get(f"/monitor/runs/{run['run_id']}/replay/")
    assert "1 replay so far" in form.text
