"""A run for a call of the API. It ends with its client (guarantee G4, contract A3), unless the
caller wants it kept as a session."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse

from conversations import runs
from conversations.api import callers, limits
from conversations.api.callers import Caller
from conversations.api.errors import Problem, Refused
from conversations.api.limits import Allowance
from conversations.at_end import at_end
from conversations.background import spawn
from conversations.engine import get_engine
from conversations.errors import OutOfReach
from conversations.events import RunEvent
from conversations.models import Run
from conversations.planning import Asked
from conversations.runs import Owner, Started
from conversations.views import streams
from providers.models import Configuration

log = logging.getLogger(__name__)

# What a run begins with before the provider has said anything.
OPENING: Final = ("metadata", "request_data", "retry")
NO_LONGER: Final = Problem(401, "invalid_api_key", "This is no longer allowed.", is_final=True)
GONE: Final = Problem(404, "NOT_FOUND", "This was deleted in the meantime.", is_final=True)


class Call:
    """A call whose run has started. Made by `begin`."""

    def __init__(
        self, request: HttpRequest, caller: Caller, run: Run, allowance: Allowance
    ) -> None:
        self.run = run
        self.has_ended = False  # its end was seen
        self._request = request
        self._caller = caller
        self._allowance = allowance

    @property
    def headers(self) -> dict[str, str]:
        """Where the run can be looked at, followed and resumed, and what else may be called."""
        run = self.run
        told = {
            "X-LLMChat-Run": str(run.pk),
            "X-LLMChat-Inspector": self._address("run_inspector", run.pk),
            "X-LLMChat-Events": self._address("run_events", run.pk),
            **self._allowance.headers,
        }
        if run.session_id is not None:
            told["X-LLMChat-Session"] = self._address("chat", run.session_id)
        return told

    async def events(self) -> AsyncGenerator[Sequence[RunEvent], None]:
        """The events of the run as they come; nothing for a heartbeat is an empty batch. Raises
        Refused when the caller is no longer welcome, or the run was deleted."""
        rights = streams.Rights(lambda: callers.is_welcome(self._request, self._caller))
        async with aclosing(get_engine().journal.follow(self.run.pk)) as batches:
            async for batch in batches:
                self.has_ended = bool(batch) and batch[-1].is_end
                yield batch
                if not await rights.hold():
                    raise Refused(NO_LONGER)
        if not self.has_ended:
            raise Refused(GONE)

    async def begun(self) -> tuple[list[RunEvent], AsyncGenerator[Sequence[RunEvent], None]]:
        """Waits until an answer can begin: the provider has said something, or nothing for a
        heartbeat. Gives what it said, and the batches that follow. Raises Refused where the run
        failed without a word of an answer, so that this can still be the status of the response."""
        batches = self.events()
        said: list[RunEvent] = []
        try:
            async for batch in batches:
                said += [event for event in batch if event.type not in OPENING]
                if said or not batch:
                    break
            if said and said[0].type == "error":
                raise self.failed(said[0])
        except BaseException:
            await batches.aclose()
            raise
        return said, batches

    async def end(self) -> tuple[list[RunEvent], dict[str, Any]]:
        """Waits for the end of the run. Gives its tool calls and reasoning, and the fields of its
        `done`. Raises Refused for another end."""
        kept: list[RunEvent] = []
        async with aclosing(self.events()) as batches:
            async for batch in batches:
                kept += [event for event in batch if event.type in ("tool_call", "reasoning")]
                if batch and batch[-1].type == "done":
                    return kept, batch[-1].fields
                if batch and batch[-1].type == "error":
                    raise self.failed(batch[-1])
        raise Refused(GONE)

    def failed(self, end: RunEvent) -> Refused:
        """The failure that an `error` event tells."""
        return Refused(replace(Problem.of_end(end.fields), headers=self.headers))

    def _address(self, name: str, id_: object) -> str:
        return self._request.build_absolute_uri(reverse(name, args=[id_]))


async def begin(
    request: HttpRequest,
    caller: Caller,
    configuration: Configuration,
    asked: Asked,
    *,
    is_saved: bool = False,
) -> Call:
    """Starts a run for this request. It is stopped when the request is over, unless it is to be
    saved. Raises what `runs.start_alone` raises, and Refused over the limit."""
    verb = runs.start_saved if is_saved else runs.start_alone

    async def start() -> Call:
        allowances: list[Allowance] = []

        def started(owner: Owner) -> Started:
            with transaction.atomic():
                allowances.append(limits.take(caller.user))
                return verb(caller.user, configuration, asked, owner)

        run = (await get_engine().begin(started)).run
        return Call(request, caller, run, allowances[0])

    # A task, as the client may leave while it is under way.
    beginning = spawn(start(), "start of a call")
    if not is_saved:
        at_end(request, lambda: spawn(_stop(beginning), "end of a call"))
    return await asyncio.shield(beginning)


async def _stop(beginning: "asyncio.Task[Call]") -> None:
    """Stops the run of a request that is over, if it has not ended by itself."""
    try:
        call = await beginning
    except Exception:  # the request has told it, or nobody is left to tell
        return
    if call.has_ended:
        return
    try:
        if await get_engine().stop(call.run.pk):
            log.info("run %s was stopped: its client is gone", call.run.pk)
    except OutOfReach:
        log.warning("run %s could not be stopped yet, though its client is gone", call.run.pk)
