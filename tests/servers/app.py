"""llmchat itself on a real socket, in a thread of the test process.

In the same process, so that a test may change a setting or look into the database; over a real
socket, so that what is tested is what a client gets, chunk by chunk.
"""

import asyncio
import socket
import threading
from typing import Self

import uvicorn


class AppServer:
    """The ASGI application under uvicorn on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llmchat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(20):
            raise RuntimeError("llmchat did not start within 20 s")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()

    def _run(self) -> None:
        from llmchat.asgi import application

        config = uvicorn.Config(
            application,
            log_level="warning",
            lifespan="on",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.call_soon(self._wait_until_listening)
        await self._server.serve(sockets=[self._socket])

    def _wait_until_listening(self) -> None:
        if self._server.started:
            self._ready.set()
        elif self.loop is not None:
            self.loop.call_later(0.01, self._wait_until_listening)
