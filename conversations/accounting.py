"""That every call to a provider has its usage row, and only one.

The calls of runs have theirs from `runs.finish`; that of a connection test, which is no run, is
written here when `providers` tells of it. A run and its row are ended in one transaction, so that
`check` should never find anything. A row outlives its run where a session or an account was
deleted, which is no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from conversations.models import ChatSession, Origin, ProviderCall, Run, UsageLog
from conversations.models.chats import Viewer
from providers.pricing import cost_usd
from providers.probe import Trial
from providers.signals import answer_tried

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
    # All questions about runs in one pass; what was found is looked up after that, if anything.
    counts = runs.order_by().aggregate(
        ended=Count("pk", filter=~RUNNING),
        without_row=Count("pk", filter=WITHOUT_ROW),
        too_early=Count("pk", filter=TOO_EARLY),
        other_end=Count("pk", filter=OTHER_END),
    )
    was_sent = Exists(ProviderCall.objects.filter(run=OuterRef("pk")))
    found: list[Difference] = []
    if counts["without_row"]:
        lost = runs.filter(WITHOUT_ROW)
        found += _difference(
            "runs that were sent and are over without a row", lost.filter(was_sent)
        )
        found += _difference("runs that are over without a row", lost.exclude(was_sent))
    if counts["too_early"]:
        found += _difference("runs that still run and have a row", runs.filter(TOO_EARLY))
    if counts["other_end"]:
        found += _difference("runs that ended otherwise than their row", runs.filter(OTHER_END))
    found += _difference("rows of a run that is not there", _without_run(rows))
    return Account(counts["ended"], rows.order_by().count(), tuple(found))


RUNNING = Q(status=Run.Status.RUNNING)
WITHOUT_ROW = ~RUNNING & Q(usage=None)
TOO_EARLY = RUNNING & Q(usage__isnull=False)
OTHER_END = ~RUNNING & Q(usage__isnull=False) & ~Q(usage__status=F("status"))


def _without_run(rows: QuerySet[UsageLog]) -> QuerySet[UsageLog]:
    # With a session its runs go, with an account those without a session: their rows stay.
    session_is_left = Exists(ChatSession.objects.filter(pk=OuterRef("session_id")))
    account_is_gone = Q(user=None) & ~Q(username="")
    return (
        rows.filter(~Exists(Run.objects.filter(pk=OuterRef("run_id"))))
        .exclude(origin=Origin.CONNECTION_TEST)
        .filter(session_is_left | Q(session=None))
        .exclude(account_is_gone)
    )


def _difference(what: str, found: "QuerySet[Run] | QuerySet[UsageLog]") -> Iterator[Difference]:
    """None where nothing was found."""
    examples = tuple(found.order_by().values_list("pk", flat=True)[: SHOWN + 1])
    count = len(examples) if len(examples) <= SHOWN else found.count()
    if count:
        yield Difference(what, count, examples[:SHOWN])


# ---- connection tests


def connect() -> None:
    """Called once, when the models are there."""
    answer_tried.connect(log_trial, dispatch_uid="accounting")


def log_trial(trial: Trial, user: AbstractBaseUser | None, **_: Any) -> None:
    """The usage row of a connection test that asked for an answer."""
    configuration, used = trial.configuration, trial.usage
    prices = configuration.prices
    cost, source = cost_usd(used, prices, is_estimated=trial.is_estimated)
    writing = trial.ended_after - (trial.first_output_after or trial.ended_after)
    UsageLog.objects.create(
        run_id=uuid4(),  # of no run, but a row needs one
        user_id=user.pk if user else None,
        username=user.get_username() if user else "",
        origin=Origin.CONNECTION_TEST,
        configuration=configuration.slug,
        provider=configuration.kind,
        model=configuration.model,
        status=Run.Status.ERROR if trial.code else Run.Status.DONE,
        code=trial.code,
        finish_reason=trial.finish_reason,
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        reasoning_tokens=used.reasoning_tokens,
        cached_tokens=used.cached_tokens,
        is_estimated=trial.is_estimated,
        cost_usd=cost,
        cost_source=source,
        input_price=prices.input,
        cached_input_price=prices.cached_input,
        output_price=prices.output,
        time_to_first_chunk=trial.first_output_after,
        processing_time=trial.ended_after,
        tokens_per_second=(
            used.completion_tokens / writing if used.completion_tokens and writing > 0 else None
        ),
        started_at=trial.sent_at,
        ended_at=timezone.now(),
    )
