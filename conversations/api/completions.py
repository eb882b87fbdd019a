"""POST /v1/chat/completions: what is asked, from OpenAI's form to ours, and the answer in theirs.

Source: OpenAI API reference, "Create chat completion" and "The chat completion chunk object".
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from django.http import (
    HttpRequest,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.views.decorators.csrf import csrf_exempt

from conversations import sse
from conversations.api import calls, messages
from conversations.api.callers import Caller, with_token
from conversations.api.calls import Call
from conversations.api.errors import (
    BadParameter,
    Problem,
    Refused,
    answering,
    check_method,
    openai_response,
)
from conversations.api.fields import Fields, body_of, mapping, storable, text
from conversations.api.messages import Draft
from conversations.background import in_database
from conversations.events import RunEvent, encode
from conversations.outcomes import joined_tool_calls
from conversations.planning import Asked
from providers import schemas
from providers.adapters.base import Effort, Feature, JSONObject, Parameters, Schema
from providers.models import Configuration

MOST_TOOLS: Final = 128
MOST_STOPS: Final = 16
MOST_STOP: Final = 1_000  # characters
MOST_BIASES: Final = 1_024
MOST_TOKENS: Final = 128_000
WHOLE: Final = 2**53 - 1  # the largest that every reader of JSON keeps
TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
# OpenAI knows more degrees than others do.
EFFORTS: Final = {
    "none": Effort.NONE,
    "minimal": Effort.LOW,
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
    "max": Effort.HIGH,
}
SAVE_HEADER: Final = "X-LLMChat-Save"
KEY_HEADER: Final = "Idempotency-Key"
SAVE_FIELD: Final = "llmchat_save"  # of `metadata`
YES: Final = ("true", "1", "yes")
END: Final = b"data: [DONE]\n\n"
# What is used here, and what changes nothing that anybody could see.
KNOWN: Final = frozenset(
    "model messages temperature top_p max_tokens max_completion_tokens stop seed logit_bias "
    "presence_penalty frequency_penalty tools tool_choice parallel_tool_calls response_format "
    "stream stream_options n reasoning_effort metadata user store safety_identifier "
    "prompt_cache_key service_tier logprobs top_logprobs modalities".split()
)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call asks for."""

    model: str
    drafts: Sequence[Draft]
    parameters: Parameters
    streams: bool = False
    includes_usage: bool = False
    is_saved: bool = False
    ignored: Sequence[str] = ()  # names of fields that are not used


@csrf_exempt  # a bearer token is no cookie: no page of another site can make a browser send it
@answering(openai_response)
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Answers as OpenAI does, streamed or not."""
    caller, completion, configuration = await in_database(_check)(request)
    call, headers = await begin(request, caller, configuration, completion)
    if not completion.streams:
        kept, done = await call.end()
        whole = _whole(call, kept, done)
        return JsonResponse(whole, headers=headers)
    return await _streamed(call, completion, headers)


async def begin(
    request: HttpRequest, caller: Caller, configuration: Configuration, completion: Completion
) -> tuple[Call, dict[str, str]]:
    """Starts the run of a call. Gives it, and the headers of its answer. Raises as
    `calls.begin`."""
    call = await calls.begin(
        request,
        caller,
        configuration,
        Asked(
            prompt=messages.prompt_of(completion.drafts),
            parameters=completion.parameters,
            messages=await messages.prepared(completion.drafts),
            # A run that ends with its client cannot be gone back to.
            idempotency_key=_key(request) if completion.is_saved else "",
            source=caller.source,
        ),
        is_saved=completion.is_saved,
    )
    headers = call.headers
    if completion.ignored:
        headers["X-LLMChat-Ignored"] = ", ".join(completion.ignored)
    return call, headers


def _key(request: HttpRequest) -> str:
    """The key under which a saved call is made once, however often it is sent."""
    return text(request.headers.get(KEY_HEADER, ""), KEY_HEADER, most=200)


def _check(request: HttpRequest) -> tuple[Caller, Completion, Configuration]:
    """Who calls, what for, and with which configuration. Reads the database."""
    check_method(request, "POST")
    caller = with_token(request)
    completion = read(body_of(request), request.headers.get(SAVE_HEADER, ""))
    configuration = configuration_named(caller, completion.model)
    check_abilities(configuration, completion)
    return caller, completion, configuration


def configuration_named(caller: Caller, slug: str) -> Configuration:
    """The configuration with this slug. Raises Refused for one that may not be used, as for one
    that there is none."""
    found = caller.configurations.filter(slug=slug).first()
    if found is None:
        raise Refused(
            Problem(
                404,
                "model_not_found",
                f"There is no model “{slug[:100]}” that you may use. GET /v1/models lists them.",
                param="model",
                is_final=True,
            )
        )
    return found


def check_abilities(
    configuration: Configuration, completion: Completion, place: str = "messages"
) -> None:
    """Raises BadParameter for what the model cannot do, so far as is known. `place` is that of
    the messages in the call."""
    if completion.parameters.tools and not configuration.supports(Feature.TOOLS):
        raise BadParameter("tools", f"{configuration.name} cannot use tools.")
    if completion.is_saved and completion.drafts[-1].message.role not in ("user", "tool"):
        raise BadParameter(place, "To be saved, a conversation has to end with a question.")
    has_images = any(draft.images for draft in completion.drafts)
    if has_images and not configuration.supports(Feature.VISION):
        raise BadParameter(place, f"{configuration.name} cannot see images.")


# ---- what is asked


def read(call: Fields, save: str = "") -> Completion:
    """What the body of a call asks for; `save` is the header that says whether it is to be kept.
    Raises BadParameter."""
    call.required("model")
    streams = call.flag("stream") or False
    options = call.inner("stream_options")
    if options and not streams:
        call.refuse("stream_options", "This is only for streams: set “stream” to true.")
    if call.whole("n", 1, 128) not in (None, 1):
        call.refuse("n", "One call gives one answer. Call again for another.")
    if call.flag("logprobs"):
        call.refuse("logprobs", "The probabilities of tokens are not told here.")
    if call.raw("modalities") not in (None, ["text"]):
        call.refuse("modalities", "Answers are text.")
    return Completion(
        model=call.text("model", most=200) or "",
        drafts=messages.read(call),
        parameters=read_parameters(call),
        streams=streams,
        includes_usage=bool(options and options.flag("include_usage")),
        is_saved=save.strip().lower() in YES or wants_saving(call),
        ignored=sorted(name for name in call if name not in KNOWN and name.isidentifier())[:20],
    )


def wants_saving(call: Fields) -> bool:
    """Whether the `metadata` of a call say that it is to be kept. Raises BadParameter."""
    metadata = call.inner("metadata")
    return metadata is not None and str(metadata.raw(SAVE_FIELD)).lower() in YES


def read_parameters(call: Fields) -> Parameters:
    """How to answer. Raises BadParameter."""
    schema, is_json = _format(call)
    newer = call.whole("max_completion_tokens", 1, MOST_TOKENS)
    older = call.whole("max_tokens", 1, MOST_TOKENS)
    effort = call.choice("reasoning_effort", EFFORTS)
    tools = [_tool(tool) for tool in call.each("tools", most=MOST_TOOLS)]
    return Parameters(
        temperature=call.number("temperature", 0, 2),
        top_p=call.number("top_p", 0, 1),
        max_tokens=newer if newer is not None else older,
        reasoning_effort=EFFORTS[effort] if effort else None,
        schema=schema,
        tools=tools,
        tool_choice=_choice(call, tools),
        parallel_tool_calls=call.flag("parallel_tool_calls"),
        is_json=is_json,
        stop=_stops(call),
        seed=call.whole("seed", -WHOLE, WHOLE),
        presence_penalty=call.number("presence_penalty", -2, 2),
        frequency_penalty=call.number("frequency_penalty", -2, 2),
        logit_bias=_biases(call),
    )


def _stops(call: Fields) -> tuple[str, ...]:
    if isinstance(call.raw("stop"), str):
        return (stop,) if (stop := call.text("stop", most=MOST_STOP)) else ()
    items = call.items("stop", most=MOST_STOPS)
    return tuple(text(item, place, most=MOST_STOP) for item, place in items if item != "")


def _biases(call: Fields) -> dict[str, float] | None:
    biases = call.inner("logit_bias")
    if biases is None:
        return None
    tokens = list(biases)
    if len(tokens) > MOST_BIASES or not all(
        token.isascii() and token.isdigit() for token in tokens
    ):
        call.refuse("logit_bias", "Give an object of token ids with a number from -100 to 100.")
    return {token: biases.number(token, -100, 100) or 0.0 for token in tokens}


def _format(call: Fields) -> tuple[Schema | None, bool]:
    """The schema that the answer has to be valid against, and whether any JSON object will do."""
    asked = call.inner("response_format")
    if asked is None:
        return None, False
    match asked.raw("type"):
        case "text":
            return schemas.NONE, False
        case "json_object":
            return schemas.NONE, True
        case "json_schema":
            told = asked.inner("json_schema")
            if told is None:
                asked.refuse("json_schema", "Give {“name”, “schema”} here.")
            return read_schema(told), False
    asked.refuse("type", "Give one of text, json_object, json_schema here.")


def read_schema(told: Fields) -> Schema:
    """The schema in the field of this name, and its `name`. Raises BadParameter."""
    value = storable(told.required("schema"), told.place("schema"))
    try:
        return schemas.checked(value, told.text("name", most=64) or "")
    except schemas.BadSchema as error:
        told.refuse("schema", str(error))


def _tool(tool: Fields) -> JSONObject:
    if tool.raw("type") != "function":
        tool.refuse("type", "Give “function” here: other tools are not known.")
    function = tool.inner("function")
    if function is None:
        tool.refuse("function", "Give {“name”, “description”, “parameters”} here.")
    return {"type": "function", "function": read_function(function)}


def read_function(function: Fields) -> JSONObject:
    """A function that a model may call: name, description, parameters, strict. Raises
    BadParameter."""
    name = function.text("name") or ""
    if not TOOL_NAME.fullmatch(name):
        function.refuse("name", "Give a name of up to 64 letters, digits, _ and - here.")
    told: JSONObject = {"name": name}
    if (description := function.text("description")) is not None:
        told["description"] = description
    if "parameters" in function:
        place = function.place("parameters")
        told["parameters"] = storable(mapping(function.raw("parameters"), place), place)
    if (strict := function.flag("strict")) is not None:
        told["strict"] = strict
    return told


def _choice(call: Fields, tools: Sequence[JSONObject]) -> str | JSONObject | None:
    choice = call.raw("tool_choice")
    if choice is None:
        return None
    if not tools:
        if choice in ("none", "auto"):
            return None
        call.refuse("tool_choice", "There are no “tools” to choose from.")
    if isinstance(choice, str):
        return call.choice("tool_choice", ("auto", "none", "required"))
    told = call.inner("tool_choice")
    function = told.inner("function") if told else None
    name = function.text("name") if function else None
    if name not in {tool["function"]["name"] for tool in tools}:
        call.refuse("tool_choice", "This names none of the “tools”.")
    return {"type": "function", "function": {"name": name}}


# ---- what is answered


def _whole(call: Call, kept: Iterable[RunEvent], done: JSONObject) -> JSONObject:
    """A `chat.completion`."""
    told = list(kept)
    tool_calls = joined_tool_calls(event.fields for event in told if event.type == "tool_call")
    reasoning = "".join(event.fields["content"] for event in told if event.type == "reasoning")
    answer = done["full_response"]
    message = {
        "role": "assistant",
        "content": answer if answer or not tool_calls else None,
        "refusal": None,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": _tool_calls(call, tool_calls)} if tool_calls else {}),
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(done, has_calls=bool(tool_calls)),
    }
    return {
        **_head(call, "chat.completion"),
        "choices": [choice],
        "usage": usage(done["metrics"]),
    }


def _head(call: Call, object_: str) -> JSONObject:
    run = call.run
    return {
        "id": f"chatcmpl-{run.pk.hex}",
        "object": object_,
        "created": int(run.started_at.timestamp()),
        "model": run.configuration_slug,
        "system_fingerprint": None,
    }


def _tool_calls(call: Call, joined: Sequence[dict[str, str]]) -> list[JSONObject]:
    return [
        {
            "id": told["id"] or call_id(call, index),
            "type": "function",
            "function": {"name": told["name"], "arguments": told["arguments"]},
        }
        for index, told in enumerate(joined)
    ]


def call_id(call: Call, index: int) -> str:
    """An id for a tool call whose provider gave it none: the caller's result has to name it."""
    return f"call_{call.run.pk.hex[:12]}_{index}"


def finish_reason(done: JSONObject, *, has_calls: bool) -> str:
    """In OpenAI's words, which have none for an answer that a person stopped: it is not whole, as
    one that reached its limit."""
    reason = done["finish_reason"]
    if reason == "stopped":
        return "length"
    return reason or ("tool_calls" if has_calls else "stop")


def usage(metrics: JSONObject) -> JSONObject:
    """The `usage` of an answer: what is not known is 0 there, as OpenAI's clients take no null.
    `cost_usd` and `estimated` say more."""
    prompt, completion = metrics["prompt_tokens"] or 0, metrics["completion_tokens"] or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": metrics["cached_tokens"] or 0},
        "completion_tokens_details": {"reasoning_tokens": metrics["reasoning_tokens"] or 0},
        "cost_usd": metrics["cost_usd"],
        "estimated": metrics["estimated"],
    }


async def _streamed(
    call: Call, completion: Completion, headers: dict[str, str]
) -> StreamingHttpResponse:
    """A stream of `chat.completion.chunk`. A failure before it has begun is the answer's status;
    one after that comes in the stream."""
    first, batches = await call.begun()

    async def stream() -> Any:
        chunks = Chunks(call, includes_usage=completion.includes_usage)
        async with aclosing(batches):
            yield chunks.begin() + chunks.of(first)
            try:
                async for batch in batches:
                    yield chunks.of(batch) if batch else sse.PING
            except Refused as refused:
                yield Chunks.failure(refused.problem)
                yield END

    return StreamingHttpResponse(
        stream(), content_type=sse.CONTENT_TYPE, headers={**sse.HEADERS, **headers}
    )


class Chunks:
    """The bytes of one stream, from the events of its run. Each chunk has the id of its event, with
    which the run's own events can be followed from there."""

    def __init__(self, call: Call, *, includes_usage: bool) -> None:
        self._call = call
        self._head = _head(call, "chat.completion.chunk")
        self._includes_usage = includes_usage
        self._calls: set[int] = set()  # the indexes of the tool calls so far

    def begin(self) -> bytes:
        """The first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def of(self, events: Iterable[RunEvent]) -> bytes:
        """The chunks of these events, in one piece."""
        return b"".join(piece for event in events for piece in self._of(event))

    def _of(self, event: RunEvent) -> Iterator[bytes]:
        match event.type:
            case "chunk":
                yield self._chunk({"content": event.fields["content"]}, event=event)
            case "reasoning":
                yield self._chunk({"reasoning_content": event.fields["content"]}, event=event)
            case "tool_call":
                yield self._chunk({"tool_calls": [self._tool_call(event.fields)]}, event=event)
            case "done":
                yield from self._end(event)
            case "error":
                yield self.failure(Problem.of_end(event.fields))
                yield END

    def _end(self, event: RunEvent) -> Iterator[bytes]:
        done = event.fields
        reason = finish_reason(done, has_calls=bool(self._calls))
        yield self._chunk({}, reason, event=event)
        if self._includes_usage:
            told = {**self._head, "choices": [], "usage": usage(done["metrics"])}
            yield _data(told)
        yield END

    def _chunk(
        self, delta: JSONObject, reason: str | None = None, event: RunEvent | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        told = {**self._head, "choices": [choice]}
        if self._includes_usage:
            told["usage"] = None
        id_ = f"id: {self._call.run.pk}:{event.number}\n".encode() if event else b""
        return id_ + _data(told)

    def _tool_call(self, piece: JSONObject) -> JSONObject:
        """A piece of a tool call. What it is comes with its first piece, and only there."""
        index = piece["index"]
        told: JSONObject = {"index": index, "function": {"arguments": piece["arguments"]}}
        if index not in self._calls:
            self._calls.add(index)
            told["id"] = piece["id"] or call_id(self._call, index)
            told["type"] = "function"
            told["function"]["name"] = piece["name"]
        return told

    @staticmethod
    def failure(problem: Problem) -> bytes:
        """What makes OpenAI's clients raise in the middle of a stream."""
        return _data(problem.openai)


def _data(value: JSONObject) -> bytes:
    return f"data: {encode(value)}\n\n".encode()
