"""llmchat as people run it: in a process, killed, stopped, started again (D2, F15, F16)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.llmchat.processes import ROOT, Process, running
from tests.people import Person, Received, text_of
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send

PASSWORD = "correct horse battery staple"
CONFIGURATION = """
[[configuration]]
slug = "double"
name = "Double"
kind = "openai"
model = "m"
base_url = "{url}"
api_key = "sk-0123456789"
is_default = true
"""


@pytest.fixture
def site(tmp_path: Path, provider: Provider) -> dict[str, str]:
    """The environment of a site that is set up: a database, an administrator, a provider."""
    file = tmp_path / "configurations.toml"
    file.write_text(CONFIGURATION.format(url=provider.url))
    environment = {
        "DATA_DIR": str(tmp_path / "data"),
        "DJANGO_SETTINGS_MODULE": "llmchat.settings",
        "DEBUG": "true",  # static files straight from the sources
        "ADMIN_PASSWORD": PASSWORD,
        "CONFIGURATIONS_FILE": str(file),
        "OLLAMA_HOST": "http://127.0.0.1:9",
        "SHUTDOWN_GRACE": "2",
        "LEASE_DURATION": "2",
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
def daphne(environment: dict[str, str]) -> Iterator[tuple[Process, str]]:
    with running("manage.py", "serve", "--port", "0", **environment) as process:
        said = process.wait_for(r"llmchat is running at (http://localhost:\d+)/")
        yield process, said[1]


@contextmanager
def uvicorn(environment: dict[str, str]) -> Iterator[tuple[Process, str]]:
    options = ["--port", "0", "--timeout-graceful-shutdown", "5"]
    with running("-m", "uvicorn", "llmchat.asgi:application", *options, **environment) as process:
        said = process.wait_for(r"running on (http://127.0.0.1:\d+)")
        yield process, said[1]


Server = Callable[[dict[str, str]], AbstractContextManager[tuple[Process, str]]]
servers = pytest.mark.parametrize("server", [daphne, uvicorn])


def read_until(person: Person, run: dict[str, Any], text: str) -> list[Received]:
    """Follows a run until its text so far is `text`."""
    received: list[Received] = []
    with person.follow(run["events_url"]) as events:
        for event in events:
            received.append(event)
            if text_of(received) == text:
                return received
    raise AssertionError(f"the run ended with {text_of(received)!r}")


@servers
def test_a_question_is_answered(site: dict[str, str], provider: Provider, server: Server):
    provider.reply(*openai_answer("Hello", " there", pause=0.02))
    with server(site) as (_, url), Person(url, "admin", PASSWORD) as admin:
        events = admin.events(admin.ask(admin.new_chat(), "hi"))
        assert text_of(events) == "Hello there"
        assert events[-1].type == "done"
        assert admin.get("/healthz").json() == {"status": "ok"}


@servers
@pytest.mark.contract("F15")
@pytest.mark.timeout(90)
def test_what_was_read_survives_a_kill_and_the_run_ends_interrupted(
    site: dict[str, str], provider: Provider, server: Server
):
    words = [f"word{index} " for index in range(30)]
    provider.reply(head(), *[send(openai_chunk(word)) for word in words], hang())
    with server(site) as (process, url), Person(url, "admin", PASSWORD) as admin:
        run = admin.ask(admin.new_chat(), "hi")
        seen = read_until(admin, run, "".join(words))
        read_at = time.monotonic()
        while time.monotonic() - read_at < 0.25:  # what G3 promises, measured from the reading
            admin.get("/healthz")
        process.send_signal(signal.SIGKILL)
        process.end()
    with server(site) as (_, url), Person(url, "admin", PASSWORD) as admin:
        started_at = time.monotonic()
        events = admin.events(run)
        assert time.monotonic() - started_at < 15
        assert events[: len(seen)] == seen
        assert text_of(events) == "".join(words)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].data["code"] == "INTERRUPTED"
        assert events[-1].data["recoverable"] is True
        rest = admin.events(run, last_event_id=seen[-1].id)
        assert [event.type for event in rest] == ["error"]
        provider.reply(*openai_answer("again"))
        again = admin.post(f"/messages/{run['user_message_id']}/retry/").json()
        assert text_of(admin.events(again)) == "again"


@servers
@pytest.mark.contract("F16")
def test_at_sigterm_runs_get_time_to_finish(
    site: dict[str, str], provider: Provider, server: Server
):
    provider.reply(*openai_answer(*["x"] * 20, pause=0.05))
    with server(site) as (process, url), Person(url, "admin", PASSWORD) as admin:
        run = admin.ask(admin.new_chat(), "hi")
        with admin.follow(run["events_url"]) as events:
            received = [next(events) for _ in range(4)]
            process.send_signal(signal.SIGTERM)
            received += list(events)
        assert received[-1].type == "done"
        assert text_of(received) == "x" * 20
        assert process.end() in (0, -signal.SIGTERM)


@servers
@pytest.mark.contract("F16")
def test_after_the_grace_runs_end_interrupted_with_all_their_text(
    site: dict[str, str], provider: Provider, server: Server
):
    provider.reply(head(), send(openai_chunk("kept")), hang())
    with server(site) as (process, url), Person(url, "admin", PASSWORD) as admin:
        run = admin.ask(admin.new_chat(), "hi")
        read_until(admin, run, "kept")
        stopped_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.end() in (0, -signal.SIGTERM)
        assert time.monotonic() - stopped_at < 2 + 5
        provider.wait_for_request().wait_for_close(1)
    with server(site) as (_, url), Person(url, "admin", PASSWORD) as admin:
        events = admin.events(run)
        assert text_of(events) == "kept"
        assert events[-1].data["code"] == "INTERRUPTED"
