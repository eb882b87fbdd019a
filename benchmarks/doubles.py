"""The other side of the relay benchmark: a provider that streams on time, and a plain copier.

Each runs in a process of its own, on one event loop, and says nothing. The provider takes its
orders from the prompt, `TAG CHUNKS DELAY`, and remembers when it wrote each chunk; whoever holds
the other end of its pipe asks for these moments. All processes of one machine share one
monotonic clock, so they can be compared with a reader's.
"""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, cast

import uvloop

WORDS = ("the ", "answer ", "is ", "neither ", "here ", "nor ", "in a ", "café, ")
BACKLOG = 4096

_spawned = get_context("spawn")


@dataclass
class Written:
    """What the provider did for one request."""

    received_at: float
    chunks_at: list[float] = field(default_factory=list)


def text_of(chunks: int) -> list[str]:
    """The pieces of an answer. Each tells its place, so none can be lost or swapped unseen."""
    return [WORDS[index % len(WORDS)] + f"{index} " for index in range(chunks)]


# ---- the provider


class _Provider(asyncio.Protocol):
    """Chat Completions over kept connections, one request at a time on each."""

    def __init__(self, written: dict[str, Written]) -> None:
        self._written = written
        self._buffer = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._answering:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not separator or not length or len(rest) < int(length[1]):
            return
        body, self._buffer = rest[: int(length[1])], rest[int(length[1]) :]
        tag, chunks, delay = json.loads(body)["messages"][-1]["content"].split()
        self._written[tag] = Written(monotonic())
        answer = self._answer(self._written[tag], int(chunks), float(delay))
        self._answering = asyncio.get_running_loop().create_task(answer)

    async def _answer(self, written: Written, chunks: int, delay: float) -> None:
        frames = [_chunked(_frame({"content": piece})) for piece in text_of(chunks)]
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        began = monotonic()
        for index, frame in enumerate(frames):
            # By the clock, not by the gap: what was late once does not delay all that follows.
            await asyncio.sleep(max(0.0, began + index * delay - monotonic()))
            written.chunks_at.append(monotonic())
            self._transport.write(frame)
        self._transport.write(
            _chunked(_frame({}, "stop")) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )


def _frame(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    value = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_800_000_000,
        "model": "benchmark",
        "choices": [choice],
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _provide(listener: socket.socket, pipe: Connection) -> None:
    written: dict[str, Written] = {}

    def tell() -> None:
        # In a thread: a pipe that an event loop watches cannot take much at once.
        while pipe.recv():
            pipe.send(written)
            written.clear()

    threading.Thread(target=tell, daemon=True).start()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Provider(written), sock=listener, backlog=BACKLOG)
    await server.serve_forever()


# ---- the copier: the least that a relay in Python can do


class _Copier(asyncio.Protocol):
    """One of two ends: what it receives, the other end sends."""

    def __init__(self) -> None:
        self.other: _Copier | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._waiting)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.send(data)

    def send(self, data: bytes) -> None:
        if self._transport is None:
            self._waiting += data
        else:
            self._transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other and self.other._transport:
            self.other._transport.close()


async def _copy(listener: socket.socket, target: int) -> None:
    loop = asyncio.get_running_loop()
    dials: set[asyncio.Task[Any]] = set()

    def accept() -> _Copier:
        front, back = _Copier(), _Copier()
        front.other, back.other = back, front
        dial = loop.create_task(loop.create_connection(lambda: back, "127.0.0.1", target))
        dials.add(dial)
        dial.add_done_callback(dials.discard)
        return front

    server = await loop.create_server(accept, sock=listener, backlog=BACKLOG)
    await server.serve_forever()


# ---- processes


class Double:
    """A double in its process: where it listens, and its pipe."""

    def __init__(self, port: int, pid: int, pipe: Connection) -> None:
        self.port = port
        self.pid = pid
        self._pipe = pipe

    def written(self) -> dict[str, Written]:
        """What the provider did since this was last asked, by tag."""
        self._pipe.send(True)
        found: dict[str, Written] = self._pipe.recv()
        return found


@contextmanager
def provider() -> Iterator[Double]:
    with _process(_provide) as double:
        yield double


@contextmanager
def copier(target: int) -> Iterator[Double]:
    """Copies bytes between whoever connects and the port `target`."""
    with _process(_copy, target) as double:
        yield double


@contextmanager
def _process(main: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> Iterator[Double]:
    ours, theirs = _spawned.Pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        arguments = arguments or (theirs,)
        process = _spawned.Process(target=_run, args=(main, listener, *arguments), daemon=True)
        process.start()
        try:
            assert process.pid is not None
            yield Double(listener.getsockname()[1], process.pid, ours)
        finally:
            process.kill()
            process.join()


def _run(main: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    with suppress(KeyboardInterrupt):
        uvloop.run(main(*arguments))
