"""F8: the client goes away. A tab's run does not care, whenever that is.

The clients of the HTTP API, whose runs end with them, are tested with the API.
"""

import threading
from collections.abc import Callable

import pytest

from conversations.models import Message, Run, UsageLog
from providers.models import Configuration
from tests.faults.checks import page_of, wait_for_ends, wait_until
from tests.faults.raw import read_up_to, sent
from tests.people import Person
from tests.servers.provider import Provider, head, openai_answer, openai_chunk, send, until

pytestmark = pytest.mark.usefixtures("invariants")

FIRST = [f"a{index} " for index in range(10)]
SECOND = [f"b{index} " for index in range(10)]
TEXT = "".join(FIRST + SECOND)


def leave_after(number: int, more: int = 0) -> Callable[[Person, str], None]:
    """A tab that sends, reads to the end of this event and a bit of the next, and is closed."""

    def leave(ada: Person, chat: str) -> None:
        run = ada.ask(chat, "hello")
        with ada.http.stream("GET", run["events_url"]) as response:
            read_up_to(response, number, more)

    return leave


def leave_without_following(ada: Person, chat: str) -> None:
    ada.ask(chat, "hello")


def leave_without_the_answer(ada: Person, chat: str) -> None:
    with sent(ada, f"/chat/{chat}/messages/", prompt="hello"):
        # What never arrived would make no run.
        wait_until(Run.objects.exists, "the message has arrived")


@pytest.mark.contract("F8")
@pytest.mark.contract("S10")
@pytest.mark.parametrize(
    "leave",
    [
        leave_without_the_answer,
        leave_without_following,
        leave_after(1),
        leave_after(1, more=100),
        leave_after(2),
        leave_after(3),
        leave_after(5),
    ],
    ids=[
        "before the answer to the send",
        "before the stream",
        "after the first event",
        "inside the second",
        "before the first chunk",
        "after the first chunk",
        "in the middle",
    ],
)
def test_the_run_of_a_tab_that_is_gone_completes(
    ada: Person, openai: Configuration, provider: Provider, leave: Callable[[Person, str], None]
):
    go_on = threading.Event()
    first = [step for piece in FIRST for step in openai_answer(piece, pause=0.002)[1:3]]
    provider.reply(head(), *first, until(go_on), *openai_answer(*SECOND, pause=0.01)[1:])
    chat = ada.new_chat()
    leave(ada, chat)
    go_on.set()
    wait_for_ends()
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == (TEXT, "complete")
    assert UsageLog.objects.get().status == "done"
    assert len(provider.requests) == 1
    assert page_of(ada, chat).count("a0 a1 a2") == 1


@pytest.mark.contract("F8")
def test_tabs_that_come_and_go_neither_stop_nor_repeat_a_run(
    ada: Person, openai: Configuration, provider: Provider
):
    go_on = threading.Event()
    first = [send(openai_chunk(piece)) for piece in FIRST]
    provider.reply(head(), *first, until(go_on), *openai_answer(*SECOND, pause=0.005)[1:])
    run = ada.ask(ada.new_chat(), "hello")
    for _ in range(5):
        with ada.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
    go_on.set()
    received = ada.events(run)
    assert received[-1].data["full_response"] == TEXT
    assert len(provider.requests) == 1


@pytest.mark.contract("C8")
@pytest.mark.contract("F8")
def test_the_run_of_a_person_who_does_not_stream_completes_without_them(
    ada: Person, openai: Configuration, provider: Provider
):
    assert ada.post("/preferences/", json={"streams_answers": False}).status_code == 204
    go_on = threading.Event()
    provider.reply(head(), until(go_on), *openai_answer("all of it")[1:])
    chat = ada.new_chat()
    with sent(ada, f"/chat/{chat}/messages/", prompt="hello"):
        provider.wait_for_request()
    go_on.set()
    wait_for_ends()
    assert Message.objects.get(role="assistant").content == "all of it"
    provider.reply(*openai_answer("next"))
    assert ada.send(chat, "and now").json()["full_response"] == "next"
