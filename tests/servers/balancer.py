"""A balancer in front of several servers: it passes each connection on to the next one.

It knows nothing of HTTP. Which servers there are may change at any time (`ports`); connections that
are open stay where they are. It listens on 127.0.0.1 on a free port, in a thread of its own.
"""

import asyncio
import threading
from contextlib import suppress
from typing import Self

DEADLINE = 5.0  # s
PIECE = 65536  # bytes


class Balancer:
    """A context manager."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self._next = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _stop(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            backend = await self._connect()
            if backend is not None:
                await _join((reader, writer), backend)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            await _close(writer)
            self._connections.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the next server that takes one."""
        for _ in list(self.ports):
            self._next = (self._next + 1) % len(self.ports)
            try:
                return await asyncio.open_connection("127.0.0.1", self.ports[self._next])
            except OSError:
                continue
        return None


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(client: Connection, server: Connection) -> None:
    """Carries bytes both ways until either side ends; then both are closed."""
    ways = [
        asyncio.create_task(_carry(client[0], server[1])),
        asyncio.create_task(_carry(server[0], client[1])),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await _close(server[1])


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    except OSError:
        return


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
