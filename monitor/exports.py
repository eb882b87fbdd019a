"""The activity list as CSV and JSON, however long it is (contract M4, case A26).

A portion at a time is read and written out, in a thread of the monitor's few, so that neither
memory nor a thread nor a connection is held for as long as a reader takes. Each run is there once:
those that ran when it began as running, or as ended if they had ended by the time their place
came.
"""

import csv
import io
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser

from monitor.activity import Filters, Position, Row, ended_before, running_now
from monitor.reading import at_leisure

log = logging.getLogger(__name__)

PORTION = 1_000  # rows
COLUMNS = (
    "run_id",
    "session_id",
    "user",
    "configuration",
    "provider",
    "model",
    "status",
    "code",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "cost_usd",
    "cost_source",
    "started_at",
    "ended_at",
    "time_to_first_chunk",
    "processing_time",
)
# With one of these at its beginning a spreadsheet may take a text for a formula.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


class NoLongerAllowed(Exception):
    """Whoever reads the export may not read it any more."""


@dataclass(frozen=True, slots=True)
class Format:
    """How rows become bytes: what comes first, between portions, last, and where it breaks off."""

    content_type: str
    head: bytes
    rows: Callable[[Sequence[Row], bool], bytes]  # of a portion; is it the first
    foot: bytes
    broken: bytes


def csv_rows(rows: Iterable[Row], is_first: bool = False) -> bytes:
    """Lines of CSV (RFC 4180) without their head. Texts that a spreadsheet would take for a
    formula begin with an apostrophe; numbers are numbers."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
    return text.getvalue().encode()


def json_rows(rows: Iterable[Row], is_first: bool = False) -> bytes:
    """Members of a JSON array, a line each; None is null."""
    lines = [
        json.dumps({name: _value(name, getattr(row, name)) for name in COLUMNS}, ensure_ascii=False)
        for row in rows
    ]
    separator = "\n" if is_first else ",\n"
    return (separator + ",\n".join(lines)).encode() if lines else b""


CSV = Format(
    "text/csv; charset=utf-8",
    head=(",".join(COLUMNS) + "\r\n").encode(),
    rows=csv_rows,
    foot=b"",
    # A table that ends early looks whole; in JSON the missing bracket tells.
    broken=b"INCOMPLETE: the export broke off here. Start it again.\r\n",
)
JSON = Format("application/json", head=b"[", rows=json_rows, foot=b"\n]\n", broken=b"")


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.isoformat()
        case Decimal():
            return f"{value.normalize():f}"
        case float():
            return f"{round(value, 3)}"
        case int():
            return str(value)
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA_BEGINNINGS) else text


def _value(name: str, value: Any) -> Any:
    match value:
        case None | int():
            return value
        case datetime():
            return value.isoformat()
        case Decimal():
            return float(value)
        case float():
            return round(value, 3)
    return str(value)


def stream(
    viewer_id: int,
    filters: Filters,
    format: Format,
    is_allowed: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[bytes, None]:
    """The bytes of the whole list. Where the database or the person goes in between, or
    `is_allowed` (which may read the database) says no, it ends with what tells of that."""
    return _Export(viewer_id, filters, format, is_allowed).parts()


class _Export:
    """One reading of the list, and how far it has come."""

    def __init__(
        self, viewer_id: int, filters: Filters, format: Format, is_allowed: Callable[[], bool]
    ) -> None:
        self._viewer_id = viewer_id
        self._filters = filters
        self._format = format
        self._is_allowed = is_allowed
        self._before: Position | None = None
        self._running: list[Row] | None = None  # those whose place has not come yet
        self._is_first = True
        self._is_over = False

    async def parts(self) -> AsyncGenerator[bytes, None]:
        yield self._format.head
        try:
            while not self._is_over:
                if text := await at_leisure(self._portion)():
                    yield text
        except Exception:  # of any kind: a reader must not take a part for the whole
            log.exception("An export broke off.")
            yield self._format.broken
            return
        yield self._format.foot

    def _portion(self) -> bytes:
        viewer = self._viewer()
        running = self._running
        if running is None:
            running = running_now(viewer, self._filters)
        ended = list(ended_before(viewer, self._filters, self._before, PORTION))
        known = {row.run_id for row in ended}
        running = [row for row in running if row.run_id not in known]
        self._is_over = len(ended) < PORTION
        if not self._is_over:
            self._before = ended[-1].position
        here = [row for row in running if self._is_over or row.position > ended[-1].position]
        self._running = running[len(here) :]
        rows = sorted([*ended, *here], key=lambda row: row.position, reverse=True)
        text = self._format.rows(rows, self._is_first)
        self._is_first = self._is_first and not text
        return text

    def _viewer(self) -> AbstractBaseUser:
        """The person as they are now: rights are asked for again with each portion."""
        person = get_user_model().objects.filter(pk=self._viewer_id, is_active=True).first()
        if person is None or not self._is_allowed():
            raise NoLongerAllowed
        return person
