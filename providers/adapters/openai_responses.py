"""The Responses API, which the kind `openai` asks where its base URL ends in /responses.

Source: openai.md, "How the Responses API differs"; recording `openai-responses-text`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from providers.adapters.base import Adapter, ChatMessage, JSONObject, Parameters
from providers.adapters.untrusted import count, mapping, mappings, text
from providers.errors import ContentFiltered
from providers.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

_INCOMPLETE = {
    "max_output_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class Responses:
    """How one answer is asked for and read over the Responses API, on behalf of its adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._has_text = False
        self._has_reasoning = False
        # By output_index, which counts texts and reasoning too.
        self._calls: dict[int, int] = {}  # the call's own position
        self._with_arguments: set[int] = set()

    def body(self, messages: Sequence[ChatMessage], parameters: Parameters) -> JSONObject:
        body: JSONObject = {
            "model": self._adapter.target.model,
            "input": [
                item for message in messages if message.role != "system" for item in _items(message)
            ],
            "stream": True,
            # Conversations are kept here and nowhere else.
            "store": False,
        }
        if instructions := "\n\n".join(m.content for m in messages if m.role == "system"):
            body["instructions"] = instructions
        if parameters.temperature is not None:
            body["temperature"] = parameters.temperature
        if parameters.top_p is not None:
            body["top_p"] = parameters.top_p
        if parameters.max_tokens is not None:
            body["max_output_tokens"] = parameters.max_tokens
        if schema := parameters.schema:
            told = {"name": schema.name, "schema": schema.schema, "strict": schema.is_strict}
            body["text"] = {"format": {"type": "json_schema", **told}}
        elif parameters.is_json:
            body["text"] = {"format": {"type": "json_object"}}
        if (effort := parameters.reasoning_effort) is not None:
            # Without a summary nothing of the thinking is told.
            body["reasoning"] = {"effort": effort.value, "summary": "auto"}
        if parameters.tools:
            body["tools"] = [_flat(tool) for tool in parameters.tools]
            if (choice := parameters.tool_choice) is not None:
                body["tool_choice"] = choice if isinstance(choice, str) else _flat(choice)
            if parameters.parallel_tool_calls is not None:
                body["parallel_tool_calls"] = parameters.parallel_tool_calls
        return body

    def events(self, value: JSONObject) -> Iterator[Event]:
        """The events of one parsed frame. Raises ProviderError when it reports a failure."""
        output_index = count(value.get("output_index"))
        match text(value.get("type")):
            case "response.output_text.delta" | "response.refusal.delta":
                yield from self._text(value.get("delta"))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                if delta := text(value.get("delta")):
                    self._has_reasoning = True
                    yield ReasoningDelta(delta)
            case "response.reasoning_summary_part.added":
                if self._has_reasoning:
                    yield ReasoningDelta("\n\n")
            case "response.output_item.added":
                yield from self._call(mapping(value.get("item")), output_index)
            case "response.function_call_arguments.delta":
                yield from self._arguments(output_index, value.get("delta"))
            case "response.function_call_arguments.done":
                if output_index not in self._with_arguments:
                    yield from self._arguments(output_index, value.get("arguments"))
            case "response.completed" | "response.incomplete":
                yield from self._end(mapping(value.get("response")))
            case "response.failed":
                raise self._adapter.reported(mapping(value.get("response")))
            case "error":
                raise self._adapter.reported(value)
            case _ if value.get("error"):
                raise self._adapter.reported(value)
            case _ if value.get("object") == "response":
                yield from self._whole(value)
            # All others (…created, …in_progress, …done) tell nothing new.

    def _text(self, delta: Any) -> Iterator[Event]:
        if delta := text(delta):
            self._has_text = True
            yield TextDelta(delta)

    def _call(self, item: JSONObject, output_index: int | None) -> Iterator[Event]:
        if item.get("type") == "function_call" and output_index is not None:
            index = self._calls.setdefault(output_index, len(self._calls))
            call_id = text(item.get("call_id")) or text(item.get("id"))
            yield ToolCallDelta(index, call_id, text(item.get("name")), "")

    def _arguments(self, output_index: int | None, arguments: Any) -> Iterator[Event]:
        if output_index is not None and output_index in self._calls and text(arguments):
            self._with_arguments.add(output_index)
            yield ToolCallDelta(self._calls[output_index], "", "", text(arguments))

    def _whole(self, response: JSONObject) -> Iterator[Event]:
        """A response that came as one object although a stream was asked for."""
        for number, item in enumerate(mappings(response.get("output"))):
            for part in mappings(item.get("content")):
                yield from self._text(part.get("text") or part.get("refusal"))
            yield from self._call(item, number)
            yield from self._arguments(number, item.get("arguments"))
        yield from self._end(response)

    def _end(self, response: JSONObject) -> Iterator[Event]:
        self._adapter.has_ended = self._adapter.is_complete = True
        usage = response.get("usage")
        if isinstance(usage, dict):
            yield Usage(
                prompt_tokens=count(usage.get("input_tokens")),
                completion_tokens=count(usage.get("output_tokens")),
                cached_tokens=count(
                    mapping(usage.get("input_tokens_details")).get("cached_tokens")
                ),
                reasoning_tokens=count(
                    mapping(usage.get("output_tokens_details")).get("reasoning_tokens")
                ),
            )
        if why := text(mapping(response.get("incomplete_details")).get("reason")):
            reason, word = _INCOMPLETE.get(why), why
            if reason is FinishReason.CONTENT_FILTER and not self._has_text:
                raise self._adapter.error(ContentFiltered)
        else:
            reason = FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP
            word = text(response.get("status")) or "completed"
        yield Finish(reason, word)


def _items(message: ChatMessage) -> Iterator[JSONObject]:
    """What a message is here: itself, and its tool calls and results as items of their own."""
    if message.role == "tool":
        told = {"call_id": message.tool_call_id, "output": message.content}
        yield {"type": "function_call_output", **told}
        return
    content: Any = message.content
    if message.images:
        content = [{"type": "input_text", "text": content}] if content else []
        for image in message.images:
            url = f"data:{image.media_type};base64,{image.data}"
            content.append({"type": "input_image", "image_url": url})
    if content or not message.tool_calls:
        yield {"role": message.role, "content": content}
    for call in message.tool_calls:
        told = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
        yield {"type": "function_call", **told}


def _flat(tool: JSONObject) -> JSONObject:
    """A tool, or the choice of one, without the level of `function`."""
    return {"type": "function", **mapping(tool.get("function"))}
