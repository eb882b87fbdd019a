"""Whether every call to a provider has its usage row, and only one.

A run and its usage row are ended in one transaction, so that there is never anything to find
here; this looks whether that holds. A row outlives its run where a session or an account was
deleted, which is no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet

from conversations.models import ChatSession, Origin, ProviderCall, Run, UsageLog
from conversations.models.chats import Viewer

SHOWN = 20  # of each kind of difference


@dataclass(frozen=True, slots=True)
class Difference:
    """Runs or rows that do not agree. `examples` are the ids of some of them."""

    what: str
    count: int
    examples: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """How many runs have ended, how many rows there are of runs and of other calls, and what does
    not agree."""

    ended_runs: int
    rows: int
    differences: tuple[Difference, ...]

    @property
    def difference(self) -> int:
        return sum(one.count for one in self.differences)


def check(viewer: Viewer | None = None, since: datetime | None = None) -> Account:
    """Compares everything; or what a person may see, of runs that started after a moment."""
    runs, rows = Run.objects.all(), UsageLog.objects.all()
    if viewer is not None:
        runs, rows = runs.in_monitor_of(viewer), rows.visible_to(viewer)
    if since is not None:
        runs, rows = runs.filter(started_at__gte=since), rows.filter(started_at__gte=since)
    runs, rows = runs.order_by(), rows.order_by()
    return Account(
        ended_runs=runs.exclude(status=Run.Status.RUNNING).count(),
        rows=rows.count(),
        differences=tuple(one for one in _differences(runs, rows) if one.count),
    )


def _differences(runs: QuerySet[Run], rows: QuerySet[UsageLog]) -> Iterator[Difference]:
    has_row = Exists(UsageLog.objects.filter(run=OuterRef("pk")))
    has_run = Exists(Run.objects.filter(pk=OuterRef("run_id")))
    was_sent = Exists(ProviderCall.objects.filter(run=OuterRef("pk")))
    over = runs.exclude(status=Run.Status.RUNNING).filter(~has_row)
    yield _difference("runs that were sent and are over without a usage row", over.filter(was_sent))
    yield _difference("runs that are over without a usage row", over.filter(~was_sent))
    yield _difference(
        "runs that still run and have a usage row",
        runs.filter(has_row, status=Run.Status.RUNNING),
    )
    yield _difference(
        "usage rows that say another end than their run",
        rows.filter(run__isnull=False)
        .exclude(run__status=Run.Status.RUNNING)
        .exclude(run__status=F("status")),
    )
    # With a session its runs go, with an account those without a session: their rows stay.
    session_is_left = Exists(ChatSession.objects.filter(pk=OuterRef("session_id")))
    account_is_gone = Q(user=None) & ~Q(username="")
    yield _difference(
        "usage rows of a run that is not there",
        rows.exclude(origin=Origin.CONNECTION_TEST)
        .filter(~has_run)
        .filter(session_is_left | Q(session=None))
        .exclude(account_is_gone),
    )


def _difference(what: str, found: "QuerySet[Run] | QuerySet[UsageLog]") -> Difference:
    examples = tuple(found.values_list("pk", flat=True)[: SHOWN + 1])
    count = len(examples) if len(examples) <= SHOWN else found.count()
    return Difference(what, count, examples[:SHOWN])
