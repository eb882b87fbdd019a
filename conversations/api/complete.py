"""GET and POST /api/v1/llm/complete/stream: an answer as a plain stream of texts (contract A2).

Each event is `{"text": "…", "metadata": {"model", "provider", "timestamp"}}`, the last with the
text [DONE]; an answer that failed half-way says so before that, in an event with an `error`. The
ids are those of the run's events, so that an EventSource that comes back goes on with its run and
never sends the prompt again.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from math import ceil
from typing import Any, Final
from uuid import UUID

from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import CsrfViewMiddleware
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from conversations import sse
from conversations.api import callers, calls, completions, messages
from conversations.api.callers import Caller
from conversations.api.completions import Completion
from conversations.api.errors import Problem, Refused, answering
from conversations.api.fields import Fields, body_of, parsed
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.events import RunEvent, encode
from conversations.forms import Unreadable
from conversations.journal import stored_number
from conversations.models import Run
from conversations.planning import Asked
from conversations.views.answers import Forbidden
from conversations.views.runs import check_own_page
from providers.models import Configuration

END: Final = "[DONE]"
# Which of the fields of POST /v1/chat/completions there are, all of them in `options`.
OPTIONS: Final = ("model", "temperature", "max_tokens", "response_format")


def told(problem: Problem) -> HttpResponse:
    """A refusal as the app's own addresses make them (contract S12)."""
    if problem.param is not None and problem.status == 400:
        return JsonResponse({"errors": {problem.param: [problem.message]}}, status=422)
    response = JsonResponse(
        {"error": {"code": problem.code, "message": problem.message}},
        status=problem.status,
        headers=dict(problem.headers),
    )
    if problem.retry_after is not None:
        response["Retry-After"] = str(ceil(problem.retry_after))
    return response


@csrf_exempt  # for tokens; of a browser, `_caller` asks more
@answering(told)
async def complete(request: HttpRequest) -> HttpResponseBase:
    """Starts a run, and streams its text."""
    caller = await in_database(_caller)(request)
    if returning := request.headers.get("Last-Event-ID"):
        run, after, stored = await in_database(_position)(caller, returning)
        if not run.is_running and after >= stored:
            return HttpResponse(status=204)  # an EventSource comes back no more
        rest = get_engine().journal.follow(run.pk, after, is_over=not run.is_running)
        return _response(run, [], rest, {})
    completion, configuration = await in_database(_check)(request, caller)
    call = await calls.begin(
        request,
        caller,
        configuration,
        Asked(
            prompt=messages.prompt_of(completion.drafts),
            parameters=completion.parameters,
            messages=await messages.prepared(completion.drafts),
            source=caller.source,
        ),
    )
    first, rest = await call.begun()
    return _response(call.run, first, rest, call.headers)


def _caller(request: HttpRequest) -> Caller:
    """Whose token it is, or who is signed in at the page that asks. Raises what refuses others."""
    if request.method not in ("GET", "POST"):
        message = f"This address takes GET and POST, not {request.method}."
        raise Refused(Problem(405, "METHOD_NOT_ALLOWED", message, headers={"Allow": "GET, POST"}))
    if callers.has_token(request):
        return callers.with_token(request)
    if not request.user.is_authenticated:
        raise Refused(
            Problem(401, "NOT_SIGNED_IN", "Sign in, or send a token as “Authorization: Bearer”.")
        )
    if request.method == "GET":
        _check_own_page(request)
    elif CsrfViewMiddleware(_nothing).process_view(request, _nothing, (), {}) is not None:
        raise Refused(Problem(403, "CSRF_FAILED", "This request did not come from a current page."))
    return Caller(request.user)


def _check_own_page(request: HttpRequest) -> None:
    try:
        check_own_page(request)
    except Forbidden:
        message = "Without a token, this address answers only to the app's own pages."
        raise Refused(Problem(403, "FORBIDDEN", message)) from None


def _nothing(request: HttpRequest) -> HttpResponse:
    """A view that is not exempt from anything: the one that the check of CSRF asks about."""
    return HttpResponse()


def _check(request: HttpRequest, caller: Caller) -> tuple[Completion, Configuration]:
    """What is asked for, and with which configuration: the default one if none is named."""
    fields = body_of(request) if request.method == "POST" else _of_query(request)
    options = fields.inner("options") or Fields({}, "options")
    usable = caller.configurations
    slug = options.text("model", most=200)
    if slug:
        configuration = completions.configuration_named(caller, slug)
    elif (preferred := usable.preferred()) is not None:
        configuration = preferred
    else:
        raise Http404
    parameters = completions.read_parameters(
        Fields({name: options.raw(name) for name in OPTIONS}, "options")
    )
    completion = Completion(
        model=configuration.slug, drafts=messages.read(fields), parameters=parameters
    )
    completions.check_abilities(configuration, completion)
    return completion, configuration


def _of_query(request: HttpRequest) -> Fields:
    """`messages` and `options` from the query string, each a JSON text."""
    found: dict[str, Any] = {}
    for name in ("messages", "options"):
        if words := request.GET.get(name, ""):
            try:
                found[name] = parsed(words)
            except Unreadable:
                raise Unreadable(f"“{name}” is not valid JSON.") from None
    return Fields(found)


def _position(caller: Caller, returning: str) -> tuple[Run, int, int]:
    """The run of an event, its number, and the last number that is stored. Raises Unreadable, and
    Http404 for a run of somebody else."""
    position = sse.parse_id(returning)
    try:
        run_id, after = (UUID(position[0]), position[1]) if position else (None, 0)
    except ValueError:
        run_id = None
    if run_id is None:
        raise Unreadable("Last-Event-ID is not the id of an event.")
    run = callers.runs_of(caller).filter(pk=run_id).first()
    if run is None:
        raise Http404
    return run, after, stored_number(run.pk)


def _response(
    run: Run,
    first: Sequence[RunEvent],
    rest: AsyncGenerator[Sequence[RunEvent], None],
    headers: dict[str, str],
) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _stream(run, first, rest),
        content_type=sse.CONTENT_TYPE,
        headers={**sse.HEADERS, **headers},
    )


async def _stream(
    run: Run,
    first: Sequence[RunEvent],
    rest: AsyncGenerator[Sequence[RunEvent], None],
) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        if first:
            yield _texts(run, first)
        try:
            async for batch in rest:
                if data := _texts(run, batch) if batch else sse.PING:
                    yield data
        except Refused as refused:
            yield _event(run, None, "", _error(refused.problem)) + _event(run, None, END)


def _texts(run: Run, events: Sequence[RunEvent]) -> bytes:
    pieces: list[bytes] = []
    for event in events:
        match event.type:
            case "chunk":
                pieces.append(_event(run, event, event.fields["content"]))
            case "error":
                problem = Problem.of_end(event.fields)
                pieces += [_event(run, None, "", _error(problem)), _event(run, event, END)]
            case "done":
                pieces.append(_event(run, event, END))
    return b"".join(pieces)


def _event(
    run: Run, event: RunEvent | None, text: str, more: dict[str, Any] | None = None
) -> bytes:
    metadata = {
        "model": run.model,
        "provider": run.provider,
        "timestamp": timezone.now().isoformat(),
    }
    id_ = f"id: {run.pk}:{event.number}\n" if event else ""
    return f"{id_}data: {encode({'text': text, **(more or {}), 'metadata': metadata})}\n\n".encode()


def _error(problem: Problem) -> dict[str, Any]:
    return {"error": {"code": problem.code, "message": problem.message}}
