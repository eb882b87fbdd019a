"""What exactly was sent to a provider, read from the events of its run (contract M2)."""

import shlex
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString, mark_safe

from conversations.journal import stored_events
from conversations.models import Run
from conversations.rendering import highlight_json
from providers.client import encode_body


@dataclass(frozen=True, slots=True)
class Inspection:
    """A run's `request_data` (S5), and its body as the bytes that went over the wire."""

    sent: dict[str, Any]
    body_text: str
    body_html: SafeString
    curl: str


def inspect(run: Run) -> Inspection:
    request_data = next(
        (event.fields for event in stored_events(run.pk) if event.type == "request_data"), {}
    )
    body = request_data.get("full_request_body", {})
    # The same function made the bytes that were sent, and JSON keeps the order of the keys.
    text = encode_body(body).decode()
    endpoint = request_data.get("metadata", {}).get("endpoint", "")
    return Inspection(
        sent=request_data,
        body_text=text,
        body_html=mark_safe(highlight_json(body)),  # noqa: S308 - escaped and sanitised there
        curl=_curl(endpoint, text),
    )


def _curl(endpoint: str, body: str) -> str:
    """The request as a command. The key is left to the shell: it is never shown."""
    return " \\\n  ".join(
        [
            f"curl -N {shlex.quote(endpoint)}",
            "-H 'Content-Type: application/json'",
            '-H "Authorization: Bearer $API_KEY"',
            f"--data-raw {shlex.quote(body)}",
        ]
    )
