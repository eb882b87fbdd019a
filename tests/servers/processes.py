"""A command in a process of its own, and waiting for what it says."""

import os
import pwd
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0  # s, for anything that is waited for


class Process:
    """A running command; `said` holds the lines it wrote so far, to both outputs.

    `user` is whom it runs as, where root may not run it.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path = ROOT,
        user: str | None = None,
    ) -> None:
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._popen = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=user,
            group=user and _group_of(user),
            extra_groups=[] if user else None,
        )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line from now on that matches; fails when the process ends without one."""
        while (line := self._lines.get(timeout=DEADLINE)) is not None:
            self.said.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line matches {pattern!r} in:\n" + "\n".join(self.said))

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self, deadline: float = DEADLINE) -> int:
        """Waits until it has ended by itself; the exit code."""
        code = self._popen.wait(deadline)
        self._reader.join(DEADLINE)
        while (line := self._lines.get(timeout=DEADLINE)) is not None:
            self.said.append(line)
        return code

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(DEADLINE)
        self._reader.join(DEADLINE)


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Process]:
    """`python ARGUMENTS`, killed at the end if it still runs."""
    process = Process([sys.executable, *arguments], environment)
    try:
        yield process
    finally:
        process.kill()
