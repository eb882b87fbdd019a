"""F1: the provider hangs. The run ends in time, costs no second request, and can be tried again."""

from decimal import Decimal

import pytest

from conversations.models import Message, UsageLog
from providers.models import Configuration
from tests.faults.checks import Watched, offers_retry, watch
from tests.people import Person
from tests.servers.provider import (
    Provider,
    Step,
    hang,
    head,
    openai_answer,
    openai_chunk,
    send,
    wait,
)

pytestmark = pytest.mark.usefixtures("invariants")

LIMIT = 0.5  # s
PINGS = [step for _ in range(40) for step in (send(": ping\n\n"), wait(0.05))]


@pytest.fixture
def impatient(openai: Configuration) -> Configuration:
    """The double, with limits that a test can wait for."""
    openai.first_chunk_timeout = openai.chunk_timeout = LIMIT
    openai.save()
    return openai


def check_timeout(ada: Person, provider: Provider, watched: Watched) -> UsageLog:
    """What is the same wherever it hangs; gives the usage row."""
    error = watched.end
    assert (error["code"], error["recoverable"]) == ("TIMEOUT", True)
    request = provider.wait_for_request()
    assert watched.ended_at - watched.asked_at >= LIMIT
    assert watched.ended_at - request.received_at < LIMIT + 1
    assert request.wait_for_close(1) - watched.ended_at < 1
    assert len(provider.requests) == 1
    assert not watched.retries
    assert offers_retry(ada, watched)
    usage = UsageLog.objects.get()
    assert (usage.status, usage.code, usage.is_estimated) == ("error", "TIMEOUT", True)
    assert usage.prompt_tokens is not None
    assert usage.completion_tokens is not None
    # At a dollar for a million tokens in, and two for a million out.
    cost = (usage.prompt_tokens + 2 * usage.completion_tokens) / Decimal(1_000_000)
    assert (usage.cost_usd, usage.cost_source) == (cost, "estimated")
    assert usage.prompt_tokens > 0
    return usage


@pytest.mark.contract("F1")
@pytest.mark.parametrize(
    "steps",
    [
        [hang()],
        [head(), hang()],
        [head(), *PINGS, hang()],
        [head(), send(openai_chunk(role="assistant", content="")), hang()],
    ],
    ids=["before the headers", "before any byte", "with pings", "empty delta"],
)
def test_a_provider_that_never_begins_is_a_timeout_and_leaves_the_question_alone(
    ada: Person, impatient: Configuration, provider: Provider, steps: list[Step]
):
    provider.reply(*steps)
    watched = watch(ada)
    check_timeout(ada, provider, watched)
    assert [event.type for event in watched.events] == ["metadata", "request_data", "error"]
    question = Message.objects.get()
    assert (question.role, question.content, question.status) == ("user", "hello", "failed")


@pytest.mark.contract("F1")
@pytest.mark.parametrize("rest", [[hang()], [*PINGS, hang()]], ids=["silent", "with pings"])
def test_a_provider_that_stalls_after_20_chunks_leaves_20_chunks_marked_as_incomplete(
    ada: Person, impatient: Configuration, provider: Provider, rest: list[Step]
):
    expected = "".join(f"{index} " for index in range(20))
    provider.reply(head(), *[send(openai_chunk(f"{index} ")) for index in range(20)], *rest)
    watched = watch(ada)
    usage = check_timeout(ada, provider, watched)
    assert watched.text == expected
    answer = Message.objects.get(role="assistant")
    assert (answer.content, answer.status) == (expected, "failed")
    assert usage.completion_tokens


@pytest.mark.contract("F1")
def test_after_a_timeout_retry_asks_once_and_answers(
    ada: Person, impatient: Configuration, provider: Provider
):
    provider.reply(hang())
    watched = watch(ada)
    provider.reply(*openai_answer("at last"))
    again = ada.post(f"/messages/{watched.run['user_message_id']}/retry/")
    assert again.status_code == 201
    assert ada.events(again.json())[-1].data["full_response"] == "at last"
    assert len(provider.requests) == 2


@pytest.mark.contract("P4")
def test_a_run_that_takes_too_long_in_all_is_a_timeout(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.total_timeout = LIMIT
    openai.save()
    provider.reply(*openai_answer(*["x"] * 100, pause=0.05))
    watched = watch(ada)
    check_timeout(ada, provider, watched)
    assert "0.5 seconds" in watched.end["message"]
    assert 0 < len(watched.text) < 100
