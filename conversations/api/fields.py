"""The values of a JSON object that a program sent: typed, bounded, each error naming its place.

None and what is missing are the same: not given.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NoReturn

from django.conf import settings
from django.http import HttpRequest

from conversations.api.errors import BadParameter, Problem, Refused
from conversations.forms import Unreadable

MOST_PARTS: Final = 300_000  # in a body: what they take in memory is many times their text
# A text as a whole, or a mark with which another value begins.
PART: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[,\[{]', re.DOTALL)


class Fields:
    """One JSON object. `place` is where it is in the request, "" for the request itself."""

    def __init__(self, value: Mapping[str, Any], place: str = "") -> None:
        self._value = value
        self._place = place

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def refuse(self, name: str, message: str) -> NoReturn:
        raise BadParameter(self.place(name), message)

    def place(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name

    def raw(self, name: str) -> Any:
        return self._value.get(name)

    def required(self, name: str) -> Any:
        value = self._value.get(name)
        if value is None:
            self.refuse(name, f"“{self.place(name)}” is missing.")
        return value

    def text(self, name: str, *, most: int | None = None) -> str | None:
        value = self._value.get(name)
        return None if value is None else text(value, self.place(name), most=most)

    def number(self, name: str, least: float, most: float) -> float | None:
        value = self._value.get(name)
        if value is None or value == "":
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not least <= value <= most:
            self.refuse(name, f"Give a number from {least:g} to {most:g} here, or leave it out.")
        return float(value)

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self._value.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 10.0, as some languages write it
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"Give a whole number from {least} to {most} here, or leave it out.")
        return value

    def flag(self, name: str) -> bool | None:
        value = self._value.get(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, "Give true or false here, or leave it out.")
        return value

    def choice(self, name: str, known: Collection[str]) -> str | None:
        value = self._value.get(name)
        if value is not None and (not isinstance(value, str) or value not in known):
            self.refuse(name, f"Give one of {', '.join(known)} here.")
        return value

    def inner(self, name: str) -> "Fields | None":
        """The object of this name."""
        value = self._value.get(name)
        return None if value is None else Fields(mapping(value, self.place(name)), self.place(name))

    def each(self, name: str, *, most: int) -> "list[Fields]":
        """The objects in the list of this name."""
        return [Fields(mapping(item, place), place) for item, place in self.items(name, most=most)]

    def items(self, name: str, *, most: int) -> list[tuple[Any, str]]:
        """The items of the list of this name, each with its place."""
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(name, "Give a list here.")
        if len(value) > most:
            self.refuse(name, f"This list has {len(value):,} items; {most:,} are allowed.")
        return [(item, f"{self.place(name)}[{index}]") for index, item in enumerate(value)]


def text(value: Any, place: str, *, most: int | None = None) -> str:
    """A text that can be stored and sent. Raises BadParameter."""
    if not isinstance(value, str):
        raise BadParameter(place, "Give a text here.")
    if most is not None and len(value) > most:
        raise BadParameter(place, f"This text is too long; {most:,} characters are allowed.")
    if "\0" in value:
        raise BadParameter(place, "This text has a null character, which cannot be stored.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadParameter(place, "This text has a character that is not valid Unicode.") from None
    return value


def mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadParameter(place, "Give an object here.")
    return value


def storable(value: Any, place: str, depth: int = 50) -> Any:
    """A JSON value of any shape whose texts and numbers can be stored. Raises BadParameter."""
    if not depth:
        raise BadParameter(place, "This is nested too deeply.")
    if isinstance(value, str):
        text(value, place)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadParameter(place, "This has a number that is none.")
    elif isinstance(value, dict):
        for key, inner in value.items():
            text(key, place)
            storable(inner, f"{place}.{key}", depth - 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            storable(inner, f"{place}[{index}]", depth - 1)
    return value


def body_of(request: HttpRequest) -> Fields:
    """The JSON object in the body of a request. Raises Refused for too much, and Unreadable."""
    most: int = settings.API_BODY_MAX_BYTES
    if int(request.META.get("CONTENT_LENGTH") or 0) > most:
        raise _too_large(f"The body has more than {most:,} bytes.")
    data = request.read(most + 1)  # also of a body that does not say its length
    if len(data) > most:
        raise _too_large(f"The body has more than {most:,} bytes.")
    return Fields(_object(data))


def parsed(data: str) -> Any:
    """The value of a JSON text. Raises Unreadable."""
    return _parsed(data.encode(errors="surrogatepass"))


def _object(data: bytes) -> Mapping[str, Any]:
    value = _parsed(data)
    if not isinstance(value, dict):
        raise Unreadable("The body has to be a JSON object.")
    return value


def _parsed(data: bytes) -> Any:
    # One after another: a list of what was found would take more than the values themselves.
    if next(islice(PART.finditer(data), MOST_PARTS, None), None) is not None:
        raise _too_large(f"The JSON has more than {MOST_PARTS:,} texts and other values.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("The body is not valid JSON.") from None


def _too_large(message: str) -> Refused:
    return Refused(Problem(413, "TOO_LARGE", message, is_final=True))
