"""What this process has counted since it started, for operators: runs, tokens, money, times.

Fed by the usage row that every call to a provider leaves (once it is committed), and by the engine
where a request is repeated. In memory alone: a server that restarts begins at 0, which is what
programs that read counters expect. The numbers of all processes together are in the usage logs.

Labels are what administrators chose (configurations, models) or few by nature, never people. Where
a counter has MOST_LABELS sets of them all the same, what is new counts under "other".
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Final

from django.db import transaction
from django.db.models.signals import post_save

from conversations.models import Run, UsageLog

MOST_LABELS: Final = 500
OTHER: Final = "other"
# The boundaries that OpenTelemetry's conventions for generative AI give (in seconds, in tokens).
# Source: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics.
SECONDS: Final = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
TOKENS: Final = tuple(4**power for power in range(14))

Labels = tuple[str, ...]


@dataclass(slots=True)
class Distribution:
    """How often a value was at most each boundary (and in the last place, over all of them)."""

    counts: list[int]
    sum: float = 0.0


@dataclass
class Counter:
    """A number for each set of values that `labels` name. Only grows."""

    name: str
    help: str
    labels: Labels
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, amount: float = 1) -> None:
        key = _bounded(labels, self.values)
        self.values[key] = self.values.get(key, 0) + amount


@dataclass
class Histogram:
    """A distribution for each set of values that `labels` name."""

    name: str
    help: str
    labels: Labels
    boundaries: Sequence[float]
    values: dict[Labels, Distribution] = field(default_factory=dict)

    def add(self, *labels: str, value: float) -> None:
        key = _bounded(labels, self.values)
        found = self.values.get(key)
        if found is None:
            found = self.values[key] = Distribution([0] * (len(self.boundaries) + 1))
        found.counts[bisect_left(self.boundaries, value)] += 1
        found.sum += value


def _bounded(labels: Labels, known: dict[Labels, Any]) -> Labels:
    is_new = labels not in known and len(known) >= MOST_LABELS
    return (OTHER,) * len(labels) if is_new else labels


class Meter:
    """All that one process counts. Safe in threads: the writer feeds it, views read it."""

    def __init__(self) -> None:
        self.lock = Lock()
        who = ("provider", "model", "configuration", "origin")
        self.runs = Counter(
            "llmchat_runs_total", "Runs that ended, by how they ended.", ("status", "code", *who)
        )
        self.tokens = Counter(
            "llmchat_tokens_total",
            "Tokens used; reasoning is part of completion, cached of prompt.",
            ("type", *who),
        )
        self.cost = Counter(
            "llmchat_cost_usd_total", "Cost in USD, by where it is known from.", ("source", *who)
        )
        self.unpriced = Counter(
            "llmchat_runs_with_unknown_cost_total", "Runs whose cost is not known.", who
        )
        about = ("provider", "model", "code")
        self.retries = Counter(
            "llmchat_retries_total", "Requests repeated before the first chunk, by why.", about
        )
        self.errors = Counter(
            "llmchat_provider_errors_total",
            "Failed requests, repeated ones too, and ends of runs by the server itself.",
            about,
        )
        self.mismatches = Counter(
            "llmchat_mismatches_total",
            "Times that a reader had not received what was stored. Has to be 0.",
            (),
        )
        self.mismatches.values[()] = 0  # shown before the first one, so that 0 can be seen
        told = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
        self.token_usage = Histogram(
            "gen_ai_client_token_usage",
            "Input and output tokens used by a run.",
            (*told, "gen_ai_token_type"),
            TOKENS,
        )
        self.duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Duration of runs, with all their attempts.",
            (*told, "error_type"),
            SECONDS,
        )
        self.first_chunk = Histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From the start of a run to its first text or tool call.",
            told,
            SECONDS,
        )

    def counters(self) -> list[Counter]:
        """Copies of all, as they are at this moment: who counts does not wait for who reads."""
        with self.lock:
            return [
                replace(found, values=dict(found.values))
                for found in vars(self).values()
                if isinstance(found, Counter)
            ]

    def histograms(self) -> list[Histogram]:
        """Copies of all, likewise."""
        with self.lock:
            return [
                replace(
                    found,
                    values={
                        labels: Distribution(list(one.counts), one.sum)
                        for labels, one in found.values.items()
                    },
                )
                for found in vars(self).values()
                if isinstance(found, Histogram)
            ]

    def count_usage(self, row: UsageLog) -> None:
        """A run, or another call to a provider, has ended and is stored."""
        who = (row.provider, row.model, row.configuration, row.origin)
        told = ("chat", row.provider, row.model)
        with self.lock:
            self.runs.add(row.status, row.code, *who)
            if row.status == Run.Status.ERROR:
                self.errors.add(row.provider, row.model, row.code)
            for name, tokens in (
                ("prompt", row.prompt_tokens),
                ("completion", row.completion_tokens),
                ("reasoning", row.reasoning_tokens),
                ("cached", row.cached_tokens),
            ):
                if tokens is not None:
                    self.tokens.add(name, *who, amount=tokens)
            for name, tokens in (("input", row.prompt_tokens), ("output", row.completion_tokens)):
                if tokens is not None:
                    self.token_usage.add(*told, name, value=tokens)
            if row.cost_usd is None:
                self.unpriced.add(*who)
            else:
                self.cost.add(row.cost_source, *who, amount=float(row.cost_usd))
            if row.processing_time is not None:
                self.duration.add(*told, row.code, value=row.processing_time)
            if row.time_to_first_chunk is not None:
                self.first_chunk.add(*told, value=row.time_to_first_chunk)

    def count_retry(self, provider: str, model: str, code: str) -> None:
        """A request failed with this code and is going to be repeated."""
        with self.lock:
            self.retries.add(provider, model, code)
            self.errors.add(provider, model, code)

    def count_mismatch(self) -> None:
        with self.lock:
            self.mismatches.add()


meter = Meter()


def count_stored_usage(instance: UsageLog, created: bool, **_: Any) -> None:
    """Receives `post_save`. What is rolled back and tried again counts once."""
    if created:
        transaction.on_commit(lambda: meter.count_usage(instance), robust=True)


def connect() -> None:
    """Begins to count."""
    post_save.connect(count_stored_usage, sender=UsageLog, dispatch_uid="metering")
