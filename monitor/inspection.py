"""What exactly was sent to a provider, read from the events of its run (contract M2)."""

import shlex
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString, mark_safe

from conversations.journal import stored_events
from conversations.models import Run
from conversations.rendering import highlight_json
from conversations.shortening import shortened
from providers.client import encode_body

MOST_ARGUMENT = 100_000  # characters; Linux takes 128 KiB, and then no command at all


@dataclass(frozen=True, slots=True)
class Inspection:
    """A run's `request_data` (S5). `body_html` shows its body; where that is too much to show
    whole, `is_shortened`, and only `body_text` and `curl` are exact."""

    sent: dict[str, Any]
    body_html: SafeString
    is_shortened: bool

    @property
    def body_text(self) -> str:
        """The body as the bytes that went over the wire."""
        # The same function made the bytes that were sent, and JSON keeps the order of the keys.
        return encode_body(self.sent.get("full_request_body", {})).decode()

    @property
    def curl(self) -> str:
        """The request as a command. The key is left to the shell: it is never shown."""
        endpoint = self.sent.get("metadata", {}).get("endpoint", "")
        return " \\\n  ".join(
            [
                f"curl -N {shlex.quote(endpoint)}",
                "-H 'Content-Type: application/json'",
                '-H "Authorization: Bearer $API_KEY"',
                _data(self.body_text),
            ]
        )


def inspect(run: Run) -> Inspection:
    request_data = next(
        (event.fields for event in stored_events(run.pk) if event.type == "request_data"), {}
    )
    body = request_data.get("full_request_body", {})
    shown = shortened(body)
    return Inspection(
        sent=request_data,
        body_html=mark_safe(highlight_json(shown)),  # noqa: S308 - escaped and sanitised there
        is_shortened=shown != body,
    )


def _data(body: str) -> str:
    if len(body) < MOST_ARGUMENT:
        return f"--data-raw {shlex.quote(body)}"
    return f"--data-binary @- <<'BODY'\n{body}\nBODY\n"  # JSON on one line has no other such line
