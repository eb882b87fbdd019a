"""What was used, and how fast it came: by day, person and configuration (contract M5).

Everything is read from the usage log. A cost that is not known is counted, never taken for 0. The
percentiles are of runs that were completed; of very many runs they are those of a random sample
(the ids of runs are random), so that they cost the same however long the log is.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import connection
from django.db.models import (
    Aggregate,
    Case,
    CharField,
    Count,
    F,
    Field,
    Func,
    Q,
    Sum,
    Value,
    When,
)

from conversations.models import Run, UsageLog
from conversations.models.runs import UsageLogQuerySet
from monitor.activity import of_user
from monitor.reading import at_leisure

PERCENTS: Final = (50, 95, 99)
LATENCIES: Final = ("time_to_first_chunk", "processing_time", "tokens_per_second")
# Runs of which percentiles are taken. PostgreSQL sorts them; for SQLite it is done here.
SAMPLE: Final = {"postgresql": 100_000, "sqlite": 50_000}
FAILED: Final = (Run.Status.ERROR, Run.Status.INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Period:
    """Days in UTC, the last one included."""

    first: date
    last: date

    @classmethod
    def last_days(cls, count: int, today: date) -> "Period":
        return cls(today - timedelta(days=count - 1), today)

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=number) for number in range(len(self))]

    def __len__(self) -> int:
        return (self.last - self.first).days + 1


@dataclass(frozen=True, slots=True)
class Scope:
    """Of which runs statistics are made: those that `viewer` may see, in a period; empty texts
    stand for any."""

    viewer: AbstractBaseUser
    period: Period
    user: str = ""  # name
    configuration: str = ""  # slug

    @property
    def rows(self) -> UsageLogQuerySet:
        begin = datetime.combine(self.period.first, time(), UTC)
        end = datetime.combine(self.period.last, time(), UTC) + timedelta(days=1)
        rows = UsageLog.objects.visible_to(self.viewer).order_by()
        rows = rows.filter(started_at__gte=begin, started_at__lt=end)
        if self.user:
            rows = rows.filter(of_user(self.user))
        if self.configuration:
            rows = rows.filter(configuration=self.configuration)
        return rows


@dataclass(frozen=True, slots=True)
class Figures:
    """What runs came to. Tokens and cost are of those where they are known; `cost_usd` is None
    where that is none of them. `unknown_tokens` and `unknown_costs` count the others."""

    runs: int = 0
    stopped: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown_tokens: int = 0
    cost_usd: Decimal | None = None
    unknown_costs: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Figures(
            self.runs + other.runs,
            self.stopped + other.stopped,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.unknown_tokens + other.unknown_tokens,
            sum(costs, Decimal(0)) if costs else None,
            self.unknown_costs + other.unknown_costs,
        )

    @property
    def completed(self) -> int:
        return self.runs - self.stopped - self.failed

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


NOTHING: Final = Figures()
Percentiles = tuple[float | None, ...]  # one for each of PERCENTS


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in the order of PERCENTS; None where no run has the figure."""

    time_to_first_chunk: Percentiles = (None,) * len(PERCENTS)  # s
    processing_time: Percentiles = (None,) * len(PERCENTS)  # s
    tokens_per_second: Percentiles = (None,) * len(PERCENTS)


UNKNOWN: Final = Latency()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: the figures of a day, a person or a configuration."""

    name: Any
    figures: Figures
    latency: Latency


@dataclass(frozen=True, slots=True)
class Statistics:
    """`days` has every day of the period; the others are those with runs, the most first.
    `sampled` is the number of runs that the percentiles are of, None where it is all of them."""

    total: Line
    days: list[Line]
    users: list[Line]
    configurations: list[Line]
    errors: list[tuple[str, int]]  # by code
    sampled: int | None


# A person whose account is gone is known by the name that is written out.
GONE_NAME = Case(When(user=None, then=F("username")), default=Value(""), output_field=CharField())
Key = tuple[Any, ...]


class UtcDay(Func):
    """The day of a moment in UTC, as a date or as its ISO form. Django's own function is one call
    of Python a row on SQLite."""

    output_field = CharField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "SUBSTR(%(expressions)s, 1, 10)"
        return self.as_sql(compiler, connection, template=template, **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "(%(expressions)s AT TIME ZONE 'UTC')::date"
        return self.as_sql(compiler, connection, template=template, **extra)


class SortedPercentiles(Aggregate):
    """The percentiles of a column, between its values where need be. PostgreSQL alone."""

    output_field = Field()  # a list of numbers or None
    template = "percentile_cont(ARRAY[{}]) WITHIN GROUP (ORDER BY %(expressions)s)".format(
        ", ".join(str(percent / 100) for percent in PERCENTS)
    )


GROUPINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "total": {},
    "day": {"day": UtcDay("started_at")},
    "user": {"of": F("user_id"), "gone": GONE_NAME},
    "configuration": {"of": F("configuration")},
}


async def statistics(scope: Scope) -> Statistics:
    by_day, by_both, errors = await asyncio.gather(
        at_leisure(figures)(scope, GROUPINGS["day"]),
        # Of people and configurations there are few: one pass over the log gives both.
        at_leisure(figures)(scope, {**GROUPINGS["user"], "slug": F("configuration")}),
        at_leisure(errors_by_code)(scope),
    )
    total = sum(by_day.values(), NOTHING)
    rate = sampling_rate(total.runs)
    if connection.vendor == "postgresql":
        slow = await asyncio.gather(
            *(at_leisure(sorted_latencies)(scope, rate, keys) for keys in GROUPINGS.values())
        )
        latencies = dict(zip(GROUPINGS, slow, strict=True))
    else:
        latencies = await at_leisure(counted_latencies)(scope, rate)
    names = await at_leisure(usernames)([key[0] for key in by_both])
    days = {date.fromisoformat(str(key[0])): key for key in {*by_day, *latencies["day"]}}
    return Statistics(
        total=Line(None, total, latencies["total"].get((), UNKNOWN)),
        days=[
            Line(day, by_day.get(key, NOTHING), latencies["day"].get(key, UNKNOWN))
            for day in scope.period.days
            for key in [days.get(day, ())]
        ],
        users=_lines(
            _folded(by_both, lambda key: key[:2]),
            latencies["user"],
            lambda key: names.get(key[0], "") if key[0] else key[1],
        ),
        configurations=_lines(
            _folded(by_both, lambda key: key[2:]), latencies["configuration"], lambda key: key[0]
        ),
        errors=errors,
        sampled=None if rate == 1 else SAMPLE[connection.vendor],
    )


def figures(scope: Scope, keys: Mapping[str, Any]) -> dict[Key, Figures]:
    """The figures of each group, by its key."""
    groups = _grouped(
        scope.rows,
        keys,
        {
            "n": Count("*"),
            "n_stopped": Count("pk", filter=Q(status=Run.Status.STOPPED)),
            "n_failed": Count("pk", filter=Q(status__in=FAILED)),
            "sum_prompt": Sum("prompt_tokens", default=0),
            "sum_completion": Sum("completion_tokens", default=0),
            "n_tokens": Count("pk", filter=Q(prompt_tokens=None) | Q(completion_tokens=None)),
            "sum_cost": Sum("cost_usd"),
            "n_costs": Count("pk", filter=Q(cost_usd=None)),
        },
    )
    return {key: Figures(*values) for key, values in groups}


def _grouped(
    rows: UsageLogQuerySet, keys: Mapping[str, Any], aggregates: Mapping[str, Any]
) -> Iterator[tuple[Key, tuple[Any, ...]]]:
    """Each group's key and values; without keys all rows are one group."""
    if not keys:
        yield (), tuple(rows.aggregate(**aggregates).values())
        return
    for row in rows.values(**keys).annotate(**aggregates).values_list(*keys, *aggregates):
        yield row[: len(keys)], row[len(keys) :]


def errors_by_code(scope: Scope) -> list[tuple[str, int]]:
    """How often each error came, the most frequent first."""
    counted = scope.rows.exclude(code="").values_list("code").annotate(n=Count("pk"))
    return sorted(counted, key=lambda row: (-row[1], row[0]))


def usernames(ids: Iterable[int | None]) -> dict[int, str]:
    """The present names of these people."""
    people = get_user_model().objects.filter(pk__in={id_ for id_ in ids if id_})
    return dict(people.values_list("pk", "username"))


# ---- Percentiles


def sampling_rate(runs: int) -> float:
    return min(1.0, SAMPLE[connection.vendor] / max(runs, 1))


def _completed(scope: Scope, rate: float) -> UsageLogQuerySet:
    rows = scope.rows.filter(status=Run.Status.DONE)
    return rows if rate == 1 else rows.filter(run_id__lt=UUID(int=int(rate * 2**128)))


def sorted_latencies(scope: Scope, rate: float, keys: Mapping[str, Any]) -> dict[Key, Latency]:
    """The percentiles of each group, by its key, as PostgreSQL finds them."""
    aggregates = {f"p_{name}": SortedPercentiles(name) for name in LATENCIES}
    none = (None,) * len(PERCENTS)
    return {
        key: Latency(*(tuple(value or none) for value in values))
        for key, values in _grouped(_completed(scope, rate), keys, aggregates)
    }


def counted_latencies(scope: Scope, rate: float) -> dict[str, dict[Key, Latency]]:
    """The percentiles of each group of each grouping. SQLite has no function for them."""
    keys = {**GROUPINGS["day"], **GROUPINGS["user"], "slug": F("configuration")}
    values: dict[str, dict[Key, list[tuple[float | None, ...]]]] = {
        name: defaultdict(list) for name in GROUPINGS
    }
    rows = _completed(scope, rate).annotate(**keys).values_list(*keys, *LATENCIES)
    for day, user, gone, slug, *measured in rows.iterator(chunk_size=5_000):
        row = tuple(measured)
        values["total"][()].append(row)
        values["day"][day,].append(row)
        values["user"][user, gone].append(row)
        values["configuration"][slug,].append(row)
    return {
        name: {key: _latency(rows) for key, rows in groups.items()}
        for name, groups in values.items()
    }


def _latency(rows: Sequence[tuple[float | None, ...]]) -> Latency:
    columns = (
        [value for value in column if value is not None] for column in zip(*rows, strict=True)
    )
    return Latency(*(percentiles(column) for column in columns))


def percentiles(values: list[float]) -> Percentiles:
    """As PostgreSQL's percentile_cont: between the two values around, in proportion."""
    if not values:
        return (None,) * len(PERCENTS)
    values = sorted(values)
    found = []
    for percent in PERCENTS:
        place = percent / 100 * (len(values) - 1)
        below = math.floor(place)
        above = min(below + 1, len(values) - 1)
        found.append(values[below] + (values[above] - values[below]) * (place - below))
    return tuple(found)


# ---- Tables


def _folded(groups: Mapping[Key, Figures], part: Callable[[Key], Key]) -> dict[Key, Figures]:
    folded: dict[Key, Figures] = defaultdict(Figures)
    for key, found in groups.items():
        folded[part(key)] += found
    return folded


def _lines(
    groups: Mapping[Key, Figures], latencies: Mapping[Key, Latency], name: Callable[[Key], str]
) -> list[Line]:
    lines = [Line(name(key), found, latencies.get(key, UNKNOWN)) for key, found in groups.items()]
    return sorted(lines, key=lambda line: (-line.figures.runs, line.name))
