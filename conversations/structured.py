"""Answers that were to be JSON, as the page shows them: the verdict, a table or a tree."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from conversations.models import Message
from providers.json_check import unfenced

MOST_NODES = 2_000  # of a tree
MOST_ROWS = 500
CELL_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a tree: `text` for one that holds no others, else `children`."""

    key: str
    kind: str  # object, array, string, number, boolean or null
    text: str = ""
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Table:
    columns: list[str]
    rows: list[list[str]]
    left_out: int = 0  # rows


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows under such an answer. Without JSON in it there is neither table nor
    tree; a tree that is too large is none."""

    schema: str
    is_valid: bool | None
    problems: list[dict[str, str]]
    is_json: bool
    table: Table | None
    tree: Node | None


def view(message: Message) -> View | None:
    """None for an answer that was not to be JSON."""
    verdict = message.structured
    if verdict is None:
        return None
    try:
        answer = value(message)
    except ValueError:
        return View(verdict["schema"], verdict["valid"], verdict["problems"], False, None, None)
    return View(
        schema=verdict["schema"],
        is_valid=verdict["valid"],
        problems=verdict["problems"],
        is_json=True,
        table=_table(answer),
        tree=_tree(answer),
    )


def value(message: Message) -> Any:
    """The JSON of an answer. Raises ValueError where it is none."""
    try:
        return json.loads(unfenced(message.content))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _tree(value: Any) -> Node | None:
    left = iter(range(MOST_NODES))
    try:
        return _node("", value, left)
    except (StopIteration, RecursionError):
        return None


def _node(key: str, value: Any, left: Iterator[int]) -> Node:
    next(left)
    if isinstance(value, dict):
        return Node(key, "object", "", [_node(name, inner, left) for name, inner in value.items()])
    if isinstance(value, list):
        inner = [_node(str(index), item, left) for index, item in enumerate(value)]
        return Node(key, "array", "", inner)
    kind = {str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
    return Node(key, kind, _text(value))


def _table(value: Any) -> Table | None:
    """A list of objects, alone or as the one list of an object; or columns and rows by name."""
    if isinstance(value, dict):
        columns, rows = value.get("columns"), value.get("rows")
        if _is_list_of(columns, str) and _is_list_of(rows, list):
            return _cut(list(columns or []), [[_text(cell) for cell in row] for row in rows or []])
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else None
    if not _is_list_of(value, dict):
        return None
    names = list(dict.fromkeys(name for item in value for name in item))
    return _cut(names, [[_text(item.get(name, "")) for name in names] for item in value])


def _cut(columns: list[str], rows: list[list[str]]) -> Table:
    return Table(columns, rows[:MOST_ROWS], max(len(rows) - MOST_ROWS, 0))


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"
