"""Kind `anthropic`: the Messages API. Source: anthropic.md; recordings `anthropic-*`.

Models differ in which parameters they take, and a parameter too many is a 400. So what a model
is known to refuse is not sent; the request as it is shown tells what was.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from providers.adapters.base import (
    JSON_INSTRUCTIONS,
    Adapter,
    ChatMessage,
    Effort,
    Feature,
    JSONObject,
    ModelInfo,
    Parameters,
    ProviderRequest,
    Target,
)
from providers.adapters.untrusted import count, mapping, mappings, text
from providers.errors import ContentFiltered, InvalidRequest, StreamInterrupted
from providers.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from providers.wire import SSEFrame, SSEOrJSON, parse_json, unreadable

API_VERSION: Final = "2023-06-01"
# The API wants a limit in every request; this one is taken by all models since Claude 3.5.
DEFAULT_MAX_TOKENS: Final = 8_192
MODELS_MAX: Final = 5_000
MODELS_PAGE: Final = 1_000  # the largest that is given

FINISH_REASONS: Final = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}

# claude-opus-4-1-20250805 is 4.1, claude-sonnet-4-20250514 is 4. Up to 3.7 the number came before
# the family's name, which is as good as no version: those models take everything.
_VERSION: Final = re.compile(r"claude-[a-z]+-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_ONE_SAMPLER: Final = (4, 1)  # from here on either temperature or top_p
_NO_SAMPLER: Final = (4, 7)  # from here on neither, and no budget for thinking
_HAS_FORMAT: Final = (4, 1)  # from here on answers by a JSON schema

_BUDGETS: Final = {Effort.LOW: 2_048, Effort.MEDIUM: 8_192, Effort.HIGH: 16_384}  # tokens
_LEAST_BUDGET: Final = 1_024

_FIGURES: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)


@dataclass(slots=True)
class _Call:
    """A tool call that is being written. `given` is the input that came with its beginning."""

    index: int
    given: JSONObject
    has_arguments: bool = False


class Anthropic(Adapter):
    """The Messages API over SSE: a message of blocks, each begun, continued and ended by events.

    The end is given once, at `message_stop`, or at the end of a body that lacks it after a stop
    reason. `continues_answers` is not set: only older models go on with an answer that comes last.
    """

    kind = "anthropic"
    label = "Anthropic"
    default_base_url = "https://api.anthropic.com"
    needs_key = True
    answer_tokens = DEFAULT_MAX_TOKENS
    features = frozenset(Feature)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._figures: dict[str, int] = {}  # the last of each, by the provider's name
        # By the provider's index, which counts blocks of all types.
        self._open_calls: dict[int | None, _Call] = {}
        self._call_count = 0
        self._has_text = False
        self._has_output = False  # text, thinking or a tool call
        self._finish_word: str | None = None
        self._explanation = ""  # of a refusal

    def make_splitter(self) -> SSEOrJSON:
        return SSEOrJSON(self.target.name)

    def url(self, path: str, **query: str) -> str:
        """The address of `path`, such as /messages, however the base URL was typed.

        With or without a trailing slash, `/v1`, a prefix or the endpoint itself, whose query is
        kept. Raises InvalidRequest where it is no URL.
        """
        try:
            parts = urlsplit(self.target.base_url.strip() or self.default_base_url)
            is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            is_usable = False
        if not is_usable:
            raise InvalidRequest(
                f"{self.target.name} has a base URL that is none. Correct it in the configuration."
            )
        typed = parts.path.rstrip("/")
        prefix = re.sub(r"/(messages|models)$", "", typed)
        # Servers without a version in the path exist only where the whole endpoint was typed.
        if prefix == typed and not prefix.endswith("/v1"):
            prefix += "/v1"
        fields = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query.items()])
        return urlunsplit(parts._replace(path=prefix + path, query=fields, fragment=""))

    def headers(self, accept: str, auth: Mapping[str, str] | None = None) -> dict[str, str]:
        """The key in a header of its own, and the API's version unless there is another."""
        if auth is None:
            auth = {"x-api-key": self.target.api_key.strip()}
        headers = super().headers(accept, auth)
        if "anthropic-version" not in map(str.lower, headers):
            headers["anthropic-version"] = API_VERSION
        return headers

    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        version = _version(self.target.model)
        schema = parameters.schema
        has_format = version >= _HAS_FORMAT
        body: JSONObject = {"model": self.target.model}
        system = _system(messages)
        if schema and not has_format:
            system = "\n\n".join(filter(None, [system, schema.instructions]))
        if parameters.is_json and not schema:
            system = "\n\n".join(filter(None, [system, JSON_INSTRUCTIONS]))
        if system:
            body["system"] = system
        body["messages"] = _turns(messages)
        body["stream"] = True
        output: JSONObject = {}
        if schema and has_format:
            output["format"] = {"type": "json_schema", "schema": schema.schema}
        if thinking := _thinking(version, parameters, messages):
            body["thinking"] = thinking
            if thinking["type"] == "adaptive" and parameters.reasoning_effort:
                output["effort"] = parameters.reasoning_effort.value
        if output:
            body["output_config"] = output
        body |= _tools(parameters)
        if parameters.stop:
            body["stop_sequences"] = list(parameters.stop)
        # What follows depends on the thinking, and that may come from the extra body.
        thinking = mapping(self.body(body).get("thinking"))
        body["max_tokens"] = parameters.max_tokens or _default_max_tokens(thinking)
        body |= _sampling(version, parameters, thinking)
        return ProviderRequest(
            url=self.url("/messages"),
            headers=self.headers("text/event-stream"),
            body=self.body(body),
        )

    def models_request(self) -> ProviderRequest:
        return self._models_page()

    def next_models_request(self, answer: Any) -> ProviderRequest | None:
        """The request for the page after this parsed one, None after the last."""
        answer = mapping(answer)
        last = text(answer.get("last_id"))
        return self._models_page(after_id=last) if answer.get("has_more") is True and last else None

    def _models_page(self, **query: str) -> ProviderRequest:
        return ProviderRequest(
            self.url("/models", limit=str(MODELS_PAGE), **query),
            self.headers("application/json"),
            body={},
            method="GET",
        )

    def models(self, answer: Any) -> list[ModelInfo]:
        found = {
            name: ModelInfo(
                name,
                text(model.get("display_name")),
                count(model.get("max_input_tokens")) or None,
            )
            for model in mappings(mapping(answer).get("data"))
            if (name := text(model.get("id")))
        }
        return sorted(found.values(), key=lambda model: model.id)[:MODELS_MAX]

    def events(self, frame: SSEFrame) -> Iterator[Event]:
        """The events of one frame, in order. Raises ProviderError when it reports a failure."""
        if frame.error is not None:
            raise self.reported(frame.error)
        data = frame.data.strip()
        if not data:
            return
        try:
            value = parse_json(data)
        except ValueError as error:
            raise unreadable(self.target.name) from error
        if not isinstance(value, dict):
            raise unreadable(self.target.name)
        kind = text(value.get("type")) or frame.event  # both say the same
        if kind == "error" or value.get("error"):
            raise self.reported(value)
        yield from self._of_value(kind, value)

    def close(self) -> Iterator[Event]:
        yield from super().close()
        if not self.is_complete:
            yield from self._end()

    def _of_value(self, kind: str | None, value: JSONObject) -> Iterator[Event]:
        index = count(value.get("index"))
        match kind:
            case "content_block_delta":
                yield from self._of_delta(index, mapping(value.get("delta")))
            case "content_block_start":
                yield from self._of_block(index, mapping(value.get("content_block")))
            case "content_block_stop":
                yield from self._end_block(index)
            case "message_start":
                # Some gateways send it again, in the middle of an answer too.
                if not self._has_output:
                    self._figures.clear()
                    yield from self._counted(mapping(value.get("message")).get("usage"))
            case "message_delta":
                yield from self._counted(value.get("usage"))
                self._stopped(mapping(value.get("delta")))
            case "message_stop":
                yield from self._end()
            case "message":
                yield from self._whole(value)
            # All others (ping, and what is yet to come) tell nothing that is needed.

    def _of_block(self, index: int | None, block: JSONObject) -> Iterator[Event]:
        """The beginning of a block. Most are empty still.

        What Anthropic does itself (server_tool_use and its results) is no tool call of ours, and
        redacted thinking has nothing to show.
        """
        yield from self._end_block(index)
        match block.get("type"):
            case "text":
                yield from self._text(block.get("text"))
            case "thinking":
                yield from self._thinking(block.get("thinking"))
            case "tool_use":
                call = _Call(self._call_count, mapping(block.get("input")))
                self._call_count += 1
                self._open_calls[index] = call
                self._has_output = True
                yield ToolCallDelta(call.index, text(block.get("id")), text(block.get("name")), "")

    def _of_delta(self, index: int | None, delta: JSONObject) -> Iterator[Event]:
        match delta.get("type"):
            case "text_delta":
                yield from self._text(delta.get("text"))
            case "thinking_delta":
                yield from self._thinking(delta.get("thinking"))
            case "input_json_delta":
                call, piece = self._open_calls.get(index), text(delta.get("partial_json"))
                if call and piece:
                    call.has_arguments = True
                    yield ToolCallDelta(call.index, "", "", piece)
            # Signatures are not for eyes; citations and compactions are no part of the answer.

    def _end_block(self, index: int | None) -> Iterator[Event]:
        call = self._open_calls.pop(index, None)
        if call and not call.has_arguments:
            # A tool without parameters gets "" as its only piece: that stands for {}.
            arguments = json.dumps(
                call.given, ensure_ascii=False, separators=(",", ":"), default=float
            )
            yield ToolCallDelta(call.index, "", "", arguments)

    def _text(self, piece: Any) -> Iterator[Event]:
        if piece := text(piece):
            self._has_text = self._has_output = True
            yield TextDelta(piece)

    def _thinking(self, piece: Any) -> Iterator[Event]:
        if piece := text(piece):
            self._has_output = True
            yield ReasoningDelta(piece)

    def _counted(self, usage: Any) -> Iterator[Event]:
        """The counts so far: each figure is the whole, and the last one said holds."""
        if not isinstance(usage, dict):
            return
        told = {name: usage.get(name) for name in _FIGURES}
        details = mapping(usage.get("output_tokens_details"))
        told["thinking_tokens"] = details.get("thinking_tokens")
        for name, value in told.items():
            if (figure := count(value)) is not None:
                self._figures[name] = figure
        figures = self._figures
        # The input does not include what the cache gave or took; our prompt does.
        prompt = sum(figures.get(name, 0) for name in _FIGURES[:3])
        yield Usage(
            prompt_tokens=prompt if "input_tokens" in figures else None,
            completion_tokens=figures.get("output_tokens"),
            cached_tokens=figures.get("cache_read_input_tokens"),
            reasoning_tokens=figures.get("thinking_tokens"),
        )

    def _stopped(self, told: JSONObject) -> None:
        if word := text(told.get("stop_reason")):
            self._finish_word = word
            self.has_ended = True
            details = mapping(told.get("stop_details"))
            self._explanation = text(details.get("explanation")) or text(details.get("category"))

    def _whole(self, message: JSONObject) -> Iterator[Event]:
        """A message that came as one object although a stream was asked for."""
        yield from self._counted(message.get("usage"))
        for number, block in enumerate(mappings(message.get("content"))):
            yield from self._of_block(number, block)
            yield from self._end_block(number)
        self._stopped(message)
        yield from self._end()

    def _end(self) -> Iterator[Event]:
        """The finish, or why this end is none."""
        self.has_ended = self.is_complete = True
        for index in list(self._open_calls):
            yield from self._end_block(index)
        word = self._finish_word
        reason = FINISH_REASONS.get(word) if word else None
        if reason is FinishReason.CONTENT_FILTER and not self._has_text:
            raise self.error(ContentFiltered, self._explanation)
        if word is None and not self._has_output:
            raise self.error(StreamInterrupted)  # an end after nothing is no answer
        yield Finish(reason, word)


# --- the request


def _system(messages: Sequence[ChatMessage]) -> str:
    """The system instructions, which have no place among the messages."""
    return "\n\n".join(m.content for m in messages if m.role == "system" and m.content.strip())


def _turns(messages: Sequence[ChatMessage]) -> list[JSONObject]:
    """The messages as turns of user and assistant, who alternate: neighbours become one turn."""
    turns: list[tuple[str, list[JSONObject]]] = []
    for message in messages:
        blocks = _blocks(message)
        if message.role == "system" or not blocks:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return [{"role": role, "content": _content(blocks)} for role, blocks in turns]


def _blocks(message: ChatMessage) -> list[JSONObject]:
    """What a message consists of. A blank text is left out, since the API refuses it."""
    if message.role == "tool":
        result = {"tool_use_id": message.tool_call_id, "content": message.content}
        return [{"type": "tool_result", **result}]
    images = [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": image.media_type, "data": image.data},
        }
        for image in message.images
    ]
    said = [{"type": "text", "text": message.content}] if message.content.strip() else []
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}
        for call in message.tool_calls
    ]
    return [*images, *said, *calls]


def _tools(parameters: Parameters) -> JSONObject:
    """The tools and which of them to use, from OpenAI's form to this one's."""
    if not parameters.tools:
        return {}
    functions = [mapping(tool.get("function")) for tool in parameters.tools]
    fields: JSONObject = {
        "tools": [
            {
                "name": function.get("name"),
                **({"description": told} if (told := function.get("description")) else {}),
                "input_schema": function.get("parameters") or {"type": "object"},
            }
            for function in functions
        ]
    }
    match parameters.tool_choice:
        case "required":
            fields["tool_choice"] = {"type": "any"}
        case str(choice):
            fields["tool_choice"] = {"type": choice}
        case {"function": {"name": name}}:
            fields["tool_choice"] = {"type": "tool", "name": name}
    if parameters.parallel_tool_calls is False and parameters.tool_choice != "none":
        choice = fields.setdefault("tool_choice", {"type": "auto"})
        choice["disable_parallel_tool_use"] = True
    return fields


def _thinking(
    version: tuple[int, int], parameters: Parameters, messages: Sequence[ChatMessage]
) -> JSONObject:
    """How much to think: newer models take an effort, older ones a number of tokens."""
    effort, tokens = parameters.reasoning_effort, parameters.reasoning_tokens
    if effort is Effort.NONE:
        return {"type": "disabled"}
    if effort is None and tokens is None:
        return {}
    if version >= _NO_SAMPLER:
        return {"type": "adaptive"}
    since = itertools.takewhile(lambda message: message.role != "assistant", reversed(messages))
    if any(message.role == "tool" for message in since):
        return {}  # the call before it would have to come with its signed thinking, which is gone
    budget = tokens or _BUDGETS[effort or Effort.MEDIUM]
    if parameters.max_tokens is not None:
        budget = min(budget, parameters.max_tokens - 1)
    # There is no thinking in less: then the answer is what counts.
    return {"type": "enabled", "budget_tokens": budget} if budget >= _LEAST_BUDGET else {}


def _version(model: str) -> tuple[int, int]:
    """The version of a model; (0, 0) where its name does not tell."""
    found = _VERSION.search(model.lower())
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def _content(blocks: list[JSONObject]) -> str | list[JSONObject]:
    """A single text as it is, all else as blocks."""
    match blocks:
        case [{"type": "text", "text": str(content), **others}] if not others:
            return content
    return blocks


def _default_max_tokens(thinking: Mapping[str, Any]) -> int:
    """The limit where none was set. Thinking counts in it, so its budget comes on top."""
    return DEFAULT_MAX_TOKENS + (count(thinking.get("budget_tokens")) or 0)


def _sampling(
    version: tuple[int, int], parameters: Parameters, thinking: Mapping[str, Any]
) -> JSONObject:
    """Temperature and top_p as far as the model takes them.

    Of the two the temperature comes first. It ends at 1 here; ours goes up to 2.
    """
    is_thinking = thinking.get("type", "disabled") != "disabled"
    if is_thinking or version >= _NO_SAMPLER:
        return {}
    sampling: JSONObject = {}
    if parameters.temperature is not None:
        sampling["temperature"] = min(parameters.temperature, 1.0)
    if parameters.top_p is not None and not (sampling and version >= _ONE_SAMPLER):
        sampling["top_p"] = parameters.top_p
    return sampling
