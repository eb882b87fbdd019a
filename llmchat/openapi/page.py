"""The description as a page shows it: groups of operations, with the fields of each schema in
lines. All of it is ours, so the HTML made here holds nothing that a user wrote."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import markdown
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from conversations.rendering.highlighting import highlight
from llmchat.openapi.shapes import STREAM

DEEPEST: Final = 4  # levels of fields within fields that are shown
RANGES: Final = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " fields"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A field of a schema; `depth` counts the objects around it."""

    depth: int
    name: str
    type: SafeString
    is_required: bool
    description: SafeString


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent or answered, in one content type or another. `events` are the schemas of a
    stream."""

    types: Sequence[str]
    shape: SafeString
    lines: Sequence[Line]
    events: Sequence[SafeString]
    example: SafeString


@dataclass(frozen=True, slots=True)
class Answer:
    """`is_shared` for one that many operations have, which is told in a line."""

    status: str
    description: SafeString
    headers: Sequence[Line]
    contents: Sequence[Content]
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    description: SafeString
    security: str
    parameters: Sequence[tuple[str, Line]]  # each with its place
    contents: Sequence[Content]
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    name: str
    description: SafeString
    operations: Sequence[Operation]


@dataclass(frozen=True, slots=True)
class Schema:
    name: str
    shape: SafeString
    description: SafeString
    lines: Sequence[Line]


class Reader:
    """Reads one description."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = description

    @property
    def introduction(self) -> SafeString:
        return _prose(self._description["info"]["description"])

    @property
    def groups(self) -> list[Group]:
        return [
            Group(
                tag["name"].lower().replace(",", "").replace(" ", "-"),
                tag["name"],
                _prose(tag["description"]),
                list(self._operations(tag["name"])),
            )
            for tag in self._description["tags"]
        ]

    @property
    def schemas(self) -> list[Schema]:
        found: dict[str, Any] = self._description["components"]["schemas"]
        return [
            Schema(
                name,
                _type(schema),
                _prose(schema.get("description", "")),
                list(_lines(schema)),
            )
            for name, schema in found.items()
        ]

    def _operations(self, group: str) -> Iterator[Operation]:
        for path, item in self._description["paths"].items():
            shared = item.get("parameters", [])
            for method in item.keys() - {"parameters"}:
                told = item[method]
                if group not in told["tags"]:
                    continue
                body = told.get("requestBody", {})
                yield Operation(
                    id=told["operationId"],
                    method=method.upper(),
                    path=path,
                    summary=told["summary"],
                    description=_prose(told.get("description", "")),
                    security=self._security(told["security"]),
                    parameters=[
                        (one["in"], _parameter(one))
                        for one in [*shared, *told.get("parameters", [])]
                    ],
                    contents=list(_contents(body)),
                    answers=[
                        self._answer(status, one) for status, one in told["responses"].items()
                    ],
                )

    def _answer(self, status: str, response: Mapping[str, Any]) -> Answer:
        ref = response.get("$ref", "")
        if ref:
            response = self._description["components"]["responses"][_name(ref)]
        headers = response.get("headers", {}).items()
        return Answer(
            status,
            _prose(response["description"]),
            [_parameter({"name": name, **header}) for name, header in headers],
            list(_contents(response)),
            bool(ref),
        )

    def _security(self, security: Sequence[Mapping[str, Any]]) -> str:
        words = {
            "session": "login cookie",
            "csrf": "CSRF token",
            "token": "bearer token",
            "key": "x-api-key",
            "metrics": "metrics token",
        }
        ways = [" and ".join(words[name] for name in way) for way in security]
        return " or ".join(way or "open to all" for way in ways)


def _contents(told: Mapping[str, Any]) -> Iterator[Content]:
    content = told.get("content", {})
    by_media = groupby(content, key=content.__getitem__)  # a form has the fields of the JSON
    for media, types in ((media, list(types)) for media, types in by_media):
        schema = media["schema"]
        events = list(_events(schema)) if STREAM in types else []
        example = media.get("example")
        if not isinstance(example, str):
            example = "" if example is None else json.dumps(example, indent=2, ensure_ascii=False)
        yield Content(
            types=types,
            shape=_type(schema),
            lines=[] if events else list(_lines(schema)),
            events=events,
            example=mark_safe(highlight(example, "json")),  # noqa: S308 - escaped there
        )


def _events(schema: Mapping[str, Any]) -> Iterator[SafeString]:
    """What the `data` of the events of a stream can be."""
    data = schema["properties"]["data"]
    for one in data.get("anyOf", [data]):
        inner = one.get("contentSchema", one)
        yield from map(_type, inner.get("anyOf", [inner]))


def _parameter(told: Mapping[str, Any]) -> Line:
    return Line(
        0,
        told["name"],
        _type(told["schema"]),
        told.get("required", False),
        _described(told["schema"], told.get("description", "")),
    )


def _lines(schema: Mapping[str, Any], depth: int = 0) -> Iterator[Line]:
    """The fields of an object, or of the objects in a list; those of named schemas are told where
    these are."""
    if depth > DEEPEST:
        return
    if isinstance(schema.get("items"), Mapping):
        yield from _lines(schema["items"], depth)
    fields, required = _fields(schema)
    for name, field in fields.items():
        yield Line(depth, name, _type(field), name in required, _described(field))
        yield from _lines(field, depth + 1)


def _fields(schema: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The fields of an object, or of all that may stand in its place, and those that it always
    has."""
    variants = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    if not variants:
        return schema.get("properties", {}), set(schema.get("required", []))
    found: dict[str, list[Any]] = {}
    for one in variants:
        for name, field in one.get("properties", {}).items():
            if field not in found.setdefault(name, []):
                found[name].append(field)
    required = set.intersection(*(set(one.get("required", [])) for one in variants))
    merged = {
        name: fields[0] if len(fields) == 1 else {"anyOf": fields} for name, fields in found.items()
    }
    return merged, required


def _type(schema: Mapping[str, Any]) -> SafeString:
    """What a value is, in a few words, with a link to a schema that has a name."""
    if ref := schema.get("$ref"):
        name = _name(ref)
        if "/properties/" in ref:
            return format_html("as in the other schema: {}", name)
        return format_html('<a href="#schema-{}">{}</a>', name, name)
    if "const" in schema:
        return format_html("{}", json.dumps(schema["const"]))
    if "enum" in schema:
        return format_html("{}", " | ".join(json.dumps(value) for value in schema["enum"]))
    if "anyOf" in schema:
        told = dict.fromkeys(_type(one) for one in schema["anyOf"])
        return format_html_join(" or ", "{}", ((one,) for one in told))
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    words = [
        format_html("array of {}", _type(schema["items"]))
        if type == "array" and schema.get("items")
        else format_html(
            "{}", schema["format"] if type == "string" and "format" in schema else type
        )
        for type in types
    ]
    return format_html_join(" or ", "{}", ((word,) for word in words)) or mark_safe("any")


def _described(schema: Mapping[str, Any], words: str = "") -> SafeString:
    """What is said of a value, and its bounds."""
    text = words or schema.get("description", "")
    bounds = [
        bound + unit
        for least, most, unit in RANGES
        if (bound := _range(schema.get(least), schema.get(most)))
    ]
    if pattern := schema.get("pattern"):
        bounds.append(f"matches {pattern}")
    return format_html("{} {}", _inline(text), f"({', '.join(bounds)})" if bounds else "")


def _range(least: float | None, most: float | None) -> str:
    """That every count is at least 0 goes without saying."""
    if most is None:
        return f"at least {least:,}" if least else ""
    return f"at most {most:,}" if least is None else f"{least:,} to {most:,}"


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


@lru_cache(maxsize=1024)  # the same for all who read the page
def _prose(text: str) -> SafeString:
    return mark_safe(markdown.markdown(text))  # noqa: S308 - from this package


def _inline(text: str) -> SafeString:
    html = _prose(text)
    return mark_safe(html.removeprefix("<p>").removesuffix("</p>"))  # noqa: S308 - as above
