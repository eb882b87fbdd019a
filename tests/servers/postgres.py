"""PostgreSQL for tests: the one that runs already, or one of the tests' own.

A server of one's own may be stopped and restarted. As a command, with a command to run:

    python -m tests.servers.postgres python -m pytest tests/conversations

runs it with DATABASE_URL set to a new, empty database, and drops that afterwards. Where there is no
PostgreSQL it says what it leaves out, in one line; the exit code is then 0, and 1 if CI is set.
"""

import glob
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from uuid import uuid4

import psycopg

from tests.servers.processes import Process

ASKED_FOR = "TEST_POSTGRES_URL"
RUNNING = os.environ.get(ASKED_FOR, "postgres://postgres@127.0.0.1:5432")
STOP = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class NoPostgres(Exception):
    """None answers, and there are no programs to start one of our own."""

    def __init__(self) -> None:
        super().__init__(f"no PostgreSQL answers at {ASKED_FOR}, and none is installed")


class PostgresServer:
    """`postgres` on a free port of 127.0.0.1, with an empty cluster; nothing is kept after it."""

    def __init__(self) -> None:
        self._programs = programs()
        if self._programs is None:
            raise NoPostgres
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"postgres://postgres@127.0.0.1:{self.port}"
        # Elsewhere than pytest's folders, which nobody but their owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="llmchat-postgres-"))
        self._user = _servant() if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._process: Process | None = None
        options = "--username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync"
        made = self._run("initdb", f"--pgdata={self._folder}", *options.split())
        code = made.end(60)
        if code != 0:
            raise RuntimeError("initdb failed:\n" + "\n".join(made.said))

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        self._process = self._run(
            "postgres",
            *("-D", str(self._folder), "-p", str(self.port), "-h", "127.0.0.1"),
            *("-k", str(self._folder), "-c", "fsync=off", "-c", "max_connections=100"),
        )
        self._process.wait_for("database system is ready to accept connections")

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends sessions in order, `immediate` is a crash: the next start has to recover."""
        if self._process is not None:
            self._process.send_signal(STOP[mode])
            self._process.end()
            self._process = None

    def _run(self, program: str, *arguments: str) -> Process:
        assert self._programs is not None
        command = [str(self._programs / program), *arguments]
        return Process(command, {"LC_ALL": "C"}, self._folder, self._user)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps them out of PATH."""
    on_path = shutil.which("initdb")
    folders = [str(Path(on_path).parent)] if on_path else []
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    for folder in folders:
        if os.access(f"{folder}/initdb", os.X_OK) and os.access(f"{folder}/postgres", os.X_OK):
            return Path(folder)
    return None


def _servant() -> str:
    """Who runs the server for root, which PostgreSQL refuses to serve."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def answers(url: str) -> bool:
    try:
        psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def postgres(*, prefers_own: bool = False) -> Iterator[str]:
    """The URL of a server, without a database. Raises NoPostgres.

    The one that runs already needs no start. For many tests our own is quicker, as nothing that it
    stores has to last; one that was asked for is taken all the same.
    """
    starts_own = prefers_own and ASKED_FOR not in os.environ and programs() is not None
    if not starts_own and answers(RUNNING):
        yield RUNNING
    else:
        with PostgresServer() as server:
            yield server.url


@contextmanager
def database(server_url: str, template: str = "template1") -> Iterator[str]:
    """The URL of a new database, which goes in the end, whoever still uses it."""
    name = f"llmchat_{uuid4().hex}"
    _administer(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield f"{server_url}/{name}"
    finally:
        _administer(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(server_url: str, statement: str) -> None:
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(statement)


def main(command: list[str]) -> int:
    try:
        with postgres(prefers_own=True) as server_url, database(server_url) as url:
            try:
                environment = {**os.environ, "DATABASE_URL": url}
                return subprocess.run(command, env=environment, check=False).returncode
            finally:
                # Django's own beside it is left when its tests are killed.
                tests = f"test_{url.rpartition('/')[2]}"
                _administer(server_url, f'DROP DATABASE IF EXISTS "{tests}" WITH (FORCE)')
    except NoPostgres as reason:
        sys.stderr.write(f"Left out, as {reason}: {shlex.join(command)}\n")
        return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
