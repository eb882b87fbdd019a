"""What must hold after each fault (RELIABILITY.md §3), for every run of a test.

`check_runs` looks at what is stored; `watch` is a viewer who also comes back for a second look.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from conversations.events import joined_text
from conversations.journal import stored_events
from conversations.models import ChatSession, Run, UsageLog
from tests.people import Person, Received, text_of
from tests.servers.provider import Provider

DEADLINE = 10.0  # s


@dataclass(frozen=True)
class Watched:
    """One run as its viewer saw it, from the send to the end event."""

    chat: str
    run: dict[str, Any]
    events: list[Received]
    asked_at: float  # monotonic
    ended_at: float  # likewise, when the end event had arrived

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1].data

    @property
    def text(self) -> str:
        return text_of(self.events)

    @property
    def retries(self) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.type == "retry"]


def watch(person: Person, prompt: str = "hello", chat: str = "", **fields: Any) -> Watched:
    """Sends, follows to the end, and reads it once more: a later reload gets the same (G1)."""
    chat = chat or person.new_chat()
    asked_at = monotonic()
    run = person.ask(chat, prompt, **fields)
    events = person.events(run)
    ended_at = monotonic()
    assert person.events(run) == events
    return Watched(chat, run, events, asked_at, ended_at)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Waits until something holds that nobody tells us of."""
    deadline = monotonic() + DEADLINE
    while not holds():
        assert monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        sleep(0.005)


def wait_for_ends() -> None:
    """Waits until no run is running, without watching any."""
    wait_until(lambda: not Run.objects.running().exists(), "all runs have ended")


def drawn(events: list[Received]) -> dict[int, str]:
    """The blocks that a page has after these events, by their index."""
    blocks = {event.data["index"]: event.data["html"] for event in events if event.type == "block"}
    return {index: html for index, html in blocks.items() if html}


def page_of(person: Person, chat: str) -> str:
    """The page of a session, as a browser gets it after a reload."""
    page = person.get(f"/chat/{chat}/", headers={"Accept": "text/html"})
    assert page.status_code == 200, page.status_code
    return page.text


def offers_retry(person: Person, watched: Watched) -> bool:
    """Whether the page has a Retry button for the run's question."""
    button = f'hx-post="/messages/{watched.run["user_message_id"]}/retry/"'
    page = page_of(person, watched.chat)
    return button in page and "data-retry-label" in page


def check_runs(provider: Provider) -> None:
    """Every run has one end, one text and one usage row, and no request too many was made."""
    assert not Run.objects.running().exists()
    runs = list(Run.objects.select_related("assistant_message", "usage", "session"))
    attempts = sum(_checked(run) for run in runs)
    # What is left of runs that went with their session.
    kept = list(UsageLog.objects.exclude(pk__in=[run.pk for run in runs]))
    assert not ChatSession.objects.filter(pk__in=[usage.session_id for usage in kept]).exists()
    assert len(provider.requests) <= attempts + len(kept)


def _checked(run: Run) -> int:
    """Checks one run; gives how many requests it may have made."""
    events = stored_events(run.pk)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.number for event in events if event.is_end] == [len(events)]
    end = events[-1].fields
    text = joined_text(events, "chunk")
    assert end["length"] == len(text)
    assert end["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    if events[-1].type == "done":
        assert end["full_response"] == text
        assert (run.status, run.error_code) == ("stopped" if end["stopped"] else "done", "")
    else:
        assert run.status == ("interrupted" if end["code"] == "INTERRUPTED" else "error")
        assert run.error_code == end["code"]
    _check_answer(run, end, text)
    assert run.mismatches == 0
    assert (run.usage.status, run.usage.code) == (run.status, run.error_code)
    retries = sum(event.type == "retry" for event in events)
    return 0 if run.provider == "demo" else 1 + retries


def _check_answer(run: Run, end: dict[str, Any], text: str) -> None:
    answer = run.assistant_message
    if answer is None:
        # Nothing was kept, as there was nothing, or it was deleted since.
        assert end["assistant_message_id"] is not None or not text or run.session is None
        return
    assert end["assistant_message_id"] == answer.pk
    if answer.written_by.latest("started_at") == run:
        assert answer.content == text
    else:
        assert answer.content.startswith(text)  # a later run went on with it
