"""The board of all runs in flight: who runs what, how far it is, and in which process.

The rows of the database say which runs there are; how far a run is, only its own process knows.
Both are put together once a second, in one place of each process and only while somebody looks,
however many they are. A viewer is a position: the number of the last look that it has seen.

Several processes share their figures through a relay (`redis_board.RedisRelay`): a process tells
its own while anybody anywhere looks. Where the relay has none, the row is shown without figures.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from time import monotonic
from typing import Any, Protocol
from uuid import UUID

from django.db import InterfaceError, OperationalError
from django.utils import timezone

from conversations.background import in_database
from conversations.events import encode
from conversations.models import Run

log = logging.getLogger(__name__)

INTERVAL = 1.0  # s between two looks
STALLED_AFTER = 10.0  # s in which nothing of an answer came, after it had begun
MOST_RUNS = 500  # that are shown, the oldest of them
KEPT_LOOKS = 30  # whose ends are remembered; a viewer that is further behind is told all anew


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, as its process knows it. Durations are in seconds, at the moment of
    asking; tokens are estimated."""

    run_id: UUID
    age: float
    silent: float  # since something of the answer came, or since the start
    time_to_first_chunk: float | None
    characters: int
    tokens: int  # of text and reasoning
    tokens_per_second: float | None  # since the first of them
    has_output: bool  # reasoning counts
    attempt: int

    @property
    def told(self) -> dict[str, Any]:
        """For another process: `Progress.of` reads it."""
        return {**asdict(self), "run_id": str(self.run_id)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Progress":
        """Raises KeyError, TypeError or ValueError for what another version has told."""
        known = {field.name: told[field.name] for field in fields(cls)}
        return cls(**{**known, "run_id": UUID(told["run_id"])})

    @property
    def state(self) -> str:
        if not self.has_output:
            return "waiting"
        if self.silent > STALLED_AFTER:
            return "stalled"
        return "thinking" if self.time_to_first_chunk is None else "streaming"


class Relay(Protocol):
    """Carries figures between processes. It may lose them; neither call raises."""

    async def tell(self, worker: UUID, figures: Sequence[Progress]) -> None:
        """Offers the figures of this process, if somebody looks at them anywhere."""

    async def ask(self, workers: Sequence[UUID]) -> list[Progress]:
        """What those processes have told last, and has them go on telling."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """What the database knows of a run in flight."""

    run_id: UUID
    user_id: int | None
    user: str | None  # None: nobody, it was started at the command line
    configuration: str  # slug
    model: str
    provider: str
    origin: str
    worker: UUID | None
    lease_until: datetime | None
    stop_requested_at: datetime | None
    started_at: datetime


@dataclass(slots=True)
class Entry:
    """One run on the board, as the last look has seen it. `fields` is what viewers get:

    `run_id`, `user`, `configuration`, `model`, `provider`, `origin`, `started_at`, `process` (a
    short id), `is_stopping`, `state` (`waiting`, `thinking`, `streaming`, `stalled`; `running`
    where its process has told nothing, `lost` where it does not renew its lease), `age`, and from
    its process, else null: `silent`, `time_to_first_chunk`, `characters`, `tokens`,
    `tokens_per_second`, `attempt`. Durations are in seconds, at the moment of the look.
    """

    user_id: int | None
    fields: dict[str, Any]
    number: int  # of the look at which it changed last
    _text: str = ""

    @property
    def text(self) -> str:
        """The fields as JSON, encoded once for all viewers, and only if there is one to tell."""
        if not self._text:
            self._text = encode(self.fields)
        return self._text

    def differs_from(self, fields: Mapping[str, Any]) -> bool:
        """Apart from what changes by itself: viewers count seconds on their own."""
        return any(self.fields[name] != fields[name] for name in _COMPARED)


_COMPARED = ("state", "characters", "tokens", "time_to_first_chunk", "attempt", "is_stopping")


@dataclass(frozen=True, slots=True)
class End:
    """A run that has left the board, and how: a status, or `deleted`."""

    run_id: UUID
    user_id: int | None
    status: str
    number: int  # of the look that missed it


@dataclass(frozen=True, slots=True)
class News:
    """What is new since a look. If it `is_whole`, it is all there is, whatever was told before.
    `total` counts the runs in flight of who asks, also those over MOST_RUNS."""

    number: int
    is_whole: bool
    entries: list[Entry]
    ends: list[End]
    total: int

    @property
    def text(self) -> str:
        """The JSON of a `runs` event: `{"type", "whole", "total", "runs": [Entry.fields],
        "ended": [{"run_id", "status"}]}`."""
        ended = encode([{"run_id": str(end.run_id), "status": end.status} for end in self.ends])
        return (
            f'{{"type":"runs","whole":{encode(self.is_whole)},"total":{self.total},'
            f'"runs":[{",".join(entry.text for entry in self.entries)}],"ended":{ended}}}'
        )


class Board:
    """The board of one process. All of it lives on the event loop."""

    def __init__(
        self, worker: UUID, progress: Callable[[], list[Progress]], relay: Relay | None
    ) -> None:
        """`progress` gives the figures of the runs of this process, whose id is `worker`."""
        self.number = 0  # of the last look
        self.is_closed = False
        self._worker = worker
        self._progress = progress
        self._relay = relay
        self._viewers = 0
        self._entries: dict[UUID, Entry] = {}
        self._total: dict[int | None, int] = {}  # runs in flight by user
        self._ends: deque[End] = deque()
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._has_work = asyncio.Event()
        self._next_look = asyncio.Event()

    # ---- for viewers

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Has the board kept up to date."""
        self._viewers += 1
        self.wake()
        try:
            yield
        finally:
            self._viewers -= 1

    async def look(self) -> None:
        """Makes sure that the board is no older than INTERVAL. Raises what the database raises."""
        async with self._looking:
            if monotonic() - self._looked_at >= INTERVAL:
                await self._look()

    def news(self, user_id: int | None, after: int = 0) -> News:
        """What happened after look number `after` to the runs of one user; None: of everybody."""
        is_whole = after < self.number - KEPT_LOOKS or after == 0
        if is_whole:
            after = 0

        def concerns(about: Entry | End) -> bool:
            return about.number > after and (user_id is None or about.user_id == user_id)

        return News(
            self.number,
            is_whole,
            [entry for entry in self._entries.values() if concerns(entry)],
            [] if is_whole else [end for end in self._ends if concerns(end)],
            sum(self._total.values()) if user_id is None else self._total.get(user_id, 0),
        )

    async def wait(self, after: int, seconds: float) -> None:
        """Until there is a look after number `after`, for so long at the most."""
        try:
            async with asyncio.timeout(seconds):
                while self.number <= after and not self.is_closed:
                    await self._next_look.wait()
        except TimeoutError:
            pass

    # ---- for the engine

    def wake(self) -> None:
        """There is something to do: a viewer, or a run that other processes may want to see."""
        self._has_work.set()

    def close(self) -> None:
        """Sends the viewers away: they come back to a process that stays."""
        self.is_closed = True
        self._tell_viewers()

    async def serve(self) -> None:
        """Looks, and tells other processes, while there is reason to; until it is cancelled."""
        try:
            while True:
                await self._has_work.wait()
                self._has_work.clear()
                while self._viewers or (self._relay and self._progress()):
                    await self._turn()
                    await asyncio.sleep(INTERVAL)
                self._forget()
        finally:
            if self._relay:
                await self._relay.aclose()

    async def _turn(self) -> None:
        try:
            if self._relay and (figures := self._progress()):
                await self._relay.tell(self._worker, figures)
            if self._viewers:
                async with self._looking:
                    await self._look()
        except (OperationalError, InterfaceError) as error:
            log.warning("the board could not be brought up to date: %s", error)
        except Exception:  # a look that failed must not be the last one
            log.exception("the board could not be brought up to date")

    # ---- looking

    async def _look(self) -> None:
        rows, total = await in_database(_running)()
        figures = await self._figures(rows)
        now = timezone.now()
        number = self.number + 1
        former, entries = self._entries, dict[UUID, Entry]()
        for row in rows:
            told = _fields(row, figures.get(row.run_id), now)
            known = former.get(row.run_id)
            changed = number if known is None or known.differs_from(told) else known.number
            entries[row.run_id] = Entry(row.user_id, told, changed)
        gone = {run_id: former[run_id] for run_id in former.keys() - entries.keys()}
        statuses = await in_database(_statuses)(list(gone)) if gone else {}
        self._entries, self._total, self.number = entries, total, number
        self._ends.extend(
            End(run_id, entry.user_id, statuses.get(run_id, "deleted"), number)
            for run_id, entry in gone.items()
            if statuses.get(run_id) != Run.Status.RUNNING  # else it is one of too many
        )
        while self._ends and self._ends[0].number < number - KEPT_LOOKS:
            self._ends.popleft()
        self._looked_at = monotonic()
        self._tell_viewers()

    async def _figures(self, rows: Sequence[Row]) -> dict[UUID, Progress]:
        figures = {told.run_id: told for told in self._progress()}
        workers = {row.worker for row in rows if row.worker} - {self._worker}
        if self._relay:
            others = await self._relay.ask(sorted(workers))
            figures = {told.run_id: told for told in others} | figures
        return figures

    def _tell_viewers(self) -> None:
        self._next_look.set()
        self._next_look = asyncio.Event()

    def _forget(self) -> None:
        """Nobody looks: what is not kept up to date is not kept."""
        self._entries.clear()
        self._ends.clear()
        self._looked_at = float("-inf")
        self.number += KEPT_LOOKS + 1  # who comes back is told all anew


def _fields(row: Row, progress: Progress | None, now: datetime) -> dict[str, Any]:
    is_lost = row.lease_until is not None and row.lease_until < now
    told: dict[str, Any] = {
        "run_id": str(row.run_id),
        "user": row.user,
        "configuration": row.configuration,
        "model": row.model,
        "provider": row.provider,
        "origin": row.origin,
        "started_at": row.started_at.isoformat(),
        "process": row.worker.hex[:8] if row.worker else "",
        "is_stopping": row.stop_requested_at is not None,
    }
    if progress is None:
        told |= {
            "state": "lost" if is_lost else "running",
            "age": round(max(0.0, (now - row.started_at).total_seconds()), 3),
            **dict.fromkeys(_FIGURES),
        }
    else:
        told |= {
            "state": progress.state,
            "age": round(progress.age, 3),
            **{name: _rounded(getattr(progress, name)) for name in _FIGURES},
        }
    return told


_FIGURES = (
    "silent",
    "time_to_first_chunk",
    "characters",
    "tokens",
    "tokens_per_second",
    "attempt",
)


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if isinstance(value, float) else value


def _running() -> tuple[list[Row], dict[int | None, int]]:
    """The runs in flight, oldest first, and how many each user has."""
    rows = [
        Row(*values)
        for values in Run.objects.running()
        .order_by("started_at", "pk")
        .values_list(
            "pk",
            "user_id",
            "user__username",
            "configuration_slug",
            "model",
            "provider",
            "origin",
            "worker",
            "lease_until",
            "stop_requested_at",
            "started_at",
        )[: MOST_RUNS + 1]
    ]
    total: dict[int | None, int] = {}
    # Counted in the database only where they are not all here.
    users = (
        Run.objects.running().values_list("user_id", flat=True)
        if len(rows) > MOST_RUNS
        else [row.user_id for row in rows]
    )
    for user_id in users:
        total[user_id] = total.get(user_id, 0) + 1
    return rows[:MOST_RUNS], total


def _statuses(run_ids: Sequence[UUID]) -> dict[UUID, str]:
    return dict(Run.objects.filter(pk__in=run_ids).values_list("pk", "status"))
