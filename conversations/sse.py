"""Run events as server-sent events (WHATWG HTML, "Server-sent events"; contract S1, S2, S9)."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from uuid import UUID

from django.http import StreamingHttpResponse

from conversations.events import RunEvent

PING = b": ping\n\n"
RECONNECT_AFTER = 1000  # ms, what an EventSource waits when the connection is lost
NAMED = "request_data"  # the one type that is an event name as well (S2)


def frame(run_id: UUID, event: RunEvent) -> str:
    name = f"event: {NAMED}\n" if event.type == NAMED else ""
    return f"id: {run_id}:{event.number}\n{name}data: {event.data}\n\n"


async def frames(
    run_id: UUID, batches: AsyncGenerator[Sequence[RunEvent], None]
) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream: a batch is one write, an empty one a ping."""
    hint = f"retry: {RECONNECT_AFTER}\n"
    async with aclosing(batches):
        async for batch in batches:
            if batch:
                yield (hint + "".join(frame(run_id, event) for event in batch)).encode()
                hint = ""
            else:
                yield PING


def parse_id(text: str) -> tuple[str, int] | None:
    """Run id and number from the text of an `id:` line; None if it is no id of ours."""
    run_id, separator, number = text.strip().rpartition(":")
    if not separator or not (number.isascii() and number.isdigit()) or len(number) > 9:
        return None
    return run_id, int(number)


def response(content: AsyncIterator[bytes]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        content,
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )
