"""What a model can say while it answers: frozen values, the only way out of an adapter.

A provider's own words become these once, in its adapter; everything after that reads only these.
A figure that a provider did not give is None: 0 would look like something it had measured.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class FinishReason(StrEnum):
    """Why the model stopped, in the field's common words (contract S7)."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer. Joined in order, the pieces are the answer, byte for byte."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's thinking. Never part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: pieces with one `index` belong together.

    `id` and `name` come with the first piece ("" afterwards); `arguments` is JSON text that
    arrives in pieces.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The provider's own counts; a later one replaces an earlier one, they are never added up.

    `prompt_tokens` includes the cached ones, `completion_tokens` the reasoning ones.
    `cost_usd` is set only where the provider names the price of this very answer.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider said that the answer is complete.

    `reason` is None where it gave none that is known; `provider_reason` keeps its own word.
    """

    reason: FinishReason | None
    provider_reason: str | None


Event = TextDelta | ReasoningDelta | ToolCallDelta | Usage | Finish
