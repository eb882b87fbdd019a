"""What this process holds, in which llmchat runs beside the tests: threads, files, connections.

By name, so that a failure tells what was not given back. Processes of their own are measured by
`tests.servers.footprint`.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.db import connection

from conversations import background, live_page
from conversations.background import in_database
from tests.servers.app import AppServer

DEADLINE = 30.0  # s, in which everything has to be given back


@dataclass(frozen=True)
class Footprint:
    """All that is open is a file here, connections too: those to SQLite count by their WAL."""

    threads: list[str]  # names
    files: list[str]

    @classmethod
    def now(cls) -> Self:
        connection.ensure_connection()  # the test's own
        threads = [thread.name for thread in threading.enumerate()]
        # The event loop's own pool has a thread for each of the first few requests that it logs.
        kept = [name for name in threads if not name.startswith("asyncio_")]
        return cls(sorted(kept), sorted(_open_files()))

    def wait_until_back(self) -> None:
        """Waits until this process holds no more than it did."""
        deadline = monotonic() + DEADLINE
        while True:
            now = self.now()
            if len(now.threads) <= len(self.threads) and len(now.files) <= len(self.files):
                return
            assert monotonic() < deadline, f"not given back: {now}, where there was {self}"
            sleep(0.01)


def _open_files() -> list[str]:
    files = []
    for number in os.listdir("/proc/self/fd"):
        try:
            file = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # closed since, such as the one that this list was read from
            continue
        # SQLite keeps the database's own file open for the next connection: closing it would give
        # up the locks of all others (sqlite.org/src/file/src/os_unix.c, "Posix Advisory Locking").
        if file != str(connection.settings_dict["NAME"]):
            files.append(file)
    return files


def warm_up(app: AppServer) -> None:
    """Has llmchat make all the threads that it keeps, and each its connection to the database."""
    assert app.loop is not None
    # Looked up in the thread, as each has its own.
    on_every_thread(app, lambda: connection.ensure_connection())
    if connection.vendor == "postgresql":
        database: Any = connection
        database.pool.resize(database.pool.max_size)  # the driver's, which shrinks after minutes
        database.pool.wait(20)
    asyncio.run_coroutine_threadsafe(_warm_up(), app.loop).result(20)


async def _warm_up() -> None:
    await _at_once(live_page._pool, lambda: None)
    # The one thread that all streams share for what Django does before and after a view.
    await sync_to_async(int)()


def on_every_thread(app: AppServer, function: Callable[[], object]) -> None:
    """Calls `function` once in each thread that llmchat keeps for the database."""
    assert app.loop is not None
    for pool in (background.pool, background.writer_pool):
        asyncio.run_coroutine_threadsafe(_at_once(pool, function), app.loop).result(20)


async def _at_once(pool: ThreadPoolExecutor, function: Callable[[], object]) -> None:
    meeting = threading.Barrier(pool._max_workers)

    def call() -> None:
        function()
        meeting.wait(10)  # so that no thread does it twice

    calls = [in_database(call, executor=pool)() for _ in range(pool._max_workers)]
    await asyncio.gather(*calls)
