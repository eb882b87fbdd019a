"""Following and stopping runs."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

from conversations import events as run_events
from conversations import live_page, runs, sse, transcript
from conversations.api import callers
from conversations.api.callers import Caller
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.errors import BudgetExceeded, Failure
from conversations.events import RunEvent
from conversations.forms import MessageForm, Unreadable
from conversations.journal import stored_events, stored_number
from conversations.models import ChatSession, Message, Run
from conversations.views import streams
from conversations.views.access import chat_of, configuration_for, monitored_run_of, run_of
from conversations.views.answers import Forbidden, endpoint, invalid, signed_in

log = logging.getLogger(__name__)

# ---- following


@require_GET
@endpoint
async def events(request: HttpRequest, run_id: UUID) -> HttpResponseBase:
    """The events of a run from a position on, then live (contract S10); with `poll=1` those that
    there are at this moment, for who does not get them live."""
    caller, run, stored = await in_database(_position)(request, run_id)
    after = _after(request, run)
    if request.GET.get("poll") == "1":
        return await _poll(request, run, after, stored)
    return _follow(request, caller, run, after, stored)


def _position(request: HttpRequest, run_id: UUID) -> tuple[Caller, Run, int]:
    if not callers.has_token(request):
        run = run_of(request, run_id)
        return Caller(request.user), run, stored_number(run.pk)
    caller = callers.with_token(request)
    found = callers.runs_of(caller).filter(pk=run_id).first()
    if found is None:
        raise Http404
    return caller, found, stored_number(run_id)


def _after(request: HttpRequest, run: Run) -> int:
    """The number that the reader has already. Raises Unreadable for what is no id of this run."""
    text = request.headers.get("Last-Event-ID") or request.GET.get("last_event_id") or ""
    if not text:
        return 0
    position = sse.parse_id(text)
    if position is None or position[0] != str(run.pk):
        raise Unreadable("Last-Event-ID is not the id of an event of this run.")
    return position[1]


def _follow(
    request: HttpRequest, caller: Caller, run: Run, after: int, stored: int
) -> HttpResponseBase:
    after, is_complete = _standing(run, after, stored)
    if is_complete:
        return HttpResponse(status=204)
    streams.check_room(caller.user.pk)
    journal = get_engine().journal
    is_over = not run.is_running
    if _shows_blocks(request):
        batches = live_page.blocks(run, journal.follow(run.pk, is_over=is_over), after)
    else:
        batches = journal.follow(run.pk, after, is_over=is_over)
    return sse.response(_counted(request, caller, run.pk, batches))


async def _poll(request: HttpRequest, run: Run, after: int, stored: int) -> HttpResponse:
    after, is_complete = _standing(run, after, stored)
    if is_complete:
        return HttpResponse(status=204)
    journal, is_over = get_engine().journal, not run.is_running
    events = await journal.read_now(run.pk, after, is_over=is_over)
    if events and _shows_blocks(request):
        # Rendered from the start, each time: the longer that takes, the more seldom pages ask.
        whole = await journal.read_now(run.pk, is_over=is_over)
        events = await live_page.blocks_now(run, whole, after)
    return sse.poll_response(run.pk, events)


def _standing(run: Run, after: int, stored: int) -> tuple[int, bool]:
    """The number after which a reader goes on, and whether it has all there will ever be."""
    known = get_engine().journal.known_number(run.pk) or stored
    if after > known:
        after = 0  # a crash took what this reader had seen: it starts over
    return after, not run.is_running and after >= known


def _shows_blocks(request: HttpRequest) -> bool:
    return request.GET.get("view") == "html"


async def _counted(
    request: HttpRequest,
    caller: Caller,
    run_id: UUID,
    batches: AsyncGenerator[Sequence[RunEvent], None],
) -> AsyncIterator[bytes]:
    """A stream while its reader may read. It holds no database connection while it waits."""
    rights = streams.Rights(lambda: _may_read(request, caller, run_id))
    with streams.counted(caller.user.pk):
        async with aclosing(sse.frames(run_id, batches)) as frames:
            async for data in frames:
                yield data
                if not await rights.hold():
                    return


def _may_read(request: HttpRequest, caller: Caller, run_id: UUID) -> bool:
    """Whether the reader is still who they were, and the run still theirs."""
    if not callers.is_welcome(request, caller):
        return False
    return Run.objects.filter(pk=run_id, user_id=caller.user.pk, user__is_active=True).exists()


# ---- the one-request form


@require_GET
@endpoint
async def stream(request: HttpRequest) -> HttpResponseBase:
    """Starts a run and follows it, for plain EventSource clients (contract S11).

    It is a GET that does something, so only the app's own page may make it; and one that comes
    back with the id of an event follows its run, whatever else it says.
    """
    check_own_page(request)
    returning = request.headers.get("Last-Event-ID") or request.GET.get("last_event_id")
    if returning:
        position = sse.parse_id(returning)
        if position is None:
            raise Unreadable("Last-Event-ID is not the id of an event.")
        try:
            run_id = UUID(position[0])
        except ValueError:
            raise Unreadable("Last-Event-ID is not the id of an event.") from None
        caller, run, stored = await in_database(_position)(request, run_id)
        return _follow(request, caller, run, position[1], stored)

    checked = await in_database(_check)(request)
    if isinstance(checked, HttpResponse):
        return checked
    user, chat, configuration, asked = checked
    try:
        started = await get_engine().begin(
            lambda owner: runs.start(user, chat, configuration, asked, owner)
        )
    except BudgetExceeded as error:
        if sse.CONTENT_TYPE not in request.headers.get("Accept", ""):
            raise
        return _told_in_stream(error)
    return _follow(request, Caller(user), started.run, 0, 0)


def _told_in_stream(error: BudgetExceeded) -> HttpResponse:
    """For an EventSource, which shows its page no answer but a stream: the error as its one event,
    of a run that there never was, so that coming back to it is answered with 404."""
    data = run_events.error(Failure.of(error), assistant_message_id=None, text="")
    return sse.poll_response(uuid4(), [RunEvent(1, "error", data)])


def _check(request: HttpRequest) -> Any:
    user = signed_in(request)
    session_id = request.GET.get("session_id", "")
    form = MessageForm(request.GET.dict())
    is_valid = form.is_valid()
    if not session_id:
        form.add_error(None, "session_id is missing.")
        return JsonResponse(
            {"errors": {**form.errors, "session_id": ["This field is required."]}}, status=422
        )
    try:
        chat = chat_of(request, UUID(session_id))
    except ValueError:
        raise Http404 from None
    if not is_valid:
        return invalid(form)
    configuration = configuration_for(user, form.cleaned_data["configuration_id"], chat)
    return user, chat, configuration, form.asked


def check_own_page(request: HttpRequest) -> None:
    """The browser itself says where a request comes from; a page cannot forge these headers."""
    origin = request.headers.get("Origin")
    is_own_origin = origin is not None and urlsplit(origin).netloc == request.get_host()
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        is_own_page = is_own_origin
    else:
        is_own_page = (
            site == "same-origin"
            and request.headers.get("Sec-Fetch-Dest") == "empty"
            and (origin is None or is_own_origin)
        )
    if not is_own_page:
        raise Forbidden(
            "This address answers only to the app's own pages. Other clients start a run with "
            "POST /chat/<session id>/messages/."
        )


# ---- the end


@require_POST
@endpoint
async def stop(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """A person's own run; any run for staff, who see it on the live board."""
    run = await in_database(monitored_run_of)(request, run_id)
    return await _stopped(request, run)


@require_POST
@endpoint
async def stop_chat(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Stops whatever runs in a session, for who does not know the run."""
    chat = await in_database(chat_of)(request, session_id)
    run = await in_database(_latest_run)(chat)
    return await _stopped(request, run)


def _latest_run(chat: ChatSession) -> Run:
    run = Run.objects.filter(session=chat).select_related("user_message").first()
    if run is None:
        raise Http404
    return run


async def _stopped(request: HttpRequest, run: Run) -> HttpResponse:
    """Stops a run and tells what became of it. When this answers, the provider is closed."""
    stopped = await get_engine().stop(run.pk, request.user.pk) if run.is_running else False
    is_deleted, after = await in_database(_after_stop)(run)
    if run.user_id != request.user.pk:
        after = {"receipt": after["receipt"]}  # the prompt goes back to its writer's page only
    return JsonResponse(
        {"stopped": stopped, "user_message_deleted": stopped and is_deleted, **after}
    )


def _after_stop(run: Run) -> tuple[bool, dict[str, Any]]:
    """Whether the message of a run is gone; and the prompt, the receipt if it was stopped, and the
    attachments that went back to their owner, if any."""
    is_gone = not Message.objects.filter(pk=run.user_message_id or 0).exists()
    events = stored_events(run.pk)
    returned = events[-1].fields.get("attachments") if events else None
    now = Run.objects.filter(pk=run.pk).select_related("stop_requested_by").first()
    return is_gone, {
        "user_prompt": events[0].fields["user_prompt"] if events else "",
        "receipt": now.receipt if now else None,
        **({"attachments": returned} if returned else {}),
    }


@require_GET
@endpoint
def result(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The answer as the page shows it after a reload, and what the session has used by now; 204
    where nothing of the answer was kept."""
    run = run_of(request, run_id)
    entry = transcript.run_entry(run)
    if entry is None:
        return HttpResponse(status=204)
    totals = transcript.totals(run.session) if run.session else None
    return render(request, "conversations/_result.html", {"entry": entry, "totals": totals})


@require_POST
@endpoint
def mismatch(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """A page says that what it had received was not what is stored. It has repaired itself."""
    run = run_of(request, run_id)
    log.error("a page had received something else than what is stored of run %s", run.pk)
    live_page.count_mismatch(run.pk)
    return HttpResponse(status=204)
