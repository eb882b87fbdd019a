"""Clients that hang up where no well-behaved one does."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import httpx

from tests.people import Person, Received, parse


@contextmanager
def sent(person: Person, path: str, **fields: Any) -> Iterator[None]:
    """A POST whose answer is never read: the connection is closed when the block ends."""
    request = person.http.build_request("POST", path, json=fields, headers=person.headers)
    head = f"POST {path} HTTP/1.1\r\n".encode()
    head += b"".join(b"%b: %b\r\n" % header for header in request.headers.raw)
    with socket.create_connection(("127.0.0.1", request.url.port or 80)) as connection:
        connection.sendall(head + b"\r\n" + request.content)
        yield


def read_up_to(response: httpx.Response, number: int, more: int = 0) -> list[Received]:
    """Reads a stream to the end of the event with this number, and then some bytes more. Gives the
    events that are whole in what was read."""
    pieces = response.iter_raw(1)
    data = b""
    for piece in pieces:
        data += piece
        if data.endswith(b"\n\n") and whole_events(data)[-1].number >= number:
            break
    return whole_events(data + b"".join(islice(pieces, more)))


def whole_events(data: bytes) -> list[Received]:
    """The events that are whole in these bytes of a stream; half a one at their end is none."""
    lines = data.decode(errors="ignore").split("\n")
    return list(parse(iter(lines[:-1])))
