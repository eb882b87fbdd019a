"""What a site has stored, looked at from outside: over HTTP, and in its database.

`faults` is the short answer for all runs at once; an empty list is what every test and the soak
want to see (G1 to G3, D1).
"""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg

from tests.people import Person, Received, text_of
from tests.servers.sites import Site

SHOWN_IS_STORED = 0.25  # s (G3)
RUNS = """
    SELECT run.id, run.status, run.session_id, run.error_code, run.assistant_message_id,
        message.content,
        (SELECT count(*) FROM conversations_usagelog WHERE run_id = run.id),
        (SELECT status FROM conversations_usagelog WHERE run_id = run.id)
    FROM conversations_run run
    LEFT JOIN conversations_message message ON message.id = run.assistant_message_id
    ORDER BY run.started_at
"""


@dataclass(frozen=True)
class StoredRun:
    """One run's row, with its answer and its usage."""

    id: str
    status: str
    session_id: str | None
    error_code: str
    answer_id: int | None
    answer: str | None
    usage_rows: int
    usage_status: str | None

    @property
    def events_url(self) -> str:
        return f"/runs/{self.id}/events/"


def rows(site: Site, query: str) -> list[tuple[Any, ...]]:
    """What a query gives in the site's database."""
    if url := site["DATABASE_URL"]:
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()
    with closing(sqlite3.connect(f"{site['DATA_DIR']}/llmchat.sqlite3", timeout=20)) as connection:
        return connection.execute(query).fetchall()


def runs(site: Site) -> list[StoredRun]:
    """All runs, the first one first."""
    return [
        StoredRun(_hyphenated(id), status, session and _hyphenated(session), *rest)
        for id, status, session, *rest in rows(site, RUNS)
    ]


def _hyphenated(uuid: Any) -> str:
    text = str(uuid).replace("-", "")  # SQLite has them without
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def wait_for_ends(site: Site, timeout: float) -> None:
    """Waits until no run is running."""
    deadline = monotonic() + timeout
    while running := [run.id for run in runs(site) if run.status == "running"]:
        assert monotonic() < deadline, f"after {timeout} s these still run: {running}"


def faults(site: Site, reader: Person) -> list[str]:
    """All that is wrong with the runs of a site, which have all to be over, in sentences.

    Reads the events as `reader`, whose runs they have to be.
    """
    wrong: list[str] = []
    last_writer: dict[int, str] = {}
    stored = runs(site)
    for run in stored:
        if run.answer_id is not None:
            last_writer[run.answer_id] = run.id
    for run in stored:
        if run.status == "running":
            wrong.append(f"run {run.id} is still running")
            continue
        found = [*_of_log(run, reader.events({"events_url": run.events_url}))]
        if run.answer_id is not None and last_writer[run.answer_id] != run.id:
            # A later run went on with the answer.
            found = [fault for fault in found if fault != DIFFERS]
        wrong += [f"run {run.id} ({run.status}): {fault}" for fault in found]
    return wrong


DIFFERS = "the stored answer is not the joined chunks"


def _of_log(run: StoredRun, events: list[Received]) -> list[str]:
    end = events[-1]
    text = text_of(events)
    numbers = [event.number for event in events]
    ends = [event.number for event in events if event.type in ("done", "error")]
    checks = {
        f"its numbers are {numbers}": numbers == list(range(1, len(events) + 1)),
        f"its ends are at {ends} of {len(events)}": ends == [len(events)],
        "it does not begin with metadata and request_data": (
            [event.type for event in events[:2]] == ["metadata", "request_data"]
        ),
        "the length at its end is wrong": end.data.get("length") == len(text),
        "the SHA-256 at its end is wrong": (
            end.data.get("sha256") == hashlib.sha256(text.encode()).hexdigest()
        ),
        "full_response is not the joined chunks": (
            end.type == "error" or end.data["full_response"] == text
        ),
        f"it ended with {end.data}": run.status == _status(end),
        f"its code is {run.error_code}": run.error_code == end.data.get("code", ""),
        f"it has {run.usage_rows} usage rows": run.usage_rows == 1,
        f"its usage says {run.usage_status}": run.usage_status == run.status,
        "its end names another answer": end.data["assistant_message_id"] == run.answer_id,
        "its answer was not stored": run.answer is not None or not text,
        DIFFERS: run.answer is None or run.answer == text,
    }
    return [fault for fault, is_right in checks.items() if not is_right]


def _status(end: Received) -> str:
    if end.type == "done":
        return "stopped" if end.data["stopped"] else "done"
    return "interrupted" if end.data["code"] == "INTERRUPTED" else "error"


def lost(shown: list[Received], events: list[Received]) -> list[str]:
    """What of the events that a viewer was shown is not, or not so, among those stored."""
    now = {event.id: event for event in events}
    return [event.id for event in shown if now.get(event.id) != event]
