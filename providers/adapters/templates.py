"""JSON documents and addresses with places for values: `{{name}}`, and no more than that.

A text that is a placeholder as a whole becomes the value itself, a list or a number included;
inside a longer text it becomes the value's text. A key or an item whose placeholder has no value
is left out, and so is what has become empty by that. Values are put in once and never looked
through, so what a person writes is never taken for a placeholder. Nothing is evaluated.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote

from providers.wire import valid_text

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_MAX_DEPTH: Final = 50
_ABSENT: Final = object()  # None is a value of JSON


class BadTemplate(ValueError):
    """A template that is not used; the text is a sentence for whoever typed it."""


def check(template: Any, known: Collection[str], whole: Collection[str] = ()) -> set[str]:
    """The names that `template` has places for.

    `known` are the names there are; those of `whole` are no texts, so they stand alone. Raises
    BadTemplate.
    """
    return _names(template, known, whole, _MAX_DEPTH)


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """`template` with these values; None stands for no value. {} where nothing is left of it."""
    filled = _filled(template, values)
    return {} if filled is _ABSENT else filled


def fill_address(template: str, values: Mapping[str, str]) -> str:
    """A part of an address with these values, written so that each stays what it is."""
    return _PLACEHOLDER.sub(lambda place: quote(values[place[1]]), template)


def _names(part: Any, known: Collection[str], whole: Collection[str], depth: int) -> set[str]:
    if not depth:
        raise BadTemplate(f"This is nested more than {_MAX_DEPTH} levels deep.")
    if isinstance(part, str):
        return _names_of_text(part, known, whole)
    found: set[str] = set()
    if isinstance(part, dict):
        for key, inner in part.items():
            _check_characters(key)
            if "{{" in key:
                raise BadTemplate(f"“{key}” is a key; only values have placeholders.")
            found |= _names(inner, known, whole, depth - 1)
    elif isinstance(part, list):
        for inner in part:
            found |= _names(inner, known, whole, depth - 1)
    return found


def _names_of_text(text: str, known: Collection[str], whole: Collection[str]) -> set[str]:
    _check_characters(text)
    names = set(_PLACEHOLDER.findall(text))
    if unknown := sorted(names - set(known)):
        there_are = ", ".join(f"{{{{{name}}}}}" for name in known)
        raise BadTemplate(f"{{{{{unknown[0]}}}}} is unknown; there are {there_are}.")
    if "{{" in _PLACEHOLDER.sub("", text):
        raise BadTemplate(f"“{text}” has {{{{ without a name and }}}} after it.")
    alone = _PLACEHOLDER.fullmatch(text)
    if not alone and (mixed := sorted(names & set(whole))):
        raise BadTemplate(
            f"{{{{{mixed[0]}}}}} is a list: it has to stand alone, as “{{{{{mixed[0]}}}}}”."
        )
    return names


def _check_characters(text: str) -> None:
    # JSON can spell what neither UTF-8 nor a database holds.
    if valid_text(text) != text:
        raise BadTemplate("This holds a character that cannot be stored; remove it.")


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(part, str):
        if alone := _PLACEHOLDER.fullmatch(part):
            value = values[alone[1]]
            return _ABSENT if value is None else value
        return _PLACEHOLDER.sub(lambda place: _text(values[place[1]]), part)
    if isinstance(part, dict):
        fields = {key: _filled(inner, values) for key, inner in part.items()}
        kept = {key: value for key, value in fields.items() if value is not _ABSENT}
        return _ABSENT if part and not kept else kept
    if isinstance(part, list):
        items = [value for inner in part if (value := _filled(inner, values)) is not _ABSENT]
        return _ABSENT if part and not items else items
    return part


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
