"""A value that is valid against a JSON schema, as far as the demo needs it to answer with one."""

from collections.abc import Mapping
from typing import Any, Final

_DEEPEST: Final = 12
_WORDS: Final = ("a first value", "another one", "and a third")


def example(schema: Any, prompt: str) -> Any:
    """An example for `schema`. Texts take up the prompt; patterns and formats are not looked at."""
    root = schema if isinstance(schema, Mapping) else {}
    return _value(root, root, " ".join(prompt.split())[:60], 0, 0)


def _value(schema: Any, root: Mapping[str, Any], prompt: str, number: int, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    schema = _followed(schema, root)
    if "const" in schema:
        return schema["const"]
    for name in ("enum", "examples"):
        if isinstance(choices := schema.get(name), list) and choices:
            return choices[number % len(choices)]
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(name), list) and choices:
            return _value(choices[0], root, prompt, number, depth + 1)
    match _kind(schema):
        case "object":
            properties = schema.get("properties")
            return {
                name: _value(inner, root, prompt, number, depth + 1)
                for name, inner in (properties if isinstance(properties, Mapping) else {}).items()
            }
        case "array":
            least = schema.get("minItems")
            size = max(least, 3) if isinstance(least, int) and least < 100 else 3
            most = schema.get("maxItems")
            size = min(size, most) if isinstance(most, int) else size
            inner = schema.get("items", {"type": "string"})
            return [_value(inner, root, prompt, index, depth + 1) for index in range(size)]
        case "integer" | "number":
            least = schema.get("minimum")
            return (least if isinstance(least, int | float) else 1) + number
        case "boolean":
            return number % 2 == 0
        case "null":
            return None
    return f"{_WORDS[number % len(_WORDS)]} about “{prompt}”" if prompt else _WORDS[number % 3]


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else "string"
    return str(kind or ("object" if "properties" in schema else "string"))


def _followed(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference inside the schema stands for."""
    for _ in range(_DEEPEST):
        target = schema.get("$ref")
        if not isinstance(target, str) or not target.startswith("#/"):
            break
        found: Any = root
        for step in target[2:].split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            break
        schema = found
    return schema
