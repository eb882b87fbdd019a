"""Back-pressure for streams: what a viewer who reads slowly may cost, and when they are dropped.

Left alone, daphne's `send` never waits and keeps whatever a client does not read, and uvicorn's
waits for ever; neither lets go of a connection that still has something to send. So around a
stream `send` waits here, until what the server holds for the viewer is below VIEWER_BUFFER. Nobody
else waits with them: a reader is a position in the log, not a queue (guarantees G4, G7 and G8).

A viewer who has not taken PIECE bytes in VIEWER_STALL seconds, although there was something to
take, is dropped: the connection is aborted, as an orderly close would wait for them again. That
counts what is taken, so a byte a second is not enough, and a large event on a slow line is no
reason. Nothing is lost: the viewer comes back with the id of the last event that arrived whole.
"""

import asyncio
import functools
import logging
import socket
import struct
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol
from weakref import WeakSet

from asgiref.typing import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from daphne.http_protocol import WebRequest
from django.conf import settings
from twisted.internet import tcp

from conversations.sse import PIECE

log = logging.getLogger(__name__)

LAST_WORDS = 1.0  # s that streams get to send the ends of runs when the server stops
# The streams of this process that have not ended. Weakly: daphne cancels what it waits for, while
# Django's own task goes on, and those who left never get to their end.
_open: WeakSet["_Viewer"] = WeakSet()

FIRST_LOOK, LAST_LOOK = 0.005, 0.25  # s between two looks at a full buffer, doubled each time


class Connection(Protocol):
    """What is behind a server's `send`. The two servers have no signal in common that says there
    is room again, so they are asked; only about a viewer who is behind."""

    def open(self) -> None:
        """Prepares for a stream."""

    def close(self) -> None:
        """Undoes it: another request may follow."""

    def unsent(self) -> int:
        """Bytes that the process holds, as the client's side did not take them yet."""

    def abort(self) -> None:
        """Ends it at once, whatever is unsent. The application is told of a disconnect."""


class UvicornConnection:
    """A transport of asyncio or uvloop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.unsent = transport.get_write_buffer_size

    def open(self) -> None:
        if not self._transport.is_closing():
            # So that uvicorn's own wait, which knows no end, never begins.
            self._transport.set_write_buffer_limits(2 * settings.VIEWER_BUFFER)
            _keep_short(self._transport.get_extra_info("socket"))

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.set_write_buffer_limits()

    def abort(self) -> None:
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError):  # gone, or of another family
            # Lingering for no time, so that the kernel forgets what it holds as well.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class DaphneConnection:
    """A transport of Twisted."""

    def __init__(self, transport: tcp.Connection) -> None:
        self._transport = transport
        self.abort = transport.abortConnection

    def open(self) -> None:
        _keep_short(getattr(self._transport, "socket", None))  # gone with the connection

    def close(self) -> None:
        """Nothing to undo."""

    def unsent(self) -> int:
        transport = self._transport
        held: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        return held


def _keep_short(sock: socket.socket | None) -> None:
    """Has the kernel hold little that is not on its way yet. It would take megabytes, and ask for
    more only after a third of them is gone: a slow viewer would look like a stalled one, and see
    everything late."""
    if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):  # a socket of another family
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2 * PIECE)


def _connection_behind(send: Any) -> Connection | None:
    """None for a server that is not known: there, streams are as the server makes them."""
    if isinstance(send, functools.partial):  # of daphne's Server.handle_reply
        for request in send.args:
            if isinstance(request, WebRequest) and isinstance(request.transport, tcp.Connection):
                return DaphneConnection(request.transport)
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if hasattr(transport, "get_write_buffer_size"):  # of uvicorn's RequestResponseCycle
        return UvicornConnection(transport)
    return None


class Stalled(Exception):
    """The viewer does not take what is there."""


class _Viewer:
    """One stream to one client."""

    def __init__(self, connection: Connection, send: ASGISendCallable, path: str) -> None:
        self._connection = connection
        self._send = send
        self._path = path
        self._given = 0  # bytes so far
        self._taken = -connection.unsent()  # of these, when the viewer last made progress
        self._progress_at = monotonic()
        self._is_dropped = False

    async def send(self, event: ASGISendEvent) -> None:
        if self._is_dropped:
            return  # the disconnect is on its way to the application
        if event["type"] == "http.response.body":
            body = event.get("body", b"")
            is_last = not event.get("more_body", False)
            try:
                await self._room(0 if is_last else max(0, settings.VIEWER_BUFFER - len(body)))
            except Stalled:
                self._drop()
                return
            self._given += len(body)
            if is_last:
                self._connection.close()
        await self._send(event)
        if event["type"] == "http.response.body" and not event.get("more_body", False):
            _open.discard(self)

    async def _room(self, most: int) -> None:
        """Waits until at most this many bytes are unsent. Raises Stalled."""
        pause = FIRST_LOOK
        while True:
            unsent = self._connection.unsent()
            taken = self._given - unsent
            if not unsent or taken >= self._taken + PIECE:
                self._taken, self._progress_at = taken, monotonic()
            elif monotonic() - self._progress_at > settings.VIEWER_STALL:
                raise Stalled
            if unsent <= most:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_LOOK)

    def _drop(self) -> None:
        self._is_dropped = True
        self._connection.abort()
        log.info(
            "a viewer of %s was dropped: it took less than %d bytes in %g s",
            self._path,
            PIECE,
            settings.VIEWER_STALL,
        )


def paced(app: ASGI3Application) -> ASGI3Application:
    """`app`, a stream whose `send` waits for the viewer, and drops one who does not read.

    `send` has to be the server's own: what wraps it in turn belongs around `app`.
    """

    async def application(
        scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        connection = _connection_behind(send)
        if connection is None or scope["type"] != "http":
            await app(scope, receive, send)
            return
        connection.open()
        viewer = _Viewer(connection, send, scope["path"])
        _open.add(viewer)
        await app(scope, receive, viewer.send)

    return application


async def finish() -> None:
    """Waits a moment for the streams, whose runs have all ended, to say so to their viewers."""
    deadline = monotonic() + LAST_WORDS
    while _open and monotonic() < deadline:  # noqa: ASYNC110 - nobody tells when they are gone
        await asyncio.sleep(FIRST_LOOK)
