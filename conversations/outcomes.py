"""What came of a run: values that the engine and recovery make, and `runs.finish` stores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from conversations.errors import Failure
from conversations.models import Run
from providers.pricing import CostSource, Prices
from providers.schemas import Verdict


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a run used. Counts are None where nothing is known, durations are in seconds."""

    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    cost_usd: Decimal | None
    cost_source: CostSource
    estimated: bool
    processing_time: float
    time_to_first_chunk: float | None
    tokens_per_second: float | None

    @property
    def fields(self) -> dict[str, Any]:
        """The `metrics` of a `done` event (S7)."""
        counts = (self.prompt_tokens, self.completion_tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": None if None in counts else sum(filter(None, counts)),
            "reasoning_tokens": self.reasoning_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": None if self.cost_usd is None else float(self.cost_usd),
            "cost_source": self.cost_source,
            "processing_time": _rounded(self.processing_time),
            "time_to_first_chunk": _rounded(self.time_to_first_chunk),
            "tokens_per_second": _rounded(self.tokens_per_second),
            "estimated": self.estimated,
        }


@dataclass(frozen=True, slots=True)
class Stop:
    """What a stop came to: the number of the last event before it, and the seconds from its word
    until the connection to the provider was closed. `by` is the id of the person, None where the
    wish was stored by another process (then the run's row has it) or nobody is known."""

    at: datetime
    by: int | None
    after: int
    closed_in: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and what is to be kept of it."""

    status: Run.Status
    text: str
    reasoning: str
    reasoning_seconds: float | None
    tool_calls: list[dict[str, str]]
    finish_reason: str | None
    provider_finish_reason: str | None
    failure: Failure | None
    metrics: Metrics
    prices: Prices = field(default_factory=Prices)  # by which the cost was found
    stop: Stop | None = None
    verdict: Verdict | None = None  # of an answer that has a schema

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer to keep: text, a tool call, or a proper end without any."""
        return bool(self.text or self.tool_calls) or self.status == Run.Status.DONE


def joined_tool_calls(pieces: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Whole tool calls from the fields of `tool_call` events, in the order of their index."""
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        call = calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
        for key in ("id", "name", "arguments"):
            call[key] += piece[key]
    return [calls[index] for index in sorted(calls)]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
