"""The readers of the relay benchmark: one connection each, every byte of the text compared."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from time import monotonic
from typing import Any, Self

from benchmarks.doubles import text_of


class WrongAnswer(Exception):
    """What came is not what was sent."""


@dataclass
class Reading:
    """What one reader saw. Moments are those of the monotonic clock."""

    tag: str
    sent_at: float
    answered_at: float | None = None  # where sending and reading are two requests
    chunks_at: list[float] = field(default_factory=list)


class HTTP:
    """One kept HTTP/1.1 connection, which reads what these servers send and no more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, AsyncIterator[bytes]]:
        """The status, and the pieces of the body as they come; all have to be read."""
        fields = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        pieces = self._sized(int(length[1])) if length else self._chunked()
        return int(head[9:12]), pieces

    def close(self) -> None:
        self._writer.close()

    async def _sized(self, length: int) -> AsyncIterator[bytes]:
        yield await self._reader.readexactly(length)

    async def _chunked(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


async def read_copied(port: int, tag: str, chunks: int, delay: float) -> Reading:
    """Asks the provider through the copier."""
    http = await HTTP.connected(port)
    try:
        message = {"role": "user", "content": f"{tag} {chunks} {delay}"}
        body = json.dumps({"model": "m", "stream": True, "messages": [message]}).encode()
        reading = Reading(tag, monotonic())
        status, pieces = await http.request("POST", "/v1/chat/completions", {}, body)
        _expect(status, 200)
        check = _Check(chunks, reading)
        async for data in _events(pieces):
            if data != b"[DONE]":
                check.add(json.loads(data)["choices"][0]["delta"].get("content", ""))
        check.finish()
        return reading
    finally:
        http.close()


class Site:
    """llmchat at a port, with the headers of somebody who is logged in."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self.port = port
        self._headers = {**headers, "Accept": "application/json"}

    async def send(self, http: HTTP, chat: str, prompt: str) -> str:
        """Sends a message; the address of its events."""
        status, pieces = await http.request(
            "POST",
            f"/chat/{chat}/messages/",
            {**self._headers, "Content-Type": "application/json"},
            json.dumps({"prompt": prompt}).encode(),
        )
        body = b"".join([piece async for piece in pieces])
        _expect(status, 201, body)
        address: str = json.loads(body)["events_url"]
        return address

    async def ask(self, chat: str, tag: str, chunks: int, delay: float) -> Reading:
        """Sends and reads, one after the other on one connection, as the page does."""
        http = await HTTP.connected(self.port)
        try:
            reading = Reading(tag, monotonic())
            address = await self.send(http, chat, f"{tag} {chunks} {delay}")
            reading.answered_at = monotonic()
            await self._read(http, address, chunks, reading)
            return reading
        finally:
            http.close()

    async def follow(self, address: str, tag: str, chunks: int) -> Reading:
        """Reads what somebody else has asked."""
        http = await HTTP.connected(self.port)
        try:
            reading = Reading(tag, monotonic())
            await self._read(http, address, chunks, reading)
            return reading
        finally:
            http.close()

    async def _read(self, http: HTTP, address: str, chunks: int, reading: Reading) -> None:
        headers = {**self._headers, "Accept": "text/event-stream"}
        status, pieces = await http.request("GET", address, headers)
        _expect(status, 200)
        check = _Check(chunks, reading)
        end: dict[str, Any] = {}
        async for data in _events(pieces):
            event = json.loads(data)
            if event["type"] == "chunk":
                check.add(event["content"])
            elif event["type"] in ("done", "error"):
                end = event
        check.finish()
        if end.get("type") != "done" or end["full_response"] != check.text:
            raise WrongAnswer(f"the end is {end}")


class _Check:
    """Compares a text with what it has to be while it comes, and notes when each chunk did."""

    def __init__(self, chunks: int, reading: Reading) -> None:
        pieces = text_of(chunks)
        self.text = "".join(pieces)
        self._ends = list(accumulate(map(len, pieces)))
        self._position = 0
        self._reading = reading

    def add(self, content: str) -> None:
        now = monotonic()
        if not self.text.startswith(content, self._position):
            raise WrongAnswer(f"at {self._position}: {content!r}")
        self._position += len(content)
        # A server may join chunks that came together: one event then brings several.
        arrived = self._reading.chunks_at
        while len(arrived) < len(self._ends) and self._ends[len(arrived)] <= self._position:
            arrived.append(now)

    def finish(self) -> None:
        if self._position != len(self.text):
            raise WrongAnswer(f"{self._position} of {len(self.text)} characters")


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event; these servers write each on one line."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:]


def _expect(status: int, expected: int, body: bytes = b"") -> None:
    if status != expected:
        raise WrongAnswer(f"status {status}: {body[:300]!r}")
