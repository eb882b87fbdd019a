"""A provider on a real socket that does, byte by byte, what a test tells it.

    with Provider() as provider:
        provider.reply(*openai_answer("Hello", " there"))
        ...                                     # ask provider.url for an answer
        request = provider.wait_for_request()
        assert request.json["model"] == "m"

It listens on 127.0.0.1 on a free port, in a thread and event loop of its own, so that sync tests,
async tests and browser tests use it alike. Nothing in it knows httpx, or the code under test.

A *script* is a list of steps, done in order for one request:

    head(200, "text/event-stream")   status line and headers; put in front if a script has none
    send(b"data: …\\n\\n")             bytes of the body, written at once, as one packet if it fits
    raw(b"HTTP/1.1 …")               bytes outside all framing
    wait(0.05)                       a pause in seconds
    until(event)                     a pause until a threading.Event is set
    repeat(b"x")                     the same bytes for ever, as fast as the client takes them
    hang()                           nothing more, until the client closes
    reset()                          RST: what a crashed server or a cut cable looks like
    close()                          a clean FIN at once, wherever that is
    end()                            the proper end of the body; put at the end if a script has none

The body is chunked and the connection stays open, as with real providers; after
`head(…, chunked=False)` it ends with the connection, so that `close()` is no error of HTTP.

Scripts come from a queue (`reply`, one for each request) or from a route (`route`, for every
request that fits; the last that fits wins); a request without either is answered with 500.

Each request is recorded, with the moment (time.monotonic) when the client closed its connection.
"""

import asyncio
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

DEADLINE = 5.0  # seconds that a test waits for something before it fails


# --- steps


@dataclass(frozen=True)
class Head:
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = True


@dataclass(frozen=True)
class Send:
    data: bytes
    is_raw: bool = False


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Until:
    event: threading.Event


@dataclass(frozen=True)
class Repeat:
    data: bytes


@dataclass(frozen=True)
class Close:
    """How the response ends. `how` is end, close, reset or hang."""

    how: str


Step = Head | Send | Wait | Until | Repeat | Close


def head(
    status: int = 200,
    content_type: str = "text/event-stream",
    headers: dict[str, str] | None = None,
    *,
    chunked: bool = True,
) -> Head:
    return Head(status, content_type, headers or {}, chunked)


def send(data: bytes | str) -> Send:
    return Send(data.encode() if isinstance(data, str) else data)


def raw(data: bytes) -> Send:
    return Send(data, is_raw=True)


def wait(seconds: float) -> Wait:
    return Wait(seconds)


def until(event: threading.Event) -> Until:
    return Until(event)


def repeat(data: bytes) -> Repeat:
    return Repeat(data)


def hang() -> Close:
    return Close("hang")


def reset() -> Close:
    return Close("reset")


def close() -> Close:
    return Close("close")


def end() -> Close:
    return Close("end")


# --- whole answers


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> list[Step]:
    """One JSON body: an error, a list of models, an unstreamed answer."""
    return [head(status, "application/json", headers), send(json.dumps(value))]


def bytewise(data: bytes | str, size: int = 1) -> list[Step]:
    """The same bytes in pieces of `size`, each with a chance to be its own packet."""
    data = data.encode() if isinstance(data, str) else data
    steps: list[Step] = []
    for start in range(0, len(data), size):
        steps += [send(data[start : start + size]), wait(0)]
    return steps


def sse(value: Any, event: str | None = None) -> bytes:
    """One server-sent event; `value` is JSON unless it is text already."""
    data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data}\n\n".encode()


def openai_chunk(
    content: str | None = None,
    *,
    reasoning: str | None = None,
    finish: str | None = None,
    **delta: Any,
) -> bytes:
    """One chunk of Chat Completions, as an event."""
    if content is not None:
        delta["content"] = content
    if reasoning is not None:
        delta["reasoning_content"] = reasoning
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }
    )


def openai_usage(prompt: int = 11, completion: int = 7, **more: Any) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return sse({"object": "chat.completion.chunk", "choices": [], "usage": usage})


OPENAI_DONE = b"data: [DONE]\n\n"


def openai_answer(
    *pieces: str,
    pause: float = 0.0,
    reasoning: Iterable[str] = (),
    finish: str | None = "stop",
    usage: tuple[int, int] | None = (11, 7),
    done: bool = True,
) -> list[Step]:
    """A whole Chat Completions answer, each piece a packet, `pause` seconds between them."""
    chunks = [openai_chunk(reasoning=piece) for piece in reasoning]
    chunks += [openai_chunk(piece) for piece in pieces]
    steps: list[Step] = [head(200, "text/event-stream")]
    for chunk in chunks:
        steps += [send(chunk), wait(pause)]
    if finish:
        steps.append(send(openai_chunk(finish=finish)))
    if usage:
        steps.append(send(openai_usage(*usage)))
    if done:
        steps.append(send(OPENAI_DONE))
    return steps


def openai_tool_call(
    name: str, *arguments: str, index: int = 0, call_id: str = "call_1"
) -> list[Step]:
    """The events of one tool call, its arguments in these pieces; without head and end."""
    first = {"index": index, "id": call_id, "type": "function"}
    steps: list[Step] = [
        send(openai_chunk(tool_calls=[{**first, "function": {"name": name, "arguments": ""}}]))
    ]
    for piece in arguments:
        call = {"index": index, "function": {"arguments": piece}}
        steps.append(send(openai_chunk(tool_calls=[call])))
    return steps


def ollama_line(content: str = "", *, thinking: str | None = None, **more: Any) -> bytes:
    """One line of /api/chat."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thinking is not None:
        message["thinking"] = thinking
    value = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}
    return json.dumps(value | more, ensure_ascii=False).encode() + b"\n"


def ollama_answer(
    *pieces: str,
    pause: float = 0.0,
    thinking: Iterable[str] = (),
    reason: str | None = "stop",
    usage: tuple[int, int] = (11, 7),
) -> list[Step]:
    """A whole /api/chat answer, each piece a packet; without its last line if `reason` is None."""
    steps: list[Step] = [head(200, "application/x-ndjson")]
    for piece in thinking:
        steps += [send(ollama_line(thinking=piece)), wait(pause)]
    for piece in pieces:
        steps += [send(ollama_line(piece)), wait(pause)]
    if reason is not None:
        counts: dict[str, Any] = {"prompt_eval_count": usage[0], "eval_count": usage[1]}
        steps.append(send(ollama_line(done=True, done_reason=reason, **counts)))
    return steps


# --- what was asked


@dataclass
class Recorded:
    """One request as it came in, and what became of its connection."""

    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case
    body: bytes
    received_at: float  # time.monotonic
    closed_at: float | None = None  # when the client closed the connection, likewise
    _closed: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)

    def wait_for_close(self, timeout: float = DEADLINE) -> float:
        """The moment when the client closed the connection. Fails after `timeout` seconds."""
        assert self._closed.wait(timeout), f"the client did not close within {timeout} s"
        assert self.closed_at is not None
        return self.closed_at


class Provider:
    """The double. A context manager; `start` and `stop` do the same by hand."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.connections = 0  # opened so far: kept-alive ones are counted once
        self._queue: deque[list[Step]] = deque()
        self._routes: list[tuple[Callable[[Recorded], bool], list[Step]]] = []
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()

    # what a test says

    def reply(self, *steps: Step) -> None:
        """Answer the next request that no earlier `reply` answers with these steps."""
        self._queue.append(list(steps))

    def route(self, *steps: Step, path: str | None = None, model: str | None = None) -> None:
        """Answer every request whose path ends so, and whose body names this model, like this."""

        def fits(request: Recorded) -> bool:
            if path is not None and not request.path.partition("?")[0].endswith(path):
                return False
            return model is None or _model(request) == model

        self._routes.insert(0, (fits, list(steps)))

    def clear(self) -> None:
        """Forget scripts, routes and requests."""
        self._queue.clear()
        self._routes.clear()
        with self._news:
            self.requests.clear()

    # what a test asks

    @property
    def url(self) -> str:
        """The base URL, such as http://127.0.0.1:12345, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def wait_for_request(self, number: int = 1, timeout: float = DEADLINE) -> Recorded:
        """The `number`-th request, from 1. Fails after `timeout` seconds."""
        with self._news:
            has_come = self._news.wait_for(lambda: len(self.requests) >= number, timeout)
            assert has_come, f"{len(self.requests)} of {number} requests after {timeout} s"
            return self.requests[number - 1]

    def wait_for_close(self, timeout: float = DEADLINE) -> float:
        """The moment when the client closed the connection of the last request so far."""
        self.wait_for_request()
        return self.requests[-1].wait_for_close(timeout)

    @property
    def busy(self) -> int:
        """How many connections are in the middle of a request or of its answer."""
        return sum(connection.is_busy for connection in list(self._open))

    def close_idle(self) -> None:
        """Closes the connections that wait for another request, as servers do after a while."""
        self._loop.call_soon_threadsafe(self._close_idle)

    def _close_idle(self) -> None:
        for connection in list(self._open):
            if not connection.is_busy:
                connection.transport.close()

    # life

    def start(self) -> "Provider":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(DEADLINE)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    def __enter__(self) -> "Provider":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [c.task for c in self._open if c.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _script(self, request: Recorded) -> list[Step]:
        for fits, steps in self._routes:
            if fits(request):
                return steps
        if self._queue:
            return self._queue.popleft()
        return json_answer({"error": {"message": "the test gave no script for this"}}, 500)

    def _record(self, request: Recorded) -> None:
        with self._news:
            self.requests.append(request)
            self._news.notify_all()


def _model(request: Recorded) -> Any:
    try:
        body = request.json
    except ValueError:
        return None
    return body.get("model") if isinstance(body, dict) else None


class _Connection(asyncio.Protocol):
    """One connection: reads requests one after another, and does the script of each.

    A Protocol and not streams, since it sees the client's close at once, also while it waits.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._gone = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._served: list[Recorded] = []
        self.is_busy = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        # Each write is its own packet, or a test could not cut where it wants to.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._provider.connections += 1
        self._provider._open.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def eof_received(self) -> bool:
        self._note_close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._note_close()
        self._provider._open.discard(self)

    def _note_close(self) -> None:
        now = time.monotonic()
        self._gone.set()
        self._arrived.set()
        self._may_write.set()
        for request in self._served:
            if request.closed_at is None:
                request.closed_at = now
                request._closed.set()

    async def _serve(self) -> None:
        while request := await self._request():
            self.is_busy = True
            self._served.append(request)
            self._provider._record(request)
            if not await self._perform(self._provider._script(request)):
                return
            self.is_busy = False

    async def _request(self) -> Recorded | None:
        """The next request, None when the client has gone."""
        while b"\r\n\r\n" not in self._buffer:
            if not await self._more():
                return None
        start, _, _ = bytes(self._buffer).partition(b"\r\n\r\n")
        first, *lines = start.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) - len(start) - 4 < length:
            if not await self._more():
                return None
        body = bytes(self._buffer[len(start) + 4 :][:length])
        del self._buffer[: len(start) + 4 + length]
        return Recorded(method, path, headers, body, time.monotonic())

    async def _more(self) -> bool:
        if self._gone.is_set():
            return False
        self._arrived.clear()
        await self._arrived.wait()
        return not self._gone.is_set()

    async def _perform(self, steps: list[Step]) -> bool:
        """Do the steps. True if another request may follow on this connection."""
        has_head = any(isinstance(step, Head) for step in steps)
        first = steps[0] if steps else None
        is_headless = isinstance(first, Close) or (isinstance(first, Send) and first.is_raw)
        if not has_head and not is_headless:
            steps = [head(), *steps]
        if not isinstance(steps[-1], Close):
            steps = [*steps, end()]
        chunked = False
        for step in steps:
            if self._gone.is_set():
                return False
            match step:
                case Head():
                    chunked = step.chunked
                    self.transport.write(_head_bytes(step))
                case Send(data, is_raw):
                    self.transport.write(_framed(data) if chunked and not is_raw else data)
                case Repeat(data):
                    await self._repeat(_framed(data) if chunked else data)
                case Wait(seconds):
                    await self._pause(seconds)
                case Until(event):
                    while not event.is_set() and not self._gone.is_set():  # noqa: ASYNC110
                        # The event is the test's thread's: nothing in this loop could wait for it.
                        await asyncio.sleep(0.002)
                case Close(how):
                    return await self._finish(how, chunked=chunked)
        return False

    async def _repeat(self, data: bytes) -> None:
        while not self._gone.is_set():
            self.transport.write(data)
            await asyncio.sleep(0)
            await self._may_write.wait()

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return

    async def _finish(self, how: str, *, chunked: bool) -> bool:
        match how:
            case "hang":
                await self._gone.wait()
            case "reset":
                sock = self.transport.get_extra_info("socket")
                # Lingering for zero seconds makes the close an RST.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # What was written before is on its way, or the reset would overtake it.
                await self._pause(0.02)
                self.transport.abort()
            case "end" if chunked:
                self.transport.write(b"0\r\n\r\n")
                return True
            case _:
                self.transport.close()
        return False


def _framed(data: bytes) -> bytes:
    """As a chunk of HTTP; an empty one would be the end of the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


_REASONS = {200: "OK", 308: "Permanent Redirect", 401: "Unauthorized", 429: "Too Many Requests"}


def _head_bytes(step: Head) -> bytes:
    lines = [f"HTTP/1.1 {step.status} {_REASONS.get(step.status, 'Status')}"]
    if step.content_type:
        lines.append(f"Content-Type: {step.content_type}")
    lines += [f"{name}: {value}" for name, value in step.headers.items()]
    lines.append("Transfer-Encoding: chunked" if step.chunked else "Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
