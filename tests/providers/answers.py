"""One answer read by an adapter from pieces of bytes, and what it came to."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from providers.adapters.base import Adapter
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


def split(body: bytes, how: str) -> list[bytes]:
    """The body in pieces: "whole", "bytes", or of random sizes with `how` as the seed."""
    if how == "whole":
        return [body]
    if how == "bytes":
        return [body[i : i + 1] for i in range(len(body))]
    sizes = random.Random(how)
    pieces, start = [], 0
    while start < len(body):
        size = sizes.choice((1, 2, 3, 17, 300, 4_000))
        pieces.append(body[start : start + size])
        start += size
    return pieces


SPLITS = ("whole", "bytes", "seed 1", "seed 2", "seed 3")
