"""What llmchat adds to a stream: processor time, delay and memory, beside a plain byte copier.

    .venv/bin/python -m benchmarks.relay
    .venv/bin/python -m benchmarks.relay --server uvicorn --shape paced --streams 200

It starts a provider that streams on time, a relay that only copies bytes (the least that a relay
in Python can cost), and llmchat with a database of its own; logs in, sends, reads as the page
does, compares every byte, prints, and stops all of it. Only 127.0.0.1 is used. Where there are two
cores, the server under test has the first for itself; provider and readers share the second.
README.md says what the figures mean.
"""

import argparse
import asyncio
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from time import clock_gettime, monotonic, sleep
from typing import Protocol

import uvloop

from benchmarks.doubles import Double, Written, copier, provider
from benchmarks.readers import HTTP, Reading, Site, read_copied
from tests.people import Person

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = secrets.token_urlsafe(16)
CONFIGURATION = """
[[configuration]]
slug = "benchmark"
name = "Benchmark"
kind = "openai"
model = "benchmark"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "sk-benchmark"
is_default = true
"""
COMMANDS = {
    "daphne": "manage.py serve --port 0",
    "uvicorn": "-m uvicorn llmchat.asgi:application --port 0 --no-access-log",
}
SAYS_PORT = re.compile(r"running (?:at|on) http://[\w.]+:(\d+)")
START_LIMIT = 60.0  # s
WARM_UP = 8  # streams before the measured ones, or lazy imports would be measured
SETTLING = 0.5  # s after the last byte: what is still to be stored then belongs to these streams
SAMPLE = 0.25  # s between two looks at memory, threads and files

_tags = map(str, count(1))


@dataclass(frozen=True)
class Shape:
    """So many streams, opened evenly over `ramp` seconds, of so many chunks `delay` seconds apart.

    With `one_run` they are the readers of one run; otherwise each is a run with its reader.
    """

    streams: int
    chunks: int
    delay: float
    ramp: float
    one_run: bool = False

    @property
    def limit(self) -> float:
        """Seconds after which something is wrong."""
        return 30 + self.ramp + self.chunks * self.delay + self.streams * self.chunks / 500


SHAPES = {
    "paced": Shape(streams=100, chunks=200, delay=0.05, ramp=5),
    "flat": Shape(streams=64, chunks=300, delay=0, ramp=0),
    "short": Shape(streams=100, chunks=5, delay=0.02, ramp=10),
    "readers": Shape(streams=200, chunks=8, delay=1, ramp=2, one_run=True),
}


# ---- what is measured from outside


@dataclass(frozen=True)
class Look:
    """A process tree at one moment."""

    rss: int  # KiB
    threads: int
    databases: int  # connections to SQLite


def tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree so far."""
    # The processor-time clock of another process (clock_getcpuclockid(3)): the sum in
    # /proc/PID/stat, but in nanoseconds instead of hundredths of a second.
    return sum(clock_gettime(~process << 3 | 2) for process in tree(pid))


def look(pid: int) -> Look:
    looks = [_look(process) for process in tree(pid)]
    return Look(
        sum(each.rss for each in looks),
        sum(each.threads for each in looks),
        sum(each.databases for each in looks),
    )


def _look(pid: int) -> Look:
    status = Path(f"/proc/{pid}/status").read_text()
    files = [_target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return Look(
        rss=int(re.findall(r"VmRSS:\s+(\d+)", status)[0]),
        threads=int(re.findall(r"Threads:\s+(\d+)", status)[0]),
        databases=sum(file.endswith(".sqlite3") for file in files),
    )


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # closed since it was listed
        return ""


# ---- the systems

Read = Callable[[], Awaitable[Reading]]


class System(Protocol):
    name: str
    pid: int

    async def readers(self, shape: Shape) -> Sequence[Read]:
        """What opens and reads each stream. What comes before is not measured."""


class Copier:
    name = "copier"

    def __init__(self, double: Double) -> None:
        self.pid = double.pid
        self._port = double.port

    async def readers(self, shape: Shape) -> Sequence[Read]:
        def read() -> Awaitable[Reading]:
            return read_copied(self._port, next(_tags), shape.chunks, shape.delay)

        return [read] * shape.streams


class Llmchat:
    """A site with one person, whose cookies all its readers have."""

    def __init__(self, name: str, pid: int, port: int) -> None:
        self.name = name
        self.pid = pid
        self._person = Person(f"http://127.0.0.1:{port}", "admin", PASSWORD)
        cookies = "; ".join(f"{name}={value}" for name, value in self._person.http.cookies.items())
        self._site = Site(port, {**self._person.headers, "Cookie": cookies})

    async def readers(self, shape: Shape) -> Sequence[Read]:
        if shape.one_run:
            return await self._readers_of_one_run(shape)

        def asking(chat: str) -> Read:
            return lambda: self._site.ask(chat, next(_tags), shape.chunks, shape.delay)

        # A session has one run at a time, so each stream needs its own.
        return [asking(self._person.new_chat()) for _ in range(shape.streams)]

    async def _readers_of_one_run(self, shape: Shape) -> Sequence[Read]:
        http, tag = await HTTP.connected(self._site.port), next(_tags)
        order = f"{tag} {shape.chunks} {shape.delay}"
        address = await self._site.send(http, self._person.new_chat(), order)
        http.close()
        return [lambda: self._site.follow(address, tag, shape.chunks)] * shape.streams


# ---- one measurement


@dataclass(frozen=True)
class Result:
    """Durations in ms, memory in KiB; None where there is nothing to measure."""

    cpu: float  # for 1,000 chunks that reached their reader
    first: list[float]  # to the first chunk, without the provider's own time
    delays: list[float]  # of every chunk
    answers: list[float]  # to the answer of a sent message
    before: Look
    middle: Look  # half-way, when all streams are open
    most: Look


async def measure(system: System, shape: Shape, double: Double) -> Result:
    """Opens all streams of `shape` and reads them. Raises when one of them is not whole."""
    readers = await system.readers(shape)
    samples = [look(system.pid)]

    async def delayed(read: Read, delay: float) -> Reading:
        await asyncio.sleep(delay)
        return await read()

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            samples.append(look(system.pid))

    cpu = cpu_seconds(system.pid)
    sampling = asyncio.create_task(sample())
    async with asyncio.timeout(shape.limit):
        readings = await asyncio.gather(
            *(delayed(read, shape.ramp * i / len(readers)) for i, read in enumerate(readers))
        )
    sampling.cancel()
    await asyncio.sleep(SETTLING)
    cpu = cpu_seconds(system.pid) - cpu
    written = double.written()
    return Result(
        cpu=cpu * 1000 / (len(readings) * shape.chunks) * 1000,
        first=[] if shape.one_run else [_first(r, written[r.tag]) for r in readings],
        delays=[delay for r in readings for delay in _delays(r, written[r.tag])],
        answers=[(r.answered_at - r.sent_at) * 1000 for r in readings if r.answered_at],
        before=samples[0],
        middle=samples[len(samples) // 2],
        most=Look(
            max(each.rss for each in samples),
            max(each.threads for each in samples),
            max(each.databases for each in samples),
        ),
    )


def _first(reading: Reading, written: Written) -> float:
    own = written.chunks_at[0] - written.received_at
    return (reading.chunks_at[0] - reading.sent_at - own) * 1000


def _delays(reading: Reading, written: Written) -> Iterator[float]:
    for read_at, written_at in zip(reading.chunks_at, written.chunks_at, strict=True):
        # Who came later than a chunk did not wait for it.
        if written_at > reading.sent_at:
            yield (read_at - written_at) * 1000


# ---- servers


def pin(pid: int, cores: Sequence[int]) -> None:
    """Binds all threads of a process; those that they start are bound as well."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), set(cores))


@contextmanager
def copying(double: Double, cores: Sequence[int]) -> Iterator[System]:
    with copier(double.port) as relay:
        pin(relay.pid, cores)
        yield Copier(relay)


def set_up(folder: Path, provider_port: int) -> dict[str, str]:
    """Makes a site in `folder`; the environment that it runs in."""
    file = folder / "configurations.toml"
    file.write_text(CONFIGURATION.format(port=provider_port))
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "llmchat.settings",
        "DATA_DIR": str(folder),
        "ADMIN_PASSWORD": PASSWORD,
        "CONFIGURATIONS_FILE": str(file),
        "RUNS_PER_USER": "5000",
        "STREAMS_PER_USER": "5000",
        # Whatever .env says: an empty value stands for the default.
        **dict.fromkeys(("DATABASE_URL", "DEBUG", "HTTPS", "SECRET_KEY", "ENCRYPTION_KEYS"), ""),
    }
    command = [sys.executable, "manage.py", "setup"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return environment


@contextmanager
def serving(name: str, environment: dict[str, str], cores: Sequence[int]) -> Iterator[System]:
    command = [sys.executable, *COMMANDS[name].split()]
    with tempfile.NamedTemporaryFile("r") as said:
        with open(said.name, "w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            port = _port(process, Path(said.name))
            pin(process.pid, cores)
            yield Llmchat(name, process.pid, port)
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], said: Path) -> int:
    deadline = monotonic() + START_LIMIT
    while not (match := SAYS_PORT.search(said.read_text())):
        if process.poll() is not None or monotonic() > deadline:
            raise SystemExit(f"the server did not start:\n{said.read_text()}")
        sleep(0.1)
    return int(match[1])


# ---- the command


def main() -> None:
    options = _options()
    cores = sorted(os.sched_getaffinity(0))
    servers_cores, our_cores = (cores[:1], cores[1:2]) if len(cores) > 1 else (cores, cores)
    os.sched_setaffinity(0, set(our_cores))
    servers = list(COMMANDS) if options.server == "both" else [options.server]
    names = list(SHAPES) if options.shape == "all" else [options.shape]
    with tempfile.TemporaryDirectory() as folder, provider() as double:
        environment = set_up(Path(folder), double.port)
        for name in names:
            shape = _shape(name, options)
            _announce(name, shape)
            copiers_cpu = None
            if not shape.one_run:
                with copying(double, servers_cores) as system:
                    copiers_cpu = _measured(system, shape, double, None)
            # A fresh server for each: memory that earlier streams left free would hide what
            # these need.
            for server in servers:
                with serving(server, environment, servers_cores) as system:
                    _measured(system, shape, double, copiers_cpu)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", choices=[*COMMANDS, "both"], default="both")
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--streams", type=int, help="at most 2,000")
    parser.add_argument("--chunks", type=int, help="of each stream, at most 10,000")
    parser.add_argument("--delay", type=float, help="seconds between two chunks, at most 10")
    return parser.parse_args()


def _shape(name: str, options: argparse.Namespace) -> Shape:
    shape = SHAPES[name]
    for field, most in (("streams", 2_000), ("chunks", 10_000), ("delay", 10)):
        given = getattr(options, field)
        if given is not None:
            shape = replace(shape, **{field: min(given, most)})
    return shape


def _announce(name: str, shape: Shape) -> None:
    what = "readers of one run" if shape.one_run else "streams"
    pace = f"{shape.delay * 1000:g} ms apart" if shape.delay else "as fast as they go"
    print(f"\n{name}: {shape.streams} {what}, {shape.chunks} chunks, {pace}")
    print(
        f"{'':10}{'CPU ms for':>12}{'ratio to':>10}{'ms to first chunk':>19}"
        f"{'ms delay a chunk':>19}{'ms to send':>17}{'KiB a':>8}{'threads':>14}{'databases':>12}\n"
        f"{'':10}{'1,000 chunks':>12}{'copier':>10}{'p50 / p99':>19}"
        f"{'p50 / p99':>19}{'p50 / p99':>17}{'stream':>8}{'idle/open/most':>26}"
    )


def _measured(system: System, shape: Shape, double: Double, copiers_cpu: float | None) -> float:
    """Measures, prints a line, and gives the processor time."""
    warm_up = replace(shape, streams=WARM_UP, chunks=5, delay=0.01, ramp=0, one_run=False)
    uvloop.run(measure(system, warm_up, double))
    result = uvloop.run(measure(system, shape, double))
    ratio = f"{result.cpu / copiers_cpu:.1f}" if copiers_cpu else ""
    memory = (result.most.rss - result.before.rss) / shape.streams
    print(
        f"{system.name:10}{result.cpu:12.1f}{ratio:>10}{_percentiles(result.first):>19}"
        f"{_percentiles(result.delays):>19}{_percentiles(result.answers):>17}{memory:8.0f}"
        f"{_three(result, lambda look: look.threads):>14}"
        f"{_three(result, lambda look: look.databases):>12}",
        flush=True,
    )
    return result.cpu


def _three(result: Result, part: Callable[[Look], int]) -> str:
    return "/".join(str(part(look)) for look in (result.before, result.middle, result.most))


def _percentiles(values: list[float]) -> str:
    if not values:
        return ""
    ordered = sorted(values)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * p))] for p in (0.5, 0.99))
    return f"{p50:.1f} / {p99:.1f}"


if __name__ == "__main__":
    main()
