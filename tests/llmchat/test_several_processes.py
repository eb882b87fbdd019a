"""Two processes behind one database and one Redis: it does not matter which one is asked (D3)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.llmchat.processes import ROOT, Process
from tests.llmchat.test_whole_process import CONFIGURATION, PASSWORD, read_until, uvicorn
from tests.people import Person, text_of
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send, wait
from tests.servers.redis import RedisServer

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432")


def has_postgres() -> bool:
    try:
        psycopg.connect(f"{POSTGRES}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not RedisServer.is_installed(), reason="redis-server is not installed"),
    pytest.mark.skipif(not has_postgres(), reason="no PostgreSQL answers at TEST_POSTGRES_URL"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty database, which goes with the test."""
    name = f"llmchat_{uuid4().hex}"
    with psycopg.connect(f"{POSTGRES}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield f"{POSTGRES}/{name}"
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, provider: Provider, database: str, redis: RedisServer) -> dict[str, str]:
    file = tmp_path / "configurations.toml"
    file.write_text(CONFIGURATION.format(url=provider.url))
    environment = {
        "DATA_DIR": str(tmp_path / "data"),
        "DJANGO_SETTINGS_MODULE": "llmchat.settings",
        "DATABASE_URL": database,
        "REDIS_URL": redis.url,
        "DEBUG": "true",
        "ADMIN_PASSWORD": PASSWORD,
        "CONFIGURATIONS_FILE": str(file),
        "SHUTDOWN_GRACE": "2",
        "LEASE_DURATION": "3",
        "HEARTBEAT_INTERVAL": "1",
    }
    subprocess.run(
        [sys.executable, "manage.py", "setup"],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return environment


@contextmanager
def two(site: dict[str, str]) -> Iterator[tuple[Process, Person, Person]]:
    """The first process, and the same person at each of the two."""
    with (
        uvicorn(site) as (process, first),
        uvicorn(site) as (_, second),
        Person(first, "admin", PASSWORD) as here,
        Person(second, "admin", PASSWORD) as there,
    ):
        yield process, here, there


@pytest.mark.contract("D3")
def test_a_run_of_one_process_is_followed_live_and_resumed_at_the_other(
    site: dict[str, str], provider: Provider
):
    words = [f"word{index} " for index in range(30)]
    provider.reply(*openai_answer(*words, pause=0.02))
    with two(site) as (_, here, there):
        run = here.ask(here.new_chat(), "hi")
        seen = []
        with there.follow(run["events_url"]) as events:
            for event in events:
                seen.append(event)
                if len(seen) == 10:
                    break
        rest = here.events(run, last_event_id=seen[-1].id)
        assert text_of(seen + rest) == "".join(words)
        assert there.events(run) == here.events(run) == seen + rest
    assert len(provider.requests) == 1


@pytest.mark.contract("F10")
def test_a_stop_at_the_other_process_closes_the_provider(site: dict[str, str], provider: Provider):
    provider.reply(head(), send(openai_chunk("kept")), hang())
    with two(site) as (_, here, there):
        run = here.ask(here.new_chat(), "hi")
        read_until(there, run, "kept")
        asked_at = time.monotonic()
        assert there.stop(run)["stopped"] is True
        assert provider.wait_for_request().wait_for_close() - asked_at < 1
        assert there.stop(run)["stopped"] is False
        end = here.events(run)[-1].data
        assert (end["stopped"], end["full_response"]) == (True, "kept")


@pytest.mark.contract("F10")
def test_without_redis_the_stored_wish_to_stop_is_obeyed(
    site: dict[str, str], provider: Provider, redis: RedisServer
):
    drops = [step for _ in range(200) for step in (send(openai_chunk("x")), wait(0.05))]
    provider.reply(head(), *drops, hang())
    with two(site) as (_, here, there):
        run = here.ask(here.new_chat(), "hi")
        read_until(there, run, "x")
        redis.stop()
        assert there.stop(run)["stopped"] is True
        provider.wait_for_request().wait_for_close(1)


@pytest.mark.contract("F14")
def test_readers_at_the_other_process_lose_nothing_when_redis_comes_back_empty(
    site: dict[str, str], provider: Provider, redis: RedisServer
):
    words = [f"{index} " for index in range(120)]
    provider.reply(*openai_answer(*words, pause=0.03))
    with two(site) as (_, here, there):
        run = here.ask(here.new_chat(), "hi")
        received = []
        with there.follow(run["events_url"]) as events:
            for event in events:
                received.append(event)
                if len(received) == 10:
                    redis.stop()
                    redis.start()
        assert text_of(received) == "".join(words)
        assert [event.number for event in received] == list(range(1, len(received) + 1))


@pytest.mark.contract("F15")
def test_a_run_whose_process_was_killed_is_ended_by_the_other(
    site: dict[str, str], provider: Provider
):
    provider.reply(head(), send(openai_chunk("kept")), hang())
    with two(site) as (process, here, there):
        run = here.ask(here.new_chat(), "hi")
        with there.follow(run["events_url"]) as events:
            received = [next(events) for _ in range(3)]
            process.send_signal(signal.SIGKILL)
            received += list(events)
        assert received[-1].data["code"] == "INTERRUPTED"
        again = there.events(run)
        assert [event.number for event in again] == list(range(1, len(again) + 1))
        # What came within the last quarter of a second may be lost: then the reader started over.
        assert received == again or received[3:] == again
