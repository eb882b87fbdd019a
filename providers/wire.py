"""Bytes to frames: server-sent events, NDJSON and plain text, right for any split. No I/O.

A splitter is fed what the network gives, however it is cut (inside a character, between CR and
LF, in the middle of a line), and yields each frame as soon as its last byte is there. Lines end
at LF, CR and CRLF alone for SSE, at LF for NDJSON: never at U+2028, U+0085 and the others where
`str.splitlines` cuts, since models write them and JSON does not escape them. Bytes become text
once a line is complete, so no character is ever halved; a broken byte becomes U+FFFD. A line
longer than `line_bytes` is a ProviderError, and what is kept of an unfinished line never exceeds
that. Source: the WHATWG rules for event streams.
"""

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from providers.errors import ProviderFailure

LINE_BYTES: Final = 8 * 1024 * 1024

_BOM: Final = codecs.BOM_UTF8
_INVALID: Final = re.compile("[\0\ud800-\udfff]")

# One decoder for every provider. Numbers with a point become Decimal, since some of them are
# money (it costs nothing on chunks, which have none). Control characters inside texts are let
# through: some servers do not escape them.
_decoder: Final = json.JSONDecoder(parse_float=Decimal, strict=False)


def parse_json(text: str) -> Any:
    """The value of one JSON text; numbers with a point are Decimal. Raises ValueError only."""
    try:
        return _decoder.decode(text)
    except (RecursionError, ArithmeticError) as error:
        # Ten thousand brackets, or a Decimal with an exponent of twenty digits: no answer either.
        raise ValueError("not a value that can be kept") from error


def valid_text(text: str) -> str:
    """`text` as valid Unicode that can be stored: lone surrogates and NUL become U+FFFD.

    PostgreSQL refuses NUL, UTF-8 has no surrogates, and JSON can spell both.
    """
    if text.isascii() and "\0" not in text:
        return text
    return _INVALID.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class SSEFrame:
    """One server-sent event.

    `event` is None where no name was sent. `error` is the value of a field named `error`, which
    is none of the standard's: llama-box and older llama.cpp report failures in it (recording
    `local-llamabox-error-field`). `data` is then "" unless there was some as well.
    """

    event: str | None
    data: str
    error: str | None = None


class LineSplitter(ABC):
    """What SSE and NDJSON share: whole lines out of pieces, within bounds.

    `name` is whom an error message is about.
    """

    def __init__(self, name: str = "The provider", line_bytes: int = LINE_BYTES) -> None:
        self.name = name
        self.line_bytes = line_bytes
        # A bytearray grows in place: a long line that comes byte by byte is not copied each time.
        self._rest = bytearray()
        self._is_first_line = True
        self._is_too_long = False

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[Any]:
        """The frames that are complete once `data` has arrived. Raises ProviderFailure."""

    @abstractmethod
    def close(self) -> Iterator[Any]:
        """The last frame, if the body ended without ending it."""

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that `data`, in which only LF ends one, completes.

        After the frames of these lines the caller calls `_check`, so that a line that is too
        long takes nothing with it that came before.
        """
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._rest:
            self._keep(lines[0])
            if self._is_too_long:
                return []
            lines[0] = bytes(self._rest)
            self._rest.clear()
        self._keep(last)
        # A line within one read is no longer than the read, and reads are small.
        if len(data) > self.line_bytes:
            for number, line in enumerate(lines):
                if len(line) > self.line_bytes:
                    self._is_too_long = True
                    del lines[number:]
                    break
        if self._is_first_line and lines:
            self._is_first_line = False
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _last_line(self) -> bytes:
        line = bytes(self._rest)
        self._rest.clear()
        return line.removeprefix(_BOM) if self._is_first_line else line

    def _keep(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > self.line_bytes:
            self._is_too_long = True
        elif piece:
            self._rest += piece

    def _check(self) -> None:
        if self._is_too_long:
            raise self._too_long()

    def _too_long(self) -> ProviderFailure:
        return ProviderFailure(
            f"{self.name} sent a line longer than {self.line_bytes:,} bytes, which is no answer. "
            "Check the base URL."
        )


class SSE(LineSplitter):
    """Server-sent events, as SSEFrame. An unfinished last event counts: providers rely on it."""

    def __init__(self, name: str = "The provider", line_bytes: int = LINE_BYTES) -> None:
        super().__init__(name, line_bytes)
        self._ended_with_cr = False
        self._event: str | None = None
        self._data: list[bytes] = []
        self._error: str | None = None
        self._size = 0

    def feed(self, data: bytes) -> Iterator[SSEFrame]:
        if self._ended_with_cr and data:
            # This LF belongs to a CR that has ended its line already.
            data = data.removeprefix(b"\n")
            self._ended_with_cr = False
        if b"\r" in data:
            self._ended_with_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for line in self._lines(data):
            if not line:
                if self._data or self._error is not None:
                    yield self._frame()
                self._event = None  # a name without data is forgotten
            elif line.startswith(b"data: "):
                self._add(line[6:])
            else:
                self._field(line)
        self._check()

    def close(self) -> Iterator[SSEFrame]:
        if line := self._last_line():
            self._field(line)
        if self._data or self._error is not None:
            yield self._frame()

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._add(value)
        elif field == b"event":
            self._event = value.decode("utf-8", "replace")
        elif field == b"error":
            self._error = value.decode("utf-8", "replace")
        # The rest is a comment (an empty name), `id`, `retry`, or unknown: nothing for us.

    def _add(self, value: bytes) -> None:
        # The six bytes of its field name count too, so that empty lines cannot go on for ever.
        self._size += len(value) + 6
        if self._size > self.line_bytes + 6:
            raise self._too_long()
        self._data.append(value)

    def _frame(self) -> SSEFrame:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        frame = SSEFrame(self._event or None, data.decode("utf-8", "replace"), self._error)
        self._event = self._error = None
        self._data = []
        self._size = 0
        return frame


class SSEOrJSON:
    """Server-sent events, and what some servers send in their place: JSON without `data:`.

    What begins with a brace is no event stream. There each line that is an object by itself is
    a frame at once (proxies of AI Refinery strip `data:`); if the first is not, all of it is one
    object over several lines, such as an indented error. Frames are SSEFrame either way.
    """

    def __init__(self, name: str = "The provider", line_bytes: int = LINE_BYTES) -> None:
        self.name = name
        self.line_bytes = line_bytes
        self._start = bytearray()  # white space that came before it was known what follows
        self._splitter: LineSplitter | None = None

    def feed(self, data: bytes) -> Iterator[SSEFrame]:
        if self._splitter is None:
            self._start += data
            seen = self._start.removeprefix(_BOM).lstrip(b"\r\n \t")
            if not seen or _BOM.startswith(seen):
                # The bound is against a server that never says anything else.
                del self._start[self.line_bytes :]
                return
            format_class = _JSONBody if seen.startswith(b"{") else SSE
            self._splitter = format_class(self.name, self.line_bytes)
            data = bytes(self._start)
        yield from self._splitter.feed(data)

    def close(self) -> Iterator[SSEFrame]:
        if self._splitter is not None:
            yield from self._splitter.close()


class _JSONBody(LineSplitter):
    """A body of JSON: an object a line, or one object over all lines."""

    def __init__(self, name: str, line_bytes: int) -> None:
        super().__init__(name, line_bytes)
        self._object: bytearray | None = None  # the lines so far of the one object

    def feed(self, data: bytes) -> Iterator[SSEFrame]:
        for line in self._lines(data):
            yield from self._of_line(line)
        self._check()

    def close(self) -> Iterator[SSEFrame]:
        yield from self._of_line(self._last_line())
        if self._object:
            yield SSEFrame(None, self._object.decode("utf-8", "replace"))

    def _of_line(self, line: bytes) -> Iterator[SSEFrame]:
        if self._object is None:
            line = line.strip().removeprefix(b"data:").strip()
            if not line or line.startswith(b":"):
                return
            text = line.decode("utf-8", "replace")
            if not line.startswith(b"{") or _is_json(text):
                yield SSEFrame(None, text)
                return
            self._object = bytearray()
        self._object += line + b"\n"
        if len(self._object) > self.line_bytes:
            raise self._too_long()


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


class NDJSON(LineSplitter):
    """One JSON value a line, parsed. A line that cannot be parsed is a ProviderFailure."""

    def feed(self, data: bytes) -> Iterator[Any]:
        for line in self._lines(data):
            if line := line.strip(b" \t\r"):
                yield self._value(line)
        self._check()

    def close(self) -> Iterator[Any]:
        if line := self._last_line().strip(b" \t\r"):
            yield self._value(line)

    def _value(self, line: bytes) -> Any:
        try:
            return parse_json(line.decode("utf-8", "replace"))
        except ValueError as error:
            raise unreadable(self.name) from error


class PlainText:
    """Text as it comes: each read is a frame, except for the bytes of a halved character."""

    def __init__(self, name: str = "The provider", line_bytes: int = LINE_BYTES) -> None:
        self.name = name
        self.line_bytes = line_bytes  # has no meaning here; all splitters have it
        # Not utf-8-sig, which forgets a body that is nothing but the beginning of a mark.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_begun = False

    def feed(self, data: bytes) -> Iterator[str]:
        yield from self._without_mark(self._decoder.decode(data))

    def close(self) -> Iterator[str]:
        yield from self._without_mark(self._decoder.decode(b"", final=True))

    def _without_mark(self, text: str) -> Iterator[str]:
        if text and not self._has_begun:
            self._has_begun = True
            text = text.removeprefix("\ufeff")
        if text:
            yield text


def unreadable(name: str) -> ProviderFailure:
    """The error for a frame that is not what its format says."""
    return ProviderFailure(
        f"{name} sent something that cannot be read as its answer. Try again; if it happens "
        "again, check the base URL and the kind of this configuration."
    )
