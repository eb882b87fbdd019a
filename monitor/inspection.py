"""What exactly was sent to a provider, and what came back (contract M2).

The record of the HTTP client tells (`ProviderCall`). A run whose request has not gone out yet, or
whose record was deleted for its age, has the `request_data` of its events.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.utils.safestring import SafeString, mark_safe

from conversations.journal import stored_events
from conversations.models import ProviderCall, Run
from conversations.records import body_of, lines_of
from conversations.rendering import highlight_json
from conversations.shortening import shortened
from monitor import curl
from providers.client import encode_body


@dataclass(frozen=True)
class Call:
    """One recorded request: an attempt of a run."""

    row: ProviderCall

    @cached_property
    def body(self) -> bytes:
        """As it was sent."""
        return body_of(self.row)

    @property
    def body_text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @cached_property
    def lines(self) -> list[tuple[float, str]]:
        """What came back: each line with the milliseconds after which it was there."""
        return lines_of(self.row)

    @property
    def fields(self) -> dict[str, Any]:
        """All of it, for a download. Times are seconds since sending, those of lines ms."""
        row = self.row
        return {
            "attempt": row.attempt,
            "request": {
                "method": row.method,
                "url": row.url,
                "headers": row.headers,
                "body": self.body_text,
                "body_length": row.body_length,
                "body_sha256": row.body_sha256,
                "sent_at": row.sent_at.isoformat(),
            },
            "response": {
                "status": row.status,
                "headers": row.response_headers,
                "headers_after": row.headers_after,
                "ended_after": row.ended_after,
                "length": row.received_length,
                "is_cut": row.is_cut,
                "lines": self.lines,
            },
            "error_code": row.error_code,
        }


@dataclass(frozen=True)
class Inspection:
    """A run's `request_data` (S5), and its calls in their order."""

    sent: dict[str, Any]
    calls: Sequence[Call]

    @cached_property
    def body(self) -> Any:
        """The last request's body, parsed."""
        return json.loads(self._recorded) if self._recorded else self._planned

    @property
    def body_text(self) -> str:
        """The same as the bytes that went over the wire."""
        # The same function makes the bytes that are sent, and JSON keeps the order of the keys.
        return self._recorded or encode_body(self._planned).decode()

    @property
    def body_html(self) -> SafeString:
        """The same to look at; long base64 is shortened."""
        html = highlight_json(shortened(self.body))
        return mark_safe(html)  # noqa: S308 - escaped and sanitised there

    @cached_property
    def is_shortened(self) -> bool:
        """Whether only `body_text` and `curl` are exact, and not `body_html`."""
        return bool(shortened(self.body) != self.body)

    @property
    def curl(self) -> str:
        """The request as a command. The key is left to the shell: it is never shown."""
        if self.calls:
            row = self.calls[-1].row
            return curl.command(row.method, row.url, row.headers, self.body_text)
        endpoint = self.sent.get("metadata", {}).get("endpoint", "")
        return curl.command("POST", endpoint, curl.USUAL_HEADERS, self.body_text)

    @property
    def _planned(self) -> dict[str, Any]:
        body: dict[str, Any] = self.sent.get("full_request_body", {})
        return body

    @cached_property
    def _recorded(self) -> str:
        return self.calls[-1].body_text if self.calls else ""


def inspect(run: Run) -> Inspection:
    return Inspection(
        sent=next(
            (event.fields for event in stored_events(run.pk) if event.type == "request_data"), {}
        ),
        calls=[Call(row) for row in run.calls.all()],
    )
