"""Carries the events of running runs to their readers, and wakes them.

The bus is the fast way, not the truth: it may forget, lose or repeat. A reader that finds a gap
reads the database (`journal.follow`). `LocalBus` serves one process, `redis_bus.RedisBus` joins
several.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from conversations.events import RunEvent

KEPT_EVENTS = 4096  # of one run; a reader that is further behind reads the database


class Bus(Protocol):
    """Live events by run, and the one word that travels the other way: stop."""

    def publish(self, run_id: UUID, events: Sequence[RunEvent]) -> None:
        """Makes `events`, which follow those published before, visible to readers. No waiting."""

    async def read(self, run_id: UUID, after: int, wait: float) -> Sequence[RunEvent]:
        """The known events with numbers over `after`, in order and without a gap among them.

        The first may be later than `after` + 1. Waits up to `wait` seconds for one; then empty.
        """

    def forget(self, run_id: UUID) -> None:
        """Drops what is kept of a run; its readers turn to the database."""

    async def ask_to_stop(self, worker: UUID, run_id: UUID) -> None:
        """Asks the process that owns a run to stop it. The word may get lost: it is stored too."""

    async def serve(self, worker: UUID, on_stop: Callable[[UUID], None]) -> None:
        """Carries what goes between processes until it is cancelled. `on_stop` is told the runs
        of `worker` that another process wants stopped."""


class _Topic:
    """The last events of one run, and who waits for the next."""

    __slots__ = ("events", "waiting")

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.waiting: set[asyncio.Future[None]] = set()

    def after(self, number: int) -> Sequence[RunEvent]:
        if not self.events or self.events[-1].number <= number:
            return ()
        # The numbers have no gap, so a number's distance from the first is its index.
        return self.events[max(0, number + 1 - self.events[0].number) :]

    def wake(self) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(None)


class LocalBus:
    """The bus inside one process: a list of events for each run, no copies for its readers."""

    def __init__(self) -> None:
        self._topics: dict[UUID, _Topic] = {}

    def publish(self, run_id: UUID, events: Sequence[RunEvent]) -> None:
        topic = self._topics.setdefault(run_id, _Topic())
        if topic.events and events[0].number != topic.events[-1].number + 1:
            # Something between was lost on the way here. What is kept has no gap: readers that
            # are behind it find what they miss in the database.
            topic.events.clear()
        topic.events.extend(events)
        if len(topic.events) > 2 * KEPT_EVENTS:  # seldom, so that it costs nothing per event
            del topic.events[:-KEPT_EVENTS]
        topic.wake()

    async def read(self, run_id: UUID, after: int, wait: float) -> Sequence[RunEvent]:
        topic = self._topics.setdefault(run_id, _Topic())
        try:
            found = topic.after(after)
            if found or wait <= 0:
                return found
            loop = asyncio.get_running_loop()
            woken = loop.create_future()
            topic.waiting.add(woken)
            timer = loop.call_later(wait, _set, woken)
            try:
                await woken
            finally:
                timer.cancel()
                topic.waiting.discard(woken)
            return topic.after(after)
        finally:
            if not topic.events and not topic.waiting and self._topics.get(run_id) is topic:
                del self._topics[run_id]  # nobody publishes here: only readers came by

    def forget(self, run_id: UUID) -> None:
        if topic := self._topics.pop(run_id, None):
            topic.wake()

    async def ask_to_stop(self, worker: UUID, run_id: UUID) -> None:
        """Nothing to do: a run of this process is stopped directly, and there are no others."""

    async def serve(self, worker: UUID, on_stop: Callable[[UUID], None]) -> None:
        """Nothing to carry."""

    def is_read(self, run_id: UUID) -> bool:
        """Whether somebody waits for this run's next event."""
        topic = self._topics.get(run_id)
        return topic is not None and bool(topic.waiting)

    def known(self, run_id: UUID) -> int:
        """The number of the last event that is kept, 0 if there is none."""
        topic = self._topics.get(run_id)
        return topic.events[-1].number if topic and topic.events else 0


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
