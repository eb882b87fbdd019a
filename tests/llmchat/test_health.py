"""`/healthz`: what it says, how soon, and that a database that hangs costs nobody else anything."""

import threading
from time import monotonic

import httpx
import pytest
from django.db import connections
from django.db.utils import OperationalError

from conversations.engine import running_engine
from llmchat import health
from tests.people import Person
from tests.servers.app import AppServer

WELL = {"status": "ok", "database": "ok", "journal": "ok", "journal_lag": 0.0}
SOON = 2.0  # s


def ask(app: AppServer) -> httpx.Response:
    return httpx.get(f"{app.url}/healthz", timeout=10, trust_env=False)


@pytest.mark.contract("M6")
def test_a_healthy_server_says_so_without_a_login(app: AppServer):
    answer = ask(app)
    assert (answer.status_code, answer.json()) == (200, WELL)
    assert "no-store" in answer.headers["Cache-Control"]


class Database:
    """In place of the connection: its question waits, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.questions = 0
        self.is_back = threading.Event()

    def cursor(self):
        self.questions += 1
        self.is_back.wait(20)
        if self.failure:
            raise self.failure
        return connections["default"].cursor()

    def close(self) -> None:
        connections["default"].close()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch):
    database = Database()
    with monkeypatch.context() as patch:
        patch.setattr(health, "connection", database)
        yield database
        database.is_back.set()
        if health._question:
            health._question.exception(20)  # waits


@pytest.mark.contract("M6")
@pytest.mark.contract("G8")
def test_a_database_that_hangs_is_told_in_two_seconds_and_others_do_not_wait(
    app: AppServer, ada: Person, hanging: Database
):
    threads = threading.active_count()
    for _ in range(3):
        asked_at = monotonic()
        answer = ask(app)
        assert monotonic() - asked_at < SOON
        assert answer.status_code == 503
        assert answer.json() == {**WELL, "status": "unavailable", "database": "unreachable"}
        asked_at = monotonic()
        assert ada.get("/help/").status_code == 200
        assert monotonic() - asked_at < 1
    assert hanging.questions == 1  # one waits for all who ask
    assert threading.active_count() <= threads + 3
    hanging.is_back.set()
    assert health._question is not None
    health._question.result(20)
    assert ask(app).json() == WELL


@pytest.mark.contract("M6")
@pytest.mark.contract("G9")
def test_a_failure_is_told_without_its_words(
    app: AppServer, hanging: Database, caplog: pytest.LogCaptureFixture
):
    hanging.failure = OperationalError("no password for user marked-7d1f at db.internal")
    hanging.is_back.set()
    answer = ask(app)
    assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")
    assert "marked-7d1f" not in answer.text + caplog.text


@pytest.mark.contract("M6")
def test_redis_is_asked_where_it_is_used(app: AppServer, settings):
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    answer = ask(app)
    assert answer.status_code == 503
    assert answer.json() == {**WELL, "status": "unavailable", "redis": "unreachable"}


@pytest.mark.contract("M6")
def test_redis_that_answers_is_well(app: AppServer, redis, settings):
    settings.REDIS_URL = redis.url
    assert ask(app).json() == {**WELL, "redis": "ok"}


@pytest.mark.contract("M6")
def test_a_journal_that_falls_behind_is_told(
    app: AppServer, ada: Person, demo, monkeypatch: pytest.MonkeyPatch
):
    engine = running_engine()
    assert engine is not None
    journal = type(engine.journal)
    monkeypatch.setattr(journal, "lag", property(lambda _: 12.3456))
    answer = ask(app)
    assert answer.status_code == 503
    assert answer.json() == {
        **WELL,
        "status": "unavailable",
        "journal": "behind",
        "journal_lag": 12.346,
    }
