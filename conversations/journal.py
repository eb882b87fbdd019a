"""The ordered log of each run: one writer numbers and stores, any number of readers follow.

What it promises (guarantees G1 to G4, G7 and G8):

- Numbers start at 1, have no gap and never change; only `Journal.append` and `close` give them.
- A run's events are stored by one durable writer: all runs that have something new share one
  transaction every STORE_INTERVAL, in a thread of its own. Nothing is written on the event loop.
- A reader sees an event at once, but never one whose older neighbours have been waiting to be
  stored for more than VISIBLE_UNSTORED seconds: when storage stalls, readers pause.
- The end is stored, together with its message and usage row, before any reader sees it, and
  exactly once: the writer owns a run only while its status is RUNNING and its lease is ours.
- Readers are positions, not queues: coming, going or being slow costs the run nothing.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from uuid import UUID
from weakref import WeakValueDictionary

from django.db import DataError, IntegrityError, InterfaceError, OperationalError, transaction
from django.utils import timezone

from conversations.background import in_database, writer_pool
from conversations.bus import Bus
from conversations.events import RunEvent, to_lines
from conversations.models import EventBatch, ProviderCall, Run
from conversations.records import LATER_FIELDS, row_of
from providers.records import Exchange

log = logging.getLogger(__name__)

VISIBLE_UNSTORED = 0.2  # s
LINGER = 10.0  # s that a finished run stays on the bus, for readers that are about to come back
STORAGE_PATIENCE = 30.0  # s of failing writes, after which running runs are given up
RETRY_STORE = 0.5  # s between two tries to write
PAGE = 512 * 1024  # characters of stored events that a reader takes at a time
PAGE_ROWS = 4  # that are looked at first for that; where they are short, twice as many follow
SHARED_EVENT = 64 * 1024  # characters, over which readers share what they read

_shared: WeakValueDictionary[tuple[UUID, int], RunEvent] = WeakValueDictionary()

# Called inside the writer's transaction with the number of the end: stores what belongs to it
# and gives the event.
CloseRun = Callable[[int], RunEvent]


class RunLost(Exception):
    """The run is no longer this process's: it was deleted, or closed after its lease ran out."""


class StopRequested(Exception):
    """Another process has stored that the run is to be stopped."""


@dataclass(slots=True)
class RunLog:
    """The owner's end of one run's log."""

    run_id: UUID
    number: int  # of the last event
    unstored: list[RunEvent] = field(default_factory=list)
    unstored_since: float = 0.0  # monotonic, of the first one
    storing_since: float | None = None  # the same for those in the transaction under way
    held: list[RunEvent] = field(default_factory=list)  # not shown before they are stored
    calls: list[Exchange] = field(default_factory=list)  # of which something new is to be stored
    closing: tuple[CloseRun, asyncio.Future[RunEvent]] | None = None
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class _Write:
    """One run's share of a transaction."""

    log: RunLog
    events: list[RunEvent]
    calls: list[Exchange]
    closing: tuple[CloseRun, asyncio.Future[RunEvent]] | None


class Journal:
    """The logs of the runs of one process, and the readers' way to all runs."""

    def __init__(
        self,
        bus: Bus,
        *,
        store_interval: float,
        lease: float,
        heartbeat: float,
        on_lost: Callable[[UUID], None],
        on_stop: Callable[[UUID], None],
        on_storage_failure: Callable[[], None],
    ) -> None:
        """`on_lost` is told a run that is no longer ours, `on_stop` one that another process wants
        stopped; `on_storage_failure` that no write has succeeded for STORAGE_PATIENCE seconds."""
        self.worker = uuid.uuid4()
        self.lease = lease
        self.store_interval = store_interval
        self.heartbeat = heartbeat
        self._bus = bus
        self._on_lost = on_lost
        self._on_stop = on_stop
        self._on_storage_failure = on_storage_failure
        self._open: dict[UUID, RunLog] = {}
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._failing_since: float | None = None
        self._renewed_at = 0.0

    # ---- the owner's side

    def open(self, run_id: UUID, opening: Sequence[RunEvent]) -> RunLog:
        """Takes over a run whose `opening` events are stored already, and shows those."""
        run_log = RunLog(run_id, opening[-1].number)
        self._open[run_id] = run_log
        self._bus.publish(run_id, opening)
        return run_log

    def append(self, run_log: RunLog, type: str, data: str) -> None:
        """Numbers an event, shows it and has it stored soon. Costs no thread and no write."""
        run_log.number += 1
        event = RunEvent(run_log.number, type, data)
        now = monotonic()
        if not run_log.unstored:
            run_log.unstored_since = now
            self._store_soon()
        run_log.unstored.append(event)
        oldest = run_log.storing_since or run_log.unstored_since
        if run_log.held or now - oldest > VISIBLE_UNSTORED:
            run_log.held.append(event)
        else:
            self._bus.publish(run_log.run_id, (event,))

    def keep(self, run_log: RunLog, exchange: Exchange) -> None:
        """Has a provider call stored soon: when it was sent, and again when it is over."""
        if exchange not in run_log.calls:
            run_log.calls.append(exchange)
        self._store_soon()

    @property
    def lag(self) -> float:
        """Seconds that the oldest event has been waiting to be stored; 0 if none waits."""
        now = monotonic()
        waiting = (
            run_log.storing_since or run_log.unstored_since
            for run_log in list(self._open.values())
            if run_log.unstored or run_log.storing_since
        )
        return now - min(waiting, default=now)

    async def close(self, run_log: RunLog, close: CloseRun) -> RunEvent:
        """Stores what is left and the end that `close` makes, then shows it.

        Waits as long as storage fails. Raises RunLost if the run is no longer ours, and whatever
        `close` raises.
        """
        if run_log.is_lost:
            raise RunLost
        future: asyncio.Future[RunEvent] = asyncio.get_running_loop().create_future()
        run_log.closing = (close, future)
        self._due.set()
        return await future

    # ---- the writer

    async def write_forever(self) -> None:
        """Stores what is due until it is cancelled. One such task runs in each process."""
        while True:
            try:
                async with asyncio.timeout(self.lease / 3):
                    await self._due.wait()
            except TimeoutError:
                pass  # nothing new: renew the leases
            self._due.clear()
            await self._store()

    def _store_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.store_interval, self._due.set)

    async def _store(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        started = monotonic()
        renews_all = started - self._renewed_at >= self.lease / 3
        writes = []
        for run_log in self._open.values():
            if run_log.unstored or run_log.calls or run_log.closing or renews_all:
                # Taken from the log even where it is empty: what comes while the thread stores must
                # not come into the thread's list as well.
                events, run_log.unstored = run_log.unstored, []
                if events:
                    run_log.storing_since = run_log.unstored_since
                calls, run_log.calls = run_log.calls, []
                writes.append(_Write(run_log, events, calls, run_log.closing))
        if not writes:
            return
        try:
            ends = await in_database(_store, executor=writer_pool)(self.worker, self.lease, writes)
        except Exception:  # whatever it was: without its writer, no run would ever end
            self._not_stored(writes, started)
            return
        self._failing_since = None
        if renews_all:
            self._renewed_at = started
        for write in writes:
            self._stored(write, ends[write.log.run_id])

    def _not_stored(self, writes: Sequence[_Write], started: float) -> None:
        log.warning(
            "storing the events of %d runs failed; trying again", len(writes), exc_info=True
        )
        for write in writes:
            run_log = write.log
            if write.events:
                run_log.unstored = write.events + run_log.unstored
                run_log.unstored_since = run_log.storing_since or started
                run_log.storing_since = None
            run_log.calls = list(dict.fromkeys(write.calls + run_log.calls))
        self._failing_since = self._failing_since or started
        if monotonic() - self._failing_since > STORAGE_PATIENCE:
            self._on_storage_failure()
        asyncio.get_running_loop().call_later(RETRY_STORE, self._due.set)

    def _stored(self, write: _Write, end: RunEvent | Exception | None) -> None:
        run_log = write.log
        run_log.storing_since = None
        if isinstance(end, RunLost):
            run_log.is_lost = True
        elif run_log.held:
            self._bus.publish(run_log.run_id, run_log.held)
            run_log.held = []
        if run_log.unstored:
            # They came while the transaction ran: their age counts from now.
            run_log.unstored_since = monotonic()
            self._store_soon()
        if isinstance(end, RunEvent):
            run_log.number = end.number
            self._bus.publish(run_log.run_id, (end,))
        if write.closing is not None or run_log.is_lost:
            self._forget(run_log)
        if write.closing is not None:
            _, future = write.closing
            if isinstance(end, Exception):
                future.set_exception(end)
            elif end is not None:
                future.set_result(end)
        elif run_log.is_lost:
            self._on_lost(run_log.run_id)
        elif isinstance(end, StopRequested):
            self._on_stop(run_log.run_id)

    def show_end(self, run_id: UUID, end: RunEvent) -> None:
        """Tells the readers of a run whose owner is gone how it ended. It is stored already."""
        self._bus.publish(run_id, (end,))
        asyncio.get_running_loop().call_later(LINGER, self._bus.forget, run_id)

    def _forget(self, run_log: RunLog) -> None:
        self._open.pop(run_log.run_id, None)
        if run_log.is_lost:
            self._bus.forget(run_log.run_id)
        else:
            asyncio.get_running_loop().call_later(LINGER, self._bus.forget, run_log.run_id)

    # ---- the readers' side

    def known_number(self, run_id: UUID) -> int | None:
        """The number of the last event, if this process owns the run."""
        run_log = self._open.get(run_id)
        return run_log.number if run_log else None

    async def follow(
        self, run_id: UUID, after: int = 0, *, is_over: bool = False
    ) -> AsyncGenerator[Sequence[RunEvent], None]:
        """The events after number `after`, in order and without a gap, up to the end event.

        First what exists, in one or more batches, then live. An empty batch says that nothing
        came for a heartbeat. Ends after the end event, or when the run was deleted. Starts over
        with number 1 if a crash took what was shown last, and the run has ended without it.

        `is_over` says that the run has ended: then only the database is asked, as the bus may
        still hold what a crash took.
        """
        has_shown = False
        failing_since: float | None = None
        events: Sequence[RunEvent] = () if is_over else await self._bus.read(run_id, after, 0)
        while True:
            has_more = False
            if not events or events[0].number != after + 1:
                try:
                    events, has_more, is_over = await in_database(_read_page)(run_id, after)
                except (OperationalError, InterfaceError):
                    # Readers wait as the writer does: cut off, they would all come back at once.
                    failing_since = failing_since or monotonic()
                    if monotonic() - failing_since > STORAGE_PATIENCE:
                        raise
                    await asyncio.sleep(RETRY_STORE)
                    yield ()
                    continue
                failing_since = None
                if not events and is_over:
                    if has_shown:
                        events, has_more, _ = await in_database(_read_page)(run_id, 0)
                    if not events:
                        return
            yield events
            if events:
                has_shown = True
                after = events[-1].number
                if events[-1].is_end:
                    return
            events = () if has_more else await self._bus.read(run_id, after, self.heartbeat)

    async def read_now(
        self, run_id: UUID, after: int = 0, *, is_over: bool = False
    ) -> Sequence[RunEvent]:
        """The events after number `after` that there are at this moment, in order and without a
        gap. `is_over` as for `follow`."""
        live = () if is_over else await self._bus.read(run_id, after, 0)
        if live and live[0].number == after + 1:
            return live
        stored, is_over = await in_database(_read)(run_id, after)
        if is_over or not stored:
            return stored
        # What is too young to be stored.
        live = await self._bus.read(run_id, stored[-1].number, 0)
        return [*stored, *live] if live and live[0].number == stored[-1].number + 1 else stored


def _store(
    worker: UUID, lease: float, writes: Sequence[_Write]
) -> dict[UUID, RunEvent | Exception | None]:
    """`_store_together`; and if the database refuses what one run brings, each run for itself, so
    that only that one is lost."""
    try:
        return _store_together(worker, lease, writes)
    except (IntegrityError, DataError):
        results: dict[UUID, RunEvent | Exception | None] = {}
        for write in writes:
            try:
                results |= _store_together(worker, lease, [write])
            except (IntegrityError, DataError):
                log.exception("the events of run %s cannot be stored", write.log.run_id)
                results[write.log.run_id] = RunLost()
        return results


def _store_together(
    worker: UUID, lease: float, writes: Sequence[_Write]
) -> dict[UUID, RunEvent | Exception | None]:
    """Stores the events and ends of all `writes` in one transaction, and renews the leases.

    For each run: its end event if it was closed, None if it goes on, StopRequested if another
    process wants it stopped, RunLost if it is not ours
    any more, or what its closing raised.
    """
    results: dict[UUID, RunEvent | Exception | None] = {}
    # Before the transaction: packing takes a while, and others wait for the lock.
    packed = {
        write.log.run_id: [row_of(write.log.run_id, call) for call in write.calls]
        for write in writes
        if write.calls
    }
    with transaction.atomic():
        # Locked, so that nobody can declare a run lost between this look and the writes.
        ours = dict(
            Run.objects.select_for_update()
            .running()
            .filter(worker=worker, pk__in=[write.log.run_id for write in writes])
            .values_list("pk", "stop_requested_at")
        )
        kept = [write for write in writes if write.log.run_id in ours]
        # A commit of which nobody heard is made again: the same events, and those since then.
        EventBatch.objects.bulk_create(
            (_batch(write.log.run_id, write.events) for write in kept if write.events),
            update_conflicts=True,
            unique_fields=["run", "first"],
            update_fields=["last", "lines"],
        )
        if calls := [call for write in kept for call in packed.get(write.log.run_id, ())]:
            ProviderCall.objects.bulk_create(
                calls,
                update_conflicts=True,
                unique_fields=["run", "attempt"],
                update_fields=LATER_FIELDS,
            )
        Run.objects.filter(pk__in=ours).update(
            lease_until=timezone.now() + timedelta(seconds=lease)
        )
        for write in writes:
            run_id = write.log.run_id
            if run_id not in ours:
                results[run_id] = RunLost()
            elif write.closing is None:
                results[run_id] = StopRequested() if ours[run_id] else None
            else:
                results[run_id] = _close(write, write.closing[0])
    return results


def _close(write: _Write, close: CloseRun) -> RunEvent | Exception:
    number = write.events[-1].number if write.events else write.log.number
    try:
        with transaction.atomic():  # a savepoint: one run's defect does not undo the others
            end = close(number + 1)
            _batch(write.log.run_id, [end]).save(force_insert=True)
    except (OperationalError, InterfaceError):
        raise  # storage is broken for all: the whole transaction is tried again
    except Exception as error:
        log.exception("closing run %s failed", write.log.run_id)
        return error
    return end


def _batch(run_id: UUID, events: Sequence[RunEvent]) -> EventBatch:
    return EventBatch(
        run_id=run_id, first=events[0].number, last=events[-1].number, lines=to_lines(events)
    )


def stored_events(run_id: UUID, after: int = 0) -> list[RunEvent]:
    """The stored events of a run with numbers over `after`."""
    batches = EventBatch.objects.filter(run_id=run_id, last__gt=after).order_by("first")
    return [event for batch in batches for event in batch.events if event.number > after]


def stored_number(run_id: UUID) -> int:
    """The number of the last stored event, 0 if there is none."""
    last = EventBatch.objects.filter(run_id=run_id).order_by("-first").values_list("last").first()
    return last[0] if last else 0


def _read_page(run_id: UUID, after: int) -> tuple[list[RunEvent], bool, bool]:
    """The next stored events, whether there are more of them, and whether the run is over.

    About PAGE characters: many readers of a long run must not each hold all of it. For the same
    reason they share an event that is long by itself, such as the end with the whole text.
    """
    is_over = not Run.objects.running().filter(pk=run_id).exists()  # first, as in `_read`
    page: list[RunEvent] = []
    size, count = 0, PAGE_ROWS
    while size < PAGE:
        batches = EventBatch.objects.filter(run_id=run_id, last__gt=after).order_by("first")
        rows = list(batches[:count])
        for event in (event for row in rows for event in row.events if event.number > after):
            if size >= PAGE:
                return page, True, is_over
            if len(event.data) > SHARED_EVENT:
                event = _shared.setdefault((run_id, event.number), event)
            page.append(event)
            size += len(event.data)
        if len(rows) < count:
            return page, False, is_over
        after, count = rows[-1].last, 2 * count
    return page, True, is_over


def _read(run_id: UUID, after: int) -> tuple[list[RunEvent], bool]:
    # The status first: if it says that the run is over, all its events are there to be read.
    is_over = not Run.objects.running().filter(pk=run_id).exists()
    return stored_events(run_id, after), is_over
