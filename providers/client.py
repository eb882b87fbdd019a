"""The only module that opens connections: sends a request, feeds the adapter, closes in time.

    async with aclosing(stream(adapter, request, limits)) as batches:
        async for events in batches:
            ...

`aclosing` matters: leaving the loop early must close the connection to the provider then, not
when the generator happens to be collected.

Connections are shared by all requests of one event loop; `aclose` gives them back. They know no
proxies, no cookies and no redirects: a key goes to the host it was entered for, and nowhere else.

httpx is the API, aiohttp the transport below it (httpx-aiohttp; docs/decisions.md). Its
exceptions do not say what httpx's own would: a refused connection, a reset one and a timeout while
connecting may all come as ConnectTimeout, and some of aiohttp's come through as they are. So what
counts here is how far the request had got, and the cause below the exception.
"""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import groupby
from types import TracebackType
from typing import Any, Final, cast
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from providers import addresses
from providers.adapters import demo
from providers.adapters.base import Adapter, ProviderRequest
from providers.errors import (
    InvalidRequest,
    ProviderError,
    ProviderFailure,
    ProviderOffline,
    ProviderTimeout,
    StreamInterrupted,
)
from providers.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from providers.records import HIDDEN, Exchange
from providers.wire import LINE_BYTES, parse_json, unreadable, valid_text

# aiohttp takes None for 100, and the 101st stream would wait for the first to end. How many runs
# there may be is the engine's business.
MAX_CONNECTIONS: Final = 10_000
# Below the five seconds after which common servers close: a request on a connection that is just
# being closed fails, and may not be repeated as if nothing had been sent.
KEEP_ALIVE_SECONDS: Final = 4.0
ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_SECONDS: Final = 10.0
# After a finish reason the usage may still come; after the end marker only the end of the body,
# which is worth a moment, since the connection can be used again then.
TAIL_SECONDS: Final = 5.0
CLOSING_SECONDS: Final = 0.25

_TRANSPORT_ERRORS: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    aiohttp.ClientError,
    OSError,
    ValueError,  # a header or an address that cannot be written down
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, and how much to take, in bytes.

    `first_chunk` counts from the start of the request to the first text, reasoning or tool call,
    `chunk` from each of these to the next. Pings, comments and counts are no progress (R1).
    """

    connect: float = 10.0
    first_chunk: float = 120.0
    chunk: float = 60.0
    answer_bytes: int = 4 * 1024 * 1024
    line_bytes: int = LINE_BYTES
    private_allowed: bool = True  # whether addresses of this machine and its network may be used


async def stream(
    adapter: Adapter,
    request: ProviderRequest,
    limits: Limits,
    exchange: Exchange | None = None,
) -> AsyncGenerator[list[Event], None]:
    """The events of one answer: a list for each network read that completed any.

    Adjacent texts of one read are one event, and all text is valid Unicode. The iteration ends
    after a Finish; every other end raises ProviderError, after the events that came before it.
    An answer of more than `limits.answer_bytes` ends with Finish(LENGTH, "answer limit").
    Cancelling passes through. On every way out the connection is closed or given back.
    `exchange` keeps a record of what went out and came in.
    """
    exchange = exchange or Exchange(room=0)
    adapter.splitter.line_bytes = limits.line_bytes
    room = limits.answer_bytes
    has_begun = False
    watch = _Watch(limits.first_chunk)
    async with (
        _response(adapter, request, limits, watch, exchange) as response,
        aclosing(_reads(response, exchange)) as reads,
    ):
        while True:
            try:
                with watch:
                    data = await anext(reads, b"")
            except (_Expired, *_TRANSPORT_ERRORS) as error:
                if adapter.has_ended:
                    break  # with a finish reason the answer is whole, however the connection ends
                raise _broken(adapter, error, limits, has_begun=has_begun) from error
            if not data:
                break
            if adapter.is_complete:
                continue
            events, failure = _collected(adapter.read(data))
            if any(isinstance(event, _PROGRESS) for event in events):
                has_begun = True
                watch.restart(limits.chunk)
                events, room = _within(events, room)
            if events:
                yield events
            if room < 0:
                return
            if failure:
                raise failure
            if adapter.is_complete:
                watch.restart(CLOSING_SECONDS)
            elif adapter.has_ended:
                watch.restart(min(limits.chunk, TAIL_SECONDS))
        if not adapter.is_complete:
            events, failure = _collected(adapter.close())
            events, room = _within(events, room)
            if events:
                yield events
            if failure and room >= 0:
                raise failure


async def fetch(adapter: Adapter, request: ProviderRequest, limits: Limits) -> Any:
    """The parsed JSON answer to a request that is no stream, such as the list of models.

    It must be there within `limits.first_chunk`. Raises ProviderError.
    """
    watch = _Watch(limits.first_chunk)
    exchange = Exchange(room=0)  # of no run: it is not kept
    async with _response(adapter, request, limits, watch, exchange) as response:
        try:
            body, is_whole = await _body(response, limits.answer_bytes, watch, exchange)
        except (_Expired, *_TRANSPORT_ERRORS) as error:
            raise _broken(adapter, error, limits, has_begun=False) from error
        try:
            answer = parse_json(body.decode("utf-8", "replace"))
        except ValueError as error:
            raise unreadable(adapter.target.name) from error
        if not is_whole:
            raise unreadable(adapter.target.name)
        if isinstance(answer, dict) and answer.get("error"):
            raise adapter.failure(
                response.status_code, response.headers, _content_type(response), body
            )
        return answer


def encode_body(body: Mapping[str, Any]) -> bytes:
    """The bytes that are sent for this body: what the inspector shows is what went out."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


async def aclose() -> None:
    """Close the connections of the running event loop. A later request opens new ones."""
    if client := _clients.pop(asyncio.get_running_loop(), None):
        await client.aclose()
        await asyncio.sleep(0)  # the transports let go of their sockets in the loop's next round


# --- the connections


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


def _client() -> httpx.AsyncClient:
    """The client of the running event loop, made at its first request."""
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None:
        client = _clients[loop] = _make_client()
    return client


def _make_client() -> httpx.AsyncClient:
    # Of the environment only SSL_CERT_FILE and SSL_CERT_DIR count, for authorities of one's own.
    context = httpx.create_ssl_context(trust_env=True)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                ssl=context,
                socket_factory=_judged_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    return httpx.AsyncClient(
        transport=AiohttpTransport(verify=context, client=session),
        mounts={"demo://": _DemoTransport()},
        # Both layers would keep cookies; this policy takes and gives none.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


@dataclass(slots=True)
class _Judge:
    """What one request may connect to, and why it did not."""

    private_allowed: bool
    refusal: str | None = None


# aiohttp connects in tasks of its own: they see the judge of the request that made them.
_judge: ContextVar[_Judge] = ContextVar("judge")


def _judged_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for an address as it was resolved, which is when it can be judged (R11)."""
    family, type_, protocol, _, where = address
    judge = _judge.get()
    if reason := addresses.refusal(str(where[0]), private_allowed=judge.private_allowed):
        judge.refusal = reason
        raise OSError(f"{where[0]} {reason}")
    return socket.socket(family, type_, protocol)


class _DemoTransport(httpx.AsyncBaseTransport):
    """Answers the built-in kind `demo` in this process, by the same path as all others."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = demo.answer(request.url.path, request.content)
        return httpx.Response(
            answer.status, headers=dict(answer.headers), stream=_DemoBody(answer.body)
        )


class _DemoBody(httpx.AsyncByteStream):
    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body


@asynccontextmanager
async def _response(
    adapter: Adapter,
    request: ProviderRequest,
    limits: Limits,
    watch: "_Watch",
    exchange: Exchange,
) -> AsyncIterator[httpx.Response]:
    """The response to `request` once its headers are there, if it is a successful one.

    Raises ProviderError for all others, their bodies read. Closed at the end, whatever happens.
    """
    client = _client()
    judge = _Judge(limits.private_allowed)
    _judge.set(judge)
    try:
        built = client.build_request(
            request.method,
            _sent_url(request),
            headers=dict(request.headers),
            content=encode_body(request.body) if request.method != "GET" else None,
            # aiohttp takes `pool` for all of connecting: name lookup, TCP and TLS. Waiting for
            # the answer is watched here, by its progress.
            timeout=httpx.Timeout(None, connect=limits.connect, pool=limits.connect),
        )
        exchange.sent(built.method, _shown_url(request), _pairs(built.headers), built.content)
        with watch:
            response = await client.send(built, stream=True)
    except (_Expired, *_TRANSPORT_ERRORS) as error:
        exchange.ended()
        if judge.refusal:
            raise _refused(adapter.target.name, judge.refusal) from error
        raise _not_reached(adapter, error, limits) from error
    except asyncio.CancelledError:
        exchange.ended()
        raise
    exchange.answered(response.status_code, _pairs(response.headers))
    try:
        content_type = _content_type(response)
        is_page = content_type.partition(";")[0].strip().lower() == "text/html"
        if not response.is_success or is_page:
            watch.restart(min(ERROR_BODY_SECONDS, limits.first_chunk))
            try:
                body, _ = await _body(response, ERROR_BODY_BYTES, watch, exchange)
            except (_Expired, *_TRANSPORT_ERRORS):
                body = b""  # the status alone tells enough
            raise adapter.failure(response.status_code, response.headers, content_type, body)
        yield response
    finally:
        watch.close()
        await response.aclose()
        exchange.ended()


def _sent_url(request: ProviderRequest) -> str:
    return _with_query(request.url, urlencode(request.secret_query))


def _shown_url(request: ProviderRequest) -> str:
    return _with_query(request.url, "&".join(f"{name}={HIDDEN}" for name in request.secret_query))


def _with_query(url: str, query: str) -> str:
    mark = "&" if "?" in url else "?"
    return f"{url}{mark}{query}" if query else url


def _pairs(headers: httpx.Headers) -> list[tuple[str, str]]:
    """In their order and spelling, also those that occur twice."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw]


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", ""))


async def _reads(response: httpx.Response, exchange: Exchange) -> AsyncGenerator[bytes, None]:
    """What the network gives, as it comes; decompressed where a server does so unasked."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    found = response.aiter_raw() if encoding == "identity" else response.aiter_bytes()
    async with aclosing(cast("AsyncGenerator[bytes, None]", found)) as reads:
        async for data in reads:
            exchange.received(data)
            yield data


async def _body(
    response: httpx.Response, most: int, watch: "_Watch", exchange: Exchange
) -> tuple[bytes, bool]:
    """At most `most` bytes of the body, and whether that is all of it."""
    body = bytearray()
    async with aclosing(_reads(response, exchange)) as reads:
        while len(body) <= most:
            with watch:
                data = await anext(reads, b"")
            if not data:
                return bytes(body), True
            body += data
    return bytes(body[:most]), False


# --- events


_PROGRESS: Final = (TextDelta, ReasoningDelta, ToolCallDelta)


def _collected(found: Iterator[Event]) -> tuple[list[Event], ProviderError | None]:
    """All events, joined and made valid, and the error that ended them, if one did."""
    events: list[Event] = []
    failure = None
    try:
        events.extend(found)
    except ProviderError as error:
        failure = error
    return list(_joined(events)), failure


def _joined(events: list[Event]) -> Iterator[Event]:
    """The same events: adjacent texts as one, every text valid Unicode."""
    for _, group in groupby(events, key=type):
        run = list(group)
        match run[0]:
            case TextDelta():
                yield TextDelta(_text(run))
            case ReasoningDelta():
                yield ReasoningDelta(_text(run))
            case _:
                yield from map(_valid, run)


def _text(run: list[Event]) -> str:
    return valid_text("".join(e.text for e in run if isinstance(e, TextDelta | ReasoningDelta)))


def _valid(event: Event) -> Event:
    match event:
        case ToolCallDelta(index, call_id, name, arguments):
            return ToolCallDelta(
                index, valid_text(call_id), valid_text(name), valid_text(arguments)
            )
        case Finish(reason, str(word)):
            return Finish(reason, valid_text(word))
    return event


def _within(events: list[Event], room: int) -> tuple[list[Event], int]:
    """The events as far as there is room, and the room that is left, in bytes.

    Below 0 there was not enough: the last event is then the end of the answer.
    """
    for number, event in enumerate(events):
        if isinstance(event, TextDelta | ReasoningDelta):
            content = event.text
        elif isinstance(event, ToolCallDelta):
            content = event.id + event.name + event.arguments
        else:
            continue
        size = len(content) if content.isascii() else len(content.encode())
        room -= size
        if room < 0:
            kept = events[:number]
            if isinstance(event, TextDelta | ReasoningDelta) and size + room:
                # Half a character at the cut is left out.
                kept.append(type(event)(content.encode()[: size + room].decode(errors="ignore")))
            return [*kept, Finish(FinishReason.LENGTH, "answer limit")], room
    return events, room


# --- time


class _Expired(Exception):
    """The watched wait took longer than its limit."""


class _Watch:
    """Ends a wait that takes too long: `with watch: await …`, again and again, one timer for all.

    Only the time inside the blocks counts, so a slow reader of the events is not taken for a slow
    provider. The timer is not set anew at each progress: it looks at the deadline when it rings,
    and sleeps on if that has moved. Like `asyncio.timeout` it cancels the waiting task and turns
    the CancelledError that comes out into its own; any other cancellation passes through.
    """

    def __init__(self, limit: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = limit
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._has_rung = False

    def restart(self, limit: float) -> None:
        """Allow `limit` seconds from now on."""
        self._left = limit

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def __enter__(self) -> None:
        self._deadline = self._loop.time() + self._left
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - what awaits is in a task
        self._cancelling = self._task.cancelling()
        if self._timer and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._ring)

    def __exit__(
        self,
        error_class: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        self._left = self._deadline - self._loop.time()
        if self._has_rung and task is not None:
            self._has_rung = False
            # Cancelled from elsewhere as well: then that is what happened.
            if task.uncancel() <= self._cancelling and error_class is asyncio.CancelledError:
                raise _Expired from error

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits now; the next wait sets it again
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
        else:
            self._has_rung = True
            self._task.cancel()


# --- what went wrong: the table "Transport" of errors.md


def _not_reached(adapter: Adapter, error: Exception, limits: Limits) -> ProviderError:
    """No answer at all: `error` came before the headers."""
    name = adapter.target.name
    match error:
        case _Expired():
            return _too_slow(name, limits, has_begun=False)
        case httpx.PoolTimeout():
            # Nothing was sent, so asking again costs nothing.
            return ProviderTimeout(
                f"{name} was not asked: all connections are in use. Try again.", retryable=True
            )
        case httpx.ReadTimeout() | httpx.WriteTimeout():
            return _too_slow(name, limits, has_begun=False)
        case (
            httpx.InvalidURL()
            | httpx.UnsupportedProtocol()
            | httpx.LocalProtocolError()
            | httpx.TooManyRedirects()
        ):
            return _not_sendable(name)
        case ValueError() if not isinstance(error, OSError | aiohttp.ClientError):
            return _not_sendable(name)
    return adapter.error(ProviderOffline, _reason(error, limits))


def _refused(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} was not asked: its base URL leads to an address that {reason}. "
        "An administrator has to change it."
    )


def _not_sendable(name: str) -> InvalidRequest:
    # The words of the exception may hold the very header that is wrong: they are not repeated.
    return InvalidRequest(
        f"{name} was not asked: the request cannot be sent. Check the base URL, the API key and "
        "the extra headers of the configuration."
    )


def _broken(
    adapter: Adapter, error: Exception, limits: Limits, *, has_begun: bool
) -> ProviderError:
    """The answer broke off: `error` came after the headers."""
    match error:
        case _Expired() | httpx.ReadTimeout():
            return _too_slow(adapter.target.name, limits, has_begun=has_begun)
        case httpx.DecodingError() if not has_begun:
            return adapter.error(ProviderFailure, "compressed data that cannot be read")
    return adapter.error(StreamInterrupted, _reason(error, limits))


def _too_slow(name: str, limits: Limits, *, has_begun: bool) -> ProviderTimeout:
    if has_begun:
        what = f"sent nothing more for {limits.chunk:g} s, the limit between two chunks"
    else:
        what = f"sent nothing for {limits.first_chunk:g} s, the limit for the first chunk"
    return ProviderTimeout(f"{name} {what}. Try again, or raise the limit in the configuration.")


def _reason(error: BaseException, limits: Limits) -> str:
    """Why a connection failed, in words that hold no address and no header."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case aiohttp.ConnectionTimeoutError():
                return f"no connection within {limits.connect:g} s"
            case aiohttp.ClientConnectorDNSError():
                return "its host name is not known"
            case aiohttp.ServerDisconnectedError():
                return "it closed the connection without an answer"
            case ssl.SSLCertVerificationError(verify_message=str(why)):
                return f"its certificate is not trusted (CERTIFICATE_VERIFY_FAILED: {why})"
            case ssl.SSLError(reason=str(why)):
                return f"no secure connection ({why})"
            # aiohttp's own TLS errors have 1 there, which means something else.
            case OSError() if (
                cause.errno and cause.errno > 0 and not isinstance(cause, ssl.SSLError)
            ):
                return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return "the connection broke"
