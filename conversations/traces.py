"""Traces for whoever collects them: one span for each request to a provider, without its text.

Sent as OTLP over HTTP, in its JSON form, to where the standard variable says
(OTEL_EXPORTER_OTLP_ENDPOINT); where it is not set, nothing here does anything. The attributes are
those of OpenTelemetry's conventions for generative AI. The trace has the id of the run, so that one
is found by the other, and all attempts are together.

A thread of its own sends them in batches. Nobody ever waits for it: while the collector is away,
spans are dropped.

Sources: opentelemetry.io/docs/specs/otlp (JSON Protobuf encoding) and
opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans.
"""

import json
import logging
import secrets
import threading
from collections.abc import Iterator, Mapping
from queue import Empty, Full, Queue
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from django.conf import settings

from conversations.planning import Plan
from providers.events import Finish, Usage
from providers.records import Exchange

log = logging.getLogger(__name__)

MOST_WAITING: Final = 2_048  # spans
MOST_SENT: Final = 512  # in one batch
PAUSE: Final = 2.0  # s that spans are collected for one batch
TIMEOUT: Final = 10.0  # s for the collector to answer
CLIENT, ERROR = 3, 2  # span kind and status, as the protocol numbers them

Span = dict[str, Any]
_sender: "_Sender | None" = None
_begins = threading.Lock()


def record(plan: Plan, exchange: Exchange, usage: Usage | None, finish: Finish | None) -> None:
    """Has the span of a request that is over sent soon, if anybody collects them."""
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT and exchange.sent_at is not None:
        _running().put(span_of(plan, exchange, usage, finish))


def flush(limit: float) -> None:
    """Waits until all spans are sent, at most so many seconds. Blocks."""
    if _sender is not None:
        _sender.flush(limit)


def span_of(plan: Plan, exchange: Exchange, usage: Usage | None, finish: Finish | None) -> Span:
    """The span of one request."""
    assert exchange.sent_at is not None  # noqa: S101 - the caller has looked
    begun = int(exchange.sent_at.timestamp() * 1e9)
    address = urlsplit(exchange.url)
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": plan.adapter_class.kind,
        "gen_ai.request.model": plan.target.model,
        "gen_ai.usage.input_tokens": usage and usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage and usage.completion_tokens,
        "gen_ai.response.finish_reasons": [str(finish.reason)]
        if finish and finish.reason
        else None,
        "server.address": address.hostname,
        "server.port": address.port,
        "http.response.status_code": exchange.status,
        "error.type": exchange.error_code or None,
        "llmchat.run_id": str(plan.run_id),
        "llmchat.configuration": plan.target.name,
        "llmchat.attempt": exchange.attempt,
    }
    return {
        "traceId": plan.run_id.hex,
        "spanId": secrets.token_hex(8),
        "name": f"chat {plan.target.model}",
        "kind": CLIENT,
        "startTimeUnixNano": str(begun),
        "endTimeUnixNano": str(begun + int((exchange.ended_after or 0) * 1e9)),
        "attributes": list(_attributes(told)),
        "status": {"code": ERROR, "message": exchange.error_code} if exchange.error_code else {},
    }


def _attributes(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in told.items():
        if value is not None:
            yield {"key": name, "value": _value(value)}


def _value(value: Any) -> dict[str, Any]:
    match value:
        case list():
            return {"arrayValue": {"values": [_value(inner) for inner in value]}}
        case int():
            return {"intValue": str(value)}  # 64 bits, which JSON's numbers do not have
    return {"stringValue": value}


# ---- Sending


class _NoRedirects(HTTPRedirectHandler):
    """The headers may hold a key, which is for that host alone."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Sender:
    """The thread that sends spans, and what waits for it."""

    def __init__(self) -> None:
        self._waiting: Queue[Span] = Queue(MOST_WAITING)
        self._opener = build_opener(_NoRedirects)
        self._is_away = False
        # A daemon: what it waits for does not keep the process from ending.
        threading.Thread(target=self._send_forever, name="traces", daemon=True).start()

    def put(self, span: Span) -> None:
        try:
            self._waiting.put_nowait(span)
        except Full:
            self._went_away("too many spans are waiting")

    def flush(self, limit: float) -> None:
        deadline = monotonic() + limit
        with self._waiting.all_tasks_done:
            while self._waiting.unfinished_tasks and monotonic() < deadline:
                self._waiting.all_tasks_done.wait(deadline - monotonic())

    def _send_forever(self) -> None:
        while True:
            batch = self._batch()
            try:
                self._send(batch)
            except (OSError, ValueError) as error:  # it is away, or says no
                self._went_away(type(error).__name__)
            else:
                self._is_away = False
            for _ in batch:
                self._waiting.task_done()

    def _batch(self) -> list[Span]:
        batch = [self._waiting.get()]
        until = monotonic() + PAUSE
        while len(batch) < MOST_SENT and (left := until - monotonic()) > 0:
            try:
                batch.append(self._waiting.get(timeout=left))
            except Empty:
                break
        return batch

    def _send(self, spans: list[Span]) -> None:
        base = settings.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip("/")
        service = {"service.name": settings.OTEL_SERVICE_NAME}
        scope = {"scope": {"name": "llmchat"}, "spans": spans}
        resource = {"attributes": list(_attributes(service))}
        body = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
        request = Request(  # noqa: S310 - an address of the administrator's, http or https
            f"{base}/v1/traces",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **_headers()},
        )
        with self._opener.open(request, timeout=TIMEOUT) as answer:
            answer.read(64 * 1024)

    def _went_away(self, reason: str) -> None:
        if not self._is_away:
            log.warning("the collector of traces does not take them (%s); they are dropped", reason)
        self._is_away = True


def _headers() -> dict[str, str]:
    """As the specification has them: name=value, by commas, quoted as in addresses."""
    pairs = (pair.partition("=") for pair in settings.OTEL_EXPORTER_OTLP_HEADERS)
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}


def _running() -> _Sender:
    global _sender
    with _begins:
        if _sender is None:
            _sender = _Sender()
    return _sender
