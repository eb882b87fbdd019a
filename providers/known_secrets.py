"""The secrets that this process has had in its hands, so that what it says can be masked.

Only in memory, and only for `providers.failure.masked`. Knows nothing of Django: logging is set up
before anything else.
"""

from typing import Final

MOST: Final = 1_000  # the latest ones; each is looked for in every line of the log
LEAST: Final = 8  # characters; servers that need no key are given words such as "ollama"

_known: dict[str, None] = {}


def remember(secret: str) -> None:
    """From now on `known` has it, unless it is too short to be a secret."""
    if len(secret) >= LEAST and secret not in _known:
        _known[secret] = None
        if len(_known) > MOST:
            _known.pop(next(iter(_known)), None)


def known() -> tuple[str, ...]:
    """All of them, long ones first: one may be part of another."""
    return tuple(sorted(_known, key=len, reverse=True))
