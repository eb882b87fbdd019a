"""F2: the answer breaks off. It is never taken for a whole one, and what came is kept."""

from collections.abc import Callable
from typing import Any

import pytest

from conversations.models import Message, UsageLog
from providers.models import Configuration
from tests.faults.checks import offers_retry, page_of, watch
from tests.people import Person
from tests.servers.provider import (
    Close,
    Provider,
    close,
    end,
    head,
    ollama_answer,
    openai_answer,
    openai_chunk,
    reset,
    send,
    wait,
)

pytestmark = pytest.mark.usefixtures("invariants")


@pytest.mark.contract("F2")
@pytest.mark.parametrize("count", [0, 1, 50])
@pytest.mark.parametrize(
    ("how", "chunked"),
    [(reset, True), (close, True), (end, True), (end, False)],
    ids=["reset", "close in a chunked body", "end of a chunked body", "close that is the end"],
)
def test_an_answer_that_breaks_off_is_never_done_and_its_text_is_kept_and_marked(
    ada: Person,
    openai: Configuration,
    provider: Provider,
    how: Callable[[], Close],
    count: int,
    chunked: bool,
):
    pieces = [f"{index} " for index in range(count)]
    chunks = [send(openai_chunk(piece)) for piece in pieces]
    provider.route(head(chunked=chunked), *chunks, wait(0.05), how(), model="double-1")
    watched = watch(ada)
    assert (watched.end["type"], watched.end["code"]) == ("error", "STREAM_INTERRUPTED")
    assert watched.end["recoverable"] is True
    assert watched.text == "".join(pieces)
    # Before any text it may be asked for again; after it never.
    assert len(provider.requests) == 1 + len(watched.retries)
    assert [retry["attempt"] for retry in watched.retries] == ([] if count else [2, 3])
    answers = Message.objects.filter(role="assistant").values_list("content", "status")
    assert list(answers) == ([("".join(pieces), "failed")] if count else [])
    assert UsageLog.objects.get().code == "STREAM_INTERRUPTED"
    assert offers_retry(ada, watched)
    assert "STREAM_INTERRUPTED" in page_of(ada, watched.chat)


@pytest.mark.contract("F2")
def test_lines_that_end_without_the_last_one_are_no_answer_either(
    ada: Person, openai: Configuration, provider: Provider
):
    openai.kind = "ollama"
    openai.save()
    provider.reply(*ollama_answer("half", " an answer", reason=None))
    watched = watch(ada)
    assert watched.end["code"] == "STREAM_INTERRUPTED"
    assert watched.text == Message.objects.get(role="assistant").content == "half an answer"


@pytest.mark.contract("F2")
@pytest.mark.parametrize("how", [reset, close, end])
@pytest.mark.parametrize(
    "last",
    [{"finish": "stop", "done": False}, {"finish": None, "usage": None, "done": True}],
    ids=["a finish reason alone", "the end marker alone"],
)
def test_a_finish_reason_or_an_end_marker_completes_an_answer_however_the_connection_ends(
    ada: Person,
    openai: Configuration,
    provider: Provider,
    last: dict[str, Any],
    how: Callable[[], Close],
):
    provider.reply(*openai_answer("whole", **last), wait(0.05), how())
    watched = watch(ada)
    assert (watched.end["type"], watched.end["full_response"]) == ("done", "whole")
    assert watched.end["finish_reason"] == last["finish"]
    assert Message.objects.get(role="assistant").status == "complete"
    assert len(provider.requests) == 1
