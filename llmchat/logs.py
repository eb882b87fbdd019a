"""How log records become lines: text for people, or JSON for programs. No secret gets through.

What is masked is the finished line, tracebacks included: a key may come in anybody's exception.
"""

import json
import logging
from datetime import UTC, datetime

from conversations import log_context
from providers import known_secrets
from providers.failure import masked


def without_secrets(text: str) -> str:
    """`text` without any key that this process knows, and without what looks like one."""
    return masked(text, known_secrets.known())


class TextLines(logging.Formatter):
    """A line for people: time, level, name, message, and the run it is about."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class JSONLines(logging.Formatter):
    """One JSON object a line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `process`, and
    where they are known `request_id`, `user_id`, `run_id` and `exception` (the traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            # Before they are quoted: a key with a quote or a backslash would look different then.
            "message": without_secrets(record.getMessage()),
            "process": record.process,
            **log_context.fields(getattr(record, "request", None)),
        }
        if record.exc_info:
            told["exception"] = without_secrets(self.formatException(record.exc_info))
        if record.stack_info:
            told["stack"] = without_secrets(self.formatStack(record.stack_info))
        return json.dumps(told, default=str)  # ASCII: some cut lines at U+2028 too
