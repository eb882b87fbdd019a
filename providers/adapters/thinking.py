"""Thinking that comes inside the text, as `<think>…</think>`: made into reasoning events.

Models such as DeepSeek R1 and Qwen write their thinking between these tags. Servers with a parser
for them send it in a field of its own, servers without one leave it in the text: llama.cpp, vLLM,
LM Studio, Ollama and what stands behind gateways (local.md). So this is done for every kind that
passes on the text of such models:

    class Local(ThinkTags, OpenAICompatible): ...

Only tags at the very start of an answer count; a tag that comes later is text which mentions it.
Without the opening tag (some templates put it into the prompt) thinking cannot be told from text
until it is over and shown, so it stays text: such servers have to parse it themselves.
"""

from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Final

from providers.adapters.base import Adapter, Target
from providers.errors import ProviderError
from providers.events import Event, Finish, ReasoningDelta, TextDelta, ToolCallDelta

OPENING: Final = "<think>"
CLOSING: Final = "</think>"
KEPT_MOST: Final = 1_000  # characters of white space that are waited through


class ThinkTags(Adapter):
    """Stands before another adapter in a class's bases, and changes what that one reads."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._think_tags = _Reader()

    def read(self, data: bytes) -> Iterator[Event]:
        yield from self._think_tags.read(super().read(data))

    def close(self) -> Iterator[Event]:
        yield from self._think_tags.read(super().close())
        yield from self._think_tags.rest()


class _Place(Enum):
    START = auto()  # nothing yet, or what may become the opening tag
    THINKING = auto()  # between the tags
    ANSWER = auto()  # after them, or where there are none


class _Reader:
    """The same events, with what is between the tags as reasoning.

    Joined, with the tags put back, they are what the provider wrote. Left out is only white space:
    thinking that has nothing else, which models write that did not think, and what stands before
    thinking that never ends.
    """

    def __init__(self) -> None:
        self._place = _Place.START
        self._kept = ""  # the end of what came, while it may be part of a tag or nothing but space
        self._before = ""  # white space before the opening tag: it belongs to the answer
        self._has_thought = False

    def read(self, events: Iterable[Event]) -> Iterator[Event]:
        """What `events` become. An error passes through after what was kept back."""
        if self._place is _Place.ANSWER:
            yield from events
            return
        try:
            for event in events:
                yield from self._of(event)
        except ProviderError:
            yield from self.rest()
            raise

    def rest(self) -> Iterator[Event]:
        """What was kept back, when nothing more can make a tag of it."""
        kept, self._kept = self._kept, ""
        place, self._place = self._place, _Place.ANSWER
        if kept and place is _Place.START:
            yield TextDelta(kept)
        elif kept and (self._has_thought or not kept.isspace()):
            yield ReasoningDelta(kept)

    def _of(self, event: Event) -> Iterator[Event]:
        match event:
            case TextDelta(text) if self._place is _Place.START:
                yield from self._at_start(text)
            case TextDelta(text) if self._place is _Place.THINKING:
                yield from self._thinking(text)
            case ReasoningDelta() | ToolCallDelta() | Finish():
                # A server that sends thinking in its own field has no tags in its text.
                if self._place is not _Place.ANSWER:
                    yield from self.rest()
                yield event
            case _:
                yield event

    def _at_start(self, text: str) -> Iterator[Event]:
        self._kept += text
        begun = self._kept.lstrip()
        if begun.startswith(OPENING):
            self._before = self._kept[: -len(begun)]
            self._kept = ""
            self._place = _Place.THINKING
            yield from self._thinking(begun.removeprefix(OPENING))
        elif not OPENING.startswith(begun) or len(self._kept) > KEPT_MOST:
            yield from self.rest()

    def _thinking(self, text: str) -> Iterator[Event]:
        text = self._kept + text
        thought, closing, answer = text.partition(CLOSING)
        self._kept = ""
        if not closing:
            thought, self._kept = _divided(text)
            if not self._has_thought and thought.isspace():
                if len(thought) <= KEPT_MOST:
                    thought, self._kept = "", text
                else:
                    self._has_thought = True
        if thought and (self._has_thought or not thought.isspace()):
            self._has_thought = True
            yield ReasoningDelta(thought)
        if closing:
            answer, self._before = self._before + answer, ""
            self._place = _Place.ANSWER
            if answer:
                yield TextDelta(answer)


def _divided(text: str) -> tuple[str, str]:
    """`text` without the part of a closing tag that it may end with, and that part."""
    at = text.rfind("<", -len(CLOSING) + 1)
    if at >= 0 and CLOSING.startswith(text[at:]):
        return text[:at], text[at:]
    return text, ""
