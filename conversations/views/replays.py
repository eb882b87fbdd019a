"""Sending a recorded request again, from the inspector."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import escape
from django.views.decorators.http import require_POST

from conversations import replays, runs
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.errors import BadValue
from conversations.forms import ReplayForm, request_data
from conversations.models import Run
from conversations.planning import Asked
from conversations.views.access import configuration_for, monitored_run_of
from conversations.views.answers import invalid, is_htmx, page, wants_page
from providers.models import Configuration


@require_POST
@page
async def replay(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Starts a run that sends the request of another again; it costs, and stays out of the chat.

    Answers like a send: 201 with the ids and addresses, or the page that compares the results.
    """

    checked = await in_database(_checked)(request, run_id)
    if isinstance(checked, HttpResponse):
        return checked
    user, configuration, asked = checked
    started = await get_engine().begin(
        lambda owner: runs.start_alone(user, configuration, asked, owner)
    )
    return _started(request, run_id, started.run.pk)


def _checked(request: HttpRequest, run_id: UUID) -> Any:
    """Who asks, which configuration and for what; or the answer that says what is wrong."""
    run = monitored_run_of(request, run_id)
    form = ReplayForm(request_data(request))
    if form.is_valid():
        try:
            return request.user, *_chosen(request, run, form.cleaned_data)
        except BadValue as error:
            form.add_error(error.field, error.message)
    return _invalid(request, form)


def _chosen(request: HttpRequest, run: Run, told: dict[str, str]) -> tuple[Configuration, Asked]:
    if told["how"] == ReplayForm.OTHER:
        configuration = configuration_for(request.user, told["configuration_id"], None)
        return configuration, replays.elsewhere(run, configuration)
    if run.configuration is None:
        raise Http404("its configuration is gone")
    configuration = configuration_for(request.user, str(run.configuration.pk), None)
    if told["how"] == ReplayForm.EDITED:
        return configuration, replays.edited(run, told["body"])
    return configuration, replays.unchanged(run)


def _invalid(request: HttpRequest, form: ReplayForm) -> HttpResponse:
    if not is_htmx(request):
        return invalid(form)
    said = " ".join(str(message) for messages in form.errors.values() for message in messages)
    return HttpResponse(escape(said), status=422)


def _started(request: HttpRequest, original: UUID, replay: UUID) -> HttpResponse:
    comparison = reverse("run_replays", args=[original])
    if is_htmx(request):
        return HttpResponse(status=201, headers={"HX-Redirect": comparison})
    if wants_page(request):
        return redirect(comparison)
    told = {
        "run_id": str(replay),
        "events_url": reverse("run_events", args=[replay]),
        "stop_url": reverse("stop", args=[replay]),
        "comparison_url": comparison,
    }
    return JsonResponse(told, status=201)
