"""Packs the events of runs that ended long ago: one row for a run, and a fraction of the bytes.

What it promises:

- Every event keeps its number and its bytes (G1). What is packed was unpacked again and compared
  before a row goes, and what cannot be packed exactly stays as it is.
- A run that is running, or has not been over for long enough, is not touched.
- It is in nobody's way. Reading and packing hold no lock, the transaction that puts a portion in
  place is short, and it waits for no row: what somebody else has locked is left for the next look.
  So any number of processes may do this at once, and deadlocks are out of the question.
"""

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.template.defaultfilters import pluralize
from django.utils import timezone

from conversations import records
from conversations.background import in_database
from conversations.events import pack, unpack
from conversations.models import EventBatch, Run

log = logging.getLogger(__name__)

LOOK_INTERVAL = 60.0  # s between two looks for runs that have become old enough
PAUSE = 1.0  # s between two portions of one look
# A portion ends with whatever comes first: it is what one transaction replaces.
PORTION_RUNS = 50
PORTION_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Compacted:
    """`rows` became one for each of `runs`; `odd` runs stay as they are, for good."""

    runs: int = 0
    rows: int = 0
    odd: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(self.runs + other.runs, self.rows + other.rows, self.odd + other.odd)

    def __str__(self) -> str:
        said = (
            f"{self.runs:,} run{pluralize(self.runs)} compacted: "
            f"{self.rows:,} row{pluralize(self.rows)} became {self.runs:,}"
        )
        return f"{said}; incomplete and left as they are: {self.odd:,}" if self.odd else said


NOTHING = Compacted()


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is to stand in place of a run's rows."""

    keys: list[int]  # of the rows that were read, by their numbers
    last: int  # the number of the last event
    packed: bytes | None  # None: the rows are odd, and stay


async def compact_forever() -> None:
    """Compacts what has become old enough and forgets the records of calls that are too old, until
    it is cancelled. One such task runs in each process."""
    while True:
        try:
            await _look()
        except Exception:  # a look that failed must not be the last one
            log.exception("compacting the events of old runs failed")
        await asyncio.sleep(LOOK_INTERVAL)


async def _look() -> None:
    total = NOTHING
    while (portion := await in_database(compact)(settings.COMPACT_AFTER)) != NOTHING:
        total += portion
        await asyncio.sleep(PAUSE)  # a long backlog must not be felt
    if total != NOTHING:
        log.info("%s", total)
    if days := settings.RECORD_DAYS:
        while count := await in_database(records.forget)(days):
            log.info("%d records of provider calls were older than %d days", count, days)
            await asyncio.sleep(PAUSE)


def compact(older_than: float) -> Compacted:
    """Compacts a portion of the runs that ended at least `older_than` seconds ago, the oldest
    first. NOTHING says that there are no more, or that somebody else is at work on them."""
    due = (
        Run.objects.exclude(status=Run.Status.RUNNING)
        .filter(is_compacted=False, ended_at__lte=timezone.now() - timedelta(seconds=older_than))
        .order_by("ended_at")
    )
    drafts: dict[UUID, _Draft] = {}
    rows = 0
    for run_id in due.values_list("pk", flat=True)[:PORTION_RUNS]:
        drafts[run_id] = draft = _draft(run_id)
        rows += len(draft.keys)
        if rows >= PORTION_ROWS:
            break
    return _put_in_place(due, drafts) if drafts else NOTHING


def _draft(run_id: UUID) -> _Draft:
    batches = list(EventBatch.objects.filter(run_id=run_id).order_by("first"))
    texts = [batch.text for batch in batches]
    is_whole = bool(batches)
    last = 0
    for batch, text in zip(batches, texts, strict=True):
        has_all = text.count("\n") == batch.last - batch.first
        is_whole = is_whole and has_all and batch.first == last + 1
        last = batch.last
    text = "\n".join(texts)
    packed = pack(text)
    is_whole = is_whole and unpack(packed) == text
    return _Draft([batch.pk for batch in batches], last, packed if is_whole else None)


def _put_in_place(due: QuerySet[Run], drafts: dict[UUID, _Draft]) -> Compacted:
    with transaction.atomic():
        # Both looks wait for nobody. A row that is missing now is being deleted, or another
        # process has compacted the run.
        free = set(
            due.select_for_update(skip_locked=True)
            .filter(pk__in=drafts)
            .values_list("pk", flat=True)
        )
        there: dict[UUID, list[int]] = defaultdict(list)
        for run_id, key in (
            EventBatch.objects.select_for_update(skip_locked=True)
            .filter(run__in=free)
            .order_by("first")
            .values_list("run_id", "pk")
        ):
            there[run_id].append(key)
        mine = {run_id: drafts[run_id] for run_id in free if there[run_id] == drafts[run_id].keys}
        whole = {run_id: draft for run_id, draft in mine.items() if draft.packed is not None}
        for draft in whole.values():
            # The first row stays and holds all: a deletion that waits for it will find it, which
            # it would not if the row were new.
            EventBatch.objects.filter(pk=draft.keys[0]).update(
                last=draft.last, lines="", packed=draft.packed
            )
        EventBatch.objects.filter(run__in=whole, first__gt=1).delete()
        # The odd ones too, so that nobody looks at them again and again.
        Run.objects.filter(pk__in=mine).update(is_compacted=True)
    for run_id in mine.keys() - whole.keys():
        log.warning("the events of run %s are incomplete and left as they are", run_id)
    return Compacted(
        runs=len(whole),
        rows=sum(len(draft.keys) for draft in whole.values()),
        odd=len(mine) - len(whole),
    )
