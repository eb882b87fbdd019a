"""Drives runs as tasks of the server, from the request to the one end event.

What it promises (guarantees G2 and G4 to G8):

- A run belongs to the server: no request, reader or tab that comes or goes has an effect on it.
- It ends exactly once, in one place (`_LiveRun.drive`), whatever happened: the provider's end, an
  error, a timeout, Stop, a shutdown or a defect.
- `done` is said only if the provider said that it was done, `stopped` only after the connection
  to the provider is closed.
- A request is repeated only while nothing of its answer was passed on, and never when the
  provider may still be at work on it.
- Every task has an owner and an end: the engine keeps them, and `shutdown` waits for them.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from time import monotonic
from typing import assert_never
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from conversations import events, log_context, recovery, runs, traces
from conversations.background import in_database, spawn
from conversations.board import Board, Progress
from conversations.bus import Bus, LocalBus
from conversations.compaction import compact_forever
from conversations.errors import (
    Failure,
    InternalError,
    Interrupted,
    OutOfReach,
    RunError,
    ShuttingDown,
)
from conversations.journal import Journal, RunLost
from conversations.metering import meter
from conversations.models import Run
from conversations.outcomes import Metrics, Outcome, Stop, joined_tool_calls
from conversations.planning import Plan
from conversations.redis_board import RedisRelay
from conversations.redis_bus import RedisBus
from conversations.runs import Owner, Started
from providers import client, schemas
from providers.adapters.base import ProviderRequest
from providers.errors import ProviderError, ProviderTimeout
from providers.events import (
    Event,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from providers.pricing import cost_usd
from providers.records import Exchange
from providers.tokens import TokenCounter

log = logging.getLogger(__name__)

STOP_PATIENCE = 5.0  # s that it may take to stop a run and store its end
SWEEP_INTERVAL = 1.0  # s between two looks for runs whose worker is gone
JITTER = 0.25  # of a retry's delay, so that runs that failed together do not return together


class Cut(Enum):
    """Why a generation was ended from outside."""

    STOPPED = "stopped"
    TIMED_OUT = "timed out"
    SHUT_DOWN = "shut down"
    STORAGE_FAILED = "storage failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class _StopWord:
    """The moment somebody said stop: on both clocks, and after which event."""

    at: datetime
    said: float  # monotonic
    by: int | None
    after: int


class _LiveRun:
    """One run while it is driven: what has come so far, and how it may still be cut short."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan = plan
        self.outcome: Outcome | None = None
        self._journal = journal
        self._log = journal.open(plan.run_id, plan.opening)
        self._generation: asyncio.Task[None] | None = None
        self._cut: Cut | None = None
        self._stop_word: _StopWord | None = None
        self._stop: Stop | None = None
        self._text: list[str] = [plan.earlier.text]
        self._reasoning: list[str] = [plan.earlier.reasoning]
        self._tool_calls: list[ToolCallDelta] = []
        self._text_tokens = TokenCounter()
        self._text_tokens.add(plan.earlier.text)
        self._reasoning_tokens = TokenCounter()
        self._reasoning_tokens.add(plan.earlier.reasoning)
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._started_at = monotonic()
        self._first_output_at: float | None = None  # reasoning counts
        self._first_chunk_at: float | None = None  # it does not
        self._last_output_at = self._started_at
        self._characters = len(plan.earlier.text)
        self._attempt = 1

    @property
    def progress(self) -> Progress:
        """How far it is, for the board."""
        now = monotonic()
        tokens = self._text_tokens.tokens + self._reasoning_tokens.tokens
        written = tokens - self.plan.earlier.tokens
        writing = now - self._first_output_at if self._first_output_at is not None else 0
        return Progress(
            run_id=self.plan.run_id,
            age=now - self._started_at,
            silent=now - self._last_output_at,
            time_to_first_chunk=(
                self._first_chunk_at - self._started_at
                if self._first_chunk_at is not None
                else None
            ),
            characters=self._characters,
            tokens=tokens,
            tokens_per_second=written / writing if written > 0 and writing > 0 else None,
            has_output=self._first_output_at is not None,
            attempt=self._attempt,
        )

    def stop(self, by: int | None) -> bool:
        """`cut_short` because a person wants it."""
        is_first = self.cut_short(Cut.STOPPED)
        if is_first:
            self._stop_word = _StopWord(timezone.now(), monotonic(), by, self._log.number)
        return is_first

    def cut_short(self, cut: Cut) -> bool:
        """Ends the generation soon. The first cut decides, and for it alone this is True; one that
        comes after the end is void."""
        if self._cut is not None or (self._generation is not None and self._generation.done()):
            return False
        self._cut = cut
        if self._generation is not None:
            self._generation.cancel()
        return True

    async def drive(self) -> None:
        """Generates, then stores and tells the one end."""
        log_context.set_run(self.plan.run_id)
        error = await self._generated()
        self.outcome = outcome = await self._checked(self._settle(error))
        try:
            await self._journal.close(
                self._log, lambda number: runs.finish(self.plan.run_id, outcome, number)
            )
        except RunLost:
            log.info("run %s was deleted, or ended by another process", self.plan.run_id)

    async def _checked(self, outcome: Outcome) -> Outcome:
        """With what its schema says of the answer, if it has both."""
        schema = self.plan.schema
        if schema is None or not outcome.text or outcome.tool_calls:
            return outcome
        return replace(outcome, verdict=await schemas.check(schema, outcome.text))

    async def _generated(self) -> ProviderError | RunError | None:
        """Runs the generation to its end; gives the error it ended with, None if none."""
        if self._cut is None:
            self._generation = spawn(self._generate(), f"generation {self.plan.run_id}")
            await asyncio.wait({self._generation}, timeout=self.plan.total_limit)
            if not self._generation.done():
                self.cut_short(Cut.TIMED_OUT)
                await asyncio.wait({self._generation})
            if not self._generation.cancelled():
                self._cut = None  # it came too late: the generation has ended by itself
                return self._error_of(self._generation.exception())
        if word := self._stop_word:
            # The generation has ended, and with it the connection to the provider.
            self._stop = Stop(word.at, word.by, word.after, monotonic() - word.said)
        match self._cut:
            case Cut.TIMED_OUT:
                return ProviderTimeout(
                    f"{self.plan.target.name} did not finish within "
                    f"{self.plan.total_limit:g} seconds. Try again, or ask for less."
                )
            case Cut.SHUT_DOWN:
                return Interrupted()
            case Cut.STORAGE_FAILED:
                return InternalError()
            case Cut.STOPPED | Cut.LOST | None:
                return None
            case _:
                assert_never(self._cut)

    def _error_of(self, error: BaseException | None) -> ProviderError | RunError | None:
        if error is None or isinstance(error, ProviderError | RunError):
            return error
        log.error("run %s failed inside", self.plan.run_id, exc_info=error)
        return InternalError()

    # ---- asking

    async def _generate(self) -> None:
        log_context.set_run(self.plan.run_id)
        request = self.plan.request
        if isinstance(request, ProviderError):
            raise request
        most: int = settings.MAX_ATTEMPTS
        for attempt in range(1, most + 1):
            try:
                return await self._ask(request, attempt)
            except ProviderError as error:
                delay = self._delay_after(attempt, error)
                if delay is None:
                    raise
                meter.count_retry(self.plan.adapter_class.kind, self.plan.target.model, error.code)
                self._append(
                    "retry",
                    events.retry(
                        attempt=attempt + 1,
                        max_attempts=most,
                        delay=delay,
                        code=error.code,
                    ),
                )
                await asyncio.sleep(delay)

    async def _ask(self, request: ProviderRequest, attempt: int) -> None:
        """One attempt. An adapter keeps the state of one answer, so each attempt has its own."""
        self._attempt = attempt
        adapter = self.plan.adapter_class(self.plan.target)
        exchange = Exchange(
            attempt,
            secrets=adapter.source().secrets,
            secret_headers=self.plan.target.extra_headers,
            room=settings.RECORD_MAX_BYTES,
            on_sent=self._keep,
        )
        try:
            async with aclosing(
                client.stream(adapter, request, self.plan.limits, exchange)
            ) as reads:
                async for read in reads:
                    for event in read:
                        self._take(event)
        except ProviderError as error:
            exchange.error_code = error.code
            raise
        finally:
            if exchange.is_over:  # else it was never sent
                self._keep(exchange)
                traces.record(self.plan, exchange, self._usage, self._finish)

    def _keep(self, exchange: Exchange) -> None:
        self._journal.keep(self._log, exchange)

    def _delay_after(self, attempt: int, error: ProviderError) -> float | None:
        """Seconds before the next attempt; None if there must not be one."""
        if self._first_output_at is not None or not error.retryable:
            return None
        if attempt == settings.MAX_ATTEMPTS:
            return None
        backoff: float = settings.RETRY_BASE_DELAY * 2 ** (attempt - 1)
        delay = max(error.retry_after or 0.0, backoff)
        if delay > settings.RETRY_MAX_DELAY:
            return None
        return delay * (1 + random.uniform(0, JITTER))  # noqa: S311 - spreads load, hides nothing

    # ---- taking what comes

    def _take(self, event: Event) -> None:
        match event:
            case TextDelta(text):
                self._mark_output()
                self._mark_chunk()
                self._text.append(text)
                self._characters += len(text)
                self._append("chunk", events.chunk(text, self._text_tokens.add(text)))
            case ReasoningDelta(text):
                self._mark_output()
                self._reasoning.append(text)
                self._append("reasoning", events.reasoning(text, self._reasoning_tokens.add(text)))
            case ToolCallDelta(index, id_, name, arguments):
                self._mark_output()
                self._mark_chunk()
                self._tool_calls.append(event)
                self._append("tool_call", events.tool_call(index, id_, name, arguments))
            case Usage():
                self._usage = event
            case Finish():
                self._finish = event
            case _:
                assert_never(event)

    def _append(self, type: str, data: str) -> None:
        self._journal.append(self._log, type, data)

    def _mark_output(self) -> None:
        self._last_output_at = monotonic()
        if self._first_output_at is None:
            self._first_output_at = self._last_output_at

    def _mark_chunk(self) -> None:
        if self._first_chunk_at is None:
            self._first_chunk_at = monotonic()

    # ---- settling

    def _settle(self, error: ProviderError | RunError | None) -> Outcome:
        if isinstance(error, Interrupted):
            status = Run.Status.INTERRUPTED
        elif error is not None:
            status = Run.Status.ERROR
        elif self._cut is not None:
            status = Run.Status.STOPPED
        else:
            status = Run.Status.DONE
        finish = self._finish
        finish_reason: str | None = finish.reason if finish else None
        return Outcome(
            status=status,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            reasoning_seconds=self._reasoning_seconds(),
            tool_calls=joined_tool_calls(
                {"index": call.index, "id": call.id, "name": call.name, "arguments": call.arguments}
                for call in self._tool_calls
            ),
            finish_reason="stopped" if status == Run.Status.STOPPED else finish_reason,
            provider_finish_reason=finish.provider_reason if finish else None,
            failure=Failure.of(error) if error else None,
            metrics=self._metrics(error),
            prices=self.plan.prices,
            stop=self._stop,
        )

    def _reasoning_seconds(self) -> float | None:
        earlier = self.plan.earlier.reasoning_seconds
        if len(self._reasoning) == 1 or self._first_output_at is None:
            return earlier
        return (earlier or 0) + (self._first_chunk_at or monotonic()) - self._first_output_at

    def _metrics(self, error: ProviderError | RunError | None) -> Metrics:
        now = monotonic()
        usage, is_estimated = self._usage_or_estimate(error)
        cost: Decimal | None
        cost, source = cost_usd(usage, self.plan.prices, is_estimated=is_estimated)
        writing = now - self._first_output_at if self._first_output_at is not None else 0
        return Metrics(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cached_tokens=usage.cached_tokens,
            cost_usd=cost,
            cost_source=source,
            estimated=is_estimated,
            processing_time=now - self._started_at,
            time_to_first_chunk=(
                self._first_chunk_at - self._started_at
                if self._first_chunk_at is not None
                else None
            ),
            tokens_per_second=(
                usage.completion_tokens / writing
                if usage.completion_tokens and writing > 0
                else None
            ),
        )

    def _usage_or_estimate(self, error: ProviderError | RunError | None) -> tuple[Usage, bool]:
        """The provider's counts, completed by estimates; and whether any of it is estimated."""
        given = self._usage or Usage()
        written = self._text_tokens.tokens + self._reasoning_tokens.tokens
        written -= self.plan.earlier.tokens
        if given.prompt_tokens is not None and given.completion_tokens is not None:
            if self._finish or given.completion_tokens >= written:
                return given, False
            # Counts that came before the end, as Anthropic's first event has them, are too low.
            return replace(given, completion_tokens=written), True
        if error is not None and self._first_output_at is None and self._is_refused(error):
            return given, False  # the provider did no work: nothing is known, nothing is guessed
        return (
            replace(
                given,
                prompt_tokens=_known(given.prompt_tokens, self.plan.input_tokens),
                completion_tokens=_known(given.completion_tokens, written),
            ),
            True,
        )

    @staticmethod
    def _is_refused(error: ProviderError | RunError) -> bool:
        return isinstance(error, ProviderError) and not isinstance(error, ProviderTimeout)


class Engine:
    """The runs of this process. Made, started and shut down by the ASGI application."""

    def __init__(self) -> None:
        self._bus: Bus = RedisBus(settings.REDIS_URL) if settings.REDIS_URL else LocalBus()
        self.journal = Journal(
            self._bus,
            store_interval=settings.STORE_INTERVAL,
            lease=settings.LEASE_DURATION,
            heartbeat=settings.HEARTBEAT_INTERVAL,
            on_lost=self._on_lost,
            on_stop=self._on_stop,
            on_storage_failure=self._on_storage_failure,
        )
        self.board = Board(
            self.journal.worker,
            lambda: [live.progress for live in self._live.values()],
            RedisRelay(settings.REDIS_URL) if settings.REDIS_URL else None,
        )
        self._live: dict[UUID, _LiveRun] = {}
        self._drives: dict[UUID, asyncio.Task[None]] = {}
        self._upkeep: list[asyncio.Task[None]] = []
        self._beginnings: set[asyncio.Task[Started]] = set()
        self._accepts_runs = True

    @property
    def running(self) -> int:
        """How many runs this process drives."""
        return len(self._live)

    def start(self) -> None:
        """Begins to store, and to end the runs of processes that are gone."""
        self._upkeep = [
            spawn(self.journal.write_forever(), "journal writer"),
            spawn(self._sweep_forever(), "sweeper of lost runs"),
            spawn(compact_forever(), "compaction of old events"),
            spawn(self.board.serve(), "board of live runs"),
            spawn(self._bus.serve(self.journal.worker, self._on_stop), "bus"),
        ]

    async def begin(self, start: Callable[[Owner], Started]) -> Started:
        """Stores a run through `start` (a verb of `runs`) and drives it, whether or not the
        caller stays. Raises what `start` raises, and ShuttingDown when no run is taken."""
        if not self._accepts_runs:
            raise ShuttingDown
        # Shielded: a client that leaves at this moment must not leave a run that nobody drives.
        beginning = spawn(self._begin(start), "start of a run")
        self._beginnings.add(beginning)
        beginning.add_done_callback(self._beginnings.discard)
        return await asyncio.shield(beginning)

    async def _begin(self, start: Callable[[Owner], Started]) -> Started:
        owner = Owner(self.journal.worker, self.journal.lease)
        started = await in_database(start)(owner)
        if started.plan is not None:
            self._launch(started.plan)
        return started

    def _launch(self, plan: Plan) -> None:
        live = _LiveRun(plan, self.journal)
        self._live[plan.run_id] = live
        drive = spawn(live.drive(), f"run {plan.run_id}")
        self._drives[plan.run_id] = drive
        drive.add_done_callback(lambda _: self._forget(plan.run_id))
        self.board.wake()

    async def stop(self, run_id: UUID, by: int | None = None) -> bool:
        """Stops a run for a person (`by`, an id), whichever process drives it, and waits for its
        end.

        True if this call stopped it: then the connection to the provider is closed and the end
        is stored. False if the run came to another end, or another stop was faster. Raises
        OutOfReach if its process does not obey in time (it will when it reads the stored wish), or
        cannot store the end (it goes on trying).
        """
        live, drive = self._live.get(run_id), self._drives.get(run_id)
        if live is None or drive is None:
            return await self._stop_elsewhere(run_id, by)
        is_first = live.stop(by)
        await asyncio.wait({drive}, timeout=STOP_PATIENCE)
        if not drive.done():
            raise OutOfReach  # the provider is closed, but storage does not take the end
        return is_first and live.outcome is not None and live.outcome.status == Run.Status.STOPPED

    async def _stop_elsewhere(self, run_id: UUID, by: int | None) -> bool:
        worker, is_first = await in_database(runs.request_stop)(run_id, by)
        if worker is None:
            return False
        await self._bus.ask_to_stop(worker, run_id)
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                async for batch in self.journal.follow(run_id):
                    if batch and batch[-1].is_end:
                        return is_first and bool(batch[-1].fields.get("stopped"))
        except TimeoutError:
            raise OutOfReach from None
        return False

    async def shutdown(self, grace: float) -> None:
        """Takes no more runs, gives the others `grace` seconds, then ends them INTERRUPTED."""
        self._accepts_runs = False
        if self._beginnings:  # what is being stored by now will be a run of this process
            await asyncio.wait(set(self._beginnings), timeout=grace)
        if self._drives:
            log.info("waiting up to %g s for %d runs", grace, len(self._drives))
            await asyncio.wait(set(self._drives.values()), timeout=grace)
        for live in list(self._live.values()):
            live.cut_short(Cut.SHUT_DOWN)
        if self._drives:
            await asyncio.wait(set(self._drives.values()), timeout=5)
        self.board.close()
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await client.aclose()

    def _forget(self, run_id: UUID) -> None:
        self._live.pop(run_id, None)
        self._drives.pop(run_id, None)

    def _on_lost(self, run_id: UUID) -> None:
        if live := self._live.get(run_id):
            live.cut_short(Cut.LOST)

    def _on_stop(self, run_id: UUID) -> None:
        if live := self._live.get(run_id):
            live.stop(by=None)

    def _on_storage_failure(self) -> None:
        for live in self._live.values():
            live.cut_short(Cut.STORAGE_FAILED)

    async def _sweep_forever(self) -> None:
        patient_until = 0.0  # monotonic
        while True:
            try:
                await self._recover(is_patient=monotonic() < patient_until)
            except (OperationalError, InterfaceError, TimeoutError) as error:
                # A lease that ran out while nobody could renew it tells nothing: each process gets
                # as long as a lease to come back with its runs.
                patient_until = monotonic() + self.journal.lease
                log.warning("looking for lost runs failed, the database is away: %s", error)
            except Exception:  # a look that failed must not be the last one
                log.exception("looking for lost runs failed")
            await asyncio.sleep(SWEEP_INTERVAL)

    async def _recover(self, *, is_patient: bool) -> None:
        """Ends the runs that are lost; one that is patient only asks whether the database answers.
        Raises TimeoutError if it took so long that others may have missed to renew their leases."""
        asked_at = monotonic()
        await in_database(Run.objects.running().exists)()
        if monotonic() - asked_at > self.journal.lease / 2:
            raise TimeoutError("it answered late")
        if is_patient:
            return
        for run_id, end in (await in_database(recovery.recover)(set(self._live))).items():
            log.warning("run %s was interrupted: its process is gone", run_id)
            self.journal.show_end(run_id, end)


def _known(given: int | None, estimated: int) -> int:
    return estimated if given is None else given


_engine: Engine | None = None


def get_engine() -> Engine:
    """The engine of this process, made at its first use inside the event loop."""
    global _engine
    if _engine is None:
        _engine = Engine()
        _engine.start()
    return _engine


def running_engine() -> Engine | None:
    """The engine of this process, if it has been used; for those who only look at it."""
    return _engine


async def shut_down_engine() -> None:
    """Ends the engine of this process, if it was ever used. It stays, and refuses what still comes:
    daphne takes requests to its last moment, and a new engine would begin runs that nobody ends."""
    if _engine is not None:
        with suppress(asyncio.CancelledError):
            await _engine.shutdown(settings.SHUTDOWN_GRACE)
