"""F16: at SIGTERM runs finish in the grace time or keep all their text, and viewers get it all."""

import signal
import threading
from contextlib import ExitStack
from time import monotonic
from typing import Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.faults import stored
from tests.people import Person
from tests.servers.balancer import Balancer
from tests.servers.processes import Process
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send, until
from tests.servers.sites import ADMIN, PASSWORD, Server, Site, daphne, uvicorn
from tests.servers.viewers import Viewer

GRACE = 3.0  # s
MARGIN = 5.0  # s
WORDS = [f"wörd{index} " for index in range(40)]
TEXT = "".join(WORDS)
RUNS, VIEWERS_EACH = 10, 5
RETURN = 0.05  # s between two tries
REFUSED = 503  # also for what is refused before it gets an answer


def status_of_send(person: Person, chat: str, key: str) -> int:
    """What a send comes to."""
    try:
        answer = person.send(
            chat, f"/demo echo {key}", configuration_id="demo", idempotency_key=key
        )
    except httpx.TransportError:
        return REFUSED
    assert answer.status_code != REFUSED or int(answer.headers["Retry-After"]) > 0
    return answer.status_code


@pytest.mark.contract("F16")
@pytest.mark.contract("D2")
@pytest.mark.parametrize("server", [daphne, uvicorn])
def test_runs_finish_in_the_grace_or_keep_their_text_and_viewers_get_all_of_it(
    sqlite_site: Site, provider: Provider, server: Server
):
    site = {**sqlite_site, "SHUTDOWN_GRACE": str(GRACE), "RUNS_PER_USER": "100"}
    with ExitStack() as people:
        with server(site) as (process, url):
            admin = people.enter_context(Person(url, ADMIN, PASSWORD))
            address = [admin]
            viewers = []
            for number in range(RUNS):
                if number % 2:
                    provider.reply(*openai_answer(*WORDS, pause=0.05))
                else:
                    provider.reply(head(), *[send(openai_chunk(word)) for word in WORDS], hang())
                run = admin.ask(admin.new_chat(), f"question {number}")
                provider.wait_for_request(number + 1)  # it gets this script
                viewers += [Viewer(lambda: address[0], run) for _ in range(VIEWERS_EACH)]
            for viewer in viewers:
                viewer.wait_for(lambda viewer: len(viewer.text) > 20)
            chat = admin.new_chat()
            stopped_at = monotonic()
            process.send_signal(signal.SIGTERM)
            while status_of_send(admin, chat, uuid4().hex) != REFUSED:
                assert monotonic() - stopped_at < 1
            assert status_of_send(admin, chat, uuid4().hex) == REFUSED
            code = process.end()
            assert monotonic() - stopped_at < GRACE + MARGIN
            assert code == 0 or (server is uvicorn and code == -signal.SIGTERM)
            for request in provider.requests:
                request.wait_for_close(1)
        with server(site) as (_, url):
            address[0] = people.enter_context(admin.at(url))
            for number, viewer in enumerate(viewers):
                end = viewer.wait_for_end()[-1]
                assert viewer.text == TEXT
                finishes = number // VIEWERS_EACH % 2
                assert end.data.get("code", end.type) == ("done" if finishes else "INTERRUPTED")
                assert viewer.events == address[0].events(viewer.run)
            assert stored.faults(site, address[0]) == []
    assert len(provider.requests) == RUNS


class Sender:
    """Asks one question after another, each in a chat of its own and as often as it takes."""

    def __init__(self, person: Person) -> None:
        self.sent: list[str] = []  # keys
        self._person = person
        self._is_done = threading.Event()
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._send, name="sender", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_left.set()  # a test that fails does not wait for the last one
        self.finish()

    def finish(self) -> list[str]:
        """Waits until the last question has its run; the keys of all."""
        self._is_done.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.sent

    def _send(self) -> None:
        while not self._is_done.is_set():
            chat = self._new_chat()
            self.sent.append(uuid4().hex)
            while not self._has_left.is_set():
                if status_of_send(self._person, chat, self.sent[-1]) in (200, 201):
                    break
                self._has_left.wait(RETURN)

    def _new_chat(self) -> str:
        while not self._has_left.is_set():
            try:
                return self._person.new_chat()
            except httpx.TransportError:
                self._has_left.wait(RETURN)
        return ""


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port


@pytest.mark.contract("F16")
@pytest.mark.contract("D3")
@pytest.mark.timeout(120)
def test_a_rolling_deploy_loses_nothing_and_doubles_nothing(shared_site: Site, provider: Provider):
    site = {**shared_site, "SHUTDOWN_GRACE": "10", "RUNS_PER_USER": "1000"}
    questions = [f"question {number}" for number in range(6)]
    go_on = threading.Event()
    processes: list[tuple[Process, int]] = []
    with ExitStack() as stack:

        def start() -> None:
            process, url = stack.enter_context(uvicorn(site))
            processes.append((process, port_of(url)))

        start()
        start()
        balancer = stack.enter_context(Balancer(*(port for _, port in processes)))
        admin = stack.enter_context(Person(balancer.url, ADMIN, PASSWORD))
        viewers = []
        for question in questions:
            rest = openai_answer(*WORDS, *WORDS, pause=0.06)[1:]
            provider.reply(head(), send(openai_chunk("begun ")), until(go_on), *rest)
            run = admin.ask(admin.new_chat(), question)
            viewers += [Viewer(lambda: admin, run) for _ in range(3)]
        for viewer in viewers:
            viewer.wait_for(lambda viewer: viewer.text == "begun ")
        sender = stack.enter_context(Sender(admin))
        for _ in range(2):
            start()
            old, _ = processes.pop(0)
            balancer.ports = [port for _, port in processes]
            # However long the start took, the answers go on for 5 s now. Those who follow them at
            # the old process are cut off after 2 s.
            go_on.set()
            old.send_signal(signal.SIGTERM)
            assert old.end() in (0, -signal.SIGTERM)
        for viewer in viewers:
            assert viewer.wait_for_end()[-1].type == "done"
            assert viewer.text == "begun " + TEXT + TEXT
            assert viewer.events == admin.events(viewer.run)
        assert max(viewer.connections for viewer in viewers) > 1  # else this would show nothing
        keys = sender.finish()
        stored.wait_for_ends(site, 5)
        assert stored.faults(site, admin) == []
    prompts = [prompt for (prompt,) in stored.rows(site, PROMPTS)]
    assert sorted(prompts) == sorted([*questions, *(f"/demo echo {key}" for key in keys)])
    assert len(stored.runs(site)) == len(prompts)
    assert len(provider.requests) == len(questions)


PROMPTS = "SELECT content FROM conversations_message WHERE role = 'user'"
