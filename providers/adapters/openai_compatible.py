"""What the OpenAI-compatible kinds share: Chat Completions over SSE.

`openai`, `openrouter`, `local` and `airefinery` are subclasses, a file each, which differ by data
and by the hooks `prefix`, `message`, `options`, `reasoning`, `model_info` and `usage`. Reading is
the same for all: every OpenAI-shaped stream that is known from recordings (OpenAI, OpenRouter,
llama.cpp, vLLM, LM Studio, DeepSeek, Groq, Mistral and others) is read here, since any of these may
stand behind any base URL. What is sent stays the plain form, optional fields only when they are
set, since strict servers refuse the rest. Source: openai.md.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from providers.adapters.base import (
    Adapter,
    ChatMessage,
    Feature,
    JSONObject,
    ModelInfo,
    Parameters,
    ProviderRequest,
    Target,
)
from providers.adapters.untrusted import count, mapping, mappings, money, text
from providers.errors import (
    ContentFiltered,
    InvalidRequest,
    ProviderFailure,
    StreamInterrupted,
)
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

END_MARKER: Final = "[DONE]"
MODELS_MAX: Final = 5_000

FINISH_REASONS: Final = {
    "stop": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "tool_use": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
}


class OpenAICompatible(Adapter):
    """Chat Completions over SSE, for one kind or another.

    The end is given once, when it is certain: after the last of what may follow a finish reason
    (the usage, an error, the reason again).
    """

    features = frozenset(Feature)
    # The older name: most servers know it, and some know only it.
    max_tokens_field: ClassVar[str] = "max_tokens"
    # Sent unless the configuration has headers of these names.
    own_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._finish_word: str | None = None
        self._has_text = False
        self._has_reasoning = False
        self._tools = _ToolCalls()
        self._usage: Usage | None = None

    def make_splitter(self) -> SSEOrJSON:
        return SSEOrJSON(self.target.name)

    # ---- What is asked

    @property
    def base_url(self) -> str:
        return self.target.base_url.strip() or self.default_base_url

    def url(self, path: str) -> str:
        """The address of `path`, such as /models, under the base URL however that was typed.

        With or without a trailing slash, `/v1` or any prefix; a base URL that names its endpoint
        (`…/chat/completions`, `…/responses`) is taken as it is for that one. Raises
        InvalidRequest where it is no URL.
        """
        parts = self.base_url_parts()
        typed = parts.path.rstrip("/")
        if typed.endswith(path):
            return urlunsplit(parts._replace(path=typed, fragment=""))
        prefix = re.sub(r"/(chat/completions|completions|responses|models)$", "", typed)
        if prefix == typed:
            prefix = self.prefix(parts.hostname or "", prefix)
        # Servers without a version in the path exist only where the whole endpoint was typed.
        return urlunsplit(parts._replace(path=prefix + path, fragment=""))

    def prefix(self, host: str, typed: str) -> str:
        """What comes before /chat/completions, where `typed` is the path of the base URL."""
        return typed if re.search(r"/v\d\w*(/|$)", typed) else f"{typed}/v1"

    def base_url_parts(self) -> SplitResult:
        """Raises InvalidRequest where it is no URL."""
        try:
            parts = urlsplit(self.base_url)
            is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            is_usable = False
        if not is_usable:
            raise InvalidRequest(
                f"{self.target.name} has a base URL that is none. Correct it in the configuration."
            )
        return parts

    def headers(self, accept: str, auth: Mapping[str, str] | None = None) -> dict[str, str]:
        headers = super().headers(accept, auth)
        given = {name.lower() for name in headers}
        return {
            **{
                name: value for name, value in self.own_headers.items() if name.lower() not in given
            },
            **headers,
        }

    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        body: JSONObject = {
            "model": self.target.model,
            "messages": [self.message(message) for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.options(parameters),
        }
        return ProviderRequest(
            url=self.url("/chat/completions"),
            headers=self.headers("text/event-stream"),
            body=self.body(body),
        )

    def message(self, message: ChatMessage) -> JSONObject:
        """One message of the request."""
        if message.role == "tool":
            told = {"tool_call_id": message.tool_call_id, "content": message.content}
            return {"role": "tool", **told}
        content: Any = message.content
        if message.images:
            content = [{"type": "text", "text": content}] if content else []
            for image in message.images:
                url = f"data:{image.media_type};base64,{image.data}"
                content.append({"type": "image_url", "image_url": {"url": url}})
        if not message.tool_calls:
            return {"role": message.role, "content": content}
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
        return {"role": message.role, "content": content or None, "tool_calls": calls}

    def options(self, parameters: Parameters) -> JSONObject:
        """The fields of the request that say how to answer: those that were set."""
        fields: JSONObject = {
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            self.max_tokens_field: parameters.max_tokens,
            "stop": list(parameters.stop) or None,
            "seed": parameters.seed,
            "presence_penalty": parameters.presence_penalty,
            "frequency_penalty": parameters.frequency_penalty,
            "logit_bias": parameters.logit_bias,
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        if parameters.tools:
            fields["tools"] = list(parameters.tools)
            if parameters.tool_choice is not None:
                fields["tool_choice"] = parameters.tool_choice
            if parameters.parallel_tool_calls is not None:
                fields["parallel_tool_calls"] = parameters.parallel_tool_calls
        if parameters.is_json:
            fields["response_format"] = {"type": "json_object"}
        if schema := parameters.schema:
            fields["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": schema.name,
                    "schema": schema.schema,
                    "strict": schema.is_strict,
                },
            }
        return {**fields, **self.reasoning(parameters)}

    def reasoning(self, parameters: Parameters) -> JSONObject:
        """The fields that say how much to think; most servers take no number of tokens."""
        effort = parameters.reasoning_effort
        return {} if effort is None else {"reasoning_effort": effort.value}

    # ---- Which models there are

    def models_request(self) -> ProviderRequest:
        return ProviderRequest(
            self.url("/models"), self.headers("application/json"), body={}, method="GET"
        )

    def models(self, answer: Any) -> list[ModelInfo]:
        listed = answer if isinstance(answer, list) else mapping(answer).get("data")
        found = {
            text(model.get("id")): self.model_info(model)
            for model in mappings(listed)
            if text(model.get("id"))
        }
        return sorted(found.values(), key=lambda model: model.id)[:MODELS_MAX]

    def model_info(self, model: JSONObject) -> ModelInfo:
        """One entry of the list. OpenAI tells only the id; servers like it put the window here."""
        windows = (
            model.get("max_model_len"),  # vLLM
            model.get("context_length"),
            model.get("max_context_length"),  # LM Studio, Mistral
            mapping(model.get("meta")).get("n_ctx_train"),  # llama.cpp
            model.get("max_input_tokens"),  # LiteLLM
        )
        return ModelInfo(
            id=text(model["id"]),
            name=text(model.get("name")),
            context_window=next((c for window in windows if (c := count(window))), None),
        )

    # ---- What is answered

    def events(self, frame: SSEFrame) -> Iterator[Event]:
        """The events of one frame, in order. Raises ProviderError when it reports a failure."""
        if frame.error is not None:
            raise self.reported(frame.error)
        data = frame.data
        if data.startswith("{"):  # the usual, and no end marker
            yield from self._of_value(self._parsed(data), frame.event)
        elif (data := data.strip()) == END_MARKER:
            self.has_ended = self.is_complete = True
            yield from self._end()
        elif data and frame.event == "error":
            raise self.reported(data)  # plain words
        elif data:
            yield from self._of_value(self._parsed(data), frame.event)

    def close(self) -> Iterator[Event]:
        yield from super().close()
        if not self.is_complete:
            yield from self._end()

    def _parsed(self, data: str) -> JSONObject:
        try:
            value = parse_json(data)
        except ValueError as error:
            raise unreadable(self.target.name) from error
        if not isinstance(value, dict):
            raise unreadable(self.target.name)
        return value

    def _of_value(self, value: JSONObject, event: str | None) -> Iterator[Event]:
        if usage := self.usage(value):
            yield from self._counted(usage)
        for choice in mappings(value.get("choices")):
            if choice.get("index"):
                continue  # only one answer is asked for
            if usage := self.usage(choice):
                yield from self._counted(usage)
            yield from self._of_choice(choice)
        # Last, since an error may share its chunk with counts (`openrouter-error-midstream`).
        if value.get("error") or event == "error" or value.get("object") == "error":
            raise self.reported(value)

    def _counted(self, usage: Usage) -> Iterator[Event]:
        # Perplexity repeats it on every chunk.
        if usage != self._usage:
            self._usage = usage
            yield usage

    def _of_choice(self, choice: JSONObject) -> Iterator[Event]:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            # One JSON object as the answer to a request for a stream has `message`. Perplexity
            # sends it beside the deltas, with all the text so far: then it is nothing new.
            has_answer = self._has_text or self._has_reasoning or self._tools
            delta = {} if has_answer else mapping(choice.get("message"))
        yield from self._of_delta(delta)
        if word := text(choice.get("finish_reason")):
            self._finish_word = word
            self.has_ended = True

    def _of_delta(self, delta: JSONObject) -> Iterator[Event]:
        content = delta.get("content")
        if reasoning := _reasoning(delta):
            self._has_reasoning = True
            yield ReasoningDelta(reasoning)
        if isinstance(content, str):
            if content:
                self._has_text = True
                yield TextDelta(content)
        elif content:
            yield from self._of_parts(content)
        if refusal := text(delta.get("refusal")):
            self._has_text = True
            yield TextDelta(refusal)
        if "tool_calls" in delta:
            for piece in mappings(delta["tool_calls"]):
                yield from self._tools.read(piece)
        if function := mapping(delta.get("function_call")):
            yield from self._tools.read({"index": 0, "function": function})

    def _of_parts(self, parts: Any) -> Iterator[Event]:
        """Content that is a list of parts (Mistral; recording `mistral-content-parts`)."""
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, str):
                part = {"type": "text", "text": part}
            part = mapping(part)
            if part.get("type") == "thinking":
                thinking = part.get("thinking")
                inner = "".join(text(p.get("text")) for p in mappings(thinking)) or text(thinking)
                if inner:
                    self._has_reasoning = True
                    yield ReasoningDelta(inner)
            elif content := text(part.get("text")):
                self._has_text = True
                yield TextDelta(content)

    def usage(self, value: JSONObject) -> Usage | None:
        """The counts in a chunk or a choice, None where it has none."""
        found = value.get("usage")
        if isinstance(found, dict):
            cost = found.get("cost")
            cost = cost.get("total_cost") if isinstance(cost, dict) else cost  # Perplexity
            details = mapping(found.get("prompt_tokens_details"))
            cached = details.get("cached_tokens", found.get("prompt_cache_hit_tokens"))
            completion_details = mapping(found.get("completion_tokens_details"))
            return Usage(
                prompt_tokens=count(found.get("prompt_tokens")),
                completion_tokens=count(found.get("completion_tokens")),
                cached_tokens=count(cached),
                reasoning_tokens=count(completion_details.get("reasoning_tokens")),
                cost_usd=money(cost),
            )
        if "x_groq" in value and self._usage is None:
            return self.usage(mapping(value["x_groq"]))
        if "timings" in value and self._usage is None:
            # llama-server's own figures, where it was not asked for usage.
            timings = mapping(value["timings"])
            new, cached = count(timings.get("prompt_n")), count(timings.get("cache_n"))
            return Usage(
                prompt_tokens=None if new is None else new + (cached or 0),
                completion_tokens=count(timings.get("predicted_n")),
                cached_tokens=cached,
            )
        return None

    def _end(self) -> Iterator[Event]:
        """The finish, or why this end is none."""
        word = self._finish_word
        reason = FINISH_REASONS.get(word.lower()) if word else None
        if word == "error":
            raise self.error(ProviderFailure)
        if word == "abort":
            raise self.error(StreamInterrupted)  # vLLM gave the request up
        if reason is FinishReason.CONTENT_FILTER and not self._has_text:
            raise self.error(ContentFiltered)
        if word is None and not (self._has_text or self._has_reasoning or self._tools):
            # An end marker after nothing is no answer (Ollama's /v1 hides its errors so).
            raise self.error(StreamInterrupted)
        if self._tools and reason in {None, FinishReason.STOP}:
            reason = FinishReason.TOOL_CALLS
        self.is_complete = True
        yield Finish(reason, word)


def _reasoning(delta: JSONObject) -> str:
    """The thinking text of a delta. It may come twice in one, so the first form found counts."""
    for field in ("reasoning_content", "reasoning"):
        found = delta.get(field)
        if isinstance(found, str):
            return found
    if "reasoning_details" not in delta:
        return ""
    details = mappings(delta["reasoning_details"])
    return "".join(text(d.get("text")) or text(d.get("summary")) for d in details)


class _ToolCalls:
    """Pieces of tool calls, put in order. True once there was one."""

    def __init__(self) -> None:
        self._calls: list[dict[str, str]] = []  # id and name as far as they were given on
        self._index: dict[int, int] = {}  # the provider's index: ours

    def __bool__(self) -> bool:
        return bool(self._calls)

    def read(self, piece: JSONObject) -> Iterator[ToolCallDelta]:
        function = mapping(piece.get("function"))
        call_id, name = text(piece.get("id")), text(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict | list):
            # Some servers send the object itself.
            arguments = json.dumps(
                arguments, ensure_ascii=False, separators=(",", ":"), default=float
            )
        index = self._position(count(piece.get("index")), call_id)
        known = self._calls[index]
        # Some repeat id and name on every piece: they are given on once.
        delta = ToolCallDelta(
            index,
            "" if known["id"] else call_id,
            "" if known["name"] else name,
            text(arguments),
        )
        known["id"] = known["id"] or call_id
        known["name"] = known["name"] or name
        if delta.id or delta.name or delta.arguments:
            yield delta

    def _position(self, index: int | None, call_id: str) -> int:
        """Our index of the call that a piece belongs to; a new one where it begins another.

        By the provider's index. Where that is missing, or is 0 for every call (both are met), a
        new id begins a new call.
        """
        if index is None:
            is_new = not self._calls or (call_id and call_id != self._calls[-1]["id"])
            ours = None if is_new else len(self._calls) - 1
        else:
            ours = self._index.get(index)
            if ours is not None and call_id and self._calls[ours]["id"] not in {"", call_id}:
                ours = None
        if ours is None:
            ours = len(self._calls)
            self._calls.append({"id": "", "name": ""})
        if index is not None:
            self._index[index] = ours
        return ours
