"""Runs whose process is gone end INTERRUPTED, by whichever process looks first (G2, D2)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from conversations import engine as engine_module
from conversations import recovery, runs
from conversations.engine import Engine
from conversations.errors import Interrupted
from conversations.events import RunEvent, chunk, to_lines
from conversations.journal import stored_events
from conversations.models import ChatSession, EventBatch, Message, Run, UsageLog
from providers.models import Configuration

pytestmark = pytest.mark.django_db(transaction=True)


def event(number: int) -> RunEvent:
    return RunEvent(number, "chunk", chunk(f"{number} ", number))


@pytest.fixture
def orphan(django_user_model: Any) -> Run:
    user = django_user_model.objects.create_user("ada")
    chat = ChatSession.objects.create(user=user)
    question = Message.objects.create(session=chat, role="user", content="hi")
    configuration = Configuration.objects.create(
        name="c", slug="c", kind="openai", model="m", input_price=1, output_price=2
    )
    run = Run.objects.create(
        user=user,
        session=chat,
        configuration=configuration,
        configuration_slug="c",
        provider="openai",
        model="m",
        user_message=question,
        worker=uuid4(),
        lease_until=timezone.now() - timedelta(seconds=1),
    )
    EventBatch.objects.create(
        run=run, first=1, last=4, lines=to_lines(event(number) for number in range(1, 5))
    )
    return run


@pytest.mark.contract("F15")
def test_an_orphan_ends_interrupted_with_its_text_and_the_next_number(orphan: Run):
    assert list(recovery.recover([])) == [orphan.pk]
    orphan.refresh_from_db()
    assert (orphan.status, orphan.error_code) == ("interrupted", "INTERRUPTED")
    events = stored_events(orphan.pk)
    assert [event.number for event in events] == [1, 2, 3, 4, 5]
    assert events[-1].fields["code"] == "INTERRUPTED"
    assert events[-1].fields["message"] == str(Interrupted())
    answer = Message.objects.get(written_by=orphan)
    assert (answer.content, answer.status) == ("1 2 3 4 ", "failed")
    usage = UsageLog.objects.get()
    assert (usage.status, usage.is_estimated, usage.cost_source) == (
        "interrupted",
        True,
        "estimated",
    )


def test_an_end_is_given_once(orphan: Run):
    recovery.recover([])
    assert recovery.recover([]) == {}
    assert len(stored_events(orphan.pk)) == 5


def test_a_lease_that_holds_protects_a_run(orphan: Run):
    Run.objects.update(lease_until=timezone.now() + timedelta(seconds=5))
    assert recovery.recover([]) == {}


def test_a_process_does_not_take_its_own_runs_for_lost(orphan: Run):
    assert recovery.recover([orphan.pk]) == {}


def test_without_any_text_the_question_stays_and_no_answer_is_made(orphan: Run):
    EventBatch.objects.update(first=1, last=1, lines='{"type":"metadata","user_prompt":"hi"}')
    recovery.recover([])
    assert [message.role for message in Message.objects.all()] == ["user"]
    assert Message.objects.get().status == "failed"


def test_the_end_is_stored_or_nothing_is(orphan: Run, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runs, "_log_usage", broken)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        recovery.recover([])
    orphan.refresh_from_db()
    assert orphan.is_running
    assert Message.objects.count() == 1


# ---- the sweeper of a process


async def nothing(**_: Any) -> None:
    """Stands in for a look."""


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch, settings: Any) -> AsyncIterator[Engine]:
    monkeypatch.setattr(engine_module, "SWEEP_INTERVAL", 0.02)
    settings.HEARTBEAT_INTERVAL = 60.0
    if engine_module._engine is not None:  # that of the app on its socket, which sweeps here too
        monkeypatch.setattr(engine_module._engine, "_recover", nothing)
    engine = Engine()
    yield engine
    await engine.shutdown(0)


class Looks:
    """Stands in for `recovery.recover`: at the first look the database is away. Keeps when it was
    looked, on the monotonic clock."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._recover = recovery.recover

    def __call__(self, alive: Any) -> dict[UUID, RunEvent]:
        self.times.append(monotonic())
        if len(self.times) == 1:
            raise OperationalError("the server is restarting")
        return self._recover(alive)


async def seen_by_a_reader(run: Run, engine: Engine) -> list[RunEvent]:
    async with asyncio.timeout(20):  # less than a heartbeat
        return [event async for batch in engine.journal.follow(run.pk, 4) for event in batch]


@pytest.mark.contract("F15")
async def test_its_readers_are_told_at_once(orphan: Run, engine: Engine):
    reader = asyncio.create_task(seen_by_a_reader(orphan, engine))
    await asyncio.sleep(0)
    engine.start()
    assert [(event.number, event.type) for event in await reader] == [(5, "error")]


@pytest.mark.contract("F14")
async def test_after_the_database_was_away_every_process_gets_a_lease_to_come_back(
    orphan: Run, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    looks = Looks()
    monkeypatch.setattr(recovery, "recover", looks)
    engine.journal.lease = 1.0
    engine.start()
    assert [event.type for event in await seen_by_a_reader(orphan, engine)] == ["error"]
    away_at, next_look_at, *_ = looks.times
    assert next_look_at - away_at > engine.journal.lease
