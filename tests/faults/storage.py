"""What SQLite can be made to suffer: locked by another process, full, and both for less time than
in real life."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from conversations import journal
from tests.faults.footprint import on_every_thread
from tests.servers.app import AppServer

DEADLINE = 20.0  # s
LOCKER = """
import sqlite3, sys, time
path, seconds = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print(time.monotonic(), flush=True)
if seconds == "0":
    sys.stdin.readline()
else:
    time.sleep(float(seconds))
print(time.monotonic(), flush=True)
database.execute("ROLLBACK")
"""


class Lock:
    """Another process that holds the write lock, until it is told to give it up or for a while."""

    def __init__(self, seconds: float = 0) -> None:
        path = str(connection.settings_dict["NAME"])
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOCKER, path, f"{seconds:g}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.held_from = self._said()  # time.monotonic, which all processes share

    def release(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait_for_release(self) -> float:
        """The moment when it began to let go."""
        released_at = self._said()
        self._process.communicate(timeout=DEADLINE)
        return released_at

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=DEADLINE)

    def _said(self) -> float:
        assert self._process.stdout
        return float(self._process.stdout.readline())


@contextmanager
def connected_with(app: AppServer, **options: Any) -> Iterator[None]:
    """All connections to the database are new ones with these options, and again at the end."""
    before = dict(connection.settings_dict["OPTIONS"])
    _reconnect(app, {**before, **options})
    try:
        yield
    finally:
        _reconnect(app, before)


def _reconnect(app: AppServer, options: dict[str, Any]) -> None:
    connection.settings_dict["OPTIONS"].clear()
    connection.settings_dict["OPTIONS"].update(options)  # the same dict in every thread
    on_every_thread(app, lambda: connection.close())
    connection.close()
    on_every_thread(app, lambda: connection.ensure_connection())


@contextmanager
def no_room(app: AppServer) -> Iterator[None]:
    """The database may not grow by a page: what SQLite says is that of a full disk."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # or the pages that deleted rows left would still be room
        cursor.execute("PRAGMA page_count")
        (pages,) = cursor.fetchone()
    command = f"{connection.settings_dict['OPTIONS']['init_command']} PRAGMA max_page_count={pages}"
    with connected_with(app, init_command=command):
        yield


@contextmanager
def impatience(app: AppServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Storage is given up after one second, where it would be 30 and each try 20."""
    with monkeypatch.context() as patched, connected_with(app, timeout=0.2):
        patched.setattr(journal, "STORAGE_PATIENCE", 1.0)
        patched.setattr(journal, "RETRY_STORE", 0.05)
        yield


def integrity() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA integrity_check")
        return [line for (line,) in cursor.fetchall()]
