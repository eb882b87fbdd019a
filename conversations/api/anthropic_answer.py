"""Answers of POST /v1/messages in Anthropic's shapes, from the events of a run.

Source: Anthropic API reference, "Create a Message", "Streaming Messages" and "Errors".
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from conversations.api.anthropic_request import Wanted
from conversations.api.calls import Call
from conversations.api.completions import call_id
from conversations.api.errors import Problem, Refused
from conversations.events import RunEvent, encode
from conversations.outcomes import joined_tool_calls
from providers.adapters.base import JSONObject, ToolCall

ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    # There is no word for an answer that a person stopped: it is not whole, as one at its limit.
    "stopped": "max_tokens",
}
# What a provider of this shape says more exactly than our word for it does.
EXACT: Final = ("stop_sequence", "pause_turn", "model_context_window_exceeded")
INTERLEAVED: Final = Problem(
    502,
    "PROVIDER_ERROR",
    "The model wrote two tool calls at the same time, which a stream of this shape cannot tell. "
    "Ask again without “stream”.",
    is_final=True,
)


def error(problem: Problem) -> JSONObject:
    """The error object, with our code beside its own type, and the run that it is about."""
    kind = ERROR_TYPES.get(
        problem.status, "api_error" if problem.status >= 500 else "invalid_request_error"
    )
    words = f"{problem.param}: {problem.message}" if problem.param else problem.message
    return {
        "type": "error",
        "error": {"type": kind, "message": words, "code": problem.code},
        "request_id": problem.headers.get("X-LLMChat-Run"),
    }


def message(call: Call, wanted: Wanted, kept: Sequence[RunEvent], done: JSONObject) -> JSONObject:
    """A whole message."""
    calls = joined_tool_calls(event.fields for event in kept if event.type == "tool_call")
    thought = "".join(event.fields["content"] for event in kept if event.type == "reasoning")
    content: list[JSONObject] = []
    if thought and wanted.shows_thinking:
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if answer := done["full_response"]:
        content.append({"type": "text", "text": answer})
    for index, told in enumerate(calls):
        made = ToolCall(told["id"] or call_id(call, index), told["name"], told["arguments"])
        content.append({"type": "tool_use", "id": made.id, "name": made.name, "input": made.input})
    return {
        **_head(call),
        "content": content,
        **_stop(wanted, done, has_calls=bool(calls)),
        "usage": _usage(done["metrics"]),
    }


def _head(call: Call) -> JSONObject:
    return {
        "id": f"msg_{call.run.pk.hex}",
        "type": "message",
        "role": "assistant",
        "model": call.run.configuration_slug,
    }


def _stop(wanted: Wanted, done: JSONObject, *, has_calls: bool) -> JSONObject:
    """Why the answer ended. Where a provider says that it was at one of several texts, it does not
    say which."""
    word, reason = done["provider_finish_reason"], done["finish_reason"]
    if word in EXACT and not done["stopped"]:
        told = word
    elif has_calls and reason in ("stop", None):
        told = "tool_use"  # some end an answer like any other, whatever it asks for
    else:
        told = STOP_REASONS.get(reason, "end_turn")
    stops = wanted.parameters.stop
    return {
        "stop_reason": told,
        "stop_sequence": stops[0] if told == "stop_sequence" and len(stops) == 1 else None,
        "stop_details": None,
    }


def _usage(metrics: JSONObject) -> JSONObject:
    """What was used. The input is told without what came from the cache; what is not known is 0,
    as these clients take no null. `cost_usd` and `estimated` say more."""
    prompt, cached = metrics["prompt_tokens"] or 0, metrics["cached_tokens"] or 0
    thought = metrics["reasoning_tokens"]
    return {
        "input_tokens": max(prompt - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": metrics["completion_tokens"] or 0,
        **({"output_tokens_details": {"thinking_tokens": thought}} if thought else {}),
        "cost_usd": metrics["cost_usd"],
        "estimated": metrics["estimated"],
    }


class Stream:
    """The bytes of one stream, from the events of its run: a message, and in it one block after
    another. What tells of a run's event has its id, with which the run can be followed from there.
    """

    def __init__(self, call: Call, wanted: Wanted) -> None:
        self._call = call
        self._wanted = wanted
        self._count = 0  # blocks so far; the last of them may be open
        self._open: str | int | None = None  # "text", "thinking" or the index of a tool call
        self._calls: set[int] = set()  # the indexes of the tool calls so far

    def begin(self) -> bytes:
        """The beginning of the message. Its input tokens are an estimate; the end has better."""
        usage = {
            "input_tokens": self._call.run.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
        empty: JSONObject = {"content": [], "stop_reason": None, "stop_sequence": None}
        return _data("message_start", {"message": {**_head(self._call), **empty, "usage": usage}})

    def of(self, events: Iterable[RunEvent]) -> bytes:
        """What is told of these events, in one piece. Raises Refused for what cannot be told."""
        return b"".join(piece for event in events for piece in self._of(event))

    @staticmethod
    def failure(problem: Problem) -> bytes:
        """What makes Anthropic's clients raise in the middle of a stream."""
        return _data("error", error(problem))

    def _of(self, event: RunEvent) -> Iterator[bytes]:
        match event.type:
            case "chunk":
                yield from self._begin_block("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": event.fields["content"]}, event)
            case "reasoning" if self._wanted.shows_thinking:
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                yield from self._begin_block("thinking", empty)
                told = {"type": "thinking_delta", "thinking": event.fields["content"]}
                yield self._delta(told, event)
            case "tool_call":
                yield from self._tool_call(event)
            case "done":
                yield from self._end_block()
                done = event.fields
                stop = _stop(self._wanted, done, has_calls=bool(self._calls))
                usage = _usage(done["metrics"])
                yield self._data("message_delta", {"delta": stop, "usage": usage}, event)
                yield _data("message_stop", {})
            case "error":
                problem = Problem.of_end(event.fields)
                yield self.failure(replace(problem, headers=self._call.headers))

    def _tool_call(self, event: RunEvent) -> Iterator[bytes]:
        piece = event.fields
        index = piece["index"]
        if index not in self._calls:
            self._calls.add(index)
            made = {"id": piece["id"] or call_id(self._call, index), "name": piece["name"]}
            yield from self._begin_block(index, {"type": "tool_use", **made, "input": {}})
        elif index != self._open and piece["arguments"]:
            raise Refused(INTERLEAVED)  # its block was closed when another began
        if piece["arguments"]:
            told = {"type": "input_json_delta", "partial_json": piece["arguments"]}
            yield self._delta(told, event)

    def _begin_block(self, what: str | int, empty: JSONObject) -> Iterator[bytes]:
        """Begins a block of this, unless that is the one that is open."""
        if what == self._open:
            return
        yield from self._end_block()
        self._open = what
        self._count += 1
        yield _data("content_block_start", {"index": self._count - 1, "content_block": empty})

    def _end_block(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _data("content_block_stop", {"index": self._count - 1})

    def _delta(self, delta: JSONObject, event: RunEvent) -> bytes:
        told = {"index": self._count - 1, "delta": delta}
        return self._data("content_block_delta", told, event)

    def _data(self, name: str, fields: JSONObject, event: RunEvent) -> bytes:
        return f"id: {self._call.run.pk}:{event.number}\n".encode() + _data(name, fields)


def _data(name: str, fields: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {encode({**fields, 'type': name})}\n\n".encode()


PING: Final = _data("ping", {})
