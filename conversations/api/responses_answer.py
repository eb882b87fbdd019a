"""Answers of POST /v1/responses in OpenAI's shapes, from the events of a run.

Source: OpenAI API reference, "The response object" and "Streaming events".
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from conversations.api.calls import Call
from conversations.api.completions import call_id
from conversations.api.errors import Problem
from conversations.api.responses_request import Asked
from conversations.events import RunEvent, encode
from conversations.outcomes import joined_tool_calls
from providers.adapters.base import JSONObject

# Why an answer is not whole. There is no word for one that a person stopped.
INCOMPLETE: Final = {
    "length": "max_output_tokens",
    "stopped": "max_output_tokens",
    "content_filter": "content_filter",
}


@dataclass(slots=True)
class Item:
    """One thing of the output: `kind` is "message", "reasoning" or "function_call". `pieces` are
    its text, or its arguments."""

    kind: str
    index: int  # in the output
    id: str
    call: JSONObject = field(default_factory=dict)  # the `call_id` and `name` of a function call
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def part(self) -> JSONObject:
        """The one part that the content of a message or of reasoning has."""
        return self._part(self.text)

    @property
    def empty_part(self) -> JSONObject:
        return self._part("")

    def _part(self, text: str) -> JSONObject:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def told(self, status: str) -> JSONObject:
        """The object of it. One that is in progress is told empty."""
        is_begun = status == "in_progress"
        head: JSONObject = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return {**head, **self.call, "arguments": "" if is_begun else self.text}
        content = [] if is_begun else [self.part]
        if self.kind == "reasoning":
            return {**head, "summary": [], "content": content}
        return {**head, "role": "assistant", "content": content}


def response(call: Call, asked: Asked, kept: Sequence[RunEvent], done: JSONObject) -> JSONObject:
    """A whole response."""
    items: list[Item] = []
    thought = "".join(event.fields["content"] for event in kept if event.type == "reasoning")
    if thought:
        items.append(Item("reasoning", 0, _id("rs", call, 0), pieces=[thought]))
    calls = joined_tool_calls(event.fields for event in kept if event.type == "tool_call")
    if done["full_response"] or not calls:
        index = len(items)
        pieces = [done["full_response"]]
        items.append(Item("message", index, _id("msg", call, index), pieces=pieces))
    for number, made in enumerate(calls):
        index = len(items)
        named = {"call_id": made["id"] or call_id(call, number), "name": made["name"]}
        id_ = _id("fc", call, index)
        items.append(Item("function_call", index, id_, named, [made["arguments"]]))
    return _ended(call, asked, items, done)


def _ended(call: Call, asked: Asked, items: Sequence[Item], done: JSONObject) -> JSONObject:
    reason = INCOMPLETE.get(done["finish_reason"])
    status = "incomplete" if reason else "completed"
    return {
        **_head(call, asked, status),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [item.told(status) for item in items],
        "usage": _usage(done["metrics"]),
    }


def _head(call: Call, asked: Asked, status: str) -> JSONObject:
    return {
        "id": _id("resp", call),
        "object": "response",
        "created_at": int(call.run.started_at.timestamp()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": call.run.configuration_slug,
        "output": [],
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
        "usage": None,
        **asked.echo,
    }


def _id(prefix: str, call: Call, index: int | None = None) -> str:
    return f"{prefix}_{call.run.pk.hex}" + ("" if index is None else f"_{index}")


def _usage(metrics: JSONObject) -> JSONObject:
    """What was used: what is not known is 0 there, as OpenAI's clients take no null. `cost_usd` and
    `estimated` say more."""
    prompt, completion = metrics["prompt_tokens"] or 0, metrics["completion_tokens"] or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": metrics["cached_tokens"] or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": metrics["reasoning_tokens"] or 0},
        "total_tokens": prompt + completion,
        "cost_usd": metrics["cost_usd"],
        "estimated": metrics["estimated"],
    }


class Stream:
    """The bytes of one stream, from the events of its run. Its events have numbers of their own;
    what tells of a run's event has the id of that, with which the run can be followed from there.
    """

    def __init__(self, call: Call, asked: Asked) -> None:
        self._call = call
        self._asked = asked
        self._number = 0  # of the next event
        self._items: list[Item] = []
        self._writing: Item | None = None  # a message or reasoning that is not done
        self._calls: dict[int, Item] = {}  # by index; they are done at the end, all of them

    def begin(self) -> bytes:
        """The first events: there is a response, and nothing in it."""
        told = _head(self._call, self._asked, "in_progress")
        return b"".join(
            self._data(name, {"response": told})
            for name in ("response.created", "response.in_progress")
        )

    def of(self, events: Iterable[RunEvent]) -> bytes:
        """What is told of these events, in one piece."""
        return b"".join(piece for event in events for piece in self._of(event))

    def failure(self, problem: Problem) -> Iterator[bytes]:
        """What makes OpenAI's clients raise in the middle of a stream, and the response as it is
        then: its readers take the one or the other."""
        error = problem.openai["error"]
        yield self._data("error", {**error, "error": error})
        told = _head(self._call, self._asked, "failed")
        told["error"] = {"code": problem.code, "message": problem.message}
        told["output"] = [item.told("incomplete") for item in self._items]
        yield self._data("response.failed", {"response": told})

    def _of(self, event: RunEvent) -> Iterator[bytes]:
        match event.type:
            case "chunk":
                yield from self._write("message", "response.output_text.delta", event)
            case "reasoning":
                yield from self._write("reasoning", "response.reasoning_text.delta", event)
            case "tool_call":
                yield from self._tool_call(event)
            case "done":
                yield from self._end(event)
            case "error":
                yield from self.failure(Problem.of_end(event.fields))

    def _write(self, kind: str, name: str, event: RunEvent) -> Iterator[bytes]:
        """A piece of text or of thinking, in an item that is begun if another was being written."""
        if self._writing is None or self._writing.kind != kind:
            yield from self._finish_writing()
            prefix = "msg" if kind == "message" else "rs"
            self._writing = item = self._add(kind, prefix)
            yield self._added(item)
            yield self._data(
                "response.content_part.added", {**_place(item), "part": item.empty_part}
            )
        item = self._writing
        piece = event.fields["content"]
        item.pieces.append(piece)
        yield self._data(name, {**_place(item), "delta": piece, **_logprobs(item)}, event)

    def _finish_writing(self, status: str = "completed") -> Iterator[bytes]:
        if (item := self._writing) is None:
            return
        self._writing = None
        name = "reasoning_text" if item.kind == "reasoning" else "output_text"
        told = {**_place(item), "text": item.text, **_logprobs(item)}
        yield self._data(f"response.{name}.done", told)
        yield self._data("response.content_part.done", {**_place(item), "part": item.part})
        yield self._done(item, status)

    def _tool_call(self, event: RunEvent) -> Iterator[bytes]:
        piece = event.fields
        item = self._calls.get(piece["index"])
        if item is None:
            yield from self._finish_writing()
            item = self._add("function_call", "fc")
            made = piece["id"] or call_id(self._call, piece["index"])
            item.call = {"call_id": made, "name": piece["name"]}
            self._calls[piece["index"]] = item
            yield self._added(item)
        if piece["arguments"]:
            item.pieces.append(piece["arguments"])
            told = {"item_id": item.id, "output_index": item.index, "delta": piece["arguments"]}
            yield self._data("response.function_call_arguments.delta", told, event)

    def _end(self, event: RunEvent) -> Iterator[bytes]:
        whole = _ended(self._call, self._asked, self._items, event.fields)
        yield from self._finish_writing(whole["status"])
        for item in self._calls.values():
            told = {"item_id": item.id, "output_index": item.index, "name": item.call["name"]}
            told["arguments"] = item.text
            yield self._data("response.function_call_arguments.done", told)
            yield self._done(item, whole["status"])
        yield self._data(f"response.{whole['status']}", {"response": whole}, event)

    def _add(self, kind: str, prefix: str) -> Item:
        index = len(self._items)
        item = Item(kind, index, _id(prefix, self._call, index))
        self._items.append(item)
        return item

    def _added(self, item: Item) -> bytes:
        told = {"output_index": item.index, "item": item.told("in_progress")}
        return self._data("response.output_item.added", told)

    def _done(self, item: Item, status: str) -> bytes:
        told = {"output_index": item.index, "item": item.told(status)}
        return self._data("response.output_item.done", told)

    def _data(self, name: str, fields: JSONObject, event: RunEvent | None = None) -> bytes:
        told = {**fields, "type": name, "sequence_number": self._number}
        self._number += 1
        id_ = f"id: {self._call.run.pk}:{event.number}\n" if event else ""
        return f"{id_}event: {name}\ndata: {encode(told)}\n\n".encode()


def _place(item: Item) -> JSONObject:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}


def _logprobs(item: Item) -> JSONObject:
    return {"logprobs": []} if item.kind == "message" else {}
