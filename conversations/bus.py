"""Carries the events of running runs to their readers, and wakes them.

The bus is the fast way, not the truth: it may forget, lose or repeat. A reader that finds a gap
reads the database (`journal.follow`). One implementation serves one process; one that joins
several processes has the same three methods.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from conversations.events import RunEvent

KEPT_EVENTS = 4096  # of one run; a reader that is further behind reads the database


class Bus(Protocol):
    """Live events by run."""

    def publish(self, run_id: UUID, events: Sequence[RunEvent]) -> None:
        """Makes `events`, which follow those published before, visible to readers. No waiting."""

    async def read(self, run_id: UUID, after: int, wait: float) -> Sequence[RunEvent]:
        """The known events with numbers over `after`, in order and without a gap among them.

        The first may be later than `after` + 1. Waits up to `wait` seconds for one; then empty.
        """

    def forget(self, run_id: UUID) -> None:
        """Drops what is kept of a run; its readers turn to the database."""


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


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
