"""POST /v1/messages and /v1/messages/count_tokens: the same verbs for Anthropic's clients (A1).

The token comes as `x-api-key` or as a bearer token, and `model` is the slug of a configuration of
any kind. What such a call asks for is in `anthropic_request`, what it is answered with in
`anthropic_answer`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.views.decorators.csrf import csrf_exempt

from conversations import context, sse
from conversations.api import anthropic_answer, anthropic_request, completions, messages
from conversations.api.anthropic_answer import PING, Stream
from conversations.api.anthropic_request import Wanted
from conversations.api.callers import Caller, with_key
from conversations.api.calls import Call
from conversations.api.errors import Problem, Refused, answering, check_method, error_response
from conversations.api.fields import Fields, body_of
from conversations.background import in_database
from conversations.events import encode
from providers.models import Configuration
from providers.tokens import estimate


def told(problem: Problem) -> HttpResponse:
    """The answer that makes Anthropic's clients raise their exception for it."""
    response = error_response(problem, anthropic_answer.error(problem))
    if run := problem.headers.get("X-LLMChat-Run"):
        response["request-id"] = run
    return response


@csrf_exempt  # a token is no cookie: no page of another site can make a browser send it
@answering(told)
async def create(request: HttpRequest) -> HttpResponseBase:
    """Answers as Anthropic does, streamed or not."""

    def read(fields: Fields) -> Wanted:
        return anthropic_request.read(fields, request.headers.get(completions.SAVE_HEADER, ""))

    caller, wanted, configuration = await in_database(_check)(request, read)
    call, headers = await completions.begin(request, caller, configuration, wanted)
    headers["request-id"] = str(call.run.pk)  # which their clients know an answer by
    if not wanted.streams:
        kept, done = await call.end()
        return JsonResponse(anthropic_answer.message(call, wanted, kept, done), headers=headers)
    return await _streamed(call, wanted, headers)


@csrf_exempt  # as above
@answering(told)
async def count_tokens(request: HttpRequest) -> HttpResponseBase:
    """How many tokens a call would send: an estimate, as providers count in ways of their own."""
    _, wanted, configuration = await in_database(_check)(request, anthropic_request.read_for_count)
    given = await messages.prepared(wanted.drafts)
    has_system = any(one.message.role == "system" for one in given)
    before = "" if has_system else configuration.system_instructions
    _, _, tokens = context.gather(given, before=before)
    tools = "".join(encode(tool["function"]) for tool in wanted.parameters.tools)
    return JsonResponse({"input_tokens": tokens + estimate(tools), "estimated": True})


def _check(
    request: HttpRequest, read: Callable[[Fields], Wanted]
) -> tuple[Caller, Wanted, Configuration]:
    """Who calls, what for, and with which configuration. Reads the database."""
    check_method(request, "POST")
    caller = with_key(request)
    wanted = read(body_of(request))
    configuration = completions.configuration_named(caller, wanted.model)
    completions.check_abilities(configuration, wanted)
    return caller, wanted, configuration


async def _streamed(call: Call, wanted: Wanted, headers: dict[str, str]) -> StreamingHttpResponse:
    """A stream of events. A failure before it has begun is the answer's status; one after that
    comes in the stream."""
    first, batches = await call.begun()

    async def stream() -> AsyncIterator[bytes]:
        told = Stream(call, wanted)
        async with aclosing(batches):
            yield told.begin()
            try:
                yield told.of(first)
                async for batch in batches:
                    yield told.of(batch) if batch else PING
            except Refused as refused:
                yield told.failure(refused.problem)

    return StreamingHttpResponse(
        stream(), content_type=sse.CONTENT_TYPE, headers={**sse.HEADERS, **headers}
    )
