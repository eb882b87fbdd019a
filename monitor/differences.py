"""What one request has that another had not, as the lines of a unified diff."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from conversations.shortening import shortened

CONTEXT: Final = 3  # lines around a change
MOST_LINES: Final = 4_000  # of either side; comparing takes time
MOST_SHOWN: Final = 2_000


@dataclass(frozen=True, slots=True)
class Line:
    """`kind` is `added`, `removed`, `same` or `place`."""

    kind: str
    text: str


KINDS: Final = {"+": "added", "-": "removed", " ": "same", "@": "place"}


def compare(former: Any, latter: Any) -> list[Line] | None:
    """The lines in which two JSON values differ; none where they are equal, and None where they
    are too long to be compared."""
    before, after = _lines(former), _lines(latter)
    if max(len(before), len(after)) > MOST_LINES:
        return None
    found = list(_compared(before, after))
    return found if len(found) <= MOST_SHOWN else None


def _lines(value: Any) -> list[str]:
    return json.dumps(shortened(value), indent=2, ensure_ascii=False).split("\n")


def _compared(before: list[str], after: list[str]) -> Iterator[Line]:
    changes = difflib.unified_diff(before, after, n=CONTEXT, lineterm="")
    for line in list(changes)[2:]:  # after the names of the two
        kind = KINDS[line[0]]
        yield Line(kind, line if kind == "place" else line[1:])
