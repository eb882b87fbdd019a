"""The events of a run in the exact shapes that readers depend on (contract S2 to S8).

An event is its JSON text from the moment it is made: it is encoded once, then numbered, stored
and sent as it is. The text is ASCII, so that no reader, however it cuts lines, can be misled by
a character inside (U+2028, for instance), and always begins with the type.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from conversations.errors import Failure

END_TYPES = ("done", "error")
_encoder = json.JSONEncoder(separators=(",", ":"))
encode = _encoder.encode


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RunEvent:
    """One event of a run: `number` counts from 1 without a gap, `data` is a JSON object."""

    number: int
    type: str
    data: str

    @property
    def is_end(self) -> bool:
        return self.type in END_TYPES

    @property
    def fields(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.data)
        return parsed


def from_lines(first: int, lines: str) -> list[RunEvent]:
    """The events of a stored batch, the first of which has the number `first`."""
    return [numbered(first + index, line) for index, line in enumerate(lines.split("\n"))]


def to_lines(events: Iterable[RunEvent]) -> str:
    return "\n".join(event.data for event in events)


def pack(lines: str) -> bytes:
    """The lines of a run that is over, in about a sixth of the space."""
    return zlib.compress(lines.encode())


def unpack(packed: bytes | memoryview) -> str:
    return zlib.decompress(packed).decode()


def numbered(number: int, data: str) -> RunEvent:
    """The event whose JSON text is `data`."""
    # '{"type":"chunk",…': the type stands at the same place in every event.
    return RunEvent(number, data[9 : data.index('"', 9)], data)


def _event(type: str, fields: Mapping[str, Any]) -> str:
    return encode({"type": type, **fields})


def metadata(
    *,
    run_id: UUID,
    user_message_id: int | None,
    user_prompt: str,
    input_tokens: int,
    context_size: int,
    continues: Mapping[str, int] | None,
) -> str:
    """S4. `continues` is there for a run that goes on with an answer: its `message_id`, and the
    `tokens` (estimated) that it had before."""
    return _event(
        "metadata",
        {
            "run_id": str(run_id),
            "user_message_id": user_message_id,
            "user_prompt": user_prompt,
            "input_tokens": input_tokens,
            "context_size": context_size,
            **({"continues": continues} if continues else {}),
        },
    )


def request_data(fields: Mapping[str, Any]) -> str:
    """S5; `runs.request_data` gathers the fields."""
    return _event("request_data", fields)


def earlier(type: str, content: str, tokens: int) -> str:
    """A `chunk` or `reasoning` with what earlier runs wrote of the answer that is continued, so
    that here too the chunks together are the whole answer."""
    return _event(type, {"content": content, "tokens": tokens, "earlier": True})


def chunk(content: str, tokens: int) -> str:
    # Put together by hand: it is the one event that is made thousands of times.
    return f'{{"type":"chunk","content":{encode(content)},"tokens":{tokens}}}'


def reasoning(content: str, tokens: int) -> str:
    return f'{{"type":"reasoning","content":{encode(content)},"tokens":{tokens}}}'


def tool_call(index: int, id: str, name: str, arguments: str) -> str:
    return _event("tool_call", {"index": index, "id": id, "name": name, "arguments": arguments})


def retry(*, attempt: int, max_attempts: int, delay: float, code: str) -> str:
    """`attempt` is the one that comes next, after `delay` seconds."""
    return _event(
        "retry",
        {
            "attempt": attempt,
            "max_attempts": max_attempts,
            "delay": round(delay, 3),
            "code": code,
        },
    )


def done(
    *,
    assistant_message_id: int | None,
    full_response: str,
    finish_reason: str | None,
    provider_finish_reason: str | None,
    stopped: bool,
    receipt: Mapping[str, Any] | None,
    structured: Mapping[str, Any] | None,
    attachments: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
) -> str:
    """S7. `receipt` (`models.Run.receipt`) is there for a run that was stopped, `structured` for
    one that had a schema: `{"schema", "valid", "problems": [{"path", "message"}]}`. `attachments`
    (`models.Attachment.fields`) are those of a question that went back to its writer."""
    return _event(
        "done",
        {
            "assistant_message_id": assistant_message_id,
            "full_response": full_response,
            **_check(full_response),
            "finish_reason": finish_reason,
            "provider_finish_reason": provider_finish_reason,
            "stopped": stopped,
            **({"receipt": receipt} if receipt else {}),
            **({"structured": structured} if structured else {}),
            **({"attachments": attachments} if attachments else {}),
            "metrics": metrics,
        },
    )


def error(failure: Failure, *, assistant_message_id: int | None, text: str) -> str:
    """`text` is what there is of the answer."""
    return _event(
        "error",
        {
            "code": failure.code,
            "message": failure.message,
            "recoverable": failure.recoverable,
            "retry_after": failure.retry_after,
            "assistant_message_id": assistant_message_id,
            **_check(text),
        },
    )


def _check(text: str) -> dict[str, Any]:
    """By which a reader can tell whether it has all of the answer: the number of its characters
    (code points), and the SHA-256 of its UTF-8 bytes in hexadecimal."""
    return {"length": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def block(index: int, html: str, *, is_open: bool, tokens: int) -> str:
    """A rendered block of the answer, for the page (S2): it replaces the one with its index."""
    return _event("block", {"index": index, "html": html, "open": is_open, "tokens": tokens})


def joined_text(events: Sequence[RunEvent], type: str) -> str:
    """The text that all events of this type hold together."""
    return "".join(event.fields["content"] for event in events if event.type == type)
