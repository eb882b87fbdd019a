"""What a configuration of the kind `custom` says: how to ask its endpoint, and how to read it.

`RequestSettings.read` and `ResponseSettings.read` check the objects that administrators type and
files declare (contract P8); the adapter uses what they give. Nothing in them is evaluated: a body
is a template of named values, an answer is read by paths (R12).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from providers import addresses
from providers.adapters import paths, templates
from providers.adapters.templates import BadTemplate

V = TypeVar("V")
E = TypeVar("E", bound=StrEnum)

NAMES: Final = (
    "model",
    "messages",
    "prompt",
    "system",
    "temperature",
    "top_p",
    "max_tokens",
    "stream",
)
ADDRESS_NAMES: Final = ("model",)
DEFAULT_BODY: Final[Mapping[str, Any]] = {
    "model": "{{model}}",
    "messages": "{{messages}}",
    "temperature": "{{temperature}}",
    "top_p": "{{top_p}}",
    "max_tokens": "{{max_tokens}}",
    "stream": "{{stream}}",
}
_PATH_MAX: Final = 200  # characters
_BODY_MAX: Final = 50_000

_HEADER: Final = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?:: *([\x21-\x7e]+))?")
_PARAMETER: Final = re.compile(r"[A-Za-z0-9._~-]+")
# The client sets these itself.
_OWN_HEADERS: Final = {"connection", "content-length", "cookie", "host", "transfer-encoding"}


class Auth(StrEnum):
    """How the key is sent."""

    BEARER = "bearer"
    HEADER = "header"
    QUERY = "query"
    NONE = "none"


class Shape(StrEnum):
    """What `{{messages}}` is."""

    OPENAI = "openai"  # [{"role", "content"}]
    CONTENTS = "contents"  # [{"role", "parts": [{"text"}]}], as Gemini has it
    TEXT = "text"  # the conversation as one text


class Format(StrEnum):
    """What the endpoint answers with."""

    OPENAI = "openai"
    SSE = "sse"
    NDJSON = "ndjson"
    TEXT = "text"


class BadSettings(ValueError):
    """Settings that are not used. `problems` has a sentence for each key that is wrong."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{key}: {text}" for key, text in problems.items()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """How the endpoint is asked. `path` is put after the base URL and may hold `{{model}}`."""

    method: str
    path: str
    auth: Auth
    auth_name: str  # of the header or the parameter
    auth_prefix: str  # before the key in the header, such as Token
    messages: Shape
    body: Mapping[str, Any]
    has_own_system: bool  # the body has a place for the system instructions

    @classmethod
    def read(cls, written: Any) -> "RequestSettings":
        """From an object with any of these keys; what is missing is as OpenAI has it.

        method: POST or PUT. path: begins with / or ?. auth: bearer, header, query or none.
        auth_name: the header (`x-api-key`, or `Authorization: Token` for a word before the key)
        or the parameter. messages: openai, contents or text. body: the template, an object or its
        JSON text. Raises BadSettings.
        """
        reader = _Reader(written)
        method = reader.take("method", _method, "POST")
        path = reader.take("path", _address_part, "")
        auth = reader.take("auth", _one_of(Auth), Auth.BEARER)
        shape = reader.take("messages", _one_of(Shape), Shape.OPENAI)
        body = reader.take("body", _object, DEFAULT_BODY)
        name = prefix = ""
        if auth in {Auth.HEADER, Auth.QUERY}:
            check = _header if auth is Auth.HEADER else _parameter
            name, prefix = reader.take("auth_name", check, ("", ""))
            if not name:
                reader.refuse("auth_name", "Say which header or parameter the key is sent in.")
        whole = () if shape is Shape.TEXT else ("messages",)
        names: set[str] = set()
        try:
            names = templates.check(body, NAMES, whole)
            if names.isdisjoint({"messages", "prompt"}):
                raise BadTemplate(
                    "This has neither {{messages}} nor {{prompt}}, so nothing would be asked."
                )
        except BadTemplate as error:
            reader.refuse("body", str(error))
        reader.finish()
        return cls(method, path, auth, name, prefix, shape, body, "system" in names)


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """How the answer is read. Paths that were not given are ()."""

    format: Format
    text_path: paths.Path
    reasoning_path: paths.Path
    finish_path: paths.Path
    prompt_tokens_path: paths.Path
    completion_tokens_path: paths.Path
    error_path: paths.Path
    end_path: paths.Path
    end_marker: str
    is_cumulative: bool

    @classmethod
    def read(cls, written: Any) -> "ResponseSettings":
        """From an object with `format` (openai, sse, ndjson or text) and, for sse and ndjson,
        the other fields as keys, `text_path` at least; `cumulative` says that each text is the
        whole text so far. Raises BadSettings.
        """
        reader = _Reader(written)
        format = reader.take("format", _one_of(Format), Format.OPENAI)
        # What is not taken has no meaning for the format, and `finish` says so.
        is_by_path = format in {Format.SSE, Format.NDJSON}

        def path(key: str) -> paths.Path:
            return reader.take(key, _path, ()) if is_by_path else ()

        settings = cls(
            format=format,
            text_path=path("text_path"),
            reasoning_path=path("reasoning_path"),
            finish_path=path("finish_path"),
            prompt_tokens_path=path("prompt_tokens_path"),
            completion_tokens_path=path("completion_tokens_path"),
            error_path=path("error_path"),
            end_path=path("end_path"),
            end_marker=reader.take("end_marker", _marker, "") if is_by_path else "",
            is_cumulative=reader.take("cumulative", _flag, False) if is_by_path else False,
        )
        if is_by_path and not settings.text_path:
            reader.refuse("text_path", "Say where the text stands in each event.")
        reader.finish()
        return settings

    @property
    def says_its_end(self) -> bool:
        """Whether an end is told; if not, the end of the body is a proper end."""
        return bool(self.finish_path or self.end_path or self.end_marker)


class _Reader:
    """Takes values out of an object of unknown content, and keeps what is wrong with it."""

    def __init__(self, written: Any) -> None:
        if not isinstance(written, Mapping):
            raise BadSettings({"settings": "Write an object."})
        self._left = {key: value for key, value in written.items() if value not in (None, "")}
        self._problems: dict[str, str] = {}

    def take(self, key: str, check: Callable[[Any], V], default: V) -> V:
        """The value of `key` as `check` gives it, `default` where there is none."""
        if key not in self._left:
            return default
        try:
            return check(self._left.pop(key))
        except ValueError as error:
            self.refuse(key, str(error))
            return default

    def refuse(self, key: str, problem: str) -> None:
        self._problems.setdefault(key, problem)

    def finish(self) -> None:
        """Raises BadSettings if anything was wrong, or is left that nobody asked for."""
        for key in self._left:
            self.refuse(str(key), "There is no such setting here; remove it.")
        if self._problems:
            raise BadSettings(self._problems)


def _one_of(choices: type[E]) -> Callable[[Any], E]:
    def check(value: Any) -> E:
        try:
            return choices(value)
        except ValueError:
            raise ValueError(f"Write one of {', '.join(choices)}.") from None

    return check


def _string(value: Any, most: int = _PATH_MAX) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"Write a text of at most {most} characters.")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("This holds a character that cannot be stored; remove it.")
    return value


def _method(value: Any) -> str:
    if value not in ("POST", "PUT"):
        raise ValueError("Write POST or PUT.")
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Write true or false.")
    return value


def _path(value: Any) -> paths.Path:
    return paths.parse(_string(value).strip())


def _marker(value: Any) -> str:
    return _string(value).strip()


def _address_part(value: Any) -> str:
    path = _string(value, 500).strip()
    if path and path[0] not in "/?":
        raise ValueError("Begin with / or ?: this is put after the base URL.")
    templates.check(path, ADDRESS_NAMES)
    # Judged like a base URL: no key in it, and nothing that parsers disagree about.
    written = templates.fill_address(path, {"model": "m"})
    addresses.parse(f"https://host{written}", private_allowed=True)
    return path


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(
                _string(value, _BODY_MAX), parse_constant=_refused, parse_float=_finite
            )
        except json.JSONDecodeError as error:
            raise ValueError(f"This is no JSON: {error}.") from None
        except RecursionError:
            raise ValueError("This is nested too deeply.") from None
    if not isinstance(value, Mapping):
        raise ValueError('Write an object, as {"prompt": "{{prompt}}"}.')
    return value


def _refused(number: str) -> Any:
    raise ValueError(f"{number} is no number that can be sent.")


def _finite(number: str) -> float:
    return found if math.isfinite(found := float(number)) else _refused(number)


def _header(value: Any) -> tuple[str, str]:
    found = _HEADER.fullmatch(_string(value).strip())
    if not found:
        raise ValueError("Write the name of a header, as x-api-key or Authorization: Token.")
    if found[1].lower() in _OWN_HEADERS:
        raise ValueError(f"{found[1]} is set by llmchat itself; choose another header.")
    return found[1], found[2] or ""


def _parameter(value: Any) -> tuple[str, str]:
    if not _PARAMETER.fullmatch(name := _string(value).strip()):
        raise ValueError("Write the name of a parameter, as key.")
    return name, ""
