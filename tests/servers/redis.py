"""A Redis of the tests' own, which they may stop, empty and start again."""

import shutil
import socket
import subprocess
import tempfile
from typing import Self

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

DEADLINE = 10.0  # s


class RedisServer:
    """`redis-server` on a free port of 127.0.0.1, with nothing on disk."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.mkdtemp(prefix="llmchat-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("redis-server") is not None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *f"redis-server --port {self.port} --bind 127.0.0.1 --appendonly no".split(),
                *("--save", "", "--dir", self._folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        with Redis.from_url(self.url) as client:
            for _ in range(20_000):
                try:
                    client.ping()
                    return
                except NotThere:
                    self._process.poll()
        raise RuntimeError("redis-server does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
