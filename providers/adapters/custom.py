"""Kind `custom`: any endpoint that streams, as an administrator describes it.

How it is asked and how its answer is read stand in the configuration (`custom_settings`). The
format `openai` is read by the adapter for OpenAI; the others are read here. Source: custom.md;
recording `custom-gemini-crlf`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from providers.adapters import paths, templates
from providers.adapters.base import (
    Adapter,
    ChatMessage,
    Feature,
    ModelInfo,
    Parameters,
    ProviderRequest,
    Splitter,
    Target,
)
from providers.adapters.custom_settings import (
    Auth,
    BadSettings,
    Format,
    RequestSettings,
    ResponseSettings,
    Shape,
)
from providers.adapters.openai import OpenAI
from providers.adapters.thinking import ThinkTags
from providers.adapters.untrusted import count, mapping, text
from providers.errors import (
    ContentFiltered,
    InvalidRequest,
    ProviderFailure,
    StreamInterrupted,
)
from providers.events import Event, Finish, FinishReason, ReasoningDelta, TextDelta, Usage
from providers.wire import NDJSON, PlainText, SSEFrame, SSEOrJSON, parse_json, unreadable

BEGINNING_BYTES: Final = 4_000

_ACCEPT: Final[Mapping[Format, str]] = {
    Format.OPENAI: "text/event-stream",
    Format.SSE: "text/event-stream",
    Format.NDJSON: "application/x-ndjson, application/json",
    Format.TEXT: "text/plain, */*",
}
# No JSON value, so it can only be an end, wherever it comes.
_COMMON_END: Final = "[DONE]"
# An answer of plain text that begins so is held back until it is known whether it is an error.
_ERROR_BEGINNING: Final = '{"error":'
_ERROR_MAX: Final = 65_536  # characters

_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    word: reason
    for reason, words in {
        FinishReason.STOP: "stop eos eos_token end_turn stop_sequence complete completed finished",
        FinishReason.LENGTH: "length max_tokens max_length model_length limit",
        FinishReason.TOOL_CALLS: "tool_calls tool_call tool_use function_call",
        FinishReason.CONTENT_FILTER: "content_filter content_filtered refusal safety blocklist"
        " prohibited_content recitation spii guardrail_intervened error_toxic",
    }.items()
    for word in words.split()
}
# What some write while the answer goes on (DashScope, Gemini).
_NO_FINISH: Final = {"null", "none", "finish_reason_unspecified"}


class _ChatCompletions(ThinkTags, OpenAI):
    """Any server that is like OpenAI, those without a parser for thinking among them."""


class Custom(ThinkTags, Adapter):
    """An endpoint of any kind: JSON over SSE, NDJSON or plain text."""

    kind = "custom"
    label = "Custom (any endpoint)"
    features = frozenset({Feature.STREAMING, Feature.SYSTEM, Feature.REASONING})

    def __init__(self, target: Target) -> None:
        """Raises InvalidRequest for settings that cannot be used."""
        try:
            self._asks = RequestSettings.read(target.options.get("request", {}))
            self._reads = ResponseSettings.read(target.options.get("response", {}))
        except BadSettings as error:
            raise InvalidRequest(
                f"{target.name} was not asked: its settings cannot be used. {error}"
            ) from None
        self._openai: OpenAI | None = None
        if self._reads.format is Format.OPENAI:
            self._openai = _ChatCompletions(
                replace(target, base_url=f"{target.base_url}{self._asks.path}")
            )
        self.beginning = bytearray()  # of the body, as it came: for whoever tests the settings
        self._text = _Growing()
        self._reasoning = _Growing()
        self._usage = Usage()
        self._finish_word: str | None = None
        self._has_events = False
        self._held = ""
        super().__init__(target)

    def make_splitter(self) -> Splitter:
        if self._openai:
            return self._openai.splitter
        match self._reads.format:
            case Format.NDJSON:
                return _Lines(self.target.name)
            case Format.TEXT:
                return PlainText(self.target.name)
            case _:
                return SSEOrJSON(self.target.name)

    # ---- asking

    def request(self, messages: Sequence[ChatMessage], parameters: Parameters) -> ProviderRequest:
        key = self.target.api_key.strip()
        auth: dict[str, str] | None = {}
        secret_query = {}
        match self._asks.auth:
            case Auth.BEARER:
                auth = None
            case Auth.HEADER:
                auth = {self._asks.auth_name: f"{self._asks.auth_prefix} {key}".lstrip()}
            case Auth.QUERY if key:
                secret_query = {self._asks.auth_name: key}
        return ProviderRequest(
            url=self.url(),
            headers=self.headers(_ACCEPT[self._reads.format], auth),
            body=self.body(templates.fill(self._asks.body, self._values(messages, parameters))),
            method=self._asks.method,
            secret_query=secret_query,
        )

    def url(self) -> str:
        """The base URL with the path after it. Raises InvalidRequest where that is no URL."""
        path, _, query = self._asks.path.partition("?")
        try:
            parts = urlsplit(self.target.base_url.strip())
            is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            is_usable = False
        if not is_usable:
            raise InvalidRequest(
                f"{self.target.name} has a base URL that is none. Correct it in the configuration."
            )
        values = {"model": self.target.model}
        if path:
            path = parts.path.rstrip("/") + templates.fill_address(path, values)
        queries = [parts.query, templates.fill_address(query, values)]
        return urlunsplit(
            parts._replace(
                path=path or parts.path,
                query="&".join(part for part in queries if part),
                fragment="",
            )
        )

    def _values(self, messages: Sequence[ChatMessage], parameters: Parameters) -> dict[str, Any]:
        """The value of each name of a body; None where there is none."""
        questions = [m.content for m in messages if m.role == "user"]
        system = "\n\n".join(m.content for m in messages if m.role == "system")
        # Where the body has a place for them, the instructions are not among the messages.
        listed = [m for m in messages if m.role != "system" or not self._asks.has_own_system]
        return {
            "model": self.target.model,
            "messages": _SHAPES[self._asks.messages](listed),
            "prompt": questions[-1] if questions else None,
            "system": system or None,
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "max_tokens": parameters.max_tokens,
            "stream": True,
        }

    def models_request(self) -> ProviderRequest:
        raise InvalidRequest(
            f"{self.target.name} is a custom endpoint, which lists no models. "
            "Enter the model's name in the configuration."
        )

    def models(self, answer: Any) -> list[ModelInfo]:
        return []

    # ---- reading

    def read(self, data: bytes) -> Iterator[Event]:
        self.beginning += data[: BEGINNING_BYTES - len(self.beginning)]
        if self._openai:
            yield from self._followed(self._openai, self._openai.read(data))
        else:
            yield from super().read(data)

    def close(self) -> Iterator[Event]:
        if self._openai:
            yield from self._followed(self._openai, self._openai.close())
            return
        # Where no other end was agreed on, the end of the body is one.
        self.has_ended = self.has_ended or not self._reads.says_its_end
        yield from super().close()
        if not self.is_complete:
            yield from self._end()

    def _followed(self, reader: Adapter, events: Iterator[Event]) -> Iterator[Event]:
        try:
            yield from events
        finally:
            self.has_ended, self.is_complete = reader.has_ended, reader.is_complete

    def events(self, frame: Any) -> Iterator[Event]:
        """The events of one frame: a server-sent event, a line or a piece of plain text."""
        if self._reads.format is Format.TEXT:
            yield from self._of_plain(frame)
        elif isinstance(frame, SSEFrame):
            if frame.error is not None:
                raise self.reported(frame.error)
            yield from self._of_event(frame.data.strip(), frame.event)
        else:
            yield from self._of_event(frame, None)

    def _of_event(self, data: str, name: str | None) -> Iterator[Event]:
        ends = {_COMMON_END, self._reads.end_marker} - {""}
        if data not in ends and data:
            self._has_events = True
            try:
                value = parse_json(data)
            except ValueError as error:
                if name == "error":
                    raise self.reported(data) from None
                if name not in ends:
                    raise unreadable(self.target.name) from error
            else:
                yield from self._of_value(value, name)
        if not self.is_complete and (data in ends or name in ends):
            self.has_ended = True
            yield from self._end()

    def _of_value(self, value: Any, name: str | None) -> Iterator[Event]:
        """The events of one parsed value, its usage first: an error ends the reading."""
        reads = self._reads
        usage = Usage(
            prompt_tokens=_last(value, reads.prompt_tokens_path, self._usage.prompt_tokens),
            completion_tokens=_last(
                value, reads.completion_tokens_path, self._usage.completion_tokens
            ),
        )
        if usage != self._usage:
            self._usage = usage
            yield usage
        self._check_for_error(value, name)
        if reasoning := self._new(self._reasoning, value, reads.reasoning_path):
            yield ReasoningDelta(reasoning)
        if content := self._new(self._text, value, reads.text_path):
            yield TextDelta(content)
        word = text(paths.find(value, reads.finish_path))
        if word and word.lower() not in _NO_FINISH:
            self._finish_word = word
            self.has_ended = True
        if paths.find(value, reads.end_path):
            self.has_ended = True
            yield from self._end()

    def _check_for_error(self, value: Any, name: str | None) -> None:
        own = mapping(value)
        found = paths.find(value, self._reads.error_path)
        if isinstance(found, str) and found:
            # Its message is the one that was pointed at; codes stand beside it.
            raise self.reported({"error": {**(mapping(own.get("error")) or own), "message": found}})
        if found or own.get("error") or name == "error":
            raise self.reported(found if isinstance(found, dict) else value)

    def _new(self, so_far: "_Growing", value: Any, path: paths.Path) -> str:
        """What this event adds to the text so far."""
        found = paths.find_text(value, path)
        if not found:
            return ""
        if not self._reads.is_cumulative:
            so_far.text = found
            return found
        if not found.startswith(so_far.text):
            raise ProviderFailure(
                f"{self.target.name} sent a text that does not begin with what it had sent before: "
                "its texts are pieces, not the whole text so far. Correct that in the "
                "configuration."
            )
        new = found[len(so_far.text) :]
        so_far.text = found
        return new

    def _of_plain(self, piece: str) -> Iterator[Event]:
        self._has_events = True
        if self._text.text:
            yield TextDelta(piece)
            return
        self._held += piece
        if not _may_be_error(self._held):
            yield from self._release()

    def _release(self) -> Iterator[Event]:
        self._text.text, self._held = self._held, ""
        yield TextDelta(self._text.text)

    def _end(self) -> Iterator[Event]:
        """The finish, or why this end is none."""
        if self._held:
            try:
                value = mapping(parse_json(self._held))
            except ValueError:
                value = {}
            if value.get("error"):
                raise self.reported(value)
            yield from self._release()
        word = self._finish_word
        reason = _FINISH_REASONS.get(word.lower()) if word else None
        if word and word.lower() == "error":
            raise self.error(ProviderFailure)
        if reason is FinishReason.CONTENT_FILTER and not self._text.text:
            raise self.error(ContentFiltered)
        if word is None and not (self._text.text or self._reasoning.text):
            if not self._has_events:
                raise self.error(StreamInterrupted)
            raise ProviderFailure(
                f"{self.target.name} answered, but no text was found in it. Correct the text path "
                "in the configuration; Test connection shows what came."
            )
        self.is_complete = True
        yield Finish(reason, word)


class _Lines(NDJSON):
    """Lines as they are: an end marker need not be JSON."""

    def _value(self, line: bytes) -> str:
        return line.decode("utf-8", "replace")


class _Growing:
    """A text that is read: all of it where events are cumulative, else the last piece."""

    def __init__(self) -> None:
        self.text = ""


def _last(value: Any, path: paths.Path, former: int | None) -> int | None:
    """The count in this event, else the last one: later ones replace, they are never added."""
    found = count(paths.find(value, path))
    return former if found is None else found


def _may_be_error(held: str) -> bool:
    if len(held) > _ERROR_MAX:
        return False
    beginning = "".join(held[:200].split())
    return beginning.startswith(_ERROR_BEGINNING) or _ERROR_BEGINNING.startswith(beginning)


# ---- The shapes of {{messages}}


def _openai(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _contents(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [
        {"role": "model" if m.role == "assistant" else "user", "parts": [{"text": m.content}]}
        for m in messages
    ]


def _one_text(messages: Sequence[ChatMessage]) -> str:
    """The conversation as a transcript that ends where the answer begins."""
    said = [m.content if m.role == "system" else f"{m.role.title()}: {m.content}" for m in messages]
    return "\n\n".join([*said, "Assistant:"])


_SHAPES: Final[Mapping[Shape, Callable[[Sequence[ChatMessage]], Any]]] = {
    Shape.OPENAI: _openai,
    Shape.CONTENTS: _contents,
    Shape.TEXT: _one_text,
}
