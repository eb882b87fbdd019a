"""What the page is shown of a request with images: their base64 alone would be megabytes of it."""

import re
from typing import Any, Final

LONG: Final = 10_000  # characters; a text that people write has a space before that
KEPT: Final = 60  # of them
BASE64: Final = re.compile(r"(data:[\w/+.-]+;base64,)?[A-Za-z0-9+/_-]+=*")


def shortened(value: Any) -> Any:
    """A JSON value with the beginning and the length of each long base64 text in its place; the
    same value where there is none."""
    if isinstance(value, str):
        if len(value) < LONG or not BASE64.fullmatch(value):
            return value
        return f"{value[:KEPT]}… {len(value):,} characters"
    if isinstance(value, dict):
        return {key: shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shortened(inner) for inner in value]
    return value
