"""The page that shows a request and its replays side by side."""

import json
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from conversations.models import Run
from conversations.views.access import monitored_run_of
from conversations.views.answers import page, signed_in
from monitor import comparison
from monitor.inspection import inspect
from providers.models import Configuration


@require_safe
@page
def run_replay_form(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """A part of the inspector: the ways to send the request again."""
    run = monitored_run_of(request, run_id)
    found = inspect(run)
    usable = Configuration.objects.usable_by(signed_in(request))
    context = {
        "run": run,
        "body": json.dumps(found.body, indent=2, ensure_ascii=False),
        "can_edit": not found.is_shortened,
        "configurations": usable.exclude(slug=run.configuration_slug),
        "can_repeat": bool(found.calls) and usable.filter(pk=run.configuration_id or 0).exists(),
        "replays": Run.objects.in_monitor_of(signed_in(request)).filter(replay_of=run).count(),
    }
    return render(request, "monitor/_replay_form.html", context)


@require_safe
@page
def run_replays(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The page of one request."""
    original = monitored_run_of(request, run_id)
    columns, older = comparison.columns(original, signed_in(request))
    context = {"run": original, "columns": columns, "older": older}
    return render(request, "monitor/replays.html", context)


@require_safe
@page
def replay_column(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """One column of that page, as it is now."""
    run = monitored_run_of(request, run_id)
    column = comparison.column(run, run.replay_of or run)
    return render(request, "monitor/_replay_column.html", {"column": column})
