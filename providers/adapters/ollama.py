"""Kind `ollama`: Ollama's own API. Source: ollama.md; recordings `ollama-*`.

Its OpenAI-compatible address hides errors in mid-stream and ignores the context window, so a base
URL with /v1 means the same server's own API.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from providers.adapters.base import (
    Adapter,
    ChatMessage,
    Effort,
    Feature,
    JSONObject,
    ModelInfo,
    Parameters,
    ProviderRequest,
)
from providers.adapters.thinking import ThinkTags
from providers.adapters.untrusted import count, mapping, mappings, text
from providers.errors import InvalidRequest
from providers.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from providers.wire import NDJSON, unreadable

MODELS_MAX: Final = 5_000

_FINISH_REASONS: Final = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


_FEATURES: Final = {
    "tools": Feature.TOOLS,
    "vision": Feature.VISION,
    "thinking": Feature.REASONING,
}

# Only gpt-oss knows more than on and off; to the others, all but false is on.
_THINK: Final = {
    Effort.NONE: False,
    Effort.LOW: "low",
    Effort.MEDIUM: "medium",
    Effort.HIGH: "high",
}


class Ollama(ThinkTags, Adapter):
    """Ollama's chat endpoint: NDJSON, one object a line.

    For old servers, and models that cannot chat, a base URL that ends in /api/generate is asked
    there.
    """

    kind = "ollama"
    label = "Ollama"
    default_base_url = "http://localhost:11434"
    is_free = True
    continues_answers = True
    features = frozenset(Feature)

    def make_splitter(self) -> NDJSON:
        self._calls = 0
        return NDJSON(self.target.name)

    def url(self, path: str) -> str:
        """The address of `path`, such as /api/chat, however the base URL was typed.

        With or without a trailing slash, `/api`, `/v1` or the endpoint itself. Raises
        InvalidRequest where it is no URL.
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
        prefix = re.sub(r"/(api(/chat|/generate|/tags)?|v1(/.*)?)$", "", parts.path.rstrip("/"))
        return urlunsplit(parts._replace(path=prefix + path, fragment=""))

    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        typed = self.target.base_url.partition("?")[0].rstrip("/")
        path = "/api/generate" if typed.endswith("/api/generate") else "/api/chat"
        asked = _prompt(messages) if path == "/api/generate" else _messages(messages)
        body: JSONObject = {"model": self.target.model, **asked, "stream": True}
        if parameters.schema is not None:
            body["format"] = parameters.schema.schema
        elif parameters.is_json:
            body["format"] = "json"
        if parameters.reasoning_effort is not None:
            body["think"] = _THINK[parameters.reasoning_effort]
        if parameters.tools:
            body["tools"] = list(parameters.tools)
        options: JSONObject = {}
        if parameters.temperature is not None:
            options["temperature"] = parameters.temperature
        if parameters.top_p is not None:
            options["top_p"] = parameters.top_p
        if parameters.max_tokens is not None:
            options["num_predict"] = parameters.max_tokens
        if parameters.stop:
            options["stop"] = list(parameters.stop)
        for name in ("seed", "presence_penalty", "frequency_penalty"):
            if (value := getattr(parameters, name)) is not None:
                options[name] = value
        if options:
            body["options"] = options
        return ProviderRequest(
            url=self.url(path),
            headers=self.headers("application/x-ndjson"),
            body=self.body(body),
        )

    def models_request(self) -> ProviderRequest:
        return ProviderRequest(
            self.url("/api/tags"), self.headers("application/json"), body={}, method="GET"
        )

    def models(self, answer: Any) -> list[ModelInfo]:
        names = {
            text(model.get("name")) or text(model.get("model"))
            for model in mappings(mapping(answer).get("models"))
        }
        return [ModelInfo(name) for name in sorted(names - {""})][:MODELS_MAX]

    def model_request(self, model: str) -> ProviderRequest:
        return ProviderRequest(
            self.url("/api/show"), self.headers("application/json"), body={"model": model}
        )

    def model(self, model: str, answer: Any) -> ModelInfo:
        """The window that the model file sets, else what the model can do at most."""
        answer = mapping(answer)
        about = mapping(answer.get("model_info"))
        window = count(about.get(f"{text(about.get('general.architecture'))}.context_length"))
        # The server cuts at num_ctx without a word, so that is the window which counts.
        told = re.search(r"^\s*num_ctx\s+(\d{1,9})\s*$", text(answer.get("parameters")), re.M)
        capabilities = answer.get("capabilities")
        return ModelInfo(
            model,
            context_window=int(told[1]) if told else window,
            features=_features(capabilities) if isinstance(capabilities, list) else None,
        )

    def events(self, frame: Any) -> Iterator[Event]:
        """The events of one line, in order. Raises ProviderError when it reports a failure."""
        if not isinstance(frame, dict):
            raise unreadable(self.target.name)
        if error := frame.get("error"):
            raise self.reported({"error": error})
        # /api/generate has the same at the top level, the text under another name.
        message = mapping(frame.get("message")) or frame
        if thinking := text(message.get("thinking")):
            yield ReasoningDelta(thinking)
        if content := text(message.get("content")) or text(frame.get("response")):
            yield TextDelta(content)
        if "tool_calls" in message:
            for call in mappings(message["tool_calls"]):
                yield self._call(call)
        if frame.get("done") is True:
            self.has_ended = self.is_complete = True
            # What is absent stays None: 0 or "stop" would look like the provider's own word.
            yield Usage(count(frame.get("prompt_eval_count")), count(frame.get("eval_count")))
            yield self._finish(text(frame.get("done_reason")) or None)

    def _call(self, call: JSONObject) -> ToolCallDelta:
        """A call, whole: its arguments come as an object, and here they are JSON text."""
        function = mapping(call.get("function"))
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(
                mapping(arguments), ensure_ascii=False, separators=(",", ":"), default=float
            )
        index, self._calls = self._calls, self._calls + 1
        return ToolCallDelta(index, text(call.get("id")), text(function.get("name")), arguments)

    def _finish(self, word: str | None) -> Finish:
        # Ollama says "stop" after tool calls too.
        if self._calls and word in {None, "stop"}:
            return Finish(FinishReason.TOOL_CALLS, word)
        return Finish(_FINISH_REASONS.get(word) if word else None, word)


def _features(capabilities: list[Any]) -> frozenset[Feature]:
    """What a model can do. The server sees to it that an answer follows a schema."""
    found = {feature for name, feature in _FEATURES.items() if name in capabilities}
    return frozenset({Feature.JSON_SCHEMA, *found})


def _messages(messages: Sequence[ChatMessage]) -> JSONObject:
    return {"messages": [_message(message) for message in messages]}


def _prompt(messages: Sequence[ChatMessage]) -> JSONObject:
    """The same for /api/generate, which servers had before they could chat: one text."""
    said = [message for message in messages if message.role != "system"]
    if len(said) == 1:
        prompt = said[0].content
    else:
        turns = [f"{message.role.capitalize()}: {message.content}" for message in said]
        # An answer that comes last is to be continued.
        closing = [] if said and said[-1].role == "assistant" else ["Assistant:"]
        prompt = "\n\n".join(turns + closing)
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    images = [image.data for message in said for image in message.images]
    return {
        "prompt": prompt,
        **({"system": system} if system else {}),
        **({"images": images} if images else {}),
    }


def _message(message: ChatMessage) -> JSONObject:
    """One message of the request."""
    told: JSONObject = {"role": message.role, "content": message.content}
    if message.images:
        told["images"] = [image.data for image in message.images]
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.input}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        told["tool_call_id"] = message.tool_call_id
    return told
