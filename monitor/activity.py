"""Every run that a person may see, newest first (contract M4).

Runs that have ended are read from the usage log, which outlives sessions; those that still run
from the runs themselves. Nobody counts rows or skips them: a page begins after a row, so that the
millionth is as near as the first.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple, Self
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Q

from conversations.models import ChatSession, Run, UsageLog
from conversations.models.runs import RunQuerySet, UsageLogQuerySet

PAGE = 50


@dataclass(frozen=True, slots=True)
class Filters:
    """Which runs are asked for; what is empty stands for any. `since` belongs to the period,
    `until` does not. Texts are compared as they are, `code` is looked for within the codes."""

    user: str = ""  # name
    configuration: str = ""  # slug
    status: str = ""
    origin: str = ""
    code: str = ""
    session: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of a run in the list."""

    started_at: datetime
    run_id: UUID

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what is no position."""
        moment, _, run_id = text.partition("_")
        started_at = datetime.fromisoformat(moment)
        if started_at.tzinfo is None:
            raise ValueError(f"no time zone in {moment!r}")
        if not 1000 < started_at.year < 9000:
            raise ValueError(f"nothing was run in {started_at.year}")
        return cls(started_at.astimezone(UTC), UUID(run_id))

    def __str__(self) -> str:
        return f"{self.started_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z_{self.run_id}"


class Row(NamedTuple):
    """A run as it is shown and exported. None is what is not known, or not yet."""

    # No dataclass: to make one takes ten times as long, and an export makes a million.

    run_id: UUID
    session_id: UUID | None
    user: str
    configuration: str
    provider: str
    model: str
    origin: str
    status: str
    code: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    is_estimated: bool
    cost_usd: Decimal | None
    cost_source: str
    started_at: datetime
    ended_at: datetime | None
    time_to_first_chunk: float | None
    processing_time: float | None

    @property
    def position(self) -> Position:
        return Position(self.started_at, self.run_id)

    @property
    def total_tokens(self) -> int | None:
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


# In the order of the fields of Row.
ENDED = (
    "run_id",
    "session_id",
    "username",
    "configuration",
    "provider",
    "model",
    "origin",
    "status",
    "code",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "is_estimated",
    "cost_usd",
    "cost_source",
    "started_at",
    "ended_at",
    "time_to_first_chunk",
    "processing_time",
)
RUNNING = (
    "pk",
    "session_id",
    "user__username",
    "configuration_slug",
    "provider",
    "model",
    "origin",
    "started_at",
)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first, and the positions at which the pages beside it begin."""

    rows: list[Row]
    newer: Position | None  # rows after this one are the page of newer ones
    older: Position | None  # rows before this one are the page of older ones


def page(
    viewer: AbstractBaseUser,
    filters: Filters,
    *,
    before: Position | None = None,
    after: Position | None = None,
) -> Page:
    """The newest rows; those before a position; or those just after one."""
    if after is not None:
        found = _page_after(viewer, filters, after)
        if found is not None:
            return found
    rows = list(islice(_rows(viewer, filters, before, PAGE + 1), PAGE + 1))
    shown = rows[:PAGE]
    return Page(
        shown,
        newer=shown[0].position if shown and before else None,
        older=shown[-1].position if len(rows) > PAGE else None,
    )


def _page_after(viewer: AbstractBaseUser, filters: Filters, after: Position) -> Page | None:
    """None where there is no whole page: then the newest rows are the page."""
    ended = ended_runs(viewer, filters).filter(
        Q(started_at__gt=after.started_at) | Q(started_at=after.started_at, run_id__gt=after.run_id)
    )
    rows = [
        Row(*row) for row in ended.order_by("started_at", "run_id").values_list(*ENDED)[: PAGE + 1]
    ]
    known = {row.run_id for row in rows}
    rows += [
        row
        for row in running_now(viewer, filters)
        if row.position > after and row.run_id not in known
    ]
    rows = sorted(rows, key=lambda row: row.position)[: PAGE + 1]
    if len(rows) <= PAGE:
        return None
    shown = rows[PAGE - 1 :: -1]
    return Page(shown, newer=shown[0].position, older=shown[-1].position)


def _rows(
    viewer: AbstractBaseUser, filters: Filters, before: Position | None, most: int
) -> Iterator[Row]:
    # First those that run: one that ends in between is in both then, and not in neither.
    running = [
        row for row in running_now(viewer, filters) if before is None or row.position < before
    ]
    ended = list(ended_before(viewer, filters, before, most))
    known = {row.run_id for row in ended}
    return heapq.merge(
        (row for row in running if row.run_id not in known),
        ended,
        key=lambda row: row.position,
        reverse=True,
    )


def ended_before(
    viewer: AbstractBaseUser, filters: Filters, before: Position | None, most: int
) -> Iterator[Row]:
    """At most so many runs that have ended, the newest before a position first."""
    runs = ended_runs(viewer, filters)
    if before is not None:
        # The first condition says nothing new; it is the one that an index answers.
        runs = runs.filter(
            Q(started_at__lte=before.started_at),
            Q(started_at__lt=before.started_at) | Q(run_id__lt=before.run_id),
        )
    newest = runs.order_by("-started_at", "-run_id").values_list(*ENDED)[:most]
    return (Row(*row) for row in newest)


def ended_runs(viewer: AbstractBaseUser, filters: Filters) -> UsageLogQuerySet:
    runs = UsageLog.objects.visible_to(viewer)
    if filters.status == Run.Status.RUNNING:
        return runs.none()
    if filters.user:
        runs = runs.filter(of_user(filters.user))
    if filters.code:
        runs = runs.filter(code__in=_codes_with(filters.code))
    wanted = {
        "configuration": filters.configuration,
        "status": filters.status,
        "origin": filters.origin,
        "session_id": filters.session,
        "started_at__gte": filters.since,
        "started_at__lt": filters.until,
    }
    return runs.filter(**{name: value for name, value in wanted.items() if value})


def _codes_with(text: str) -> list[str]:
    """The codes that there are with this text in them. They are few, and an index has them: to
    look into each row for one that is rare would take seconds."""
    codes = UsageLog.objects.exclude(code="").order_by().values_list("code", flat=True).distinct()
    return [code for code in codes if text.casefold() in code.casefold()]


def of_user(name: str) -> Q:
    """By id where the person is still there: that has an index, and finds earlier names too."""
    user = get_user_model().objects.filter(username=name).first()
    return Q(user_id=user.pk) if user else Q(username=name)


def _runs_running(viewer: AbstractBaseUser, filters: Filters) -> RunQuerySet:
    runs = Run.objects.in_monitor_of(viewer).running()
    if filters.code or filters.status not in ("", Run.Status.RUNNING):
        return runs.none()
    wanted = {
        "user__username": filters.user,
        "configuration_slug": filters.configuration,
        "origin": filters.origin,
        "session_id": filters.session,
        "started_at__gte": filters.since,
        "started_at__lt": filters.until,
    }
    return runs.filter(**{name: value for name, value in wanted.items() if value})


def running_now(viewer: AbstractBaseUser, filters: Filters) -> list[Row]:
    """The runs that have not ended, newest first. They are few: their number is limited."""
    newest = _runs_running(viewer, filters).order_by("-started_at", "-pk")
    return [_running(row) for row in newest.values_list(*RUNNING)]


def details(viewer: AbstractBaseUser, rows: list[Row]) -> tuple[set[UUID], set[UUID]]:
    """Which of these rows still have a run to look at, and which of their sessions this person
    may open."""
    runs = Run.objects.in_monitor_of(viewer).filter(pk__in=[row.run_id for row in rows])
    theirs = ChatSession.objects.visible_to(viewer)
    sessions = theirs.filter(pk__in={row.session_id for row in rows if row.session_id})
    return set(runs.values_list("pk", flat=True)), set(sessions.values_list("pk", flat=True))


def _running(row: Any) -> Row:
    run_id, session_id, username, configuration, provider, model, origin, started_at = row
    return Row(
        run_id=run_id,
        session_id=session_id,
        user=username or "",
        configuration=configuration,
        provider=provider,
        model=model,
        origin=origin,
        status=Run.Status.RUNNING.value,
        code="",
        prompt_tokens=None,
        completion_tokens=None,
        reasoning_tokens=None,
        cached_tokens=None,
        is_estimated=False,
        cost_usd=None,
        cost_source="unknown",
        started_at=started_at,
        ended_at=None,
        time_to_first_chunk=None,
        processing_time=None,
    )
