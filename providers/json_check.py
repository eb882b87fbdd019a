"""Holds a text against a JSON schema, in a process of its own: `python -m providers.json_check`.

A schema that a person brings may have patterns that take for ever, or references that unfold
without end. So this runs apart, with little memory and little time, and may be killed. It reads
one JSON object from standard input, `{"schema", "text"}`, and writes one, `{"problems"}`: a list of
`{"path", "message"}`, empty where the text is what the schema asks for.
"""

import json
import resource
import sys
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

SECONDS = 5  # of CPU
MEMORY = 512 * 1024**2  # bytes
MOST_PROBLEMS = 20
MESSAGE_CHARACTERS = 300
WHOLE = "$"  # the path of the whole text


def problems(schema: Any, text: str) -> list[dict[str, str]]:
    """What is wrong with a text; at most MOST_PROBLEMS, in the order of their places."""
    try:
        value = json.loads(unfenced(text), parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        return [_problem(WHOLE, f"This is not JSON: {error}.")]
    validator_class = validator_for(schema, default=Draft202012Validator)
    try:
        validator_class.check_schema(schema)
        # The specifications' own registry: nothing else can be referred to, and nothing is fetched.
        validator = validator_class(schema, registry=REGISTRY)
        found = sorted(_within(validator.iter_errors(value)), key=lambda error: error.json_path)
    except SchemaError as error:
        return [_problem(WHOLE, f"The schema itself is wrong: {error.message}.")]
    except Unresolvable as error:
        return [_problem(WHOLE, f"The schema refers to what it does not hold: {error}.")]
    except RecursionError:
        return [_problem(WHOLE, "The schema refers to itself without end.")]
    return [_problem(error.json_path, error.message) for error in found]


def schema_problem(schema: Any) -> str:
    """Why this is no JSON schema; empty where it is one."""
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message}"[:MESSAGE_CHARACTERS]
    except RecursionError:
        return "It is nested too deeply."
    return ""


def unfenced(text: str) -> str:
    """The JSON in an answer: models like to put a fence around it, which is no part of it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") : -3].strip()
    return text


def _within(errors: Any) -> list[ValidationError]:
    return [error for error, _ in zip(errors, range(MOST_PROBLEMS), strict=False)]


def _problem(path: str, message: str) -> dict[str, str]:
    if len(message) > MESSAGE_CHARACTERS:
        message = message[: MESSAGE_CHARACTERS - 1] + "…"
    return {"path": path, "message": message}


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    asked = json.load(sys.stdin)
    json.dump({"problems": problems(asked["schema"], asked["text"])}, sys.stdout)


if __name__ == "__main__":
    main()
