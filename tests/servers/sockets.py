"""A viewer on a bare socket: it reads when it is told to and as little as it is told, and leaves as
rudely as it is told."""

import socket
import struct
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from tests.people import Person, Received, parse

DEADLINE = 20.0  # s, for what is waited for
WAVE = 50  # viewers that a crowd has come at once: as many as a server lets wait at its door
SMALL = 4096  # bytes that the kernel takes for a viewer who is to be felt soon


class BareViewer:
    """One request for a stream. `received` is what was read of the answer so far."""

    def __init__(
        self,
        person: Person,
        run: dict[str, Any],
        *,
        last_event_id: str = "",
        receive_buffer: int = 0,
    ) -> None:
        address = urlsplit(person.url)
        assert address.hostname
        assert address.port
        self.received = bytearray()
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(("127.0.0.1", address.port))
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in person.http.cookies.jar)
        lines = [f"GET {run['events_url']} HTTP/1.1", f"Host: {address.netloc}"]
        lines += [f"Cookie: {cookies}", "Accept: text/event-stream"]
        lines += [f"Last-Event-ID: {last_event_id}"] if last_event_id else []
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def status(self) -> int:
        """Of the answer, which is waited for."""
        self.read_until(b"\r\n")
        return int(self.received.split(b" ", 2)[1])

    @property
    def events(self) -> list[Received]:
        """Those that have arrived whole."""
        body = _body(bytes(self.received))
        whole, end, _ = body.rpartition(b"\n\n")
        return list(parse(iter((whole + end).decode().split("\n"))))

    def read(self, most: int = 65_536) -> int:
        """Waits for some bytes and reads at most so many. 0 at the end, however it came."""
        try:
            data = self._socket.recv(most)
        except ConnectionResetError:
            return 0
        self.received += data
        return len(data)

    def read_until(self, text: bytes) -> None:
        while text not in self.received:
            assert self.read(), f"no {text!r} in {bytes(self.received)!r}"

    def read_to_the_end(self) -> None:
        while self.read():
            pass

    def reset(self) -> None:
        """Leaves without a word, as a crashed browser does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


def crowd(person: Person, runs: Sequence[dict[str, Any]], count: int) -> list[BareViewer]:
    """So many viewers, spread over the runs, each of whom has seen its first event."""
    viewers: list[BareViewer] = []
    while len(viewers) < count:
        numbers = range(len(viewers), min(len(viewers) + WAVE, count))
        wave = [BareViewer(person, runs[number % len(runs)]) for number in numbers]
        for viewer in wave:
            viewer.read_until(b"\n\n")
        viewers += wave
    return viewers


def _body(answer: bytes) -> bytes:
    """What has arrived of a chunked body."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    pieces = []
    position = 0
    while (end := rest.find(b"\r\n", position)) > 0:
        size = int(rest[position:end], 16)
        pieces.append(rest[end + 2 : end + 2 + size])
        position = end + 2 + size + 2
    return b"".join(pieces)
