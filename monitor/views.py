"""The monitor's pages."""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from conversations.models import Run
from conversations.views.answers import is_htmx, page, signed_in
from monitor.inspection import inspect


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


def _run_of(request: HttpRequest, run_id: UUID) -> Run:
    """Staff see all runs."""
    user = signed_in(request)
    runs = Run.objects.all() if user.is_staff else Run.objects.visible_to(user)
    return get_object_or_404(
        runs.select_related("usage", "session", "stop_requested_by"), pk=run_id
    )
