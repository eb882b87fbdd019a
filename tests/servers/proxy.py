"""A proxy between readers and llmchat that treats their streams badly, as a test tells it.

    with Proxy(app_port) as proxy:
        proxy.mode = Mode.HOLD                   # streams from now on, and those that are open
        proxy.cut_after = lambda number: 700     # each stream ends after 700 bytes of its response
        ...                                      # open proxy.url instead of the app's address

Only the streams of runs are treated: `GET /runs/<id>/events/` without `poll=1`; `is_affected` takes
another rule. Everything else passes as it is. Each request gets a connection of its own to the
server and back, so that bytes can be counted, cut and held without reading HTTP any further.

It listens on 127.0.0.1 on a free port, in a thread and event loop of its own, like the provider
double. Nothing in it knows the code under test.
"""

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum
from typing import Self

DEADLINE = 5.0  # s
BLOCK = 8192  # bytes
PIECE = 65536  # bytes that are read at once
STREAM = re.compile(r"^/runs/[0-9a-f-]+/events/(?!.*[?&]poll=1)")


class Mode(Enum):
    """How the responses to affected requests are passed on."""

    PASS = "each piece at once"
    HOLD = "nothing before the response ends"
    HOLD_BODY = "the head at once, then nothing before the response ends"
    BLOCKS = "in blocks of 8 KiB, the last one when the response ends"
    BLACK_HOLE = "accepted, and then nothing either way, and no end"


def is_stream(path: str) -> bool:
    return STREAM.match(path) is not None


class Proxy:
    """A context manager; `start` and `stop` do the same by hand."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.is_affected: Callable[[str], bool] = is_stream
        # Given the number of an affected request, from 0: the bytes of its response, head included,
        # after which it ends (as if the network did, cleanly, so that these bytes do arrive), or
        # None. It is asked in the proxy's thread.
        self.cut_after: Callable[[int], int | None] = lambda number: None
        # Changes pieces of affected responses. A piece is what was read at once: most of the time
        # what the server wrote at once.
        self.rewrite: Callable[[bytes], bytes] = lambda piece: piece
        self.paths: list[str] = []  # of all requests so far, with their queries
        self.affected: list[str] = []  # of those that were affected
        self._mode = Mode.PASS
        self._news = threading.Condition()
        self._open: set[_Exchange] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.BLACK_HOLE:
            self.lose_streams()

    def wait_for_stream(self, number: int = 1) -> str:
        """The path of the `number`-th affected request, from 1."""
        with self._news:
            has_come = self._news.wait_for(lambda: len(self.affected) >= number, DEADLINE)
            assert has_come, f"{len(self.affected)} of {number} streams after {DEADLINE} s"
            return self.affected[number - 1]

    def lose_streams(self) -> None:
        """What is open and affected never passes anything again, and nobody is told."""
        self._call(self._lose_streams())

    def cut_streams(self) -> None:
        """Resets the connections that are open and affected."""
        self._call(self._reset(only_affected=True))

    def go_down(self) -> None:
        """As when the server is gone: all connections are reset, new ones refused."""
        self._call(self._go_down())

    def come_back(self) -> None:
        self._call(self._listen())

    # life

    def start(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def stop(self) -> None:
        self._call(self._go_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _go_down(self) -> None:
        if self._server is not None:
            # First no new ones, then a moment for those that are accepted already: a closed server
            # has no place for them, and would leave their sockets open.
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            for _ in range(5):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        tasks = [exchange.task for exchange in self._open]
        await self._reset(only_affected=False)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reset(self, *, only_affected: bool) -> None:
        for exchange in list(self._open):
            if exchange.is_affected or not only_affected:
                exchange.reset()

    async def _lose_streams(self) -> None:
        for exchange in self._open:
            exchange.is_lost = exchange.is_lost or exchange.is_affected

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = _Exchange(self, reader, writer)
        self._open.add(exchange)
        try:
            await exchange.pass_on()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side has gone, or the test wants them to
        finally:
            self._open.discard(exchange)
            exchange.close()

    def _number(self, path: str) -> int | None:
        """Notes a request; its number among the affected ones, None if it is not one of them."""
        self.paths.append(path)
        if not self.is_affected(path):
            return None
        with self._news:
            self.affected.append(path)
            self._news.notify_all()
        return len(self.affected) - 1


class _Exchange:
    """One request and its response, on a connection of their own."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.is_affected = False
        self.is_lost = False
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._server: asyncio.StreamWriter | None = None
        self._budget: int | None = None  # bytes that may still be passed on
        self._held = b""
        self._has_passed_head = False

    async def pass_on(self) -> None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        number = self._proxy._number(path)
        if number is not None:
            self.is_affected = True
            self.is_lost = self._proxy.mode is Mode.BLACK_HOLE
            self._budget = self._proxy.cut_after(number)
        if self.is_lost:
            await asyncio.Event().wait()  # until the reader is reset, or this proxy stops
        reader, self._server = await asyncio.open_connection("127.0.0.1", self._proxy.target_port)
        # One request, one connection: then both bodies are simply what comes until the end.
        lines = re.sub(rb"\r\nConnection:[^\r]*", b"", head, flags=re.IGNORECASE)
        self._server.write(lines.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n")
        upwards = asyncio.create_task(self._upwards(self._server))
        try:
            while piece := await reader.read(PIECE):
                await self._downwards(piece)
            await self._write(self._held)
        finally:
            upwards.cancel()
            await asyncio.gather(upwards, return_exceptions=True)

    async def _upwards(self, server: asyncio.StreamWriter) -> None:
        while data := await self._reader.read(PIECE):
            server.write(data)
            await server.drain()
        if not self.is_lost:
            self.task.cancel()  # the reader has gone, and the server sees it

    async def _downwards(self, piece: bytes) -> None:
        if not self.is_affected:
            await self._write(piece)
            return
        self._held += self._proxy.rewrite(piece)
        match self._proxy.mode:
            case Mode.PASS:
                ready = len(self._held)
            case Mode.BLOCKS:
                ready = len(self._held) // BLOCK * BLOCK
            case Mode.HOLD_BODY if not self._has_passed_head:
                ready = self._held.find(b"\r\n\r\n") + 4
                self._has_passed_head = True
            case _:
                ready = 0
        await self._write(self._held[:ready])
        self._held = self._held[ready:]

    async def _write(self, data: bytes) -> None:
        if self.is_lost:
            await asyncio.Event().wait()
        if self._budget is not None:
            data = data[: self._budget]
            self._budget -= len(data)
        if data:
            self._writer.write(data)
            await self._writer.drain()
        if self._budget == 0:
            self.task.cancel()  # what was written goes out first, and then the end
            await asyncio.sleep(0)

    def reset(self) -> None:
        """RST to both sides: what a cut cable or a crashed process looks like."""
        for writer in (self._writer, self._server):
            if writer is not None and not writer.is_closing():
                linger = struct.pack("ii", 1, 0)  # for zero seconds: that makes the close an RST
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
        self.task.cancel()

    def close(self) -> None:
        for writer in (self._writer, self._server):
            if writer is not None:
                writer.close()
