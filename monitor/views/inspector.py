"""The request inspector: what one run sent and got back, and how that differs from before."""

import json
from collections.abc import Iterator
from uuid import UUID

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from conversations.models import Run
from conversations.views.answers import is_htmx, page, signed_in
from monitor import differences, ledger
from monitor.inspection import Inspection, inspect

SHOWN_LINES = 400  # of an answer; a download has them all


@require_safe
@page
def run(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The request inspector of one run: a page, or its part beside the chat."""
    run = _run_of(request, run_id)
    found = inspect(run)
    template = "monitor/_inspector.html" if is_htmx(request) else "monitor/run.html"
    return render(
        request,
        template,
        {
            "run": run,
            "sent": found.sent,
            "found": found,
            "ledger": ledger.entries(run, found.sent),
            "usage": getattr(run, "usage", None),
            "error": {"code": run.error_code, "message": run.error_message}
            if run.error_code
            else None,
        },
    )


@require_safe
@page
def run_body(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The body that was sent, exactly; with `as=curl` as a command."""
    found = inspect(_run_of(request, run_id))
    text = found.curl if request.GET.get("as") == "curl" else found.body_text
    return HttpResponse(text, content_type="text/plain; charset=utf-8")


@require_safe
@page
def run_wire(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """A part of the inspector: each request of the run as it was written, and the lines that came
    back with their times."""
    run = _run_of(request, run_id)
    context = {"run": run, "calls": inspect(run).calls, "shown_lines": SHOWN_LINES}
    return render(request, "monitor/_wire.html", context)


@require_safe
@page
def run_difference(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """A part of the inspector: the body compared with that of the request before it in the
    session, or with the request that was replayed."""
    run = _run_of(request, run_id)
    former = _former(run)
    lines = differences.compare(inspect(former).body, inspect(run).body) if former else []
    context = {"run": run, "former": former, "lines": lines}
    return render(request, "monitor/_difference.html", context)


@require_safe
@page
def run_record(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """All that is recorded of a run's requests, to download as JSON."""
    run = _run_of(request, run_id)
    found = inspect(run)
    record = {
        "run_id": str(run.pk),
        "request_data": found.sent,
        "calls": [call.fields for call in found.calls],
    }
    answer = JsonResponse(record, json_dumps_params={"indent": 2, "ensure_ascii": False})
    return _attachment(answer, f"request-{run.pk}.json")


@require_safe
@page
def run_received(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The lines that the provider sent, to download: one JSON object a line, with the number of
    the attempt and the milliseconds since its request."""
    run = _run_of(request, run_id)
    answer = HttpResponse(
        "".join(_received(inspect(run))), content_type="application/x-ndjson; charset=utf-8"
    )
    return _attachment(answer, f"received-{run.pk}.ndjson")


def _received(found: Inspection) -> Iterator[str]:
    for call in found.calls:
        for after, line in call.lines:
            told = {"attempt": call.row.attempt, "ms": after, "line": line}
            yield json.dumps(told, ensure_ascii=False) + "\n"


def _attachment(answer: HttpResponse, name: str) -> HttpResponse:
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


def _former(run: Run) -> Run | None:
    if run.replay_of is not None:
        return run.replay_of
    if run.session is None:
        return None
    return run.session.runs.filter(started_at__lt=run.started_at).order_by("-started_at").first()


def _run_of(request: HttpRequest, run_id: UUID) -> Run:
    """Staff see all runs."""
    runs = Run.objects.in_monitor_of(signed_in(request))
    return get_object_or_404(
        runs.select_related("usage", "session", "stop_requested_by", "replay_of"), pk=run_id
    )
