"""What every kind of provider can do: turn a conversation into a request, and bytes into events.

An adapter is made for one attempt at one answer and keeps that answer's state (the rest of a
line, whether an end was seen). It does no I/O: `providers.client` sends the request and feeds
what comes back. A new kind is one file beside this one; `registry.py` finds it by its `kind`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from providers.errors import (
    ApiKeyInvalid,
    InvalidRequest,
    ProviderError,
    StreamInterrupted,
)
from providers.events import Event, Finish
from providers.failure import Source, message, reported_failure, response_failure, shortened

JSONObject = dict[str, Any]


class Feature(StrEnum):
    """What a kind may be able to do (contract P2)."""

    STREAMING = "streaming"
    SYSTEM = "system"
    JSON_SCHEMA = "json_schema"
    TOOLS = "tools"
    VISION = "vision"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: one configuration, as far as an adapter needs it.

    `api_key` is the decrypted key or "". `name` is what people call the configuration; it opens
    every error message. `base_url` is "" where the kind's own default holds.
    """

    name: str
    model: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # what only this kind knows


# The parameters that some models refuse.
SAMPLING = ("temperature", "top_p", "max_tokens")
# What models differ in. Of which more is known than nothing, it can at least write text.
CAPABILITIES = (
    "text",
    Feature.JSON_SCHEMA.value,
    Feature.TOOLS.value,
    Feature.VISION.value,
    Feature.REASONING.value,
)


class Effort(StrEnum):
    """How much a model is to think before it answers; each kind says it in its own words."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Schema:
    """What an answer has to be: a JSON schema, under a name of letters, digits, _ and -."""

    name: str
    schema: Mapping[str, Any]

    @property
    def is_strict(self) -> bool:
        """Whether every object in it names all of its properties and allows no others, which is
        what OpenAI can hold an answer to; it refuses others if told to."""
        return _is_strict(self.schema)

    @property
    def instructions(self) -> str:
        """How to ask for it where a provider has no way of its own."""
        return (
            "Answer with one JSON value that is valid against this JSON schema, and with nothing "
            "else: no explanation before or after it, and no code fence around it.\n\n"
            + json.dumps(self.schema, ensure_ascii=False)
        )


@dataclass(frozen=True, slots=True)
class Parameters:
    """How to answer. None means: not said, so it is not sent and the provider's default holds.

    `tools` are functions that the model may call, and `tool_choice` which of them it has to, both
    in OpenAI's form: `{"type": "function", "function": {"name", "description", "parameters"}}`,
    and "auto", "none", "required" or `{"type": "function", "function": {"name"}}`. `is_json` asks
    for a JSON object of any shape. Each kind sends what it has a word for.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    reasoning_effort: Effort | None = None
    reasoning_tokens: int | None = None  # at most, where a kind takes a number
    schema: Schema | None = None
    tools: Sequence[JSONObject] = ()
    tool_choice: str | JSONObject | None = None
    parallel_tool_calls: bool | None = None
    is_json: bool = False
    stop: Sequence[str] = ()  # texts at which the answer ends
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None  # by the model's own token ids


# How to ask for `is_json` where a provider has no way of its own.
JSON_INSTRUCTIONS = (
    "Answer with one JSON object and nothing else: no explanation before or after it, and no code "
    "fence around it."
)


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message. `data` is its bytes as base64."""

    media_type: str  # image/png, image/jpeg, image/gif or image/webp
    data: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str

    @property
    def input(self) -> JSONObject:
        """The arguments as an object, for who takes nothing else; empty where they are none."""
        try:
            value = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as a model sees it. `role` is system, user, assistant or tool.

    A user's message may have images, an assistant's the tools it called; a tool's message is what
    the call `tool_call_id` gave.
    """

    role: str
    content: str
    images: Sequence[Image] = ()
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """An HTTP request that is ready to go. `headers` hold the secret, `url` and `body` never do.

    Where an endpoint takes its key from the query, it is in `secret_query`, which the client puts
    into the address when it sends.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: JSONObject
    method: str = "POST"
    secret_query: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a provider offers. Prices are USD per million tokens; None is not told."""

    id: str
    name: str = ""
    context_window: int | None = None
    prices: Mapping[str, str] | None = None  # keys input, cached_input, output; decimal texts
    features: frozenset[Feature] | None = None  # of json_schema, tools, vision, reasoning
    refused: frozenset[str] | None = None  # of SAMPLING: what a request must not have

    @property
    def capabilities(self) -> list[str]:
        """As a configuration has them; empty where they are not told."""
        if self.features is None:
            return []
        return [name for name in CAPABILITIES if name == "text" or name in self.features]


class Splitter(Protocol):
    """Bytes to frames (see `providers.wire`)."""

    line_bytes: int  # the longest line that is taken

    def feed(self, data: bytes) -> Iterator[Any]: ...
    def close(self) -> Iterator[Any]: ...


class Adapter(ABC):
    """One kind of provider, during one attempt at one answer."""

    kind: ClassVar[str]
    label: ClassVar[str]
    default_base_url: ClassVar[str] = ""
    needs_key: ClassVar[bool] = False
    is_free: ClassVar[bool] = False  # prices begin at 0, and that is said (contract P7)
    # Whether a request that ends with an answer is answered with the rest of it, word for word.
    continues_answers: ClassVar[bool] = False
    # Tokens that an answer may have where a request says nothing; None: the provider decides.
    answer_tokens: ClassVar[int | None] = None
    features: ClassVar[frozenset[Feature]] = frozenset({Feature.STREAMING, Feature.SYSTEM})

    def __init__(self, target: Target) -> None:
        self.target = target
        self.has_ended = False  # an end marker or a finish reason was seen
        self.is_complete = False  # an end marker was seen: nothing after it counts
        self.splitter = self.make_splitter()

    @classmethod
    def supports(cls, feature: Feature) -> bool:
        return feature in cls.features

    @abstractmethod
    def make_splitter(self) -> Splitter:
        """The splitter for this kind's framing, fresh."""

    @abstractmethod
    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        """The request that asks for an answer to `messages` (the system message first, if any).

        Raises ProviderError when the configuration makes none that could be sent.
        """

    @abstractmethod
    def events(self, frame: Any) -> Iterator[Event]:
        """The events of one frame, in order. Raises ProviderError when it reports a failure."""

    @abstractmethod
    def models_request(self) -> ProviderRequest:
        """The request that lists the provider's models."""

    def key_request(self) -> ProviderRequest | None:
        """The request that proves the key; None where the list of models does."""
        return None

    @abstractmethod
    def models(self, answer: Any) -> list[ModelInfo]:
        """The models in the parsed answer to `models_request`."""

    def next_models_request(self, answer: Any) -> ProviderRequest | None:
        """The request for the page of the list after this parsed one; None after the last."""
        return None

    def model_request(self, model: str) -> ProviderRequest | None:
        """The request that tells more about one model; None where the list tells all there is."""
        return None

    def model(self, model: str, answer: Any) -> ModelInfo:
        """What the parsed answer to `model_request(model)` tells."""
        return ModelInfo(model)

    def read(self, data: bytes) -> Iterator[Event]:
        """The events that are complete once `data` has arrived; none after the end marker."""
        if self.is_complete:
            return
        for frame in self.splitter.feed(data):
            yield from self._of(frame)
            if self.is_complete:
                return  # what follows need not even be readable

    def close(self) -> Iterator[Event]:
        """The last events when the body has ended.

        Raises StreamInterrupted if neither an end marker nor a finish reason was seen.
        """
        if self.is_complete:
            return
        for frame in self.splitter.close():
            yield from self._of(frame)
        if not self.has_ended:
            raise self.error(StreamInterrupted)

    def _of(self, frame: Any) -> Iterator[Event]:
        for event in self.events(frame):
            if isinstance(event, Finish):
                self.has_ended = True
            yield event

    def failure(
        self, status: int, headers: Mapping[str, str], content_type: str, body: bytes
    ) -> ProviderError:
        """The error that a response which is no answer stands for."""
        return response_failure(self.source(), status, headers, content_type, body)

    def reported(self, error: Any) -> ProviderError:
        """The error that a frame in the stream reports; `error` is its parsed JSON or text."""
        return reported_failure(self.source(), error)

    def error(self, error_class: type[ProviderError], words: str = "") -> ProviderError:
        """An error of this class with its usual message; `words` are the provider's own."""
        return error_class(message(self.source(), error_class, words))

    def source(self) -> Source:
        """Whose failures these are, and what must not come back in their messages."""
        target = self.target
        # Whoever sends a key in a header of its own has it among these.
        secrets = [value for value in target.extra_headers.values() if len(value) >= 8]
        if key := target.api_key.strip():
            secrets.append(key)
        return Source(target.name, self.kind, secrets)

    def headers(self, accept: str, auth: Mapping[str, str] | None = None) -> dict[str, str]:
        """The headers of a request: ours, then `auth`, then the configuration's.

        `auth` is `Authorization: Bearer` with the key if None, and is left out without a key.
        Raises ApiKeyInvalid or InvalidRequest for what no header can hold, such as a line break,
        without saying it.
        """
        headers = {
            "Accept": accept,
            # A compressing proxy holds chunks back.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "llmchat",
        }
        key = self.target.api_key.strip()  # pasted keys bring line ends along
        if auth is None:
            auth = {"Authorization": f"Bearer {key}"}
        for name, value in auth.items() if key else ():
            if not _HEADER_VALUE.fullmatch(value):
                raise ApiKeyInvalid(
                    f"{self.target.name} was not asked: its API key has a line break or a "
                    "character that no key has. Enter the key again in the configuration."
                )
            headers[name] = value
        for name, value in self.target.extra_headers.items():
            if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
                raise InvalidRequest(
                    f"{self.target.name} was not asked: its extra header “{shortened(name, 40)}” "
                    "cannot be sent. Correct it in the configuration."
                )
            # Names have no case: one of ours gives way instead of being sent twice.
            headers = {ours: text for ours, text in headers.items() if ours.lower() != name.lower()}
            headers[name] = value
        return headers

    def body(self, own: JSONObject) -> JSONObject:
        """`own` with the configuration's extra body merged over it.

        Objects are merged key by key; a null takes a key out, so that a strict server can be
        spared a field it does not know.
        """
        return _merged(own, self.target.extra_body)


def _is_strict(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(_is_strict(inner) for inner in schema)
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        names = set(properties) if isinstance(properties, Mapping) else set()
        required = schema.get("required")
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or not isinstance(required, list) or set(required) != names:
            return False
    inner = list(properties.values()) if isinstance(properties, Mapping) else []
    keywords = ("items", "anyOf", "allOf", "oneOf", "prefixItems")
    inner += [schema[keyword] for keyword in keywords if keyword in schema]
    for keyword in ("$defs", "definitions"):
        if isinstance(kept := schema.get(keyword), Mapping):
            inner += kept.values()
    return all(_is_strict(each) for each in inner)


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


def _merged(own: Mapping[str, Any], over: Mapping[str, Any]) -> JSONObject:
    merged = dict(own)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged
