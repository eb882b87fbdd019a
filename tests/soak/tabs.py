"""What people do in the soak: each tab sends, watches, stops, continues, retries and deletes.

A tab does one thing after another, so it knows of each of its runs how it must have ended. What
gets no answer, or the answer that the server is not there, is sent again with the same key: as a
page does it.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from time import monotonic
from types import MappingProxyType
from typing import Any

import httpx

from tests.faults.raw import sent
from tests.people import Person, Received, text_of
from tests.servers.viewers import RETURN, Viewer
from tests.soak.answers import KINDS, answer_to
from tests.soak.figures import Figures, Wrong
from tests.soak.watching import digest, dishonesty, lost, mismatches, polls, viewer_of

PATIENCE = 60.0  # s, in which a server is back, and no run is left unfinished (G2)
CHATS = 3  # that a tab goes back to
DEEDS = {"watch": 6, "stop": 3, "delete": 1}
LOST_REPLIES = 0.2  # of all starts of runs; they are sent again with the same key
FOLLOW_UPS = 3  # continued or retried answers to one question
MOST_REQUESTS = 3  # of one run (MAX_ATTEMPTS)


@dataclass
class Told:
    """A run that a server said it has started, and what is known of it since."""

    run: dict[str, Any]  # its ids and addresses
    chat: str
    question: str
    earlier: str  # the text that the answer had before, where the run goes on with it
    reader: Person
    asked_at: float  # monotonic
    digest: str = ""  # of its events as they were at its end; empty while nobody has read that
    requests: int = MOST_REQUESTS  # that it may have made

    @property
    def id(self) -> str:
        return str(self.run["run_id"])


@dataclass(frozen=True)
class Seen:
    """The end of a run, for who wants to go on with it."""

    told: Told
    events: list[Received]

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1].data

    @property
    def text(self) -> str:
        return text_of(self.events)

    @property
    def is_cut(self) -> bool:
        """Whether its answer can be continued."""
        has_calls = any(event.type == "tool_call" for event in self.events)
        is_whole = self.end["type"] == "done" and self.end["finish_reason"] == "stop"
        return bool(self.text) and not has_calls and not is_whole

    @property
    def has_question(self) -> bool:
        """Whether its question is still there: stopped unanswered, it goes back into the box."""
        return not self.end.get("stopped") or self.end["assistant_message_id"] is not None


class Tab:
    """One tab of a person, with a seed of its own.

    `person` is signed in where all requests go, `live` the same at the proxy that cuts streams.
    """

    def __init__(
        self,
        name: str,
        person: Person,
        live: Person,
        seed: int,
        kills: Sequence[float],
        figures: Figures,
    ) -> None:
        self.person = person
        self.told: list[Told] = []
        self.deleted: set[str] = set()  # chats
        self._name = name
        self._live = live
        self._seed = seed
        self._kills = kills
        self._figures = figures
        self._chance = Random(f"{seed} {figures.title} {name}")
        self._chats: list[str] = []
        self._questions = 0

    def use(self, is_over: threading.Event) -> None:
        """Does one thing after another until it is over, and finishes what it has begun."""
        while not is_over.is_set():
            try:
                self._converse(self._chat())
            except Exception as error:
                text = f"{self._name}: {type(error).__name__}: {error}"
                self._figures.fault(Wrong.OTHER, text)
                self._chats.clear()

    def ask(self) -> dict[str, Any]:
        """A run that is left alone, once it is over."""
        told = self._send(self._chat(), "whole")
        self._settle(told, [])
        return told.run

    # ---- one conversation

    def _chat(self) -> str:
        if len(self._chats) < CHATS or self._chance.random() < 0.2:
            answer = self._insist("/chat/", {})
            assert answer.status_code == 201, answer.text
            self._chats = [*self._chats, answer.json()["session_id"]][-CHATS:]
        return self._chance.choice(self._chats)

    def _converse(self, chat: str) -> None:
        kind = self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        seen = self._live_with(self._send(chat, kind))
        for _ in range(FOLLOW_UPS):
            if seen is None or not seen.has_question or self._chance.random() < 0.4:
                return
            if seen.is_cut:
                path, earlier = f"/messages/{seen.end['assistant_message_id']}/continue/", seen.text
            else:
                path, earlier = f"/messages/{seen.told.run['user_message_id']}/retry/", ""
            seen = self._live_with(self._start(path, chat, seen.told.question, earlier))

    def _send(self, chat: str, kind: str) -> Told:
        self._questions += 1
        question = f"soak {kind} {self._name}-{self._questions}"
        limit = self._chance.choice([0, 1, 4, 20])
        fields = {"prompt": question, "context_limit": limit}
        return self._start(f"/chat/{chat}/messages/", chat, question, "", fields)

    def _start(
        self,
        path: str,
        chat: str,
        question: str,
        earlier: str,
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> Told:
        """A new run; asked for as often as it takes."""
        fields = {**fields, "idempotency_key": f"{self._chance.getrandbits(64):x}"}
        asked_at = monotonic()
        if self._chance.random() < LOST_REPLIES:
            with suppress(OSError), sent(self.person, path, **fields):
                threading.Event().wait(self._chance.uniform(0, 0.1))
        answer = self._insist(path, fields)
        assert answer.status_code in (200, 201), f"{path}: {answer.status_code} {answer.text}"
        told = Told(answer.json(), chat, question, earlier, self.person, asked_at)
        self.told.append(told)
        return told

    def _live_with(self, told: Told) -> Seen | None:
        """Watches a run and does something to it, or not. None if it was deleted."""
        viewers = [self._viewer(told) for _ in range(self._chance.randint(1, 3))]
        try:
            deed = self._chance.choices(list(DEEDS), list(DEEDS.values()))[0]
            # Also before its first piece, and after its end.
            threading.Event().wait(self._chance.uniform(0, 2))
            if deed == "delete":
                self._delete(told.chat)
                self._leave_deleted(told, viewers)
                return None
            was_stopped = deed == "stop" and self._stop(told)
            if self._chance.random() < 0.3:
                viewers.append(self._viewer(told))
            stored = self._settle(told, viewers)
            if was_stopped and not stored[-1].data.get("stopped"):
                self._fault(Wrong.MISMATCH, told, f"it was stopped, and ended with {stored[-1]}")
            return Seen(told, stored)
        finally:
            for viewer in viewers:
                viewer.leave()

    def _viewer(self, told: Told) -> Viewer:
        return viewer_of(told.run, self._live, self.person, self._chance)

    def _stop(self, told: Told) -> bool:
        answer = self._insist(told.run["stop_url"], {})
        assert answer.status_code == 200, f"stop: {answer.status_code} {answer.text}"
        return bool(answer.json()["stopped"])

    def _delete(self, chat: str) -> None:
        self._chats.remove(chat)
        self.deleted.add(chat)
        answer = self._insist(f"/chat/{chat}/delete/", {})
        # Not found: it was deleted, and only the answer got lost.
        assert answer.status_code in (204, 404), f"delete: {answer.status_code} {answer.text}"

    def _insist(self, path: str, fields: dict[str, Any]) -> httpx.Response:
        """Posts until a server takes it. Fails after PATIENCE seconds."""
        deadline = monotonic() + PATIENCE
        while True:
            with suppress(httpx.TransportError):
                answer = self.person.post(path, json=fields)
                if answer.status_code != 503 and not _is_cut_off(answer):
                    return answer
            assert monotonic() < deadline, f"no answer to {path} within {PATIENCE:g} s"
            threading.Event().wait(RETURN)

    # ---- what is left of a run

    def _settle(self, told: Told, viewers: Sequence[Viewer]) -> list[Received]:
        """Waits until all viewers of a run have its end, and compares. Gives what is stored."""
        stored = self._stored(told)
        told.digest = digest(stored)
        if stored[-1].data.get("code") != "INTERRUPTED":  # else a crash may have taken a retry
            told.requests = 1 + sum(event.type == "retry" for event in stored)
        wrong = [*dishonesty(stored, answer_to(self._seed, told.question), told.earlier)]
        for viewer in viewers:
            viewer.wait_for(lambda viewer: viewer.has_end, PATIENCE)
            wrong += [*viewer.faults[:1], *mismatches(viewer, stored)]
        for fault in wrong:
            self._fault(Wrong.MISMATCH, told, fault)
        kills = [kill for kill in self._kills if kill > told.asked_at]
        if gone := lost(viewers, stored, kills):
            self._fault(Wrong.LOST, told, gone)
        self._count(viewers)
        self._figures.count(_ending(stored[-1].data))
        return stored

    def _leave_deleted(self, told: Told, viewers: Sequence[Viewer]) -> None:
        for viewer in viewers:
            viewer.leave()
            for fault in viewer.faults[:1]:
                self._fault(Wrong.MISMATCH, told, fault)
        self._count(viewers)
        self._figures.count("deleted with their chat")

    def _stored(self, told: Told) -> list[Received]:
        """All events of a run, once it has ended: read in one go, from the first to the end."""
        deadline = monotonic() + PATIENCE
        while True:
            with suppress(httpx.TransportError, AssertionError):  # AssertionError: not 200
                events = self.person.events(told.run)
                if events and events[-1].type in ("done", "error"):
                    # A crash may have happened meanwhile: then the log started over.
                    start = max(at for at, event in enumerate(events) if event.number == 1)
                    return events[start:]
            assert monotonic() < deadline, f"run {told.id} has no end after {PATIENCE:g} s"
            threading.Event().wait(RETURN)

    def _count(self, viewers: Sequence[Viewer]) -> None:
        figures = self._figures
        figures.count("viewers", len(viewers))
        figures.count("of these polling", sum(polls(viewer) for viewer in viewers))
        figures.count("events seen", sum(len(viewer.shown) for viewer in viewers))
        figures.count(
            "returns of viewers cut off",
            sum(max(0, viewer.connections - 1) for viewer in viewers if not polls(viewer)),
        )

    def _fault(self, wrong: Wrong, told: Told, text: str) -> None:
        self._figures.fault(wrong, f"run {told.id}, {told.question!r}: {text}")


def _is_cut_off(answer: httpx.Response) -> bool:
    """Whether this is what uvicorn itself says to a request that is not over when its patience with
    a shutdown is. (What fails inside llmchat is found in its log.)"""
    return answer.status_code == 500 and answer.text == "Internal Server Error"


def _ending(end: dict[str, Any]) -> str:
    if end["type"] == "done":
        return "stopped" if end["stopped"] else "done"
    return "interrupted" if end["code"] == "INTERRUPTED" else "error"
