"""Run events as server-sent events (WHATWG HTML, "Server-sent events"; contract S1, S2, S9)."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from uuid import UUID

from django.http import HttpResponse, StreamingHttpResponse

from conversations.events import RunEvent

PING = b": ping\n\n"
PIECE = 65_536  # bytes that are written at a time, where there are more
RECONNECT_AFTER = 1000  # ms, what an EventSource waits when the connection is lost
NAMED = "request_data"  # the one type that is an event name as well (S2)
CONTENT_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def frames(
    run_id: UUID, batches: AsyncGenerator[Sequence[RunEvent], None]
) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream: a batch is one write unless it is long, an empty one a ping."""
    hint = f"retry: {RECONNECT_AFTER}\n"
    async with aclosing(batches):
        async for batch in batches:
            if not batch:
                yield PING
                continue
            for piece in _pieces(run_id, batch, hint):
                yield piece
            hint = ""


def _pieces(run_id: UUID, batch: Iterable[RunEvent], start: str) -> Iterator[bytes]:
    """`start` and the frames of a batch, in writes of about PIECE bytes. A viewer who has to wait
    for one of them holds no copy of the rest, however long the batch or an event of it is."""
    text = start
    for event in batch:
        name = f"event: {NAMED}\n" if event.type == NAMED else ""
        text += f"id: {run_id}:{event.number}\n{name}data: "
        for position in range(0, len(event.data), PIECE):
            text += event.data[position : position + PIECE]
            if len(text) >= PIECE:
                yield text.encode()
                text = ""
        text += "\n\n"
    if text:
        yield text.encode()


def parse_id(text: str) -> tuple[str, int] | None:
    """Run id and number from the text of an `id:` line; None if it is no id of ours."""
    run_id, separator, number = text.strip().rpartition(":")
    if not separator or not (number.isascii() and number.isdigit()) or len(number) > 9:
        return None
    return run_id, int(number)


def response(content: AsyncIterator[bytes]) -> StreamingHttpResponse:
    return StreamingHttpResponse(content, content_type=CONTENT_TYPE, headers=HEADERS)


def poll_response(run_id: UUID, events: Sequence[RunEvent]) -> HttpResponse:
    """What there is, at once and complete; where there is nothing new, a ping."""
    content = b"".join(_pieces(run_id, events, "")) or PING
    return HttpResponse(content, content_type=CONTENT_TYPE, headers=HEADERS)
