"""F14: Redis and PostgreSQL are restarted under two processes that serve; nothing is lost.

What the viewers of one process cost the other is in `test_bounds`.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import OperationalError

from conversations import journal
from providers.models import Configuration
from tests.faults import stored
from tests.faults.checks import check_runs
from tests.people import Person, text_of
from tests.servers.postgres import NoPostgres, PostgresServer
from tests.servers.provider import Provider, head, openai_answer, openai_chunk, send, until
from tests.servers.redis import RedisServer
from tests.servers.sites import Site, Sites, two_processes
from tests.servers.viewers import Viewer

HEALED = 5.0  # s after its return
OUTAGE = 8.0  # s; long enough for pauses between tries to have grown, if they do
WORDS = [f"wörd{index} " for index in range(100)]
TEXT = "".join(WORDS)
BEGUN = "".join(WORDS[:20])
CONNECTIONS = """
    SELECT state, now() - state_change > interval '1 s' FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that may be stopped."""
    try:
        server = PostgresServer()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture(scope="module")
def own_sites(
    own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sites]:
    with Sites(tmp_path_factory.mktemp("sites")) as sites:
        yield sites


@pytest.fixture
def own_site(
    own_sites: Sites, own_postgres: PostgresServer, redis: RedisServer, provider: Provider
) -> Iterator[Site]:
    """A fresh site for several processes, both of whose servers are the test's own."""
    with own_sites.on_postgres(provider.url, own_postgres.url, redis.url) as site:
        yield site


class Answers:
    """Runs of one process, some of which get the rest of their text when `go_on` is set, and some
    word by word over several seconds; each with a viewer there and one at the other process."""

    def __init__(self, here: Person, there: Person, provider: Provider) -> None:
        self.go_on = threading.Event()
        self.at_once: list[Viewer] = []
        self.slow: list[Viewer] = []
        for number in range(4):
            if number % 2:
                provider.reply(*openai_answer(*WORDS, pause=0.08))
            else:
                begin, *rest = openai_answer(BEGUN, *WORDS[20:])
                provider.reply(begin, rest[0], until(self.go_on), *rest[1:])
            run = here.ask(here.new_chat(), f"question {number}")
            viewers = self.slow if number % 2 else self.at_once
            viewers += [Viewer(lambda: here, run), Viewer(lambda: there, run)]
        for viewer in self.all:
            viewer.wait_for(lambda viewer: viewer.text.startswith(BEGUN))

    @property
    def all(self) -> list[Viewer]:
        return self.at_once + self.slow

    def check(self, here: Person) -> None:
        for viewer in self.all:
            events = viewer.wait_for_end()
            assert (events[-1].type, viewer.text) == ("done", TEXT)
            assert events == here.events(viewer.run)


@pytest.mark.contract("F14")
@pytest.mark.contract("D3")
def test_a_run_of_one_process_is_followed_live_and_resumed_at_the_other(
    shared_site: Site, provider: Provider
):
    go_on = threading.Event()
    provider.reply(head(), send(openai_chunk("begun ")), until(go_on), *openai_answer(*WORDS)[1:])
    with two_processes(shared_site) as (here, there):
        run = here.ask(here.new_chat(), "hi")
        seen = []
        with there.follow(run["events_url"]) as events:
            for event in events:
                seen.append(event)
                if event.type == "chunk":
                    break
        go_on.set()
        rest = here.events(run, last_event_id=seen[-1].id)
        assert text_of(seen + rest) == "begun " + TEXT
        assert there.events(run) == here.events(run) == seen + rest
        assert there.events(run, last_event_id=seen[-1].id) == rest
    assert len(provider.requests) == 1


@pytest.mark.contract("F14")
@pytest.mark.contract("G8")
@pytest.mark.timeout(120)
def test_while_postgresql_is_away_runs_go_on_and_its_return_heals_everything(
    own_site: Site, provider: Provider, own_postgres: PostgresServer
):
    with two_processes(own_site) as (here, there), ThreadPoolExecutor(30) as threads:
        answers = Answers(here, there, provider)
        chats = {here: here.new_chat(), there: there.new_chat()}
        own_postgres.stop("fast")
        answers.go_on.set()
        stopped_at = monotonic()
        while monotonic() - stopped_at < OUTAGE:
            health = [threads.submit(person.get, "/healthz") for person in chats]
            sends = [threads.submit(ask_demo, person, chat) for person, chat in chats.items()]
            for refused in [future.result() for future in sends]:
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "STORAGE_UNAVAILABLE"
                assert int(refused.headers["Retry-After"]) > 0
            assert [future.result().status_code for future in health] == [503, 503]
        assert not any(viewer.has_end for viewer in answers.at_once)
        own_postgres.start()
        deadline = monotonic() + HEALED
        while any(person.get("/healthz").status_code != 200 for person in chats):
            assert monotonic() < deadline
        for viewer in answers.at_once:
            viewer.wait_for_end(deadline - monotonic())
        # No connection of the pools is left from before.
        pages = [threads.submit(person.get, f"/chat/{chats[person]}/") for person in [here] * 20]
        assert {future.result().status_code for future in pages} == {200}
        answers.check(here)
        for person, chat in chats.items():
            here.events(ask_demo(person, chat).json())
        assert stored.faults(own_site, here) == []
        assert len(stored.runs(own_site)) == 4 + 2
        with psycopg.connect(own_site["DATABASE_URL"]) as connection:
            states = connection.execute(CONNECTIONS).fetchall()
        assert [state for state, is_old in states if is_old and state != "idle"] == []
    assert len(provider.requests) == 4


def ask_demo(person: Person, chat: str) -> Any:
    return person.send(chat, "/demo echo x", configuration_id="demo", idempotency_key=chat)


@pytest.mark.contract("F14")
def test_a_crash_of_postgresql_loses_nothing(
    own_site: Site, provider: Provider, own_postgres: PostgresServer
):
    with two_processes(own_site) as (here, there):
        answers = Answers(here, there, provider)
        own_postgres.stop("immediate")
        answers.go_on.set()
        own_postgres.start()
        deadline = monotonic() + HEALED
        for viewer in answers.at_once:
            viewer.wait_for_end(deadline - monotonic())
        answers.check(here)
        assert stored.faults(own_site, here) == []
    assert len(provider.requests) == 4


@pytest.mark.contract("F14")
def test_redis_that_comes_back_empty_costs_readers_of_another_process_nothing(
    own_site: Site, provider: Provider, redis: RedisServer
):
    with two_processes(own_site) as (here, there):
        answers = Answers(here, there, provider)
        redis.stop()
        answers.go_on.set()
        redis.start()
        deadline = monotonic() + HEALED
        for viewer in answers.at_once:
            viewer.wait_for_end(deadline - monotonic())
        assert {person.get("/healthz").status_code for person in (here, there)} == {200}
        answers.check(here)
        assert stored.faults(own_site, here) == []


@pytest.mark.contract("F14")
@pytest.mark.contract("G1")
@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_commit_of_which_nobody_heard_is_made_once(
    ada: Person,
    openai: Configuration,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    at_the_end: bool,
):
    original = journal._store
    is_cut, was_cut = threading.Event(), threading.Event()

    def store(worker: Any, lease: float, writes: Any) -> Any:
        results = original(worker, lease, writes)
        if is_cut.is_set() and not was_cut.is_set() and (writes[0].closing or not at_the_end):
            was_cut.set()
            raise OperationalError("the connection was closed")
        return results

    monkeypatch.setattr(journal, "_store", store)
    provider.reply(*openai_answer(*WORDS[:40], pause=0.02))
    run = ada.ask(ada.new_chat(), "hello")
    with ada.follow(run["events_url"]) as events:
        received = [next(events) for _ in range(5)]
        is_cut.set()
        received += events
    assert was_cut.is_set()
    assert (received[-1].type, text_of(received)) == ("done", "".join(WORDS[:40]))
    assert ada.events(run) == received
    check_runs(provider)
