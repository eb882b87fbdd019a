"""Typed reads of what a provider sent: a value of the expected type, or what stands for nothing.

All of it comes from outside, so a list may stand where a text belongs. None of these raises.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

# Larger ones are nonsense, and would not fit into the database: not even the sum of three counts.
_MOST_TOKENS: Final = 500_000_000
_MOST_MONEY: Final = 10_000_000


def text(value: Any) -> str:
    """The text, "" for anything else."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    """The object, {} for anything else."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in the list; nothing for anything else."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield item


def count(value: Any) -> int | None:
    """The whole number from 0 up, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    if not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def money(value: Any) -> Decimal | None:
    """The amount from 0 up, exactly as it was written; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return Decimal(value) if 0 <= value <= _MOST_MONEY else None
