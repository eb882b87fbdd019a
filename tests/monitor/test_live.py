"""The live board: all runs in flight, pushed, for who may see them (M4, R10, G7)."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session

from conversations import board, redis_board, runs
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.models import Run
from conversations.planning import Asked
from conversations.redis_board import RedisRelay
from conversations.views import streams
from providers.models import Configuration
from tests.people import Person, lines_of
from tests.servers.app import AppServer
from tests.servers.processes import ROOT
from tests.servers.provider import Provider, hang, head, openai_chunk, send, until
from tests.servers.redis import RedisServer
from tests.servers.sites import Site, two_processes

DEADLINE = 10.0  # s
EVENTS = "/monitor/live/events/"


class Viewer:
    """One who looks at the board, as its page does: told what changed, it knows what there is."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.runs: dict[str, dict[str, Any]] = {}
        self.ends: dict[str, str] = {}
        self.total = 0
        self.pings = 0
        self._lines = lines_of(response)

    def read(self) -> None:
        """The next line that says something. Raises StopIteration at the end of the stream."""
        line = next(self._lines)
        self.pings += line == ": ping"
        if line.startswith("data: "):
            news = json.loads(line.removeprefix("data: "))
            assert news["type"] == "runs"
            self.total = news["total"]
            if news["whole"]:
                self.runs = {}
            self.runs |= {run["run_id"]: run for run in news["runs"]}
            for end in news["ended"]:
                self.ends[end["run_id"]] = end["status"]
                self.runs.pop(end["run_id"], None)

    def wait_for(self, is_so: Callable[["Viewer"], Any]) -> Any:
        """What `is_so` gives as soon as it is something."""
        deadline = time.monotonic() + DEADLINE
        while not (found := is_so(self)):
            assert time.monotonic() < deadline, (self.runs, self.ends)
            self.read()
        return found

    def wait_for_run(self, run: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """The run, as soon as it has these fields."""

        def has_them(viewer: "Viewer") -> dict[str, Any] | None:
            shown = viewer.runs.get(run["run_id"], {})
            return shown if fields.items() <= shown.items() and shown else None

        found: dict[str, Any] = self.wait_for(has_them)
        return found


@contextmanager
def looking(person: Person) -> Iterator[Viewer]:
    with person.http.stream("GET", EVENTS, headers={"Accept": "text/event-stream"}) as response:
        assert response.status_code == 200, response.status_code
        yield Viewer(response)


def ask(person: Person) -> dict[str, Any]:
    return person.ask(person.new_chat(), "hello")


@pytest.mark.contract("M4")
def test_a_run_is_shown_from_waiting_over_streaming_and_stalled_to_its_end(
    ada: Person, openai: Configuration, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(board, "STALLED_AFTER", 0.5)
    monkeypatch.setattr(board, "INTERVAL", 0.1)
    begin, think, end = threading.Event(), threading.Event(), threading.Event()
    provider.reply(
        head(),
        until(begin),
        send(openai_chunk(reasoning="hm")),
        until(think),
        send(openai_chunk("four words of text")),
        until(end),
    )
    with looking(ada) as viewer:
        viewer.wait_for(lambda viewer: viewer.total == 0)
        run = ask(ada)
        shown = viewer.wait_for_run(run, state="waiting")
        assert shown["user"] == "ada"
        assert (shown["configuration"], shown["model"]) == ("double", "double-1")
        assert (shown["provider"], shown["origin"]) == ("openai", "chat")
        assert shown["process"] == get_engine().journal.worker.hex[:8]
        assert shown["time_to_first_chunk"] is None
        assert shown["characters"] == 0
        begin.set()
        assert viewer.wait_for_run(run, state="thinking")["characters"] == 0
        think.set()
        shown = viewer.wait_for_run(run, state="streaming")
        assert shown["characters"] == len("four words of text")
        assert shown["tokens"] >= 4
        assert 0 < shown["time_to_first_chunk"] <= shown["age"]
        assert shown["tokens_per_second"] > 0
        shown = viewer.wait_for_run(run, state="stalled")
        assert shown["silent"] > 0.5
        assert ada.stop(run)["stopped"] is True
        assert viewer.wait_for(lambda viewer: viewer.ends) == {run["run_id"]: "stopped"}
        assert viewer.total == 0


@pytest.mark.contract("S1")
@pytest.mark.contract("S9")
def test_the_board_is_a_stream_like_the_others_and_pings_while_nothing_happens(ada: Person):
    with looking(ada) as viewer:
        headers = viewer.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-cache"
        assert headers["X-Accel-Buffering"] == "no"
        viewer.wait_for(lambda viewer: viewer.pings == 2)


@pytest.mark.contract("M4")
@pytest.mark.contract("A9")
def test_staff_see_the_runs_of_all_and_others_only_their_own(
    ada: Person, make_person: Callable[..., Person], openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("a")), hang())
    provider.reply(head(), send(openai_chunk("b")), hang())
    bob, chief = make_person("bob"), make_person("chief", is_staff=True)
    of_ada, of_bob = ask(ada), ask(bob)
    with looking(chief) as viewer:
        viewer.wait_for(lambda viewer: {of_ada["run_id"], of_bob["run_id"]} == set(viewer.runs))
        assert viewer.total == 2
    with looking(bob) as viewer:
        viewer.wait_for_run(of_bob, state="streaming")
        assert (set(viewer.runs), viewer.total) == ({of_bob["run_id"]}, 1)
        ada.stop(of_ada)
        bob.stop(of_bob)
        # The end of somebody else's run is not told either.
        assert viewer.wait_for(lambda viewer: viewer.ends) == {of_bob["run_id"]: "stopped"}
    page = bob.get("/monitor/live/", headers={"Accept": "text/html"})
    assert of_ada["run_id"] not in page.text


@pytest.mark.contract("M4")
def test_staff_stop_anybodys_run_and_the_receipt_says_who_it_was(
    ada: Person, make_person: Callable[..., Person], openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("part of it")), hang())
    bob, chief = make_person("bob"), make_person("chief", is_staff=True)
    run = ask(ada)
    ada.read_until(run, "part of it")
    assert bob.post(run["stop_url"]).status_code == 404
    told = chief.stop(run)
    assert told["stopped"] is True
    assert told["receipt"]["stopped_by"] == "chief"
    # The prompt goes back to its writer, not to whoever stopped the run.
    assert "user_prompt" not in told
    provider.wait_for_request().wait_for_close()
    assert ada.events(run)[-1].data["receipt"] == told["receipt"]
    assert Run.objects.get().stop_requested_by == User.objects.get(username="chief")


@pytest.mark.contract("A10")
def test_strangers_see_nothing(app: AppServer):
    with httpx.Client(base_url=app.url, trust_env=False) as stranger:
        assert stranger.get(EVENTS).status_code == 401
        answer = stranger.get("/monitor/live/", headers={"Accept": "text/html"})
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/accounts/login/")


@pytest.mark.contract("R10")
@pytest.mark.parametrize("change", ["signs out", "is staff no more", "is locked out"])
def test_a_viewer_whose_rights_change_is_sent_away(
    make_person: Callable[..., Person], monkeypatch: pytest.MonkeyPatch, change: str
):
    monkeypatch.setattr(streams, "RIGHTS_INTERVAL", 0.2)
    monkeypatch.setattr(board, "INTERVAL", 0.1)
    chief = make_person("chief", is_staff=True)
    with looking(chief) as viewer:
        viewer.wait_for(lambda viewer: viewer.pings)  # asked several times by now
        match change:
            case "signs out":
                Session.objects.all().delete()
            case "is staff no more":
                User.objects.update(is_staff=False)
            case _:
                User.objects.update(is_active=False)
        with pytest.raises(StopIteration):
            viewer.wait_for(lambda viewer: False)


@pytest.mark.contract("G7")
def test_many_viewers_cost_one_look_and_none_when_they_have_left(
    ada: Person, app: AppServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(board, "INTERVAL", 0.2)
    looks: list[float] = []
    real = board._running

    def counted() -> Any:
        looks.append(time.monotonic())
        return real()

    monkeypatch.setattr(board, "_running", counted)
    live = get_engine().board
    with looking(ada) as first, looking(ada) as second, looking(ada) as third:
        viewers = (first, second, third)
        for viewer in viewers:
            viewer.read()
        threads = threading.active_count()
        began, before = time.monotonic(), len(looks)
        for viewer in viewers:
            viewer.wait_for(lambda viewer: viewer.pings)
        passed = time.monotonic() - began
        assert 1 <= len(looks) - before <= passed / 0.2 + 2
        assert threading.active_count() <= threads
        assert streams.open_streams() == 3
    wait_until(lambda: live._viewers == 0 and not live._has_work.is_set())
    wait_until(lambda: streams.open_streams() == 0)
    # The page looks by itself, once.
    before = len(looks)
    assert ada.get("/monitor/live/", headers={"Accept": "text/html"}).status_code == 200
    assert len(looks) - before <= 2


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline


def test_the_board_counts_among_the_streams_of_a_person(ada: Person, settings: Any):
    settings.STREAMS_PER_USER = 1
    with looking(ada) as viewer:
        viewer.read()
        refused = ada.get(EVENTS)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"]


def test_the_page_has_the_runs_before_any_script_has_run(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("some")), hang())
    empty = ada.get("/monitor/live/", headers={"Accept": "text/html"}).text
    assert "No answer is being written for you." in empty
    run = ask(ada)
    ada.read_until(run, "some")
    with looking(ada) as viewer:
        viewer.wait_for_run(run, state="streaming")
        page = ada.get("/monitor/live/", headers={"Accept": "text/html"}).text
    assert f'data-run="{run["run_id"]}"' in page
    assert run["stop_url"] in page
    ada.stop(run)


@pytest.mark.django_db(transaction=True)
async def test_a_run_of_a_process_that_tells_nothing_is_shown_without_figures(
    openai: Configuration,
):
    alone = board.Board(UUID(int=1), lambda: [], relay=None)
    started = await in_database(runs.start_alone)(
        None, openai, Asked("hello"), runs.Owner(UUID(int=2), lease=10)
    )
    await alone.look()
    entry = alone.news(None).entries[0].fields
    assert (entry["state"], entry["user"], entry["characters"]) == ("running", None, None)
    # Nothing changes but its age: that is no news, and right for who comes now.
    alone._looked_at = 0
    await alone.look()
    assert alone.news(None, 1).entries == []
    assert alone.news(None).entries[0].fields["age"] > entry["age"]
    await Run.objects.filter(pk=started.run.pk).aupdate(lease_until="2020-01-01T00:00:00Z")
    alone._looked_at = 0
    await alone.look()
    assert alone.news(None, 2).entries[0].fields["state"] == "lost"
    await Run.objects.all().adelete()
    alone._looked_at = 0
    await alone.look()
    assert [end.status for end in alone.news(None, 3).ends] == ["deleted"]
    # Who saw the board long ago is told all, and not what has ended since.
    alone.number += board.KEPT_LOOKS + 1
    assert alone.news(None, 3) == board.News(alone.number, True, [], [], 0)


@pytest.mark.django_db(transaction=True)
async def test_of_too_many_runs_the_oldest_are_shown_and_all_are_counted(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(board, "MOST_RUNS", 2)
    ada = await sync_to_async(make_user)("ada")
    started = [await Run.objects.acreate(model=str(number), user=ada) for number in range(3)]
    alone = board.Board(UUID(int=1), lambda: [], relay=None)
    await alone.look()
    news = alone.news(ada.pk)
    assert [entry.fields["model"] for entry in news.entries] == ["0", "1"]
    assert news.total == 3
    assert alone.news(0).total == 0
    # One that ends makes room for the next.
    await Run.objects.filter(pk=started[0].pk).aupdate(status="done")
    alone._looked_at = 0
    await alone.look()
    news = alone.news(ada.pk, 1)
    assert [entry.fields["model"] for entry in news.entries] == ["2"]
    assert [(end.run_id, end.status) for end in news.ends] == [(started[0].pk, "done")]


async def test_a_board_that_closes_sends_its_viewers_away():
    alone = board.Board(UUID(int=1), lambda: [], relay=None)
    async with asyncio.timeout(DEADLINE):
        asyncio.get_running_loop().call_soon(alone.close)
        await alone.wait(0, 10 * DEADLINE)
    assert alone.is_closed


async def test_without_redis_the_board_goes_without_the_figures_of_others(redis: RedisServer):
    relay = RedisRelay(redis.url)
    me, other = UUID(int=1), UUID(int=2)
    figures = board.Progress(UUID(int=3), 2.0, 0.5, 1.0, 10, 3, 3.0, has_output=True, attempt=1)
    await relay.tell(other, [figures])
    assert await relay.ask([me, other]) == []  # nobody had looked
    await relay.tell(other, [figures])
    assert await relay.ask([me, other]) == [figures]
    redis.stop()
    assert await relay.ask([me, other]) == []
    await relay.tell(other, [figures])
    await relay.aclose()


@pytest.mark.parametrize("text", ["{}", "[{}]", '[{"run_id":"1"}]', "nothing", "[1]", "null"])
def test_what_a_process_of_another_version_has_told_is_passed_over(text: str):
    assert redis_board._read(text) == []


@pytest.mark.contract("M4")
def test_runs_of_another_process_are_shown_with_its_figures(shared_site: Site, provider: Provider):
    provider.reply(head(), send(openai_chunk("from the other process")), hang())
    with two_processes(shared_site) as (here, there):
        run = ask(here)
        here.read_until(run, "from the other process")
        with looking(there) as viewer:
            shown = viewer.wait_for_run(run, state="streaming")
            assert shown["characters"] == len("from the other process")
            assert there.stop(run)["stopped"] is True
            assert viewer.wait_for(lambda viewer: viewer.ends) == {run["run_id"]: "stopped"}


def test_every_end_of_a_run_has_a_name_on_the_board():
    script = (ROOT / "static/js/live.js").read_text()
    for status in Run.Status.values:
        assert f"  {status}: " in script
