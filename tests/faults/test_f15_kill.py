"""F15: kill -9 at any moment takes nothing that a viewer has had for a quarter of a second (G3)."""

import signal
import threading
from random import Random
from time import monotonic
from uuid import uuid4

import httpx
import pytest

from tests.faults import stored
from tests.faults.stored import SHOWN_IS_STORED, lost
from tests.people import Person, text_of
from tests.servers.processes import Process
from tests.servers.provider import Provider, Step, hang, head, openai_answer, openai_chunk, send
from tests.servers.sites import ADMIN, PASSWORD, Site, daphne, uvicorn
from tests.servers.viewers import Viewer

SEEDS = (1, 2, 3, 4, 5)  # `make soak` goes on from here
RECOVERED = 15.0  # s from the start of the next process
BY_ANOTHER = 60.0  # s
WORDS = [f"wörd{index} " for index in range(60)]
QUESTIONS = """
    SELECT message.content, count(DISTINCT message.id), count(run.id)
    FROM conversations_message message
    LEFT JOIN conversations_run run ON run.user_message_id = message.id
    WHERE message.role = 'user' GROUP BY message.content
"""


class Sender:
    """Sends one question after another, each in a chat of its own, until an answer is lost."""

    def __init__(self, person: Person) -> None:
        self.sent: list[tuple[str, str]] = []  # chat, key
        self._person = person
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _send(self) -> None:
        try:
            while True:
                self.sent.append((self._person.new_chat(), uuid4().hex))
                assert ask_demo(self._person, *self.sent[-1]).status_code == 201
        except httpx.TransportError:
            return


def ask_demo(person: Person, chat: str, key: str) -> httpx.Response:
    return person.send(chat, f"/demo echo {key}", configuration_id="demo", idempotency_key=key)


class Life:
    """One life of the server: some runs and who watches them, some sends, and the kill."""

    def __init__(self, admin: Person, provider: Provider, seed: int) -> None:
        self.seed = seed
        self.viewers: list[Viewer] = []
        self.senders: list[Sender] = []
        self._admin = admin
        self._random = Random(seed)
        provider.clear()
        for script in self._scripts():
            provider.reply(*script)
            question = f"question {uuid4()}"
            run = admin.ask(admin.new_chat(), question, configuration_id="double")
            self.viewers.append(Viewer(lambda: admin, run))
            provider.wait_for_request(len(self.viewers))  # it gets this script

    def _scripts(self) -> list[list[Step]]:
        """Answers that are at different points when the kill comes."""
        fast, slow, slower = (self._random.uniform(least, 0.1) for least in (0.0, 0.03, 0.06))
        some = WORDS[: self._random.randint(1, len(WORDS))]
        return [
            [head(), hang()],
            openai_answer(*WORDS, pause=slower),
            openai_answer(*WORDS, pause=slow),
            openai_answer(*WORDS, pause=fast),
            openai_answer(*WORDS),
            [head(), *[send(openai_chunk(word)) for word in some], hang()],
        ]

    def end(self, process: Process, provider: Provider) -> None:
        if self.seed % 2:  # not always: each send that ends has the others' text stored with it
            self.senders = [Sender(self._admin) for _ in range(2)]
        threading.Event().wait(self._random.uniform(0, 0.6))
        self.killed_at = monotonic()
        process.send_signal(signal.SIGKILL)
        process.end()
        for viewer in self.viewers:
            viewer.leave()
        for sender in self.senders:
            sender.wait()
        assert len(provider.requests) == len(self.viewers)

    def check(self, admin: Person, started_at: float) -> None:
        """In the next life, whose process was started at `started_at`."""
        for viewer in self.viewers:
            events = admin.events(viewer.run)
            assert monotonic() - started_at < RECOVERED
            shown = viewer.shown_by(self.killed_at - SHOWN_IS_STORED)
            assert lost(shown, events) == [], f"seed {self.seed}"
            assert "".join(WORDS).startswith(text_of(events))
            if viewer.has_end:
                assert events == viewer.events
            else:
                assert events[-1].data["code"] == "INTERRUPTED"
                assert events[-1].data["recoverable"] is True
        for sender in self.senders:
            for chat, key in sender.sent:
                answer = ask_demo(admin, chat, key)
                assert answer.status_code in (200, 201), answer.text
                admin.events(answer.json())


def signed_in(before: Person | None, url: str) -> Person:
    return before.at(url) if before else Person(url, ADMIN, PASSWORD)


@pytest.fixture(params=["sqlite_site", "postgres_site"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return {**found, "RUNS_PER_USER": "1000", "STREAMS_PER_USER": "1000"}


@pytest.mark.contract("F15")
@pytest.mark.contract("D2")
@pytest.mark.timeout(180)
def test_kills_at_random_moments_lose_nothing_and_double_nothing(site: Site, provider: Provider):
    admin: Person | None = None
    lives: list[Life] = []
    for seed in (*SEEDS, None):
        started_at = monotonic()
        server = daphne if seed and seed % 2 else uvicorn
        with server(site) as (process, url), signed_in(admin, url) as admin:
            before = lives[-1] if lives else None
            if seed is not None:
                lives.append(Life(admin, provider, seed))
            if before:
                before.check(admin, started_at)  # and meanwhile the new runs are written
            if seed is not None:
                lives[-1].end(process, provider)
            else:
                assert stored.faults(site, admin) == []
    keys = [key for life in lives for sender in life.senders for _, key in sender.sent]
    asked = {question: counts for question, *counts in stored.rows(site, QUESTIONS)}
    assert [key for key in keys if asked[f"/demo echo {key}"] != [1, 1]] == []
    assert len(asked) == len(keys) + sum(len(life.viewers) for life in lives)


@pytest.mark.contract("F15")
def test_with_the_settings_as_they_come_it_is_ended_in_time_and_can_be_continued_or_asked_again(
    sqlite_site: Site, provider: Provider
):
    site = {**sqlite_site, "LEASE_DURATION": "", "HEARTBEAT_INTERVAL": ""}
    provider.reply(head(), send(openai_chunk("It was a dark ")), hang())
    with daphne(site) as (process, url), Person(url, ADMIN, PASSWORD) as admin:
        chat = admin.new_chat()
        run = admin.ask(chat, "tell me")
        viewer = Viewer(lambda: admin, run)
        viewer.wait_for(lambda viewer: viewer.text != "")
        while not text_of(viewer.shown_by(monotonic() - SHOWN_IS_STORED)):
            admin.get("/healthz")
        process.send_signal(signal.SIGKILL)
        process.end()
        viewer.leave()
    started_at = monotonic()
    with daphne(site) as (_, url), admin.at(url) as admin:
        events = admin.events(run)
        assert monotonic() - started_at < RECOVERED
        assert (text_of(events), events[-1].data["code"]) == ("It was a dark ", "INTERRUPTED")
        page = admin.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text
        for verb, message, text in (
            (
                "continue",
                events[-1].data["assistant_message_id"],
                "It was a dark and stormy night.",
            ),
            ("retry", run["user_message_id"], "and stormy night."),
        ):
            assert f'hx-post="/messages/{message}/{verb}/"' in page
            provider.reply(*openai_answer("and stormy night."))
            started = admin.post(f"/messages/{message}/{verb}/")
            assert started.status_code == 201, started.text
            assert text_of(admin.events(started.json())) == text
        assert stored.faults(site, admin) == []
    assert len(provider.requests) == 3


@pytest.mark.contract("F15")
@pytest.mark.contract("D3")
def test_another_process_ends_what_a_killed_one_was_writing_and_its_viewers_see_it(
    shared_site: Site, provider: Provider
):
    site = {**shared_site, "LEASE_DURATION": ""}
    count = 5
    for pause in range(1, count + 1):
        provider.reply(*openai_answer(*WORDS, *WORDS, *WORDS, pause=pause / 50))
    with (
        uvicorn(site) as (process, first),
        uvicorn(site) as (_, second),
        Person(first, ADMIN, PASSWORD) as here,
        here.at(second) as there,
    ):
        address = [here]
        runs = [here.ask(here.new_chat(), f"question {index}") for index in range(count)]
        moving = [Viewer(lambda: address[0], run) for run in runs]
        staying = [Viewer(lambda: there, run) for run in runs]
        for viewer in moving + staying:
            viewer.wait_for(lambda viewer: len(viewer.events) > 5)
        killed_at = monotonic()
        process.send_signal(signal.SIGKILL)
        address[0] = there
        for viewer in moving + staying:
            events = viewer.wait_for_end(BY_ANOTHER)
            assert events[-1].data["code"] == "INTERRUPTED"
            assert events == there.events(viewer.run)
            assert lost(viewer.shown_by(killed_at - SHOWN_IS_STORED), events) == []
        assert monotonic() - killed_at < BY_ANOTHER
        assert stored.faults(site, there) == []
    assert len(provider.requests) == count
