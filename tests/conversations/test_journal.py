"""The ordered log of a run: numbers, storage in batches, readers as positions (G1 to G4, G7)."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError
from django.utils import timezone

from conversations import journal as journal_module
from conversations.background import in_database
from conversations.bus import KEPT_EVENTS, LocalBus
from conversations.events import RunEvent, chunk, from_lines, to_lines
from conversations.journal import Journal, stored_events
from conversations.models import EventBatch, Run

pytestmark = pytest.mark.django_db(transaction=True)


def event(number: int) -> RunEvent:
    return RunEvent(number, "chunk", chunk(f"{number} ", number))


def end(number: int) -> RunEvent:
    return RunEvent(number, "done", '{"type":"done"}')


class Owner:
    """A journal with one open run, as the engine has it."""

    def __init__(self, **fields: Any) -> None:
        self.lost: list[Any] = []
        self.stopped: list[Any] = []
        self.failures = 0
        options: dict[str, Any] = {"store_interval": 0.02, "lease": 10, "heartbeat": 0.2}
        self.bus = LocalBus()
        self.journal = Journal(
            self.bus,
            **{**options, **fields},
            on_lost=self.lost.append,
            on_stop=self.stopped.append,
            on_storage_failure=self.failed,
        )
        self.run_id = uuid4()

    def failed(self) -> None:
        self.failures += 1

    async def __aenter__(self) -> "Owner":
        await in_database(self.store_run)()
        self.log = self.journal.open(self.run_id, [event(1), event(2)])
        self.writer = asyncio.create_task(self.journal.write_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.cancel()
        await asyncio.gather(self.writer, return_exceptions=True)

    def store_run(self) -> None:
        Run.objects.create(
            id=self.run_id,
            worker=self.journal.worker,
            lease_until=timezone.now() + timedelta(seconds=10),
        )
        EventBatch.objects.create(
            run_id=self.run_id, first=1, last=2, lines=to_lines([event(1), event(2)])
        )

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            number = self.log.number + 1
            self.journal.append(self.log, "chunk", chunk(f"{number} ", number))

    async def close(self) -> RunEvent:
        return await self.journal.close(self.log, self.ended)

    def ended(self, number: int) -> RunEvent:
        Run.objects.filter(pk=self.run_id).update(status=Run.Status.DONE)
        return end(number)

    async def stored(self) -> list[int]:
        return [event.number for event in await in_database(stored_events)(self.run_id)]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.005)

    async def until_stored(self, number: int) -> None:
        async with asyncio.timeout(10):
            while (await self.stored())[-1] < number:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)

    async def read(self, after: int = 0) -> list[int]:
        return [
            event.number
            async for batch in self.journal.follow(self.run_id, after)
            for event in batch
        ]


@pytest.mark.contract("G1")
async def test_events_are_stored_in_order_without_a_gap_and_the_end_is_the_last():
    async with Owner() as owner:
        for _ in range(5):
            owner.append(7)
            await asyncio.sleep(0)
        closed = await owner.close()
        assert closed.number == 38
        assert await owner.stored() == list(range(1, 39))


async def test_many_events_share_few_writes():
    async with Owner() as owner:
        owner.append(1000)
        await owner.until_stored(1002)
        batches = await in_database(EventBatch.objects.count)()
        assert batches == 2


async def test_runs_share_one_transaction(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    original = journal_module._store

    def counted(worker, lease, writes):
        sizes.append(len(writes))
        return original(worker, lease, writes)

    monkeypatch.setattr(journal_module, "_store", counted)
    async with Owner(store_interval=0.1) as owner:
        others = []
        for _ in range(5):
            run_id = owner.run_id = uuid4()
            await in_database(owner.store_run)()
            others.append(owner.journal.open(run_id, [event(1), event(2)]))
        sizes.clear()
        for log in others:
            owner.journal.append(log, "chunk", chunk("x", 1))
        await owner.until(lambda: sizes)
        assert len(sizes) == 1
        assert sizes[0] >= 5


async def test_readers_that_come_at_any_time_see_the_same():
    async with Owner() as owner:
        early = asyncio.create_task(owner.read())
        owner.append(50)
        middle = asyncio.create_task(owner.read(after=20))
        await owner.until_stored(52)
        owner.append(50)
        await owner.close()
        assert await early == list(range(1, 104))
        assert await middle == list(range(21, 104))
        assert await owner.read() == list(range(1, 104))
        assert await owner.read(after=103) == []


async def test_a_reader_that_is_too_far_behind_for_the_bus_reads_the_database():
    async with Owner() as owner:
        total = 0
        while total < 3 * KEPT_EVENTS:
            owner.append(1024)
            total += 1024
            await owner.until_stored(total + 2)
        reader = asyncio.create_task(owner.read())
        await owner.close()
        assert await reader == list(range(1, total + 4))


async def test_readers_that_leave_are_forgotten():
    async with Owner() as owner:
        readers = [asyncio.create_task(owner.read()) for _ in range(100)]
        await owner.until(lambda: len(owner.bus._topics[owner.run_id].waiting) == 100)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert not owner.bus._topics[owner.run_id].waiting
        assert await owner.bus.read(uuid4(), 0, 0.01) == ()
        assert list(owner.bus._topics) == [owner.run_id]


async def test_a_reader_whose_last_events_a_crash_took_starts_over():
    async with Owner() as owner:
        batches = owner.journal.follow(owner.run_id)
        assert [event.number for event in await anext(batches)] == [1, 2]
        owner.bus.publish(owner.run_id, [event(3)])
        assert [event.number for event in await anext(batches)] == [3]

        def end_elsewhere() -> None:
            Run.objects.filter(pk=owner.run_id).update(status=Run.Status.INTERRUPTED)
            EventBatch.objects.create(run_id=owner.run_id, first=3, last=3, lines=end(3).data)

        await in_database(end_elsewhere)()
        owner.bus.forget(owner.run_id)
        assert [event.type for event in await anext(batches)] == ["chunk", "chunk", "done"]
        assert [batch async for batch in batches] == []


async def test_a_silent_run_gives_its_readers_empty_batches():
    async with Owner(heartbeat=0.02) as owner:
        batches = owner.journal.follow(owner.run_id, after=2)
        async with asyncio.timeout(5):
            assert [list(await anext(batches)) for _ in range(3)] == [[], [], []]
        await batches.aclose()


@pytest.mark.contract("G3")
async def test_what_cannot_be_stored_is_soon_no_longer_shown_and_comes_when_it_is(
    monkeypatch: pytest.MonkeyPatch,
):
    is_broken = threading.Event()
    failures: list[int] = []
    original = journal_module._store

    def breakable(*args):
        if is_broken.is_set():
            failures.append(1)
            raise OperationalError("database is locked")
        return original(*args)

    monkeypatch.setattr(journal_module, "_store", breakable)
    monkeypatch.setattr(journal_module, "RETRY_STORE", 0.01)
    monkeypatch.setattr(journal_module, "VISIBLE_UNSTORED", 0)
    async with Owner() as owner:
        shown: list[int] = []

        async def read() -> None:
            async for batch in owner.journal.follow(owner.run_id):
                shown.extend(event.number for event in batch)

        reader = asyncio.create_task(read())
        is_broken.set()
        owner.append()
        await owner.until(lambda: 3 in shown)  # at once, while its storing is still young
        owner.append(5)
        closing = asyncio.create_task(owner.close())
        await owner.until(lambda: len(failures) > 3)
        assert shown == [1, 2, 3]
        is_broken.clear()
        await closing
        await reader
        assert shown == list(range(1, 10))
        assert await owner.stored() == shown


async def test_storage_that_fails_for_long_is_reported(monkeypatch: pytest.MonkeyPatch):
    def broken(*_):
        raise OperationalError("disk full")

    monkeypatch.setattr(journal_module, "_store", broken)
    monkeypatch.setattr(journal_module, "RETRY_STORE", 0.01)
    monkeypatch.setattr(journal_module, "STORAGE_PATIENCE", 0.05)
    async with Owner() as owner:
        owner.append()
        await owner.until(lambda: owner.failures)


async def test_a_run_that_another_process_ended_is_lost_and_gets_no_second_end():
    async with Owner() as owner:
        await in_database(Run.objects.filter(pk=owner.run_id).update)(status=Run.Status.INTERRUPTED)
        owner.append(3)
        await owner.until(lambda: owner.lost == [owner.run_id])
        with pytest.raises(journal_module.RunLost):
            await owner.close()
        assert await owner.stored() == [1, 2]


async def test_a_defect_in_one_end_does_not_undo_what_others_store():
    def broken(number: int) -> RunEvent:
        raise ZeroDivisionError

    async with Owner() as owner:
        first, first_id = owner.log, owner.run_id
        owner.run_id = uuid4()
        await in_database(owner.store_run)()
        owner.log = owner.journal.open(owner.run_id, [event(1), event(2)])
        results = await asyncio.gather(
            owner.journal.close(first, broken), owner.close(), return_exceptions=True
        )
        assert isinstance(results[0], ZeroDivisionError)
        assert isinstance(results[1], RunEvent)
        assert await owner.stored() == [1, 2, 3]
        owner.run_id = first_id
        assert await owner.stored() == [1, 2]


async def test_events_that_cannot_be_stored_cost_no_other_run_anything():
    async with Owner() as owner:
        bad, bad_id = owner.log, owner.run_id
        owner.run_id = uuid4()
        await in_database(owner.store_run)()
        owner.log = owner.journal.open(owner.run_id, [event(1), event(2)])
        bad.number = -9  # no database takes a number below zero
        owner.journal.append(bad, "chunk", chunk("x", 1))
        owner.append(3)
        await owner.until(lambda: owner.lost == [bad_id])
        await owner.close()
        assert await owner.stored() == [1, 2, 3, 4, 5, 6]


async def test_leases_are_renewed_while_nothing_happens():
    async with Owner(lease=0.3) as owner:
        before = await in_database(Run.objects.get)(pk=owner.run_id)
        await owner.until(lambda: owner.journal._renewed_at)
        after = await in_database(Run.objects.get)(pk=owner.run_id)
        assert after.lease_until != before.lease_until


async def test_what_comes_while_leases_are_renewed_is_stored_once(monkeypatch: pytest.MonkeyPatch):
    original = journal_module._store
    renewing, has_come = threading.Event(), threading.Event()

    def stored(worker, lease, writes):
        renewing.set()
        assert has_come.wait(5)
        return original(worker, lease, writes)

    monkeypatch.setattr(journal_module, "_store", stored)
    async with Owner(lease=0.1) as owner:
        await owner.until(renewing.is_set)
        owner.append(3)
        has_come.set()
        async with asyncio.timeout(10):
            await owner.close()
        assert await owner.stored() == list(range(1, 7))


def test_a_batch_reads_back_as_it_was_written():
    events = [
        RunEvent(7, "chunk", chunk("a\nb\r\u2028 🎉", 1)),
        RunEvent(8, "done", '{"type":"done","x":1}'),
    ]
    assert from_lines(7, to_lines(events)) == events
    assert to_lines(events).isascii()
