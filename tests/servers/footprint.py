"""What a server process takes: memory, threads, file handles, connections to its database.

    warm_up(person, run, 50)
    before = footprint_at_rest(process.pid, site)
    ...                                     # whatever must leave no trace
    wait_until_back(process.pid, site, before, memory=16 * MIB)

Read from /proc, so on Linux only. A process keeps the threads and connections of its pools, and
Python keeps memory that it has freed: have it do once what is measured before the first look. Debug
mode keeps queries with all that is in them, so measure with `tests.servers.lean_settings`.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.people import Person
from tests.servers.sites import Site
from tests.servers.sockets import crowd

KIB, MIB = 1024, 1024**2
DEADLINE = 30.0  # s, in which all must be given back (RELIABILITY.md, section 3)
LOOK = 0.1  # s between two looks
REST = 0.5  # s without a change
POOLED = 3  # threads or connections that pools may add
HANDLES = 2  # that a connection takes: SQLite's, for the database and for its log


@dataclass(frozen=True)
class Footprint:
    memory: int  # bytes that are resident
    threads: int
    handles: int  # open files and sockets
    connections: int  # to the site's database, from all of its processes where that is PostgreSQL

    def is_within(self, other: "Footprint", memory: int) -> bool:
        """Whether this is no more than `other`, but for so many bytes of memory, and for what a
        pool adds when all that it has happen to be in use at the same moment."""
        added = max(0, self.threads - other.threads, self.connections - other.connections)
        return (
            self.memory <= other.memory + memory
            and added <= POOLED
            and self.handles <= other.handles + HANDLES * added
        )


def footprint(pid: int, site: Site) -> Footprint:
    files = _open_files(pid)
    url = site["DATABASE_URL"]
    return Footprint(
        memory=_number(pid, "VmRSS") * KIB,
        threads=_number(pid, "Threads"),
        handles=len(files),
        connections=connections_to(url) if url else sum(f.endswith(".sqlite3") for f in files),
    )


def warm_up(person: Person, run: dict[str, Any], viewers: int) -> None:
    """Has a process make the threads and connections that it keeps: so many viewers of a run come
    at once, read it and leave. Waits for the end of the run."""
    person.events(run)
    person.get("/nowhere/")  # Django has a thread for the log of what is refused
    for viewer in crowd(person, [run], viewers):
        viewer.close()


def footprint_at_rest(pid: int, site: Site) -> Footprint:
    """The footprint, once it keeps still: what was left a moment ago is given back by then."""
    last, since = footprint(pid, site), time.monotonic()

    def is_at_rest() -> bool:
        nonlocal last, since
        now = footprint(pid, site)
        if not (now.is_within(last, MIB) and last.is_within(now, MIB)):
            last, since = now, time.monotonic()
        return time.monotonic() - since > REST

    wait_until(is_at_rest, lambda: f"the process does not come to rest: {last}")
    return last


def connections_to(url: str) -> int:
    """How many connections a PostgreSQL database has, besides the one that asks."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def peak_memory(pid: int) -> int:
    """The most bytes that were resident since the start, or since `forget_peak`."""
    return _number(pid, "VmHWM") * KIB


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def wait_until_back(pid: int, site: Site, before: Footprint, memory: int) -> Footprint:
    """Waits until a process takes no more than `before`, but for so many bytes of memory."""
    now = footprint(pid, site)

    def is_back() -> bool:
        nonlocal now
        now = footprint(pid, site)
        return now.is_within(before, memory)

    wait_until(is_back, lambda: f"{now} after {DEADLINE:g} s, where there was {before}")
    return now


def wait_until(
    holds: Callable[[], bool], else_say: Callable[[], str], deadline: float = DEADLINE
) -> None:
    """Waits until something holds that nobody tells us of; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, else_say()
        time.sleep(LOOK)


def _open_files(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    files = []
    for number in os.listdir(folder):
        try:
            files.append(os.readlink(f"{folder}/{number}"))
        except FileNotFoundError:  # closed since
            continue
    return files


def _number(pid: int, name: str) -> int:
    """A line of the process's status; sizes are in KiB."""
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])
