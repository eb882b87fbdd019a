"""A real nginx in front of the app, set as a test wants it.

    with Nginx(app.url, "proxy_buffering off;") as nginx:
        ...                                     # open nginx.url instead of the app's address

It runs without rights of its own on a free port of 127.0.0.1, with all its files in a folder that
goes with it. Where it is not installed, root may have it installed from the system's packages;
`python -m tests.servers.nginx` does that ahead and prints its path.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.servers.processes import Process

PACKAGE = "nginx-light"
DEADLINE = 10.0  # s
# Our streams ask it not to buffer, and it obeys unless it is told not to. It does not hold back a
# small event from a client that takes all; together with compression it holds back everything.
IGNORING = "proxy_ignore_headers X-Accel-Buffering;"
COMPRESSING = ("gzip on;", "gzip_proxied any;", "gzip_types text/event-stream;")
HOLDING = (IGNORING, "proxy_buffering on;", *COMPRESSING)
# Only what a reverse proxy needs; the directives of the test come last in the location.
CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {target};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            {directives}
        }}
    }}
}}
"""


class NoNginx(Exception):
    """There is none, and none could be installed; the message says why."""


class Nginx:
    """A context manager."""

    def __init__(self, target: str, *directives: str) -> None:
        """`directives` are those of the location that passes to `target`. Raises NoNginx."""
        self._program = find_or_install()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = Path(tempfile.mkdtemp(prefix="llmchat-nginx-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._file = self._folder / "nginx.conf"
        self._file.write_text(
            CONFIGURATION.format(
                folder=self._folder,
                port=self.port,
                target=target,
                directives="\n            ".join(directives),
            )
        )
        self._process: Process | None = None

    def __enter__(self) -> Self:
        # `-e` is where it writes before it has read its file; else it tries the system's log.
        command = [self._program, "-e", "stderr", "-p", str(self._folder), "-c", str(self._file)]
        process = Process(command, {}, self._folder, self._user)
        self._process = process
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
        self.__exit__()
        process.end()
        raise RuntimeError("nginx does not answer:\n" + "\n".join(process.said))

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def find_or_install() -> str:
    """The path of nginx. Raises NoNginx."""
    path = _find()
    if path is None and _may_install():
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", PACKAGE],
        ):
            subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        path = _find()
    if path is None:
        raise NoNginx(f"nginx is not installed; on Debian: apt-get install {PACKAGE}")
    return path


def _find() -> str | None:
    """Debian keeps it where only root's PATH leads."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{find_or_install()}\n")
    except NoNginx as error:
        sys.exit(str(error))
