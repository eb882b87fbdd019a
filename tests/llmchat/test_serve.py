import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.servers.processes import Process, running

RUNNING = r"^llmchat is running at (http://localhost:(\d+)/)$"


@contextmanager
def serve(data: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    """`manage.py serve` with the toy as its site."""
    steering = {"DATA_DIR": str(data), "DJANGO_SETTINGS_MODULE": "tests.llmchat.toy_settings"}
    with running("manage.py", "serve", *arguments, **steering, **environment) as process:
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_runs_once_it_does_and_ends_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serve(tmp_path, "--port", "0") as process:
        url = process.wait_for(RUNNING)[1]
        assert "startup" in process.said
        assert httpx.get(url).text == "begun ended"
        process.send_signal(number)
        assert process.end() == 0
    assert process.said[-1] == "shutdown ends"
    assert not any("GET /" in line for line in process.said)


def test_it_serves_ipv6(tmp_path: Path) -> None:
    with serve(tmp_path, "--port", "0", "--host", "::1") as process:
        port = process.wait_for(RUNNING)[2]
        assert httpx.get(f"http://[::1]:{port}/").text == "begun ended"


def test_host_and_port_come_from_the_environment(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serve(tmp_path, HOST="127.0.0.1", PORT=str(port)) as process:
        assert process.wait_for(RUNNING)[2] == str(port)


def test_a_port_in_use_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serve(tmp_path, "--port", str(port)) as process:
            assert process.end() == 1
    expected = rf"CommandError: Port {port} of 127.0.0.1 is in use; .* PORT={port + 1}`\."
    assert re.fullmatch(expected, process.said[-1])
    assert not any("Traceback" in line for line in process.said)


def test_an_address_of_another_machine_is_told_in_one_sentence(tmp_path: Path) -> None:
    with serve(tmp_path, "--host", "192.0.2.1") as process:
        assert process.end() == 1
    assert process.said[-1].startswith("CommandError: Cannot listen on port 8000 of 192.0.2.1: ")
    assert not any("Traceback" in line for line in process.said)


def test_a_start_that_fails_is_told_and_never_announced(tmp_path: Path) -> None:
    with serve(tmp_path, "--port", "0", TOY_STARTUP="fail") as process:
        assert process.end() == 1
    assert process.said[-1].startswith("CommandError: llmchat could not start")
    assert not any(re.search(RUNNING, line) for line in process.said)


def test_migrations_that_are_missing_are_told(tmp_path: Path) -> None:
    with serve(tmp_path, "--port", "0") as process:
        process.wait_for(r"^The database lacks \d+ migrations; run `manage.py migrate`")
        process.wait_for(RUNNING)


def test_a_database_that_cannot_be_opened_is_told_in_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/missing/llmchat.sqlite3"
    with serve(tmp_path, DATABASE_URL=url) as process:
        assert process.end() == 1
    assert process.said[-1].startswith("CommandError: The database cannot be used: ")


def test_the_access_log_is_for_the_curious_and_holds_no_prompt(tmp_path: Path) -> None:
    with serve(tmp_path, "--port", "0", "--verbosity", "2") as process:
        url = process.wait_for(RUNNING)[1]
        httpx.get(url, params={"prompt": "private"})
        line = process.wait_for("GET /").string
    assert "private" not in line
