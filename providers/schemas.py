"""What an answer has to be: JSON schemas as people bring them, and answers held against them."""

import asyncio
import json
import logging
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from providers.adapters.base import Schema
from providers.json_check import WHOLE, schema_problem

log = logging.getLogger(__name__)

MOST_BYTES: Final = 65_536  # of a schema
PATIENCE: Final = 10.0  # s for one check, the start of its process included
NONE: Final = Schema("", {})  # no schema, where a configuration has one by default
TOO_LONG: Final = "This took too long to check."
NOT_CHECKED: Final = "This could not be checked."
ROOT: Final = Path(__file__).parent.parent


class BadSchema(ValueError):
    """A text that is no usable JSON schema; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is what its schema asks for. `is_valid` is None where that could not be
    found out; then `problems` says why."""

    schema: str  # its name
    is_valid: bool | None
    problems: list[dict[str, str]] = field(default_factory=list)  # {"path", "message"}

    @property
    def fields(self) -> dict[str, Any]:
        return {"schema": self.schema, "valid": self.is_valid, "problems": self.problems}


def parsed(text: str, name: str = "") -> Schema:
    """The schema in a JSON text. Its name is `name`, else that of its title. Raises BadSchema."""
    if len(text.encode()) > MOST_BYTES:
        raise BadSchema(f"A schema may have {MOST_BYTES:,} bytes at most.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSchema(f"This is not JSON: {error}.") from None
    return checked(value, name)


def checked(value: Any, name: str = "") -> Schema:
    """The same for a JSON value."""
    if not isinstance(value, dict):
        raise BadSchema("A JSON schema is an object, such as {“type”: “object”}.")
    if problem := schema_problem(value):
        raise BadSchema(f"This is no JSON schema: {problem}")
    title = value.get("title")
    words = name or (title if isinstance(title, str) else "")
    # What providers take as a name.
    return Schema(re.sub(r"[^A-Za-z0-9_-]+", "_", words).strip("_")[:64] or "answer", value)


# Each waits for a process; so this is how many of those there are at a time.
_pool = ThreadPoolExecutor(2, thread_name_prefix="schema")


async def check(schema: Schema, text: str) -> Verdict:
    """Holds an answer against its schema, in a process that has little time and no network."""
    return await asyncio.get_running_loop().run_in_executor(_pool, _check, schema, text)


def _check(schema: Schema, text: str) -> Verdict:
    try:
        process = subprocess.run(
            (sys.executable, "-m", "providers.json_check"),
            cwd=ROOT,
            env={},  # none of our secrets
            input=json.dumps({"schema": schema.schema, "text": text}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        found = json.loads(process.stdout)["problems"]
    except subprocess.TimeoutExpired:
        return _unknown(schema, TOO_LONG)
    except subprocess.CalledProcessError as error:
        if error.returncode == -signal.SIGXCPU:
            return _unknown(schema, TOO_LONG)
        log.warning("holding an answer against its schema failed: %s", error.stderr[-500:])
        return _unknown(schema, NOT_CHECKED)
    except OSError as error:  # no process could be started
        log.warning("no process to hold an answer against its schema: %s", error)
        return _unknown(schema, NOT_CHECKED)
    return Verdict(schema.name, not found, found)


def _unknown(schema: Schema, message: str) -> Verdict:
    return Verdict(schema.name, None, [{"path": WHOLE, "message": message}])
