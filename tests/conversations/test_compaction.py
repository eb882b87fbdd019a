"""Old events are packed into one row a run, and no reader can tell (G1, G7)."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from conversations import compaction, recovery
from conversations.bus import LocalBus
from conversations.compaction import NOTHING, Compacted, compact, compact_forever
from conversations.events import RunEvent, chunk, numbered, pack, to_lines
from conversations.journal import Journal, stored_events, stored_number
from conversations.models import ChatSession, EventBatch, Message, Run
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.processes import running
from tests.servers.provider import (
    Provider,
    close,
    head,
    openai_answer,
    openai_chunk,
    send,
    until,
)

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
DEADLINE = 20.0  # s
T = TypeVar("T")


# ---- Runs, as the app stores them and as rows


def answered(ada: Person, provider: Provider, *pieces: str) -> dict[str, Any]:
    """A run of the app that is over, in several rows."""
    provider.reply(*openai_answer(*pieces, pause=0.04))
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    return run


def sent(ada: Person, run: dict[str, Any], after: int = 0, view: str = "") -> bytes:
    """What a reader gets from a position on, as the bytes of the stream."""
    headers = {"Last-Event-ID": f"{run['run_id']}:{after}"} if after else {}
    answer = ada.get(run["events_url"], headers=headers, params={"view": view})
    assert answer.status_code == (200 if answer.content else 204)
    return answer.content


def rows_of(run_id: Any) -> list[Any]:
    return list(EventBatch.objects.filter(run=run_id).order_by("first").values())


def stored_run(rows: int = 4, chat: ChatSession | None = None) -> Run:
    """A run that ended an hour ago, with `rows` rows of events of which each has one more event
    than the one before."""
    run = Run.objects.create(status=Run.Status.DONE, ended_at=timezone.now() - HOUR, session=chat)
    events = [
        numbered(number, chunk(f"{number} ßé☃ ", number))
        for number in range(1, rows * (rows + 1) // 2 + 1)
    ]
    for row in range(rows):
        part, events = events[: row + 1], events[row + 1 :]
        EventBatch.objects.create(
            run=run, first=part[0].number, last=part[-1].number, lines=to_lines(part)
        )
    return run


@contextmanager
def in_thread(work: Callable[[], T]) -> Iterator[Future[T]]:
    """`work` in a thread with a connection of its own; what it raises is raised at the end."""

    def done() -> T:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(done)
        yield future
        future.result(DEADLINE)


def compact_all() -> Compacted:
    total = NOTHING
    while (portion := compact(0)) != NOTHING:
        total += portion
    return total


# ---- What readers see


@pytest.mark.contract("G1")
@pytest.mark.contract("S10")
@pytest.mark.parametrize("view", ["", "html"])
def test_a_compacted_run_is_sent_byte_for_byte_as_before_from_every_position(
    ada: Person, openai: Configuration, provider: Provider, view: str
):
    run = answered(ada, provider, "# Ti", "tle\n", "\nä ☃ ", "🎉\u2028", " **bo", "ld**\n", *"more")
    last = stored_number(run["run_id"])
    before = [sent(ada, run, after, view) for after in range(last + 2)]
    events = stored_events(run["run_id"])
    assert len(rows_of(run["run_id"])) > 2
    assert compact(0).runs == 1
    (row,) = rows_of(run["run_id"])
    assert (row["first"], row["last"], row["lines"]) == (1, last, "")
    assert [sent(ada, run, after, view) for after in range(last + 2)] == before
    assert before[last] == b""
    assert before[last + 1] == before[0]
    assert stored_events(run["run_id"]) == events
    assert stored_number(run["run_id"]) == last


@pytest.mark.contract("M2")
def test_the_inspector_shows_a_compacted_run_as_before(
    ada: Person, openai: Configuration, provider: Provider
):
    run = answered(ada, provider, "fine")
    address, part = f"/monitor/runs/{run['run_id']}/", {"HX-Request": "true"}
    before = ada.get(address, headers=part).text
    assert "double-1" in before
    compact(0)
    assert ada.get(address, headers=part).text == before
    assert "double-1" in ada.get(address, headers={"Accept": "text/html"}).text


async def test_a_reader_goes_on_after_the_run_has_ended_and_was_compacted():
    """Without a bus that knows the run: all that it gets, it gets from the database."""

    def begin() -> UUID:
        run = Run.objects.create(lease_until=timezone.now() + HOUR)
        EventBatch.objects.create(run=run, first=1, last=3, lines=to_lines(events[:3]))
        connection.close()
        return run.pk

    def end_and_compact(run_id: UUID) -> None:
        EventBatch.objects.create(run_id=run_id, first=4, last=6, lines=to_lines(events[3:]))
        Run.objects.update(status=Run.Status.DONE, ended_at=timezone.now())
        assert compact(0).runs == 1
        connection.close()

    events = [numbered(number, chunk(f"{number} ", number)) for number in range(1, 6)]
    events.append(RunEvent(6, "done", '{"type":"done"}'))
    run_id = await asyncio.to_thread(begin)
    journal = Journal(
        LocalBus(),
        store_interval=0.1,
        lease=10,
        heartbeat=0.05,
        on_lost=lambda _: None,
        on_stop=lambda _: None,
        on_storage_failure=lambda: None,
    )
    reader = journal.follow(run_id)
    assert list(await anext(reader)) == events[:3]
    await asyncio.to_thread(end_and_compact, run_id)
    rest = [event async for batch in reader for event in batch]
    assert rest == events[3:]


def test_a_reader_in_the_middle_of_a_compaction_sees_all_events_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(compaction, "PORTION_RUNS", 1)
    runs = [stored_run(rows=12).pk for _ in range(20)]
    whole = {run_id: stored_events(run_id) for run_id in runs}
    with in_thread(compact_all) as compacting:
        looks = 0
        while not compacting.done() or not looks:
            assert {run_id: stored_events(run_id) for run_id in runs} == whole
            looks += 1
    assert compacting.result() == Compacted(runs=20, rows=240)


# ---- Which runs


def test_running_and_young_runs_are_untouched(
    ada: Person, openai: Configuration, provider: Provider
):
    old = answered(ada, provider, *"abc")
    Run.objects.update(ended_at=timezone.now() - HOUR)
    young = answered(ada, provider, *"def")
    go_on = threading.Event()
    provider.reply(head(), send(openai_chunk("x")), until(go_on), *openai_answer("y")[1:])
    live = ada.ask(ada.new_chat(), "hello")
    with ada.follow(live["events_url"]) as events:
        received = [next(events) for _ in range(3)]
        # Its status decides, whatever else its row says.
        Run.objects.running().update(ended_at=timezone.now() - HOUR)
        rows = rows_of(young["run_id"])
        assert compact(60).runs == 1
        assert compact(60) == NOTHING
        go_on.set()
        received += list(events)
    assert text_of(received) == "xy"
    assert [event.number for event in received] == list(range(1, len(received) + 1))
    assert rows_of(young["run_id"]) == rows
    compacted = dict(Run.objects.values_list("pk", "is_compacted"))
    assert {str(pk) for pk, is_compacted in compacted.items() if is_compacted} == {old["run_id"]}


def test_the_oldest_come_first_and_a_portion_is_limited_in_runs_and_rows(
    monkeypatch: pytest.MonkeyPatch,
):
    runs = [stored_run(rows=4) for _ in range(5)]
    for age, run in enumerate(runs):
        Run.objects.filter(pk=run.pk).update(ended_at=timezone.now() - age * HOUR)
    monkeypatch.setattr(compaction, "PORTION_RUNS", 2)
    assert compact(0) == Compacted(runs=2, rows=8)
    assert {run.pk for run in Run.objects.filter(is_compacted=True)} == {runs[4].pk, runs[3].pk}
    monkeypatch.setattr(compaction, "PORTION_ROWS", 3)
    assert compact(0) == Compacted(runs=1, rows=4)


@pytest.mark.parametrize("fault", ["gap", "line", "start", "empty"])
def test_events_that_are_incomplete_are_left_as_they_are_and_looked_at_once(
    fault: str, caplog: pytest.LogCaptureFixture
):
    run, good = stored_run(rows=4), stored_run(rows=4)
    rows = EventBatch.objects.filter(run=run)
    match fault:
        case "gap":
            rows.filter(first=2).delete()
        case "start":
            rows.filter(first=1).delete()
        case "line":
            EventBatch.objects.filter(run=run, first=4).update(last=7)
            EventBatch.objects.filter(run=run, first=7).delete()
        case "empty":
            rows.delete()
    left, events = rows_of(run.pk), stored_events(run.pk)
    assert compact(0) == Compacted(runs=1, rows=4, odd=1)
    assert rows_of(run.pk) == left
    assert stored_events(run.pk) == events
    assert len(rows_of(good.pk)) == 1
    assert f"the events of run {run.pk} are incomplete" in caplog.text
    assert compact(0) == NOTHING


def test_what_does_not_unpack_to_the_same_is_not_packed(monkeypatch: pytest.MonkeyPatch):
    run = stored_run()
    rows = rows_of(run.pk)
    monkeypatch.setattr(compaction, "pack", lambda lines: pack(lines[:-1]))
    assert compact(0) == Compacted(odd=1)
    assert rows_of(run.pk) == rows


# ---- Crashes, and others at work


@pytest.mark.parametrize("statement", ["UPDATE", "DELETE", 'UPDATE "conversations_run"'])
def test_a_crash_in_the_middle_leaves_all_as_it_was(statement: str):
    class Crash(Exception):
        pass

    def crash(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith(statement):
            raise Crash
        return result

    runs = [stored_run() for _ in range(3)]
    rows = [rows_of(run.pk) for run in runs]
    with connection.execute_wrapper(crash), pytest.raises(Crash):
        compact(0)
    assert [rows_of(run.pk) for run in runs] == rows
    assert not Run.objects.filter(is_compacted=True).exists()
    assert compact(0) == Compacted(runs=3, rows=12)


def test_several_at_once_compact_each_run_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compaction, "PORTION_RUNS", 3)
    runs = [stored_run().pk for _ in range(40)]
    whole = {run_id: stored_events(run_id) for run_id in runs}
    together = threading.Barrier(4)

    def work() -> Compacted:
        together.wait(DEADLINE)
        try:
            return compact_all()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        done = [future.result(DEADLINE) for future in [pool.submit(work) for _ in range(4)]]
    assert sum(done, NOTHING) == Compacted(runs=40, rows=160)
    assert {run_id: stored_events(run_id) for run_id in runs} == whole
    assert EventBatch.objects.count() == 40


def test_a_chat_that_is_deleted_while_it_is_compacted_goes_with_all_its_events(
    make_user: Callable[..., Any],
):
    chat = ChatSession.objects.create(user=make_user())
    stored_run(chat=chat)
    is_replacing, go_on = threading.Event(), threading.Event()

    def pause(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith('UPDATE "conversations_run"'):
            is_replacing.set()
            assert go_on.wait(DEADLINE)
        return execute(sql, params, many, context)

    def compact_slowly() -> Compacted:
        with connection.execute_wrapper(pause):
            return compact(0)

    with in_thread(compact_slowly) as compacting:
        assert is_replacing.wait(DEADLINE)
        with in_thread(chat.delete) as deleting:
            wait_until(lambda: is_blocked() or connection.vendor == "sqlite")
            assert not deleting.done()
            go_on.set()
    assert compacting.result().runs == 1
    assert not Run.objects.exists()
    assert not EventBatch.objects.exists()


@pytest.mark.parametrize("held", ["events", "run"])
def test_a_chat_that_is_being_deleted_is_not_waited_for(held: str, make_user: Callable[..., Any]):
    """Where rows are locked. SQLite has one lock for all: there the compaction comes after it."""
    chat = ChatSession.objects.create(user=make_user())
    stored_run(chat=chat)
    other = stored_run()
    has_begun, has_read, go_on = threading.Event(), threading.Event(), threading.Event()

    def delete_slowly() -> None:
        with transaction.atomic():
            if held == "events":
                EventBatch.objects.filter(run__session=chat).delete()
            else:
                Run.objects.filter(session=chat).update(session=chat)
            has_begun.set()
            assert go_on.wait(DEADLINE)
            chat.delete()

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if 'FROM "conversations_eventbatch"' in sql:
            has_read.set()
        return result

    def compact_once() -> Compacted:
        with connection.execute_wrapper(note):
            return compact(0)

    with in_thread(delete_slowly):
        assert has_begun.wait(DEADLINE)
        with in_thread(compact_once) as compacting:
            if connection.vendor == "sqlite":
                assert has_read.wait(DEADLINE)
            else:
                assert compacting.result(DEADLINE) == Compacted(runs=1, rows=4)
            go_on.set()
    assert compacting.result() == Compacted(runs=1, rows=4)
    assert [run.pk for run in Run.objects.all()] == [other.pk]
    assert [row.run_id for row in EventBatch.objects.all()] == [other.pk]


def is_blocked() -> bool:
    """Whether somebody waits for a lock."""
    if connection.vendor == "sqlite":
        return False
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(DEADLINE / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come true in time")


# ---- Sessions with compacted runs go on


def test_a_failed_answer_that_was_compacted_is_asked_again_and_continued(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("half of ")), close())
    failed = ada.ask(ada.new_chat(), "hello")
    events = ada.events(failed)
    assert events[-1].data["code"] == "STREAM_INTERRUPTED"
    answer = Message.objects.get(role="assistant")
    compact_all()
    provider.reply(*openai_answer("it", pause=0.01))
    continued = ada.post(f"/messages/{answer.pk}/continue/").json()
    assert ada.events(continued)[-1].data["full_response"] == "half of it"
    compact_all()
    provider.reply(*openai_answer("new", pause=0.01))
    again = ada.post(f"/messages/{failed['user_message_id']}/retry/").json()
    assert text_of(ada.events(again)) == "new"
    assert ada.events(failed) == events


@pytest.mark.contract("F15")
def test_a_lost_run_is_ended_in_a_session_whose_other_runs_are_compacted(
    ada: Person, openai: Configuration, provider: Provider
):
    first = answered(ada, provider, "one")
    events = ada.events(first)
    compact_all()
    chat = ChatSession.objects.get()
    lost = stored_run(chat=chat)
    Run.objects.filter(pk=lost.pk).update(
        status=Run.Status.RUNNING, ended_at=None, lease_until=timezone.now() + HOUR, worker=uuid4()
    )
    assert compact(0) == NOTHING
    Run.objects.filter(pk=lost.pk).update(lease_until=timezone.now() - HOUR)
    recovery.recover([])  # or the app, if it looks at this moment
    stored = stored_events(lost.pk)
    assert (stored[-1].number, stored[-1].fields["code"]) == (11, "INTERRUPTED")
    assert compact(0).runs == 1
    assert stored_events(lost.pk) == stored
    assert ada.events(first) == events


# ---- By itself


async def test_what_becomes_old_enough_is_compacted_by_itself_and_an_error_is_no_end(
    monkeypatch: pytest.MonkeyPatch, settings: Any, caplog: pytest.LogCaptureFixture
):
    settings.COMPACT_AFTER = 60
    monkeypatch.setattr(compaction, "LOOK_INTERVAL", 0.01)
    monkeypatch.setattr(compaction, "PAUSE", 0.01)
    looks: list[float] = []

    def once_broken(older_than: float) -> Compacted:
        looks.append(older_than)
        if len(looks) == 1:
            raise DatabaseError("disk I/O error")
        return compact(older_than)

    def prepare() -> UUID:
        stored = stored_run()
        Run.objects.update(ended_at=timezone.now())
        connection.close()
        return stored.pk

    def age() -> None:
        Run.objects.update(ended_at=timezone.now() - HOUR)
        connection.close()

    def is_compacted() -> bool:
        found = Run.objects.get(pk=run_id).is_compacted
        connection.close()
        return found

    async def come_true(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

    monkeypatch.setattr(compaction, "compact", once_broken)
    run_id = await asyncio.to_thread(prepare)
    task = asyncio.create_task(compact_forever())
    try:
        await come_true(lambda: len(looks) > 2)
        assert not await asyncio.to_thread(is_compacted)
        await asyncio.to_thread(age)
        await come_true(is_compacted)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert set(looks) == {60}
    assert caplog.text.count("compacting the events of old runs failed") == 1


def test_a_server_compacts_what_it_finds_when_it_starts(tmp_path: Path):
    run = stored_run()
    events = stored_events(run.pk)
    database = connection.settings_dict
    url = f"sqlite:///{database['NAME']}"
    if connection.vendor != "sqlite":
        login = f"{database['USER']}:{database['PASSWORD']}@{database['HOST']}"
        url = f"postgres://{login}:{database['PORT'] or 5432}/{database['NAME']}"
    site = {
        "DJANGO_SETTINGS_MODULE": "llmchat.settings",
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": url,
        "DEBUG": "true",
        "LOG_LEVEL": "INFO",
        "COMPACT_AFTER": "60",
    }
    with running("manage.py", "serve", "--port", "0", **site) as server:
        server.wait_for(r"1 run compacted: 4 rows became 1$")
    assert len(rows_of(run.pk)) == 1
    assert stored_events(run.pk) == events


# ---- By hand


def said_by_command(*arguments: str) -> str:
    out = StringIO()
    call_command("compact_events", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_says_what_it_did(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compaction, "PORTION_RUNS", 2)
    for _ in range(3):
        stored_run()
    Run.objects.update(ended_at=timezone.now() - HOUR / 2)
    nothing = "0 runs compacted: 0 rows became 0.\n"
    assert said_by_command() == nothing
    assert said_by_command("--older-than", "60") == "3 runs compacted: 12 rows became 3.\n"
    assert said_by_command("--older-than", "0") == nothing


def test_figures_are_said_with_separators_and_with_what_was_left():
    assert str(Compacted(runs=1, rows=1)) == "1 run compacted: 1 row became 1"
    assert str(Compacted(runs=1200, rows=34_000, odd=1)) == (
        "1,200 runs compacted: 34,000 rows became 1,200; incomplete and left as they are: 1"
    )


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "1.5", "99999999999"])
def test_an_age_that_is_none_is_refused(value: str):
    with pytest.raises(CommandError, match="no whole number from 0 to 1000000000"):
        said_by_command(f"--older-than={value}")


def test_a_database_that_cannot_be_used_is_one_sentence_and_exit_code_1(tmp_path: Path):
    """Not set up: there is no table."""
    site = {
        "DJANGO_SETTINGS_MODULE": "llmchat.settings",
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{tmp_path}/empty.sqlite3",
    }
    with running("manage.py", "compact_events", **site) as command:
        assert command.end() == 1
        (line,) = command.said
    assert line.startswith("CommandError: The database cannot be used: no such table")
