"""Where something stands in a JSON value: names and list indexes joined by dots. Nothing is run.

`choices.0.delta.content` is the `content` in the `delta` of the first of `choices`. A step that is
not there gives None, which is no error: most events of a stream lack most things.
"""

from decimal import Decimal
from typing import Any

from providers.adapters.untrusted import text

Path = tuple[str, ...]


def parse(written: str) -> Path:
    """The steps of a path as it is typed; () for an empty one. Raises ValueError, for people."""
    if not written:
        return ()
    steps = tuple(written.split("."))
    if not all(steps) or any(character.isspace() for character in written):
        raise ValueError("Write names and list numbers joined by dots, as choices.0.delta.content.")
    return steps


def find(value: Any, path: Path) -> Any:
    """What stands at `path`, None where nothing does or the path is empty."""
    if not path:
        return None
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def find_text(value: Any, path: Path) -> str:
    """The text at `path`, "" where there is none.

    A number is its digits; a list is its texts, and the `text` of its parts, joined.
    """
    found = find(value, path)
    if isinstance(found, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in found)
        return "".join(part for part in parts if isinstance(part, str))
    if isinstance(found, int | Decimal) and not isinstance(found, bool):
        return str(found)
    return text(found)
