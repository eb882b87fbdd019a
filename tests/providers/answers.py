"""One answer, from pieces of bytes or over a socket, and what an adapter makes of it."""

import asyncio
import random
import re
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise

from providers import client
from providers.adapters.base import Adapter, ChatMessage, Parameters
from providers.client import Limits
from providers.errors import ProviderError
from providers.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)


@dataclass
class Answer:
    events: list[Event] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, ReasoningDelta))

    @property
    def usage(self) -> Usage:
        return next((e for e in reversed(self.events) if isinstance(e, Usage)), Usage())

    @property
    def finish(self) -> Finish | None:
        """The one finish, which nothing follows."""
        found = [e for e in self.events if isinstance(e, Finish)]
        assert found in ([], self.events[-1:])
        return found[0] if found else None

    @property
    def tool_calls(self) -> list[tuple[str, str, str]]:
        """Id, name and arguments of each call, in order."""
        pieces = [e for e in self.events if isinstance(e, ToolCallDelta)]
        indexes = sorted({piece.index for piece in pieces})
        assert indexes == list(range(len(indexes)))
        calls = [[piece for piece in pieces if piece.index == index] for index in indexes]
        for call in calls:
            assert not any(piece.id or piece.name for piece in call[1:])
        return [(call[0].id, call[0].name, "".join(p.arguments for p in call)) for call in calls]


def read(adapter: Adapter, pieces: list[bytes]) -> Answer:
    """What the adapter makes of these pieces and the end of the body."""

    def events() -> Iterator[Event]:
        for piece in pieces:
            yield from adapter.read(piece)
        yield from adapter.close()

    answer = Answer()
    try:
        answer.events.extend(events())
    except ProviderError as error:
        answer.error = error
    if answer.error:
        assert answer.error.message.startswith(adapter.target.name)
    return answer


def ask(adapter: Adapter, limits: Limits) -> Answer:
    """What comes of asking "hi" over the network, on an event loop of its own."""

    async def alone() -> Answer:
        try:
            return await asked(adapter, limits)
        finally:
            await client.aclose()

    return asyncio.run(alone())


async def asked(adapter: Adapter, limits: Limits) -> Answer:
    """The same on this event loop; `client.aclose` is left to the caller."""
    answer = Answer()
    try:
        request = adapter.request([ChatMessage("user", "hi")], Parameters())
        async with aclosing(client.stream(adapter, request, limits)) as batches:
            async for events in batches:
                answer.events.extend(events)
    except ProviderError as error:
        answer.error = error
    return answer


# Before each byte inside a character, each LF after a CR and each blank line.
_AWKWARD = re.compile(rb"(?=[\x80-\xbf])|(?<=\r)(?=\n)|(?<=[\r\n])(?=[\r\n])")


def split(body: bytes, how: str) -> list[bytes]:
    """The body in pieces: "whole", "bytes", "lines", "awkward" or random ones, `how` their seed."""
    match how:
        case "whole":
            return [body]
        case "bytes":
            return [body[i : i + 1] for i in range(len(body))]
        case "lines":
            return body.splitlines(keepends=True)
        case "awkward":
            cuts = [0, *(found.start() for found in _AWKWARD.finditer(body)), len(body)]
            return [body[i:j] for i, j in pairwise(cuts)]
    sizes = random.Random(how)
    pieces, start = [], 0
    while start < len(body):
        size = sizes.choice((1, 2, 3, 17, 300, 4_000))
        pieces.append(body[start : start + size])
        start += size
    return pieces


SPLITS = ("whole", "bytes", "lines", "awkward", "seed 1", "seed 2", "seed 3")
