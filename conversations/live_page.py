"""The page's view of a run: rendered blocks in place of chunks (contract S2, `?view=html`).

Nothing here keeps a state that a reader would have to come back to. A reader who resumes gets
every block again with the first one that changes; drawing a block twice changes nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from conversations import events
from conversations.events import RunEvent
from conversations.rendering import BlockRenderer

PACE = 0.06  # s between two renderings of the open block at the least
SHARE = 0.1  # of the time that one reader's renderings may take at the most

# Beside the event loop, and beside the database's pool: a hostile answer delays only its readers.
_pool = ThreadPoolExecutor(2, thread_name_prefix="rendering")


async def blocks(
    followed: AsyncGenerator[Sequence[RunEvent], None], after: int
) -> AsyncGenerator[Sequence[RunEvent], None]:
    """The events of `followed` (all of them, from number 1) that come after number `after`, with
    `block` events in place of the chunks. A block's number is the last one that it covers."""
    answer = _Answer(is_resumed=after > 0)
    has_begun = False
    loop = asyncio.get_running_loop()
    async for batch in followed:
        started = monotonic()
        if batch and batch[0].number == 1 and has_begun:
            answer, after = (
                _Answer(is_resumed=False),
                0,
            )  # the log starts over, and so does the page
        has_begun = has_begun or bool(batch)
        shown = await loop.run_in_executor(_pool, answer.take, batch, after) if batch else []
        cost = monotonic() - started
        yield shown
        # What comes while we wait is read in one batch afterwards: a position needs no queue.
        await asyncio.sleep(max(PACE, cost / SHARE) if shown else 0)


class _Answer:
    """The answer of one run as one reader has it."""

    def __init__(self, *, is_resumed: bool) -> None:
        self._renderer = BlockRenderer()
        self._sent = 0  # closed blocks that this reader has
        self._has_open = is_resumed  # whether it has, or may have, an open block after those
        self._tokens = 0

    def take(self, batch: Sequence[RunEvent], after: int) -> list[RunEvent]:
        """What the reader gets for these events. Runs in a thread, one call at a time."""
        shown: list[RunEvent] = []
        number = 0  # of the last chunk that is not shown yet
        for event in batch:
            if event.type == "chunk":
                fields = event.fields
                self._renderer.feed(fields["content"])
                self._tokens = fields["tokens"]
                number = event.number
            elif event.is_end:
                shown += self._all_closed(event.number - 1)
                shown.append(event)
                number = 0
            elif event.number > after:
                shown.append(event)
        # Blocks take the number of the batch's last event, so that numbers never go back.
        return shown + (self._changed(batch[-1].number) if number > after else [])

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
