"""What a configuration may hold, checked where it is typed: forms, files and code alike."""

import re
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError

from providers import addresses, schemas
from providers.adapters.base import CAPABILITIES, SAMPLING
from providers.adapters.custom_settings import BadSettings, RequestSettings, ResponseSettings

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, token
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
# The client sets these itself, or they would undo what it promises.
OWN_HEADERS = {
    "authorization": "put the key into its own field",
    "content-length": "it is set with each request",
    "transfer-encoding": "it is set with each request",
    "connection": "it is set with each request",
    "host": "it follows from the base URL",
    "cookie": "no cookies are sent to providers",
}
API_KEY = re.compile(r"[\x21-\x7e]+")
MAX_DEPTH = 50


def plain_text(text: str) -> None:
    """No NUL and no lone surrogate, which neither a database nor UTF-8 can hold."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValidationError("This holds a character that cannot be stored; remove it.")


def base_url(url: str) -> None:
    """An address that requests may go to (A15)."""
    try:
        addresses.parse(url, private_allowed=settings.ALLOW_PRIVATE_ADDRESSES)
    except addresses.BadAddress as error:
        raise ValidationError(str(error)) from None


def api_key(key: str) -> None:
    """What fits in a header."""
    if not API_KEY.fullmatch(key):
        raise ValidationError(
            "A key has only letters, digits and signs of ASCII, and no spaces; copy it again."
        )


def headers(value: Any) -> None:
    """An object of header names and texts."""
    if not isinstance(value, dict):
        raise ValidationError('Write an object, as {"Name": "value"}.')
    for name, text in value.items():
        # A bad name or value is not repeated whole: it may be a secret that slipped.
        if not HEADER_NAME.fullmatch(name):
            raise ValidationError("A name is no header name: only letters, digits and - are.")
        if reason := OWN_HEADERS.get(name.lower()):
            raise ValidationError(f"{name} cannot be set here: {reason}.")
        if not isinstance(text, str):
            raise ValidationError(f"The value of {name} has to be a text in quotes.")
        if not HEADER_VALUE.fullmatch(text):
            raise ValidationError(f"The value of {name} holds what no header can carry.")


def json_object(value: Any) -> None:
    """An object that is the same after it was written and read as JSON."""
    if not isinstance(value, dict):
        raise ValidationError('Write an object, as {"name": value}.')
    _json(value, MAX_DEPTH)


def custom_request(value: Any) -> None:
    """How an endpoint of the kind custom is asked: `RequestSettings`."""
    json_object(value)
    try:
        RequestSettings.read(value)
    except BadSettings as error:
        raise ValidationError(str(error)) from None


def custom_response(value: Any) -> None:
    """How its answer is read: `ResponseSettings`."""
    json_object(value)
    try:
        ResponseSettings.read(value)
    except BadSettings as error:
        raise ValidationError(str(error)) from None


def capabilities(value: Any) -> None:
    _one_of(value, CAPABILITIES)


def refused_parameters(value: Any) -> None:
    _one_of(value, SAMPLING)


def _one_of(value: Any, known: Sequence[str]) -> None:
    if not isinstance(value, list) or not all(each in known for each in value):
        raise ValidationError(f"Write a list with some of these: {', '.join(known)}.")


def json_schema(value: Any) -> None:
    """A JSON schema. What it refers to outside itself is never fetched."""
    json_object(value)
    try:
        schemas.checked(value)
    except schemas.BadSchema as error:
        raise ValidationError(str(error)) from None


def _json(value: Any, depth: int) -> None:
    if not depth:
        raise ValidationError(f"This is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, str):
        plain_text(value)
    elif isinstance(value, float) and value - value != 0:  # NaN and the infinities
        raise ValidationError("NaN and Infinity cannot be sent.")
    elif isinstance(value, dict):
        for name, inner in value.items():
            plain_text(name)
            _json(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _json(inner, depth - 1)
