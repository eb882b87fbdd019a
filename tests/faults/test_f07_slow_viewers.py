"""F7: viewers who read slowly, or not at all. They cost the run, the others and the server nothing
that matters (G4, G7, G8), are dropped after a while, and come back without a loss (S10)."""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest

from tests.people import Person, Received, text_of
from tests.servers.footprint import (
    MIB,
    footprint_at_rest,
    peak_memory,
    wait_until_back,
    warm_up,
)
from tests.servers.processes import Process, running
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
    wait,
)
from tests.servers.sites import PASSWORD, Server, Site, daphne, uvicorn
from tests.servers.sockets import SMALL, BareViewer
from tests.servers.viewers import Viewer

STALL = 1.0  # s
MARGIN = 2.0  # s in which a viewer is dropped after that, and the process has taken note
BUFFER = 256 * 1024  # bytes
SLOW = 15  # viewers
# What the second long answer of a process takes, the first being kept a while.
ANOTHER_RUN = 40 * MIB
WORDS = "word " * 1_600
ANSWER = 5 * MIB // len(WORDS) * WORDS


@contextmanager
def plain_uvicorn(site: Site) -> Iterator[tuple[Process, str]]:
    """uvicorn as it is where there is no C compiler: h11 on asyncio's own loop."""
    options = ["--port", "0", "--http", "h11", "--loop", "asyncio"]
    with running("-m", "uvicorn", "llmchat.asgi:application", *options, **site) as process:
        yield process, process.wait_for(r"running on (http://127.0.0.1:\d+)")[1]


servers = pytest.mark.parametrize("server", [daphne, uvicorn])


@pytest.fixture
def site(sqlite_site: Site) -> Site:
    return {
        **sqlite_site,
        "DJANGO_SETTINGS_MODULE": "tests.servers.lean_settings",
        "LOG_LEVEL": "INFO",
        "VIEWER_STALL": str(STALL),
        "VIEWER_BUFFER": str(BUFFER),
        "STREAMS_PER_USER": str(SLOW + 1),
        "ANSWER_MAX_BYTES": str(8 * MIB),
    }


def long_answer(gate: threading.Event) -> list[Step]:
    """ANSWER in a second and a half, once the gate is open."""
    chunk = openai_chunk(WORDS)
    pieces = [step for _ in range(len(ANSWER) // len(WORDS)) for step in (send(chunk), wait(0.002))]
    finish = [send(openai_chunk(finish="stop")), send(OPENAI_DONE)]
    return [head(), send(openai_chunk("Words: ")), until(gate), *pieces, *finish]


def longest_silence(viewer: Viewer) -> float:
    """Between two chunks. The end takes its time: all of the answer is stored with it."""
    moments = [moment for moment, event in viewer.shown if event.type == "chunk"]
    return max(later - earlier for earlier, later in pairwise(moments[1:]))


def wait_until_dropped(process: Process, run: dict[str, Any], count: int) -> None:
    for _ in range(count):
        process.wait_for(f"a viewer of {run['events_url']} was dropped")


def resumed(admin: Person, run: dict[str, Any], viewer: BareViewer) -> list[Received]:
    """What a viewer has in the end, who comes back after being dropped."""
    viewer.read_to_the_end()
    seen = viewer.events
    return seen + admin.events(run, last_event_id=seen[-1].id)


def check_log(process: Process, drops: int) -> None:
    """Ends the process: it has said one line for each viewer it dropped, and no more about it."""
    process.send_signal(signal.SIGTERM)
    process.end()
    assert len([line for line in process.said if "was dropped" in line]) == drops
    # What it refused, it says too.
    loud = [line for line in process.said if re.search("WARNING|ERROR|Traceback", line)]
    assert [line for line in loud if "WARNING django.request" not in line] == []


@servers
@pytest.mark.contract("F7")
def test_viewers_who_do_not_read_are_dropped_and_the_run_and_the_others_never_notice(
    site: Site, provider: Provider, server: Server
):
    gate = threading.Event()
    provider.reply(*openai_answer("short"))
    provider.reply(*long_answer(gate))
    provider.reply(*long_answer(gate))
    with ExitStack() as stack:
        process, url = stack.enter_context(server(site))
        admin = stack.enter_context(Person(url, "admin", PASSWORD))
        warm_up(admin, admin.ask(admin.new_chat(), "hi"), SLOW)
        gate.set()
        admin.events(admin.ask(admin.new_chat(), "hi"))
        alone, before = peak_memory(process.pid), footprint_at_rest(process.pid, site)
        gate.clear()

        run = admin.ask(admin.new_chat(), "hi")
        slow = [
            stack.enter_context(closing(BareViewer(admin, run, receive_buffer=SMALL)))
            for _ in range(SLOW)
        ]
        for viewer in slow:
            viewer.read_until(b"Words: ")
        other = stack.enter_context(admin.at(url))
        quick = Viewer(lambda: other, run)
        quick.wait_for(lambda viewer: text_of(viewer.events) == "Words: ")
        with closing(BareViewer(admin, run)) as one_more:
            assert one_more.status == 429
        has_left = threading.Event()
        stack.callback(has_left.set)
        trickle = threading.Thread(target=read_bytewise, args=[slow[0], has_left])
        trickle.start()
        gate.set()

        events = quick.wait_for_end()
        ended_at = monotonic()
        assert events[-1].type == "done"
        assert text_of(events) == events[-1].data["full_response"] == "Words: " + ANSWER
        assert longest_silence(quick) < 0.5
        assert peak_memory(process.pid) - alone < ANOTHER_RUN + SLOW * MIB

        wait_until_dropped(process, run, SLOW)
        assert monotonic() - ended_at < STALL + MARGIN
        has_left.set()
        trickle.join()
        other.http.close()
        wait_until_back(process.pid, site, before, memory=ANOTHER_RUN + SLOW * MIB)
        for viewer in slow[:3]:
            assert resumed(admin, run, viewer) == events
        check_log(process, SLOW)


def read_bytewise(viewer: BareViewer, has_left: threading.Event) -> None:
    while viewer.read(1) and not has_left.wait(0.25):
        pass


@pytest.mark.parametrize("server", [daphne, uvicorn, plain_uvicorn])
@pytest.mark.contract("F7")
def test_a_viewer_who_stalls_at_the_end_of_a_stream_is_dropped_too(
    site: Site, provider: Provider, server: Server
):
    provider.reply(*openai_answer("short"))
    provider.reply(*openai_answer(*[WORDS] * 22))
    with server(site) as (process, url), Person(url, "admin", PASSWORD) as admin:
        # A short answer: on a busy machine, the crowd's way with a long one would be in the log.
        warm_up(admin, admin.ask(admin.new_chat(), "hi"), SLOW)
        run = admin.ask(admin.new_chat(), "hi")
        events = admin.events(run)
        before = footprint_at_rest(process.pid, site)
        # The server can give all of it away at once: nothing is left to wait with but the end.
        with closing(BareViewer(admin, run, receive_buffer=SMALL)) as viewer:
            viewer.read_until(b"data: ")
            wait_until_dropped(process, run, 1)
            wait_until_back(process.pid, site, before, memory=16 * MIB)
            assert resumed(admin, run, viewer) == events
        check_log(process, 1)


@servers
@pytest.mark.contract("F7")
def test_a_slow_line_gets_an_event_that_takes_longer_than_the_limit(
    site: Site, provider: Provider, server: Server
):
    provider.reply(*openai_answer(*[WORDS] * 64))
    with server(site) as (process, url), Person(url, "admin", PASSWORD) as admin:
        run = admin.ask(admin.new_chat(), "hi")
        events = admin.events(run)
        last_id = events[-2].id
        pause = threading.Event()
        with closing(BareViewer(admin, run, last_event_id=last_id, receive_buffer=SMALL)) as viewer:
            begun_at = monotonic()
            while viewer.read(8_192):
                pause.wait(0.03)
                if viewer.received.endswith(b"0\r\n\r\n"):
                    break
            assert monotonic() - begun_at > 1.5 * STALL
            assert viewer.events == events[-1:]
        check_log(process, 0)
