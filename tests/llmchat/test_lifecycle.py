import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest

from tests.servers.processes import Process, running

Serve = Callable[..., AbstractContextManager[tuple[Process, str]]]


@contextmanager
def daphne(**environment: str) -> Iterator[tuple[Process, str]]:
    with running(
        "-m", "daphne", "-p", "0", "tests.llmchat.toy:application", **environment
    ) as process:
        port = process.wait_for(r"Listening on TCP address 127\.0\.0\.1:(\d+)")[1]
        process.wait_for("^startup$")  # only now is it ready for signals
        yield process, f"http://127.0.0.1:{port}"


@contextmanager
def uvicorn(**environment: str) -> Iterator[tuple[Process, str]]:
    with running(
        "-m", "uvicorn", "--port", "0", "tests.llmchat.toy:application", **environment
    ) as process:
        yield process, process.wait_for(r"running on (http://127\.0\.0\.1:\d+)")[1]


# uvicorn raises the signal again once it has stopped in order, so it ends with its number.
SERVERS = [pytest.param(daphne, 0, id="daphne"), pytest.param(uvicorn, -15, id="uvicorn")]


@pytest.mark.parametrize(("serve", "exit_code"), SERVERS)
def test_a_server_runs_each_hook_once_and_waits_for_the_last(serve: Serve, exit_code: int) -> None:
    with serve() as (process, url):
        assert httpx.get(url).text == "begun ended"
        process.send_signal(signal.SIGTERM)
        assert process.end() == exit_code
    hooks = [line for line in process.said if line.startswith(("startup", "shutdown"))]
    assert hooks == ["startup", "shutdown begins", "shutdown ends"]


def test_the_hooks_run_under_daphne_while_a_response_is_open() -> None:
    with daphne() as (process, url), httpx.stream("GET", url + "/open") as response:
        assert next(response.iter_bytes()) == b"begun"
        process.send_signal(signal.SIGTERM)
        assert process.end() == 0
    assert "shutdown ends" in process.said


@pytest.mark.parametrize(("serve", "exit_code"), SERVERS)
@pytest.mark.parametrize("how", ["hang", "stubborn"])
def test_a_shutdown_that_takes_too_long_is_given_up(serve: Serve, exit_code: int, how: str) -> None:
    with serve(TOY_SHUTDOWN=how) as (process, _):
        process.send_signal(signal.SIGTERM)
        process.wait_for("given up after 0.5 s")
        if how == "hang" or serve is daphne:  # uvicorn's loop waits for all of its tasks
            assert process.end() == exit_code


@pytest.mark.parametrize(("serve", "exit_code"), SERVERS)
def test_a_shutdown_that_fails_is_logged_and_the_server_ends(serve: Serve, exit_code: int) -> None:
    with serve(TOY_SHUTDOWN="fail") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.end() == exit_code
    assert any("the shutdown of the toy failed" in line for line in process.said)


def test_daphne_ends_when_the_startup_fails() -> None:
    with daphne(TOY_STARTUP="fail") as (process, _):
        process.wait_for("the startup of the toy failed")
        process.end()
    assert "shutdown begins" not in process.said


def test_uvicorn_ends_when_the_startup_fails() -> None:
    with running(
        "-m", "uvicorn", "--port", "0", "tests.llmchat.toy:application", TOY_STARTUP="fail"
    ) as process:
        process.wait_for("the startup of the toy failed")
        assert process.end() == 3
    assert "shutdown begins" not in process.said
