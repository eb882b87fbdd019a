"""F11: the reply to a send is lost, and it is sent again. It is one message and one run (G5)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from conversations.models import ChatSession, Message, Run
from providers.models import Configuration
from tests.faults.checks import wait_until
from tests.faults.raw import sent
from tests.people import Person
from tests.servers.provider import Provider, head, openai_answer, until

pytestmark = pytest.mark.usefixtures("invariants")

KEY = "9f0c2a"


@pytest.mark.contract("F11")
@pytest.mark.contract("S11")
@pytest.mark.parametrize("is_over", [False, True], ids=["while it runs", "when it is over"])
def test_a_send_whose_reply_is_lost_three_times_is_one_message_and_one_run(
    ada: Person, openai: Configuration, provider: Provider, is_over: bool
):
    go_on = threading.Event()
    provider.route(head(), until(go_on), *openai_answer("once")[1:], model="double-1")
    chat = ada.new_chat()
    message = {"prompt": "hello", "idempotency_key": KEY}
    for _ in range(3):
        with sent(ada, f"/chat/{chat}/messages/", **message):
            provider.wait_for_request()
            if is_over:
                go_on.set()
                wait_until(lambda: not Run.objects.running().exists(), "the run has ended")
    again = ada.send(chat, **message)
    assert again.status_code == 200
    run = Run.objects.get()
    assert again.json() == {
        "run_id": str(run.pk),
        "user_message_id": Message.objects.get(role="user").pk,
        "events_url": f"/runs/{run.pk}/events/",
        "stop_url": f"/runs/{run.pk}/stop/",
    }
    go_on.set()
    assert ada.events(again.json())[-1].data["full_response"] == "once"
    assert ada.send(chat, **message).json()["run_id"] == str(run.pk)
    assert (Message.objects.count(), Run.objects.count()) == (2, 1)
    assert len(provider.requests) == 1


@pytest.mark.contract("F11")
@pytest.mark.contract("S11")
def test_the_same_send_20_times_at_once_is_one_message_and_one_run(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("once", pause=0.05), model="double-1")
    chat = ada.new_chat()
    everyone = threading.Barrier(20)

    def send_one(_: int) -> httpx.Response:
        everyone.wait(10)
        return ada.send(chat, "hello", idempotency_key=KEY)

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(send_one, range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.text for answer in answers}) == 1
    run = answers[0].json()
    assert ada.events(run)[-1].data["full_response"] == "once"
    assert (Message.objects.count(), Run.objects.count()) == (2, 1)
    assert len(provider.requests) == 1


@pytest.mark.contract("F11")
@pytest.mark.contract("S11")
@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "something else"},
        {"prompt": "hello", "temperature": 1},
        {"prompt": "hello", "max_tokens": 5},
        {"prompt": "hello", "context_limit": 0},
        {"prompt": "hello", "configuration_id": "demo"},
    ],
)
def test_a_key_that_stands_for_another_request_is_refused_and_stores_nothing(
    ada: Person,
    openai: Configuration,
    demo: Configuration,
    provider: Provider,
    other: dict[str, Any],
):
    provider.route(*openai_answer("fine"), model="double-1")
    chat = ada.new_chat()
    asked = {"prompt": "hello", "configuration_id": "double", "idempotency_key": KEY}
    ada.events(ada.ask(chat, **asked))
    before = stored()
    answer = ada.send(chat, **{**asked, **other})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert stored() == before
    assert len(provider.requests) == 1


@pytest.mark.contract("F11")
def test_a_key_that_stands_for_a_send_in_another_session_is_refused(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*openai_answer("fine"), model="double-1")
    ada.events(ada.ask(ada.new_chat(), "hello", idempotency_key=KEY))
    other = ada.new_chat()
    before = stored()
    assert ada.send(other, "hello", idempotency_key=KEY).status_code == 409
    assert stored() == before


def stored() -> list[Any]:
    """All that a send might change."""
    return [list(model.objects.order_by("pk").values()) for model in (ChatSession, Message, Run)]
