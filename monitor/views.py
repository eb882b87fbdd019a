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
    """The request inspector of one run: a page, or its part beside the chat. Staff see all runs."""
    user = signed_in(request)
    runs = Run.objects.all() if user.is_staff else Run.objects.visible_to(user)
    run = get_object_or_404(runs.select_related("usage", "session"), pk=run_id)
    found = inspect(run)
    template = "monitor/_inspector.html" if is_htmx(request) else "monitor/run.html"
    return render(
        request,
        template,
        {
            "run": run,
            "sent": found.sent,
            "body_html": found.body_html,
            "body_text": found.body_text,
            "curl": found.curl,
            "usage": getattr(run, "usage", None),
            "error": {"code": run.error_code, "message": run.error_message}
            if run.error_code
            else None,
        },
    )
