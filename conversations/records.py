"""How the exact record of a provider call is kept: packed, and unpacked for the inspector."""

import json
import zlib
from datetime import timedelta
from uuid import UUID

from django.utils import timezone

from conversations.models import ProviderCall
from providers.records import Exchange

MOST_PACKED = 1024 * 1024  # bytes of a body that are made smaller
PORTION = 500  # rows that are deleted in one transaction
# What a call that was stored when it was sent gets when it is over.
LATER_FIELDS = [
    "status",
    "response_headers",
    "headers_after",
    "ended_after",
    "received",
    "received_length",
    "is_cut",
    "error_code",
]


def row_of(run_id: UUID, exchange: Exchange) -> ProviderCall:
    """The row of a call, not yet stored. It takes time to pack: not for the event loop."""
    assert exchange.sent_at is not None  # noqa: S101 - only calls that were sent come here
    row = ProviderCall(
        run_id=run_id,
        attempt=exchange.attempt,
        method=exchange.method,
        url=exchange.url,
        headers=exchange.headers,
        body=_packed(exchange.kept_body),
        body_length=len(exchange.body),
        body_sha256=exchange.body_sha256,
        sent_at=exchange.sent_at,
    )
    if exchange.is_over:
        lines = "\n".join(
            json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in exchange.lines()
        )
        row.status = exchange.status
        row.response_headers = exchange.response_headers
        row.headers_after = exchange.headers_after
        row.ended_after = exchange.ended_after
        row.received = zlib.compress(lines.encode())
        row.received_length = exchange.received_length
        row.is_cut = exchange.is_cut
        row.error_code = exchange.error_code
    return row


def _packed(body: bytes) -> bytes:
    # Bodies with images are megabytes that hardly get smaller, and all runs wait for the writer.
    return zlib.compress(body, 0 if len(body) > MOST_PACKED else -1)


def body_of(call: ProviderCall) -> bytes:
    """The body as it was sent; where its hash differs, a secret in it is masked."""
    return zlib.decompress(call.body)


def lines_of(call: ProviderCall) -> list[tuple[float, str]]:
    """The lines of the answer, each with the milliseconds after which it was there."""
    if call.received is None:
        return []
    text = zlib.decompress(call.received).decode()
    return [(after, line) for after, line in map(json.loads, text.split("\n") if text else ())]


def forget(days: int) -> int:
    """Deletes a portion of the records that are older than this; gives how many there were."""
    old = ProviderCall.objects.filter(sent_at__lt=timezone.now() - timedelta(days=days))
    keys = list(old.order_by("sent_at").values_list("pk", flat=True)[:PORTION])
    return ProviderCall.objects.filter(pk__in=keys).delete()[0] if keys else 0
