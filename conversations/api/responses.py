"""POST /v1/responses: the same verbs for clients of OpenAI's newer API (A1).

Source: OpenAI API reference, "The response object" and "Streaming events". A response is not kept
for later calls; its run is, like any other.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from conversations import sse
from conversations.api import completions, responses_request
from conversations.api.callers import Caller, with_token
from conversations.api.calls import Call
from conversations.api.completions import call_id
from conversations.api.errors import Problem, Refused, answering, check_method, openai_response
from conversations.api.fields import body_of
from conversations.api.responses_request import Wanted
from conversations.background import in_database
from conversations.events import RunEvent, encode
from providers.adapters.base import JSONObject
from providers.models import Configuration

# Why an answer is not whole, in OpenAI's words; one that a person stopped is `cancelled`.
INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


@csrf_exempt  # a token is no cookie: no page of another site can make a browser send it
@answering(openai_response)
async def create(request: HttpRequest) -> HttpResponseBase:
    """Answers as OpenAI does, streamed or not."""
    caller, wanted, configuration = await in_database(_check)(request)
    call, headers = await completions.begin(request, caller, configuration, wanted)
    if not wanted.streams:
        kept, done = await call.end()
        return JsonResponse(Answer(call, wanted).whole(kept, done), headers=headers)
    return await _streamed(call, wanted, headers)


def _check(request: HttpRequest) -> tuple[Caller, Wanted, Configuration]:
    """Who calls, what for, and with which configuration. Reads the database."""
    check_method(request, "POST")
    caller = with_token(request)
    save = request.headers.get(completions.SAVE_HEADER, "")
    wanted = responses_request.read(body_of(request), save)
    configuration = completions.configuration_named(caller, wanted.model)
    completions.check_abilities(configuration, wanted, "input")
    return caller, wanted, configuration


async def _streamed(call: Call, wanted: Wanted, headers: dict[str, str]) -> StreamingHttpResponse:
    """A stream of events. A failure before it has begun is the answer's status; one after that
    comes in the stream."""
    first, batches = await call.begun()

    async def stream() -> AsyncIterator[bytes]:
        answer = Answer(call, wanted)
        async with aclosing(batches):
            yield answer.begin() + answer.of(first)
            try:
                async for batch in batches:
                    yield answer.of(batch) if batch else sse.PING
            except Refused as refused:
                yield answer.failure(refused.problem)

    return StreamingHttpResponse(
        stream(), content_type=sse.CONTENT_TYPE, headers={**sse.HEADERS, **headers}
    )


@dataclass(slots=True)
class Item:
    """One item of the output while it is written: its fields, and where its text goes."""

    index: int
    fields: JSONObject
    pieces: list[str] = field(default_factory=list)
    is_open: bool = True

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def shown(self, status: str = "completed") -> JSONObject:
        """As the response has it, with what was written so far."""
        match self.fields["type"]:
            case "message":
                part = {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}
                return {**self.fields, "status": status, "content": [part] if self.pieces else []}
            case "reasoning":
                part = {"type": "summary_text", "text": self.text}
                return {**self.fields, "summary": [part] if self.pieces else []}
        return {**self.fields, "status": status, "arguments": self.text}


class Answer:
    """One response, from the events of its run: as the bytes of a stream, or whole. What tells of a
    run's event has its id, with which the run can be followed from there."""

    def __init__(self, call: Call, wanted: Wanted) -> None:
        self._call = call
        self._wanted = wanted
        self._number = -1  # of the last event
        self._items: list[Item] = []
        self._calls: dict[int, Item] = {}  # by the index of the tool call
        self._message: Item | None = None
        self._reasoning: Item | None = None  # the one that is open

    def begin(self) -> bytes:
        """What stands before the first item."""
        started = self._response("in_progress")
        return self._data("response.created", {"response": started}) + self._data(
            "response.in_progress", {"response": started}
        )

    def of(self, events: Iterable[RunEvent]) -> bytes:
        """What is told of these events, in one piece."""
        return b"".join(piece for event in events for piece in self._of(event))

    def whole(self, kept: Sequence[RunEvent], done: JSONObject) -> JSONObject:
        """The response in one piece, from its tool calls and reasoning, and its end."""
        for event in kept:
            if event.type == "reasoning":
                self._reasoning = self._reasoning or self._add(self._new("reasoning"))
                self._reasoning.pieces.append(event.fields["content"])
        if done["full_response"]:
            self._add(self._new("message")).pieces.append(done["full_response"])
        for event in kept:
            if event.type == "tool_call":
                piece = event.fields
                item = self._calls.get(piece["index"]) or self._add(self._new_call(piece))
                self._calls[piece["index"]] = item
                item.pieces.append(piece["arguments"])
        return self._ended(done)

    def failure(self, problem: Problem) -> bytes:
        """What tells of a failure in the middle of a stream: once for clients that look at its
        fields, once for those that look for an `error`, and as the state of the response."""
        told = problem.openai["error"]
        failed = self._response("failed", [item.shown("incomplete") for item in self._items])
        failed["error"] = {"code": problem.code, "message": problem.message}
        return self._data("response.failed", {"response": failed}) + self._data(
            "error",
            {"code": problem.code, "message": problem.message, "param": None, "error": told},
        )

    # ---- the events of a run

    def _of(self, event: RunEvent) -> Iterator[bytes]:
        match event.type:
            case "reasoning":
                yield from self._thought(event)
            case "chunk":
                yield from self._text(event)
            case "tool_call":
                yield from self._tool_call(event)
            case "done":
                ended = self._ended(event.fields)
                name = "completed" if ended["status"] == "completed" else "incomplete"
                for item in self._items:
                    yield from self._close(item, name)
                yield self._data(f"response.{name}", {"response": ended}, event)
            case "error":
                yield self.failure(Problem.of_end(event.fields))

    def _thought(self, event: RunEvent) -> Iterator[bytes]:
        if self._reasoning is None:
            self._reasoning = item = self._add(self._new("reasoning"))
            yield self._added(item)
            yield self._data("response.reasoning_summary_part.added", _summary(item, ""))
        item, delta = self._reasoning, event.fields["content"]
        item.pieces.append(delta)
        told = {**_place(item), "summary_index": 0, "delta": delta}
        yield self._data("response.reasoning_summary_text.delta", told, event)

    def _text(self, event: RunEvent) -> Iterator[bytes]:
        if self._message is None:
            yield from self._end_of_thinking()
            self._message = item = self._add(self._new("message"))
            yield self._added(item)
            yield self._data("response.content_part.added", _part(item, ""))
        item, delta = self._message, event.fields["content"]
        item.pieces.append(delta)
        told = {**_place(item), "content_index": 0, "delta": delta, "logprobs": []}
        yield self._data("response.output_text.delta", told, event)

    def _tool_call(self, event: RunEvent) -> Iterator[bytes]:
        piece = event.fields
        item = self._calls.get(piece["index"])
        if item is None:
            yield from self._end_of_thinking()
            self._calls[piece["index"]] = item = self._add(self._new_call(piece))
            yield self._added(item)
        if piece["arguments"]:
            item.pieces.append(piece["arguments"])
            told = {**_place(item), "delta": piece["arguments"]}
            yield self._data("response.function_call_arguments.delta", told, event)

    def _end_of_thinking(self) -> Iterator[bytes]:
        if self._reasoning is not None:
            yield from self._close(self._reasoning)
            self._reasoning = None  # what is thought after this is an item of its own

    def _close(self, item: Item, status: str = "completed") -> Iterator[bytes]:
        if not item.is_open:
            return
        item.is_open = False
        match item.fields["type"]:
            case "message":
                told = {**_place(item), "content_index": 0, "text": item.text, "logprobs": []}
                yield self._data("response.output_text.done", told)
                yield self._data("response.content_part.done", _part(item, item.text))
            case "reasoning":
                told = {**_place(item), "summary_index": 0, "text": item.text}
                yield self._data("response.reasoning_summary_text.done", told)
                yield self._data("response.reasoning_summary_part.done", _summary(item, item.text))
            case _:
                told = {**_place(item), "name": item.fields["name"], "arguments": item.text}
                yield self._data("response.function_call_arguments.done", told)
        told = {"output_index": item.index, "item": item.shown(status)}
        yield self._data("response.output_item.done", told)

    # ---- items, and the response around them

    def _new(self, kind: str) -> JSONObject:
        prefix = "rs" if kind == "reasoning" else "msg"
        told = {"id": self._id(prefix), "type": kind}
        return told if kind == "reasoning" else {**told, "role": "assistant"}

    def _new_call(self, piece: JSONObject) -> JSONObject:
        made = piece["id"] or call_id(self._call, piece["index"])
        told = {"call_id": made, "name": piece["name"]}
        return {"id": self._id("fc"), "type": "function_call", **told}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._call.run.pk.hex}_{len(self._items)}"

    def _add(self, fields: JSONObject) -> Item:
        self._items.append(Item(len(self._items), fields))
        return self._items[-1]

    def _added(self, item: Item) -> bytes:
        told = {"output_index": item.index, "item": item.shown("in_progress")}
        return self._data("response.output_item.added", told)

    def _ended(self, done: JSONObject) -> JSONObject:
        """The response at its end."""
        reason = done["finish_reason"]
        status, why = "completed", None
        if reason in INCOMPLETE:
            status, why = "incomplete", {"reason": INCOMPLETE[reason]}
        elif done["stopped"]:
            status = "cancelled"
        each = "completed" if status == "completed" else "incomplete"
        ended = self._response(status, [item.shown(each) for item in self._items])
        return {**ended, "incomplete_details": why, "usage": _usage(done["metrics"])}

    def _response(self, status: str, output: Sequence[JSONObject] = ()) -> JSONObject:
        run = self._call.run
        return {
            "id": f"resp_{run.pk.hex}",
            "object": "response",
            "created_at": int(run.started_at.timestamp()),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": run.configuration_slug,
            "output": list(output),
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None,
            **(self._wanted.echoed or {}),
        }

    def _data(self, name: str, fields: JSONObject, event: RunEvent | None = None) -> bytes:
        self._number += 1
        id_ = f"id: {self._call.run.pk}:{event.number}\n" if event else ""
        told = {"type": name, "sequence_number": self._number, **fields}
        return f"{id_}event: {name}\ndata: {encode(told)}\n\n".encode()


def _place(item: Item) -> dict[str, Any]:
    return {"item_id": item.fields["id"], "output_index": item.index}


def _part(item: Item, text: str) -> JSONObject:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {**_place(item), "content_index": 0, "part": part}


def _summary(item: Item, text: str) -> JSONObject:
    return {**_place(item), "summary_index": 0, "part": {"type": "summary_text", "text": text}}


def _usage(metrics: JSONObject) -> JSONObject:
    """What was used; what is not known is 0. `cost_usd` and `estimated` say more."""
    told = completions.usage(metrics)
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": {**told["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": told["completion_tokens_details"],
        "total_tokens": told["total_tokens"],
        "cost_usd": told["cost_usd"],
        "estimated": told["estimated"],
    }
