"""Over real sockets: an in-process transport would raise the exception into the test instead."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.servers.processes import Process, running

COMMANDS = {
    "daphne": ["-m", "daphne", "-p", "0"],
    "uvicorn": ["-m", "uvicorn", "--port", "0"],
}


@pytest.fixture(params=list(COMMANDS))
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Process, httpx.Client]]:
    with running(*COMMANDS[request.param], "tests.llmchat.toy:application") as process:
        port = process.wait_for(r"(?:Listening|running) on .*127\.0\.0\.1:(\d+)")[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield process, client


def test_a_response_that_fails_half_way_ends_and_is_logged(
    server: tuple[Process, httpx.Client],
) -> None:
    process, client = server
    assert client.get("/middle").text == "begun"
    process.wait_for("A response failed half-way: /middle")
    process.wait_for("the toy failed in the middle")


def test_the_server_goes_on_after_responses_that_failed(
    server: tuple[Process, httpx.Client],
) -> None:
    process, client = server
    for path in ["/middle", "/late"]:
        client.get(path)
        process.wait_for(f"A response failed half-way: {path}")
    # Reporting these is what daphne no longer does once an exception broke its loop.
    for _ in range(2):
        assert client.get("/early").status_code == 500
        process.wait_for("the toy failed early")
    assert client.get("/").text == "begun ended"


def test_a_failure_after_the_end_sends_nothing_more(
    server: tuple[Process, httpx.Client],
) -> None:
    process, client = server
    assert client.get("/late").text == "begun ended"
    process.wait_for("the toy failed late")
    assert client.get("/").text == "begun ended"
    assert not any(re.search("already|Unexpected ASGI message", line) for line in process.said)
