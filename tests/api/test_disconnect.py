"""A run of the API ends with its client (A3, F8, G4): nothing goes on that nobody waits for."""

import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import httpx
import pytest

from conversations.models import Run, UsageLog
from tests.api.conftest import call
from tests.faults.checks import wait_for_ends, wait_until
from tests.people import Person
from tests.servers.provider import (
    Provider,
    hang,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)
from tests.servers.sites import ADMIN, PASSWORD, Server, Site, daphne, uvicorn

PATH = "/v1/chat/completions"
of_the_double = pytest.mark.usefixtures("openai")


def give_up(http: httpx.Client, body: dict[str, Any], until: Callable[[], Any]) -> float:
    """Calls, waits for something, and hangs up without reading a byte. Gives the moment
    (monotonic)."""
    request = http.build_request("POST", PATH, json=body)
    lines = [f"POST {PATH} HTTP/1.1".encode()]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    with socket.create_connection(("127.0.0.1", request.url.port or 80)) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", request.content]))
        until()
    return monotonic()


def leave_stream(http: httpx.Client, after: bytes) -> float:
    """Reads a stream until it has said this, and goes. Gives the moment (monotonic)."""
    read = b""
    with http.stream("POST", PATH, json=call(stream=True)) as response:
        for data in response.iter_raw(1):
            read += data
            if after in read:
                break
    return monotonic()


@pytest.mark.contract("A3")
@pytest.mark.contract("F8")
@pytest.mark.parametrize("has_text", [False, True], ids=["before its first word", "half-way"])
@of_the_double
def test_a_call_in_one_piece_that_is_given_up_ends_at_the_provider(
    http: httpx.Client, provider: Provider, has_text: bool
):
    pieces = [send(openai_chunk("some words"))] if has_text else []
    provider.reply(head(), *pieces, hang())
    left_at = give_up(http, call(), provider.wait_for_request)
    assert provider.wait_for_close() - left_at < 2
    wait_for_ends()
    usage = UsageLog.objects.get()
    assert usage.status == "stopped"
    assert bool(usage.completion_tokens) is has_text
    assert len(provider.requests) == 1


@pytest.mark.contract("A3")
@pytest.mark.contract("F8")
@pytest.mark.parametrize("after", [b"d", b"19 "], ids=["at once", "half-way"])
@of_the_double
def test_a_stream_that_nobody_reads_any_more_ends_at_the_provider(
    http: httpx.Client, provider: Provider, after: bytes
):
    pieces = [send(openai_chunk(f"{number} ")) for number in range(20)]
    provider.reply(head(), *pieces, hang())
    left_at = leave_stream(http, after)
    assert provider.wait_for_close() - left_at < 2
    wait_for_ends()
    usage = UsageLog.objects.get()
    assert (usage.status, usage.origin) == ("stopped", "api")
    assert usage.completion_tokens


@pytest.mark.contract("F8")
@of_the_double
def test_a_client_that_leaves_before_the_first_byte_leaves_no_run_behind(
    http: httpx.Client, provider: Provider
):
    provider.reply(head(), hang())
    give_up(http, call(stream=True), lambda: wait_until(Run.objects.exists, "the call has arrived"))
    wait_for_ends()
    assert Run.objects.get().status == "stopped"
    for request in provider.requests:  # if it came so far
        request.wait_for_close()


@pytest.mark.contract("G4")
@of_the_double
def test_a_saved_call_goes_on_without_its_client_and_can_be_resumed(
    http: httpx.Client,
    program: Callable[[str], httpx.Client],
    secret: str,
    provider: Provider,
):
    go_on = threading.Event()
    provider.reply(
        head(),
        send(openai_chunk("one ")),
        send(openai_chunk("two ")),
        until(go_on),
        *openai_answer("three")[1:],
    )
    read = b""
    headers = {"X-LLMChat-Save": "true"}
    with http.stream("POST", PATH, json=call(stream=True), headers=headers) as response:
        events = response.headers["X-LLMChat-Events"]
        for data in response.iter_raw():
            read += data
            if b"one " in read:
                break
    http.close()
    go_on.set()
    last = [line for line in read.split(b"\n") if line.startswith(b"id: ")][-1][4:].decode()
    other = program(secret)
    wait_until(
        lambda: Run.objects.get().status != "running", "the run has ended without its client"
    )
    resumed = other.get(events, headers={"Last-Event-ID": last})
    assert resumed.status_code == 200
    told = resumed.text
    assert '"content":"one "' not in told
    assert '"full_response":"one two three"' in told
    assert Run.objects.get().status == "done"


@of_the_double
def test_the_run_of_a_call_that_was_answered_is_left_alone(client: Any, provider: Provider):
    provider.reply(*openai_answer("all of it"))
    client.chat.completions.create(**call())
    run = Run.objects.get()
    assert (run.status, run.stop_requested_at) == ("done", None)


@pytest.mark.contract("A3")
@pytest.mark.parametrize("server", [daphne, uvicorn])
@pytest.mark.parametrize("streams", [False, True], ids=["in one piece", "streamed"])
def test_each_server_tells_when_a_client_has_left(
    sqlite_site: Site, provider: Provider, server: Server, streams: bool
):
    provider.reply(head(), send(openai_chunk("some words")), hang())
    with server(sqlite_site) as (_, url), Person(url, ADMIN, PASSWORD) as admin:
        made = admin.post("/accounts/tokens/", json={"name": "laptop"})
        headers = {"Authorization": f"Bearer {made.json()['token']}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as program:
            left_at = give_up(program, call(stream=streams), provider.wait_for_request)
        assert provider.wait_for_close() - left_at < 2


@of_the_double
def test_a_stream_whose_run_is_deleted_does_not_end_as_if_it_were_whole(
    http: httpx.Client, provider: Provider
):
    provider.reply(head(), send(openai_chunk("some words")), hang())
    read = ""
    with http.stream("POST", PATH, json=call(stream=True)) as response:
        for text in response.iter_text():
            read += text
            if "some words" in text:
                Run.objects.all().delete()
    assert '"code":"NOT_FOUND"' in read
    assert '"finish_reason":"stop"' not in read
    provider.wait_for_close()
