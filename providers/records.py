"""The exact record of one request to a provider: what went out, and what came back when.

The client fills it at the places where it hands bytes to the HTTP library and takes them from it.
Secrets are masked when the record is read out; the length and hash are those of the very bytes.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from providers.failure import masked

HIDDEN: Final = "[hidden]"
SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"}
)
MOST_HEADERS: Final = 100  # of an answer; more are left out
MOST_HEADER: Final = 2_000  # characters of one value

Headers = list[tuple[str, str]]


def _nobody(_: "Exchange") -> None:
    """Nobody waits for the request to be sent."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer. Times are seconds since it was sent.

    `secrets` are masked wherever they occur, `secret_headers` (names) whatever they hold. At most
    `room` bytes of the answer are kept. `on_sent` is called when the request is complete.
    """

    attempt: int = 1
    secrets: Collection[str] = ()
    secret_headers: Collection[str] = ()
    room: int = 1024 * 1024
    on_sent: Callable[["Exchange"], None] = _nobody
    error_code: str = ""

    method: str = ""
    url: str = ""
    body: bytes = b""
    sent_at: datetime | None = None
    status: int | None = None
    headers_after: float | None = None
    ended_after: float | None = None
    received_length: int = 0
    is_cut: bool = False
    _started: float = 0.0
    _headers: Sequence[tuple[str, str]] = ()
    _response_headers: Sequence[tuple[str, str]] = ()
    _reads: list[tuple[float, bytes]] = field(default_factory=list)

    # ---- what the client tells

    def sent(self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """The request, as it is handed to the network. `url` has no secret in it."""
        self.method, self.url, self._headers, self.body = method, url, headers, body
        self.sent_at = datetime.now(UTC)
        self._started = monotonic()
        self.on_sent(self)

    def answered(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        self.status, self._response_headers = status, headers
        self.headers_after = monotonic() - self._started

    def received(self, data: bytes) -> None:
        """Bytes of the answer, as the network gave them."""
        self.received_length += len(data)
        if self.room <= 0:
            self.is_cut = self.is_cut or bool(data)
            return
        kept = data[: self.room]
        self.is_cut = len(kept) < len(data)
        self.room -= len(kept)
        self._reads.append((monotonic() - self._started, kept))

    def ended(self) -> None:
        """The connection was closed or given back."""
        if self.sent_at is not None and self.ended_after is None:
            self.ended_after = monotonic() - self._started

    # ---- what is kept

    @property
    def is_over(self) -> bool:
        return self.ended_after is not None

    @property
    def body_sha256(self) -> str:
        """Of the bytes that were sent, in hexadecimal."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def kept_body(self) -> bytes:
        """The bytes that were sent, unless a secret is among them."""
        body = self.body
        for secret in self.secrets:
            if len(secret) >= 8:
                body = body.replace(secret.encode(), HIDDEN.encode())
        return body

    @property
    def headers(self) -> Headers:
        return self._kept(self._headers)

    @property
    def response_headers(self) -> Headers:
        return self._kept(self._response_headers[:MOST_HEADERS])

    def lines(self) -> Iterator[tuple[float, str]]:
        """The lines of the answer without their LF, each with the milliseconds after which it was
        complete. Bytes that are no UTF-8 become U+FFFD."""
        begun = bytearray()
        after = 0.0
        for after, data in self._reads:
            *complete, rest = data.split(b"\n")
            for line in complete:
                yield self._line(after, bytes(begun) + line)
                begun.clear()
            begun += rest
        if begun:
            yield self._line(after, bytes(begun))

    def _line(self, after: float, line: bytes) -> tuple[float, str]:
        return round(after * 1000, 1), self._masked(line.decode("utf-8", "replace"))

    def _masked(self, text: str) -> str:
        if self.status is not None and self.status >= 400:
            return masked(text, self.secrets)  # and what looks like a key: refusals repeat it
        for secret in self.secrets:
            if len(secret) >= 8:
                text = text.replace(secret, HIDDEN)
        return text

    def _kept(self, headers: Sequence[tuple[str, str]]) -> Headers:
        hidden = SECRET_HEADERS | {name.lower() for name in self.secret_headers}
        return [
            (
                name,
                _scheme(value) + HIDDEN
                if name.lower() in hidden
                else masked(value[:MOST_HEADER], self.secrets),
            )
            for name, value in headers
        ]


def _scheme(value: str) -> str:
    """The word before a key, as in `Bearer …`, which is no secret."""
    scheme, space, _ = value.partition(" ")
    return f"{scheme} " if space and scheme in ("Bearer", "Basic") else ""
