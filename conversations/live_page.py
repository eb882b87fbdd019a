"""The page's view of a run: rendered blocks in place of chunks (contract S2, `?view=html`).

Nothing here keeps a state that a reader would have to come back to. A reader who resumes gets
every block again with the first one that changes; drawing a block twice changes nothing.

The page never has the text itself, so two things are checked at the end. Here: the chunks against
the length and SHA-256 that the end event has of the stored text. In the page: the blocks that it
holds against the `view` that is added to that event, which says what it must hold by then.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any
from uuid import UUID

from django.db import DatabaseError
from django.db.models import F

from conversations import events
from conversations.background import in_database
from conversations.events import RunEvent
from conversations.metering import meter
from conversations.models import Run
from conversations.rendering import BlockRenderer
from conversations.shortening import LONG, shortened

log = logging.getLogger(__name__)

PACE = 0.06  # s between two renderings of the open block at the least
SHARE = 0.1  # of the time that one reader's renderings may take at the most
MOST_MISMATCHES = 1_000  # that are counted of one run

# Beside the event loop, and beside the database's pool: a hostile answer delays only its readers.
_pool = ThreadPoolExecutor(2, thread_name_prefix="rendering")


async def blocks(
    run: Run, followed: AsyncGenerator[Sequence[RunEvent], None], after: int
) -> AsyncGenerator[Sequence[RunEvent], None]:
    """The events of `followed` (all of them, from number 1) that come after number `after`, with
    `block` events in place of the chunks. A block's number is the last one that it covers."""
    answer = _Answer(run, is_resumed=after > 0)
    has_begun = False
    async for batch in followed:
        started = monotonic()
        if batch and batch[0].number == 1 and has_begun:
            # The log starts over, and so does the page.
            answer, after = _Answer(run, is_resumed=False), 0
        has_begun = has_begun or bool(batch)
        shown = await _shown(run.pk, answer, batch, after) if batch else []
        cost = monotonic() - started
        yield shown
        # What comes while we wait is read in one batch afterwards: a position needs no queue.
        await asyncio.sleep(max(PACE, cost / SHARE) if shown else 0)


async def blocks_now(run: Run, batch: Sequence[RunEvent], after: int) -> Sequence[RunEvent]:
    """The same for what there is at this moment: `batch` has all events from number 1."""
    return await _shown(run.pk, _Answer(run, is_resumed=after > 0), batch, after)


async def _shown(
    run_id: UUID, answer: "_Answer", batch: Sequence[RunEvent], after: int
) -> list[RunEvent]:
    loop = asyncio.get_running_loop()
    shown = await loop.run_in_executor(_pool, answer.take, batch, after)
    if not answer.is_as_stored:
        log.error("the chunks of run %s are not the text that its end event is about", run_id)
        try:
            await in_database(count_mismatch)(run_id)
        except DatabaseError:
            log.exception("a mismatch of run %s could not be counted", run_id)
    return shown


def _without_images(event: RunEvent) -> RunEvent:
    """A request as the page needs it: megabytes of images would stand before the first text."""
    if len(event.data) < LONG:
        return event
    return RunEvent(event.number, event.type, events.encode(shortened(event.fields)))


def count_mismatch(run_id: UUID) -> None:
    """Notes that a reader had something else than what is stored."""
    meter.count_mismatch()
    counted = Run.objects.filter(pk=run_id, mismatches__lt=MOST_MISMATCHES)
    counted.update(mismatches=F("mismatches") + 1)


class _Answer:
    """The answer of one run as one reader has it."""

    def __init__(self, run: Run, *, is_resumed: bool) -> None:
        self.is_as_stored = True  # as far as the end event has told
        self._renderer = BlockRenderer(is_json=run.answers_json)
        self._sent = 0  # closed blocks that this reader has
        self._has_open = is_resumed  # whether it has, or may have, an open block after those
        self._tokens = 0
        self._length = 0  # of the text, in code points
        self._digest = hashlib.sha256()

    def take(self, batch: Sequence[RunEvent], after: int) -> list[RunEvent]:
        """What the reader gets for these events. Runs in a thread, one call at a time."""
        shown: list[RunEvent] = []
        number = 0  # of the last chunk that is not shown yet
        for event in batch:
            if event.type == "chunk":
                self._feed(event.fields)
                number = event.number
            elif event.is_end:
                shown += self._all_closed(event.number - 1)
                shown.append(self._checked(event))
                number = 0
            elif event.number > after:
                shown.append(_without_images(event) if event.type == "request_data" else event)
        # Blocks take the number of the batch's last event, so that numbers never go back.
        return shown + (self._changed(batch[-1].number) if number > after else [])

    def _feed(self, chunk: dict[str, Any]) -> None:
        text = chunk["content"]
        self._renderer.feed(text)
        self._tokens = chunk["tokens"]
        self._length += len(text)
        self._digest.update(text.encode())

    def _changed(self, number: int) -> list[RunEvent]:
        closed = self._renderer.closed
        fresh = range(self._sent, len(closed))
        changed = [self._block(index, closed[index], number) for index in fresh]
        self._sent = len(closed)
        open_html = self._renderer.open_html()
        if open_html or self._has_open:
            changed.append(self._block(self._sent, open_html, number, is_open=True))
        self._has_open = bool(open_html)
        return changed

    def _all_closed(self, number: int) -> list[RunEvent]:
        closed = self._renderer.finish()
        late = [index for index in self._renderer.changed if index < self._sent]
        changed = [
            self._block(index, closed[index], number)
            for index in [*late, *range(self._sent, len(closed))]
        ]
        if self._has_open and self._sent in (0, len(closed)):
            # What was shown as open came to nothing (a link's definition, for instance); or it
            # may have, where a reader resumed and has got no block since.
            changed.append(self._block(len(closed), "", number))
        return changed

    def _block(self, index: int, html: str, number: int, *, is_open: bool = False) -> RunEvent:
        data = events.block(index, html, is_open=is_open, tokens=self._tokens)
        return RunEvent(number, "block", data)

    def _checked(self, end: RunEvent) -> RunEvent:
        """The end event with a `view`: whether the text is the stored one, and what the reader's
        blocks are together, joined with line feeds. Blocks beyond their number are empty."""
        told = end.fields
        if "sha256" in told:  # what older versions stored says nothing of its text
            is_same_text = told["sha256"] == self._digest.hexdigest()
            self.is_as_stored = is_same_text and told["length"] == self._length
        closed = self._renderer.closed
        html = "\n".join(closed)
        view = {
            "is_as_stored": self.is_as_stored,
            "blocks": len(closed),
            "length": len(html),
            "sha256": hashlib.sha256(html.encode()).hexdigest(),
        }
        # Put together by hand: the text may be long, and is encoded already.
        return RunEvent(end.number, end.type, f'{end.data[:-1]},"view":{events.encode(view)}}}')
