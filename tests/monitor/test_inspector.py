"""The request inspector: the exact record of what was sent and what came back (M2)."""

import hashlib
import json
import shlex
import shutil
import subprocess
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from conversations import tokens
from conversations.models import Message
from providers.models import Configuration
from tests.people import Person
from tests.servers.app import AppServer
from tests.servers.provider import Provider, json_answer, openai_answer

pytestmark = pytest.mark.contract("M2")

KEY = "sk-marked-key-0123456789"  # of the fixture `openai`


def asked(person: Person, chat: str, prompt: str, **fields: Any) -> dict[str, Any]:
    run = person.ask(chat, prompt, **fields)
    person.events(run)
    return run


def part(person: Person, run: dict[str, Any], name: str = "") -> str:
    answer = person.get(f"/monitor/runs/{run['run_id']}/{name}", headers={"HX-Request": "true"})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_wire_part_shows_each_attempt_its_hash_headers_and_lines(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*json_answer({"error": {"message": "busy"}}, 503, {"Retry-After": "0"}))
    provider.reply(*openai_answer("<i>words</i>"))
    run = asked(ada, ada.new_chat(), "hi")
    shown = part(ada, run, "wire/")
    assert "Attempt 1" in shown
    assert "Attempt 2" in shown
    for request in provider.requests:
        assert hashlib.sha256(request.body).hexdigest() in shown
    assert f"{provider.url}/chat/completions" in shown or provider.url in shown
    assert "PROVIDER_OVERLOADED" in shown
    assert "Bearer [hidden]" in shown
    assert KEY not in shown
    assert "&lt;i&gt;words&lt;/i&gt;" in shown
    assert "<i>words" not in shown


def test_the_record_can_be_downloaded_whole(ada: Person, openai: Configuration, provider: Provider):
    provider.reply(*openai_answer("=fine"))
    run = asked(ada, ada.new_chat(), "grüße")
    answer = ada.get(f"/monitor/runs/{run['run_id']}/record.json")
    assert answer.headers["Content-Disposition"] == (
        f'attachment; filename="request-{run["run_id"]}.json"'
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (call,) = answer.json()["calls"]
    assert call["request"]["body"].encode() == provider.requests[0].body
    assert answer.json()["request_data"]["current_prompt"] == "grüße"
    received = ada.get(f"/monitor/runs/{run['run_id']}/received.ndjson")
    lines = [json.loads(line) for line in received.text.splitlines()]
    assert [[line["ms"], line["line"]] for line in lines] == call["response"]["lines"]
    assert {line["attempt"] for line in lines} == {1}
    assert KEY not in answer.text + received.text


@pytest.mark.contract("A9")
@pytest.mark.parametrize(
    "name",
    ["", "body/", "wire/", "difference/", "record.json", "received.ndjson", "replay/", "replays/"],
)
def test_a_stranger_gets_the_answer_of_an_unknown_run(
    name: str, make_person: Any, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("fine"))
    ada, eve = make_person("ada"), make_person("eve")
    run = asked(ada, ada.new_chat(), "hi")
    assert ada.get(f"/monitor/runs/{run['run_id']}/{name}").status_code == 200
    assert eve.get(f"/monitor/runs/{run['run_id']}/{name}").status_code == 404
    staff = make_person("staff", is_staff=True)
    assert staff.get(f"/monitor/runs/{run['run_id']}/{name}").status_code == 200


class TestCurl:
    """The request as a command."""

    def test_it_sends_what_was_sent(self, ada: Person, openai: Configuration, provider: Provider):
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        openai.extra_headers = {"X-Team": "team-secret-0123456789", "X-Plain": 'it\'s $5 "now"'}
        openai.save()
        provider.route(*openai_answer("fine"), model="double-1")
        run = asked(ada, ada.new_chat(), 'it\'s "quoted" $HOME `id` \\ grüße')
        command = ada.get(f"/monitor/runs/{run['run_id']}/body/?as=curl").text
        assert "team-secret" not in command
        assert KEY not in command
        environment = {
            "API_KEY": KEY,
            "X_TEAM": "team-secret-0123456789",
            "X_PLAIN": 'it\'s $5 "now"',
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        subprocess.run(["sh", "-c", command], env=environment, check=True, capture_output=True)
        ours, curls = provider.requests
        assert curls.body == ours.body
        assert (curls.method, curls.path) == (ours.method, ours.path)
        left_to_curl = {"host", "connection", "accept-encoding", "content-length"}
        for name in ours.headers.keys() - left_to_curl:
            assert curls.headers[name] == ours.headers[name]

    def test_a_key_in_the_address_is_left_to_the_shell(self, ada: Person, provider: Provider):
        configuration = Configuration(
            name="Own",
            slug="own",
            kind="custom",
            model="m",
            base_url=f"{provider.url}/ask?v=1",
            request={"body": {"text": "{{prompt}}"}, "auth": "query", "auth_name": "token"},
            response={"format": "text"},
        )
        configuration.set_api_key(KEY)
        configuration.save()
        provider.reply(*json_answer({"text": "fine"}))
        run = asked(ada, ada.new_chat(), "hi", configuration_id="own")
        command = ada.get(f"/monitor/runs/{run['run_id']}/body/?as=curl").text
        assert KEY in provider.requests[0].path
        assert KEY not in command
        assert shlex.split(command)[4] == f"{provider.url}/ask?v=1&token=$API_KEY"


class TestLedger:
    """What became of each earlier message."""

    def test_it_says_of_each_message_whether_it_was_sent_and_why_not(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        chat = ada.new_chat()
        provider.reply(*json_answer({"error": {"message": "no"}}, 400))
        asked(ada, chat, "a failed question")
        for number in range(2):
            provider.reply(*openai_answer(f"answer {number}"))
            asked(ada, chat, f"question {number}")
        provider.reply(*openai_answer("last"))
        run = asked(ada, chat, "now", context_limit=2)
        shown = part(ada, run)
        assert shown.count("left out: beyond the limit of earlier messages") == 2
        assert shown.count("left out: failed, so not part of the conversation") == 1
        assert shown.count("<td>yes</td>") == 2
        assert "a failed question" in shown

    def test_messages_that_were_deleted_since_are_still_told(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        chat = ada.new_chat()
        for word in ("one", "two", "three"):
            provider.reply(*openai_answer(f"answer {word}"))
            run = asked(ada, chat, word, context_limit=2)
        Message.objects.filter(content__in=["one", "two"]).delete()
        shown = part(ada, run)
        assert ">two</div>" in shown  # it was sent
        assert ">deleted</td>" in shown  # what it was is gone, that it was left out is not


class TestDifference:
    """The body beside that of the request before."""

    def test_it_shows_what_was_added_and_removed(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.route(*openai_answer("fine"), model="double-1")
        chat = ada.new_chat()
        first = asked(ada, chat, "first <b>", temperature=0.5)
        second = asked(ada, chat, "second", temperature=0.6)
        assert "no earlier request" in part(ada, first, "difference/")
        shown = part(ada, second, "difference/")
        assert 'class="line-removed">-  &quot;temperature&quot;: 0.5' in shown
        assert 'class="line-added">+  &quot;temperature&quot;: 0.6' in shown
        assert "second" in shown
        assert "<b>" not in shown

    def test_a_replay_is_compared_with_what_it_replays(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.route(*openai_answer("fine"), model="double-1")
        run = asked(ada, ada.new_chat(), "first")
        again = ada.post(f"/runs/{run['run_id']}/replay/", json={"how": "same"}).json()
        ada.events(again)
        assert "equals that of" in part(ada, again, "difference/")

    def test_what_is_too_long_to_compare_is_said_to_be(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.route(*openai_answer("fine"), model="double-1")
        openai.extra_body = {"padding": list(range(5_000))}
        openai.save()
        chat = ada.new_chat()
        asked(ada, chat, "first")
        assert "too long" in part(ada, asked(ada, chat, "second"), "difference/")


@pytest.mark.contract("A1")
def test_the_ledger_of_a_saved_call_has_each_message_once_as_sent(
    app: AppServer, ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("fine"))
    _, secret = tokens.make(User.objects.get(username="ada"), "laptop")
    said = [("user", "one"), ("assistant", "two"), ("user", "three")]
    answer = httpx.post(
        f"{app.url}/v1/chat/completions",
        json={
            "model": "double",
            "messages": [{"role": role, "content": text} for role, text in said],
        },
        headers={"Authorization": f"Bearer {secret}", "X-LLMChat-Save": "true"},
        trust_env=False,
    )
    shown = part(ada, {"run_id": answer.headers["X-LLMChat-Run"]})
    assert shown.count("<td>yes</td>") == 2
    assert "left out: " not in shown
